//! The buffers areas are read into: a few of each size, shared by all
//! lockspaces, since each is up to a MiB of locked memory.
//!
//! A reading that finds none waits for one. If that takes long, because a
//! device sits on its buffers or the owner does not give them back, another
//! thread makes a new one; when things are back to usual it takes the surplus
//! away. So the keeper thread never allocates, and no device starves another.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use lease::Monotonic;
use lease::hosts::Hosts;
use linux::disk::AlignedBuffer;

use super::handle::{Command, wake};

/// How much of the area is read at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The first hosts, among which all are that were ever seen.
    Short,
    /// A whole part.
    Part,
}

impl Extent {
    pub(super) const ALL: [Self; 2] = [Self::Short, Self::Part];

    /// Bytes of a buffer.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Short => Hosts::HEAD_BYTES,
            Self::Part => Hosts::PART_BYTES,
        }
    }
}

/// Buffers of each size there are when nothing is wrong: the owner looks at
/// one while the next reading is under way.
const USUAL: usize = 2;
/// Buffers the owner may hold; beyond, readings are not delivered.
const LENT_MAX: usize = 8;
/// How long a reading waits for a buffer before a new one is made, ms.
const PATIENCE_MS: u64 = 100;
/// How long a surplus is kept, s.
const SURPLUS_S: u64 = 60;
const STACK_BYTES: usize = 64 * 1024;

#[derive(Debug)]
enum Supply {
    Make(Extent),
    Discard(AlignedBuffer),
}

/// The pools of all sizes.
#[derive(Debug)]
pub(super) struct Pools {
    short: Pool,
    part: Pool,
}

impl Pools {
    /// Pools for at most so many readings at once.
    pub(super) fn new(
        readings_max: usize,
        commands: SyncSender<Command>,
        woken: Arc<OwnedFd>,
    ) -> io::Result<Self> {
        let (supply, orders) = sync_channel(2 * USUAL);
        thread::Builder::new()
            .name("buffers".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&orders, &commands, &woken))?;
        Ok(Self {
            short: Pool::new(Extent::Short, readings_max, supply.clone()),
            part: Pool::new(Extent::Part, readings_max, supply),
        })
    }

    pub(super) fn of(&mut self, extent: Extent) -> &mut Pool {
        match extent {
            Extent::Short => &mut self.short,
            Extent::Part => &mut self.part,
        }
    }

    /// Where a buffer belongs.
    pub(super) fn home(&mut self, buffer: &AlignedBuffer) -> &mut Pool {
        self.of(if buffer.len() == Extent::Short.bytes() {
            Extent::Short
        } else {
            Extent::Part
        })
    }
}

#[derive(Debug)]
pub(super) struct Pool {
    extent: Extent,
    free: Vec<AlignedBuffer>,
    /// Buffers there are, wherever they are.
    owned: usize,
    lent: usize,
    /// One is being made.
    making: bool,
    /// When one was ordered last.
    ordered: Option<Monotonic>,
    supply: SyncSender<Supply>,
}

impl Pool {
    fn new(extent: Extent, readings_max: usize, supply: SyncSender<Supply>) -> Self {
        let mut free = Vec::with_capacity(readings_max + USUAL + LENT_MAX);
        free.extend((0..USUAL).map(|_| new_buffer(extent)));
        Self {
            extent,
            free,
            owned: USUAL,
            lent: 0,
            making: false,
            ordered: None,
            supply,
        }
    }

    pub(super) fn take(&mut self) -> Option<AlignedBuffer> {
        self.free.pop()
    }

    /// Takes a buffer back.
    pub(super) fn put(&mut self, buffer: AlignedBuffer, now: Monotonic) {
        let idle = self.ordered.is_none_or(|at| now > at.plus_s(SURPLUS_S));
        if self.owned <= USUAL || !idle || self.free.is_empty() {
            return self.free.push(buffer);
        }
        match self.supply.try_send(Supply::Discard(buffer)) {
            Ok(()) => self.owned -= 1,
            Err(TrySendError::Full(unsent) | TrySendError::Disconnected(unsent)) => {
                if let Supply::Discard(buffer) = unsent {
                    self.free.push(buffer);
                }
            }
        }
    }

    /// When a reading that waits since then has a new buffer made; `None`
    /// while one is being made.
    pub(super) fn order_at(&self, waiting_since: Monotonic) -> Option<Monotonic> {
        (!self.making).then(|| waiting_since.plus_ms(PATIENCE_MS))
    }

    /// Has a buffer made, if that is due and there are not enough for so many
    /// readings at once.
    pub(super) fn order(&mut self, now: Monotonic, waiting_since: Monotonic, readings: usize) {
        let due = self.order_at(waiting_since).is_some_and(|at| at <= now);
        if due
            && self.owned < readings + USUAL + LENT_MAX
            && self.supply.try_send(Supply::Make(self.extent)).is_ok()
        {
            self.making = true;
            self.ordered = Some(now);
        }
    }

    /// Whether the owner may be given one more.
    pub(super) fn may_lend(&self) -> bool {
        self.lent < LENT_MAX
    }

    pub(super) fn lend(&mut self) {
        self.lent += 1;
    }

    pub(super) fn given_back(&mut self, buffer: AlignedBuffer, now: Monotonic) {
        self.lent = self.lent.saturating_sub(1);
        self.put(buffer, now);
    }

    pub(super) fn made(&mut self, buffer: AlignedBuffer) {
        self.owned += 1;
        self.making = false;
        self.free.push(buffer);
    }
}

fn new_buffer(extent: Extent) -> AlignedBuffer {
    let mut buffer = AlignedBuffer::new(extent.bytes());
    // Zeroed memory is otherwise mapped on first use.
    buffer.fill(1);
    buffer
}

fn serve(orders: &Receiver<Supply>, commands: &SyncSender<Command>, woken: &OwnedFd) {
    while let Ok(order) = orders.recv() {
        match order {
            Supply::Make(extent) => {
                // The keeper takes commands for as long as it runs.
                commands.send(Command::Made(new_buffer(extent))).ok();
                wake(woken);
            }
            Supply::Discard(buffer) => drop(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000_000)
    }

    #[test]
    fn a_pool_grows_for_who_waits_and_shrinks_when_that_is_over() {
        let (commands, received) = sync_channel(4);
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("made");
        let mut pools = Pools::new(2, commands, Arc::new(event)).expect("a thread");
        let pool = pools.of(Extent::Short);
        let mut out: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(out.len(), USUAL);
        pool.order(at(1), at(1), 2);
        assert!(pool.ordered.is_none(), "not at once");
        pool.order(at(2), at(1), 2);
        assert_eq!(pool.order_at(at(1)), None, "one at a time");
        let Command::Made(buffer) = received.recv().expect("made") else {
            panic!("something else")
        };
        assert_eq!(buffer.len(), Extent::Short.bytes());
        pool.made(buffer);
        out.extend(pool.take());
        assert_eq!(out.len(), USUAL + 1);
        for buffer in out {
            pool.put(buffer, at(2));
        }
        assert_eq!(pool.free.len(), USUAL + 1);
        let buffer = pool.take().expect("free");
        pool.put(buffer, at(3 + SURPLUS_S));
        assert_eq!((pool.owned, pool.free.len()), (USUAL, USUAL));
    }

    #[test]
    fn an_owner_that_gives_nothing_back_is_lent_no_more() {
        let (commands, _received) = sync_channel(4);
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("made");
        let mut pools = Pools::new(2, commands, Arc::new(event)).expect("a thread");
        let pool = pools.of(Extent::Short);
        for _ in 0..LENT_MAX {
            assert!(pool.may_lend());
            pool.lend();
        }
        assert!(!pool.may_lend());
        let buffer = pool.take().expect("free");
        pool.given_back(buffer, at(1));
        assert!(pool.may_lend());
    }
}
