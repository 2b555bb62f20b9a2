//! Every operation, ended at every step: by a crash after which the host comes
//! back, or by an error it can react to.

use control::storage::FailureKind;
use disk_format::vdsm::volume::{Allocation, Legality, VolumeFormat, VolumeMetadata, VolumeType};

use super::site::{Site, Sort, image, volume};
use crate::domain::{EntryState, VolumeEntry};
use crate::image::copy::{self, CopyOptions, NewCopy, Source};
use crate::image::create::{CreateVolume, create};
use crate::image::delete::{delete_image, delete_volume};
use crate::image::merge::{self, Merge};
use crate::image::operation::Job;
use crate::image::wipe::{self, Disposal};
use crate::job::Result;

const NONE: Disposal = Disposal {
    wipe: false,
    discard: false,
    bytes_per_s: None,
};

/// Runs `act` on a site made by `before`, dying at each step in turn. After each
/// death: what is there is whole, the same request ends as if nothing had been,
/// and nothing half-made is left.
fn dies_at_every_step(
    sort: Sort,
    before: impl Fn(&Site),
    act: impl Fn(&Site, bool) -> Result<()>,
    after: impl Fn(&Site),
) {
    for step in 0..100 {
        let mut site = Site::new(sort);
        before(&site);
        site.steps.arm(step, true);
        let answer = act(&site, false);
        let fired = site.steps.fired();
        site.steps.disarm();
        if !fired {
            answer.unwrap();
            assert!(step > 2, "a test that ends nothing proves nothing");
            after(&site);
            return;
        }
        site.reboot();
        site.check();
        match act(&site, true) {
            Ok(()) => {}
            // Done before it died, and deleted is deleted.
            Err(failure) if failure.kind == FailureKind::NotFound => {}
            Err(failure) => panic!("{sort:?} step {step}: {failure}"),
        }
        site.check();
        wipe::clean_up(&site.work(), NONE).unwrap();
        let entries = site.domain.volumes().unwrap();
        assert!(
            entries.iter().all(VolumeEntry::is_live),
            "{sort:?} step {step}: {entries:?}"
        );
        after(&site);
    }
    panic!("never ends");
}

/// The same with one error at each step in turn: when it is reported as failed,
/// everything is as before.
fn undoes_at_every_step(
    sort: Sort,
    before: impl Fn(&Site),
    act: impl Fn(&Site, bool) -> Result<()>,
) {
    for step in 0..100 {
        let site = Site::new(sort);
        before(&site);
        let was = picture(&site);
        site.steps.arm(step, false);
        let answer = act(&site, false);
        let fired = site.steps.fired();
        site.steps.disarm();
        site.check();
        match answer {
            Ok(()) => assert!(!fired || step > 0),
            Err(_) => assert_eq!(picture(&site), was, "{sort:?} step {step}"),
        }
        if !fired {
            return;
        }
    }
    panic!("never ends");
}

type Picture = (Vec<(VolumeEntry, VolumeMetadata)>, Vec<String>);

/// All there is: volumes with their metadata, and the names of all files.
fn picture(site: &Site) -> Picture {
    let entries = site.domain.volumes().unwrap();
    let volumes = entries
        .into_iter()
        .map(|entry| {
            assert!(entry.is_live(), "half-made: {entry:?}");
            let metadata = site.domain.volume_metadata(&entry).unwrap();
            (entry, metadata)
        })
        .collect();
    let mut names = Vec::new();
    let mut rest = vec![site.domain.root().join("images")];
    while let Some(directory) = rest.pop() {
        let Ok(list) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in list {
            let entry = entry.unwrap();
            names.push(entry.path().to_string_lossy().into_owned());
            if entry.file_type().unwrap().is_dir() {
                rest.push(entry.path());
            }
        }
    }
    names.sort();
    (volumes, names)
}

fn base(site: &Site) {
    create(&site.work(), &site.request(1, 1, VolumeFormat::Cow)).unwrap();
    site.write(1, 1, 0, 1);
}

fn chain(site: &Site) {
    base(site);
    for id in [2, 3] {
        child(site, 1, id, id - 1, false).unwrap();
        site.write(1, id, u64::from(id), id);
    }
}

fn template(site: &Site) {
    let request = CreateVolume {
        template: true,
        ..site.request(5, 5, VolumeFormat::Cow)
    };
    create(&site.work(), &request).unwrap();
}

fn child(site: &Site, of: u8, id: u8, parent: u8, again: bool) -> Result<()> {
    let request = CreateVolume {
        parent: Some(volume(parent)),
        again,
        ..site.request(of, id, VolumeFormat::Cow)
    };
    create(&site.work(), &request).map(drop)
}

#[test]
fn creating_a_snapshot() {
    for sort in [Sort::File, Sort::Block] {
        die_creating_a_snapshot(sort);
        undoes_at_every_step(sort, base, |site, again| child(site, 1, 2, 1, again));
    }
}

pub(super) fn die_creating_a_snapshot(sort: Sort) {
    let act = |site: &Site, again| child(site, 1, 2, 1, again);
    dies_at_every_step(sort, base, act, |site| {
        assert_eq!(site.kind_of(1), VolumeType::Internal);
        assert_eq!(site.kind_of(2), VolumeType::Leaf);
        assert_eq!(site.read(1, 2)[..2], [1, 0]);
    });
}

#[test]
fn creating_a_clone_of_a_template() {
    for sort in [Sort::File, Sort::Block] {
        let act = |site: &Site, again| child(site, 6, 6, 5, again);
        dies_at_every_step(sort, template, act, |site| {
            assert_eq!(site.kind_of(5), VolumeType::Shared);
            assert_eq!(site.kind_of(6), VolumeType::Leaf);
        });
        undoes_at_every_step(sort, template, act);
    }
}

#[test]
fn creating_a_preallocated_base() {
    for sort in [Sort::File, Sort::Block] {
        let act = |site: &Site, again| {
            let request = CreateVolume {
                allocation: Allocation::Preallocated,
                again,
                ..site.request(1, 1, VolumeFormat::Raw)
            };
            create(&site.work(), &request).map(drop)
        };
        dies_at_every_step(
            sort,
            |_| {},
            act,
            |site| {
                assert_eq!(site.kind_of(1), VolumeType::Leaf);
            },
        );
        undoes_at_every_step(sort, |_| {}, act);
    }
}

#[test]
fn copying_to_a_template() {
    for sort in [Sort::File, Sort::Block] {
        let act = |site: &Site, again| {
            let source = Source {
                domain: site.domain.as_ref(),
                image: image(1),
                volume: volume(1),
            };
            let new = NewCopy {
                image: image(5),
                volume: volume(5),
                format: None,
                allocation: Allocation::Sparse,
                description: None,
                template: true,
                options: CopyOptions::default(),
                again,
            };
            match copy::copy_image(&site.work(), source, &new) {
                // Died between the last write and the answer.
                Err(failure) if again && failure.kind == FailureKind::Exists => {
                    assert_eq!(site.legality(5), Legality::Legal);
                    Ok(())
                }
                other => other.map(drop),
            }
        };
        dies_at_every_step(sort, base, act, |site| {
            assert_eq!(site.legality(5), Legality::Legal);
            assert_eq!(site.kind_of(5), VolumeType::Shared);
            assert_eq!(site.read(5, 5)[..2], [1, 0]);
        });
    }
}

#[test]
fn deleting_a_leaf() {
    for sort in [Sort::File, Sort::Block] {
        let act = |site: &Site, _| delete_volume(&site.work(), volume(3), NONE);
        dies_at_every_step(sort, chain, act, |site| {
            assert_eq!(site.live().len(), 2);
            assert_eq!(site.kind_of(2), VolumeType::Leaf);
            assert_eq!(site.read(1, 2)[..4], [1, 0, 2, 0]);
        });
    }
}

#[test]
fn deleting_an_image() {
    for sort in [Sort::File, Sort::Block] {
        let before = |site: &Site| {
            chain(site);
            template(site);
            child(site, 6, 6, 5, false).unwrap();
        };
        let act = |site: &Site, _| {
            delete_image(&site.work(), image(1), NONE)?;
            delete_image(&site.work(), image(6), NONE)
        };
        dies_at_every_step(sort, before, act, |site| {
            // A second request finds the first image gone already.
            match delete_image(&site.work(), image(6), NONE) {
                Err(failure) if failure.kind == FailureKind::NotFound => {}
                other => other.unwrap(),
            }
            let left: Vec<_> = site.live().iter().map(|entry| entry.id).collect();
            assert_eq!(left, [volume(5)]);
        });
    }
}

#[test]
fn merging_in_the_middle_and_at_the_leaf() {
    for sort in [Sort::File, Sort::Block] {
        let pair = |base, top| Merge {
            image: image(1),
            base: volume(base),
            top: volume(top),
        };
        let act = |top| {
            move |site: &Site, _| {
                merge::merge(&site.work(), pair(top - 1, top), &Job::default(), NONE)
            }
        };
        dies_at_every_step(sort, chain, act(2), |site| {
            assert_eq!(site.live().len(), 2);
            assert_eq!(site.read(1, 3)[..5], [1, 0, 2, 3, 0]);
        });
        dies_at_every_step(sort, chain, act(3), |site| {
            assert_eq!(site.live().len(), 2);
            assert_eq!(site.kind_of(2), VolumeType::Leaf);
            assert_eq!(site.legality(2), Legality::Legal);
            assert_eq!(site.read(1, 2)[..5], [1, 0, 2, 3, 0]);
        });
    }
}

#[test]
fn stale_tag_of_a_child_is_repaired_before_its_old_parent_goes() {
    let site = Site::new(Sort::Block);
    chain(&site);
    let shelf = site.shelf.as_ref().unwrap();
    // As a host leaves it that merged 2 into 1: it could write the slot only.
    let pair = Merge {
        image: image(1),
        base: volume(1),
        top: volume(2),
    };
    merge::prepare_merge(&site.work(), pair).unwrap();
    merge::commit(
        &site.context,
        &site.layout,
        site.domain.as_ref(),
        site.steps.as_ref(),
        pair,
        &Job::default(),
    )
    .unwrap();
    merge::finalize(&site.work(), pair).unwrap();
    shelf.set_tag(volume(3), volume(2));
    delete_volume(&site.work(), volume(2), NONE).unwrap();
    let entry = site.domain.volume(volume(3)).unwrap();
    assert_eq!(entry.parent_tag, Some(volume(1)));
    assert_eq!(site.read(1, 3)[..5], [1, 0, 2, 3, 0]);
}

#[test]
fn clean_up_takes_what_is_half_made_and_nothing_else() {
    for sort in [Sort::File, Sort::Block] {
        let site = Site::new(sort);
        chain(&site);
        let new = crate::domain::NewVolume {
            id: volume(9),
            image: image(1),
            size_bytes: 1 << 20,
        };
        site.domain
            .allocate(&site.context, site.steps.as_ref(), &new)
            .unwrap();
        let half = |site: &Site| {
            let entries = site.domain.volumes().unwrap();
            entries
                .iter()
                .filter(|e| e.state == EntryState::HalfMade)
                .count()
        };
        assert_eq!(half(&site), 1);
        // On demand only removals are finished: somebody may be making this.
        wipe::resume_wipes(&site.work(), NONE).unwrap();
        assert_eq!(half(&site), 1);
        wipe::clean_up(&site.work(), NONE).unwrap();
        assert_eq!(half(&site), 0);
        assert_eq!(site.live().len(), 3);
        site.check();
    }
}
