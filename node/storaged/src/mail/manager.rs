//! The manager's side: everybody's requests, and this host's own.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use linux::disk::Access;
use mailbox::manager::{Config, Input};
use mailbox::{
    Batch, BatchId, Committed, Effect, Extend, IoId, IoOutcome, Manager, Monotonic, Note, Outcome,
    RequestId,
};

use super::MailPlace;
use super::answers::Answers;
use super::driver::{Core, Link, Port, start};

/// Extends the volumes of one domain in one commit; a result for each.
pub type Commit = Arc<dyn Fn(&Batch) -> Vec<Committed> + Send + Sync>;
/// Told how many volumes a commit has made larger, once that is answered.
pub type Extended = Arc<dyn Fn(u64) + Send + Sync>;

pub(super) enum Command {
    Local {
        request: RequestId,
        extend: Extend,
        urgent: bool,
    },
    Committed(BatchId, Vec<Committed>),
    LeaseLost,
    Stop,
}

impl Core for Manager {
    type Command = Command;

    fn tick(&mut self, now: Monotonic) {
        self.handle(now, Input::Tick);
    }
    fn io(&mut self, now: Monotonic, io: IoId, outcome: IoOutcome<'_>) {
        self.handle(now, Input::Io(io, outcome));
    }
    fn command(&mut self, now: Monotonic, command: Command) {
        match command {
            Command::Local {
                request,
                extend,
                urgent,
            } => self.handle(
                now,
                Input::LocalExtend {
                    request,
                    extend,
                    urgent,
                },
            ),
            Command::Committed(batch, results) => {
                self.handle(now, Input::Committed(batch, &results));
            }
            Command::LeaseLost => self.handle(now, Input::LeaseLost),
            Command::Stop => self.handle(now, Input::Stop),
        }
    }
    fn next_effect(&mut self) -> Option<Effect> {
        Manager::next_effect(self)
    }
    fn next_note(&mut self) -> Option<Note> {
        Manager::next_note(self)
    }
    fn deadline(&self) -> Option<Monotonic> {
        Manager::deadline(self)
    }
}

/// The manager's mail. Dropping it ends everything at once, as the loss of the
/// lease does.
pub struct ManagerMail {
    link: Link<Command>,
    answers: Answers,
    next: AtomicU64,
    ended: Mutex<Receiver<()>>,
    stopped: AtomicBool,
}

impl std::fmt::Debug for ManagerMail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagerMail").finish_non_exhaustive()
    }
}

impl ManagerMail {
    /// Starts it on the master's volumes; without a place only local requests
    /// are gathered. The lease must be held. `commit` is called on a thread of
    /// its own for each batch, for different domains at the same time; `extended`
    /// there, too, after it.
    ///
    /// # Errors
    /// No more threads or descriptors.
    pub fn start(
        place: Option<&MailPlace>,
        commit: Commit,
        extended: Extended,
    ) -> io::Result<Self> {
        let config = Config {
            mail: place.is_some(),
            ..Config::default()
        };
        let port = |path: Option<&std::path::PathBuf>, access| Port {
            path: path.cloned().unwrap_or_default(),
            access,
        };
        let answers = Answers::default();
        let (sender, ended) = channel();
        let effects = Effects {
            answers: answers.clone(),
            commit,
            extended,
            ended: sender,
        };
        let (link, _thread) = start(
            "manager mail",
            Manager::new(config),
            port(place.map(|place| &place.inbox), Access::Read),
            port(place.map(|place| &place.outbox), Access::ReadWrite),
            move |effect, link| effects.on(effect, link),
        )?;
        Ok(Self {
            link,
            answers,
            next: AtomicU64::new(1),
            ended: Mutex::new(ended),
            stopped: AtomicBool::new(false),
        })
    }

    /// This host's own request: no mail, but the same commits. `answer` is called
    /// exactly once.
    pub fn extend(
        &self,
        extend: Extend,
        urgent: bool,
        answer: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let request = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        if !self.answers.wait(request, Box::new(answer)) {
            return;
        }
        let command = Command::Local {
            request,
            extend,
            urgent,
        };
        if !self.link.send(command) {
            self.answers.give(request, Outcome::Stopped);
        }
    }

    /// Ends at once: the lease is lost, or may be.
    pub fn lease_lost(&self) {
        self.link.send(Command::LeaseLost);
    }

    /// Lets commits under way end, answers them, and ends; whether it did within
    /// `within`.
    #[must_use]
    pub fn stop(&self, within: Duration) -> bool {
        if self.stopped.swap(true, Ordering::Relaxed) {
            return true;
        }
        self.link.send(Command::Stop);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(within).is_ok()
    }
}

impl Drop for ManagerMail {
    fn drop(&mut self) {
        self.link.send(Command::LeaseLost);
    }
}

struct Effects {
    answers: Answers,
    commit: Commit,
    extended: Extended,
    ended: Sender<()>,
}

impl Effects {
    fn on(&self, effect: Effect, link: &Link<Command>) {
        match effect {
            Effect::Extend(batch) => self.begin(batch, link),
            Effect::Completed { request, outcome } => self.answers.give(request, outcome),
            Effect::Stopped => {
                self.answers.end();
                let _nobody_waits: Result<(), _> = self.ended.send(());
            }
            Effect::Read { .. } | Effect::Write { .. } => {}
        }
    }

    fn begin(&self, batch: Batch, link: &Link<Command>) {
        let (commit, extended, back) = (
            Arc::clone(&self.commit),
            Arc::clone(&self.extended),
            link.clone(),
        );
        let id = batch.id;
        let started = std::thread::Builder::new()
            .name("commit".to_owned())
            .spawn(move || {
                let mut results = commit(&batch);
                // What is missing counts as unknown; too many are nobody's.
                results.truncate(batch.extends.len());
                let done = results
                    .iter()
                    .filter(|result| **result == Committed::Done)
                    .count();
                back.send(Command::Committed(batch.id, results));
                // After the answer: nobody who asked waits for who is told.
                extended(u64::try_from(done).unwrap_or(0));
            });
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for a commit");
            link.send(Command::Committed(id, Vec::new()));
        }
    }
}
