//! Round trips of the mailbox: the threads that run on a node, one for each
//! host and the manager's, over two files on a disk with direct I/O. All hosts
//! share this machine's cores, which 249 real ones would not.
//!
//! X, what a commit takes, is the same for one request as for all; section
//! `extend` measures what a commit of 249 really takes. The original's model is
//! that of one request alone; where it says so, its five threads take the
//! requests in turn, as if none of them waited for the volume group's lock.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disk_format::vdsm::mailbox::Extend;
use disk_format::vdsm::uuid::{DomainId, VolumeId};
use mailbox::{Committed, Outcome};
use storaged::mail::{HostMail, MailPlace, ManagerMail};

use crate::model::{self, Random, Sharing};
use crate::table::{Line, Unit, ms, percentile};
use crate::{Scale, pause};

/// The machine may be busy.
const PATIENCE: Duration = Duration::from_secs(180);
/// Longest pause between two rounds, so that they begin anywhere between two
/// looks of the manager.
const BETWEEN_MS: f64 = 50.0;
/// A commit that takes time: what the original's model has as an example.
pub(crate) const COMMIT: Duration = Duration::from_millis(250);

/// The two volumes of a master.
pub(crate) struct Master {
    dir: tempfile::TempDir,
}

impl Master {
    /// All zeros, written: a hole would be read without a disk.
    pub(crate) fn new() -> Result<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        std::fs::create_dir_all(folder)?;
        let dir = tempfile::tempdir_in(folder)?;
        for name in ["inbox", "outbox"] {
            let mut file = File::create(dir.path().join(name))?;
            file.write_all(&vec![0; model::MAILBOXES_BYTES])?;
            file.sync_all()?;
        }
        Ok(Self { dir })
    }

    pub(crate) fn place(&self) -> MailPlace {
        MailPlace {
            inbox: self.dir.path().join("inbox"),
            outbox: self.dir.path().join("outbox"),
        }
    }
}

/// A request of this host for its own volume.
pub(crate) fn extend(host: u16, size_mib: u32) -> Extend {
    let mut bytes = [0xee; 16];
    bytes[..2].copy_from_slice(&host.to_be_bytes());
    Extend {
        domain: DomainId::from_bytes([0xdd; 16]),
        volume: VolumeId::from_bytes(bytes),
        size_mib,
    }
}

/// What many rounds took.
pub(crate) struct Rounds {
    /// Each request's, in milliseconds.
    pub(crate) round_trips: Vec<f64>,
    /// Commits they needed.
    pub(crate) commits: u64,
}

/// Lets `hosts` ask at once, `rounds` times, with commits that take this long.
/// A round before them, which finds the manager idle, does not count.
pub(crate) fn rounds(hosts: u16, rounds: u32, commit: Duration) -> Result<Rounds> {
    let master = Master::new()?;
    let commits = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&commits);
    let manager = ManagerMail::start(
        Some(&master.place()),
        Arc::new(move |batch| {
            count.fetch_add(1, Ordering::Relaxed);
            pause(commit);
            vec![Committed::Done; batch.extends.len()]
        }),
        Arc::new(|_| {}),
    )?;
    let mails = (1..=hosts)
        .map(|host| HostMail::start(&master.place(), host, u64::from(host)))
        .collect::<std::io::Result<Vec<_>>>()
        .context("a host's mailbox")?;
    let mut random = Random(u64::from(hosts));
    let mut round_trips = Vec::new();
    let mut before = 0;
    for round in 0..=rounds {
        let (sender, receiver) = channel();
        for (host, mail) in (1..=hosts).zip(&mails) {
            let sender = sender.clone();
            let begun = Instant::now();
            mail.extend(extend(host, round + 1), move |outcome| {
                // Nobody listens only after a failure that is told already.
                sender.send((begun.elapsed(), outcome)).ok();
            });
        }
        for _ in 0..hosts {
            let (took, outcome) = receiver
                .recv_timeout(PATIENCE)
                .context("no answer from the mailbox")?;
            ensure!(outcome == Outcome::Done, "a request ended {outcome:?}");
            if round > 0 {
                round_trips.push(ms(took));
            }
        }
        if round == 0 {
            before = commits.load(Ordering::Relaxed);
        }
        pause(Duration::from_secs_f64(random.unit() * BETWEEN_MS / 1e3));
    }
    let commits = commits.load(Ordering::Relaxed) - before;
    for mail in &mails {
        mail.stop();
    }
    ensure!(manager.stop(PATIENCE), "the manager's mail does not end");
    Ok(Rounds {
        round_trips,
        commits,
    })
}

/// The section.
pub(crate) fn run(scale: Scale) -> Result<()> {
    for commit in [Duration::ZERO, COMMIT] {
        for (hosts, count) in [(1, 200), (50, 20), (249, 8)] {
            let count = if commit.is_zero() { count } else { count / 4 };
            let mut measured = rounds(hosts, scale.of(count), commit)?;
            tell(hosts, commit, &mut measured);
        }
    }
    Ok(())
}

fn tell(hosts: u16, commit: Duration, measured: &mut Rounds) {
    let extending = format!("X = {:.2} s", commit.as_secs_f64());
    let asking = match hosts {
        1 => "1 host".to_owned(),
        _ => format!("{hosts} hosts at once"),
    };
    let mut shares = vec![(Sharing::None, "")];
    if hosts > 1 && !commit.is_zero() {
        shares.push((Sharing::Threads(hosts), ", 5 threads"));
    }
    for (sharing, how) in shares {
        let mut model = model::round_trips(commit, sharing);
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            Line {
                section: "mail",
                what: &format!("round trip {name}, {asking}, {extending}{how}"),
                unit: Unit::Milliseconds,
                vdsm: Some(percentile(&mut model, share)),
                ours: percentile(&mut measured.round_trips, share),
                aim: if share < 0.9 && commit.is_zero() {
                    "under 50 ms"
                } else {
                    ""
                },
            }
            .print();
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let in_one = measured.round_trips.len() as f64 / measured.commits.max(1) as f64;
    if hosts > 1 {
        Line {
            section: "mail",
            what: &format!("requests in a commit, {asking}, {extending}"),
            unit: Unit::Count,
            vdsm: None,
            ours: in_one,
            aim: "",
        }
        .print();
    }
}
