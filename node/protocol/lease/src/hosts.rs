//! What is believed of every host of the lockspace, from nothing but watching
//! its record change (spec §3.6), and what other hosts tell us by their
//! bitmaps (spec §5.2).
//!
//! A host that never acquired its lease costs no memory, one that did a few
//! dozen bytes, so that a machine can watch tens of thousands.
//!
//! What is said of a host's death never rests on time alone: it takes a look
//! at the record that found it unchanged when its lease had surely ended. So a
//! machine that did not look for a while does not bury the living.

mod names;
mod notices;

use std::sync::Arc;

use disk_format::delta::{self, BITMAP_OFFSET};
use disk_format::{Generation, Geometry, HostExtras, HostId, LockspaceName, NameField};

pub use names::Names;
pub use notices::Notice;
use notices::Notices;

use crate::time::Monotonic;
use crate::timings;

/// Belief about a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// Its lease is free.
    Free,
    /// Not seen changing since the first look, which is not long ago; or its
    /// record was wiped.
    Unknown,
    /// Renewing (or ourselves).
    Live,
    /// No renewal for 8 × its I/O timeout.
    Fail,
    /// No renewal for 8 × its I/O timeout + the watchdog's time.
    Dead,
}

impl Belief {
    /// The original's number (low 4 bits of a host's flags).
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Unknown => 1,
            Self::Free => 2,
            Self::Live => 3,
            Self::Fail => 4,
            Self::Dead => 5,
        }
    }
}

/// What was seen of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Host id in its record; 0 = never acquired.
    pub owner_id: u64,
    /// Generation.
    pub generation: Generation,
    /// Its clock at its last renewal, seconds; 0 = free.
    pub timestamp: u64,
    /// Its I/O timeout, seconds; ours if its record says 0.
    pub io_timeout_s: u8,
    /// Its unique name.
    pub name: NameField,
    /// First look.
    pub first_check: Option<Monotonic>,
    /// Latest look.
    pub last_check: Option<Monotonic>,
    /// When the latest look had begun.
    pub last_asked: Option<Monotonic>,
    /// Latest look that showed a change; `None`: none has yet.
    pub last_live: Option<Monotonic>,
    /// When it last asked us to look at our leases' requests.
    pub last_request: Option<Monotonic>,
    /// Whether the latest look found no valid record.
    pub damaged: bool,
}

impl Host {
    /// What to believe of it at `now`.
    #[must_use]
    pub fn belief(&self, now: Monotonic, fire_timeout_s: u32) -> Belief {
        if self.timestamp == 0 {
            // Zeros where its record should be do not say that it gave it back.
            return if self.damaged {
                Belief::Unknown
            } else {
                Belief::Free
            };
        }
        let Some(last) = self.last_live.or(self.first_check) else {
            return Belief::Unknown;
        };
        if now <= last.plus_s(timings::lost_s(self.io_timeout_s)) {
            if self.first_check == self.last_live {
                Belief::Unknown
            } else {
                Belief::Live
            }
        } else if self.is_dead(now, fire_timeout_s) {
            Belief::Dead
        } else {
            Belief::Fail
        }
    }

    /// Whether it is surely dead: its lease had ended when it was last looked
    /// at, and its watchdog has had its time since.
    fn is_dead(&self, now: Monotonic, fire_timeout_s: u32) -> bool {
        let (Some(last), Some(asked)) = (self.last_live.or(self.first_check), self.last_asked)
        else {
            return false;
        };
        now > last.plus_s(timings::host_dead_s(self.io_timeout_s, fire_timeout_s))
            && asked > last.plus_s(timings::lost_s(self.io_timeout_s))
    }

    /// Whether it may still be using what it locked as `generation` (spec
    /// §3.6, `host_live`). Of a generation newer than the one seen nothing is
    /// known: the latest look may be older than its acquisition.
    #[must_use]
    pub fn may_live(&self, generation: Generation, now: Monotonic, fire_timeout_s: u32) -> bool {
        let given_back = self.timestamp == 0 && !self.damaged;
        let over = given_back || self.is_dead(now, fire_timeout_s);
        generation > self.generation || (generation == self.generation && !over)
    }
}

/// A host that was ever seen to have acquired its lease, in as few bytes as
/// possible: there may be 2000 in each of many lockspaces.
#[derive(Debug)]
struct Entry {
    name: Arc<NameField>,
    generation: Generation,
    timestamp: u64,
    /// 0: no change seen yet.
    last_live: Monotonic,
    /// Owner ids beyond 32 bits, which only a damaged record can have, are all
    /// the same.
    owner_id: u32,
    host: HostId,
    io_timeout_s: u8,
    damaged: bool,
}

const _: () = assert!(size_of::<Entry>() <= 40);

/// When a part of the area was looked at; every host in it has these times.
#[derive(Debug, Clone, Copy, Default)]
struct Looks {
    first: Option<Monotonic>,
    last: Option<Monotonic>,
    /// When the request of the last one was made: what it saw is not older.
    asked: Option<Monotonic>,
}

/// What one look at a part of the area has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Hosts whose record changed.
    pub renewed: usize,
    /// Of those: hosts that gave their lease back or acquired it anew. Whoever
    /// waits for one of them need not wait any longer.
    pub replaced: usize,
    /// What other hosts want of us. At most one of each kind a host.
    pub notices: Vec<Notice>,
}

/// Whose area is looked at, by whom.
#[derive(Debug, Clone, Copy)]
pub struct Viewpoint {
    /// The lockspace.
    pub lockspace: LockspaceName,
    /// Its geometry.
    pub geometry: Geometry,
    /// Our host id.
    pub host_id: HostId,
    /// Our T, seconds: stands in where a record says 0.
    pub io_timeout_s: u8,
    /// The watchdogs' fire timeout, seconds.
    pub fire_timeout_s: u32,
    /// Seconds for which a host's repeated request counts as one.
    pub bitmap_s: u64,
}

/// All hosts of a lockspace.
#[derive(Debug)]
pub struct Hosts {
    view: Viewpoint,
    names: Names,
    /// Ascending by host id.
    entries: Vec<Entry>,
    /// By range of the area: the head, then the rest of each part.
    looks: [Looks; 1 + Self::PARTS_MAX],
    notices: Notices,
}

impl Hosts {
    /// The area is read, and looked at, in parts of this size.
    pub const PART_BYTES: usize = 1 << 20;
    /// So much of the first part may be read alone.
    pub const HEAD_BYTES: usize = 128 << 10;
    const PARTS_MAX: usize = 8;

    /// Nothing seen yet. Lockspaces that share `names` keep each host's name
    /// once.
    #[must_use]
    pub fn new(view: Viewpoint, names: &Names) -> Self {
        Self {
            view,
            names: names.clone(),
            entries: Vec::new(),
            looks: [Looks::default(); 1 + Self::PARTS_MAX],
            notices: Notices::default(),
        }
    }

    /// Takes in part `number` of the area, or the [`Self::HEAD_BYTES`] of the
    /// first if no host behind was ever seen to acquire its lease, whose
    /// reading was asked for at `asked` and done by `now` on the boot-time clock. Checksums of other
    /// hosts' records are not verified, as in the original: only change
    /// matters here.
    pub fn observe(
        &mut self,
        asked: Monotonic,
        now: Monotonic,
        number: usize,
        part: &[u8],
    ) -> Changes {
        let mut changes = Changes::default();
        let sector_bytes = self.view.geometry.sector_bytes();
        let first_index = number * (Self::PART_BYTES / sector_bytes);
        if number >= Self::PARTS_MAX {
            return changes;
        }
        let head = (number == 0).then_some(0);
        let rest = (part.len() > Self::HEAD_BYTES || number > 0).then_some(1 + number);
        for range in head.into_iter().chain(rest) {
            let looks = &mut self.looks[range];
            looks.first.get_or_insert(now);
            looks.last = Some(now);
            looks.asked = Some(asked);
        }
        let sectors = usize::from(self.view.geometry.max_hosts()).saturating_sub(first_index);
        let mut at = self
            .entries
            .partition_point(|entry| entry.host.index() < first_index);
        for (place, sector) in part.chunks_exact(sector_bytes).take(sectors).enumerate() {
            let index = first_index + place;
            match self.entries.get(at) {
                Some(entry) if entry.host.index() == index => {
                    if !entry.is_unchanged(sector, &self.view.lockspace) {
                        self.update(now, at, sector, &mut changes);
                    }
                    at += 1;
                }
                _ => {
                    if !never_acquired(sector)
                        && let Some(host) = HostId::from_index(index)
                    {
                        self.insert(at, host);
                        self.update(now, at, sector, &mut changes);
                        at += 1;
                    }
                }
            }
        }
        changes
    }

    fn insert(&mut self, at: usize, host: HostId) {
        // Grown by an eighth, not doubled: what is not used is resident, too.
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / 8 + 4);
        }
        let entry = Entry {
            name: self.names.keep(&NameField::EMPTY),
            generation: Generation(0),
            timestamp: 0,
            last_live: Monotonic(0),
            owner_id: 0,
            host,
            io_timeout_s: self.view.io_timeout_s,
            damaged: false,
        };
        self.entries.insert(at, entry);
    }

    /// Takes in the sector of entry `at`, which is not what it was.
    fn update(&mut self, now: Monotonic, at: usize, sector: &[u8], changes: &mut Changes) {
        let (Some(entry), Some(leader)) = (self.entries.get_mut(at), delta::leader(sector)) else {
            return;
        };
        let lockspace = self.view.lockspace.field();
        entry.damaged = leader.magic != delta::MAGIC || !leader.space_name.same_name(lockspace);
        if entry.damaged {
            // Whose record it was stays known; its clock is still followed.
            if leader.timestamp != entry.timestamp {
                entry.timestamp = leader.timestamp;
                entry.last_live = now;
                changes.renewed += 1;
            }
            return;
        }
        let generation = Generation(leader.owner_generation);
        let owner_id = narrow(leader.owner_id);
        if (owner_id, generation, leader.timestamp)
            == (entry.owner_id, entry.generation, entry.timestamp)
        {
            return;
        }
        changes.renewed += 1;
        if leader.timestamp == 0 || generation != entry.generation || owner_id != entry.owner_id {
            changes.replaced += 1;
        }
        entry.owner_id = owner_id;
        entry.generation = generation;
        entry.timestamp = leader.timestamp;
        entry.last_live = now;
        entry.io_timeout_s = match timings::io_timeout_of_record(leader.io_timeout) {
            0 => self.view.io_timeout_s,
            theirs => theirs,
        };
        if *entry.name != leader.resource_name {
            entry.name = self.names.keep(&leader.resource_name);
        }
        let host = entry.host;
        if host != self.view.host_id {
            let wanted = calls(sector, self.view.host_id);
            let extras = HostExtras::of(&leader);
            let after_s = self.view.bitmap_s;
            self.notices.take(
                now,
                host,
                generation,
                wanted.then_some(extras),
                after_s,
                changes,
            );
        }
    }

    fn looks_at(&self, host: HostId) -> Looks {
        let place = host.index() * self.view.geometry.sector_bytes();
        let range = if place < Self::HEAD_BYTES {
            0
        } else {
            1 + place / Self::PART_BYTES
        };
        self.looks.get(range).copied().unwrap_or_default()
    }

    fn host(&self, entry: &Entry) -> Host {
        let looks = self.looks_at(entry.host);
        Host {
            owner_id: u64::from(entry.owner_id),
            generation: entry.generation,
            timestamp: entry.timestamp,
            io_timeout_s: entry.io_timeout_s,
            name: *entry.name,
            first_check: looks.first,
            last_check: looks.last,
            last_asked: looks.asked,
            last_live: (entry.last_live != Monotonic(0)).then_some(entry.last_live),
            last_request: self.notices.last_request(entry.host),
            damaged: entry.damaged,
        }
    }

    /// What was seen of one host; of one that never acquired its lease, when
    /// it was looked at.
    #[must_use]
    pub fn get(&self, host: HostId) -> Host {
        match self.entries.binary_search_by_key(&host, |entry| entry.host) {
            Ok(at) => self.host(&self.entries[at]),
            Err(_) => {
                let looks = self.looks_at(host);
                Host {
                    owner_id: 0,
                    generation: Generation(0),
                    timestamp: 0,
                    io_timeout_s: self.view.io_timeout_s,
                    name: NameField::EMPTY,
                    first_check: looks.first,
                    last_check: looks.last,
                    last_asked: looks.asked,
                    last_live: None,
                    last_request: None,
                    damaged: false,
                }
            }
        }
    }

    /// Every host with a record that was ever acquired, ascending.
    pub fn seen(&self) -> impl Iterator<Item = (HostId, Host)> {
        self.entries
            .iter()
            .map(|entry| (entry.host, self.host(entry)))
    }

    /// Whether every host was looked at once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let bytes = usize::from(self.view.geometry.max_hosts()) * self.view.geometry.sector_bytes();
        self.looks
            .iter()
            .take(1 + bytes.div_ceil(Self::PART_BYTES))
            .all(|looks| looks.last.is_some())
    }

    /// What to believe of a host at `now`; of ourselves that we live, which
    /// the caller knows to be true while the lease is held.
    #[must_use]
    pub fn belief(&self, host: HostId, now: Monotonic) -> Belief {
        let seen = self.get(host);
        if host == self.view.host_id && seen.timestamp != 0 {
            Belief::Live
        } else {
            seen.belief(now, self.view.fire_timeout_s)
        }
    }

    /// Whether a host may still be using what it locked as `generation`.
    /// Without knowledge it may.
    #[must_use]
    pub fn may_live(&self, host: HostId, generation: Generation, now: Monotonic) -> bool {
        if self.looks_at(host).last.is_none() {
            return true;
        }
        self.get(host)
            .may_live(generation, now, self.view.fire_timeout_s)
    }
}

impl Entry {
    /// Whether the sector surely says what it said before; looks at nothing
    /// that is not needed for that, as it is asked for every host in every
    /// reading.
    fn is_unchanged(&self, sector: &[u8], lockspace: &LockspaceName) -> bool {
        let named = field::<8>(sector, SPACE_NAME) == lockspace.field().0.first_chunk();
        let valid = field::<4>(sector, 0).map(|bytes| u32::from_le_bytes(*bytes))
            == Some(delta::MAGIC)
            && named;
        valid != self.damaged
            && number(sector, OWNER_ID).map(narrow) == Some(self.owner_id)
            && number(sector, OWNER_GENERATION) == Some(self.generation.0)
            && number(sector, TIMESTAMP) == Some(self.timestamp)
    }
}

/// Where in the area, in bytes, the last sector of part `number` ends whose
/// host ever acquired its lease; 0: none did.
#[must_use]
pub fn used_bytes(geometry: Geometry, number: usize, part: &[u8]) -> usize {
    let sector_bytes = geometry.sector_bytes();
    let start = number * Hosts::PART_BYTES;
    let sectors = (usize::from(geometry.max_hosts()) * sector_bytes).saturating_sub(start);
    let part = part.get(..sectors).unwrap_or(part);
    part.rchunks_exact(sector_bytes)
        .position(|sector| !never_acquired(sector))
        .map_or(0, |unused| start + part.len() - unused * sector_bytes)
}

// Where the fields that change lie in a record (spec §2.2), in bytes.
const OWNER_ID: usize = 32;
const OWNER_GENERATION: usize = 40;
const SPACE_NAME: usize = 56;
const TIMESTAMP: usize = 152;

/// Whether the sector is that of a host that never acquired its lease.
fn never_acquired(sector: &[u8]) -> bool {
    number(sector, OWNER_ID) == Some(0) && number(sector, TIMESTAMP) == Some(0)
}

/// Whether the bitmap has the host's bit.
fn calls(sector: &[u8], host: HostId) -> bool {
    sector
        .get(BITMAP_OFFSET + host.index() / 8)
        .is_some_and(|byte| byte & (1 << (host.index() % 8)) != 0)
}

fn field<const N: usize>(sector: &[u8], at: usize) -> Option<&[u8; N]> {
    sector.get(at..)?.first_chunk()
}

fn number(sector: &[u8], at: usize) -> Option<u64> {
    field(sector, at).map(|bytes| u64::from_le_bytes(*bytes))
}

fn narrow(owner_id: u64) -> u32 {
    u32::try_from(owner_id).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
