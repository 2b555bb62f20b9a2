//! Each operation once, as it is meant to go, and what it refuses.

use control::storage::FailureKind;
use disk_format::vdsm::ovf::Description;
use disk_format::vdsm::volume::{Allocation, DiskType, Legality, VolumeFormat, VolumeType};

use super::site::{CAPACITY, Site, Sort, both, image, tool, volume};
use crate::image::copy::{self, CopyOptions, NewCopy, Source};
use crate::image::create::{CreateVolume, create};
use crate::image::delete::{delete_image, delete_volume};
use crate::image::merge::{self, Merge};
use crate::image::operation::Job;
use crate::image::prepare::{self, Wanted};
use crate::image::wipe::Disposal;
use crate::image::{ovf_store, resize};

const NONE: Disposal = Disposal {
    wipe: false,
    discard: false,
    bytes_per_s: None,
};

fn snapshot(site: &Site, of: u8, id: u8, parent: u8) {
    let request = CreateVolume {
        parent: Some(volume(parent)),
        capacity_bytes: 0,
        ..site.request(of, id, VolumeFormat::Cow)
    };
    create(&site.work(), &request).unwrap();
}

#[test]
fn volume_is_made_written_snapshotted_and_deleted() {
    both(|site| make_and_delete(&site));
}

pub(super) fn make_and_delete(site: &Site) {
    for (of, base) in [(1, VolumeFormat::Raw), (2, VolumeFormat::Cow)] {
        let (first, second) = (of * 10, of * 10 + 1);
        create(&site.work(), &site.request(of, first, base)).unwrap();
        site.write(of, first, 0, 1);
        snapshot(site, of, second, first);
        assert_eq!(site.kind_of(first), VolumeType::Internal);
        assert_eq!(site.kind_of(second), VolumeType::Leaf);
        site.write(of, second, 1, 2);
        assert_eq!(site.read(of, second)[..3], [1, 2, 0]);
        assert_eq!(site.read(of, first)[..3], [1, 0, 0]);
        site.check();
        let failure = delete_volume(&site.work(), volume(first), NONE).unwrap_err();
        assert_eq!(failure.kind, FailureKind::InUse);
        delete_volume(&site.work(), volume(second), NONE).unwrap();
        assert_eq!(site.kind_of(first), VolumeType::Leaf);
        assert_eq!(site.read(of, first)[..3], [1, 0, 0]);
        delete_volume(&site.work(), volume(first), NONE).unwrap();
    }
    assert!(site.domain.volumes().unwrap().is_empty());
}

#[test]
fn rules_of_creation() {
    both(|site| {
        let work = site.work();
        create(&work, &site.request(1, 1, VolumeFormat::Raw)).unwrap();
        let kind = |request: &CreateVolume| create(&work, request).unwrap_err().kind;
        let twice = site.request(1, 1, VolumeFormat::Raw);
        assert_eq!(kind(&twice), FailureKind::Exists);
        let raw_child = CreateVolume {
            parent: Some(volume(1)),
            ..site.request(1, 2, VolumeFormat::Raw)
        };
        assert_eq!(kind(&raw_child), FailureKind::BadRequest);
        let small = CreateVolume {
            parent: Some(volume(1)),
            capacity_bytes: 4096,
            ..site.request(1, 2, VolumeFormat::Cow)
        };
        assert_eq!(kind(&small), FailureKind::BadRequest);
        let orphan = CreateVolume {
            parent: Some(volume(9)),
            ..site.request(1, 2, VolumeFormat::Cow)
        };
        assert_eq!(kind(&orphan), FailureKind::NotFound);
        let foreign = CreateVolume {
            parent: Some(volume(1)),
            ..site.request(2, 2, VolumeFormat::Cow)
        };
        assert_eq!(kind(&foreign), FailureKind::WrongState);
        let nothing = CreateVolume::new(image(3), volume(3), 0);
        assert_eq!(kind(&nothing), FailureKind::BadRequest);
        if site.domain.kind().is_block() {
            let sparse = CreateVolume {
                allocation: Allocation::Sparse,
                ..site.request(3, 3, VolumeFormat::Raw)
            };
            assert_eq!(kind(&sparse), FailureKind::BadRequest);
        }
        // Capacities are whole 4096s; a child takes its parent's.
        let odd = CreateVolume {
            capacity_bytes: 5000,
            ..site.request(4, 4, VolumeFormat::Cow)
        };
        let entry = create(&work, &odd).unwrap();
        let metadata = site.domain.volume_metadata(&entry).unwrap();
        assert_eq!(metadata.capacity_bytes, 8192);
        let child = CreateVolume {
            parent: Some(volume(4)),
            capacity_bytes: 0,
            ..site.request(4, 5, VolumeFormat::Cow)
        };
        let entry = create(&work, &child).unwrap();
        let metadata = site.domain.volume_metadata(&entry).unwrap();
        assert_eq!((metadata.capacity_bytes, metadata.sequence), (8192, 1));
        // A second child of the same parent.
        let second = CreateVolume {
            parent: Some(volume(4)),
            ..site.request(4, 6, VolumeFormat::Cow)
        };
        assert_eq!(kind(&second), FailureKind::WrongState);
        assert_eq!(site.live().len(), 3);
        site.check();
    });
}

#[test]
fn template_is_shared_by_its_clones_and_never_goes_before_them() {
    both(|site| share_template(&site));
}

pub(super) fn share_template(site: &Site) {
    let work = site.work();
    create(&work, &site.request(1, 1, VolumeFormat::Cow)).unwrap();
    site.write(1, 1, 0, 7);
    snapshot(site, 1, 2, 1);
    site.write(1, 2, 1, 8);
    let source = Source {
        domain: site.domain.as_ref(),
        image: image(1),
        volume: volume(2),
    };
    let new = NewCopy {
        image: image(5),
        volume: volume(5),
        format: None,
        allocation: Allocation::Sparse,
        description: Some("template".into()),
        template: true,
        options: CopyOptions::default(),
        again: false,
    };
    copy::copy_image(&work, source, &new).unwrap();
    assert_eq!(site.read(5, 5)[..3], [7, 8, 0]);
    assert_eq!(site.kind_of(5), VolumeType::Shared);
    assert_eq!(site.legality(5), Legality::Legal);
    for (of, id) in [(6, 6), (7, 7)] {
        snapshot(site, of, id, 5);
        site.write(of, id, 2, id);
        assert_eq!(site.read(of, id)[..4], [7, 8, id, 0]);
    }
    assert_eq!(site.kind_of(5), VolumeType::Shared);
    site.check();
    let in_use = delete_image(&work, image(5), NONE).unwrap_err();
    assert_eq!(in_use.kind, FailureKind::InUse);
    let in_use = delete_volume(&work, volume(5), NONE).unwrap_err();
    assert_eq!(in_use.kind, FailureKind::InUse);
    delete_image(&work, image(6), NONE).unwrap();
    delete_volume(&work, volume(7), NONE).unwrap();
    assert_eq!(site.read(5, 5)[..3], [7, 8, 0]);
    delete_image(&work, image(5), NONE).unwrap();
    delete_image(&work, image(1), NONE).unwrap();
    assert!(site.domain.volumes().unwrap().is_empty());
    if !site.domain.kind().is_block() {
        let left = std::fs::read_dir(site.domain.root().join("images")).unwrap();
        assert_eq!(left.count(), 0, "directories left behind");
    }
}

#[test]
fn every_conversion_shows_the_same_bytes() {
    for from in [Sort::File, Sort::Block] {
        for to in [Sort::File, Sort::Block] {
            let (a, b) = (Site::new(from), Site::new(to));
            for (number, source_format) in [(1, VolumeFormat::Raw), (2, VolumeFormat::Cow)] {
                create(&a.work(), &a.request(number, number, source_format)).unwrap();
                a.write(number, number, 3, 9);
                let source = Source {
                    domain: a.domain.as_ref(),
                    image: image(number),
                    volume: volume(number),
                };
                let targets = [
                    (10, VolumeFormat::Raw, Allocation::Preallocated),
                    (20, VolumeFormat::Raw, Allocation::Sparse),
                    (30, VolumeFormat::Cow, Allocation::Sparse),
                ];
                for (base, format, allocation) in targets {
                    if to == Sort::Block
                        && (format, allocation) == (VolumeFormat::Raw, Allocation::Sparse)
                    {
                        continue;
                    }
                    let id = base + number;
                    let new = NewCopy {
                        image: image(id),
                        volume: volume(id),
                        format: Some(format),
                        allocation,
                        description: None,
                        template: false,
                        options: CopyOptions::default(),
                        again: false,
                    };
                    copy::copy_image(&b.work(), source, &new).unwrap();
                    assert_eq!(
                        b.read(id, id)[..5],
                        [0, 0, 0, 9, 0],
                        "{from:?} {to:?} {base}"
                    );
                }
            }
            b.check();
        }
    }
}

#[test]
fn failed_copy_leaves_its_target_illegal_and_unusable() {
    both(|site| {
        let work = site.work();
        create(&work, &site.request(1, 1, VolumeFormat::Cow)).unwrap();
        create(&work, &site.request(2, 2, VolumeFormat::Cow)).unwrap();
        // The source's header is garbage: qemu-img fails.
        let entry = site.domain.volume(volume(1)).unwrap();
        site.domain.activate(&[&entry]).unwrap();
        let path = site.domain.path(&entry);
        let garbage = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&garbage, &[0xff; 512], 0).unwrap();
        garbage.sync_all().unwrap();
        drop(garbage);
        let end = |of, id| Source {
            domain: site.domain.as_ref(),
            image: image(of),
            volume: volume(id),
        };
        let target = copy::Target {
            domain: site.domain.as_ref(),
            image: image(2),
            volume: volume(2),
        };
        let options = CopyOptions {
            job: Job {
                generation: Some(0),
                ..Job::default()
            },
            ..CopyOptions::default()
        };
        let run = || {
            copy::copy_data(
                &site.context,
                &site.layout,
                site.steps.as_ref(),
                end(1, 1),
                target,
                &options,
            )
        };
        assert_eq!(run().unwrap_err().kind, FailureKind::Failed);
        assert_eq!(site.legality(2), Legality::Illegal);
        let wanted = Wanted {
            image: image(2),
            leaf: None,
            allow_illegal: false,
        };
        let refused =
            prepare::prepare(site.domain.as_ref(), &site.layout, wanted, None).unwrap_err();
        assert_eq!(refused.kind, FailureKind::WrongState);
        // Still generation 0, so that the job can be tried again; then it cannot.
        create(&work, &site.request(3, 3, VolumeFormat::Cow)).unwrap();
        site.write(3, 3, 0, 5);
        copy::copy_data(
            &site.context,
            &site.layout,
            site.steps.as_ref(),
            end(3, 3),
            target,
            &options,
        )
        .unwrap();
        assert_eq!(site.read(2, 2)[0], 5);
        assert_eq!(site.legality(2), Legality::Legal);
        let again = run().unwrap_err();
        assert_eq!(again.kind, FailureKind::WrongState);
        assert_eq!(site.legality(2), Legality::Legal);
    });
}

#[test]
fn merge_keeps_what_the_guest_sees() {
    both(|site| merge_twice(&site));
}

pub(super) fn merge_twice(site: &Site) {
    for (of, base) in [(1, VolumeFormat::Raw), (2, VolumeFormat::Cow)] {
        let id = |n: u8| of * 10 + n;
        create(&site.work(), &site.request(of, id(0), base)).unwrap();
        site.write(of, id(0), 0, 1);
        snapshot(site, of, id(1), id(0));
        site.write(of, id(1), 1, 2);
        let larger = CreateVolume {
            parent: Some(volume(id(1))),
            capacity_bytes: site.capacity(id(1)) + CAPACITY,
            ..site.request(of, id(2), VolumeFormat::Cow)
        };
        create(&site.work(), &larger).unwrap();
        site.write(of, id(2), 17, 3);
        let seen = site.read(of, id(2));
        let pair = |base: u8, top: u8| Merge {
            image: image(of),
            base: volume(id(base)),
            top: volume(id(top)),
        };
        // In the middle, then the leaf.
        merge::merge(&site.work(), pair(0, 1), &Job::default(), NONE).unwrap();
        site.check();
        assert_eq!(site.read(of, id(2)), seen);
        merge::merge(&site.work(), pair(0, 2), &Job::default(), NONE).unwrap();
        site.check();
        let after = site.read(of, id(0));
        assert_eq!(after, seen, "{base:?}");
        assert_eq!(site.kind_of(id(0)), VolumeType::Leaf);
        assert_eq!(site.legality(id(0)), Legality::Legal);
    }
    assert_eq!(site.live().len(), 2);
}

#[test]
fn merge_into_a_template_or_a_stranger_is_refused() {
    both(|site| {
        let template = CreateVolume {
            template: true,
            ..site.request(1, 1, VolumeFormat::Cow)
        };
        create(&site.work(), &template).unwrap();
        snapshot(&site, 2, 2, 1);
        snapshot(&site, 2, 3, 2);
        let refused = |base, top| {
            let pair = Merge {
                image: image(2),
                base: volume(base),
                top: volume(top),
            };
            merge::merge(&site.work(), pair, &Job::default(), NONE)
                .unwrap_err()
                .kind
        };
        assert_eq!(refused(1, 2), FailureKind::WrongState);
        assert_eq!(refused(1, 3), FailureKind::WrongState);
        assert_eq!(refused(2, 9), FailureKind::NotFound);
        assert_eq!(site.live().len(), 3);
        site.check();
    });
}

#[test]
fn live_merge_is_followed_in_the_metadata() {
    both(|site| {
        create(&site.work(), &site.request(1, 1, VolumeFormat::Cow)).unwrap();
        snapshot(&site, 1, 2, 1);
        snapshot(&site, 1, 3, 2);
        let sync = |actual: &[u8]| {
            let actual: Vec<_> = actual.iter().map(|id| volume(*id)).collect();
            merge::sync_chain(
                site.domain.as_ref(),
                site.steps.as_ref(),
                image(1),
                volume(3),
                &actual,
            )
        };
        assert!(sync(&[1, 2, 3]).unwrap().is_empty());
        // About to pivot, and then it failed.
        assert_eq!(sync(&[1, 2]).unwrap().len(), 1);
        assert_eq!(site.legality(3), Legality::Illegal);
        assert_eq!(sync(&[1, 2, 3]).unwrap().len(), 1);
        assert_eq!(site.legality(3), Legality::Legal);
        // The one in the middle is gone; the manager deletes it.
        assert_eq!(sync(&[1, 3]).unwrap().len(), 1);
        assert!(sync(&[1, 3]).unwrap().is_empty());
        assert_eq!(sync(&[9]).unwrap_err().kind, FailureKind::WrongState);
        delete_volume(&site.work(), volume(2), NONE).unwrap();
        site.check();
        assert_eq!(site.kind_of(1), VolumeType::Internal);
        let entry = site.domain.volume(volume(3)).unwrap();
        if site.domain.kind().is_block() {
            assert_eq!(entry.parent_tag, Some(volume(1)));
        }
    });
}

#[test]
fn prepared_template_is_let_go_with_its_last_user() {
    let site = Site::new(Sort::Block);
    let template = CreateVolume {
        template: true,
        ..site.request(1, 1, VolumeFormat::Cow)
    };
    create(&site.work(), &template).unwrap();
    snapshot(&site, 2, 2, 1);
    snapshot(&site, 3, 3, 1);
    let domain = site.domain.as_ref();
    let prepare = |of| {
        let wanted = Wanted {
            image: image(of),
            leaf: None,
            allow_illegal: false,
        };
        prepare::prepare(domain, &site.layout, wanted, None).unwrap()
    };
    let first = prepare(2);
    assert!(!first.before);
    assert!(prepare(2).before);
    assert_eq!(first.chain.len(), 2);
    assert_eq!(first.chain[0].id, volume(1));
    assert!(first.path.ends_with(format!("{}/{}", image(2), volume(2))));
    let link = domain.root().join("images").join(image(2).to_string());
    assert_eq!(
        std::fs::read_link(&link).unwrap(),
        site.layout.prepared(domain.id()).join(image(2).to_string())
    );
    prepare(3);
    let busy = delete_image(&site.work(), image(3), NONE).unwrap_err();
    assert_eq!(busy.kind, FailureKind::InUse);
    prepare::teardown(domain, &site.layout, image(2)).unwrap();
    assert!(!link.exists());
    let users = prepare::users(domain, &site.layout, volume(1)).unwrap();
    assert_eq!(users, [image(3)]);
    let path = |id| domain.path(&domain.volume(volume(id)).unwrap());
    assert!(path(1).exists() && !path(2).exists());
    prepare::teardown(domain, &site.layout, image(3)).unwrap();
    prepare::teardown(domain, &site.layout, image(3)).unwrap();
    assert!(!path(1).exists() && !path(3).exists());
}

#[test]
fn prepare_raises_a_capacity_that_is_too_small() {
    both(|site| {
        create(&site.work(), &site.request(1, 1, VolumeFormat::Cow)).unwrap();
        let entry = site.domain.volume(volume(1)).unwrap();
        let mut metadata = site.domain.volume_metadata(&entry).unwrap();
        metadata.capacity_bytes = 4096;
        let authority = site.steps.as_ref();
        site.domain
            .write_volume_metadata(authority, &entry, &metadata)
            .unwrap();
        let wanted = Wanted {
            image: image(1),
            leaf: None,
            allow_illegal: false,
        };
        let domain = site.domain.as_ref();
        let prepared = prepare::prepare(domain, &site.layout, wanted, Some(authority)).unwrap();
        assert_eq!(prepared.chain[0].capacity_bytes, CAPACITY);
        let now = site.domain.volume_metadata(&entry).unwrap();
        assert_eq!(now.capacity_bytes, CAPACITY);
    });
}

#[test]
fn volumes_grow_for_guest_and_data_and_shrink_to_what_they_use() {
    both(|site| {
        for (id, format) in [(1, VolumeFormat::Raw), (2, VolumeFormat::Cow)] {
            create(&site.work(), &site.request(id, id, format)).unwrap();
            site.write(id, id, 0, 4);
            let capacity = resize::set_capacity(&site.work(), volume(id), CAPACITY * 3).unwrap();
            assert_eq!(capacity, CAPACITY * 3);
            resize::set_capacity(&site.work(), volume(id), CAPACITY * 3).unwrap();
            let less = resize::set_capacity(&site.work(), volume(id), CAPACITY).unwrap_err();
            assert_eq!(less.kind, FailureKind::BadRequest);
            let seen = site.read(id, id);
            assert_eq!(seen.len(), 48);
            assert_eq!(seen[..2], [4, 0]);
            // Room is absolute, and never more than the volume may need.
            let size = resize::extend(&site.work(), volume(id), 1 << 40).unwrap();
            assert!(size < 8 << 20, "{size}");
            assert_eq!(resize::extend(&site.work(), volume(id), 1).unwrap(), size);
            assert_eq!(site.read(id, id), seen);
        }
        let reduced = resize::reduce(&site.work(), volume(2)).unwrap();
        let entry = site.domain.volume(volume(2)).unwrap();
        assert_eq!(entry.size_bytes, reduced);
        assert_eq!(site.read(2, 2)[..2], [4, 0]);
    });
}

#[test]
fn ovf_store_is_not_whole_while_it_is_written() {
    both(|site| {
        let work = site.work();
        site.make_stores();
        let domain = site.domain.as_ref();
        let none = ovf_store::read_newest(&site.context, &site.layout, domain).unwrap_err();
        assert_eq!(none.kind, FailureKind::NotFound);
        let stores = ovf_store::stores(domain).unwrap();
        assert_eq!(stores.len(), 2);
        let files = |text: &str| {
            [("a.ovf".to_owned(), text.as_bytes().to_vec())]
                .into_iter()
                .collect()
        };
        let old = files("old");
        let new = files(&"new".repeat(1000));
        ovf_store::write(&work, &stores[0], &old, "Tue Sep 21 14:01:02 UTC 2021").unwrap();
        ovf_store::write(&work, &stores[1], &new, "Tue Sep 21 15:01:02 UTC 2021").unwrap();
        let read = || ovf_store::read_newest(&site.context, &site.layout, domain).unwrap();
        assert_eq!(read().1, new);
        // The archive is one to the program of that name, too.
        site.with_store(2, |bytes| {
            let path = site.folder.path().join("store.tar");
            std::fs::write(&path, bytes).unwrap();
            let list = tool("tar", &["-tf", &path.to_string_lossy()]);
            assert_eq!(list.trim(), "a.ovf");
        });
        // A crash after "not whole": the other one counts.
        site.steps.arm(1, true);
        ovf_store::write(&work, &stores[1], &old, "Tue Sep 21 16:01:02 UTC 2021").unwrap_err();
        site.steps.disarm();
        assert_eq!(read().1, old);
        let huge = files(&"x".repeat(2 << 20));
        let refused = ovf_store::write(&work, &stores[0], &huge, "").unwrap_err();
        assert_eq!(refused.kind, FailureKind::NoSpace);
        assert_eq!(read().1, old);
    });
}

#[test]
fn a_guest_s_configuration_is_kept_in_two_stores_by_turns() {
    both(|site| {
        let work = site.work();
        site.make_stores();
        let domain = site.domain.as_ref();
        let kept = || ovf_store::read_newest(&site.context, &site.layout, domain).unwrap();
        let missing = ovf_store::change(&work, "a.ovf", None, 1_000).unwrap_err();
        assert_eq!(missing.kind, FailureKind::NotFound);

        ovf_store::change(&work, "a.ovf", Some(b"one"), 1_000).unwrap();
        let (first, files) = kept();
        assert_eq!(files.get("a.ovf").map(Vec::as_slice), Some(&b"one"[..]));
        assert_eq!(ovf_store::stores(domain).unwrap().len(), 2);
        // In the same second, and with a clock set back: newer all the same.
        ovf_store::change(&work, "b.ovf", Some(b"two"), 1_000).unwrap();
        let (second, files) = kept();
        assert_ne!(first.volume, second.volume);
        assert_eq!(files.len(), 2);
        ovf_store::change(&work, "a.ovf", None, 10).unwrap();
        let (third, files) = kept();
        assert_eq!(third.volume, first.volume);
        assert_eq!(files.keys().collect::<Vec<_>>(), ["b.ovf"]);
        assert_eq!(ovf_store::stores(domain).unwrap().len(), 2);

        // A crash at any step leaves what was kept before, or the change.
        let before = kept().1;
        for step in 1..9 {
            site.steps.arm(step, true);
            let outcome = ovf_store::change(&work, "b.ovf", Some(b"three"), 2_000);
            site.steps.disarm();
            let after = kept().1;
            assert!(outcome.is_ok() || after == before, "step {step}");
            if outcome.is_ok() {
                break;
            }
        }
        assert_eq!(
            kept().1.get("b.ovf").map(Vec::as_slice),
            Some(&b"three"[..])
        );
    });
}

impl Site {
    /// Two empty OVF stores, smaller than managers make them.
    fn make_stores(&self) {
        for id in [1, 2] {
            let empty = Description {
                updated: false,
                size_bytes: 0,
                last_updated: String::new(),
                domains: vec![self.domain.id()],
            };
            let request = CreateVolume {
                allocation: Allocation::Preallocated,
                disk_type: DiskType::OvfStore,
                description: empty.emit(),
                ..self.request(id, id, VolumeFormat::Raw)
            };
            create(&self.work(), &request).unwrap();
        }
    }

    fn with_store(&self, id: u8, what: impl FnOnce(&[u8])) {
        let wanted = Wanted {
            image: image(id),
            leaf: None,
            allow_illegal: false,
        };
        let domain = self.domain.as_ref();
        let prepared = prepare::prepare(domain, &self.layout, wanted, None).unwrap();
        what(&std::fs::read(&prepared.path).unwrap());
        prepare::teardown(domain, &self.layout, image(id)).unwrap();
    }
}
