//! A guest, its QEMU and a volume as numbers, on a clock of its own: what the
//! cores are tried against. One millisecond at a time.

use std::collections::BTreeMap;

use thin::size::MIB;
use thin::{
    Config, DriveId, Effect, ExtendOutcome, Guest, GuestEffect, GuestInput, Input, Monotonic,
    Notice, RefreshOutcome, RunReport, RunState, Sample, Status, Target, ThresholdOutcome,
};

pub(crate) const DRIVE: DriveId = DriveId(0);

/// How long everything takes, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delays {
    pub(crate) event_ms: u64,
    pub(crate) query_ms: u64,
    pub(crate) extend_ms: u64,
    pub(crate) refresh_ms: u64,
}

impl Delays {
    /// As upstream measured at worst: 1.39 s in all.
    pub(crate) const UPSTREAM: Self = Self {
        event_ms: 30,
        query_ms: 20,
        extend_ms: 1000,
        refresh_ms: 310,
    };

    pub(crate) fn round_trip_ms(&self) -> u64 {
        self.event_ms + self.query_ms * 2 + self.extend_ms + self.refresh_ms
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    Running,
    NoSpace,
    Eio,
    ByHand,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) guest: Guest,
    pub(crate) delays: Delays,
    pub(crate) run: Run,
    pub(crate) stopped_ms: u64,
    pub(crate) capacity: u64,
    pub(crate) written: u64,
    /// What the host maps, the volume's size, the replica's.
    pub(crate) mapped: u64,
    pub(crate) volume: u64,
    pub(crate) replica: u64,
    /// Free space of the volume group.
    pub(crate) pool: u64,
    pub(crate) threshold: Option<u64>,
    pub(crate) thresholds_known: bool,
    /// Answers to the next requests to extend, before the normal ones.
    pub(crate) answers: Vec<Option<ExtendOutcome>>,
    /// The answer is good and the volume is not larger: a refusal as hosts saw it.
    pub(crate) silent_refusals: u32,
    pub(crate) destination_can: bool,
    pub(crate) asked: Vec<(Target, u64)>,
    pub(crate) refreshed: Vec<Target>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) pauses: u32,
    pub(crate) pauses_ordered: u32,
    pub(crate) least_free: u64,
    queue: BTreeMap<(u64, u64), Later>,
    serial: u64,
}

#[derive(Debug)]
enum Later {
    Tell(GuestInput),
    Answer(thin::Ticket),
    Extend(thin::Ticket, Target, u64),
    Refresh(thin::Ticket, Target),
    Run,
    Continue,
}

impl World {
    pub(crate) fn new(config: Config, capacity: u64, volume: u64) -> Self {
        let mut guest = Guest::new();
        guest.add(DRIVE, config);
        Self {
            now_ms: 1,
            guest,
            delays: Delays::UPSTREAM,
            run: Run::Running,
            stopped_ms: 0,
            capacity,
            written: 0,
            mapped: volume,
            volume,
            replica: volume,
            pool: u64::MAX,
            threshold: None,
            thresholds_known: true,
            answers: Vec::new(),
            silent_refusals: 0,
            destination_can: true,
            asked: Vec::new(),
            refreshed: Vec::new(),
            notices: Vec::new(),
            pauses: 0,
            pauses_ordered: 0,
            least_free: u64::MAX,
            queue: BTreeMap::new(),
            serial: 0,
        }
    }

    pub(crate) fn now(&self) -> Monotonic {
        Monotonic(0).plus_ms(self.now_ms)
    }

    pub(crate) fn status(&self) -> Status {
        self.guest.status().drives[&DRIVE]
    }

    pub(crate) fn tell(&mut self, input: GuestInput) {
        self.guest.handle(self.now(), input);
        self.drain();
    }

    /// Lets the time go on, the guest writing `rate` bytes a second to new space
    /// until its disk is full.
    pub(crate) fn run_for(&mut self, ms: u64, rate: impl Fn(u64) -> u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.step(rate(self.now_ms) / 1000);
        }
    }

    pub(crate) fn idle_for(&mut self, ms: u64) {
        self.run_for(ms, |_| 0);
    }

    fn step(&mut self, bytes: u64) {
        self.now_ms += 1;
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= self.now_ms
        {
            let later = entry.remove();
            self.happen(later);
        }
        if self.guest.deadline().is_some_and(|at| at <= self.now()) {
            self.tell(GuestInput::Tick);
        }
        self.write(bytes);
    }

    /// The guest writes to new space.
    pub(crate) fn write(&mut self, bytes: u64) {
        if self.run != Run::Running || bytes == 0 || self.written >= self.capacity {
            return;
        }
        let end = self.written + bytes;
        if self.threshold.is_some_and(|threshold| end > threshold) {
            self.threshold = None;
            self.later(
                self.delays.event_ms,
                Later::Tell(GuestInput::Drive(DRIVE, Input::Threshold)),
            );
        }
        if end > self.mapped {
            self.pauses += 1;
            self.run = Run::NoSpace;
            self.least_free = 0;
            self.later(
                self.delays.event_ms,
                Later::Tell(GuestInput::Drive(DRIVE, Input::NoSpace)),
            );
            self.later(self.delays.event_ms, Later::Tell(GuestInput::Stopped));
            return;
        }
        self.written = end;
        self.least_free = self.least_free.min(self.mapped - end);
    }

    pub(crate) fn stop(&mut self, why: Run) {
        self.run = why;
        self.stopped_ms = self.now_ms;
        if why == Run::Eio {
            self.later(1, Later::Tell(GuestInput::DiskError));
        }
        self.later(1, Later::Tell(GuestInput::Stopped));
    }

    pub(crate) fn cont(&mut self) {
        self.run = Run::Running;
        self.later(1, Later::Tell(GuestInput::Resumed));
    }

    fn later(&mut self, ms: u64, later: Later) {
        self.serial += 1;
        self.queue
            .insert((self.now_ms + ms.max(1), self.serial), later);
    }

    fn drain(&mut self) {
        while let Some(effect) = self.guest.next_effect() {
            let query_ms = self.delays.query_ms;
            match effect {
                GuestEffect::QueryRun => self.later(query_ms, Later::Run),
                GuestEffect::Continue => self.later(query_ms, Later::Continue),
                GuestEffect::Drive(_, effect) => self.effect(effect),
            }
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::QueryStats { ticket } => {
                self.later(self.delays.query_ms, Later::Answer(ticket));
            }
            Effect::Extend {
                ticket,
                target,
                to_bytes,
            } => {
                self.asked.push((target, to_bytes));
                self.later(
                    self.delays.extend_ms,
                    Later::Extend(ticket, target, to_bytes),
                );
            }
            Effect::Refresh { ticket, target, .. } => {
                self.later(self.delays.refresh_ms, Later::Refresh(ticket, target));
            }
            Effect::SetThreshold { ticket, at_bytes } => {
                assert!(at_bytes > 0 && at_bytes <= self.mapped, "{at_bytes}");
                let outcome = if self.thresholds_known {
                    self.threshold = Some(at_bytes);
                    ThresholdOutcome::Set
                } else {
                    ThresholdOutcome::Unsupported
                };
                self.later(
                    self.delays.query_ms,
                    Later::Tell(GuestInput::Drive(
                        DRIVE,
                        Input::ThresholdSet { ticket, outcome },
                    )),
                );
            }
            Effect::Pause { .. } => {
                self.pauses_ordered += 1;
                self.stop(Run::ByHand);
            }
            Effect::Resume => panic!("a drive alone continues nobody"),
            Effect::Tell(notice) => self.notices.push(notice),
        }
    }

    fn happen(&mut self, later: Later) {
        match later {
            Later::Tell(input) => self.tell(input),
            Later::Answer(ticket) => {
                let sample = Some(Sample {
                    capacity_bytes: self.capacity,
                    allocation_bytes: self.written,
                    physical_bytes: self.mapped,
                    written_bytes: Some(self.written),
                });
                self.tell(GuestInput::Drive(DRIVE, Input::Sampled { ticket, sample }));
            }
            Later::Extend(ticket, target, to_bytes) => self.extend(ticket, target, to_bytes),
            Later::Refresh(ticket, target) => self.refresh(ticket, target),
            Later::Run => {
                let report = RunReport {
                    state: match self.run {
                        Run::Running => RunState::Running,
                        Run::NoSpace | Run::Eio => RunState::IoError,
                        Run::ByHand => RunState::Other,
                    },
                    full: if self.run == Run::NoSpace {
                        vec![DRIVE]
                    } else {
                        Vec::new()
                    },
                    failed: self.run == Run::Eio,
                };
                self.tell(GuestInput::Run(Some(report)));
            }
            Later::Continue => {
                if matches!(self.run, Run::NoSpace | Run::Running) {
                    self.cont();
                    return;
                }
                // QEMU cannot be asked and told in one step: what happened after
                // the question is not known. The failed request fails again.
                assert!(
                    self.now_ms - self.stopped_ms <= 2 * self.delays.query_ms + 2,
                    "continued a guest that stands still for another reason: {:?}",
                    self.run
                );
                self.stop(self.run);
            }
        }
    }

    fn extend(&mut self, ticket: thin::Ticket, target: Target, to_bytes: u64) {
        let answer = if self.answers.is_empty() {
            Some(ExtendOutcome::Done)
        } else {
            self.answers.remove(0)
        };
        let Some(mut outcome) = answer else {
            return;
        };
        if outcome == ExtendOutcome::Done {
            let rounded = thin::size::round_up(to_bytes, 128 * MIB);
            let size = match target {
                Target::Replica => &mut self.replica,
                Target::Source | Target::Destination => &mut self.volume,
            };
            if self.silent_refusals > 0 {
                self.silent_refusals -= 1;
            } else if rounded.saturating_sub(*size) > self.pool {
                outcome = ExtendOutcome::Refused;
            } else {
                self.pool -= rounded.saturating_sub(*size);
                *size = rounded.max(*size);
            }
        }
        self.tell(GuestInput::Drive(
            DRIVE,
            Input::Extended { ticket, outcome },
        ));
    }

    fn refresh(&mut self, ticket: thin::Ticket, target: Target) {
        self.refreshed.push(target);
        let outcome = match target {
            Target::Source => {
                self.mapped = self.volume;
                RefreshOutcome::Done {
                    size_bytes: self.mapped,
                }
            }
            Target::Replica => RefreshOutcome::Done {
                size_bytes: self.replica,
            },
            Target::Destination if self.destination_can => RefreshOutcome::Done {
                size_bytes: self.volume,
            },
            Target::Destination => RefreshOutcome::Impossible,
        };
        self.tell(GuestInput::Drive(
            DRIVE,
            Input::Refreshed { ticket, outcome },
        ));
    }
}
