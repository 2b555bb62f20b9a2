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
