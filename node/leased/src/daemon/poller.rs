//! One epoll, one timer on the boot-time clock: what the loop waits for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use lease::Monotonic;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Events taken at a time.
const EVENTS_MAX: usize = 256;

/// What is ready. Numbers below [`Source::CLIENTS`] are the daemon's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Source(pub(crate) u64);

impl Source {
    pub(crate) const TIMER: Self = Self(0);
    pub(crate) const LISTENER: Self = Self(1);
    pub(crate) const SIGNALS: Self = Self(2);
    pub(crate) const HELPER: Self = Self(3);
    pub(crate) const KEEPER: Self = Self(4);
    pub(crate) const RING: Self = Self(5);
    pub(crate) const JOBS: Self = Self(6);
    pub(crate) const STATUS: Self = Self(7);
    /// Clients have their own number added to this.
    pub(crate) const CLIENTS: u64 = 1 << 32;
    /// Event channels have their own number added to this.
    pub(crate) const LISTENERS: u64 = 1 << 62;
}

/// What is known of a ready descriptor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) source: Source,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// Both directions are closed, or broken.
    pub(crate) gone: bool,
}

pub(crate) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: Option<Monotonic>,
    events: Vec<Event>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let poller = Self {
            epoll,
            timer,
            armed: None,
            events: Vec::with_capacity(EVENTS_MAX),
        };
        poller.watch(&poller.timer, Source::TIMER)?;
        Ok(poller)
    }

    /// Reports a descriptor for as long as it is readable.
    pub(crate) fn watch(&self, fd: impl AsFd, source: Source) -> io::Result<()> {
        let data = EventData::new_u64(source.0);
        Ok(epoll::add(&self.epoll, fd, data, EventFlags::IN)?)
    }

    /// Reports every change of a client's socket once.
    pub(crate) fn watch_client(&self, fd: impl AsFd, number: u64) -> io::Result<()> {
        let data = EventData::new_u64(Source::CLIENTS + number);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, data, flags)?)
    }

    /// Reports an event channel for as long as it is readable.
    pub(crate) fn watch_listener(&self, fd: impl AsFd, number: u64) -> io::Result<()> {
        self.watch(fd, Source(Source::LISTENERS + number))
    }

    /// Forgets a descriptor that stays open elsewhere. A closed one, whose
    /// last duplicate it was, is forgotten by itself.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        // It may never have been watched.
        epoll::delete(&self.epoll, fd).ok();
    }

    /// Waits until something is ready or `deadline` has come. With `busy`
    /// it does not wait at all.
    pub(crate) fn wait(&mut self, deadline: Option<Monotonic>, busy: bool) -> io::Result<()> {
        // A timer that rings too early costs one turn of the loop, setting it
        // anew each time costs more.
        let early_enough = self
            .armed
            .is_some_and(|armed| deadline.is_none_or(|deadline| armed <= deadline));
        if !busy && !early_enough && deadline.is_some() {
            self.arm(deadline)?;
        }
        self.events.clear();
        let nothing = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timeout = busy.then_some(&nothing);
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            timeout,
        ) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// What is ready since the latest wait.
    pub(crate) fn ready(&self) -> impl Iterator<Item = Ready> + use<> {
        let ready: Vec<Ready> = self.events.iter().map(ready_of).collect();
        ready.into_iter()
    }

    /// Takes the timer's ringing back. What is due is known without it.
    pub(crate) fn quiet(&mut self) {
        let mut count = [MaybeUninit::uninit(); 8];
        // Only to make it unreadable.
        rustix::io::read(&self.timer, &mut count).ok();
        self.armed = None;
    }

    fn arm(&mut self, deadline: Option<Monotonic>) -> io::Result<()> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // A zero would disarm it; 1 ns since boot has passed.
        let value = deadline.map_or(zero, |at| timespec(at.0.max(1)));
        let setting = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &setting)?;
        self.armed = deadline;
        Ok(())
    }
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Poller")
            .field("armed", &self.armed)
            .finish_non_exhaustive()
    }
}

fn ready_of(event: &Event) -> Ready {
    let flags = event.flags;
    let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
    Ready {
        source: Source(event.data.u64()),
        readable: gone || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
        writable: gone || flags.contains(EventFlags::OUT),
        gone,
    }
}

fn timespec(ns: u64) -> Timespec {
    // 2^64 ns are 584 years.
    Timespec {
        tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_ms(ms: u64) -> Monotonic {
        Monotonic(linux::clock::boottime_ns() + ms * 1_000_000)
    }

    #[test]
    fn the_timer_ends_a_wait_and_a_deadline_that_has_passed_ends_it_at_once() {
        let mut poller = Poller::new().unwrap();
        let deadline = after_ms(30);
        poller.wait(Some(deadline), false).unwrap();
        assert!(linux::clock::boottime_ns() >= deadline.0);
        assert_eq!(poller.ready().next().unwrap().source, Source::TIMER);
        poller.quiet();
        poller.wait(Some(Monotonic(0)), false).unwrap();
        assert_eq!(poller.ready().count(), 1);
    }

    #[test]
    fn a_busy_loop_does_not_wait() {
        let mut poller = Poller::new().unwrap();
        poller.wait(None, true).unwrap();
        assert_eq!(poller.ready().count(), 0);
    }
}
