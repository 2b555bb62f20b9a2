//! What happens to one guest, one thing at a time.

mod samples;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use control::storage::VolumeName;
use control::storage::report::{WatchReport, WatchedDriveReport};
use guest::qmp::{CommandError, CommandId, Event, Message, Session};
use serde_json::{Value, json};
use smol::LocalExecutor;
use smol::channel::Sender;
use smol::future::FutureExt;
use thin::size::MIB;
use thin::{
    DriveId, Effect, ExtendOutcome, Guest, GuestEffect, GuestInput, Input, Monotonic,
    RefreshOutcome, Sample, State, Target, ThresholdOutcome, Ticket,
};

use super::super::flight::{Flight, Landed};
use super::super::survey::{self, Disk};
use super::super::{Drive, Extender, Later, Refresher, Watch};
use super::Command;

/// An extend without an answer for this long has failed. The mail gives up before.
const EXTEND_TIMEOUT: Duration = Duration::from_secs(300);
/// A refresh without an answer for this long has failed.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(120);

/// Work of others that has ended.
#[derive(Debug)]
pub(super) enum Done {
    Extended(DriveId, Target, ExtendOutcome),
    Refreshed(DriveId, Target, RefreshOutcome),
    Sized(DriveId, Ticket, Option<Sample>),
}

/// What was asked of QEMU.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Stats,
    Nodes,
    Named,
    Status,
    Block,
    Threshold(DriveId, Ticket),
    Nothing,
}

/// A drive and what is known of it.
#[derive(Debug)]
struct Known {
    drive: Drive,
    replica: Option<VolumeName>,
    disk: Option<Disk>,
    extends: BTreeMap<Target, Flight>,
    refreshes: BTreeMap<Target, Flight>,
    reason: Option<String>,
}

/// Three questions asked together, for all drives that want a sample.
#[derive(Debug, Default)]
struct Survey {
    for_whom: Vec<(DriveId, Ticket)>,
    stats: Option<Value>,
    nodes: Option<Value>,
    named: Option<Value>,
}

/// One guest.
pub(super) struct Core {
    sys: PathBuf,
    guest: Guest,
    drives: BTreeMap<DriveId, Known>,
    session: Option<Session>,
    ready: bool,
    asked: BTreeMap<CommandId, Asked>,
    survey: Option<Survey>,
    next_survey: Vec<(DriveId, Ticket)>,
    run_status: Option<Value>,
    /// When the guest last began to run, by QEMU's clock.
    resumed_us: Option<u64>,
    reason: Option<String>,
    extender: Rc<dyn Extender>,
    refresher: Rc<dyn Refresher>,
    done: Sender<Done>,
    executor: Rc<LocalExecutor<'static>>,
    socket: String,
    report: Rc<RefCell<WatchReport>>,
}

impl fmt::Debug for Core {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Core")
            .field("socket", &self.socket)
            .field("drives", &self.drives)
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(
        watch: Watch,
        extender: Rc<dyn Extender>,
        refresher: Rc<dyn Refresher>,
        done: Sender<Done>,
        executor: Rc<LocalExecutor<'static>>,
        report: Rc<RefCell<WatchReport>>,
    ) -> Self {
        let mut guest = Guest::new();
        let mut drives = BTreeMap::new();
        for (id, drive) in (0..).map(DriveId).zip(watch.drives) {
            guest.add(id, watch.config);
            drives.insert(
                id,
                Known {
                    drive,
                    replica: None,
                    disk: None,
                    extends: BTreeMap::new(),
                    refreshes: BTreeMap::new(),
                    reason: None,
                },
            );
        }
        Self {
            sys: watch.sys,
            guest,
            drives,
            session: None,
            ready: false,
            asked: BTreeMap::new(),
            survey: None,
            next_survey: Vec::new(),
            run_status: None,
            resumed_us: None,
            reason: Some("not connected yet".to_owned()),
            extender,
            refresher,
            done,
            executor,
            socket: watch.socket.display().to_string(),
            report,
        }
    }

    pub(super) fn connected(&mut self) {
        self.session = Some(Session::new());
    }

    pub(super) fn disconnected(&mut self, reason: &str) {
        if self.ready {
            tracing::warn!(socket = self.socket, reason, "guest not watched");
        }
        self.session = None;
        self.ready = false;
        self.asked.clear();
        self.survey = None;
        self.run_status = None;
        self.resumed_us = None;
        self.reason = Some(reason.to_owned());
        for known in self.drives.values_mut() {
            known.disk = None;
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn deadline(&self) -> Option<Monotonic> {
        // Without QEMU nothing can be asked; its first answer sets all going.
        self.ready.then(|| self.guest.deadline()).flatten()
    }

    pub(super) fn transmit(&self) -> &[u8] {
        self.session.as_ref().map_or(&[], Session::transmit)
    }

    pub(super) fn transmitted(&mut self, count: usize) {
        if let Some(session) = &mut self.session {
            session.transmitted(count);
        }
    }

    pub(super) fn tick(&mut self, now: Monotonic) {
        if self.ready {
            self.guest.handle(now, GuestInput::Tick);
        }
    }

    pub(super) fn command(&mut self, now: Monotonic, command: Command) {
        match command {
            Command::Resized { node } => {
                if let Some(id) = self.drive_named(&[&node]) {
                    self.drive(now, id, Input::Resized);
                }
            }
            Command::Replicating { node, replica } => {
                if let Some(id) = self.drive_named(&[&node])
                    && let Some(known) = self.drives.get_mut(&id)
                {
                    known.replica = replica;
                    let on = known.replica.is_some();
                    self.drive(now, id, Input::Replicating(on));
                }
            }
            Command::Migrating(on) => {
                for id in self.drives.keys().copied().collect::<Vec<_>>() {
                    self.drive(now, id, Input::Migrating(on));
                }
            }
            Command::Hold(on) => self.guest.handle(now, GuestInput::Hold(on)),
        }
    }

    /// Bytes came from QEMU. An error ends the connection.
    pub(super) fn received(&mut self, now: Monotonic, bytes: &[u8]) -> Result<(), String> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        let received = session.receive(bytes).map_err(|error| error.to_string());
        let mut messages = VecDeque::new();
        while let Some(message) = session.next_message() {
            messages.push_back(message);
        }
        for message in messages {
            match message {
                Message::Ready(version) => {
                    self.ready = true;
                    self.reason = None;
                    tracing::info!(socket = self.socket, ?version, "guest watched");
                    self.guest.handle(now, GuestInput::Connected);
                }
                Message::Event(event) => self.event(now, &event),
                Message::Reply { id, outcome } => self.reply(now, id, outcome),
                // Which events they were nobody knows: as after a new connection.
                Message::Lost(_) => self.guest.handle(now, GuestInput::Connected),
            }
            self.drain(now);
        }
        received
    }

    pub(super) fn done(&mut self, now: Monotonic, done: Done) {
        match done {
            Done::Extended(id, target, outcome) => {
                let Some(known) = self.drives.get_mut(&id) else {
                    return;
                };
                match known.extends.entry(target).or_default().landed() {
                    Some(Landed::Answer(ticket)) => {
                        self.drive(now, id, Input::Extended { ticket, outcome });
                    }
                    Some(Landed::Again(to_bytes)) => self.extend(id, target, to_bytes),
                    None => {}
                }
            }
            Done::Refreshed(id, target, outcome) => {
                let Some(known) = self.drives.get_mut(&id) else {
                    return;
                };
                match known.refreshes.entry(target).or_default().landed() {
                    Some(Landed::Answer(ticket)) => {
                        self.drive(now, id, Input::Refreshed { ticket, outcome });
                    }
                    Some(Landed::Again(to_bytes)) => self.refresh(id, target, to_bytes),
                    None => {}
                }
            }
            Done::Sized(id, ticket, sample) => {
                self.drive(now, id, Input::Sampled { ticket, sample });
            }
        }
    }

    /// Does what the core wants, until it wants nothing more.
    pub(super) fn drain(&mut self, now: Monotonic) {
        while let Some(effect) = self.guest.next_effect() {
            match effect {
                GuestEffect::QueryRun => {
                    self.run_status = None;
                    let asked = self.ask(Asked::Status, "query-status", Value::Null)
                        && self.ask(Asked::Block, "query-block", Value::Null);
                    if !asked {
                        self.guest.handle(now, GuestInput::Run(None));
                    }
                }
                GuestEffect::Continue => {
                    tracing::info!(socket = self.socket, "guest continued: it has space again");
                    self.ask(Asked::Nothing, "cont", Value::Null);
                }
                GuestEffect::Drive(id, effect) => self.effect(now, id, effect),
            }
        }
        self.forget_what_is_over();
        self.publish();
    }

    fn drive(&mut self, now: Monotonic, id: DriveId, input: Input) {
        self.guest.handle(now, GuestInput::Drive(id, input));
    }

    fn effect(&mut self, now: Monotonic, id: DriveId, effect: Effect) {
        match effect {
            Effect::QueryStats { ticket } => {
                self.next_survey.push((id, ticket));
                self.begin_survey(now);
            }
            Effect::Extend {
                ticket,
                target,
                to_bytes,
            } => {
                if let Some(known) = self.drives.get_mut(&id)
                    && known
                        .extends
                        .entry(target)
                        .or_default()
                        .ask(ticket, to_bytes)
                {
                    self.extend(id, target, to_bytes);
                }
            }
            Effect::Refresh {
                ticket,
                target,
                to_bytes,
            } => {
                if let Some(known) = self.drives.get_mut(&id)
                    && known
                        .refreshes
                        .entry(target)
                        .or_default()
                        .ask(ticket, to_bytes)
                {
                    self.refresh(id, target, to_bytes);
                }
            }
            Effect::SetThreshold { ticket, at_bytes } => {
                let node = self
                    .drives
                    .get(&id)
                    .and_then(|known| known.disk.as_ref())
                    .map(|disk| disk.protocol_node().to_owned());
                let asked = node.is_some_and(|node| {
                    self.ask(
                        Asked::Threshold(id, ticket),
                        "block-set-write-threshold",
                        json!({ "node-name": node, "write-threshold": at_bytes }),
                    )
                });
                if !asked {
                    let outcome = ThresholdOutcome::Failed;
                    self.drive(now, id, Input::ThresholdSet { ticket, outcome });
                }
            }
            Effect::Pause { reason } => {
                tracing::error!(socket = self.socket, ?reason, "guest stopped");
                self.ask(Asked::Nothing, "stop", Value::Null);
            }
            // `Guest` keeps these to itself.
            Effect::Resume => {}
            Effect::Tell(notice) => {
                if let Some(known) = self.drives.get_mut(&id) {
                    let volume = &known.drive.volume.volume;
                    known.reason = super::super::words::tell(&self.socket, volume, &notice);
                }
            }
        }
    }

    fn ask(&mut self, what: Asked, command: &str, arguments: Value) -> bool {
        let Some(session) = &mut self.session else {
            return false;
        };
        match session.execute(command, arguments) {
            Ok(id) => {
                self.asked.insert(id, what);
                true
            }
            Err(_not_sent) => false,
        }
    }

    fn volume(&self, id: DriveId, target: Target) -> Option<VolumeName> {
        let known = self.drives.get(&id)?;
        match target {
            Target::Source | Target::Destination => Some(known.drive.volume.clone()),
            Target::Replica => known.replica.clone(),
        }
    }

    fn extend(&mut self, id: DriveId, target: Target, to_bytes: u64) {
        let work: Later<ExtendOutcome> = match self.volume(id, target) {
            Some(volume) => self.extender.extend(&volume, to_bytes.div_ceil(MIB)),
            // The copy has ended meanwhile.
            None => Box::pin(std::future::ready(ExtendOutcome::Failed)),
        };
        self.spawn(
            work,
            EXTEND_TIMEOUT,
            ExtendOutcome::Failed,
            move |outcome| Done::Extended(id, target, outcome),
        );
    }

    fn refresh(&mut self, id: DriveId, target: Target, to_bytes: u64) {
        let work: Later<RefreshOutcome> = match self.volume(id, target) {
            Some(volume) if target == Target::Destination => {
                self.refresher.refresh_destination(&volume, to_bytes)
            }
            Some(volume) => self.refresher.refresh(&volume, to_bytes),
            None => Box::pin(std::future::ready(RefreshOutcome::Failed)),
        };
        self.spawn(
            work,
            REFRESH_TIMEOUT,
            RefreshOutcome::Failed,
            move |outcome| Done::Refreshed(id, target, outcome),
        );
    }

    fn spawn<T: 'static>(
        &self,
        work: Later<T>,
        within: Duration,
        late: T,
        tell: impl FnOnce(T) -> Done + 'static,
    ) {
        let done = self.done.clone();
        let work = async move {
            let outcome = work
                .or(async {
                    smol::Timer::after(within).await;
                    late
                })
                .await;
            // Nobody listens once the monitor has ended.
            done.send(tell(outcome)).await.ok();
        };
        self.executor.spawn(work).detach();
    }

    fn reply(&mut self, now: Monotonic, id: CommandId, outcome: Result<Value, CommandError>) {
        let Some(asked) = self.asked.remove(&id) else {
            return;
        };
        match asked {
            Asked::Stats | Asked::Nodes | Asked::Named => {
                match (outcome, &mut self.survey) {
                    (Ok(value), Some(survey)) => match asked {
                        Asked::Stats => survey.stats = Some(value),
                        Asked::Nodes => survey.nodes = Some(value),
                        _ => survey.named = Some(value),
                    },
                    (Ok(_), None) => {}
                    (Err(_), _) => self.end_survey(now),
                }
                self.finish_survey(now);
                self.begin_survey(now);
            }
            Asked::Status => self.run_status = outcome.ok(),
            Asked::Block => {
                let report = match (self.run_status.take(), outcome) {
                    (Some(status), Ok(block)) => {
                        let known: Vec<(DriveId, Disk)> = self
                            .drives
                            .iter()
                            .filter_map(|(id, known)| Some((*id, known.disk.clone()?)))
                            .collect();
                        Some(survey::run_report(&status, &block, &known))
                    }
                    _ => None,
                };
                self.guest.handle(now, GuestInput::Run(report));
            }
            Asked::Threshold(id, ticket) => {
                let outcome = match outcome {
                    Ok(_) => ThresholdOutcome::Set,
                    Err(error) if error.is_unknown_command() => ThresholdOutcome::Unsupported,
                    Err(error) => {
                        self.reason_of(id, format!("threshold not set: {error}"));
                        ThresholdOutcome::Failed
                    }
                };
                self.drive(now, id, Input::ThresholdSet { ticket, outcome });
            }
            Asked::Nothing => {
                if let Err(error) = outcome {
                    tracing::warn!(socket = self.socket, %error, "QEMU refused");
                }
            }
        }
    }

    fn event(&mut self, now: Monotonic, event: &Event) {
        let data = &event.data;
        let names = [
            survey::text(data, "node-name"),
            survey::text(data, "device"),
            survey::text(data, "qom-path"),
        ];
        match event.name.as_str() {
            "BLOCK_WRITE_THRESHOLD" => {
                // Only of the node it was set on; others set theirs elsewhere.
                let node = survey::text(data, "node-name");
                let found = self.drives.iter().find(|(_, known)| {
                    let disk = known.disk.as_ref();
                    disk.is_some_and(|disk| disk.protocol_node() == node)
                });
                if let Some(id) = found.map(|(id, _)| *id) {
                    self.drive(now, id, Input::Threshold);
                }
            }
            // QEMU tells of one disk's errors once a second: an older one comes
            // when the guest has long been running again.
            "BLOCK_IO_ERROR" if event.at_us.is_some() && event.at_us < self.resumed_us => {}
            "BLOCK_IO_ERROR" if survey::text(data, "action") == "stop" => {
                let full = data.get("nospace").and_then(Value::as_bool) == Some(true);
                let all_known = self.drives.values().all(|known| known.disk.is_some());
                match self.drive_named(&names) {
                    Some(id) if full => self.drive(now, id, Input::NoSpace),
                    // Its names are not known yet; the question after the stop,
                    // which follows, tells.
                    None if full && !all_known => {}
                    // Whether an unknown one is full or broken, what we do does
                    // not help it.
                    _ => self.guest.handle(now, GuestInput::DiskError),
                }
            }
            "STOP" => self.guest.handle(now, GuestInput::Stopped),
            "RESUME" => {
                self.resumed_us = event.at_us;
                self.guest.handle(now, GuestInput::Resumed);
            }
            _ => {}
        }
    }

    fn drive_named(&self, names: &[&str]) -> Option<DriveId> {
        let found = self.drives.iter().find(|(_, known)| {
            names.iter().any(|name| match &known.disk {
                Some(disk) => disk.answers_to(name),
                None => known.drive.node == *name,
            })
        });
        found.map(|(id, _)| *id)
    }

    fn reason_of(&mut self, id: DriveId, reason: String) {
        if let Some(known) = self.drives.get_mut(&id) {
            known.reason = Some(reason);
        }
    }

    /// What was wrong is shown until it is well again, also where no extend ended
    /// it: the guest's stop may be heard of only after the space came.
    fn forget_what_is_over(&mut self) {
        let drives = self.guest.status().drives;
        for (id, known) in &mut self.drives {
            if drives.get(id).is_some_and(thin::Status::is_well) {
                known.reason = None;
            }
        }
    }

    fn publish(&self) {
        let status = self.guest.status();
        let drives = self.drives.iter().filter_map(|(id, known)| {
            let status = status.drives.get(id)?;
            Some(WatchedDriveReport {
                node: known.drive.node.clone(),
                volume: known.drive.volume.volume.clone(),
                state: match status.state {
                    State::Unset => "unset",
                    State::Set => "set",
                    State::Exceeded => "exceeded",
                    State::Disabled => "disabled",
                }
                .to_owned(),
                extends: status.extends,
                size_bytes: (status.physical_bytes > 0).then_some(status.physical_bytes),
                reason: known.reason.clone(),
            })
        });
        *self.report.borrow_mut() = WatchReport {
            qmp: self.socket.clone(),
            drives: drives.collect(),
            reason: self.reason.clone(),
            // Who told it knows better.
            told: Vec::new(),
        };
    }
}
