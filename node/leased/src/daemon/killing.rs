//! Ending the users of a lockspace (spec §6.6), and letting go of it when
//! there are none left.

use lease::{Monotonic, Now, timings};
use sanlock_wire::RestrictFlags;

use super::space::{Phase, Space};
use super::{Daemon, now};
use crate::keeper::SpaceId;
use crate::resources::{ClientId, Signal};

/// Attempts on one client; beyond them only the watchdog helps.
const KILLS_MAX: u32 = 100;
/// Seconds between attempts.
const PASS_S: u64 = 1;

/// Why the users of a lockspace must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// `REM_LOCKSPACE`: SIGKILL.
    Removed,
    /// Forced shutdown: SIGKILL.
    Shutdown,
    /// The delta lease is lost: killpath or SIGTERM, after the grace SIGKILL.
    Lost {
        /// When its last successful renewal was submitted.
        last_success: Monotonic,
    },
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Killing {
    pub(super) reason: Reason,
    began: Monotonic,
    /// When the next signals are due.
    pub(super) next: Monotonic,
    pub(super) passes: u32,
}

impl Daemon {
    /// Begins to end the users of a lockspace; harmless when that has begun.
    pub(super) fn begin_killing(&mut self, id: SpaceId, reason: Reason) {
        let at = now();
        let Some(space) = self.spaces.get_mut(id) else {
            return;
        };
        let by_order = !matches!(reason, Reason::Lost { .. });
        if space.phase == Phase::Adding {
            // Nobody uses it yet.
            space.phase = Phase::Removing;
            space.leaving = true;
            self.keeper.leave(id);
            return;
        }
        if by_order {
            space.phase = Phase::Removing;
        } else if space.leaving || space.phase == Phase::Removing {
            // Already ending, now with nothing to release on disk.
            let name = space.name;
            self.tell_dying(name, true);
            return;
        }
        let began = space.killing.map_or(at.boottime, |killing| killing.began);
        space.killing = Some(Killing {
            reason,
            began,
            next: at.boottime,
            passes: 0,
        });
        space.validate(None);
        let (name, lost) = (space.name, space.lost.is_some());
        self.tell_dying(name, lost);
        self.kill_users(id, at);
    }

    /// Everything about lockspaces that is due.
    pub(super) fn spaces_tick(&mut self, at: Now) {
        for id in self.spaces.ids() {
            let Some(space) = self.spaces.get(id) else {
                continue;
            };
            if space
                .killing
                .is_some_and(|killing| killing.next <= at.boottime)
            {
                self.kill_users(id, at);
            }
            self.expire_calls(id, at.boottime);
        }
    }

    /// Lets go of lockspaces that nobody uses any more.
    pub(super) fn pump_spaces(&mut self) {
        let ending = |space: &Space| space.killing.is_some() && !space.leaving;
        if !self.spaces.iter().any(ending) {
            return;
        }
        let at = now().boottime;
        for id in self.spaces.ids() {
            let Some(space) = self.spaces.get(id) else {
                continue;
            };
            let Some(killing) = space.killing.filter(|_| !space.leaving) else {
                continue;
            };
            // A write that is still in the kernel's hands may land after
            // others have taken what is on the disk: the watchdog must not be
            // called off. By this time it has fired, where there is one.
            let dead_s = timings::host_dead_s(space.io_timeout_s, self.options.fire_timeout_s);
            let writing = self.resources.is_busy(&space.name) && at < killing.began.plus_s(dead_s);
            if writing || self.is_used(space) {
                continue;
            }
            let lost = space.lost.is_some();
            if lost && space.persistent && space.phase == Phase::Joined {
                // Stays as it is: the watchdog resets the machine.
                continue;
            }
            self.log
                .info(format_args!("{id} no users left, lost {lost}"));
            if lost && !space.persistent {
                self.keeper.abandon(id);
            } else {
                self.keeper.leave(id);
            }
            if let Some(space) = self.spaces.get_mut(id) {
                space.leaving = true;
            }
        }
    }

    /// Whether anybody uses a lockspace that shall end.
    fn is_used(&self, space: &Space) -> bool {
        space.used
            || (space.used_by_orphans && self.resources.has_orphans(&space.name))
            || self.resources.holders(&space.name).next().is_some()
    }

    /// One pass over the users of a lockspace.
    fn kill_users(&mut self, id: SpaceId, at: Now) {
        let grace_s = u64::from(self.options.kill_grace_s());
        let Some(space) = self.spaces.get_mut(id) else {
            return;
        };
        let io_timeout_s = space.io_timeout_s;
        let name = space.name;
        let Some(killing) = &mut space.killing else {
            return;
        };
        killing.passes = killing.passes.saturating_add(1);
        killing.next = at.boottime.plus_s(PASS_S);
        // Until then clients may end in their own way.
        let gentle_until = match killing.reason {
            Reason::Removed | Reason::Shutdown => None,
            Reason::Lost { last_success } => {
                let until = last_success.plus_s(timings::lost_s(io_timeout_s) + grace_s);
                Some(until).filter(|until| *until > at.boottime)
            }
        };
        if let Some(until) = gentle_until {
            killing.next = killing.next.min(until);
        }
        let users: Vec<(ClientId, i32)> = self
            .resources
            .holders(&name)
            .map(|(client, pid, _)| (client, pid))
            .collect();
        for (client, pid) in users {
            self.kill(id, client, pid, gentle_until.is_some(), at.boottime);
        }
    }

    fn kill(&mut self, space: SpaceId, id: ClientId, pid: i32, gently: bool, at: Monotonic) {
        let Some(client) = self.clients.get_mut(id) else {
            return;
        };
        if client.kill_count >= KILLS_MAX {
            return;
        }
        client.kill_count += 1;
        client.kill_last = Some(at);
        if client.kill_count == KILLS_MAX {
            self.log.error(format_args!(
                "{space} pid {pid} does not end after {KILLS_MAX} signals; only the watchdog helps"
            ));
        }
        if gently && client.killpath.is_some() {
            if !client.killpath_run {
                client.killpath_run = true;
                self.run_killpath(id, true);
            }
            return;
        }
        let wanted = if gently { Signal::Term } else { Signal::Kill };
        let signal = match wanted {
            Signal::Kill if client.restricted.has(RestrictFlags::SIGKILL) => Signal::Term,
            Signal::Term if client.restricted.has(RestrictFlags::SIGTERM) => Signal::Kill,
            wanted => wanted,
        };
        let count = client.kill_count;
        self.log.warn(format_args!(
            "{space} kill pid {pid} {signal:?} count {count}"
        ));
        self.signal(id, pid, signal);
    }

    /// Whether a target may be given new leases.
    pub(super) fn is_being_killed(&self, id: ClientId) -> bool {
        self.clients
            .get(id)
            .is_some_and(|client| client.kill_count > 0)
    }
}

impl super::spaces::Spaces {
    /// When something about lockspaces is due.
    pub(super) fn deadline(&self) -> Option<Monotonic> {
        self.iter()
            .filter_map(|space| {
                let kill = space
                    .killing
                    .filter(|_| !space.leaving)
                    .map(|killing| killing.next);
                [kill, space.calls_due].into_iter().flatten().min()
            })
            .min()
    }
}
