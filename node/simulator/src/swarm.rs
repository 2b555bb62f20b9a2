//! What a run is made of, drawn from its seed: no two runs have the same mix,
//! and many lack most faults, so that the rest can do its work.

use crate::clock::{MS, S};
use crate::disk::SECTORS;
use crate::random::Random;
use crate::watchdog::test_interval_s;

/// How often each thing goes wrong, per thousand requests unless said
/// otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Takes up to several T.
    pub slow: u32,
    /// Told as failed, took no effect.
    pub fail: u32,
    /// Told as failed, took effect.
    pub lie: u32,
    /// Hangs for up to 40 T, then takes effect or not.
    pub hang: u32,
    /// Never told.
    pub lost: u32,
    /// Told twice.
    pub twice: u32,
    /// Multi-sector requests in two parts.
    pub torn: u32,
}

/// What happens to machines, as weights against each other.
#[derive(Debug, Clone, Copy, Default)]
pub struct Troubles {
    /// Nothing.
    pub nothing: u32,
    /// Power cut.
    pub power: u32,
    /// The daemon is killed.
    pub kill: u32,
    /// The machine freezes.
    pub freeze: u32,
    /// The daemon freezes.
    pub freeze_daemon: u32,
    /// The machine sleeps.
    pub suspend: u32,
    /// The lease is released, and later asked for again.
    pub release: u32,
    /// Some requests wait.
    pub stall: u32,
}

/// One run's mix.
#[derive(Debug, Clone)]
pub struct Swarm {
    /// Each machine's host id, from 1.
    pub host_ids: Vec<u16>,
    /// Each machine's T, seconds.
    pub io_timeouts_s: Vec<u8>,
    /// W, seconds.
    pub fire_timeout_s: u32,
    /// Each machine's clock rate.
    pub rates_ppm: Vec<i32>,
    /// Each machine's share of latency, in ns: slow paths.
    pub latencies: Vec<u64>,
    /// 512 or 4096.
    pub sector_size: usize,
    /// Resources, each wanted by some machines.
    pub resources: usize,
    /// Disks each resource is on.
    pub disks: u8,
    /// Most ns between two things a machine's users do.
    pub client_pace: u64,
    /// Sectors of the lockspace that most renewals read.
    pub front: u32,
    /// World ns for which faults last.
    pub faulty: u64,
    /// Most ns between two troubles.
    pub pace: u64,
    /// Requests.
    pub faults: Faults,
    /// Machines.
    pub troubles: Troubles,
    /// Users that do not die when killed, per thousand.
    pub stuck: u32,
    /// After a freeze, a time read before it is used; per thousand.
    pub stale_clock: u32,
}

impl Swarm {
    /// The mix of a seed.
    #[must_use]
    pub fn draw(random: &mut Random) -> Self {
        // Some runs are a duel for one host id, without mercy.
        let duel = random.chance(150);
        let machines = match random.below(10) {
            _ if duel => 2,
            0..4 => 2,
            4..7 => 3,
            7 | 8 => 4,
            _ => 5 + random.index(4),
        };
        let fire_timeout_s = random.pick(&[8, 12, 29, 30, 60]);
        let interval_s = test_interval_s(fire_timeout_s);
        // The smallest T with which a watchdog can be satisfied, and more.
        let smallest = (1..=3)
            .find(|t| lease::timings::watchdog_fits(*t, interval_s, 1))
            .unwrap_or(3);
        let common = smallest + u8::try_from(random.below(3)).unwrap_or(0);
        let mixed = random.chance(300);
        // Host ids: each its own, or shared by some or by all.
        let shared = match random.pick(&[0, 0, 300, 1000]) {
            _ if duel => 1000,
            drawn => drawn,
        };
        let mut next = 0;
        let host_ids: Vec<u16> = (0..machines)
            .map(|_| {
                if next == 0 || !random.chance(shared) {
                    next += 1;
                }
                next
            })
            .collect();
        // Whoever contends for one host id has the same T (see the fault model).
        let of_ids: Vec<u8> = (0..machines)
            .map(|_| {
                if mixed {
                    smallest + u8::try_from(random.below(4)).unwrap_or(0)
                } else {
                    common
                }
            })
            .collect();
        let io_timeouts_s: Vec<u8> = host_ids
            .iter()
            .map(|id: &u16| of_ids[usize::from(*id) - 1])
            .collect();
        let slowest = u64::from(io_timeouts_s.iter().copied().max().unwrap_or(1));
        let bound_s = 8 * slowest + u64::from(fire_timeout_s);
        // Two clocks differ by twice this; the watchdog's test interval covers
        // it over the whole bound, with a tenth to spare.
        let most_ppm = (u64::from(interval_s) * 1_000_000 * 9 / (10 * 2 * bound_s)).min(5_000);
        let skewed = random.chance(600);
        let rates_ppm = (0..machines)
            .map(|_| {
                let ppm = i32::try_from(random.below(2 * most_ppm + 1)).unwrap_or(0);
                if skewed {
                    ppm - i32::try_from(most_ppm).unwrap_or(0)
                } else {
                    0
                }
            })
            .collect();
        let latencies = (0..machines)
            .map(|_| random.pick(&[MS, 5 * MS, 30 * MS, 30 * MS, 300 * MS]))
            .collect();
        // Two thirds of what is drawn is something.
        let mut some = |limit: u32| {
            u32::try_from(random.below(u64::from(limit) * 3 / 2))
                .unwrap_or(0)
                .saturating_sub(limit / 2)
        };
        let faults = Faults {
            slow: if duel { 200 } else { some(100) },
            fail: some(150),
            lie: some(100),
            hang: some(60),
            lost: some(20),
            twice: some(100),
            torn: some(900),
        };
        let troubles = Troubles {
            nothing: 6,
            power: some(3),
            kill: some(3),
            freeze: some(3),
            freeze_daemon: some(3),
            suspend: some(2),
            release: some(3),
            stall: some(4),
        };
        let stuck = if duel { 1000 } else { some(500) };
        let stale_clock = some(500);
        Self {
            host_ids,
            io_timeouts_s,
            fire_timeout_s,
            rates_ppm,
            latencies,
            sector_size: if random.chance(100) { 4096 } else { 512 },
            resources: if duel { 0 } else { random.index(4) },
            disks: random.pick(&[1, 1, 1, 1, 1, 1, 2, 3, 4]),
            front: random.pick(&[2, 4, SECTORS]),
            client_pace: random.between(1, 30) * S,
            faulty: random.between(1, if duel { 12 } else { 6 }) * bound_s * S / 2,
            pace: random.between(3, 40) * S,
            faults,
            troubles,
            stuck,
            stale_clock,
        }
    }

    /// 8T + W of the slowest machine, seconds.
    #[must_use]
    pub fn bound_s(&self) -> u64 {
        let slowest = self.io_timeouts_s.iter().copied().max().unwrap_or(1);
        8 * u64::from(slowest) + u64::from(self.fire_timeout_s)
    }
}
