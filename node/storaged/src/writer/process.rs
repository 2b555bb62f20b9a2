//! The writer's process: orders in, words out, and no life without its lease.
//!
//! Jobs run at the same time under the pool's lease; taking, giving back and
//! moving the role wait until none runs. The process ends, with everything it
//! started, when the lease is lost, when something only its end puts right has
//! failed, when it is told to (SIGTERM), and when the daemon is gone.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control::storage::Answer;
use linux::process::{Notice, Signals};
use rustix::process::Signal;

use super::roles::{GATE, Roles};
use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::worker::frame::{Reader, Word};
use crate::worker::serve::{self, Mouth, Worker};
use crate::worker::work::{Place, Settings, Work};

/// How long an orderly end may take after SIGTERM: the lease daemon leaves more.
const END: Duration = Duration::from_secs(15);

/// Opens a domain; the daemon's part.
pub type Open = Arc<dyn Fn(&Place, &Settings, &Context) -> Result<Arc<dyn Domain>> + Send + Sync>;
/// Does work that needs no role, or only an authority; the daemon's part.
pub type Dispatch =
    Arc<dyn Fn(&Work, &Settings, Option<&dyn Authority>, &Context) -> Result<Answer> + Send + Sync>;

/// What the writer has to be given.
#[derive(Clone)]
pub struct Parts {
    /// Opens domains.
    pub open: Open,
    /// Does everything else.
    pub dispatch: Dispatch,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

/// Serves orders until the daemon hangs up, then ends in order. Call it from the
/// process's first thread, before there are others.
///
/// # Errors
/// The stream carries nonsense, or the kernel refuses signals.
pub fn run(stream: UnixStream, parts: Parts) -> io::Result<()> {
    // Children have groups of their own and are tied to us; what else may be in
    // our group must not be the daemon.
    if rustix::process::getpgrp() != rustix::process::getpid() {
        rustix::process::setpgid(None, None)?;
    }
    let signals = Signals::open()?;
    let mouth = Mouth::new(stream.try_clone()?);
    let mut reader = Reader::new(stream);
    let settings = serve::setup(&mut reader)?;
    let lost = {
        let mouth = mouth.clone();
        Arc::new(move |why: &str| {
            mouth.say(&Word::Lost {
                reason: why.to_owned(),
            });
            die(why)
        })
    };
    let writer = Arc::new(Writer {
        roles: Roles::new(settings, parts, mouth.clone(), lost),
        membership: Mutex::new(()),
        mouth: mouth.clone(),
    });
    let mine = Arc::clone(&writer);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || listen(&signals, &mine))?;
    let worker: Arc<dyn Worker> = Arc::clone(&writer) as Arc<dyn Worker>;
    let served = serve::serve(&mut reader, &mouth, &worker);
    writer.end("the storage daemon is gone");
    served
}

/// Waits for SIGTERM: from the daemon, or from the lease daemon, whose lease is
/// about to be lost.
fn listen(signals: &Signals, writer: &Writer) {
    loop {
        let mut polled = [rustix::event::PollFd::new(
            signals,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return die(&format!("signals: {error}")),
        }
        loop {
            match signals.receive() {
                Ok(Notice::Terminate) => {
                    // The daemon says so before it sends one.
                    let why = "told to end by the lease daemon: its lockspace is failing";
                    writer.end(why);
                    die(why);
                    return;
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return die(&format!("signals: {error}")),
            }
        }
    }
}

/// Ends this process and its group. The lease goes when the last child is gone.
fn die(why: &str) {
    tracing::error!(why, "the writer ends");
    let own = rustix::process::getpid();
    if rustix::process::getpgrp() == own {
        // Our own group: it exists, and so do we until it is done.
        let killed = rustix::process::kill_process_group(own, Signal::KILL);
        tracing::error!(?killed, "the writer is still here");
    }
    std::process::abort();
}

struct Writer {
    roles: Roles,
    /// One change of the pool's membership at a time.
    membership: Mutex<()>,
    mouth: Mouth,
}

impl Writer {
    fn one_member(&self) -> MutexGuard<'_, ()> {
        self.membership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends in order if nothing is under way, else at once.
    fn end(&self, why: &str) {
        let quiet = Context::quiet();
        // Whoever still works keeps the gate; its children keep the lease.
        let busy = || {
            self.mouth.say(&Word::Lost {
                reason: format!("{why}, with work under way"),
            });
            die(why);
        };
        let Ok(gate) = self.roles.alone(&quiet, Duration::ZERO) else {
            return busy();
        };
        // A job that slips in now is found by the step that forbids them.
        drop(gate);
        if self.roles.is_manager() {
            self.mouth.say(&Word::Lost {
                reason: why.to_owned(),
            });
            let late = Instant::now() + END;
            let watchdog = std::thread::Builder::new()
                .name("end".to_owned())
                .spawn(move || {
                    while let Some(left) = late.checked_duration_since(Instant::now()) {
                        std::thread::park_timeout(left);
                    }
                    die("giving the role back takes too long");
                });
            if watchdog.is_err() {
                return die(why);
            }
            if let Err(failure) = self.roles.stop(&quiet, Duration::ZERO) {
                tracing::error!(%failure, "role not given back");
                return busy();
            }
        }
        std::process::exit(0);
    }
}

impl Worker for Writer {
    fn work(&self, work: &Work, context: &Context) -> Result<Answer> {
        match work {
            Work::StartSpm { pool } => self.roles.start(context, pool),
            Work::StopSpm => self.roles.stop(context, GATE),
            // Only watches: the role may end meanwhile.
            Work::FollowRecovery => self.roles.follow_recovery(context),
            Work::MigrateMaster { target, .. } => self.roles.migrate(context, target),
            Work::CreatePool { pool } => {
                let _gate = self.roles.shared();
                self.roles.create_pool(context, pool)
            }
            Work::Reconstruct { pool } => {
                let _gate = self.roles.shared();
                self.roles.reconstruct(context, pool)
            }
            Work::Attach { pool, place } => {
                let _gate = self.roles.shared();
                let _one = self.one_member();
                self.roles.attach(context, pool, place)
            }
            Work::Detach { pool, place, force } => {
                let _gate = self.roles.shared();
                let _one = self.one_member();
                self.roles.detach(context, pool, place, *force)
            }
            Work::SetStatus {
                pool,
                place,
                active,
            } => {
                let _gate = self.roles.shared();
                let _one = self.one_member();
                self.roles.set_status(context, pool, place, *active)
            }
            Work::Upgrade { place, version } => {
                let _gate = self.roles.shared();
                self.roles.upgrade(context, place, *version)
            }
            Work::UpgradePool { places, version } => {
                let _gate = self.roles.shared();
                crate::worker::upgrade::each(context, places, |place| {
                    self.roles.upgrade(context, place, *version)
                })
            }
            Work::Extend { place, items } => {
                let _gate = self.roles.shared();
                self.roles.extend(context, place, items)
            }
            other => {
                let _gate = self.roles.shared();
                self.roles.other(context, other)
            }
        }
    }
}
