//! Bitmaps, with the real `qemu-img`.

use control::storage::FailureKind;
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{Legality, VolumeFormat};

use super::site::{Site, both, image, volume};
use crate::image::bitmap::{self, Bitmap, Change};
use crate::image::create::{CreateVolume, create};
use crate::image::merge::{self, Merge};
use crate::image::operation::Job;
use crate::image::wipe::Disposal;

fn change(site: &Site, id: u8, what: &Change) -> crate::job::Result<()> {
    bitmap::change(
        &site.context,
        &site.layout,
        site.domain.as_ref(),
        site.steps.as_ref(),
        (image(1), volume(id)),
        &Job::default(),
        what,
    )
}

fn add(site: &Site, id: u8, name: &str) {
    let what = Change::Add {
        name: name.to_owned(),
        granularity_bytes: Some(65_536),
        enabled: true,
    };
    change(site, id, &what).unwrap();
}

fn list(site: &Site, id: u8) -> Vec<Bitmap> {
    let domain = site.domain.as_ref();
    bitmap::list(&site.context, &site.layout, domain, image(1), volume(id)).unwrap()
}

fn names(site: &Site, id: u8) -> Vec<String> {
    let mut names: Vec<String> = list(site, id).into_iter().map(|b| b.name).collect();
    names.sort_unstable();
    names
}

/// A base and a top.
fn chain(site: &Site) {
    create(&site.work(), &site.request(1, 1, VolumeFormat::Cow)).unwrap();
    let top = CreateVolume {
        parent: Some(volume(1)),
        capacity_bytes: 0,
        ..site.request(1, 2, VolumeFormat::Cow)
    };
    create(&site.work(), &top).unwrap();
}

#[test]
fn bitmaps_of_the_top_are_in_the_base_after_a_merge() {
    both(|site| {
        create(&site.work(), &site.request(1, 1, VolumeFormat::Cow)).unwrap();
        add(&site, 1, "old");
        add(&site, 1, "both");
        let top = CreateVolume {
            parent: Some(volume(1)),
            capacity_bytes: 0,
            ..site.request(1, 2, VolumeFormat::Cow)
        };
        create(&site.work(), &top).unwrap();
        add(&site, 2, "both");
        add(&site, 2, "new");
        site.write(1, 2, 1, 7);
        let pair = Merge {
            image: image(1),
            base: volume(1),
            top: volume(2),
        };
        merge::merge(&site.work(), pair, &Job::default(), Disposal::default()).unwrap();
        assert_eq!(names(&site, 1), ["both", "new", "old"]);
        for found in list(&site, 1) {
            assert!(found.enabled && !found.broken, "{found:?}");
            assert_eq!(found.granularity_bytes, 65_536);
        }
        assert_eq!(site.read(1, 1)[..2], [0, 7]);
        site.check();
    });
}

#[test]
fn a_change_of_bitmaps_leaves_the_volume_legal_whatever_comes_of_it() {
    both(|site| {
        chain(&site);
        add(&site, 2, "monday");
        let again = Change::Add {
            name: "monday".into(),
            granularity_bytes: None,
            enabled: true,
        };
        assert_eq!(
            change(&site, 2, &again).unwrap_err().kind,
            FailureKind::Exists
        );
        let gone = Change::Remove {
            name: "tuesday".into(),
        };
        assert_eq!(
            change(&site, 2, &gone).unwrap_err().kind,
            FailureKind::NotFound
        );
        let entry = site.domain.volume(volume(2)).unwrap();
        let metadata = site.domain.volume_metadata(&entry).unwrap();
        assert_eq!(metadata.legality, Legality::Legal);
        assert_eq!(metadata.generation, 1, "one change succeeded");
        change(&site, 2, &Change::Clear).unwrap();
        assert!(list(&site, 2).is_empty());
        // Also in the middle of a chain, for an older backup.
        add(&site, 1, "sunday");
        assert_eq!(names(&site, 1), ["sunday"]);
        site.check();
    });
}

#[test]
fn what_has_no_place_for_bitmaps_is_refused_with_the_reason() {
    let what = Change::Clear;
    let old = Site::file(DomainVersion::V3);
    create(&old.work(), &old.request(1, 1, VolumeFormat::Cow)).unwrap();
    let failure = change(&old, 1, &what).unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadRequest);
    assert!(failure.message.contains("version 4"), "{failure}");
    both(|site| {
        create(&site.work(), &site.request(1, 1, VolumeFormat::Raw)).unwrap();
        let failure = change(&site, 1, &what).unwrap_err();
        assert!(failure.message.contains("only QCOW2 has"), "{failure}");
        let domain = site.domain.as_ref();
        let none = bitmap::list(&site.context, &site.layout, domain, image(1), volume(1));
        assert!(none.unwrap().is_empty());
    });
}
