//! No byte of a wiped volume is ever readable from a new one.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use control::storage::FailureKind;
use disk_format::vdsm::volume::VolumeFormat;

use super::shelf::EXTENT;
use super::site::{Site, Sort, image, volume};
use crate::domain::EntryState;
use crate::image::Work;
use crate::image::create::{CreateVolume, create};
use crate::image::delete::{delete_image, delete_volume};
use crate::image::wipe::{self, Disposal};
use crate::job::Context;

const BYTES: u64 = 6 * EXTENT;
const WIPE: Disposal = Disposal {
    wipe: true,
    discard: false,
    bytes_per_s: None,
};

/// A RAW volume full of 0xa5, from its first byte to its last.
fn secret(site: &Site, of: u8, id: u8) {
    let request = CreateVolume {
        capacity_bytes: BYTES,
        ..site.request(of, id, VolumeFormat::Raw)
    };
    create(&site.work(), &request).unwrap();
    let shelf = site.shelf.as_ref().unwrap();
    let disk = OpenOptions::new().write(true).open(shelf.disk()).unwrap();
    let bytes = vec![0xa5; usize::try_from(BYTES).unwrap()];
    disk.write_all_at(&bytes, shelf.place(volume(id))).unwrap();
    disk.sync_all().unwrap();
}

/// What a new volume made now shows of the past.
fn secrets_seen(site: &Site, of: u8, id: u8) -> usize {
    let request = CreateVolume {
        capacity_bytes: BYTES,
        ..site.request(of, id, VolumeFormat::Raw)
    };
    let entry = create(&site.work(), &request).unwrap();
    site.domain.activate(&[&entry]).unwrap();
    let bytes = std::fs::read(site.domain.path(&entry)).unwrap();
    site.domain.deactivate(&[&entry]).unwrap();
    assert_eq!(u64::try_from(bytes.len()).unwrap(), BYTES);
    bytes.iter().filter(|byte| **byte != 0).count()
}

#[test]
fn without_wiping_the_next_volume_sees_everything() {
    let site = Site::new(Sort::Block);
    secret(&site, 1, 1);
    delete_volume(&site.work(), volume(1), Disposal::default()).unwrap();
    assert_eq!(u64::try_from(secrets_seen(&site, 2, 2)).unwrap(), BYTES);
}

#[test]
fn with_wiping_nothing_is_seen_whatever_step_the_host_dies_at() {
    for whole_image in [false, true] {
        for step in 0.. {
            let mut site = Site::new(Sort::Block);
            secret(&site, 1, 1);
            let delete = |site: &Site| {
                if whole_image {
                    delete_image(&site.work(), image(1), WIPE)
                } else {
                    delete_volume(&site.work(), volume(1), WIPE)
                }
            };
            site.steps.arm(step, true);
            let answer = delete(&site);
            let fired = site.steps.fired();
            site.steps.disarm();
            site.reboot();
            if !fired {
                answer.unwrap();
                assert_eq!(secrets_seen(&site, 2, 2), 0);
                break;
            }
            answer.unwrap_err();
            // Still there: it may be asked for again. Marked: anybody may finish.
            let entries = site.domain.volumes().unwrap();
            if entries[0].is_live() {
                delete(&site).unwrap();
            } else {
                let collected = wipe::resume_wipes(&site.work(), Disposal::default()).unwrap();
                assert_eq!(collected.removed.len(), 1, "step {step}");
            }
            assert!(site.domain.volumes().unwrap().is_empty());
            assert_eq!(secrets_seen(&site, 2, 2), 0, "step {step}");
        }
    }
}

#[test]
fn wipe_cut_off_in_the_middle_is_finished_later() {
    let site = Site::new(Sort::Block);
    secret(&site, 1, 1);
    let cancelled = Arc::new(AtomicBool::new(false));
    let told = Arc::new(AtomicU64::new(0));
    let (stop, seen) = (Arc::clone(&cancelled), Arc::clone(&told));
    let context = Context::new(
        Arc::new(move |progress, _| {
            seen.store(progress.done, Ordering::Relaxed);
            if progress.done > 0 {
                stop.store(true, Ordering::Relaxed);
            }
        }),
        cancelled,
    );
    let work = Work {
        context: &context,
        ..site.work()
    };
    // A rate makes the steps small, so that there is a middle.
    let slowly = Disposal {
        bytes_per_s: Some(32 << 20),
        ..WIPE
    };
    let small = Disposal {
        bytes_per_s: Some(1 << 20),
        ..WIPE
    };
    let failure = delete_volume(&work, volume(1), small).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Cancelled);
    let done = told.load(Ordering::Relaxed);
    assert!(done > 0 && done < BYTES, "{done}");
    let entries = site.domain.volumes().unwrap();
    assert_eq!(entries[0].state, EntryState::Removed { zero: true });
    // Its place is not given to anybody.
    assert_eq!(secrets_seen(&site, 3, 3), 0);
    let shelf = site.shelf.as_ref().unwrap();
    assert_ne!(shelf.place(volume(3)), shelf.place(volume(1)));
    let collected = wipe::resume_wipes(&site.work(), slowly).unwrap();
    assert_eq!(collected.removed.len(), 1);
    assert_eq!(secrets_seen(&site, 2, 2), 0);
    assert_eq!(shelf.place(volume(2)), 0);
}

#[test]
fn volume_that_is_open_is_not_wiped_and_not_forgotten() {
    let site = Site::new(Sort::Block);
    secret(&site, 1, 1);
    secret(&site, 2, 2);
    let steps = site.steps.as_ref();
    for of in [1, 2] {
        site.domain
            .mark_image_removed(steps, image(of), true)
            .unwrap();
    }
    let entries = site.domain.volumes().unwrap();
    let first = entries.iter().find(|e| e.id == volume(1)).unwrap();
    site.domain.activate(&[first]).unwrap();
    let node = std::fs::canonicalize(site.domain.path(first)).unwrap();
    // A guest, or a file system.
    let user = OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed())
        .open(&node)
        .unwrap();
    let failure = wipe::zero(&site.context, &node, None).unwrap_err();
    assert_eq!(failure.kind, FailureKind::InUse);
    drop(user);
    let collected = wipe::resume_wipes(&site.work(), WIPE).unwrap();
    assert_eq!(collected.removed.len(), 2);
    assert_eq!(secrets_seen(&site, 3, 3), 0);
}

/// Blocks of 512 bytes that the file behind all volumes takes.
fn taken(site: &Site) -> u64 {
    let shelf = site.shelf.as_ref().unwrap();
    let disk = std::fs::File::open(shelf.disk()).unwrap();
    disk.sync_all().unwrap();
    std::os::unix::fs::MetadataExt::blocks(&disk.metadata().unwrap())
}

#[test]
fn a_device_that_can_discard_is_told_and_shows_zeros_all_the_same() {
    let site = Site::new(Sort::Block);
    secret(&site, 1, 1);
    let place = site.shelf.as_ref().unwrap().place(volume(1));
    let full = taken(&site);
    let both = Disposal {
        discard: true,
        ..WIPE
    };
    delete_volume(&site.work(), volume(1), both).unwrap();
    let freed = full - taken(&site);
    assert!(
        freed >= BYTES / 512,
        "{freed} blocks freed, the volume had {}",
        BYTES / 512
    );
    let disk = std::fs::File::open(site.shelf.as_ref().unwrap().disk()).unwrap();
    let mut bytes = vec![1; usize::try_from(BYTES).unwrap()];
    disk.read_exact_at(&mut bytes, place).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert_eq!(secrets_seen(&site, 2, 2), 0);
}

#[test]
fn without_wiping_discard_gives_the_room_back_too() {
    let site = Site::new(Sort::Block);
    secret(&site, 1, 1);
    let full = taken(&site);
    let discard = Disposal {
        discard: true,
        ..Disposal::default()
    };
    delete_volume(&site.work(), volume(1), discard).unwrap();
    assert!(full - taken(&site) >= BYTES / 512);
}
