//! Between the loop and [`crate::resources`]: its effects are done here, and
//! what came of them is told.

use std::sync::Arc;

use lease::{IoOutcome as Ended, Now};
use sanlock_wire::Reply;

use super::disks::{DoneAs, Where};
use super::helper::{Order, Sent, Tag};
use super::{Daemon, Outcome, now};
use crate::resources::{ClientId, Device, Effect, Input, Level, Line, Signal};

/// Rounds of one turn of the loop: what goes on for longer goes on after the
/// clients had theirs.
const ROUNDS_MAX: usize = 64;

impl Daemon {
    /// Tells the leases what happened and does what follows.
    pub(super) fn tell(&mut self, input: Input<'_>) {
        self.resources.handle(now(), input, &self.spaces);
        while let Some(effect) = self.resources.next_effect() {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Submit {
                operation,
                token,
                device,
                io,
            } => {
                let place = match &device {
                    Device::Disk(handle) => Where::Path(handle.disk().path.as_bytes()),
                    Device::Space(space) => Where::Space(*space),
                };
                let at = now().boottime;
                self.disks.submit(operation, token, place, io, at);
            }
            Effect::OperationEnded(operation) => self.disks.ended(operation, now().boottime),
            Effect::Reply { to, result, body } => {
                let target = self.pending.get(&to).and_then(|pending| pending.target);
                let result = result.0;
                self.answer(to, &Reply { result, body });
                self.spare(target);
            }
            Effect::Signal {
                client,
                pid,
                signal,
            } => self.signal(client, pid, signal),
            Effect::RunKillpath {
                client,
                pid,
                otherwise,
            } => {
                // A request's killpath never gets the process id.
                if !self.run_killpath(client, false) {
                    self.signal(client, pid, otherwise);
                }
            }
            Effect::MarkHost { space, host_id } => self.mark_host(space, host_id),
            Effect::Log(line) => self.log_line(&line),
        }
    }

    /// A client that has released everything is no longer to be killed.
    fn spare(&mut self, client: Option<ClientId>) {
        if let Some(id) = client
            && let Some(client) = self.clients.get_mut(id)
            && client.kill_count > 0
            && self.resources.client_leases(id) == 0
        {
            client.survive();
        }
    }

    /// Has the helper signal a process, unless another one has its number by
    /// now.
    pub(super) fn signal(&mut self, client: ClientId, pid: i32, signal: Signal) {
        let start = self
            .clients
            .get(client)
            .map_or(0, |client| client.start_time);
        let Ok(pid) = u32::try_from(pid) else { return };
        let order = Order::Signal {
            tag: Tag::Signal(client).number(),
            pid,
            start,
            signal: match signal {
                Signal::Term => Sent::Term,
                Signal::Kill => Sent::Kill,
            },
        };
        self.order(&order);
    }

    /// Runs a client's killpath program; `false`: it has none.
    pub(super) fn run_killpath(&mut self, id: ClientId, may_have_pid: bool) -> bool {
        let Some(client) = self.clients.get(id) else {
            return false;
        };
        let Some(killpath) = client.killpath.clone() else {
            return false;
        };
        let pid = u32::try_from(client.pid).ok();
        self.log.warn(format_args!(
            "killpath of {client}: {}",
            killpath.path.escape_ascii()
        ));
        let order = Order::Run {
            tag: Tag::Killpath(id).number(),
            path: &killpath.path,
            arguments: &killpath.arguments,
            pid: pid.filter(|_| may_have_pid && killpath.with_pid),
        };
        self.order(&order);
        true
    }

    fn log_line(&mut self, line: &Line) {
        let unsaid = match self.chatter.allows(now().boottime) {
            None => return,
            Some(unsaid) => unsaid,
        };
        if unsaid > 0 {
            self.log
                .warn(format_args!("{unsaid} lines about leases left out"));
        }
        let space = line.space.map(|id| id.0);
        let text = format_args!("{}{}", Place(space, line.resource), line.text);
        match line.level {
            Level::Error => self.log.error(text),
            Level::Warning => self.log.warn(text),
            Level::Contention if self.options.quiet_fail => self.log.debug(text),
            Level::Contention => self.log.warn(text),
        }
    }

    /// Takes in everything that has come back, and hands out what follows,
    /// until there is nothing left of either.
    pub(super) fn pump(&mut self, at: Now) {
        for _ in 0..ROUNDS_MAX {
            let mut any = self.pump_keeper(at);
            self.disks.pump();
            while let Some(done) = self.disks.next_done() {
                any = true;
                match done.outcome {
                    DoneAs::Read(buffer) => {
                        self.tell(Input::Io(done.token, Ended::Read(&buffer)));
                        self.disks.recycle(buffer);
                    }
                    DoneAs::Written => self.tell(Input::Io(done.token, Ended::Written)),
                    DoneAs::Failed(error) => {
                        self.tell(Input::Io(done.token, Ended::Failed(error)));
                    }
                    DoneAs::NotStarted => self.tell(Input::Io(done.token, Ended::NotStarted)),
                }
            }
            while let Some(errand) = self.disks.next_errand() {
                any = true;
                let path = Arc::clone(errand.path());
                let work = errand.clone();
                let started = self
                    .jobs
                    .start(&path, Box::new(move || Outcome::Found(work.run())));
                if !started {
                    self.disks.refused(&errand);
                }
            }
            while let Some(outcome) = self.jobs.next_done() {
                any = true;
                match outcome {
                    Outcome::Found(found) => self.disks.found(found),
                    Outcome::Stored(to, stored) => self.on_stored(to, stored),
                }
            }
            self.pump_spaces();
            if !any {
                return;
            }
        }
    }
}

/// `s1:r2 ` in front of a message about a lockspace and a resource.
#[derive(Debug)]
pub(super) struct Place(pub(super) Option<u32>, pub(super) Option<u32>);

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, self.1) {
            (Some(space), Some(resource)) => write!(out, "s{space}:r{resource} "),
            (Some(space), None) => write!(out, "s{space} "),
            (None, Some(resource)) => write!(out, "r{resource} "),
            (None, None) => Ok(()),
        }
    }
}
