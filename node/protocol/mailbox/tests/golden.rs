//! The original's trace, replayed against both sides: where the original wrote
//! something, so do we, byte for byte but for the random event ids.

mod disk;

use std::fs;
use std::path::Path;

use disk::{Disk, S};
use disk_format::vdsm::mailbox::{Extend, MAILBOX_BYTES};
use mailbox::{
    Committed, Effect, Host, IoOutcome, Manager, Monotonic, Outcome, RequestId, Volume, host,
    manager,
};

const HOST: u64 = 7;
const OFFSET: u64 = HOST * 4096;
/// Inbox and outbox of the trace.
const BYTES: usize = 250 * MAILBOX_BYTES;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn extend() -> Extend {
    Extend {
        domain: "8adbc85e-e554-4ae0-b318-8a5465fe5fe1"
            .parse()
            .expect("an id"),
        volume: "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f"
            .parse()
            .expect("an id"),
        size_mib: 5120,
    }
}

/// The original's events, with our own id in its place.
fn event_like(original: &[u8], ours: &[u8]) -> Vec<u8> {
    let mut expected = original.to_vec();
    expected[4..20].copy_from_slice(&ours[4..20]);
    expected
}

#[test]
fn host_writes_what_the_original_host_wrote() {
    let config = host::Config {
        host_id: 7,
        // The first request goes into slot 0.
        seed: 63,
    };
    let mut host = Host::new(config);
    let mut outbox = vec![0; BYTES];
    // What was left by an earlier SPM must not be taken for an answer.
    let stale = golden("trace/05-outbox-off28672.bin");
    outbox[28672..28672 + MAILBOX_BYTES].copy_from_slice(&stale);
    outbox[28672 + 64..28672 + 128].copy_from_slice(&stale[..64]);
    outbox[28672..28672 + 64].fill(0);

    let mut now = Monotonic(0);
    let mut writes = Vec::new();
    let mut completed = Vec::new();
    let mut events = 0;
    let mut asked = false;
    for _ in 0..2000 {
        host.handle(now, host::Input::Tick);
        while let Some(effect) = host.next_effect() {
            match effect {
                Effect::Read {
                    io,
                    volume,
                    offset,
                    length,
                } => {
                    assert_eq!((volume, offset, length), (Volume::Outbox, OFFSET, 4096));
                    let bytes = outbox[28672..28672 + 4096].to_vec();
                    host.handle(now, host::Input::Io(io, IoOutcome::Read(&bytes)));
                }
                Effect::Write {
                    io,
                    volume,
                    offset,
                    bytes,
                } => {
                    assert_eq!(volume, Volume::Inbox);
                    assert!(offset == OFFSET || offset == 0, "offset {offset}");
                    // The SPM's part, as the original played it.
                    if offset == 0 {
                        events += 1;
                        let reply = match events {
                            1 => "trace/05-outbox-off28672.bin",
                            _ => "trace/08-outbox-off28672.bin",
                        };
                        outbox[28672..28672 + 4096].copy_from_slice(&golden(reply));
                    }
                    writes.push((offset, bytes));
                    host.handle(now, host::Input::Io(io, IoOutcome::Written));
                }
                Effect::Completed { request, outcome } => completed.push((request, outcome)),
                Effect::Extend(_) | Effect::Stopped => panic!("not asked for"),
            }
        }
        if host.is_running() && !asked {
            asked = true;
            host.handle(now, host::Input::Extend(RequestId(1), extend()));
            continue;
        }
        let Some(due) = host.deadline() else { break };
        now = due.max(now);
    }
    assert_eq!(completed, [(RequestId(1), Outcome::Done)]);
    let expected = [
        (OFFSET, vec![0; 4096]),
        (OFFSET, golden("trace/03-inbox-off28672.bin")),
        (
            0,
            event_like(&golden("trace/04-inbox-off0.bin"), &writes[2].1),
        ),
        (OFFSET, golden("trace/06-inbox-off28672.bin")),
        (
            0,
            event_like(&golden("trace/07-inbox-off0.bin"), &writes[4].1),
        ),
        (OFFSET, vec![0; 4096]),
        // The original's third event is left off: nobody waits for the zeros.
    ];
    assert_eq!(writes.len(), expected.len());
    for (number, (ours, theirs)) in writes.iter().zip(&expected).enumerate() {
        assert!(ours == theirs, "write {number} differs");
    }
    assert_ne!(writes[2].1, writes[4].1, "each event has another id");
}

#[test]
fn manager_answers_what_the_original_manager_answered() {
    let mut manager = Manager::new(manager::Config::default());
    let mut disk = Disk::new(BYTES);
    disk.outbox.fill(0xaa);
    let steps = [
        (
            "03-inbox-off28672.bin",
            "04-inbox-off0.bin",
            "05-outbox-off28672.bin",
        ),
        (
            "06-inbox-off28672.bin",
            "07-inbox-off0.bin",
            "08-outbox-off28672.bin",
        ),
    ];
    let mut now = Monotonic(0);
    let mut commits = Vec::new();
    let mut run = |disk: &mut Disk, until: u64| {
        loop {
            manager.handle(now, manager::Input::Tick);
            while let Some(effect) = manager.next_effect() {
                if let Effect::Extend(batch) = &effect {
                    commits.push(batch.extends.clone());
                    let results = vec![Committed::Done; batch.extends.len()];
                    manager.handle(now, manager::Input::Committed(batch.id, &results));
                } else if let Some((io, bytes)) = disk.serve(&effect) {
                    let outcome = bytes.as_deref().map_or(IoOutcome::Written, IoOutcome::Read);
                    manager.handle(now, manager::Input::Io(io, outcome));
                }
            }
            match manager.deadline() {
                Some(due) if due.0 <= until => now = now.max(due),
                _ => return,
            }
        }
    };
    run(&mut disk, 3 * S);
    assert!(
        disk.outbox.iter().all(|byte| *byte == 0),
        "the whole outbox is zeroed"
    );
    let mut until = 3 * S;
    for (mail, event, reply) in steps {
        disk.inbox[28672..28672 + 4096].copy_from_slice(&golden(&format!("trace/{mail}")));
        disk.inbox[..4096].copy_from_slice(&golden(&format!("trace/{event}")));
        until += S;
        run(&mut disk, until);
        let mut expected = vec![0; BYTES];
        expected[28672..28672 + 4096].copy_from_slice(&golden(&format!("trace/{reply}")));
        assert!(disk.outbox == expected, "after {mail}");
    }
    assert_eq!(commits, [[extend()]]);
    // Unlike the original, only the changed mailbox is written.
    let sizes: Vec<usize> = disk.writes.iter().map(|(_, _, length)| *length).collect();
    assert_eq!(sizes, [BYTES, 4096, 4096]);
    assert!(
        disk.writes
            .iter()
            .all(|(volume, ..)| *volume == Volume::Outbox)
    );
}

#[test]
fn manager_answers_a_full_mailbox_in_one_commit() {
    let mut manager = Manager::new(manager::Config::default());
    let mut disk = Disk::new(BYTES);
    disk.inbox[28672..28672 + 4096].copy_from_slice(&golden("mailbox-request-full63.bin"));
    let mut now = Monotonic(0);
    let mut batches = Vec::new();
    for _ in 0..200 {
        manager.handle(now, manager::Input::Tick);
        while let Some(effect) = manager.next_effect() {
            if let Effect::Extend(batch) = &effect {
                batches.push(batch.extends.len());
                let results = vec![Committed::Done; batch.extends.len()];
                manager.handle(now, manager::Input::Committed(batch.id, &results));
            } else if let Some((io, bytes)) = disk.serve(&effect) {
                let outcome = bytes.as_deref().map_or(IoOutcome::Written, IoOutcome::Read);
                manager.handle(now, manager::Input::Io(io, outcome));
            }
        }
        now = manager.deadline().unwrap().max(now);
    }
    assert_eq!(batches, [63]);
    let full = golden("mailbox-request-full63.bin");
    let reply = &disk.outbox[28672..28672 + 4096];
    assert!(
        reply[..4032] == full[..4032],
        "every request has its answer"
    );
    assert_eq!(reply[4032..], [0; 64], "and no checksum");
}

#[test]
fn manager_ignores_a_mailbox_with_a_wrong_checksum_until_it_is_right() {
    let mut manager = Manager::new(manager::Config::default());
    let mut disk = Disk::new(BYTES);
    disk.inbox[28672..28672 + 4096].copy_from_slice(&golden("mailbox-bad-checksum.bin"));
    let mut now = Monotonic(0);
    let mut commits = 0;
    let mut notes = 0;
    for turn in 0..2000 {
        if turn == 1000 {
            assert_eq!(commits, 0, "garbage is not obeyed");
            disk.inbox[28672..28672 + 4096].copy_from_slice(&golden("mailbox-request-slot0.bin"));
        }
        manager.handle(now, manager::Input::Tick);
        while let Some(effect) = manager.next_effect() {
            if let Effect::Extend(batch) = &effect {
                commits += 1;
                manager.handle(now, manager::Input::Committed(batch.id, &[Committed::Done]));
            } else if let Some((io, bytes)) = disk.serve(&effect) {
                let outcome = bytes.as_deref().map_or(IoOutcome::Written, IoOutcome::Read);
                manager.handle(now, manager::Input::Io(io, outcome));
            }
        }
        while let Some(note) = manager.next_note() {
            notes += u32::from(note == mailbox::Note::BadChecksum { host: 7 });
        }
        now = manager.deadline().unwrap().max(now);
    }
    assert_eq!(commits, 1);
    assert!((1..=4).contains(&notes), "told {notes} times");
}
