//! Volumes through the [`Domain`] trait.

use std::cell::Cell;

use disk_format::vdsm::slot::SlotNumber;

use super::*;
use crate::authority::Authority;

#[test]
fn a_volume_becomes_visible_in_one_step_with_its_slot_written_before() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let image = fresh(ImageId::from_random);
    let draft = draft(&domain, image, 1024);
    assert_eq!(draft.slot, Some(SlotNumber(1)));
    let listed = domain.volumes().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state, EntryState::HalfMade);
    assert_eq!(
        domain.volume(draft.id).unwrap_err().kind,
        FailureKind::NotFound
    );
    let group = domain.group().unwrap();
    let tags: Vec<_> = group
        .volume(&draft.id.to_string())
        .unwrap()
        .tags
        .iter()
        .collect();
    assert_eq!(tags, ["MD_1", "OVIRT_VOL_INITIALIZING"]);

    let metadata = metadata(&domain, image, VolumeId::BLANK);
    let entry = domain
        .publish(&authority(&domain), &draft, &metadata)
        .unwrap();
    assert_eq!(domain.volume_metadata(&entry).unwrap(), metadata);
    let group = domain.group().unwrap();
    let tags: Vec<_> = group
        .volume(&draft.id.to_string())
        .unwrap()
        .tags
        .iter()
        .cloned()
        .collect();
    let expected = [
        format!("IU_{image}"),
        "MD_1".to_owned(),
        format!("PU_{}", VolumeId::BLANK),
    ];
    assert_eq!(tags, expected);
    // The lease of slot 1 is at 101 MiB of `leases`, which starts at extent 4.
    let start = (129 + 4 * 128 + 101) * MIB;
    assert_eq!(domain.lease(&entry).offset, start);
    assert_eq!(domain.lease(&entry), draft.lease);
}

#[test]
fn a_writer_that_dies_between_slot_and_tags_leaves_no_volume() {
    /// Allows so many changes.
    struct Few<'a>(&'a Unattached, Cell<u32>);
    impl Authority for Few<'_> {
        fn check(&self, domain: &str) -> std::result::Result<(), Failure> {
            if self.1.get() == 0 {
                return Err(Failure::new(FailureKind::LeaseNotHeld, "gone"));
            }
            self.1.set(self.1.get() - 1);
            self.0.check(domain)
        }
        fn registration(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            None
        }
    }
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let image = fresh(ImageId::from_random);
    let draft = draft(&domain, image, 128);
    let metadata = metadata(&domain, image, VolumeId::BLANK);
    let all = authority(&domain);
    let few = Few(&all, Cell::new(1));
    let lost = domain.publish(&few, &draft, &metadata).unwrap_err();
    assert_eq!(lost.kind, FailureKind::LeaseNotHeld);
    // The slot is there, the volume is not.
    let bytes = domain.read_slot(DomainVersion::V5, SlotNumber(1)).unwrap();
    assert!(bytes.starts_with(b"CAP="));
    assert!(domain.volume(draft.id).is_err());
    // The next writer clears it away.
    let half = domain.volumes().unwrap().remove(0);
    assert_eq!(half.state, EntryState::HalfMade);
    domain.remove(&all, &half).unwrap();
    domain.discard_draft(&all, &draft).unwrap();
    let bytes = domain.read_slot(DomainVersion::V5, SlotNumber(1)).unwrap();
    assert!(bytes.iter().all(|&byte| byte == 0));
    assert!(domain.volumes().unwrap().is_empty());
}

#[test]
fn slots_are_the_lowest_free_ones_and_drafts_keep_theirs() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let image = fresh(ImageId::from_random);
    let one = volume(&domain, image, 128);
    let two = draft(&domain, image, 128);
    let three = volume(&domain, image, 128);
    let slots = [one.slot, two.slot, three.slot].map(Option::unwrap);
    assert_eq!(slots, [1, 2, 3].map(SlotNumber));
    let authority = authority(&domain);
    let gone = domain.mark_removed(&authority, &one, false).unwrap();
    // Marked for removal, its slot stays taken.
    let four = draft(&domain, image, 128);
    assert_eq!(four.slot, Some(SlotNumber(4)));
    domain.remove(&authority, &gone).unwrap();
    domain.discard_draft(&authority, &two).unwrap();
    domain.discard_draft(&authority, &four).unwrap();
    let next = volume(&domain, image, 128);
    assert_eq!(next.slot, Some(SlotNumber(1)));
}

#[test]
fn removal_goes_through_its_mark_and_can_be_repeated() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let image = fresh(ImageId::from_random);
    let other = fresh(ImageId::from_random);
    let volumes = [volume(&domain, image, 128), volume(&domain, image, 128)];
    let kept = volume(&domain, other, 128);
    let live = domain.remove(&authority, &volumes[0]).unwrap_err();
    assert_eq!(live.kind, FailureKind::WrongState);
    domain.mark_removed(&authority, &volumes[0], true).unwrap();
    let marked = domain.mark_image_removed(&authority, image, false).unwrap();
    // The promise to zero the first one holds.
    let mut zero: Vec<_> = marked.iter().map(|entry| entry.state).collect();
    zero.sort();
    assert_eq!(
        zero,
        [
            EntryState::Removed { zero: false },
            EntryState::Removed { zero: true }
        ]
    );
    let group = domain.group().unwrap();
    let tags = &group.volume(&volumes[0].id.to_string()).unwrap().tags;
    assert!(tags.contains(&format!("IU__remove_me_ZERO_{image}")));
    for entry in &marked {
        assert!(domain.volume(entry.id).is_err());
        domain.remove(&authority, entry).unwrap();
        domain.remove(&authority, entry).unwrap();
    }
    let left = domain.volumes().unwrap();
    assert_eq!(left, [kept]);
}

#[test]
fn a_stale_slot_is_not_believed() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let entry = volume(&domain, fresh(ImageId::from_random), 128);
    let mut other = metadata(&domain, fresh(ImageId::from_random), VolumeId::BLANK);
    let authority = authority(&domain);
    domain
        .write_volume_metadata(&authority, &entry, &other)
        .unwrap();
    let stale = domain.volume_metadata(&entry).unwrap_err();
    assert_eq!(stale.kind, FailureKind::Damaged, "{stale}");
    other.domain = fresh(DomainId::from_random);
    let foreign = domain
        .write_volume_metadata(&authority, &entry, &other)
        .unwrap_err();
    assert_eq!(foreign.kind, FailureKind::BadRequest);
}

#[test]
fn parents_sizes_and_space_follow_changes() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let entry = volume(&domain, fresh(ImageId::from_random), 1024);
    let free = domain.space().unwrap().free_bytes;
    assert_eq!(domain.extend(&authority, &entry, 1).unwrap(), 1024 * MIB);
    assert_eq!(
        domain.extend(&authority, &entry, 1100 * MIB).unwrap(),
        1152 * MIB
    );
    assert_eq!(
        domain.reduce(&authority, &entry, 1200 * MIB).unwrap(),
        1152 * MIB
    );
    assert_eq!(
        domain.reduce(&authority, &entry, 500 * MIB).unwrap(),
        512 * MIB
    );
    assert_eq!(domain.space().unwrap().free_bytes, free + 512 * MIB);
    let parent = fresh(VolumeId::from_random);
    domain.set_parent_tag(&authority, &entry, parent).unwrap();
    assert_eq!(domain.volume(entry.id).unwrap().parent_tag, Some(parent));
    let full = domain.extend(&authority, &entry, 1 << 40).unwrap_err();
    assert_eq!(full.kind, FailureKind::NoSpace);
    let again = NewVolume {
        id: entry.id,
        image: entry.image,
        size_bytes: 1,
    };
    let exists = domain
        .allocate(&Context::quiet(), &authority, &again)
        .unwrap_err();
    assert_eq!(exists.kind, FailureKind::Exists);
}

#[test]
fn what_lacks_its_tags_is_left_out_and_not_touched() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let entry = volume(&domain, fresh(ImageId::from_random), 128);
    let name = entry.id.to_string();
    let authority = authority(&domain);
    let change = Change::TagVolumes {
        names: &[&name],
        delete: &[format!("IU_{}", entry.image)],
        add: &[],
    };
    domain.change(&authority, &change).unwrap();
    assert!(domain.volumes().unwrap().is_empty());
    // Its slot stays taken all the same.
    let next = volume(&domain, fresh(ImageId::from_random), 128);
    assert_eq!(next.slot, Some(SlotNumber(2)));
}

#[test]
fn what_is_committed_counts_not_what_the_program_says() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let image = fresh(ImageId::from_random);
    let open = |text: &str| {
        let script = lab.loops.folder().join("odd-lvm");
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut env = crate::lvm::LvmEnv::metadata_only(lab.loops.layout(), lab.loops.paths());
        env.program = script;
        BlockDomain::open(&Arc::new(Lvm::new(env)), &Context::quiet(), domain.id()).unwrap()
    };
    // Does all it is told and fails.
    let failing = open("#!/bin/sh\nlvm \"$@\"\nexit 5\n");
    let entry = volume(&failing, image, 128);
    assert_eq!(failing.extend(&authority, &entry, GIB).unwrap(), GIB);
    let marked = failing.mark_removed(&authority, &entry, true).unwrap();
    failing.remove(&authority, &marked).unwrap();
    assert!(domain.volumes().unwrap().is_empty());
    // Does nothing and succeeds.
    let entry = volume(&domain, image, 128);
    let idle = open("#!/bin/sh\n[ \"$1\" = version ] && exec lvm version\nexit 0\n");
    let before = domain.group().unwrap();
    assert!(idle.extend(&authority, &entry, GIB).is_err());
    assert!(idle.mark_removed(&authority, &entry, false).is_err());
    let new = NewVolume {
        id: fresh(VolumeId::from_random),
        image,
        size_bytes: 1,
    };
    let allocated = idle.allocate(&Context::quiet(), &authority, &new);
    assert_eq!(allocated.unwrap_err().kind, FailureKind::Failed);
    assert_eq!(domain.group().unwrap(), before);
}
