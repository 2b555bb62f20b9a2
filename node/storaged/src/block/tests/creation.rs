//! A new domain is what the specification and its samples say.

use disk_format::vdsm::lvm::report::{parse_lvs, parse_vgs};
use disk_format::vdsm::xlease::{INDEX_BYTES, Index};

use super::*;
use crate::lvm::Report;

fn extent_map(domain: &BlockDomain) -> Vec<(String, u64, u64)> {
    let group = domain.group().unwrap();
    let mut map: Vec<_> = group
        .volumes
        .iter()
        .map(|volume| {
            let (_, first) = volume.segments[0].linear.clone().unwrap();
            (volume.name.clone(), first, volume.extents())
        })
        .collect();
    map.sort_by_key(|(_, first, _)| *first);
    map
}

#[test]
fn a_new_domain_has_the_map_flags_and_tags_of_the_sample() {
    let lab = Lab::new(&[100, 100]);
    let domain = lab.domain(DomainVersion::V5);
    let image = fresh(ImageId::from_random);
    let entry = volume(&domain, image, 5 * 1024);
    let name = entry.id.to_string();
    let expected = [
        ("metadata", 0, 1),
        ("ids", 1, 1),
        ("inbox", 2, 1),
        ("outbox", 3, 1),
        ("leases", 4, 16),
        ("xleases", 20, 8),
        ("master", 28, 8),
        (name.as_str(), 36, 40),
    ]
    .map(|(name, first, count)| (name.to_owned(), first, count));
    assert_eq!(extent_map(&domain), expected);

    let group = domain.group().unwrap();
    assert!(group.text.contains("flags = [\"NOAUTOACTIVATE\"]"));
    assert!(
        group
            .text
            .contains("status = [\"RESIZEABLE\", \"READ\", \"WRITE\"]")
    );
    assert_eq!(group.extent_bytes, 128 * MIB);
    assert_eq!(group.total_extents(), 1594);
    for device in &group.devices {
        assert_eq!((device.extents, device.start_bytes), (797, 135_266_304));
    }
    let areas: Vec<_> = group.devices.iter().map(|d| d.used_areas).collect();
    assert_eq!(areas, [2, 0]);
    let tags: Vec<String> = group
        .tags
        .iter()
        .map(|tag| {
            let tag = tag.replace(&domain.id().to_string(), "<domain>");
            let tag = tag.replace(&group.uuid, "<vg>");
            let tag = group.devices.iter().fold(tag, |tag, device| {
                let path = device.device.as_ref().unwrap();
                let name = path.file_name().unwrap().to_str().unwrap();
                tag.replace(&device.uuid, &format!("<uuid {}>", device.name))
                    .replace(&format!("pv:{name}&"), &format!("pv:<{}>&", device.name))
            });
            match tag.split_once("CKSUM=") {
                Some((key, _)) => format!("{key}CKSUM=…"),
                None => tag,
            }
        })
        .collect();
    expect_test::expect![[r#"
        MDT_ALIGNMENT=1048576
        MDT_BLOCK_SIZE=512
        MDT_CLASS=Data
        MDT_DESCRIPTION=data&32&one&32&&233&
        MDT_IOOPTIMEOUTSEC=10
        MDT_LEASERETRIES=3
        MDT_LEASETIMESEC=60
        MDT_LOCKPOLICY=
        MDT_LOCKRENEWALINTERVALSEC=5
        MDT_POOL_UUID=
        MDT_PV0=pv:<pv0>&44&uuid:<uuid pv0>&44&pestart:0&44&pecount:797&44&mapoffset:0
        MDT_PV1=pv:<pv1>&44&uuid:<uuid pv1>&44&pestart:0&44&pecount:797&44&mapoffset:797
        MDT_ROLE=Regular
        MDT_SDUUID=<domain>
        MDT_TYPE=ISCSI
        MDT_VERSION=5
        MDT_VGUUID=<vg>
        MDT__SHA_CKSUM=…
        RHAT_storage_domain"#]]
    .assert_eq(&tags.join("\n"));
    assert!(
        domain
            .health(&Context::quiet(), true)
            .unwrap()
            .findings
            .is_empty()
    );
}

#[test]
fn what_is_read_directly_is_what_lvm_reports() {
    let lab = Lab::new(&[20, 12]);
    let domain = lab.domain(DomainVersion::V5);
    let entry = volume(&domain, fresh(ImageId::from_random), 300);
    let group = domain.group().unwrap();
    let groups = parse_vgs(&report(&lab, Report::Groups, &group.name)).unwrap();
    let [reported] = groups.vgs.as_slice() else {
        panic!("{groups:?}")
    };
    assert_eq!(reported.uuid, group.uuid);
    assert_eq!(reported.extent_count, group.total_extents());
    assert_eq!(reported.free_count, group.free_extents());
    let tags: std::collections::BTreeSet<_> = reported.tags.iter().cloned().collect();
    assert_eq!(tags, group.tags);
    // LVM keeps a header's worth of each area for itself and rounds.
    assert!(group.room_bytes.abs_diff(67_106_304) < 1 << 20);
    let volumes = parse_lvs(&report(&lab, Report::LogicalVolumes, &group.name)).unwrap();
    assert_eq!(volumes.lvs.len(), group.volumes.len());
    for row in volumes.lvs {
        let volume = group.volume(&row.name).unwrap();
        assert_eq!(row.uuid, volume.uuid);
        assert_eq!(row.size, volume.extents() * group.extent_bytes);
        let tags: std::collections::BTreeSet<_> = row.tags.into_iter().collect();
        assert_eq!(tags, volume.tags);
    }
    assert_eq!(entry.size_bytes, 384 * MIB);
}

#[test]
fn areas_hold_what_other_programs_expect() {
    let lab = Lab::new(&[20]);
    let domain = lab.domain(DomainVersion::V5);
    let read = |special: SpecialLv, offset, length| {
        let region = domain.region(special.name(), Access::Read).unwrap();
        region.read(offset, length).unwrap().to_vec()
    };
    let ids = read(SpecialLv::Ids, 0, 512);
    let leader = delta::leader(&ids).unwrap();
    let name = LockspaceName::new(&domain.id().to_string()).unwrap();
    delta::verify(&leader, &name).unwrap();
    let sdm = paxos::leader(&read(SpecialLv::Leases, MIB, 512)).unwrap();
    assert_eq!(sdm.resource_name.bytes(), b"SDM");
    let index = read(SpecialLv::Xleases, MIB, INDEX_BYTES);
    let index = Index::decode(&index, &domain.id()).unwrap();
    assert!(!index.is_updating() && index.leases().next().is_none());
    for (special, length) in [
        (SpecialLv::Metadata, 17 << 20),
        (SpecialLv::Inbox, 1_024_000),
        (SpecialLv::Outbox, 1_024_000),
    ] {
        assert!(read(special, 0, length).iter().all(|&byte| byte == 0));
    }
    let master = read(SpecialLv::Master, 0, linux::probe::content::START_LEN);
    let content = linux::probe::content::identify(&master).unwrap();
    assert_eq!(content.kind, linux::probe::content::Kind::Ext3);
}

#[test]
fn old_areas_do_not_show_through_a_new_domain() {
    let lab = Lab::new(&[12]);
    // What an earlier owner left all over the device.
    for at in [129 * MIB, (129 + 2 * 128) * MIB, (129 + 3 * 128) * MIB] {
        let piece = Piece {
            device: lab.loops.paths()[0].clone(),
            start: at,
            length: 20 * MIB,
        };
        let region = Region::open(vec![piece], Access::ReadWrite).unwrap();
        region.write(0, &vec![0xAA; 18 << 20]).unwrap();
    }
    let domain = lab.domain(DomainVersion::V5);
    for (special, length) in [
        (SpecialLv::Metadata, 17 << 20),
        (SpecialLv::Inbox, 1_024_000),
        (SpecialLv::Outbox, 1_024_000),
    ] {
        let region = domain.region(special.name(), Access::Read).unwrap();
        let bytes = region.read(0, length).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0), "{special:?}");
    }
}

#[test]
fn what_cannot_become_a_domain_is_refused_untouched() {
    let lab = Lab::new(&[6, 12]);
    let refused = |new: &NewBlockDomain| {
        let failure = create(&lab.lvm, &Context::quiet(), &DirectLeases, new).unwrap_err();
        assert!(reader::read(&lab.lvm, &new.id.to_string()).is_err());
        failure.kind
    };
    let paths = lab.loops.paths();
    let new = NewBlockDomain {
        devices: paths[1..].to_vec(),
        ..lab.new_domain(DomainVersion::V5)
    };
    let with = |devices: &[PathBuf]| NewBlockDomain {
        devices: devices.to_vec(),
        ..new.clone()
    };
    assert_eq!(
        refused(&with(&paths[..1])),
        FailureKind::BadRequest,
        "too small"
    );
    assert_eq!(refused(&with(&[])), FailureKind::BadRequest);
    let twice = [paths[1].clone(), paths[1].clone()];
    assert_eq!(refused(&with(&twice)), FailureKind::BadRequest);
    assert_eq!(
        refused(&with(&["/dev/no-such-lun".into()])),
        FailureKind::NotFound
    );
    assert_eq!(
        refused(&with(&[lab.loops.file(1)])),
        FailureKind::BadRequest
    );
    let eleven = vec![paths[1].clone(); 11];
    assert_eq!(refused(&with(&eleven)), FailureKind::BadRequest);
    let version = NewBlockDomain {
        version: DomainVersion::V2,
        ..new.clone()
    };
    assert_eq!(refused(&version), FailureKind::BadRequest);
    let long = NewBlockDomain {
        description: "x".repeat(51),
        ..new.clone()
    };
    assert_eq!(refused(&long), FailureKind::BadRequest);

    // A file system, then the same with force.
    crate::command::Run::new("mke2fs")
        .args(["-t", "ext3", "-q", "-F"])
        .arg(&paths[1])
        .succeed(&Context::quiet())
        .unwrap();
    assert_eq!(refused(&new), FailureKind::InUse);
    let forced = NewBlockDomain {
        force: true,
        ..new.clone()
    };
    let domain = create(&lab.lvm, &Context::quiet(), &DirectLeases, &forced).unwrap();
    // Its LUN is not even taken with force by another one.
    let another = NewBlockDomain {
        force: true,
        id: fresh(DomainId::from_random),
        ..new.clone()
    };
    assert_eq!(refused(&another), FailureKind::Foreign);
    // And the same id is not made twice.
    let again = create(&lab.lvm, &Context::quiet(), &DirectLeases, &forced).unwrap_err();
    assert_eq!(again.kind, FailureKind::Exists);
    assert_eq!(domain.group().unwrap().marker(), Marker::Ready);
}

#[test]
fn sectors_of_4096_bytes_are_refused() {
    let lab = Lab::new(&[]);
    let file = lab.loops.folder().join("large-sectors");
    std::fs::File::create(&file)
        .unwrap()
        .set_len(12 * GIB)
        .unwrap();
    let device = linux::loop_device::LoopDevice::attach(
        &file,
        &linux::loop_device::Options {
            block_size: 4096,
            read_only: false,
            direct_io: false,
            auto_clear: true,
        },
    )
    .unwrap();
    let new = NewBlockDomain {
        devices: vec![device.path().to_path_buf()],
        ..lab.new_domain(DomainVersion::V5)
    };
    let failure = create(&lab.lvm, &Context::quiet(), &DirectLeases, &new).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unsupported, "{failure}");
}

#[test]
fn domains_of_versions_3_and_4_are_made_and_read() {
    for version in [DomainVersion::V3, DomainVersion::V4] {
        let lab = Lab::new(&[12]);
        let domain = lab.domain(version);
        let group = domain.group().unwrap();
        assert_eq!(
            group.volume("xleases").is_some(),
            version == DomainVersion::V4
        );
        assert!(group.tags.contains("MDT_LOGBLKSIZE=512"));
        assert!(
            !group
                .tags
                .iter()
                .any(|tag| tag.starts_with("MDT_ALIGNMENT"))
        );
        let entry = volume(&domain, fresh(ImageId::from_random), 128);
        assert_eq!(entry.slot, Some(disk_format::vdsm::slot::SlotNumber(4)));
        let again = BlockDomain::open(&lab.lvm, &Context::quiet(), domain.id()).unwrap();
        let read = again.volume_metadata(&entry).unwrap();
        assert_eq!(read.capacity_bytes, 10 * GIB);
        assert_eq!(again.metadata().unwrap().description(), "data one é");
    }
}

#[test]
fn links_lead_to_the_special_volumes() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let ids = domain.root().join("dom_md").join("ids");
    let expected = format!("/dev/{}/ids", domain.id());
    assert_eq!(std::fs::read_link(ids).unwrap(), PathBuf::from(expected));
    assert!(domain.root().join("images").is_dir());
    remove(
        &lab.lvm,
        &Context::quiet(),
        &authority(&domain),
        domain.id(),
    )
    .unwrap();
    assert!(!domain.root().exists());
}

/// Tags written by VDSM, beside this crate's in the crate of the format.
fn golden(name: &str) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = folder.join("../protocol/disk-format/tests/golden/vdsm-metadata");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn domains_with_tags_written_by_vdsm_are_opened() {
    for (name, version) in [
        ("domain-block-v4", DomainVersion::V4),
        ("domain-block-v5", DomainVersion::V5),
        ("domain-block-v5-master", DomainVersion::V5),
    ] {
        let lab = Lab::new(&[12]);
        let new = NewBlockDomain {
            id: "8adbc85e-e554-4ae0-b318-8a5465fe5fe1".parse().unwrap(),
            ..lab.new_domain(version)
        };
        let made = create(&lab.lvm, &Context::quiet(), &DirectLeases, &new).unwrap();
        let own: Vec<String> = made.group().unwrap().tags.iter().cloned().collect();
        let theirs = golden(&format!("{name}.vgtags"));
        let theirs: Vec<String> = theirs.lines().map(str::to_owned).collect();
        // Theirs go on last, so that tags which both have stay.
        for (delete, add) in [(&own[..], &[][..]), (&[], &theirs[..])] {
            made.change(&authority(&made), &Change::TagGroup { delete, add })
                .unwrap();
        }
        let domain = BlockDomain::open(&lab.lvm, &Context::quiet(), new.id).unwrap();
        assert_eq!(domain.version(), version);
        let metadata = domain.metadata().unwrap();
        let lines = golden(&format!("{name}.lines"));
        assert_eq!(
            metadata,
            DomainMetadata::from_lines(lines.as_bytes()).unwrap()
        );
        // Ours and theirs have the same keys, those of a pool aside.
        let keys = |tags: &[String]| -> std::collections::BTreeSet<String> {
            let keys = tags.iter().map(|tag| tag.split('=').next().unwrap());
            let own = keys.filter(|key| {
                !key.starts_with("MDT_POOL_D")
                    && !key.starts_with("MDT_POOL_S")
                    && !matches!(*key, "MDT_MASTER_VERSION" | "MDT_PV1")
            });
            own.map(str::to_owned).collect()
        };
        assert_eq!(keys(&own), keys(&theirs), "{name}");
        // Its PV keys are of other devices, which is worth a finding, not a refusal.
        let health = domain.health(&Context::quiet(), false).unwrap();
        assert_eq!(health.findings.len(), 1, "{:?}", health.findings);
    }
}
