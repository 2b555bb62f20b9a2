//! The thread that holds the lease: finds out what happened, hands it to the
//! core, does what the core says, and waits.
//!
//! While the lease is held nothing here allocates, waits for a lock somebody
//! slow may hold, opens a file, or does I/O other than to hand requests to
//! worker threads and to send to the watchdog without waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use disk_format::{Geometry, delta};
use lease::hosts::{Hosts, Names, Viewpoint};
use lease::{Config, DeltaLease, Effect, Input, IoId, IoOutcome, Monotonic, Now, State};
use linux::disk::IoError;
use linux::disk::worker::{Request, Signal};

use crate::joining::{Helper, Joined, Outcome, Task, WORKERS};
use crate::options::Options;
use crate::shared::{Joining, Line, Shared};
use crate::watchdog::Watchdog;

/// Longest wait: bounds how late a jump of the boot-time clock is noticed.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Shortest: at real-time priority a loop that found nothing to do would
/// leave the machine to nobody else.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// A snapshot that could not be left is left this much later.
const PUBLISH_RETRY: Duration = Duration::from_millis(20);
/// Seconds between attempts to join: the first, and the most it grows to.
const BACK_OFF_S: (u64, u64) = (1, 5);
/// What an error without a number of its own is told as.
const EIO: i32 = 5;

/// How the thread ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Released, or never held.
    Released,
    /// Lost: the watchdog's expiry stands.
    Lost,
}

#[derive(Debug)]
pub(crate) struct Member {
    options: Arc<Options>,
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    helper: Helper,
    lease: DeltaLease,
    hosts: Hosts,
    joined: Option<Joined>,
    joining: Joining,
    watchdog: Option<Arc<Watchdog>>,
    /// The core waits for a registration.
    registering: bool,
    /// An update the watchdog's socket had no room for.
    unsent: Option<(u64, u64)>,
    /// When to try to join next, unless an attempt is under way.
    next_attempt: Option<Monotonic>,
    back_off_s: u64,
    release_told: bool,
}

/// The core for these options.
pub(crate) fn lease_for(options: &Options) -> DeltaLease {
    DeltaLease::new(Config {
        lockspace: options.lockspace,
        host_id: options.host_id,
        host_name: options.host_name,
        io_timeout_s: options.io_timeout_s,
        fire_timeout_s: options.fire_timeout_s,
        watchdog: options.watchdog_socket.is_some(),
    })
}

/// Both clocks.
pub(crate) fn now() -> Now {
    Now {
        monotonic: Monotonic(linux::clock::monotonic_ns()),
        boottime: Monotonic(linux::clock::boottime_ns()),
    }
}

impl Member {
    pub(crate) fn new(
        options: Arc<Options>,
        shared: Arc<Shared>,
        signal: Arc<Signal>,
        helper: Helper,
        lease: DeltaLease,
    ) -> Self {
        let start = now().boottime;
        let hosts = Hosts::new(
            Viewpoint {
                lockspace: options.lockspace,
                // The workers hand over 512 bytes a host, whatever the sectors.
                geometry: Geometry::Sector512Align1M,
                host_id: options.host_id,
                io_timeout_s: options.io_timeout_s,
                fire_timeout_s: options.fire_timeout_s,
                bitmap_s: 0,
            },
            &Names::default(),
        );
        Self {
            options,
            shared,
            signal,
            helper,
            lease,
            hosts,
            joined: None,
            joining: Joining::Opening { since: start },
            watchdog: None,
            registering: false,
            unsent: None,
            next_attempt: Some(start),
            back_off_s: BACK_OFF_S.0,
            release_told: false,
        }
    }

    /// Runs until released, or asked to end when it is too late for that.
    pub(crate) fn run(mut self) -> End {
        loop {
            if let Some(end) = self.turn() {
                return end;
            }
        }
    }

    /// Takes in what happened, does what follows from it, and waits for more.
    fn turn(&mut self) -> Option<End> {
        self.collect();
        self.take_outcome();
        self.tell(Input::Tick);
        if self.shared.release.load(Ordering::Relaxed) && !self.release_told {
            self.release_told = true;
            self.tell(Input::Release);
        }
        self.resend();
        let state = self.lease.status().state;
        match state {
            State::Waiting => self.attempt(),
            State::Held => self.back_off_s = BACK_OFF_S.0,
            State::Lost if self.release_told => return Some(End::Lost),
            _ if self.lease.is_released() => {
                self.publish();
                return Some(End::Released);
            }
            _ => {}
        }
        let published = self.publish();
        self.signal.wait(self.pause(published));
        None
    }

    fn geometry(&self) -> Option<Geometry> {
        self.joined.as_ref().map(|joined| joined.geometry)
    }

    fn publish(&self) -> bool {
        self.shared
            .publish(&self.lease, &self.hosts, self.geometry(), &self.joining)
    }

    fn pause(&self, published: bool) -> Duration {
        let until = [self.lease.deadline(), self.next_attempt]
            .into_iter()
            .flatten()
            .min();
        let now = now().boottime;
        let wait = until.map_or(WAIT_MAX, |until| {
            Duration::from_nanos(until.0.saturating_sub(now.0))
        });
        wait.min(if published { WAIT_MAX } else { PUBLISH_RETRY })
            .max(WAIT_MIN)
    }

    /// Hands an input to the core and does what it asks for.
    fn tell(&mut self, input: Input<'_>) {
        self.lease.handle(now(), input);
        self.perform();
    }

    fn collect(&mut self) {
        for index in 0..WORKERS {
            let Some(joined) = &self.joined else { return };
            let lease = &mut self.lease;
            let hosts = &mut self.hosts;
            let own_index = self.options.host_id.index();
            let collected = joined.workers[index].collect(|token, result, bytes| {
                let outcome = match result {
                    Ok(()) if bytes.is_empty() => IoOutcome::Written,
                    Ok(()) if bytes.len() == delta::RECORD_BYTES => IoOutcome::Read(bytes),
                    Ok(()) => {
                        let at = now().boottime;
                        hosts.observe(at, at, 0, bytes);
                        let own = own_index * delta::RECORD_BYTES;
                        IoOutcome::Read(bytes.get(own..).unwrap_or_default())
                    }
                    Err(IoError::Expired) => IoOutcome::NotStarted,
                    Err(IoError::Os(error)) => IoOutcome::Failed(error),
                    Err(IoError::Short(_)) => IoOutcome::Failed(EIO),
                };
                lease.handle(now(), Input::Io(IoId(token), outcome));
            });
            if collected.is_some() {
                self.perform();
            }
        }
    }

    fn take_outcome(&mut self) {
        match self.helper.outcome() {
            None => {}
            Some(Outcome::Joined(Ok(joined))) => {
                let geometry = joined.geometry;
                self.shared.tell(Line::Joined(geometry));
                self.watchdog.clone_from(&joined.watchdog);
                self.joined = Some(joined);
                self.joining = Joining::Open;
                self.tell(Input::Start(geometry));
            }
            Some(Outcome::Joined(Err(error))) => {
                let reason: Arc<str> = error.to_string().into();
                let known = matches!(&self.joining, Joining::Failed(former) if *former == reason);
                if !known {
                    self.shared.tell(Line::JoinFailed(Arc::clone(&reason)));
                }
                self.joining = Joining::Failed(reason);
                self.retry_later();
            }
            Some(Outcome::Registered(result)) => {
                let registered = result.is_ok();
                if let Err(error) = result {
                    self.shared.tell(Line::JoinFailed(error.to_string().into()));
                }
                if self.registering {
                    self.registering = false;
                    self.tell(Input::WatchdogRegistered(registered));
                } else {
                    // Nobody waits for it any more, so nobody would renew it.
                    self.clear_watchdog();
                }
            }
        }
    }

    fn retry_later(&mut self) {
        self.next_attempt = Some(now().boottime.plus_s(self.back_off_s));
        self.back_off_s = (self.back_off_s * 2).min(BACK_OFF_S.1);
    }

    /// Nothing is held and nothing under way: begin anew, from the device up.
    fn attempt(&mut self) {
        // A registration that nobody waits for any more must be taken back on
        // its own connection before that is closed.
        if !self.helper.is_free() {
            return;
        }
        if let Some(joined) = &self.joined {
            // A request that is still in flight must come back first: it may
            // change the disk after everything that is decided now.
            if joined.workers.iter().any(|worker| !worker.is_idle()) {
                if !matches!(self.joining, Joining::Draining { .. }) {
                    self.joining = Joining::Draining {
                        since: now().boottime,
                    };
                }
                return;
            }
            self.joined = None;
            self.watchdog = None;
            self.retry_later();
        }
        let due = self.next_attempt.is_some_and(|at| at <= now().boottime);
        if due {
            self.next_attempt = None;
            if !matches!(self.joining, Joining::Failed(_)) {
                self.joining = Joining::Opening {
                    since: now().boottime,
                };
            }
            self.helper.hand(Task::Join);
        }
    }

    fn perform(&mut self) {
        loop {
            while let Some(note) = self.lease.next_note() {
                self.shared.tell(Line::Note(note));
            }
            let Some(effect) = self.lease.next_effect() else {
                return;
            };
            match effect {
                Effect::ReadOwn(io) => self.submit(io, self.own_sector(), &[]),
                Effect::ReadArea(io) => self.submit(io, self.all_sectors(), &[]),
                Effect::Write {
                    io,
                    not_after,
                    record,
                } => {
                    // The rest of a 4096-byte sector is zero.
                    let mut sector = [0; 4096];
                    sector[..delta::RECORD_BYTES].copy_from_slice(&record);
                    let length = self.sector_size();
                    let request = self.own_sector().map(|request| match request {
                        Request::Gather { offset, .. } => Request::Write {
                            offset,
                            not_after_ns: not_after.0,
                        },
                        write @ Request::Write { .. } => write,
                    });
                    self.submit(io, request, &sector[..length]);
                }
                Effect::WatchdogRegister {
                    renewal_s,
                    expire_s,
                } => self.register(renewal_s, expire_s),
                Effect::WatchdogUpdate {
                    renewal_s,
                    expire_s,
                } => {
                    self.unsent = Some((renewal_s, expire_s));
                    self.resend();
                }
                Effect::WatchdogClear => self.clear_watchdog(),
            }
        }
    }

    fn sector_size(&self) -> usize {
        // 512 or 4096.
        self.geometry()
            .and_then(|geometry| usize::try_from(geometry.sector_size()).ok())
            .unwrap_or(delta::RECORD_BYTES)
    }

    fn own_sector(&self) -> Option<Request> {
        let sector_size = u64::from(self.geometry()?.sector_size());
        let index = u64::from(self.options.host_id.get()) - 1;
        Some(Request::Gather {
            offset: self.options.offset + index * sector_size,
            stride: self.sector_size(),
            keep: delta::RECORD_BYTES,
            count: 1,
        })
    }

    fn all_sectors(&self) -> Option<Request> {
        Some(Request::Gather {
            offset: self.options.offset,
            stride: self.sector_size(),
            keep: delta::RECORD_BYTES,
            count: usize::from(self.geometry()?.max_hosts()),
        })
    }

    /// Gives a request to a worker that is free; without one it is not started.
    fn submit(&mut self, io: IoId, request: Option<Request>, block: &[u8]) {
        let submitted = match (&self.joined, request) {
            (Some(joined), Some(request)) => joined
                .workers
                .iter()
                .any(|worker| worker.submit(io.0, request, block).is_ok()),
            _ => false,
        };
        if !submitted {
            self.lease
                .handle(now(), Input::Io(io, IoOutcome::NotStarted));
        }
    }

    fn register(&mut self, renewal_s: u64, expire_s: u64) {
        match &self.watchdog {
            Some(watchdog) if self.helper.is_free() => {
                self.registering = true;
                let watchdog = Arc::clone(watchdog);
                self.helper.hand(Task::Register {
                    watchdog,
                    renewal_s,
                    expire_s,
                });
            }
            _ => self.lease.handle(now(), Input::WatchdogRegistered(false)),
        }
    }

    /// Sends the latest expiry, if it has not been sent.
    fn resend(&mut self) {
        let (Some((renewal_s, expire_s)), Some(watchdog)) = (self.unsent, &self.watchdog) else {
            return;
        };
        match watchdog.update(renewal_s, expire_s) {
            Ok(()) => self.unsent = None,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.unsent = None;
                self.shared.tell(Line::WatchdogUnreachable(
                    error.raw_os_error().unwrap_or(EIO),
                ));
                self.lease.handle(now(), Input::WatchdogGone);
            }
        }
    }

    /// The orderly end of a registration; the connection goes with it.
    fn clear_watchdog(&mut self) {
        self.unsent = None;
        self.registering = false;
        if let Some(watchdog) = &self.watchdog
            && let Err(error) = watchdog.clear()
        {
            self.shared.tell(Line::WatchdogUnreachable(
                error.raw_os_error().unwrap_or(EIO),
            ));
        }
    }
}

#[cfg(test)]
mod tests;
