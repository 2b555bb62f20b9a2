//! Creation that ends at any step leaves something that nobody takes for a
//! domain, and that removal clears.

use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Runs creation until it tells step `stop` for the time number `time`.
fn stopped_at(lab: &Lab, new: &NewBlockDomain, stop: usize) -> (Result<BlockDomain>, Vec<String>) {
    let told = Arc::new(StdMutex::new(Vec::new()));
    let cancelled = Arc::new(AtomicBool::new(false));
    let (steps, flag) = (Arc::clone(&told), Arc::clone(&cancelled));
    let context = Context::new(
        Arc::new(move |_, step: &str| {
            let mut steps = steps.lock().unwrap();
            steps.push(step.to_owned());
            if steps.len() > stop {
                flag.store(true, Ordering::Relaxed);
            }
        }),
        cancelled,
    );
    let made = create(&lab.lvm, &context, &DirectLeases, new);
    let steps = told.lock().unwrap().clone();
    (made, steps)
}

#[test]
fn creation_that_ends_at_any_step_is_recognised_and_cleared() {
    let lab = Lab::new(&[12]);
    let mut ended = Vec::new();
    for stop in 0.. {
        let new = lab.new_domain(DomainVersion::V5);
        let (made, steps) = stopped_at(&lab, &new, stop);
        let last = steps.last().unwrap().clone();
        let context = Context::quiet();
        let name = new.id.to_string();
        if made.is_ok() {
            assert_eq!(stop, steps.len());
            remove(&lab.lvm, &context, &Unattached { domain: name }, new.id).unwrap();
            break;
        }
        let failure = made.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Cancelled, "{last}: {failure}");
        let found = find(&lab.lvm).unwrap();
        let opened = BlockDomain::open(&lab.lvm, &context, new.id);
        match found.as_slice() {
            // Ended before there was a group.
            [] => assert_eq!(opened.unwrap_err().kind, FailureKind::NotFound, "{last}"),
            [found] if found.marker == Marker::Unready => {
                let failure = opened.unwrap_err();
                assert_eq!(failure.kind, FailureKind::Damaged, "{last}");
                assert!(failure.message.contains("half-made"), "{failure}");
            }
            // Only its leases are missing: it opens.
            [_] => {
                assert_eq!(last, "leases");
                opened.unwrap();
            }
            more => panic!("{more:?}"),
        }
        ended.push(last);
        // Making it again needs it cleared first, which works at every step.
        if !found.is_empty() {
            let again = create(&lab.lvm, &context, &DirectLeases, &new).unwrap_err();
            assert_eq!(again.kind, FailureKind::Exists);
            let authority = Unattached {
                domain: name.clone(),
            };
            remove(&lab.lvm, &context, &authority, new.id).unwrap();
        }
        assert!(find(&lab.lvm).unwrap().is_empty());
    }
    // The list of steps is long enough to mean something.
    assert!(ended.iter().any(|step| step == "metadata volume"));
    assert!(ended.iter().any(|step| step == "ready"));
    assert!(ended.len() >= 14, "{ended:?}");
}

#[test]
fn a_group_without_marker_is_never_written_to() {
    let lab = Lab::new(&[12, 12]);
    let paths = lab.loops.paths();
    let name = fresh(DomainId::from_random);
    let stranger = Unattached {
        domain: name.to_string(),
    };
    let context = Context::quiet();
    for change in [
        Change::CreatePhysical {
            devices: &paths[..1],
            force: false,
        },
        Change::UseMetadataAreas { device: &paths[0] },
        Change::CreateGroup {
            devices: &paths[..1],
            tags: &["mine".to_owned()],
        },
    ] {
        lab.lvm
            .change(&context, &stranger, &stranger.domain, &change)
            .unwrap();
    }
    let before = reader::read(&lab.lvm, &stranger.domain).unwrap();
    let opened = BlockDomain::open(&lab.lvm, &context, name).unwrap_err();
    assert_eq!(opened.kind, FailureKind::Foreign);
    let removed = remove(&lab.lvm, &context, &stranger, name).unwrap_err();
    assert_eq!(removed.kind, FailureKind::Foreign);
    let new = lab.new_domain(DomainVersion::V5);
    let created = create(&lab.lvm, &context, &DirectLeases, &new).unwrap_err();
    assert_eq!(created.kind, FailureKind::InUse, "{created}");
    assert!(find(&lab.lvm).unwrap().is_empty());
    let after = reader::read(&lab.lvm, &stranger.domain).unwrap();
    assert_eq!(after, before);
}

#[test]
fn an_attached_domain_is_not_removed() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let pool = "5d928855-b09b-47a7-b920-bd2d2eb5808c".parse().unwrap();
    let authority = authority(&domain);
    domain
        .change_metadata(&authority, &mut |metadata| {
            metadata.set_pool(Some(pool));
            Ok(())
        })
        .unwrap();
    let context = Context::quiet();
    let refused = remove(&lab.lvm, &context, &authority, domain.id()).unwrap_err();
    assert_eq!(refused.kind, FailureKind::WrongState);
    domain
        .change_metadata(&authority, &mut |metadata| {
            metadata.set_pool(None);
            Ok(())
        })
        .unwrap();
    remove(&lab.lvm, &context, &authority, domain.id()).unwrap();
}

#[test]
fn a_broken_seal_is_reported() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let change = Change::TagGroup {
        delete: &["MDT_ROLE=Regular".to_owned()],
        add: &["MDT_ROLE=Master".to_owned()],
    };
    domain.change(&authority(&domain), &change).unwrap();
    let failure = BlockDomain::open(&lab.lvm, &Context::quiet(), domain.id()).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Damaged);
    assert!(failure.message.contains("checksum"), "{failure}");
}
