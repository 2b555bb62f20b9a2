//! Mail over real files: hosts' threads and a manager's, each with its own
//! descriptors, as on different hosts.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk_format::vdsm::mailbox::{Mailbox, Message};
use disk_format::vdsm::uuid::{DomainId, VolumeId};
use mailbox::{Batch, Committed, Extend, Outcome};
use storaged::mail::{Extended, HostMail, MailPlace, ManagerMail};

/// The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
const BYTES: u64 = 16 << 20;

struct Master {
    dir: tempfile::TempDir,
}

impl Master {
    fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for name in ["inbox", "outbox"] {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_len(BYTES).unwrap();
        }
        Self { dir }
    }

    fn place(&self) -> MailPlace {
        MailPlace {
            inbox: self.dir.path().join("inbox"),
            outbox: self.dir.path().join("outbox"),
        }
    }

    fn read(&self, name: &str, host: u64) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let file = File::open(self.dir.path().join(name)).unwrap();
        file.read_exact_at(&mut bytes, host * 4096).unwrap();
        bytes
    }
}

/// A volume group of numbers, and how it was changed.
#[derive(Clone, Default)]
struct Group {
    sizes: Arc<Mutex<BTreeMap<VolumeId, u32>>>,
    commits: Arc<Mutex<Vec<usize>>>,
    /// As many as it was told of.
    extended: Arc<AtomicU64>,
}

impl Group {
    fn commit(&self, batch: &Batch) -> Vec<Committed> {
        self.commits.lock().unwrap().push(batch.extends.len());
        let mut sizes = self.sizes.lock().unwrap();
        batch
            .extends
            .iter()
            .map(|extend| {
                if extend.size_mib > 1 << 20 {
                    return Committed::Refused;
                }
                let size = sizes.entry(extend.volume).or_default();
                *size = (*size).max(extend.size_mib);
                Committed::Done
            })
            .collect()
    }

    fn serve(&self, master: &Master) -> ManagerMail {
        let mine = self.clone();
        ManagerMail::start(
            Some(&master.place()),
            Arc::new(move |batch| mine.commit(batch)),
            self.counter(),
        )
        .unwrap()
    }

    fn counter(&self) -> Extended {
        let extended = Arc::clone(&self.extended);
        Arc::new(move |count| {
            extended.fetch_add(count, Ordering::SeqCst);
        })
    }

    fn extended(&self) -> u64 {
        self.extended.load(Ordering::SeqCst)
    }

    fn size(&self, volume: VolumeId) -> u32 {
        self.sizes.lock().unwrap()[&volume]
    }
}

fn extend(volume: u16, size_mib: u32) -> Extend {
    let mut bytes = [0xee; 16];
    bytes[..2].copy_from_slice(&volume.to_be_bytes());
    Extend {
        domain: DomainId::from_bytes([0xdd; 16]),
        volume: VolumeId::from_bytes(bytes),
        size_mib,
    }
}

fn host(master: &Master, id: u16) -> HostMail {
    HostMail::start(&master.place(), id, u64::from(id) * 7).unwrap()
}

fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let start = Instant::now();
    while !probe() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_request_is_committed_answered_and_cleared() {
    let (master, group) = (Master::new(), Group::default());
    let (manager, one) = (group.serve(&master), host(&master, 7));
    let wanted = extend(1, 5120);
    assert_eq!(one.extend_and_wait(wanted, PATIENCE), Some(Outcome::Done));
    assert_eq!(group.size(wanted.volume), 5120);
    until("it is told of", || group.extended() == 1);
    // The slot goes through CLEAN and is free again, with a checksum.
    until("the mailbox is empty", || {
        master.read("inbox", 7).iter().all(|&byte| byte == 0)
    });
    one.stop();
    assert!(manager.stop(PATIENCE));
}

#[test]
fn the_bytes_are_the_originals() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../protocol/disk-format/tests/golden/vdsm-mailbox");
    let request = std::fs::read(golden.join("mailbox-request-slot0.bin")).unwrap();
    // Nobody serves: the request stays as it was written. Seed 0: slot 0.
    let master = Master::new();
    let one = HostMail::start(&master.place(), 7, 0).unwrap();
    let Message::Extend(wanted) = Mailbox::from_bytes(&request).unwrap().message(0) else {
        panic!("no request in the sample");
    };
    one.extend(wanted, |_| {});
    until("the request is written", || {
        master.read("inbox", 7)[..64] == request[..64]
    });
    assert_eq!(master.read("inbox", 7), request);
    let event = master.read("inbox", 0);
    until("the event is written", || {
        master.read("inbox", 0)[..4] == *b"\0evt"
    });
    assert!(event[20..].iter().all(|&byte| byte == 0));

    // The original's request is answered with the original's bytes.
    let other = Master::new();
    let inbox = File::options()
        .write(true)
        .open(other.dir.path().join("inbox"))
        .unwrap();
    inbox.write_all_at(&request, 7 * 4096).unwrap();
    let group = Group::default();
    let manager = group.serve(&other);
    let reply = std::fs::read(golden.join("mailbox-reply-slot0.bin")).unwrap();
    until("the reply is written", || {
        other.read("outbox", 7)[..64] == reply[..64]
    });
    assert_eq!(group.size(wanted.volume), wanted.size_mib);
    assert!(manager.stop(PATIENCE));
}

#[test]
fn many_hosts_are_served_in_few_commits() {
    const HOSTS: u16 = 20;
    let (master, group) = (Master::new(), Group::default());
    let _manager = group.serve(&master);
    let hosts: Vec<_> = (1..=HOSTS).map(|id| host(&master, id)).collect();
    let (sender, answers) = std::sync::mpsc::channel();
    for (number, one) in (1..=HOSTS).zip(&hosts) {
        for volume in 0..10 {
            let sender = sender.clone();
            let wanted = extend(number * 100 + volume, 128);
            one.extend(wanted, move |outcome| sender.send(outcome).unwrap());
        }
    }
    for _ in 0..HOSTS * 10 {
        assert_eq!(answers.recv_timeout(PATIENCE).unwrap(), Outcome::Done);
    }
    let commits = group.commits.lock().unwrap().clone();
    assert!(commits.len() < 100, "{commits:?}");
    until("all are told of", || {
        group.extended() == u64::from(HOSTS) * 10
    });
}

#[test]
fn the_next_manager_answers_what_the_first_left() {
    let (master, first, second) = (Master::new(), Group::default(), Group::default());
    let manager = first.serve(&master);
    let one = host(&master, 3);
    assert_eq!(
        one.extend_and_wait(extend(1, 128), PATIENCE),
        Some(Outcome::Done)
    );
    // The lease is lost: it must not answer any more.
    manager.lease_lost();
    assert!(manager.stop(PATIENCE));
    drop(manager);
    let (sender, answer) = std::sync::mpsc::channel();
    one.extend(extend(1, 256), move |outcome| sender.send(outcome).unwrap());
    until("the request waits", || {
        master.read("inbox", 3)[..4092].contains(&0x31)
    });
    let _manager = second.serve(&master);
    assert_eq!(answer.recv_timeout(PATIENCE).unwrap(), Outcome::Done);
    assert_eq!(first.size(extend(1, 0).volume), 128);
    assert_eq!(second.size(extend(1, 0).volume), 256);
}

#[test]
fn garbage_in_one_mailbox_harms_nobody() {
    let (master, group) = (Master::new(), Group::default());
    let inbox = File::options()
        .write(true)
        .open(master.dir.path().join("inbox"))
        .unwrap();
    let noise: Vec<u8> = (0..4096_u32)
        .map(|i| (i * 7 + 1).to_le_bytes()[0])
        .collect();
    inbox.write_all_at(&noise, 9 * 4096).unwrap();
    let _manager = group.serve(&master);
    let one = host(&master, 3);
    assert_eq!(
        one.extend_and_wait(extend(1, 128), PATIENCE),
        Some(Outcome::Done)
    );
    assert!(master.read("outbox", 9).iter().all(|&byte| byte == 0));
}

#[test]
fn a_refusal_is_told_as_one() {
    let (master, group) = (Master::new(), Group::default());
    let _manager = group.serve(&master);
    let one = host(&master, 3);
    assert_eq!(
        one.extend_and_wait(extend(1, 2 << 20), PATIENCE),
        Some(Outcome::Refused)
    );
}

#[test]
fn this_hosts_own_requests_need_no_mail() {
    let group = Group::default();
    let mine = group.clone();
    let commit = Arc::new(move |batch: &_| mine.commit(batch));
    let manager = ManagerMail::start(None, commit, group.counter()).unwrap();
    let (sender, answer) = std::sync::mpsc::channel();
    for volume in 0..5 {
        let sender = sender.clone();
        manager.extend(extend(volume, 128), false, move |outcome| {
            sender.send(outcome).unwrap();
        });
    }
    for _ in 0..5 {
        assert_eq!(answer.recv_timeout(PATIENCE).unwrap(), Outcome::Done);
    }
    assert!(manager.stop(PATIENCE));
    let (sender, answer) = std::sync::mpsc::channel();
    manager.extend(extend(9, 128), false, move |outcome| {
        sender.send(outcome).unwrap();
    });
    assert_eq!(answer.recv_timeout(PATIENCE).unwrap(), Outcome::Stopped);
}

#[test]
fn a_volume_that_appears_late_is_used_then() {
    let (master, group) = (Master::new(), Group::default());
    let inbox = master.dir.path().join("inbox");
    let away = master.dir.path().join("away");
    std::fs::rename(&inbox, &away).unwrap();
    let _manager = group.serve(&master);
    let one = host(&master, 3);
    let (sender, answer) = std::sync::mpsc::channel();
    one.extend(extend(1, 128), move |outcome| sender.send(outcome).unwrap());
    std::fs::rename(&away, &inbox).unwrap();
    assert_eq!(answer.recv_timeout(PATIENCE).unwrap(), Outcome::Done);
}
