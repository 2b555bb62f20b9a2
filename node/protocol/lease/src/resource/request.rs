//! Asking a lease's owner to give it up, and looking whether somebody asks us.

use disk_format::{Geometry, HostId, Leader, RequestRecord, paxos};

use crate::code::Code;
use crate::resource::desk::{Arrived, Desk, Purpose, Scope, Tally};
use crate::resource::{Effect, Input, Operation, Outcome, Owners, SectorBytes, Target, Us, scan};
use crate::time::{Monotonic, Now};

/// What to ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RequestOptions {
    /// The version wanted; 0 with a `force_mode` of 0 withdraws whatever is
    /// asked for.
    pub lver: u64,
    /// With `lver` 0: the version after the current one.
    pub next_lver: bool,
    /// [`RequestRecord::FORCE`], [`RequestRecord::GRACEFUL`], or 0.
    pub force_mode: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    New,
    /// Reading the leader and the request record: neighbours, one read.
    Reading,
    Writing(Option<HostId>),
    Done,
}

/// Writes a request (spec §5.1); [`Outcome::notify`] names the owner, whose
/// bit our next renewals shall carry. Only the first disk is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Request {
    us: Us,
    target: Target,
    options: RequestOptions,
    geometry: Geometry,
    desk: Desk,
    stage: Stage,
    seen: Option<(Leader, RequestRecord)>,
    refused: Option<Code>,
    /// The geometry was found to be another one.
    again: bool,
    result: Option<Outcome>,
}

/// Leader and request record.
const SECTORS: u32 = 2;

impl Request {
    /// A request for the lease.
    ///
    /// # Panics
    /// When the I/O timeout is 0 or the number of disks is not 1–4.
    #[must_use]
    pub fn new(us: Us, target: Target, options: RequestOptions) -> Self {
        Self {
            us,
            target,
            options,
            geometry: target.geometry,
            desk: Desk::new(us.io_timeout_s, target.disks),
            stage: Stage::New,
            seen: None,
            refused: None,
            again: false,
            result: None,
        }
    }

    fn withdraws(&self) -> bool {
        self.options.lver == 0 && self.options.force_mode == 0 && !self.options.next_lver
    }

    fn read(&mut self) {
        self.stage = Stage::Reading;
        let bytes = SECTORS * self.geometry.sector_size();
        self.desk
            .read(Purpose::RequestRead, Scope::FirstDisk, 0, bytes);
    }

    fn on_data(&mut self, arrived: Arrived<'_>) {
        let read =
            scan::leader_of(arrived.bytes, &self.target, self.us.host_id).and_then(|leader| {
                let geometry = Geometry::from_leader(leader.sector_size, leader.flags)?;
                if geometry != self.geometry {
                    self.geometry = geometry;
                    self.again = true;
                }
                let record = paxos::Area::new(arrived.bytes, geometry).request();
                Ok((leader, record.unwrap_or(RequestRecord::NONE)))
            });
        match read {
            Ok(seen) => self.seen = Some(seen),
            Err(code) => self.refused = Some(code),
        }
    }

    fn end(&mut self, code: Code, notify: Option<HostId>) {
        self.result = Some(Outcome {
            notify,
            seen: self.seen.map(|(leader, _)| leader),
            ..Outcome::new(code)
        });
        self.stage = Stage::Done;
    }

    fn on_round(&mut self, tally: Tally) {
        match (self.stage, tally.majority()) {
            (Stage::Reading | Stage::Writing(_), Err(code)) => self.end(code, None),
            (Stage::Writing(notify), Ok(())) => self.end(Code::OK, notify),
            (Stage::Reading, Ok(())) => {
                if std::mem::take(&mut self.again) && self.refused.is_none() {
                    return self.read();
                }
                if let Err(code) = self.decide() {
                    self.end(code, None);
                }
            }
            (Stage::New | Stage::Done, _) => {}
        }
    }

    fn decide(&mut self) -> Result<(), Code> {
        let Some((leader, record)) = self.seen else {
            return Err(self.refused.unwrap_or(Code::ERROR));
        };
        let mut lver = self.options.lver;
        if !self.withdraws() {
            if leader.timestamp == 0 {
                self.end(Code::OK, None);
                return Ok(());
            }
            if lver == 0 && self.options.next_lver {
                lver = leader.lver.saturating_add(1);
            }
            if leader.lver >= lver {
                return Err(Code::REQUEST_OLD);
            }
        }
        // Numbers of its own for what leader records call -223 and -224.
        record.verify().map_err(|error| match Code::from(error) {
            Code::LEADER_MAGIC => Code::REQUEST_MAGIC,
            Code::LEADER_VERSION => Code::REQUEST_VERSION,
            other => other,
        })?;
        let notify = if self.withdraws() {
            None
        } else if record.lver > lver {
            return Err(Code::REQUEST_LVER);
        } else {
            HostId::new(leader.owner_id).ok()
        };
        self.stage = Stage::Writing(notify);
        let wanted = RequestRecord::new(lver, self.options.force_mode);
        self.desk.write(
            Purpose::RequestWrite,
            Scope::FirstDisk,
            paxos::REQUEST_SECTOR,
            self.geometry.sector_size(),
            &SectorBytes::record(&wanted.encode()),
        );
        Ok(())
    }
}

impl Operation for Request {
    fn handle(&mut self, now: Now, input: Input<'_>, _: &dyn Owners) {
        self.desk.advance(now);
        match input {
            Input::Start => {
                if self.stage == Stage::New {
                    self.read();
                }
            }
            Input::Io(io, outcome) => {
                if let Some(arrived) = self.desk.on_io(io, outcome) {
                    self.on_data(arrived);
                }
            }
            Input::Tick | Input::OwnerChanged | Input::Cancel => {}
            Input::Abandon => {
                self.desk.abandon();
                if self.result.is_none() {
                    self.end(Code::ENOSPC, None);
                }
            }
        }
        self.desk.expire();
        while let Some((_, tally)) = self.desk.take_ended() {
            self.on_round(tally);
        }
    }

    fn next_effect(&mut self) -> Option<Effect> {
        self.desk.next_effect()
    }

    fn deadline(&self) -> Option<Monotonic> {
        self.desk.deadline()
    }

    fn result(&self) -> Option<&Outcome> {
        self.result.as_ref()
    }

    fn is_drained(&self) -> bool {
        self.stage == Stage::Done && self.desk.writes_in_flight() == 0
    }

    fn writes_in_flight(&self) -> usize {
        self.desk.writes_in_flight()
    }
}

/// Reads the request record of a lease we hold (spec §5.2). A result of 0 with
/// [`Outcome::request`]: somebody asks for a version newer than the one held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Examine {
    geometry: Geometry,
    lver: u64,
    desk: Desk,
    record: Option<RequestRecord>,
    refused: Option<Code>,
    result: Option<Outcome>,
}

impl Examine {
    /// `geometry` is the resource's, `lver` the version held.
    ///
    /// # Panics
    /// When the I/O timeout is 0.
    #[must_use]
    pub fn new(us: Us, geometry: Geometry, lver: u64) -> Self {
        Self {
            geometry,
            lver,
            desk: Desk::new(us.io_timeout_s, 1),
            record: None,
            refused: None,
            result: None,
        }
    }

    fn on_data(&mut self, arrived: Arrived<'_>) {
        let record = RequestRecord::decode(arrived.bytes)
            .and_then(|record| record.verify().map(|()| record));
        match record.map_err(Code::from) {
            Ok(record) => self.record = Some(record),
            Err(Code::LEADER_MAGIC) => self.refused = Some(Code::REQUEST_MAGIC),
            Err(Code::LEADER_VERSION) => self.refused = Some(Code::REQUEST_VERSION),
            Err(code) => self.refused = Some(code),
        }
    }
}

impl Operation for Examine {
    fn handle(&mut self, now: Now, input: Input<'_>, _: &dyn Owners) {
        self.desk.advance(now);
        match input {
            Input::Start => {
                let sector = self.geometry.sector_size();
                let offset = u64::from(paxos::REQUEST_SECTOR) * u64::from(sector);
                self.desk
                    .read(Purpose::RequestRead, Scope::FirstDisk, offset, sector);
            }
            Input::Io(io, outcome) => {
                if let Some(arrived) = self.desk.on_io(io, outcome) {
                    self.on_data(arrived);
                }
            }
            Input::Tick | Input::OwnerChanged | Input::Cancel => {}
            Input::Abandon => {
                self.desk.abandon();
                self.result
                    .get_or_insert_with(|| Outcome::new(Code::ENOSPC));
            }
        }
        self.desk.expire();
        while let Some((_, tally)) = self.desk.take_ended() {
            let wanted = self.record.filter(|record| {
                record.force_mode != 0 && record.lver != 0 && record.lver > self.lver
            });
            let code = match tally.majority() {
                Err(code) => code,
                Ok(()) => self.refused.unwrap_or(Code::OK),
            };
            self.result = Some(Outcome {
                request: wanted,
                ..Outcome::new(code)
            });
        }
    }

    fn next_effect(&mut self) -> Option<Effect> {
        self.desk.next_effect()
    }

    fn deadline(&self) -> Option<Monotonic> {
        self.desk.deadline()
    }

    fn result(&self) -> Option<&Outcome> {
        self.result.as_ref()
    }

    fn is_drained(&self) -> bool {
        self.result.is_some()
    }

    fn writes_in_flight(&self) -> usize {
        0
    }
}
