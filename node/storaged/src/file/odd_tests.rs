//! What is in the place of images and volumes and is none: passed over, and what
//! it leads to is never written or removed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use control::storage::FailureKind;
use disk_format::vdsm::domain::{DomainClass, DomainType};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;

use super::{FileDomain, NewFileDomain};
use crate::authority::Unattached;
use crate::domain::{Domain, EntryState, VolumeEntry};
use crate::image::leases::NoLeases;
use crate::job::Context;

const ID: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";
const IMAGE: &str = "6b055e16-337d-4cbe-9af9-d75f00f910c1";
const VOLUME: &str = "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f";

fn domain(folder: &Path) -> FileDomain {
    let new = NewFileDomain {
        id: ID.parse().unwrap(),
        version: DomainVersion::V5,
        kind: DomainType::LocalFs,
        class: DomainClass::Data,
        description: "odd".to_owned(),
        remote_path: "/odd".to_owned(),
        block_size: None,
        hosts_max: 250,
    };
    FileDomain::create(&Context::quiet(), folder, &new, &NoLeases).unwrap()
}

fn authority() -> Unattached {
    Unattached {
        domain: ID.to_owned(),
    }
}

fn image() -> ImageId {
    IMAGE.parse().unwrap()
}

fn volume() -> VolumeId {
    VOLUME.parse().unwrap()
}

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// Somebody's files, named as a volume's are.
fn others(folder: &Path) -> [PathBuf; 2] {
    fs::create_dir(folder).unwrap();
    [VOLUME.to_owned(), format!("{VOLUME}.meta")].map(|name| {
        let path = folder.join(name);
        fs::write(&path, b"precious").unwrap();
        path
    })
}

#[test]
fn an_image_that_leads_elsewhere_is_none_and_what_is_there_stays() {
    let dir = tempfile::tempdir().unwrap();
    let domain = domain(dir.path());
    let elsewhere = dir.path().join("elsewhere");
    let files = others(&elsewhere);
    let link = domain.root().join("images").join(IMAGE);
    symlink(&elsewhere, &link).unwrap();

    assert_eq!(domain.volumes().unwrap(), []);
    let missing = domain.volume(volume()).unwrap_err();
    assert_eq!(missing.kind, FailureKind::NotFound);
    let authority = authority();
    domain.make_image(&authority, image()).unwrap_err();
    let marked = domain.mark_image_removed(&authority, image(), false);
    assert_eq!(marked.unwrap(), []);
    // One that somebody marked by hand goes as a link.
    let removed = format!("_remove_me_{IMAGE}");
    fs::rename(&link, domain.root().join("images").join(removed)).unwrap();
    domain.sweep(&authority).unwrap();
    for file in files {
        assert_eq!(fs::read(&file).unwrap(), b"precious", "{}", file.display());
    }
}

#[test]
fn other_kinds_of_files_neither_hide_the_rest_nor_keep_anybody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let domain = domain(dir.path());
    let images = domain.root().join("images");
    fs::write(images.join("00000000-1111-4222-8333-444444444444"), []).unwrap();
    fifo(&images.join("00000000-2222-4222-8333-444444444444"));
    let own = images.join(IMAGE);
    fs::create_dir(&own).unwrap();
    fs::write(own.join(VOLUME), b"data").unwrap();
    fifo(&own.join(format!("{VOLUME}.meta")));
    let found: Vec<VolumeId> = domain
        .volumes()
        .unwrap()
        .iter()
        .map(|entry| entry.id)
        .collect();
    assert_eq!(found, [volume()]);
    let entry = VolumeEntry {
        id: volume(),
        image: image(),
        parent_tag: None,
        slot: None,
        size_bytes: 4,
        allocated_bytes: 4,
        state: EntryState::Live,
        shared_with: Vec::new(),
    };
    let failure = domain.volume_metadata(&entry).unwrap_err();
    assert!(failure.message.contains("not a regular file"), "{failure}");
}
