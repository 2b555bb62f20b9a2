//! LUNs of a domain: more, larger, fewer, missing.

use super::*;

#[test]
fn luns_are_added_and_empty_ones_taken_out() {
    let mut lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let context = Context::quiet();
    let more = lab.loops.add(10 * GIB);
    let lvm = Arc::new(lab.loops.lvm());
    let domain = BlockDomain::open(&lvm, &context, domain.id()).unwrap();
    let before = domain.space().unwrap().total_bytes;
    let luns = [more.clone()];
    domain
        .add_devices(&context, &authority, &luns, false)
        .unwrap();
    assert!(domain.space().unwrap().total_bytes > before + 9 * GIB);
    let mapping = domain.metadata().unwrap().pv_mapping().unwrap();
    assert_eq!(mapping.len(), 2);
    let name = more.file_name().unwrap().to_str().unwrap();
    assert_eq!(mapping[1].device, name);
    assert_eq!(mapping[1].offset, mapping[0].extents);
    // Again: it is there.
    domain
        .add_devices(&context, &authority, &luns, false)
        .unwrap();
    assert!(domain.health(&context, true).unwrap().findings.is_empty());

    let first = lab.loops.paths()[0].clone();
    let first = first.to_str().unwrap();
    let refused = domain
        .remove_device(&context, &authority, first)
        .unwrap_err();
    assert_eq!(refused.kind, FailureKind::WrongState);
    let unknown = domain
        .remove_device(&context, &authority, "/dev/null")
        .unwrap_err();
    assert_eq!(unknown.kind, FailureKind::NotFound);
    domain.remove_device(&context, &authority, name).unwrap();
    assert_eq!(domain.space().unwrap().total_bytes, before);
    assert_eq!(domain.metadata().unwrap().pv_mapping().unwrap().len(), 1);
}

#[test]
fn a_lun_of_another_domain_is_not_added() {
    let mut lab = Lab::new(&[12]);
    let one = lab.domain(DomainVersion::V5);
    let second = lab.loops.add(12 * GIB);
    let lvm = Arc::new(lab.loops.lvm());
    let context = Context::quiet();
    let new = NewBlockDomain {
        devices: vec![second.clone()],
        ..lab.new_domain(DomainVersion::V5)
    };
    let two = create(&lvm, &context, &DirectLeases, &new).unwrap();
    let before = two.group().unwrap();
    let one = BlockDomain::open(&lvm, &context, one.id()).unwrap();
    let refused = one
        .add_devices(&context, &authority(&one), &[second], true)
        .unwrap_err();
    assert_eq!(refused.kind, FailureKind::Foreign, "{refused}");
    assert_eq!(two.group().unwrap(), before);
    assert_eq!(find(&lvm).unwrap().len(), 2);
}

#[test]
fn no_lun_of_another_domain_is_overwritten_even_by_force() {
    let mut lab = Lab::new(&[12, 10]);
    let one = lab.domain(DomainVersion::V5);
    let before = one.group().unwrap();
    // Only the first LUN of a domain has metadata; the second must be safe as well.
    let second = lab.loops.paths()[1].clone();
    let third = lab.loops.add(12 * GIB);
    let lvm = Arc::new(lab.loops.lvm());
    for force in [false, true] {
        let new = NewBlockDomain {
            devices: vec![third.clone(), second.clone()],
            force,
            ..lab.new_domain(DomainVersion::V5)
        };
        let refused = create(&lvm, &Context::quiet(), &DirectLeases, &new).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Foreign, "{refused}");
        assert!(refused.message.contains(&one.id().to_string()), "{refused}");
    }
    let context = Context::quiet();
    assert_eq!(one.group().unwrap(), before);
    assert!(one.health(&context, true).unwrap().findings.is_empty());
}

#[test]
fn a_lun_is_one_lun_by_whichever_name() {
    let lab = Lab::new(&[12, 10]);
    let paths = lab.loops.paths();
    let alias = lab.loops.folder().join("alias");
    std::os::unix::fs::symlink(&paths[1], &alias).unwrap();
    let context = Context::quiet();
    let new = NewBlockDomain {
        devices: vec![paths[1].clone(), alias.clone()],
        ..lab.new_domain(DomainVersion::V5)
    };
    let twice = create(&lab.lvm, &context, &DirectLeases, &new).unwrap_err();
    assert_eq!(twice.kind, FailureKind::BadRequest, "{twice}");
    assert!(twice.message.contains("none twice"), "{twice}");
    assert_eq!(
        lun_path(&lab.lvm, alias.to_str().unwrap()).unwrap(),
        paths[1]
    );
    for odd in ["", "a,b", "../sda", "x/y"] {
        let refused = lun_path(&lab.lvm, odd).unwrap_err();
        assert_eq!(refused.kind, FailureKind::BadRequest, "{odd:?}");
    }
}

#[test]
fn a_lun_that_cannot_hold_an_extent_is_refused_before_anything_is_written() {
    let mut lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let small = lab.loops.add(300 * MIB);
    let lvm = Arc::new(lab.loops.lvm());
    let domain = BlockDomain::open(&lvm, &Context::quiet(), domain.id()).unwrap();
    let before = domain.group().unwrap();
    let refused = domain
        .add_devices(&Context::quiet(), &authority(&domain), &[small], true)
        .unwrap_err();
    assert_eq!(refused.kind, FailureKind::BadRequest, "{refused}");
    assert!(
        refused.message.contains("300 MiB, smallest allowed is 385"),
        "{refused}"
    );
    assert_eq!(domain.group().unwrap(), before);
}

#[test]
fn on_a_node_only_multipath_maps_become_luns() {
    let lab = Lab::new(&[12]);
    let mut env = crate::lvm::LvmEnv::metadata_only(lab.loops.layout(), Vec::new());
    env.candidates = crate::lvm::Candidates::Multipath { also: Vec::new() };
    env.layout.sys = lab.loops.folder().join("sys");
    std::fs::create_dir_all(env.layout.sys.join("block")).unwrap();
    let lvm = Arc::new(Lvm::new(env));
    let new = NewBlockDomain {
        force: true,
        ..lab.new_domain(DomainVersion::V5)
    };
    let refused = create(&lvm, &Context::quiet(), &DirectLeases, &new).unwrap_err();
    assert_eq!(refused.kind, FailureKind::BadRequest, "{refused}");
    assert!(refused.message.contains("not a multipath map"), "{refused}");
}

#[test]
fn a_lun_that_has_grown_is_used() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let before = domain.space().unwrap().total_bytes;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(lab.loops.file(0))
        .unwrap();
    file.set_len(20 * GIB).unwrap();
    let path = lab.loops.paths()[0].clone();
    crate::command::Run::new("losetup")
        .arg("-c")
        .arg(&path)
        .succeed(&Context::quiet())
        .unwrap();
    let lun = path.to_str().unwrap();
    domain.grow_device(&authority(&domain), lun).unwrap();
    let after = domain.space().unwrap().total_bytes;
    assert_eq!(after, before + 8 * GIB);
    let mapping = domain.metadata().unwrap().pv_mapping().unwrap();
    assert_eq!(mapping[0].extents * 128 * MIB, after);
}

#[test]
fn a_missing_lun_is_told_and_what_is_there_still_read() {
    let lab = Lab::new(&[12, 10]);
    let domain = lab.domain(DomainVersion::V5);
    let entry = volume(&domain, fresh(ImageId::from_random), 128);
    let paths = lab.loops.paths();
    let env = crate::lvm::LvmEnv::metadata_only(lab.loops.layout(), paths[..1].to_vec());
    let lvm = Arc::new(Lvm::new(env));
    let partial = BlockDomain::open(&lvm, &Context::quiet(), domain.id()).unwrap();
    let health = partial.health(&Context::quiet(), false).unwrap();
    assert!(health.is_partial);
    assert_eq!(health.findings.len(), 1, "{:?}", health.findings);
    partial.volume_metadata(&entry).unwrap();
    // Without the first one there is no metadata to read at all.
    let env = crate::lvm::LvmEnv::metadata_only(lab.loops.layout(), paths[1..].to_vec());
    let lvm = Arc::new(Lvm::new(env));
    let nothing = BlockDomain::open(&lvm, &Context::quiet(), domain.id()).unwrap_err();
    assert_eq!(nothing.kind, FailureKind::NotFound);
}

/// A host that may look at the first LUN, and at the second once it is there.
fn late_second(lab: &Lab) -> (Arc<Lvm>, std::path::PathBuf) {
    let late = lab.loops.folder().join("late");
    let mut env = crate::lvm::LvmEnv::metadata_only(lab.loops.layout(), Vec::new());
    env.candidates = crate::lvm::Candidates::Multipath {
        also: vec![lab.loops.paths()[0].clone(), late.clone()],
    };
    env.layout.sys = lab.loops.folder().join("sys");
    std::fs::create_dir_all(env.layout.sys.join("block")).unwrap();
    (Arc::new(Lvm::new(env)), late)
}

#[test]
fn a_lun_that_comes_after_its_domain_was_opened_is_taken_in() {
    let lab = Lab::new(&[12, 10]);
    let made = lab.domain(DomainVersion::V5);
    let (lvm, late) = late_second(&lab);
    let domain = BlockDomain::open(&lvm, &Context::quiet(), made.id()).unwrap();
    let metadata = domain.metadata().unwrap();
    let second = lab.loops.paths()[1].clone();
    let name = second.file_name().unwrap().to_str().unwrap();
    assert_eq!(domain.group().unwrap().lacking(&metadata), [name]);
    // Nobody commits anything; it is just there.
    std::os::unix::fs::symlink(&second, &late).unwrap();
    assert!(domain.group().unwrap().is_all_here());
    assert!(domain.group().unwrap().lacking(&metadata).is_empty());
}

#[test]
fn a_lun_that_another_host_lets_grow_is_lacking_until_it_is_seen_whole() {
    let lab = Lab::new(&[12]);
    let made = lab.domain(DomainVersion::V5);
    let path = lab.loops.paths()[0].clone();
    let resize = |bytes: u64| {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(lab.loops.file(0))
            .unwrap();
        file.set_len(bytes).unwrap();
        crate::command::Run::new("losetup")
            .arg("-c")
            .arg(&path)
            .succeed(&Context::quiet())
            .unwrap();
    };
    resize(20 * GIB);
    made.grow_device(&authority(&made), path.to_str().unwrap())
        .unwrap();
    // As the other host sees it that has not asked for the size.
    resize(12 * GIB);
    let lvm = Arc::new(lab.loops.lvm());
    let context = Context::quiet();
    let domain = BlockDomain::open(&lvm, &context, made.id()).unwrap();
    let metadata = domain.metadata().unwrap();
    assert_eq!(domain.group().unwrap().lacking(&metadata).len(), 1);
    let health = domain.health(&context, false).unwrap();
    assert!(!health.is_partial, "it is used as far as it is seen");
    assert!(
        health.findings[0].contains("has grown at the storage"),
        "{:?}",
        health.findings
    );
    resize(20 * GIB);
    assert!(domain.group().unwrap().is_all_here());
}

/// Writes the record of a host in `ids`, as a lease daemon that renews it.
fn renew(domain: &BlockDomain, host: u64, timestamp: u64) {
    let name = LockspaceName::new(&domain.id().to_string()).unwrap();
    let mut leader = delta::initial(&name, Geometry::Sector512Align1M, 1);
    leader.owner_id = host;
    leader.timestamp = timestamp;
    let mut sector = [0; 512];
    delta::encode_sector(&leader, &disk_format::HostBitmap::EMPTY, &mut sector);
    let ids = domain.region("ids", Access::ReadWrite).unwrap();
    ids.write((host - 1) * 512, &sector).unwrap();
}

#[test]
fn nothing_is_moved_while_another_host_uses_the_domain() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let context = Context::quiet();
    domain.unused_by_others(&context, 1).unwrap();
    // Ours, and one that died without leaving: it is waited whether it renews.
    renew(&domain, 1, 100);
    domain.unused_by_others(&context, 1).unwrap();
    renew(&domain, 7, 100);
    domain.unused_by_others(&context, 1).unwrap();

    let cancelled = Arc::<std::sync::atomic::AtomicBool>::default();
    cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
    let ended = Context::new(Arc::new(|_, _| {}), cancelled);
    let failure = domain.unused_by_others(&ended, 1).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Cancelled);

    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| domain.unused_by_others(&context, 1));
        let mut timestamp = 100;
        while !waiting.is_finished() {
            timestamp += 1;
            renew(&domain, 7, timestamp);
            std::thread::yield_now();
        }
        let failure = waiting.join().unwrap().unwrap_err();
        assert_eq!(failure.kind, FailureKind::InUse, "{failure}");
        assert!(failure.message.contains("host 7 uses it"), "{failure}");
    });
}
