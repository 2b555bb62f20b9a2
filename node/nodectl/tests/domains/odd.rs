//! What no domain has and what a reader of one may meet: each is told, none
//! keeps it waiting, fills its memory or ends it.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use disk_format::vdsm::xlease;

use crate::common::Node;
use crate::sample::{DOMAIN, IMAGE, VOLUME};
use crate::{file_domain, findings, inspect, shown};

/// Changes a healthy file domain, which then has this finding.
#[track_caller]
fn odd(words: &str, change: impl FnOnce(&Path)) {
    let node = Node::new();
    let mount = file_domain(&node);
    let root = mount.join(DOMAIN);
    change(&root);
    let (status, found) = inspect(&node, &[&root]);
    let all = findings(&found);
    assert_eq!(status, 1, "{words}: {all:#?}");
    assert!(
        all.iter().any(|line| line.contains(words)),
        "expected {words:?}: {all:#?}"
    );
    let ran = shown(&node, &[&mount]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.out.len() < 64 << 10, "{} bytes", ran.out.len());
}

/// Puts something else in the place of a file.
fn instead(path: &Path, make: impl FnOnce(&Path)) {
    fs::remove_file(path).expect("removed");
    make(path);
}

fn directory(path: &Path) {
    fs::create_dir(path).expect("made");
}

fn fifo(path: &Path) {
    let made = Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(made.success());
}

/// A link to itself.
fn circle(path: &Path) {
    symlink(path, path).expect("linked");
}

/// Much more than anybody may read, and next to nothing on the disk.
fn endless(path: &Path) {
    let file = File::create(path).expect("made");
    file.set_len(1 << 42).expect("sized");
}

fn empty(path: &Path) {
    File::create(path).expect("made");
}

#[test]
fn special_files_that_are_something_else_are_told() {
    for (name, kind, words) in [
        (
            "metadata",
            "directory",
            "neither a block device nor a regular file",
        ),
        (
            "metadata",
            "fifo",
            "neither a block device nor a regular file",
        ),
        ("metadata", "circle", "Too many levels of symbolic links"),
        ("metadata", "empty", "error: domain metadata"),
        ("metadata", "endless", "error: domain metadata"),
        ("ids", "directory", "error: ids: cannot be read"),
        (
            "ids",
            "circle",
            "dom_md/ids: this file of the domain is missing",
        ),
        ("ids", "empty", "error: ids: no host leases there"),
        ("leases", "fifo", "error: leases: cannot be read"),
        ("leases", "empty", "error: leases"),
        ("xleases", "directory", "error: xleases: cannot be read"),
        ("xleases", "empty", "error: xleases"),
        ("inbox", "directory", "error: inbox: cannot be read"),
    ] {
        odd(words, |root| {
            let path = root.join("dom_md").join(name);
            if name == "inbox" {
                empty(&path);
            }
            instead(&path, |path| match kind {
                "directory" => directory(path),
                "fifo" => fifo(path),
                "circle" => circle(path),
                "endless" => endless(path),
                _ => empty(path),
            });
        });
    }
}

#[test]
fn images_and_volumes_that_are_something_else_are_told() {
    let image = |root: &Path| root.join("images").join(IMAGE);
    let meta = format!("{VOLUME}.meta");
    let subject = format!("error: volume {VOLUME}");
    for kind in [directory as fn(&Path), fifo, circle, empty, endless] {
        odd(&subject, |root| instead(&image(root).join(&meta), kind));
    }
    odd("its lease", |root| {
        instead(&image(root).join(format!("{VOLUME}.lease")), fifo);
    });
    let other = "00000000-9999-4222-8333-444444444444";
    for kind in [empty as fn(&Path), fifo, circle] {
        odd("cannot be listed", |root| {
            kind(&root.join("images").join(other))
        });
    }
    odd("images: cannot be listed", |root| {
        fs::remove_dir_all(root.join("images")).expect("removed");
        empty(&root.join("images"));
    });
    // A circle of links inside is one name more, not an endless tree.
    odd("belongs to no volume", |root| {
        symlink(root.join("images"), image(root).join("again")).expect("linked");
        fs::remove_file(image(root).join(format!("{VOLUME}.lease"))).expect("removed");
    });
}

#[test]
fn tasks_that_are_something_else_are_told() {
    let id = "0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8";
    let task = format!("warning: task {id}");
    let tasks = |root: &Path| {
        let tasks = root.join("master/tasks");
        fs::create_dir_all(&tasks).expect("made");
        tasks
    };
    for kind in [empty as fn(&Path), fifo, circle, directory] {
        odd(&task, |root| kind(&tasks(root).join(id)));
    }
    odd("at most 202", |root| {
        let task = tasks(root).join(id);
        directory(&task);
        for number in 0..300 {
            empty(&task.join(format!("{id}.job.{number}")));
        }
    });
    odd(&task, |root| {
        let task = tasks(root).join(id);
        directory(&task);
        endless(&task.join(format!("{id}.task")));
    });
}

#[test]
fn an_index_that_is_cut_off_or_half_written_is_told() {
    let index = xlease::Index::empty(&DOMAIN.parse().expect("an id"), 1);
    for bytes in [1, 511, 512, 513, 4096, xlease::INDEX_BYTES - 1] {
        odd("error: xleases", |root| {
            let whole = [vec![0; 1 << 20], index.bytes()[..bytes].to_vec()].concat();
            fs::write(root.join("dom_md/xleases"), whole).expect("written");
        });
    }
}
