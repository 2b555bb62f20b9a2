//! `inspect` on storage domains: of samples, of damaged copies of them, and of
//! what the real LVM makes. Nothing it reads is ever changed.

#[path = "domains/block.rs"]
mod block;
#[expect(dead_code, reason = "each test program uses a part of it")]
mod common;
#[path = "domains/odd.rs"]
mod odd;
#[path = "domains/sample.rs"]
mod sample;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Node, Ran};
use control::storage::inspection::DomainInspection;
use disk_format::vdsm::domain::{Backing, NewDomain};
use disk_format::vdsm::{
    DomainClass, DomainMetadata, DomainType, DomainVersion, SlotFormat, VolumeId, VolumeMetadata,
    VolumeType, xlease,
};
use sample::{DOMAIN, IMAGE, VOLUME, golden, lease, leases, text, volume};

/// Runs `inspect --json`.
fn inspect(node: &Node, paths: &[&Path]) -> (i32, Vec<DomainInspection>) {
    let words = paths.iter().map(|path| text(path));
    let ran = node.run(["inspect", "--json"].into_iter().chain(words));
    assert_ne!(ran.status, 2, "{}", ran.err);
    (ran.status, serde_json::from_str(&ran.out).expect("JSON"))
}

/// Runs `inspect` for people.
fn shown(node: &Node, paths: &[&Path]) -> Ran {
    node.run(
        ["inspect"]
            .into_iter()
            .chain(paths.iter().map(|path| text(path))),
    )
}

/// The findings, each as one line.
fn findings(found: &[DomainInspection]) -> Vec<String> {
    found
        .iter()
        .flat_map(|domain| &domain.findings)
        .map(|finding| {
            format!(
                "{}: {}: {}",
                finding.grade, finding.subject, finding.message
            )
        })
        .collect()
}

#[track_caller]
fn has(found: &[DomainInspection], words: &str) {
    let all = findings(found);
    assert!(
        all.iter().any(|line| line.contains(words)),
        "expected {words:?}: {all:#?}"
    );
}

/// A file domain with a template and a volume on top of it.
fn file_domain(node: &Node) -> PathBuf {
    let mount = node.path("server:_export");
    let root = mount.join(DOMAIN);
    let make = |inside: &str| {
        let path = root.join(inside);
        fs::create_dir_all(&path).expect("made");
        path
    };
    let metadata = DomainMetadata::new(&NewDomain {
        id: DOMAIN.parse().expect("an id"),
        version: DomainVersion::V5,
        kind: DomainType::Nfs,
        class: DomainClass::Data,
        description: "data one".to_owned(),
        backing: Backing::File {
            remote_path: "server:/export".to_owned(),
        },
        block_bytes: 512,
        alignment_bytes: 1 << 20,
    })
    .expect("metadata");
    let about = make("dom_md");
    fs::write(about.join("metadata"), metadata.to_lines()).expect("written");
    let (ids, sdm) = leases();
    fs::write(about.join("ids"), ids).expect("written");
    fs::write(about.join("leases"), [vec![0; 1 << 20], sdm].concat()).expect("written");
    let index = xlease::Index::empty(&DOMAIN.parse().expect("an id"), 1);
    let xleases = [vec![0; 1 << 20], index.bytes().to_vec()].concat();
    fs::write(about.join("xleases"), xleases).expect("written");
    let image = make(&format!("images/{IMAGE}"));
    let add = |id: &str, metadata: &VolumeMetadata| {
        fs::write(image.join(id), [0; 4096]).expect("written");
        let meta = metadata.encode_meta(SlotFormat::V5).expect("metadata");
        fs::write(image.join(format!("{id}.meta")), meta).expect("written");
        fs::write(image.join(format!("{id}.lease")), lease(id)).expect("written");
    };
    let base = "00000000-1111-4222-8333-444444444444";
    let parent: VolumeId = base.parse().expect("an id");
    let below = VolumeMetadata {
        volume_type: VolumeType::Internal,
        ..volume(VolumeId::BLANK)
    };
    add(base, &below);
    add(VOLUME, &volume(parent));
    mount
}

#[test]
fn a_healthy_file_domain_is_shown_by_its_mount_and_by_its_directory() {
    let node = Node::new();
    let mount = file_domain(&node);
    let (status, found) = inspect(&node, &[&mount]);
    assert_eq!((status, findings(&found)), (0, vec![]));
    let (status, same) = inspect(&node, &[&mount.join(DOMAIN)]);
    assert_eq!((status, &same), (0, &found));
    let [domain] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(
        (domain.kind.as_str(), domain.state.as_str()),
        ("file", "ready")
    );
    assert_eq!(domain.volumes.len(), 2);
    let ran = shown(&node, &[&mount]);
    assert_eq!(ran.status, 0, "{}", ran.err);
    for words in [
        "data one",
        "version 5, data on NFS, regular",
        VOLUME,
        "findings    none",
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let said: Vec<&str> = ran.out.split_whitespace().collect();
        assert!(
            said.windows(words.len()).any(|part| part == words),
            "{words:?}: {}",
            ran.out
        );
    }
}

#[test]
fn damage_to_a_file_domain_is_told_and_nothing_is_repaired() {
    let node = Node::new();
    let mount = file_domain(&node);
    let root = mount.join(DOMAIN);
    let image = root.join("images").join(IMAGE);
    fs::create_dir(root.join("images/_remove_me_x")).expect("made");
    fs::write(image.join("stray.tmp"), []).expect("written");
    fs::remove_file(image.join(format!("{VOLUME}.lease"))).expect("removed");
    let (status, found) = inspect(&node, &[&root]);
    assert_eq!(status, 1);
    has(&found, "warning: images/_remove_me_x: being deleted");
    has(&found, "stray.tmp: belongs to no volume");
    has(&found, "it has no lease file");

    let meta = image.join(format!("{VOLUME}.meta"));
    fs::write(&meta, b"CAP=1\nEOF\n").expect("written");
    let about = root.join("dom_md/metadata");
    let damaged = String::from_utf8(fs::read(&about).expect("read"))
        .expect("text")
        .replace("ROLE=Regular", "ROLE=Master");
    fs::write(&about, &damaged).expect("written");
    fs::remove_file(root.join("dom_md/ids")).expect("removed");
    let (status, found) = inspect(&node, &[&root]);
    assert_eq!(status, 1);
    has(&found, "error: domain metadata: checksum");
    has(
        &found,
        &format!("error: volume {VOLUME}: volume metadata: key DOMAIN is missing"),
    );
    assert_eq!(fs::read(&about).expect("read"), damaged.into_bytes());
    let ran = shown(&node, &[&root]);
    assert_eq!(ran.status, 1);
    let said: Vec<&str> = ran.out.split_whitespace().collect();
    let said = said.join(" ");
    assert!(said.contains("changed by hand or damaged"), "{said}");
}

#[test]
fn tasks_that_are_not_over_are_listed_and_broken_ones_told() {
    let node = Node::new();
    let mount = file_domain(&node);
    let id = "0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8";
    let tasks = mount.join(DOMAIN).join("master/tasks");
    // Its writer died after it had moved the old directory away.
    let directory = tasks.join(format!("{id}.temp"));
    fs::create_dir_all(&directory).expect("made");
    for part in ["task", "job.0", "recover.0", "recover.1"] {
        let name = format!("{id}.{part}");
        fs::write(
            directory.join(&name),
            golden(&format!("vdsm-tasks/{id}/{name}")),
        )
        .expect("written");
    }
    let (status, found) = inspect(&node, &[&mount]);
    assert_eq!((status, findings(&found)), (0, vec![]));
    assert_eq!(found[0].tasks[0].name, "createVolume");
    assert_eq!(found[0].tasks[0].state, "preparing");
    fs::remove_file(directory.join(format!("{id}.recover.1"))).expect("removed");
    let (status, found) = inspect(&node, &[&mount]);
    assert_eq!(status, 1);
    has(&found, &format!("file {id}.recover.1 is missing"));
}

#[test]
fn a_directory_that_is_no_domain_is_refused() {
    let node = Node::new();
    fs::create_dir(node.path("empty")).expect("made");
    let ran = shown(&node, &[&node.path("empty")]);
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("no storage domain"), "{}", ran.err);
}
