//! What every operation needs for its I/O: names, time-outs, majorities, and
//! the memory of writes that may still land.

use std::collections::VecDeque;

use disk_format::{HostId, LockspaceName};

use crate::code::Code;
use crate::resource::{DISKS_MAX, Effect, Place, SectorBytes};
use crate::time::{Monotonic, Now};
use crate::timings;
use crate::{IoId, IoOutcome};

/// What an I/O is for; those of one purpose on all disks make a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Initial,
    Recheck,
    Phase1Write,
    Phase1Read,
    Phase2Write,
    Phase2Read,
    Commit,
    Lvb,
    OwnerDelta,
    OwnerLeader,
    OwnerDblock,
    SharedRead(HostId),
    SharedZero(HostId),
    OwnMode,
    FreeLvb,
    FreeOwn,
    FreeRead,
    FreeWrite,
    RequestRead,
    RequestWrite,
}

/// Which places an I/O goes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope {
    /// Every disk; a majority must succeed.
    AllDisks,
    /// The first disk only: what has no majority rule.
    FirstDisk,
    /// A host's sector in a lockspace area.
    Delta(LockspaceName, HostId),
}

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Tally {
    asked: u8,
    ok: u8,
    error: Code,
}

impl Tally {
    /// # Errors
    /// The first failure's code, when no majority succeeded.
    pub(super) fn majority(self) -> Result<(), Code> {
        if self.ok > self.asked / 2 {
            Ok(())
        } else {
            Err(self.error)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Round {
    purpose: Purpose,
    asked: u8,
    pending: u8,
    ok: u8,
    error: Code,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Flight {
    io: IoId,
    purpose: Purpose,
    place: Place,
    disk: u8,
    offset: u64,
    /// Bytes a read must bring; `None` for a write.
    wanted: Option<usize>,
    since: Monotonic,
    /// Timed out: its round has ended, but it may still land.
    late: bool,
}

/// Data that arrived.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrived<'a> {
    pub(super) purpose: Purpose,
    pub(super) disk: u8,
    pub(super) bytes: &'a [u8],
    /// When its read was asked for.
    pub(super) since: Monotonic,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Desk {
    pub(super) now: Now,
    timeout_s: u64,
    disks: u8,
    next_io: u64,
    abandoned: bool,
    effects: VecDeque<Effect>,
    flights: Vec<Flight>,
    rounds: Vec<Round>,
}

impl Desk {
    pub(super) fn new(io_timeout_s: u8, disks: u8) -> Self {
        assert!(io_timeout_s > 0, "io_timeout is 1 to 255 seconds");
        assert!(
            (1..=DISKS_MAX).contains(&disks),
            "a lease is on 1 to {DISKS_MAX} disks"
        );
        Self {
            now: Now::default(),
            timeout_s: timings::io_s(io_timeout_s),
            disks,
            next_io: 1,
            abandoned: false,
            effects: VecDeque::new(),
            flights: Vec::new(),
            rounds: Vec::new(),
        }
    }

    /// Seconds of the clock that goes to disk. Never 0, which means "free".
    pub(super) fn timestamp(&self) -> u64 {
        self.now.monotonic.seconds().max(1)
    }

    pub(super) fn timeout_s(&self) -> u64 {
        self.timeout_s
    }

    pub(super) fn advance(&mut self, now: Now) {
        self.now = self.now.max(now);
    }

    pub(super) fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(super) fn read(&mut self, purpose: Purpose, scope: Scope, offset: u64, bytes: u32) {
        self.begin(purpose, scope);
        for (place, disk) in self.places(scope) {
            if self.abandoned {
                self.end_one(purpose, Err(Code::ENOSPC));
                continue;
            }
            let wanted = usize::try_from(bytes).unwrap_or(usize::MAX);
            let io = self.fly(purpose, place, disk, offset, Some(wanted));
            self.effects.push_back(Effect::Read {
                io,
                place,
                offset,
                bytes,
            });
        }
    }

    pub(super) fn write(
        &mut self,
        purpose: Purpose,
        scope: Scope,
        sector: u32,
        sector_bytes: u32,
        content: &SectorBytes,
    ) {
        let offset = u64::from(sector) * u64::from(sector_bytes);
        self.begin(purpose, scope);
        for (place, disk) in self.places(scope) {
            let doubtful = self.flights.iter().any(|flight| {
                flight.wanted.is_none() && flight.place == place && flight.offset == offset
            });
            // An earlier write may yet land on top of this one.
            if doubtful || self.abandoned {
                self.end_one(purpose, Err(Code::AIO_TIMEOUT));
                continue;
            }
            let io = self.fly(purpose, place, disk, offset, None);
            self.effects.push_back(Effect::Write {
                io,
                place,
                offset,
                sector: sector_bytes,
                not_after: self.now.boottime.plus_s(self.timeout_s),
                content: content.clone(),
            });
        }
    }

    fn begin(&mut self, purpose: Purpose, scope: Scope) {
        assert!(
            !self.is_under_way(purpose),
            "one round of a purpose at a time: {purpose:?}"
        );
        let asked = match scope {
            Scope::AllDisks => self.disks,
            Scope::FirstDisk | Scope::Delta(..) => 1,
        };
        self.rounds.push(Round {
            purpose,
            asked,
            pending: asked,
            ok: 0,
            error: Code::ERROR,
        });
    }

    fn places(&self, scope: Scope) -> impl Iterator<Item = (Place, u8)> + use<> {
        let (disks, delta) = match scope {
            Scope::AllDisks => (self.disks, None),
            Scope::FirstDisk => (1, None),
            Scope::Delta(lockspace, host_id) => (1, Some(Place::OwnerDelta { lockspace, host_id })),
        };
        (0..disks).map(move |disk| (delta.unwrap_or(Place::Disk(disk)), disk))
    }

    fn fly(
        &mut self,
        purpose: Purpose,
        place: Place,
        disk: u8,
        offset: u64,
        wanted: Option<usize>,
    ) -> IoId {
        let io = IoId(self.next_io);
        self.next_io += 1;
        self.flights.push(Flight {
            io,
            purpose,
            place,
            disk,
            offset,
            wanted,
            since: self.now.boottime,
            late: false,
        });
        io
    }

    fn end_one(&mut self, purpose: Purpose, result: Result<(), Code>) {
        let Some(round) = self
            .rounds
            .iter_mut()
            .find(|round| round.purpose == purpose)
        else {
            return;
        };
        round.pending = round.pending.saturating_sub(1);
        match result {
            Ok(()) => round.ok += 1,
            Err(code) if round.error == Code::ERROR => round.error = code,
            Err(_) => {}
        }
    }

    /// Takes in an outcome; gives what a read brought.
    pub(super) fn on_io<'a>(&mut self, io: IoId, outcome: IoOutcome<'a>) -> Option<Arrived<'a>> {
        let index = self.flights.iter().position(|flight| flight.io == io)?;
        let flight = self.flights.swap_remove(index);
        if flight.late {
            return None;
        }
        let (result, bytes) = match (outcome, flight.wanted) {
            (IoOutcome::Read(bytes), Some(wanted)) => match bytes.get(..wanted) {
                Some(bytes) => (Ok(()), Some(bytes)),
                None => (Err(Code::EMSGSIZE), None),
            },
            (IoOutcome::Written, None) => (Ok(()), None),
            (IoOutcome::Failed(errno), _) => (Err(Code::errno(errno)), None),
            (IoOutcome::NotStarted, _) => (Err(Code::AIO_TIMEOUT), None),
            (IoOutcome::Read(_), None) | (IoOutcome::Written, Some(_)) => {
                (Err(Code::EMSGSIZE), None)
            }
        };
        self.end_one(flight.purpose, result);
        bytes.map(|bytes| Arrived {
            purpose: flight.purpose,
            disk: flight.disk,
            bytes,
            since: flight.since,
        })
    }

    /// Gives up what took too long.
    pub(super) fn expire(&mut self) {
        let now = self.now.boottime;
        let mut expired = Vec::new();
        for flight in &mut self.flights {
            if !flight.late && flight.since.plus_s(self.timeout_s) <= now {
                flight.late = true;
                expired.push(flight.purpose);
            }
        }
        for purpose in expired {
            self.end_one(purpose, Err(Code::AIO_TIMEOUT));
        }
        self.flights
            .retain(|flight| !flight.late || flight.wanted.is_none());
    }

    /// The next round that has ended.
    pub(super) fn take_ended(&mut self) -> Option<(Purpose, Tally)> {
        let index = self.rounds.iter().position(|round| round.pending == 0)?;
        let round = self.rounds.remove(index);
        let tally = Tally {
            asked: round.asked,
            ok: round.ok,
            error: round.error,
        };
        Some((round.purpose, tally))
    }

    pub(super) fn is_under_way(&self, purpose: Purpose) -> bool {
        self.rounds.iter().any(|round| round.purpose == purpose)
    }

    pub(super) fn rounds_under_way(&self) -> usize {
        self.rounds.len()
    }

    /// Whether shared holders are still being looked at.
    pub(super) fn has_shared_rounds(&self) -> bool {
        self.rounds.iter().any(|round| {
            matches!(
                round.purpose,
                Purpose::SharedRead(_) | Purpose::SharedZero(_)
            )
        })
    }

    /// Reads under way are of no interest any more.
    pub(super) fn forget_reads(&mut self) {
        let flights = &self.flights;
        self.rounds.retain(|round| {
            flights
                .iter()
                .any(|flight| flight.purpose == round.purpose && flight.wanted.is_none())
        });
        self.flights.retain(|flight| flight.wanted.is_none());
    }

    pub(super) fn writes_in_flight(&self) -> usize {
        self.flights
            .iter()
            .filter(|flight| flight.wanted.is_none())
            .count()
    }

    /// No more I/O from here on; what is in flight is only waited for.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.rounds.clear();
        self.flights.retain(|flight| flight.wanted.is_none());
        for flight in &mut self.flights {
            flight.late = true;
        }
    }

    pub(super) fn deadline(&self) -> Option<Monotonic> {
        self.flights
            .iter()
            .filter(|flight| !flight.late)
            .map(|flight| flight.since.plus_s(self.timeout_s))
            .min()
    }
}
