//! A request between a core and the disk.

use lease::{IoId, Monotonic};

use crate::clock::{MS, S};
use crate::disk::Spot;
use crate::random::Random;
use crate::swarm::Faults;

/// Which core of a process asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// Its delta lease, by number: a process may join again.
    Lease(u64),
    /// A resource operation, by number.
    Operation(u64),
}

/// When what becomes of a request, in world time.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    /// The kernel gets it.
    pub begins: u64,
    /// It takes effect, if ever.
    pub lands: Option<u64>,
    /// The later part of a torn one: which sectors (from there on; before
    /// there if `swapped`), and how much later.
    pub torn: Option<Torn>,
    /// How long after its effect, or its failure, it is told; `None`: never.
    pub told_after: Option<u64>,
    /// What is told.
    pub ok: bool,
    /// It is told once more.
    pub twice: bool,
}

/// How a request is torn.
#[derive(Debug, Clone, Copy)]
pub struct Torn {
    /// The first sector of the second part.
    pub at: u32,
    /// Whether the second part takes effect first.
    pub swapped: bool,
    /// ns between the two.
    pub apart: u64,
}

/// A request on its way.
#[derive(Debug, Clone)]
pub struct Flight {
    /// Never used twice.
    pub serial: u64,
    /// Machine.
    pub machine: usize,
    /// Process on it.
    pub process: u64,
    /// Core in it.
    pub core: Core,
    /// The core's name for it.
    pub io: IoId,
    /// Where.
    pub spot: Spot,
    /// What is written.
    pub write: Option<Box<[u8]>>,
    /// Boot-time after which it must not begin.
    pub not_after: Monotonic,
    /// World time at which it was asked for.
    pub asked: u64,
    /// What becomes of it.
    pub fate: Fate,
    /// Where it is.
    pub stage: Stage,
    /// What a read saw.
    pub seen: Vec<u8>,
    /// World time at which it last took effect.
    pub over_at: u64,
    /// Its outcome was told.
    pub told: bool,
    /// The machine has ended: nobody will be told.
    pub orphan: bool,
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not with the kernel yet.
    Asked,
    /// With the disk.
    Begun,
    /// One of two parts took effect.
    Half,
    /// It took effect, or never will.
    Over,
    /// It never began.
    Refused,
}

impl Fate {
    /// Draws what becomes of a request of so many sectors, of a machine with
    /// such a latency; `t` seconds is what a long time is measured by.
    pub fn draw(
        random: &mut Random,
        faults: &Faults,
        now: u64,
        latency: u64,
        t: u8,
        sectors: u32,
    ) -> Self {
        let t = u64::from(t);
        let begins = now + random.below(latency);
        let mut lands = Some(begins + random.below(latency));
        let mut told_after = Some(random.below(latency));
        let mut ok = true;
        if random.chance(faults.slow) {
            match random.below(4) {
                // About as long as is allowed, to the second.
                0 => lands = Some(begins + t * S - random.below(t * S / 4)),
                1 => told_after = Some(t * S - random.below(t * S / 4)),
                2 => told_after = Some(random.below(6 * t) * S),
                _ => lands = Some(begins + random.below(2500 * t) * MS),
            }
        } else if random.chance(faults.fail) {
            lands = None;
            ok = false;
        } else if random.chance(faults.lie) {
            ok = false;
        } else if random.chance(faults.hang) {
            if random.chance(600) {
                lands = Some(begins + random.below(40 * t) * S);
            } else {
                lands = None;
                ok = false;
                told_after = Some(random.below(40 * t) * S);
            }
        } else if random.chance(faults.lost) {
            told_after = None;
        }
        let torn = (sectors > 1 && random.chance(faults.torn)).then(|| Torn {
            at: u32::try_from(random.between(1, u64::from(sectors) - 1)).unwrap_or(1),
            swapped: random.chance(500),
            apart: if random.chance(100) {
                random.below(t * S)
            } else {
                random.below(3 * latency)
            },
        });
        Self {
            begins,
            lands,
            torn,
            told_after,
            ok,
            twice: random.chance(faults.twice),
        }
    }
}
