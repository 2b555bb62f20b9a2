//! File domains.

use std::collections::BTreeMap;

use disk_format::vdsm::check::{self, FileFacts, FileVolume};
use disk_format::vdsm::domain::{Backing, NewDomain};
use disk_format::vdsm::{
    DomainClass, DomainMetadata, DomainType, DomainVersion, SlotFormat, SpecialLv, VolumeId,
    VolumeMetadata, VolumeType,
};

use crate::sample::*;
use disk_format::vdsm::check::Grade::{Error, Note, Warning};

fn file_domain() -> FileFacts {
    let metadata = DomainMetadata::new(&NewDomain {
        id: domain(),
        version: DomainVersion::V5,
        kind: DomainType::Nfs,
        class: DomainClass::Data,
        description: "sample".to_owned(),
        backing: Backing::File {
            remote_path: "server:/export".to_owned(),
        },
        block_bytes: 512,
        alignment_bytes: 1 << 20,
    })
    .unwrap();
    let file = |metadata: &VolumeMetadata| FileVolume {
        size_bytes: Some(1 << 20),
        meta: Some(Ok(metadata.encode_meta(SlotFormat::V5).unwrap())),
        lease: true,
    };
    let template = VolumeMetadata {
        volume_type: VolumeType::Shared,
        ..volume_metadata(1, VolumeId::BLANK)
    };
    let child = VolumeMetadata {
        image: image(2),
        ..volume_metadata(2, volume(1))
    };
    FileFacts {
        name: domain().to_string(),
        metadata: Some(Ok(metadata.to_lines())),
        special: [SpecialLv::Ids, SpecialLv::Leases, SpecialLv::Xleases]
            .map(|special| (special, 1 << 20))
            .into(),
        // The template is linked into the child's directory.
        images: BTreeMap::from([
            (image(1), BTreeMap::from([(volume(1), file(&template))])),
            (
                image(2),
                BTreeMap::from([(volume(1), file(&template)), (volume(2), file(&child))]),
            ),
        ]),
        ..FileFacts::default()
    }
}

#[test]
fn a_healthy_file_domain_has_no_findings_and_counts_a_template_once() {
    let report = check::file(&file_domain());
    assert_eq!(report.findings, []);
    assert_eq!(report.volumes.len(), 2);
}

#[test]
fn what_is_wrong_with_a_file_domain_is_told() {
    let change = |change: fn(&mut FileFacts)| {
        let mut facts = file_domain();
        change(&mut facts);
        check::file(&facts)
    };
    only(
        &change(|facts| facts.metadata = None),
        Error,
        "there is no dom_md/metadata",
    );
    only(
        &change(|facts| facts.metadata = Some(Err("stale file handle".to_owned()))),
        Error,
        "stale file handle",
    );
    has(
        &change(|facts| {
            if let Some(Ok(bytes)) = &mut facts.metadata {
                bytes[8] ^= 1;
            }
        }),
        "domain metadata: checksum",
    );
    only(
        &change(|facts| {
            facts.special.remove(&SpecialLv::Xleases);
        }),
        Error,
        "dom_md/xleases: this file of the domain is missing",
    );
    only(
        &change(|facts| facts.other_directories.push("_remove_me_x".to_owned())),
        Warning,
        "being deleted, and still there",
    );
    only(
        &change(|facts| facts.other_files.push("a/b.meta.new".to_owned())),
        Note,
        "belongs to no volume",
    );
    only(
        &change(|facts| {
            let volume = facts.images.get_mut(&image(2)).unwrap().get_mut(&volume(2));
            volume.unwrap().meta = None;
        }),
        Error,
        "there are data in image 02020202",
    );
    only(
        &change(|facts| {
            let volume = facts.images.get_mut(&image(2)).unwrap().get_mut(&volume(2));
            volume.unwrap().size_bytes = None;
        }),
        Error,
        "and no data",
    );
    only(
        &change(|facts| {
            let volume = facts.images.get_mut(&image(2)).unwrap().get_mut(&volume(2));
            volume.unwrap().lease = false;
        }),
        Warning,
        "it has no lease file",
    );
    only(
        &change(|facts| {
            facts.images.remove(&image(1));
        }),
        Error,
        "its own image is not here",
    );
}

#[test]
fn a_local_domain_needs_no_leases() {
    let mut facts = file_domain();
    if let Some(Ok(bytes)) = &mut facts.metadata {
        let text = String::from_utf8(std::mem::take(bytes)).unwrap();
        // A missing checksum is accepted.
        let lines = text.lines().filter(|line| !line.starts_with("_SHA"));
        let text: Vec<&str> = lines.collect();
        *bytes = text
            .join("\n")
            .replace("TYPE=NFS", "TYPE=LOCALFS")
            .into_bytes();
    }
    facts.special.remove(&SpecialLv::Xleases);
    for volume in facts.images.values_mut().flat_map(BTreeMap::values_mut) {
        volume.lease = false;
    }
    facts.areas.ids = Some(Ok(vec![]));
    facts.areas.sdm = Some(Ok(vec![]));
    assert_eq!(check::file(&facts).findings, []);
}
