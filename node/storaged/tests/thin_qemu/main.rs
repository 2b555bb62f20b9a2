//! Thin drives of a real QEMU: threshold, extend, refresh, next threshold; stopped
//! for lack of space and continued; stopped for another error and left alone.

mod guest;

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use control::storage::report::WatchReport;
use guest::{Client, Qemu, Storage, Volume};
use smol::LocalExecutor;
use smol::future::FutureExt;
use storaged::thin::{Command, Handle, Monitor, Watch};

/// Everything here takes seconds; a machine may be slow.
const PATIENCE: Duration = Duration::from_secs(600);

fn test<F: Future<Output = ()>>(story: impl FnOnce(Rc<LocalExecutor<'static>>) -> F) {
    tracing_subscriber::fmt().with_test_writer().try_init().ok();
    let executor = Rc::new(LocalExecutor::new());
    let story = story(Rc::clone(&executor));
    let late = async {
        smol::Timer::after(PATIENCE).await;
        panic!("not done after {PATIENCE:?}");
    };
    smol::block_on(executor.run(story.or(late)));
}

fn monitor(executor: &LocalExecutor<'static>, watch: Watch, storage: &Storage) -> Handle {
    let storage = Rc::new(storage.clone());
    let (monitor, handle) = Monitor::new(watch, storage.clone(), storage);
    executor.spawn(monitor.run()).detach();
    handle
}

async fn until(client: &mut Client, handle: &Handle, state: &str) {
    loop {
        let report = handle.report();
        if report.drives[0].state == state {
            return;
        }
        // A round trip to QEMU is a pause, too.
        client.status().await;
    }
}

/// Waits until the volume is larger than `mib` MiB and all that was asked for is
/// there; what the monitor says then, and all sizes asked for until then.
///
/// Both are read at one moment: a later look at the rate may ask for more.
async fn until_larger(
    client: &mut Client,
    handle: &Handle,
    volume: &Volume,
    mib: u64,
) -> (WatchReport, Vec<u64>) {
    loop {
        let report = handle.report();
        let asked = volume.asked_mib.borrow().clone();
        let drive = &report.drives[0];
        let last = asked.last().copied().filter(|last| *last > mib);
        if drive.state == "set" && last.is_some() && drive.size_bytes == last.map(|mib| mib << 20) {
            return (report, asked);
        }
        client.status().await;
    }
}

#[test]
fn a_guest_that_fills_its_disk_gets_chunk_after_chunk() {
    let folder = tempfile::tempdir().expect("a directory");
    test(|executor| async move {
        let volume = Volume::new(folder.path(), 8);
        let storage = Storage(Rc::clone(&volume));
        let qemu = Qemu::start(folder.path(), &volume, 40, None);
        let mut watch = qemu.watch("disk-file", &volume);
        // Without prediction every step is known, however fast the guest is and
        // however slow everybody else.
        watch.config.predict = false;
        let handle = monitor(&executor, watch, &storage);
        let mut client = qemu.client().await;
        until(&mut client, &handle, "set").await;
        assert!(volume.asked_mib.borrow().is_empty(), "nothing written yet");
        client.tell_at(40).await;
        client.run("cont").await;
        client.until_written(40).await;
        // 40 MiB written, less than 1 MiB of tables, 2 MiB free at least.
        let (report, mut asked) = until_larger(&mut client, &handle, &volume, 42).await;
        assert_eq!(client.status().await, "running");
        // A request that nobody answered in time is made again.
        asked.dedup();
        assert_eq!(asked, [12, 16, 20, 24, 28, 32, 36, 40, 44]);
        let drive = &report.drives[0];
        assert_eq!(drive.extends, 9, "{drive:?}");
        assert_eq!(drive.reason, None);
        assert_eq!(report.reason, None);
    });
}

#[test]
fn prediction_asks_for_more_and_never_for_more_than_eight_chunks_ahead() {
    let folder = tempfile::tempdir().expect("a directory");
    test(|executor| async move {
        let volume = Volume::new(folder.path(), 8);
        let storage = Storage(Rc::clone(&volume));
        let qemu = Qemu::start(folder.path(), &volume, 40, None);
        let handle = monitor(&executor, qemu.watch("vda", &volume), &storage);
        let mut client = qemu.client().await;
        until(&mut client, &handle, "set").await;
        assert!(volume.asked_mib.borrow().is_empty(), "nothing written yet");
        client.tell_at(40).await;
        client.run("cont").await;
        client.until_written(40).await;
        // 40 MiB written, tables, 2 MiB free at least.
        let (report, asked) = until_larger(&mut client, &handle, &volume, 42).await;
        assert_eq!(client.status().await, "running");
        let drive = &report.drives[0];
        assert_eq!(drive.reason, None);
        assert_eq!(report.reason, None);
        // Absolute and growing, each by a chunk at least and by eight chunks and
        // half a chunk at most.
        let sizes: Vec<u64> = std::iter::once(8).chain(asked.iter().copied()).collect();
        let mut steps = sizes.windows(2).map(|pair| pair[1].checked_sub(pair[0]));
        assert!(
            steps.all(|step| step.is_some_and(|mib| mib == 0 || (4..=34).contains(&mib))),
            "{sizes:?}"
        );
        // Nothing more is asked for while eight chunks are free: 41 + 32 + 34.
        assert!(sizes.last().is_some_and(|last| *last <= 107), "{sizes:?}");
        assert!(drive.extends >= 2, "{drive:?}");
    });
}

#[test]
fn a_guest_stopped_for_lack_of_space_goes_on_when_it_has_some() {
    let folder = tempfile::tempdir().expect("a directory");
    test(|executor| async move {
        let volume = Volume::new(folder.path(), 8);
        volume.shut();
        volume.refuse.set(2);
        let storage = Storage(Rc::clone(&volume));
        let qemu = Qemu::start(folder.path(), &volume, 30, None);
        let handle = monitor(&executor, qemu.watch("disk", &volume), &storage);
        let mut client = qemu.client().await;
        until(&mut client, &handle, "set").await;
        client.tell_at(30).await;
        client.run("cont").await;
        client.event("STOP").await;
        assert_eq!(client.status().await, "io-error");
        assert!(!volume.asked_mib.borrow().is_empty());
        volume.open();
        client.event("RESUME").await;
        client.until_written(30).await;
        until(&mut client, &handle, "set").await;
    });
}

#[test]
fn a_guest_stopped_by_an_io_error_is_left_alone_though_space_came() {
    let folder = tempfile::tempdir().expect("a directory");
    test(|executor| async move {
        let volume = Volume::new(folder.path(), 8);
        volume.shut();
        let storage = Storage(Rc::clone(&volume));
        // The threshold is passed at 6 MiB, the device is full at 8.
        let qemu = Qemu::start(folder.path(), &volume, 30, Some(7));
        let handle = monitor(&executor, qemu.watch("disk", &volume), &storage);
        let mut client = qemu.client().await;
        until(&mut client, &handle, "set").await;
        client.tell_at(30).await;
        client.run("cont").await;
        client.event("RESUME").await;
        client.event("STOP").await;
        assert_eq!(client.status().await, "io-error");
        volume.open();
        until(&mut client, &handle, "set").await;
        assert!(handle.report().drives[0].extends >= 1);
        // What the monitor would ask and do takes a few round trips.
        for _ in 0..60 {
            assert_eq!(client.status().await, "io-error");
        }
        assert!(!client.events.iter().any(|event| event == "RESUME"));
        // The operator has repaired it.
        client.run("cont").await;
        client.until_written(30).await;
    });
}

#[test]
fn a_monitor_started_anew_finds_the_guest_stopped_and_continues_it() {
    let folder = tempfile::tempdir().expect("a directory");
    test(|executor| async move {
        let volume = Volume::new(folder.path(), 8);
        let storage = Storage(Rc::clone(&volume));
        let qemu = Qemu::start(folder.path(), &volume, 30, None);
        let mut client = qemu.client().await;
        // Nobody watches while it fills up.
        client.tell_at(30).await;
        client.run("cont").await;
        client.event("STOP").await;
        assert_eq!(client.status().await, "io-error");
        let handle = monitor(&executor, qemu.watch("vda", &volume), &storage);
        client.event("RESUME").await;
        drop(handle);
        // The next one takes over the socket, and whatever the last one left.
        let handle = monitor(&executor, qemu.watch("vda", &volume), &storage);
        client.until_written(30).await;
        until(&mut client, &handle, "set").await;
    });
}

#[test]
fn a_guest_stopped_by_hand_is_not_continued() {
    let folder = tempfile::tempdir().expect("a directory");
    test(|executor| async move {
        let volume = Volume::new(folder.path(), 8);
        volume.shut();
        let storage = Storage(Rc::clone(&volume));
        let qemu = Qemu::start(folder.path(), &volume, 30, None);
        let handle = monitor(&executor, qemu.watch("disk", &volume), &storage);
        let mut client = qemu.client().await;
        until(&mut client, &handle, "set").await;
        client.tell_at(30).await;
        client.run("cont").await;
        while client.written_mib().await < 1 {}
        client.run("stop").await;
        assert_eq!(client.status().await, "paused");
        volume.open();
        for _ in 0..60 {
            assert_eq!(client.status().await, "paused");
        }
        client.run("cont").await;
        client.until_written(30).await;
        drop(handle);
    });
}

#[test]
fn a_migrating_guests_destination_maps_every_chunk_before_its_source() {
    let folder = tempfile::tempdir().expect("a directory");
    test(|executor| async move {
        let volume = Volume::new(folder.path(), 8);
        volume.destination.set(true);
        let storage = Storage(Rc::clone(&volume));
        let qemu = Qemu::start(folder.path(), &volume, 30, None);
        let mut watch = qemu.watch("disk", &volume);
        watch.config.predict = false;
        let handle = monitor(&executor, watch, &storage);
        let mut client = qemu.client().await;
        until(&mut client, &handle, "set").await;
        assert!(handle.send(Command::Migrating(true)));
        client.tell_at(30).await;
        client.run("cont").await;
        client.until_written(30).await;
        until_larger(&mut client, &handle, &volume, 32).await;
        let mapped = volume.mapped.borrow();
        assert!(mapped.len() >= 12, "{mapped:?}");
        for pair in mapped.chunks(2) {
            assert_eq!(pair, ["there", "here"], "{mapped:?}");
        }
    });
}

#[test]
fn a_destination_that_cannot_map_keeps_the_source_from_growing_until_the_end() {
    let folder = tempfile::tempdir().expect("a directory");
    test(|executor| async move {
        let volume = Volume::new(folder.path(), 8);
        let storage = Storage(Rc::clone(&volume));
        let qemu = Qemu::start(folder.path(), &volume, 30, None);
        let handle = monitor(&executor, qemu.watch("disk", &volume), &storage);
        let mut client = qemu.client().await;
        until(&mut client, &handle, "set").await;
        assert!(handle.send(Command::Migrating(true)));
        client.tell_at(30).await;
        client.run("cont").await;
        // What it was asked to map is not used here: the guest runs out of it.
        client.event("STOP").await;
        until(&mut client, &handle, "exceeded").await;
        for _ in 0..60 {
            assert_eq!(client.status().await, "io-error");
        }
        assert!(!volume.mapped.borrow().contains(&"here"));
        assert!(handle.send(Command::Migrating(false)));
        client.event("RESUME").await;
        client.until_written(30).await;
        until_larger(&mut client, &handle, &volume, 32).await;
        assert_eq!(client.status().await, "running");
    });
}
