//! Waiting until the root's device is there.
//!
//! Devices are announced by the kernel's events; a look at everything at least
//! once a second catches what an event did not say. Each device is read on a
//! thread of its own: one that does not answer delays nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use linux::probe::{self, BlockDevice, Places};
use linux::uevent::{Uevent, UeventSocket};
use rustix::event::{PollFd, PollFlags};

use crate::choose::{Choice, choose};
use crate::drivers::Drivers;
use crate::report::Failure;
use crate::settings::RootSpec;

/// Longest time without a look at everything.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a device may take to be read before the search goes on without
/// waiting for it (its answer still counts when it comes).
const PATIENCE: Duration = Duration::from_secs(2);

/// Most devices being read at the same time; the others wait for their turn.
const READING_MAX: usize = 64;

enum Event {
    Device(Uevent),
    Read(BlockDevice),
}

/// The search, and what it has seen.
pub(crate) struct Search<'machine> {
    spec: &'machine RootSpec,
    drivers: &'machine mut Drivers,
    places: Places,
    sys: &'machine Path,
    /// What was read, by name.
    known: BTreeMap<String, BlockDevice>,
    /// What is being read, and since when.
    reading: BTreeMap<String, Instant>,
    /// What changed while it was being read.
    stale: BTreeSet<String>,
    sender: Sender<Event>,
    events: Receiver<Event>,
}

/// The root's device, and what is odd about it.
pub(crate) struct Found {
    pub(crate) device: BlockDevice,
    pub(crate) warnings: Vec<String>,
    /// Everything seen, for a report about a later step.
    pub(crate) devices: Vec<BlockDevice>,
}

impl<'machine> Search<'machine> {
    /// Prepares a search; events are heard from here on.
    pub(crate) fn new(
        spec: &'machine RootSpec,
        drivers: &'machine mut Drivers,
        sys: &'machine Path,
    ) -> (Self, Option<String>) {
        let (sender, events) = mpsc::channel();
        let deaf = listen(sender.clone())
            .err()
            .map(|error| format!("no device events, looking once a second: {error}"));
        let search = Self {
            spec,
            drivers,
            places: Places::default(),
            sys,
            known: BTreeMap::new(),
            reading: BTreeMap::new(),
            stale: BTreeSet::new(),
            sender,
            events,
        };
        (search, deaf)
    }

    /// Loads drivers and reads devices until the root is there, for at most
    /// `wait`.
    ///
    /// # Errors
    /// The report of a root that did not come, or of several that did.
    pub(crate) fn run(mut self, wait: Duration) -> Result<Found, Box<Failure>> {
        let end = Instant::now() + wait;
        let mut next_look = Instant::now();
        loop {
            if Instant::now() >= next_look {
                self.look_at_everything();
                next_look = Instant::now() + LOOK_INTERVAL;
            }
            while let Ok(event) = self.events.try_recv() {
                self.take(event);
            }
            if let Some(outcome) = self.judge() {
                return outcome;
            }
            // A slow machine gets to know its devices before it gives up.
            if Instant::now() >= end && !self.drivers.is_waiting() {
                return Err(self.not_found(wait).into());
            }
            // A module is loaded only while no device is about to answer: its
            // answer may make the module unnecessary.
            if self.drivers.is_waiting() && !self.is_expecting() {
                self.drivers.load_next();
                continue;
            }
            let until = if self.drivers.is_waiting() {
                next_look
            } else {
                next_look.min(end)
            };
            match self
                .events
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// The answer, once there is one.
    fn judge(&self) -> Option<Result<Found, Box<Failure>>> {
        let found = match choose(self.spec, self.known.values()) {
            Choice::Missing => return None,
            // A label can be claimed twice: hear all devices first.
            Choice::Found(..) | Choice::Ambiguous(_) if self.by_label() && !self.has_settled() => {
                return None;
            }
            Choice::Ambiguous(devices) => {
                return Some(Err(self.ambiguous(&devices).into()));
            }
            Choice::Found(device, others) => Found {
                device: device.clone(),
                warnings: others
                    .iter()
                    .map(|other| {
                        format!(
                            "{} is also {}, using {}",
                            other.name, self.spec, device.name
                        )
                    })
                    .collect(),
                devices: self.devices(),
            },
        };
        Some(Ok(found))
    }

    fn by_label(&self) -> bool {
        matches!(self.spec, RootSpec::Label(_))
    }

    /// True if all drivers are loaded and all devices have been read.
    fn has_settled(&self) -> bool {
        !self.drivers.is_waiting() && !self.is_expecting()
    }

    /// True if a device may answer soon.
    fn is_expecting(&self) -> bool {
        self.reading
            .values()
            .any(|since| since.elapsed() < PATIENCE)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Read(device) => {
                let had_to_wait = self.reading.len() >= READING_MAX;
                self.reading.remove(&device.name);
                let name = device.name.clone();
                self.known.insert(name.clone(), device);
                if self.stale.remove(&name) {
                    self.read(&name);
                }
                if had_to_wait {
                    self.look_for_new_devices();
                }
            }
            Event::Device(uevent) => self.hear(&uevent),
        }
    }

    fn hear(&mut self, uevent: &Uevent) {
        if uevent.action == "add"
            && let Some(alias) = uevent.get("MODALIAS")
        {
            self.drivers.ask_for(alias);
        }
        if uevent.get("SUBSYSTEM") == Some("block") {
            let name = uevent.device.rsplit('/').next().unwrap_or_default();
            if uevent.action == "change" && self.known.contains_key(name) {
                self.read(name);
            }
            self.look_for_new_devices();
        }
    }

    fn look_at_everything(&mut self) {
        self.drivers.ask_for_present(self.sys);
        self.look_for_new_devices();
        // What could not be read may be readable by now.
        let faulty: Vec<String> = self
            .known
            .values()
            .filter(|device| device.fault.is_some())
            .map(|device| device.name.clone())
            .collect();
        for name in faulty {
            self.read(&name);
        }
    }

    /// Forgets what is gone and reads what is new.
    fn look_for_new_devices(&mut self) {
        let names = probe::names(&self.places).unwrap_or_default();
        self.known.retain(|name, _| names.contains(name));
        for name in names {
            if !self.known.contains_key(&name) && !self.reading.contains_key(&name) {
                self.read(&name);
            }
        }
    }

    /// Starts to read a device; one being read is read once more afterwards.
    fn read(&mut self, name: &str) {
        if self.reading.contains_key(name) {
            self.stale.insert(name.to_owned());
            return;
        }
        if self.reading.len() >= READING_MAX {
            return;
        }
        let (places, sender) = (self.places.clone(), self.sender.clone());
        let device = name.to_owned();
        let reader = thread::Builder::new().spawn(move || {
            // The search may be over.
            sender
                .send(Event::Read(probe::examine(&places, &device)))
                .ok();
        });
        if reader.is_ok() {
            self.reading.insert(name.to_owned(), Instant::now());
        }
    }

    /// All devices seen, and those that do not answer.
    fn devices(&self) -> Vec<BlockDevice> {
        let mut devices: Vec<BlockDevice> = self.known.values().cloned().collect();
        for (name, since) in &self.reading {
            if self.known.contains_key(name) {
                continue;
            }
            devices.push(BlockDevice {
                fault: Some(format!(
                    "no answer yet, after {} s",
                    since.elapsed().as_secs()
                )),
                ..probe::describe(&self.places, name)
            });
        }
        devices.sort_by(|left, right| left.name.cmp(&right.name));
        devices
    }

    fn not_found(&self, wait: Duration) -> Failure {
        Failure {
            problem: format!("no block device is {}", self.spec),
            looked_for: Some(format!("{} (holdfast.root)", self.spec)),
            waited: Some(wait),
            devices: Some(self.devices()),
            notes: self.drivers.notes(self.sys),
            next_step: "attach the disk or correct holdfast.root on the kernel command line; \
                        holdfast.root_wait gives slow disks more time"
                .to_owned(),
        }
    }

    fn ambiguous(&self, devices: &[&BlockDevice]) -> Failure {
        let names: Vec<&str> = devices.iter().map(|device| device.name.as_str()).collect();
        Failure {
            problem: format!("{} is not unique: {}", self.spec, names.join(" and ")),
            looked_for: Some(format!("{} (holdfast.root)", self.spec)),
            waited: None,
            devices: Some(self.devices()),
            notes: Vec::new(),
            next_step: "name the one to start by holdfast.root=PARTUUID=… on the kernel command \
                        line, or detach the other"
                .to_owned(),
        }
    }
}

/// Passes the kernel's device events on from a thread.
fn listen(sender: Sender<Event>) -> io::Result<()> {
    let socket = UeventSocket::open()?;
    thread::Builder::new()
        .name("uevents".to_owned())
        .spawn(move || {
            loop {
                let mut wait = [PollFd::new(&socket, PollFlags::IN)];
                // An interrupted wait is as good as an event; so is a full
                // buffer, for the next look sees what was lost.
                rustix::event::poll(&mut wait, None).ok();
                if let Ok(Some(uevent)) = socket.receive()
                    && sender.send(Event::Device(uevent)).is_err()
                {
                    return;
                }
            }
        })?;
    Ok(())
}
