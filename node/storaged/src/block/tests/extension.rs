//! Many volumes made larger together.

use super::*;
use crate::lvm::Report;

fn seqno(domain: &BlockDomain) -> u64 {
    domain.group().unwrap().seqno
}

#[test]
fn many_volumes_grow_in_one_commit_and_lvm_agrees() {
    let lab = Lab::new(&[40, 40]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let volumes: Vec<VolumeEntry> = (0..6)
        .map(|_| volume(&domain, fresh(ImageId::from_random), 1024))
        .collect();
    let before = domain.group().unwrap();
    let requests: Vec<(VolumeId, u64)> = volumes
        .iter()
        .zip([3000, 1, 2048, 5000, 1025, 1500])
        .map(|(entry, mib)| (entry.id, mib * MIB))
        .collect();
    let context = Context::quiet();
    let answers = domain.extend_many(&context, &authority, &requests).unwrap();
    let sizes: Vec<u64> = answers
        .into_iter()
        .map(|size| size.unwrap() / MIB)
        .collect();
    assert_eq!(sizes, [3072, 1024, 2048, 5120, 1152, 1536]);
    assert_eq!(seqno(&domain), before.seqno + 1, "one commit");
    // Everything that is not a segment is as it was.
    let after = domain.group().unwrap();
    assert_eq!(after.tags, before.tags);
    assert_eq!(after.devices, before.devices);
    for (new, old) in after.volumes.iter().zip(&before.volumes) {
        assert_eq!(
            (&new.name, &new.uuid, &new.tags),
            (&old.name, &old.uuid, &old.tags)
        );
        assert!(new.segments[0].linear == old.segments[0].linear);
    }
    lab.lvm.check(&context, &after.name).unwrap();
    let reported = disk_format::vdsm::lvm::report::parse_lvs(&report(
        &lab,
        Report::LogicalVolumes,
        &after.name,
    ))
    .unwrap();
    for row in reported.lvs {
        let volume = after.volume(&row.name).unwrap();
        assert_eq!(row.size, volume.extents() * after.extent_bytes);
    }
    // The program goes on from there: one more by lvextend, one by lvcreate.
    domain.extend(&authority, &volumes[1], 2048 * MIB).unwrap();
    volume(&domain, fresh(ImageId::from_random), 128);
    assert_eq!(seqno(&domain), before.seqno + 1 + 1 + 2);
    // Asked again, nothing is committed.
    domain.extend_many(&context, &authority, &requests).unwrap();
    assert_eq!(seqno(&domain), before.seqno + 4);
}

#[test]
fn who_finds_no_room_or_is_gone_is_told_and_the_others_grow() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let image = fresh(ImageId::from_random);
    let [a, b, c, d] = [(); 4].map(|()| volume(&domain, image, 128));
    let gone = domain.mark_removed(&authority, &d, false).unwrap();
    let requests = [
        (a.id, 1024 * MIB),
        (b.id, 1 << 44),
        (fresh(VolumeId::from_random), MIB),
        (gone.id, 1024 * MIB),
        (c.id, 1024 * MIB),
    ];
    let answers = domain
        .extend_many(&Context::quiet(), &authority, &requests)
        .unwrap();
    let kinds: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.map_err(|failure| failure.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            Ok(1024 * MIB),
            Err(FailureKind::NoSpace),
            Err(FailureKind::NotFound),
            Err(FailureKind::WrongState),
            Ok(1024 * MIB),
        ]
    );
}

#[test]
fn without_the_lease_nothing_is_committed() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let image = fresh(ImageId::from_random);
    let volumes = [volume(&domain, image, 128), volume(&domain, image, 128)];
    let before = domain.group().unwrap();
    let nobody = Unattached {
        domain: "another".to_owned(),
    };
    let requests = volumes.each_ref().map(|entry| (entry.id, GIB));
    let failure = domain
        .extend_many(&Context::quiet(), &nobody, &requests)
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::LeaseNotHeld);
    assert_eq!(domain.group().unwrap(), before);
}

#[test]
fn metadata_of_another_writer_are_not_overwritten_unseen() {
    // A second reader with an old view; the batch reads anew under its lock.
    let lab = Lab::new(&[20]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let image = fresh(ImageId::from_random);
    let volumes = [volume(&domain, image, 128), volume(&domain, image, 128)];
    let other = BlockDomain::open(&lab.lvm, &Context::quiet(), domain.id()).unwrap();
    let late = volume(&other, image, 256);
    let requests = volumes.each_ref().map(|entry| (entry.id, GIB));
    domain
        .extend_many(&Context::quiet(), &authority, &requests)
        .unwrap();
    assert_eq!(domain.volume(late.id).unwrap().size_bytes, 256 * MIB);
}

#[test]
fn a_fragmented_domain_is_filled_to_its_last_extent() {
    let lab = Lab::new(&[12, 12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let image = fresh(ImageId::from_random);
    let volumes: Vec<_> = (0..8).map(|_| volume(&domain, image, 128)).collect();
    for entry in volumes.iter().step_by(2) {
        let entry = domain.mark_removed(&authority, entry, false).unwrap();
        domain.remove(&authority, &entry).unwrap();
    }
    let left: Vec<VolumeId> = volumes.iter().skip(1).step_by(2).map(|e| e.id).collect();
    let free = domain.space().unwrap().free_bytes;
    let each = free / 4 / (128 * MIB) * (128 * MIB);
    let requests: Vec<_> = left.iter().map(|&id| (id, 128 * MIB + each)).collect();
    for answer in domain
        .extend_many(&Context::quiet(), &authority, &requests)
        .unwrap()
    {
        answer.unwrap();
    }
    let rest = domain.space().unwrap().free_bytes;
    assert!(rest < 4 * 128 * MIB);
    if rest > 0 {
        let last = domain.volume(left[0]).unwrap();
        domain
            .extend(&authority, &last, last.size_bytes + rest)
            .unwrap();
    }
    assert_eq!(domain.space().unwrap().free_bytes, 0);
    lab.lvm.check(&Context::quiet(), &domain.name).unwrap();
}

#[test]
fn lvm_killed_before_any_of_its_writes_leaves_the_old_or_the_new_sizes() {
    use std::os::unix::fs::PermissionsExt;
    assert!(
        crate::command::find_program("strace").is_some(),
        "no strace program: apt-get install strace"
    );
    let lab = Lab::new(&[40]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let image = fresh(ImageId::from_random);
    let volumes = [volume(&domain, image, 128), volume(&domain, image, 128)];
    let script = lab.loops.folder().join("killed-lvm");
    let mut env = crate::lvm::LvmEnv::metadata_only(lab.loops.layout(), lab.loops.paths());
    env.program.clone_from(&script);
    let (mut kept, mut committed) = (0, 0);
    // LVM reads and writes devices with io_submit; a restore does so about twelve times.
    for call in 1..=16 {
        let text = format!(
            "#!/bin/sh\nexec strace -f -qq -o /dev/null -e trace=io_submit \
             -e inject=io_submit:signal=KILL:when={call} lvm \"$@\"\n"
        );
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let lvm = Arc::new(Lvm::new(env.clone()));
        let dying = BlockDomain::open(&lvm, &Context::quiet(), domain.id()).unwrap();
        let before = dying.group().unwrap();
        let wanted = (1 + call) * 128 * MIB;
        let requests = volumes.each_ref().map(|entry| (entry.id, wanted));
        let said = dying.extend_many(&Context::quiet(), &authority, &requests);
        // What a host sees that comes new to it.
        let fresh = BlockDomain::open(&lab.lvm, &Context::quiet(), domain.id()).unwrap();
        let after = fresh.group().unwrap();
        match said {
            Ok(answers) => {
                assert!(answers.into_iter().all(|size| size == Ok(wanted)));
                assert_eq!(after.seqno, before.seqno + 1);
                committed += 1;
            }
            Err(_) => {
                assert_eq!(after, before);
                kept += 1;
            }
        }
        // LVM itself is content with it, and goes on from there.
        lab.lvm.check(&Context::quiet(), &after.name).unwrap();
        fresh
            .extend_many(&Context::quiet(), &authority, &requests)
            .unwrap();
    }
    assert!(
        kept > 4 && committed > 2,
        "{kept} kept, {committed} committed"
    );
}
