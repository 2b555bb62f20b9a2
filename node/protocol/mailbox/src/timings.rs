//! Every interval and bound of the mailbox, milliseconds unless a name says
//! otherwise.
//!
//! A request's way, when both sides are ours and something is going on:
//!
//! ```text
//!   0        ~1         ≤ 21             + commit        ≤ 20 more
//!   |---------|-----------|------------------|----------------|------▶
//!   asked     in inbox,   SPM sees the       reply in         host sees it,
//!             event       event, reads       outbox           caller answered
//! ```
//!
//! After a pause the SPM's first look comes within [`EVENT_IDLE_MS`].
//!
//! Idle cost of the SPM: a 4 KiB event block every [`EVENT_IDLE_MS`] and
//! [`IDLE_MAILBOXES`] mailboxes every [`SCAN_MS`], 64 KiB/s together. A host
//! that has nothing outstanding does no I/O at all.

/// How often something is looked at while it is expected to change.
pub const FAST_MS: u64 = 20;
/// For how long after the last change it is.
pub const FAST_FOR_MS: u64 = 3_000;
/// How often an answer is looked for after [`FAST_FOR_MS`].
pub const SLOW_MS: u64 = 100;
/// For how long.
pub const SLOW_FOR_MS: u64 = 15_000;
/// How often it is looked for after that.
pub const SLOWEST_MS: u64 = 500;

/// How often an idle SPM looks at the event block: half of VDSM's pause, and as
/// seldom as a manager that is to cost less than 0.1 % of a core must be, on a
/// machine where each look, with its two times asleep, costs 0.15 ms.
pub const EVENT_IDLE_MS: u64 = 250;
/// How often the SPM reads mailboxes without having seen an event.
pub const SCAN_MS: u64 = 2_000;
/// How many mailboxes it then reads while idle; all in turn. With so few hosts
/// it always reads all.
pub const IDLE_MAILBOXES: u16 = 24;
/// How long after a request its event may come.
pub const EVENT_LATE_MS: u64 = 1_000;
/// For how long all mailboxes are read every [`SCAN_MS`] after a request came
/// without an event: that host does not send any.
pub const EVENTLESS_FOR_MS: u64 = 600_000;

/// Pause before the baseline is read again.
pub const BASELINE_RETRY_MS: u64 = 2_000;
/// First pause after a failed read or write; doubles up to [`IO_RETRY_MAX_MS`].
pub const IO_RETRY_MS: u64 = 100;
/// Longest pause after a failed read or write.
pub const IO_RETRY_MAX_MS: u64 = 5_000;
/// After so long the outcome of a read or write counts as unknown, should the
/// driver not say so itself.
pub const IO_LIMIT_MS: u64 = 30_000;
/// So many of those are left behind; then the next one is waited for.
pub const ABANDONED_MAX: u32 = 4;
/// When a mailbox is written again after a write whose outcome is unknown,
/// which may land on top of later ones.
pub const SETTLE_MS: [u64; 3] = [2_000, 10_000, 60_000];

/// Requests of a host that have not ended, joined ones counting once. More are
/// answered with [`crate::Outcome::Full`].
pub const JOBS_MAX: usize = 512;
/// Callers that wait for one request. More are answered with
/// [`crate::Outcome::Full`].
pub const CALLERS_MAX: usize = 64;
/// A request is answered [`crate::Outcome::Refused`] after so many refusals.
pub const REFUSALS_MAX: u32 = 3;
/// Pause after the first refusal; four times as long after each further one.
pub const REFUSED_PAUSE_MS: u64 = 100;
/// A request without an answer is sent again after so long; doubles each time.
pub const RESEND_MS: u64 = 15_000;
/// A request is answered [`crate::Outcome::Unanswered`] after so long: longer
/// than a dead SPM's lease takes to become free (140 s), with time for its
/// successor.
pub const GIVE_UP_MS: u64 = 200_000;
/// A slot whose acknowledgement nobody answers is freed after so long.
pub const CLEAN_LIMIT_MS: u64 = 10_000;
/// Attempts to clear our mailbox before stopping.
pub const STOP_TRIES: u32 = 3;

/// Extends in one commit.
pub const BATCH_MAX: usize = 256;
/// Requests of local callers the SPM holds. More are answered with
/// [`crate::Outcome::Full`].
pub const LOCAL_MAX: usize = 1_024;
/// A commit whose outcome is unknown is done again so often, then refused.
pub const UNKNOWN_MAX: u32 = 3;
/// Pause before that.
pub const UNKNOWN_PAUSE_MS: u64 = 1_000;
/// An answer that its host does not acknowledge is written again after so
/// long; doubles up to [`REPEAT_MAX_MS`].
pub const REPEAT_MS: u64 = 2_000;
/// Longest time between two of those.
pub const REPEAT_MAX_MS: u64 = 60_000;
/// Mailboxes in one write.
pub const WRITE_MAILBOXES: usize = 64;
/// How often the same sort of garbage in one host's mailbox is told.
pub const COMPLAIN_MS: u64 = 60_000;

const _: () = {
    // The figure of the first page: below 100 KiB/s while idle.
    let bytes_s = 4096 * 1000 / EVENT_IDLE_MS + 4096 * IDLE_MAILBOXES as u64 * 1000 / SCAN_MS;
    assert!(bytes_s < 100 * 1024);
    // A request outlives a dead SPM.
    assert!(GIVE_UP_MS > 140_000 + 2 * RESEND_MS);
    // Whoever asks again does so in a slot that is looked at.
    assert!(CLEAN_LIMIT_MS <= RESEND_MS);
    assert!(EVENT_LATE_MS < SCAN_MS);
};
