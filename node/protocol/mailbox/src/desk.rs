//! One sort of I/O of a core: at most one at a time, pauses after failures,
//! and what was given up.

use lease::Monotonic;

use crate::seam::{IoId, Note, Volume};
use crate::timings;

#[derive(Debug, Clone)]
pub(crate) struct Desk<K> {
    volume: Volume,
    write: bool,
    pending: Option<(IoId, Monotonic, K)>,
    /// Given up, outcome not told yet.
    abandoned: Vec<IoId>,
    failures: u32,
    not_before: Monotonic,
}

/// What an outcome belongs to.
#[derive(Debug)]
pub(crate) enum Owner<K> {
    /// To what is pending, and since when.
    Pending(K, Monotonic),
    /// To something given up before.
    Abandoned,
    /// To nothing of this desk.
    Nobody,
}

impl<K> Desk<K> {
    pub(crate) fn new(volume: Volume, write: bool) -> Self {
        Self {
            volume,
            write,
            pending: None,
            abandoned: Vec::new(),
            failures: 0,
            not_before: Monotonic(0),
        }
    }

    /// Whether something may be begun now.
    pub(crate) fn is_free(&self, now: Monotonic) -> bool {
        self.pending.is_none() && now >= self.not_before
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// When it may be begun, if only time is in the way.
    pub(crate) fn free_at(&self) -> Option<Monotonic> {
        self.pending.is_none().then_some(self.not_before)
    }

    /// When what is pending is given up.
    pub(crate) fn limit(&self) -> Option<Monotonic> {
        let (_, since, _) = self.pending.as_ref()?;
        let room = self.abandoned.len() < usize::try_from(timings::ABANDONED_MAX).unwrap_or(0);
        room.then(|| since.plus_ms(timings::IO_LIMIT_MS))
    }

    pub(crate) fn begin(&mut self, io: IoId, now: Monotonic, kind: K) {
        assert!(self.pending.is_none(), "one at a time");
        self.pending = Some((io, now, kind));
    }

    /// Gives up what has been pending for too long.
    pub(crate) fn give_up(&mut self, now: Monotonic) -> Option<K> {
        if self.limit().is_none_or(|limit| limit > now) {
            return None;
        }
        let (io, _, kind) = self.pending.take()?;
        self.abandoned.push(io);
        Some(kind)
    }

    pub(crate) fn owner(&mut self, io: IoId) -> Owner<K> {
        if let Some((pending, since, kind)) = self.pending.take_if(|(pending, ..)| *pending == io) {
            debug_assert_eq!(pending, io);
            return Owner::Pending(kind, since);
        }
        let before = self.abandoned.len();
        self.abandoned.retain(|abandoned| *abandoned != io);
        if self.abandoned.len() < before {
            Owner::Abandoned
        } else {
            Owner::Nobody
        }
    }

    pub(crate) fn succeeded(&mut self) -> Option<Note> {
        self.not_before = Monotonic(0);
        let failures = std::mem::take(&mut self.failures);
        (failures > 0).then_some(Note::IoWorks {
            volume: self.volume,
            write: self.write,
            failures,
        })
    }

    pub(crate) fn failed(&mut self, now: Monotonic, errno: Option<i32>) -> Option<Note> {
        let pause = timings::IO_RETRY_MS
            .saturating_mul(1 << self.failures.min(16))
            .min(timings::IO_RETRY_MAX_MS);
        self.not_before = now.plus_ms(pause);
        self.failures = self.failures.saturating_add(1);
        (self.failures == 1).then_some(Note::IoFailing {
            volume: self.volume,
            write: self.write,
            errno,
        })
    }
}

/// The earlier of two moments, where there are any.
pub(crate) fn sooner(one: Option<Monotonic>, other: Option<Monotonic>) -> Option<Monotonic> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
