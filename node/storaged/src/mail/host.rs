//! This host's requests to the manager of the pool.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use linux::disk::Access;
use mailbox::host::{Config, Input};
use mailbox::{Effect, Extend, Host, IoId, IoOutcome, Monotonic, Note, Outcome, RequestId};

use super::MailPlace;
use super::answers::Answers;
use super::driver::{Core, Link, Port, start};

pub(super) enum Command {
    Extend(RequestId, Extend),
    Stop,
}

impl Core for Host {
    type Command = Command;

    fn tick(&mut self, now: Monotonic) {
        self.handle(now, Input::Tick);
    }
    fn io(&mut self, now: Monotonic, io: IoId, outcome: IoOutcome<'_>) {
        self.handle(now, Input::Io(io, outcome));
    }
    fn command(&mut self, now: Monotonic, command: Command) {
        match command {
            Command::Extend(request, extend) => self.handle(now, Input::Extend(request, extend)),
            Command::Stop => self.handle(now, Input::Stop),
        }
    }
    fn next_effect(&mut self) -> Option<Effect> {
        Host::next_effect(self)
    }
    fn next_note(&mut self) -> Option<Note> {
        Host::next_note(self)
    }
    fn deadline(&self) -> Option<Monotonic> {
        Host::deadline(self)
    }
}

/// The mailbox of this host. Dropping it ends its thread without waiting.
#[derive(Debug)]
pub struct HostMail {
    link: Link<Command>,
    answers: Answers,
    next: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl HostMail {
    /// Starts the mailbox of host `host_id` (1–249) on the master's volumes.
    /// `seed` is another random number each time.
    ///
    /// # Errors
    /// A host id that has no mailbox; no more threads or descriptors.
    pub fn start(place: &MailPlace, host_id: u16, seed: u64) -> io::Result<Self> {
        if !(1..250).contains(&host_id) {
            return Err(io::Error::other(format!(
                "host id {host_id}: hosts 1 to 249 have a mailbox"
            )));
        }
        let answers = Answers::default();
        let mine = answers.clone();
        let (link, thread) = start(
            "mail",
            Host::new(Config { host_id, seed }),
            Port {
                path: place.inbox.clone(),
                access: Access::ReadWrite,
            },
            Port {
                path: place.outbox.clone(),
                access: Access::Read,
            },
            move |effect, _| match effect {
                Effect::Completed { request, outcome } => mine.give(request, outcome),
                Effect::Stopped => mine.end(),
                Effect::Read { .. } | Effect::Write { .. } | Effect::Extend(_) => {}
            },
        )?;
        Ok(Self {
            link,
            answers,
            next: AtomicU64::new(1),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Asks for a volume to be larger. `answer` is called exactly once, from the
    /// mailbox's thread, unless the mailbox is dropped before.
    pub fn extend(&self, extend: Extend, answer: impl FnOnce(Outcome) + Send + 'static) {
        let request = RequestId(self.next.fetch_add(1, Ordering::Relaxed));
        if !self.answers.wait(request, Box::new(answer)) {
            return;
        }
        if !self.link.send(Command::Extend(request, extend)) {
            self.answers.give(request, Outcome::Stopped);
        }
    }

    /// Asks and waits, at most `within`; `None` when no answer came.
    #[must_use]
    pub fn extend_and_wait(&self, extend: Extend, within: Duration) -> Option<Outcome> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.extend(extend, move |outcome| {
            // Nobody waits any more: the answer is of no use.
            let _gone: Result<(), _> = sender.send(outcome);
        });
        receiver.recv_timeout(within).ok()
    }

    /// Answers every caller, clears the mailbox, and ends; returns when it has.
    pub fn stop(&self) {
        self.link.send(Command::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

impl Drop for HostMail {
    fn drop(&mut self) {
        self.link.send(Command::Stop);
    }
}
