//! A task survives a crash after every single change of the directory.

use std::collections::BTreeSet;
use std::path::Path;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::task::{Recovery, Task, TaskState};
use disk_format::vdsm::uuid::TaskId;

use super::{Recovered, Store, recover};
use crate::authority::{Authority, Unattached};
use crate::job::Context;

fn master() -> Unattached {
    Unattached {
        domain: "master".to_owned(),
    }
}

fn id(byte: u8) -> TaskId {
    TaskId::from_random([byte; 16])
}

fn step(name: &str) -> Recovery {
    Recovery {
        name: name.to_owned(),
        module_name: "image".to_owned(),
        object: "Image".to_owned(),
        function: "undo".to_owned(),
        params: vec!["one".to_owned(), "two".to_owned()],
    }
}

fn store(dir: &Path) -> Store {
    Store::new(dir, "master")
}

fn only(store: &Store) -> Task {
    let mut loaded = store.load().expect("loads");
    assert_eq!(loaded.len(), 1);
    loaded
        .pop_first()
        .expect("one")
        .1
        .expect("a task that makes sense")
}

#[test]
fn a_finished_task_keeps_its_result() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, master) = (store(dir.path()), master());
    let task = store
        .begin(
            &master,
            id(1),
            "createVolume",
            "make a volume\nof two lines",
            vec![step("remove it")],
        )
        .expect("begun");
    assert_eq!(only(&store).recoveries.len(), 1);
    task.finish(&Ok("volume = x".to_owned())).expect("finished");
    let found = only(&store);
    assert_eq!(found.state, TaskState::Finished);
    let outcome = found.outcome.expect("a result");
    assert_eq!((outcome.code, outcome.result.as_str()), (0, "volume = x"));
    let names: BTreeSet<_> = std::fs::read_dir(dir.path())
        .expect("listed")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    store.remove(&master, id(1)).expect("removed");
    assert!(store.load().expect("loads").is_empty());
}

#[test]
fn what_was_not_finished_is_undone_last_step_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, master) = (store(dir.path()), master());
    let undo = ["first", "second", "third"].map(step).to_vec();
    store
        .begin(&master, id(2), "copyImage", "copy", undo)
        .expect("begun");
    store
        .begin(&master, id(3), "other", "other", Vec::new())
        .expect("begun")
        .finish(&Ok(String::new()))
        .expect("finished");

    // The second manager dies after one step; the third goes on.
    let mut undone = Vec::new();
    let mut dies = |_: &Task, step: &Recovery| {
        if undone.len() == 1 {
            return Err(Failure::new(FailureKind::Io, "dies here"));
        }
        undone.push(step.name.clone());
        Ok(())
    };
    let first = recover(&Context::quiet(), &store, &master, &mut dies).expect("recovers");
    assert!(matches!(first[0], Recovered::Failed(found, _) if found == id(2)));
    assert!(matches!(&first[1], Recovered::Kept(kept) if kept.id == id(3)));
    assert_eq!(undone, ["third"]);
    // The storage may be back by then: nothing is given up for good.
    let mut undo = |_: &Task, step: &Recovery| {
        undone.push(step.name.clone());
        Ok(())
    };
    let then = recover(&Context::quiet(), &store, &master, &mut undo).expect("recovers");
    assert_eq!(then[0], Recovered::Undone(id(2)));
    assert_eq!(undone, ["third", "second", "first"]);
}

#[test]
fn a_step_that_makes_no_sense_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, master) = (store(dir.path()), master());
    let undo = vec![step("odd")];
    store.begin(&master, id(7), "a", "a", undo).expect("begun");
    let mut odd = |_: &Task, _: &Recovery| Err(Failure::new(FailureKind::Damaged, "what?"));
    let found = recover(&Context::quiet(), &store, &master, &mut odd).expect("recovers");
    assert!(matches!(&found[..], [Recovered::Failed(one, _)] if *one == id(7)));
    assert_eq!(only(&store).state, TaskState::Failed);
}

#[test]
fn a_crash_in_recovery_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, master) = (store(dir.path()), master());
    let undo = ["first", "second"].map(step).to_vec();
    store.begin(&master, id(4), "a", "a", undo).expect("begun");
    let mut seen = Vec::new();
    let lost = std::cell::Cell::new(false);
    let crash = Crash(&lost);
    // The lease is lost after the first step: the next save fails.
    let mut undo = |_: &Task, step: &Recovery| {
        seen.push(step.name.clone());
        lost.set(true);
        Ok(())
    };
    recover(&Context::quiet(), &store, &crash, &mut undo).expect_err("no authority");
    let mut undo = |_: &Task, step: &Recovery| {
        seen.push(step.name.clone());
        Ok(())
    };
    let done = recover(&Context::quiet(), &store, &master, &mut undo).expect("recovers");
    assert_eq!(done, [Recovered::Undone(id(4))]);
    // A step may be done twice, none is left out.
    assert_eq!(seen, ["second", "second", "first"]);
    assert_eq!(only(&store).state, TaskState::Recovered);
}

struct Crash<'a>(&'a std::cell::Cell<bool>);

impl Authority for Crash<'_> {
    fn check(&self, _domain: &str) -> crate::job::Result<()> {
        if self.0.get() {
            return Err(Failure::new(FailureKind::LeaseNotHeld, "lost"));
        }
        Ok(())
    }

    fn registration(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

/// Every state of the directory that a crash during a save can leave: what is
/// loaded is the old task or the new one, and the next save works.
#[test]
fn every_crash_during_a_save_leaves_the_old_or_the_new_task() {
    let master = master();
    for crash in 0..6 {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path());
        let task = store
            .begin(&master, id(5), "old", "old", Vec::new())
            .expect("begun");
        let name = id(5).to_string();
        let at = |suffix: &str| dir.path().join(format!("{name}{suffix}"));
        let copy = |from: &Path, to: &Path, files: usize| {
            std::fs::create_dir_all(to).expect("made");
            for entry in std::fs::read_dir(from).expect("listed").take(files) {
                let entry = entry.expect("an entry");
                std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
            }
        };
        // The new task, apart.
        let new_dir = tempfile::tempdir().expect("a directory");
        let new_store = Store::new(new_dir.path(), "master");
        new_store
            .begin(&master, id(5), "new", "new", Vec::new())
            .expect("begun");
        let new = new_dir.path().join(&name);
        let mut expected = "old";
        match crash {
            0 => std::fs::create_dir(at(".temp")).expect("made"),
            1 => copy(&new, &at(".temp"), 1),
            2 => copy(&new, &at(".temp"), 9),
            3 => {
                copy(&new, &at(".temp"), 9);
                std::fs::rename(at(""), at(".backup")).expect("moved");
                expected = "new";
            }
            4 => {
                copy(&new, &at(".temp"), 9);
                std::fs::rename(at(""), at(".backup")).expect("moved");
                std::fs::rename(at(".temp"), at("")).expect("moved");
                expected = "new";
            }
            _ => std::fs::rename(at(""), at(".backup")).expect("moved"),
        }
        assert_eq!(only(&store).name, expected, "crash {crash}");
        task.finish(&Ok(String::new())).expect("saved");
        assert_eq!(only(&store).state, TaskState::Finished, "crash {crash}");
        assert!(!at(".temp").exists() && !at(".backup").exists());
    }
}

#[test]
fn only_the_newest_results_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, master) = (store(dir.path()), master());
    for byte in 10..15 {
        store
            .begin(&master, id(byte), "a", "a", Vec::new())
            .expect("begun")
            .finish(&Ok(String::new()))
            .expect("finished");
    }
    let running = store
        .begin(&master, id(20), "b", "b", Vec::new())
        .expect("begun");
    store.prune(&master, 2).expect("pruned");
    let left: Vec<_> = store.load().expect("loads").into_keys().collect();
    assert_eq!(left, [id(13), id(14), running.id()]);
}

#[test]
fn what_makes_no_sense_is_told_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store(dir.path());
    std::fs::create_dir(dir.path().join(id(6).to_string())).expect("made");
    std::fs::create_dir(dir.path().join("lost+found")).expect("made");
    let mut nothing = |_: &Task, _: &Recovery| Ok(());
    let found = recover(&Context::quiet(), &store, &master(), &mut nothing).expect("recovers");
    assert!(matches!(&found[..], [Recovered::Failed(one, _)] if *one == id(6)));
    assert!(dir.path().join(id(6).to_string()).exists());
}

#[test]
fn the_originals_sample_loads_and_recovers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../protocol/disk-format/tests/golden/vdsm-tasks");
    let name = "0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8";
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join(name)).expect("made");
    for entry in std::fs::read_dir(golden.join(name)).expect("golden files") {
        let entry = entry.expect("an entry");
        let target = dir.path().join(name).join(entry.file_name());
        std::fs::copy(entry.path(), target).expect("copied");
    }
    let store = store(dir.path());
    let mut steps = Vec::new();
    let mut undo = |_: &Task, step: &Recovery| {
        steps.push((step.function.clone(), step.params.len()));
        Ok(())
    };
    let done = recover(&Context::quiet(), &store, &master(), &mut undo).expect("recovers");
    assert_eq!(done, [Recovered::Undone(name.parse().expect("an id"))]);
    assert_eq!(steps.len(), 2);
}
