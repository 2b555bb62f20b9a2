//! What the original takes, from the constants of its code and its documented
//! measurements: it cannot run here, so its protocol is drawn by Monte Carlo.

use std::time::Duration;

/// How often its SPM looks for an event, seconds (`mailbox:events_interval`).
const EVENT_S: f64 = 0.5;
/// How often its hosts look for an answer, seconds: the same setting.
const POLL_S: f64 = 0.5;
/// Reading or writing and the start of the `dd` child that does it, on an idle
/// machine, seconds.
const IO_S: f64 = 0.0025;
/// Threads of the SPM that extend: half of `thread_pool_size` 10.
const WORKERS: f64 = 5.0;

/// Every so many seconds the SPM reads all mailboxes.
pub(crate) const CYCLE_S: f64 = 2.0;
/// So often it looks for an event in between.
pub(crate) const EVENT_READS: f64 = 3.0;
/// Bytes of all mailboxes.
pub(crate) const MAILBOXES_BYTES: usize = 1_024_000;
/// Bytes of a mailbox, and of the event.
pub(crate) const MAILBOX_BYTES: usize = 4096;

/// From the event of QEMU to the request, at worst as documented.
pub(crate) const DISPATCH: Duration = Duration::from_millis(30);
/// Refresh of the volume and setting the next threshold, at worst as documented.
pub(crate) const REFRESH: Duration = Duration::from_millis(310);
/// From the event to the space, the worst measured upstream.
pub(crate) const WORST_MEASURED: Duration = Duration::from_millis(1390);

const DRAWS: u32 = 100_000;

/// How the extends of many hosts share the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Every request takes as long as one alone.
    None,
    /// So many hosts ask at once, and the SPM's threads take them in turn.
    Threads(u16),
}

/// Round trips in milliseconds: h · ceil((U(0, e) + X + io) / h).
pub(crate) fn round_trips(commit: Duration, sharing: Sharing) -> Vec<f64> {
    let mut random = Random(0x5eed);
    (0..DRAWS)
        .map(|_| {
            let turn = match sharing {
                Sharing::None => 1.0,
                Sharing::Threads(hosts) => {
                    (random.unit() * f64::from(hosts) / WORKERS).floor() + 1.0
                }
            };
            let noticed = random.unit() * EVENT_S;
            let answered = noticed + commit.as_secs_f64() * turn + IO_S;
            POLL_S * (answered / POLL_S).ceil() * 1e3
        })
        .collect()
}

/// Splitmix64.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let [a, b, c, d, ..] = mixed.to_le_bytes();
        f64::from(u32::from_le_bytes([a, b, c, d])) / (f64::from(u32::MAX) + 1.0)
    }
}
