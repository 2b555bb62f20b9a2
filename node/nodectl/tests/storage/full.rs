//! A file system without room: nothing half-written stays, and what is deleted
//! makes room again.

use std::io::Write;
use std::path::Path;

use super::moving::Disk;
use super::support::Daemon;

/// Fills a file system as those do who own the domain's files.
fn fill(folder: &Path) {
    let mut file = std::fs::File::create(folder.join("fill")).expect("a file");
    for bytes in [1 << 20, 4096, 512] {
        let block = vec![1; bytes];
        while file
            .write_all(&block)
            .and_then(|()| file.sync_data())
            .is_ok()
        {}
    }
}

/// Everything below `folder` that a write which did not end leaves.
fn unfinished(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "new") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn a_full_file_system_keeps_what_it_has_and_can_be_emptied() {
    let mut disk = Disk::make(96);
    let daemon = Daemon::start();
    let folder = daemon.folder("full");
    disk.mount(&folder);
    let path = folder.to_str().expect("text");
    daemon.done(["storage", "connect", "local", path]);
    let connection = format!("local:{path}");
    daemon.done(["domain", "create", "images", "--connection", &connection]);
    let pool = daemon.json(["pool", "create", "main", "images"]);
    let pool = pool["pool"]["id"].as_str().expect("an id").to_owned();
    daemon.done(["pool", "connect", &pool, "--host-id", "1"]);
    daemon.done(["spm", "start"]);
    let create = [
        "volume", "create", "images", "--size", "4M", "--format", "cow",
    ];
    let volume = daemon.done(create);
    let volume = volume.trim();
    let image = volume.split('/').nth(1).expect("an image");
    let before = daemon.json(["volume", "list", "images"]);

    fill(&folder);
    for words in [
        &["volume", "set", volume, "--description", "more"][..],
        &["volume", "set", volume, "--legality", "illegal"],
        &["volume", "extend", volume, "--size", "8M"],
        &["volume", "snapshot", "images", image],
        &["volume", "copy", volume],
        &["volume", "create", "images", "--size", "1M"],
        &[
            "volume",
            "create",
            "images",
            "--size",
            "1M",
            "--preallocated",
        ],
    ] {
        let ran = daemon.run(words);
        assert_eq!(ran.status, 1, "{words:?}: {ran:?}");
        assert!(ran.err.contains("No space left"), "{words:?}: {ran:?}");
        assert_eq!(
            unfinished(&folder),
            Vec::<std::path::PathBuf>::new(),
            "{words:?}"
        );
        let after = daemon.json(["volume", "list", "images"]);
        assert_eq!(after["volumes"], before["volumes"], "{words:?}");
    }
    // Nothing but deleting makes room, so it must need none.
    daemon.done(["volume", "delete", volume]);
    let list = daemon.json(["volume", "list", "images"]);
    assert_eq!(list["volumes"], serde_json::json!([]));
    let seen = daemon.run(["inspect", path]);
    assert_eq!(seen.status, 0, "{seen:?}");

    std::fs::remove_file(folder.join("fill")).expect("removed");
    // A copy with all its room has it on the disk, too.
    let source = daemon.done(["volume", "create", "images", "--size", "4M"]);
    let words = ["--format", "cow", "--preallocated"];
    let copy = daemon.done(["volume", "copy", source.trim()].iter().chain(&words));
    let copy = daemon.json(["volume", "show", copy.trim()]);
    let taken = copy["volume"]["size_bytes"].as_u64();
    assert!(taken >= Some(4 << 20), "{copy}");

    drop(daemon);
    disk.unmount();
}
