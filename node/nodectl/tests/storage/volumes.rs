//! Long work on volumes that is cancelled or interrupted, and bitmaps.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::managed;
use super::support::{Daemon, until};

/// A RAW volume full of random bytes; its name.
fn full(daemon: &Daemon, mib: u64) -> String {
    let size = format!("{mib}M");
    let name = daemon.done(["volume", "create", "images", "--size", &size]);
    let image = name.split('/').nth(1).expect("DOMAIN/IMAGE/VOLUME");
    let prepared = daemon.json(["volume", "prepare", "images", image]);
    let path = prepared["prepared"]["path"].as_str().expect("a path");
    let file = File::options().write(true).open(path).expect("the volume");
    let mut random = File::open("/dev/urandom").expect("random bytes");
    let mut bytes = vec![0; 1 << 20];
    for at in 0..mib {
        random.read_exact(&mut bytes).expect("random bytes");
        file.write_all_at(&bytes, at << 20).expect("written");
    }
    file.sync_all().expect("on the disk");
    daemon.done(["volume", "teardown", "images", image]);
    name.trim().to_owned()
}

/// Begins a copy that takes half a minute at least; its task, once `qemu-img`
/// has told of its progress.
fn copying(daemon: &Daemon, source: &str) -> String {
    let accepted = daemon.json(["volume", "copy", source, "--rate", "1", "--no-wait"]);
    let task = accepted["accepted"]["task"].as_str().expect("a task");
    until("the copy has begun", || {
        let shown = daemon.json(["task", "show", task]);
        assert_eq!(shown["task"]["state"], "running", "{shown}");
        let copies = shown["task"]["step"] == "copy";
        (copies && shown["task"]["done"].as_u64() > Some(0)).then_some(())
    });
    task.to_owned()
}

fn names(daemon: &Daemon) -> Vec<String> {
    let volumes = daemon.json(["volume", "list", "images"]);
    let volumes = volumes["volumes"].as_array().expect("volumes");
    volumes
        .iter()
        .map(|volume| volume["volume"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn a_copy_that_is_cancelled_leaves_nothing_behind() {
    let (daemon, _) = managed();
    let source = full(&daemon, 32);
    let task = copying(&daemon, &source);
    assert_eq!(names(&daemon).len(), 2, "the source, and what is copied");
    daemon.done(["task", "cancel", &task]);
    let watched = daemon.run(["task", "watch", &task]);
    assert_eq!(watched.status, 1, "{watched:?}");
    let shown = daemon.json(["task", "show", &task]);
    assert_eq!(shown["task"]["state"], "cancelled", "{shown}");
    let left = names(&daemon);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(source.ends_with(&left[0]));
    // Neither is prepared any more, and nobody holds anything: it can be deleted.
    daemon.done(["volume", "copy", &source]);
    daemon.done(["volume", "delete", &source]);
}

#[test]
fn a_copy_at_the_daemons_end_is_taken_back_and_says_so() {
    let (mut daemon, _) = managed();
    let source = full(&daemon, 32);
    let task = copying(&daemon, &source);
    daemon.restart();
    let shown = daemon.json(["task", "show", &task]);
    assert_eq!(shown["task"]["state"], "interrupted", "{shown}");
    let words = shown["task"]["failure"]["message"].as_str().expect("words");
    assert!(words.contains("then copy again"), "{words}");
    until("the manager's role is taken again", || {
        let spm = daemon.json(["spm", "status"]);
        (spm["spm"]["state"] == "here").then_some(())
    });
    assert_eq!(names(&daemon).len(), 1, "the copy was taken back");
    daemon.done(["volume", "copy", &source]);
}

#[test]
fn a_copy_lost_in_a_crash_is_taken_back_by_the_next_manager() {
    let (mut daemon, _) = managed();
    let source = full(&daemon, 32);
    let task = copying(&daemon, &source);
    daemon.crash_and_restart();
    let shown = daemon.json(["task", "show", &task]);
    assert_eq!(shown["task"]["state"], "interrupted", "{shown}");
    let words = shown["task"]["failure"]["message"].as_str().expect("words");
    assert!(
        words.contains("the pool's next manager removes it"),
        "{words}"
    );
    until("the manager's role is taken again", || {
        let spm = daemon.json(["spm", "status"]);
        (spm["spm"]["state"] == "here").then_some(())
    });
    let recovery = until("what was left is put in order", || {
        let tasks = daemon.json(["task", "list"]);
        let tasks = tasks["tasks"].as_array().expect("tasks").clone();
        let mut recoveries = tasks
            .into_iter()
            .filter(|task| task["what"] == "finish what the manager before left");
        recoveries.find(|task| task["state"] != "recovering")
    });
    assert_eq!(recovery["state"], "done", "{recovery}");
    assert_eq!(recovery["done"], recovery["total"], "{recovery}");
    assert_eq!(names(&daemon).len(), 1, "the source is left");
    // Nobody has to let go of anything, or to delete: neither is prepared.
    daemon.done(["volume", "copy", &source]);
    daemon.done(["volume", "delete", &source]);
    let listed = daemon.done(["task", "list"]);
    assert!(!listed.contains(" 0 %"), "{listed}");
}

#[test]
fn bitmaps_are_made_listed_copied_and_removed() {
    let (daemon, _) = managed();
    let made = daemon.done([
        "volume", "create", "images", "--size", "64M", "--format", "cow",
    ]);
    let volume = made.trim();
    let list = |volume: &str| {
        let answer = daemon.json(["volume", "bitmap", "list", volume]);
        let bitmaps = answer["bitmaps"].as_array().expect("bitmaps").clone();
        let told = bitmaps.iter().map(|bitmap| {
            let name = bitmap["name"].as_str().expect("a name");
            format!(
                "{name} {} {}",
                bitmap["granularity_bytes"], bitmap["enabled"]
            )
        });
        told.collect::<Vec<String>>()
    };
    assert_eq!(
        daemon.done(["volume", "bitmap", "list", volume]),
        "no bitmaps\n"
    );
    daemon.done(["volume", "bitmap", "add", volume, "monday"]);
    let fine = ["--granularity", "512", "--disabled"];
    daemon.done(
        ["volume", "bitmap", "add", volume, "tuesday"]
            .iter()
            .chain(&fine),
    );
    assert_eq!(list(volume), ["monday 65536 true", "tuesday 512 false"]);
    let twice = daemon.run(["volume", "bitmap", "add", volume, "monday"]);
    assert!(
        twice.err.contains("has a bitmap \"monday\" already"),
        "{twice:?}"
    );
    let odd = daemon.run([
        "volume",
        "bitmap",
        "add",
        volume,
        "x",
        "--granularity",
        "1000",
    ]);
    assert!(
        odd.err.contains("must be a power of two from 512"),
        "{odd:?}"
    );
    // Each is a change that a manager can find again by the generation.
    let shown = daemon.json(["volume", "show", volume]);
    assert_eq!(shown["volume"]["generation"], 2, "{shown}");
    assert_eq!(shown["volume"]["legality"], "legal", "{shown}");

    let copied = daemon.done(["volume", "copy", volume, "--bitmaps"]);
    assert_eq!(
        list(copied.trim()),
        ["monday 65536 true", "tuesday 512 false"]
    );
    let plain = daemon.done(["volume", "copy", volume]);
    assert!(list(plain.trim()).is_empty());
    let raw = daemon.run(["volume", "copy", volume, "--bitmaps", "--format", "raw"]);
    assert!(
        raw.err.contains("bitmaps are kept in QCOW2 volumes"),
        "{raw:?}"
    );

    daemon.done(["volume", "bitmap", "remove", volume, "tuesday"]);
    let gone = daemon.run(["volume", "bitmap", "remove", volume, "tuesday"]);
    assert!(gone.err.contains("has no bitmap \"tuesday\""), "{gone:?}");
    daemon.done(["volume", "bitmap", "clear", volume]);
    assert!(list(volume).is_empty());
    let made = daemon.done(["volume", "create", "images", "--size", "1M"]);
    let raw = daemon.run(["volume", "bitmap", "add", made.trim(), "monday"]);
    assert!(raw.err.contains("only QCOW2 has"), "{raw:?}");
}

#[test]
fn guests_nobody_watches_and_volumes_of_files_are_told_apart() {
    let (daemon, _) = managed();
    let made = daemon.done([
        "volume", "create", "images", "--size", "1M", "--format", "cow",
    ]);
    let drive = format!("disk={}", made.trim());
    let files = daemon.run(["volume", "watch", "/run/vm.qmp", "--drive", &drive]);
    assert!(files.err.contains("which grow by themselves"), "{files:?}");
    for change in ["hold", "release", "stayed", "migrating"] {
        let told = daemon.run(["volume", "guest", change, "/run/vm.qmp"]);
        assert_eq!(told.status, 1);
        assert!(told.err.contains("/run/vm.qmp: not watched"), "{told:?}");
    }
}
