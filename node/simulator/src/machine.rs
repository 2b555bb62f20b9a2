//! One machine: its clocks, its watchdog, at most one daemon, and the users of
//! the leases, who live longer than the daemon.

use std::fmt;

use disk_format::{Generation, Geometry, HostId, HostName, LockspaceName};
use lease::hosts::{Hosts, Names, Viewpoint};
use lease::resource::{Held, Operation};
use lease::{Config, DeltaLease, Now, State};

use crate::clock::Clock;
use crate::watchdog::{ConnectionId, Watchdog};

/// One machine, on or off.
#[derive(Debug)]
pub struct Machine {
    /// A, B, C…
    pub letter: char,
    /// Its part in the lockspace.
    pub config: Config,
    /// How fast its requests are, ns.
    pub latency: u64,
    /// Boots so far; 0 while it never ran.
    pub boots: u32,
    /// Whether it has power.
    pub on: bool,
    /// Its clocks in this boot.
    pub clock: Clock,
    /// Its watchdog in this boot.
    pub watchdog: Watchdog,
    /// World time at which the watchdog is expected to fire.
    pub fire_at: Option<u64>,
    /// World time until which nothing runs, and since when.
    pub frozen: Option<(u64, u64)>,
    /// It is asleep rather than frozen: its monotonic clock stands still.
    pub sleeps: bool,
    /// World time until which the daemon does not run.
    pub daemon_frozen_until: u64,
    /// A time read before a freeze, to be used after it.
    pub stale: Option<Now>,
    /// The daemon.
    pub process: Option<Process>,
    /// A claim was in doubt when the last boot ended; see the fault model.
    pub doubt: bool,
    /// Who counts as a holder of its host id.
    pub tenures: Vec<Tenure>,
    /// Who uses which resource, alive.
    pub holders: Vec<Holder>,
    /// Index: resource. Whether it was granted here since faults stopped.
    pub progress: Vec<bool>,
    /// World time of the next look at the cores' deadlines.
    pub wake_at: Option<u64>,
    /// A boot or a start of the daemon is under way.
    pub starting: bool,
}

/// The daemon.
#[derive(Debug)]
pub struct Process {
    /// Never used twice.
    pub id: u64,
    /// Its lease on the host id, while it wants one.
    pub membership: Option<Membership>,
    /// How its last one ended.
    pub manner: Option<Manner>,
    /// It is about to give its host id back, once all operations have ended.
    pub leaving: bool,
    /// And has asked for it.
    pub asked_to_release: bool,
    /// Index: resource.
    pub seats: Vec<Seat>,
    /// Operations that may still change the disk.
    pub running: Vec<Running>,
}

/// What a daemon knows of one resource.
#[derive(Debug, Default)]
pub struct Seat {
    /// What it holds.
    pub held: Option<Held>,
    /// The lease value block as read at acquire.
    pub lvb: Option<u64>,
    /// The ballot number of what was held last.
    pub mbal: Option<u64>,
    /// The operation under way.
    pub busy: Option<u64>,
}

/// What is asked of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Acquire.
    Acquire {
        /// Shared.
        shared: bool,
        /// With the lease value block.
        lvb: bool,
    },
    /// Release.
    Release {
        /// Writing this.
        lvb: Option<u64>,
    },
    /// Convert.
    Convert {
        /// To shared.
        shared: bool,
    },
    /// Ask the owner for it.
    Request,
    /// Look whether somebody asks.
    Examine,
}

/// An operation.
#[derive(Debug)]
pub struct Running {
    /// Never used twice.
    pub id: u64,
    /// Resource.
    pub resource: usize,
    /// What.
    pub task: Task,
    /// The core.
    pub op: Box<dyn Operation>,
    /// Its result was seen.
    pub told: bool,
    /// Nobody wants it any more.
    pub cancelled: bool,
    /// The membership it was begun in.
    pub membership: ConnectionId,
    /// The generation it was begun with.
    pub generation: Generation,
}

/// Somebody who uses a resource.
#[derive(Debug, Clone, Copy)]
pub struct Holder {
    /// The membership it was granted in.
    pub membership: ConnectionId,
    /// Which resource.
    pub resource: usize,
    /// Together with others.
    pub shared: bool,
    /// The host's generation when it was granted.
    pub generation: Generation,
    /// The lease's version when it was granted.
    pub lver: u64,
}

/// How a membership ended, for the next one in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Whatever it guarded has ended before it.
    Over,
    /// A write of its may have landed on top of anything.
    Uncertain,
}

/// One attempt to be a member of the lockspace, from joining to leaving.
#[derive(Debug)]
pub struct Membership {
    /// Never used twice; also its connection to the watchdog.
    pub id: ConnectionId,
    /// The core.
    pub lease: DeltaLease,
    /// What it knows of the others.
    pub hosts: Hosts,
    /// The core's state after the last input.
    pub was: State,
    /// Readings of the area so far.
    pub readings: u32,
    /// It was held once.
    pub held: bool,
    /// It was lost, its users are dead, and the watchdog knows.
    pub abandoned: bool,
}

/// Somebody relies on this machine's lease on its host id: the daemon said it
/// is held. Ends when the last user is gone.
#[derive(Debug, Clone, Copy)]
pub struct Tenure {
    /// The membership.
    pub membership: ConnectionId,
    /// Its process.
    pub process: u64,
    /// The generation held.
    pub generation: Generation,
}

impl Machine {
    /// Who, for the trace.
    #[must_use]
    pub fn who(&self) -> Who {
        Who(self.letter, self.boots)
    }

    /// When the daemon can act, at `now` or later.
    #[must_use]
    pub fn runs_at(&self, now: u64) -> u64 {
        // The clocks are set right by the thaw itself: nothing comes before it.
        let thaw = self.frozen.map_or(0, |(until, _)| until.max(now) + 1);
        now.max(thaw).max(self.daemon_frozen_until)
    }

    /// The process's membership.
    #[must_use]
    pub fn membership(&self) -> Option<&Membership> {
        self.process.as_ref()?.membership.as_ref()
    }

    /// The lease's state.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        Some(self.membership()?.lease.status().state)
    }

    /// The clocks, or what the daemon believes they say.
    pub fn read_clock(&mut self, now: u64) -> Now {
        self.stale.take().unwrap_or_else(|| self.clock.at(now))
    }
}

impl Membership {
    /// A new one, in the place of one that ended in this manner.
    #[must_use]
    pub fn new(
        id: ConnectionId,
        config: Config,
        geometry: Geometry,
        former: Option<Manner>,
    ) -> Self {
        let view = Viewpoint {
            lockspace: config.lockspace,
            geometry,
            host_id: config.host_id,
            io_timeout_s: config.io_timeout_s,
            fire_timeout_s: config.fire_timeout_s,
            bitmap_s: 6 * u64::from(config.io_timeout_s),
        };
        let mut lease = DeltaLease::new(config);
        match former {
            Some(Manner::Over) => lease.assume_succession(),
            Some(Manner::Uncertain) => lease.assume_uncertain(),
            None => {}
        }
        Self {
            id,
            lease,
            hosts: Hosts::new(view, &Names::default()),
            was: State::Waiting,
            readings: 0,
            held: false,
            abandoned: false,
        }
    }
}

/// The lockspace of all runs.
///
/// # Panics
/// Never: the name is valid.
#[must_use]
pub fn lockspace() -> LockspaceName {
    LockspaceName::new("LS").expect("a valid name")
}

/// What makes a machine's configuration.
///
/// # Panics
/// When `host_id` is not one.
#[must_use]
pub fn config(letter: char, host_id: u16, io_timeout_s: u8, fire_timeout_s: u32) -> Config {
    Config {
        lockspace: lockspace(),
        host_id: HostId::new(u64::from(host_id)).expect("a host id"),
        host_name: HostName::new(&format!("host-{letter}")).expect("a valid name"),
        io_timeout_s,
        fire_timeout_s,
        watchdog: true,
    }
}

/// A machine in one of its boots.
#[derive(Debug, Clone, Copy)]
pub struct Who(pub char, pub u32);

impl fmt::Display for Who {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.0, self.1)
    }
}
