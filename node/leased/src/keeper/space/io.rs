//! What a lockspace reads and writes.

use disk_format::delta;
use lease::hosts::{self, Hosts};
use lease::{Input, IoId, IoOutcome, Monotonic, Record, timings};
use linux::disk::{AlignedBuffer, IoError};
use linux::ring::Operation;

use super::{EIO, SECTORS, Space};
use crate::keeper::pool::Extent;
use crate::keeper::worker::Edges;
use crate::keeper::{Event, now};

/// The same for readings of the area.
const READINGS: usize = 2;
/// Requests in flight at most.
pub(super) const FLIGHTS: usize = SECTORS + READINGS;
/// How long after a whole reading the next ones may end with the first hosts,
/// if nobody was ever seen beyond: 6T and so many ms.
///
/// A host that appears beyond has its record there for 2T and half a second
/// before its first renewal, with which it can call us, and its call stays for
/// 6T. Readings come every 2T and a little, so that between two whole ones no
/// more than 8T and half a second pass: one of them finds the record, and the
/// next of any kind finds the call.
const SHORT_FOR_MS: u64 = 375;

/// A request of ours in the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    token: u64,
    io: IoId,
    kind: Kind,
    since: Monotonic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Reading our sector.
    Own,
    /// Writing it.
    Write,
    /// Reading a part of the area.
    Part(usize),
}

/// The reading of the area the core waits for.
#[derive(Debug)]
pub(super) struct Reading {
    io: IoId,
    extent: Extent,
    /// The part that is read, or waits for a buffer.
    part: usize,
    /// Since when it waits.
    waiting: Option<Monotonic>,
    /// Our own sector, out of its part.
    own: Record,
}

impl Space {
    /// Since when a reading waits for a buffer.
    pub(in crate::keeper) fn waiting(&self) -> Option<(Extent, Monotonic)> {
        let reading = self.reading.as_ref()?;
        Some((reading.extent, reading.waiting?))
    }

    /// Takes in the end of a request of ours.
    pub(in crate::keeper) fn complete(
        &mut self,
        edges: &mut Edges,
        token: u64,
        result: Result<(), IoError>,
        buffer: AlignedBuffer,
    ) {
        let Some(at) = self.flights.iter().position(|flight| flight.token == token) else {
            return;
        };
        let flight = self.flights.swap_remove(at);
        if let Kind::Part(part) = flight.kind {
            return self.complete_part(edges, flight, part, result, buffer);
        }
        let outcome = match result {
            Ok(()) if flight.kind == Kind::Write => IoOutcome::Written,
            Ok(()) => IoOutcome::Read(&buffer),
            Err(error) => failure(error),
        };
        self.lease.handle(now(), Input::Io(flight.io, outcome));
        // Each in flight was taken from there.
        self.sectors.push(buffer).ok();
        self.perform(edges);
    }

    fn complete_part(
        &mut self,
        edges: &mut Edges,
        flight: Flight,
        part: usize,
        result: Result<(), IoError>,
        buffer: AlignedBuffer,
    ) {
        let read_at = now();
        let current = self
            .reading
            .as_mut()
            .filter(|reading| reading.io == flight.io);
        let (Some(reading), Some(opened)) = (current, &self.opened) else {
            // The core has given it up: what it says is too old to be told.
            return edges.take_back(buffer, read_at.boottime);
        };
        if let Err(error) = result {
            self.reading = None;
            edges.take_back(buffer, read_at.boottime);
            return self.tell(edges, Input::Io(flight.io, failure(error)));
        }
        let place = self.join.host_id.index() * opened.geometry.sector_bytes();
        if place / Hosts::PART_BYTES == part
            && let Some(own) = buffer[place % Hosts::PART_BYTES..].first_chunk()
        {
            reading.own = *own;
        }
        let parts = match reading.extent {
            Extent::Short => 1,
            Extent::Part => {
                usize::try_from(opened.geometry.align_size()).unwrap_or(0) / Hosts::PART_BYTES
            }
        };
        if reading.extent == Extent::Part {
            let used = hosts::used_bytes(opened.geometry, part, &buffer);
            if part == 0 {
                self.used_bytes = 0;
            }
            self.used_bytes = self.used_bytes.max(used);
        }
        let event = Event::Area {
            geometry: opened.geometry,
            part,
            buffer,
            asked: flight.since,
            read_at,
        };
        // Whoever has just joined knows nothing of others before the first
        // renewal; whoever waits for a host id wants to know why.
        let wanted = self.told.joined || self.join.persistent;
        edges.lend(self.join.id, event, wanted);
        if part + 1 < parts {
            reading.part = part + 1;
            reading.waiting = Some(read_at.boottime);
        } else {
            let own = reading.own;
            if reading.extent == Extent::Part {
                self.last_whole = Some(flight.since);
            }
            self.reading = None;
            self.tell(edges, Input::Io(flight.io, IoOutcome::Read(&own)));
        }
    }

    /// Reads the next part into a buffer that has become free.
    pub(in crate::keeper) fn read_part(&mut self, edges: &mut Edges, buffer: AlignedBuffer) {
        let Some(reading) = &mut self.reading else {
            return edges.take_back(buffer, now().boottime);
        };
        reading.waiting = None;
        let (io, part) = (reading.io, reading.part);
        let offset = self.join.offset + byte_offset(part * Hosts::PART_BYTES);
        self.submit(
            edges,
            io,
            Kind::Part(part),
            Operation::Read { offset },
            buffer,
        );
    }

    fn submit(
        &mut self,
        edges: &mut Edges,
        io: IoId,
        kind: Kind,
        operation: Operation,
        buffer: AlignedBuffer,
    ) {
        let Some(opened) = &self.opened else { return };
        let token = u64::from(self.join.id.0) << 32 | u64::from(self.next_token);
        self.next_token = self.next_token.wrapping_add(1);
        let flight = Flight {
            token,
            io,
            kind,
            since: now().boottime,
        };
        assert!(
            self.flights.push(flight).is_ok(),
            "every request has a buffer, and there is room for all"
        );
        edges.ring.submit(token, &opened.device, operation, buffer);
    }

    /// Reads or writes our own sector; without a buffer it is not started.
    pub(super) fn own_sector(
        &mut self,
        edges: &mut Edges,
        io: IoId,
        write: Option<(Monotonic, &Record)>,
    ) {
        let (Some(opened), Some(mut buffer)) = (&self.opened, self.sectors.pop()) else {
            return self
                .lease
                .handle(now(), Input::Io(io, IoOutcome::NotStarted));
        };
        let place = self.join.host_id.index() * opened.geometry.sector_bytes();
        let offset = self.join.offset + byte_offset(place);
        let (kind, operation) = match write {
            None => (Kind::Own, Operation::Read { offset }),
            Some((not_after, record)) => {
                // The rest of a 4096-byte sector is zero.
                buffer.fill(0);
                buffer[..delta::RECORD_BYTES].copy_from_slice(record);
                let not_after_ns = Some(not_after.0);
                let operation = Operation::Write {
                    offset,
                    not_after_ns,
                };
                (Kind::Write, operation)
            }
        };
        self.submit(edges, io, kind, operation, buffer);
    }

    /// How much the next reading is to read.
    fn extent(&self) -> Extent {
        let t = self.join.io_timeout_s;
        let short_for_ms = 3 * timings::renewal_s(t) * 1000 + SHORT_FOR_MS;
        let due = !self.told.joined
            || self
                .last_whole
                .is_none_or(|at| now().boottime >= at.plus_ms(short_for_ms));
        let sector_bytes = self
            .opened
            .as_ref()
            .map_or(0, |opened| opened.geometry.sector_bytes());
        let own = (self.join.host_id.index() + 1) * sector_bytes;
        if due || self.used_bytes.max(own) > Extent::Short.bytes() {
            Extent::Part
        } else {
            Extent::Short
        }
    }

    /// Begins a reading, which waits for a buffer.
    pub(super) fn read_area(&mut self, io: IoId) {
        let in_flight = self
            .flights
            .iter()
            .filter(|flight| matches!(flight.kind, Kind::Part(_)))
            .count();
        if in_flight >= READINGS || self.opened.is_none() {
            return self
                .lease
                .handle(now(), Input::Io(io, IoOutcome::NotStarted));
        }
        self.reading = Some(Reading {
            io,
            extent: self.extent(),
            part: 0,
            waiting: Some(now().boottime),
            own: [0; delta::RECORD_BYTES],
        });
    }
}

fn failure(error: IoError) -> IoOutcome<'static> {
    match error {
        IoError::Expired => IoOutcome::NotStarted,
        IoError::Os(error) => IoOutcome::Failed(error),
        IoError::Short(_) => IoOutcome::Failed(EIO),
    }
}

/// usize is 64 bits wide on every machine this runs on.
fn byte_offset(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
