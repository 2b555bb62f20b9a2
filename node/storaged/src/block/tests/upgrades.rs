//! From version 3 to 4 to 5, stopped at any step.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use disk_format::vdsm::slot::SlotNumber;
use disk_format::vdsm::volume::SlotFormat;

use super::*;

#[test]
fn a_domain_of_version_3_goes_to_4_and_5_with_its_volumes() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V3);
    let authority = authority(&domain);
    let image = fresh(ImageId::from_random);
    let volumes = [volume(&domain, image, 128), volume(&domain, image, 128)];
    let before: Vec<_> = volumes
        .iter()
        .map(|entry| domain.volume_metadata(entry).unwrap())
        .collect();
    let context = Context::quiet();
    domain
        .upgrade(&context, &authority, DomainVersion::V4)
        .unwrap();
    assert_eq!(domain.version(), DomainVersion::V4);
    crate::xlease::Xleases::of_block(&domain)
        .unwrap()
        .list()
        .unwrap();
    assert!(domain.root().join("dom_md/xleases").is_symlink());
    domain
        .upgrade(&context, &authority, DomainVersion::V5)
        .unwrap();
    // Again does nothing.
    domain
        .upgrade(&context, &authority, DomainVersion::V5)
        .unwrap();
    let domain = BlockDomain::open(&lab.lvm, &context, domain.id()).unwrap();
    assert_eq!(domain.version(), DomainVersion::V5);
    for (entry, before) in volumes.iter().zip(&before) {
        assert_eq!(domain.volume_metadata(entry).unwrap(), *before);
        let slot = domain
            .read_slot(DomainVersion::V5, entry.slot.unwrap())
            .unwrap();
        assert_eq!(SlotFormat::detect(&slot), Some(SlotFormat::V5));
    }
    let tags = &domain.group().unwrap().tags;
    assert!(tags.contains("MDT_VERSION=5") && tags.contains("MDT_ALIGNMENT=1048576"));
    assert!(!tags.contains("MDT_LOGBLKSIZE=512"));
    let region = domain.region("metadata", Access::Read).unwrap();
    let old = region.read(0, 1 << 20).unwrap();
    assert!(old.iter().all(|&byte| byte == 0));
    let down = domain
        .upgrade(&context, &authority, DomainVersion::V4)
        .unwrap_err();
    assert_eq!(down.kind, FailureKind::BadRequest);
}

/// Allows so many changes and no more: a writer that dies.
struct Dying<'a>(&'a Unattached, AtomicUsize);

impl crate::authority::Authority for Dying<'_> {
    fn check(&self, domain: &str) -> std::result::Result<(), Failure> {
        let left = self.1.load(Ordering::Relaxed);
        if left == 0 {
            return Err(Failure::new(FailureKind::LeaseNotHeld, "dead"));
        }
        self.1.store(left - 1, Ordering::Relaxed);
        self.0.check(domain)
    }
    fn registration(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

#[test]
fn an_upgrade_interrupted_at_any_change_is_readable_and_can_be_finished() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V3);
    let all = authority(&domain);
    let image = fresh(ImageId::from_random);
    let volumes = [volume(&domain, image, 128), volume(&domain, image, 128)];
    let before: Vec<_> = volumes
        .iter()
        .map(|entry| domain.volume_metadata(entry).unwrap())
        .collect();
    let mut deaths = 0;
    for allowed in 0.. {
        let dying = Dying(&all, AtomicUsize::new(allowed));
        let context = Context::quiet();
        let again = BlockDomain::open(&lab.lvm, &context, domain.id()).unwrap();
        let done = again.upgrade(&context, &dying, DomainVersion::V5);
        let opened = BlockDomain::open(&lab.lvm, &context, domain.id()).unwrap();
        for (entry, before) in volumes.iter().zip(&before) {
            assert_eq!(opened.volume_metadata(entry).unwrap(), *before);
        }
        // Zeroing the old slots is best effort, so the last death may go unseen.
        if done.is_ok() {
            break;
        }
        assert_eq!(opened.version(), DomainVersion::V3);
        deaths += 1;
    }
    assert!(deaths >= 5, "{deaths}");
    let cancelled = Context::new(Arc::new(|_, _| {}), Arc::new(AtomicBool::new(true)));
    assert!(cancelled.go_on().is_err());
}

#[test]
fn an_unreadable_slot_does_not_stop_an_upgrade_and_does_not_get_better() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V4);
    let authority = authority(&domain);
    let image = fresh(ImageId::from_random);
    let [good, bad] = [volume(&domain, image, 128), volume(&domain, image, 128)];
    let mut garbage = [0; 512];
    garbage[..7].copy_from_slice(b"DOMAIN=");
    domain
        .write_slot(&authority, DomainVersion::V4, bad.slot.unwrap(), &garbage)
        .unwrap();
    domain
        .upgrade(&Context::quiet(), &authority, DomainVersion::V5)
        .unwrap();
    domain.volume_metadata(&good).unwrap();
    let failure = domain.volume_metadata(&bad).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Damaged);
    assert_eq!(bad.slot, Some(SlotNumber(5)));
}
