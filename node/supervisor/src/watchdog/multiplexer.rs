//! The pure core of the watchdog service: one device, many registered
//! expiries, and the question asked again and again: may it be petted now?
//!
//! ```text
//!                 every test interval: is any expiry near or past?
//!
//!   Armed ── yes ──▶ Withheld (the countdown runs; asked every second)
//!     ▲                  │ nobody's expiry is near any more
//!     └──────────────────┘
//! ```
//!
//! Invariants, tested in `multiplexer/tests.rs`:
//! * no pet is given once any registered expiry is less than one test interval away,
//!   so the device fires at most one fire timeout after that moment;
//! * a connection that closes with an expiry registered keeps it registered, for ever:
//!   nobody can renew it any more, so the device fires after that expiry, whatever comes;
//! * a connection that closes without one leaves nothing behind;
//! * nothing a client sends, or fails to send, changes another client's expiry.

use std::collections::{BTreeMap, VecDeque};

use control::status::WatchdogClient;
use control::wdmd::{Command, Message, test_interval_s};

use crate::boot::sequence::Millis;

/// Most connections and left-over expiries at once; further connections are refused.
/// The original daemon has room for 1000 lockspaces in all; a node joins a handful.
pub const CLIENTS_MAX: usize = 128;
/// Seconds between checks while an expiry is near.
const FAILING_INTERVAL_S: u32 = 1;

/// Number of a connection, given by the server, never used twice.
pub type ClientId = u64;

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Pet the device now.
    Pet,
    /// Pets stop, for this reason: one line for the log.
    Withheld(String),
    /// Pets go on: one line for the log.
    Resumed,
}

#[derive(Debug)]
struct Client {
    pid: u32,
    name: String,
    expire_s: u64,
    refcount: bool,
    connected: bool,
}

/// The watchdog's registered expiries.
#[derive(Debug)]
pub struct Multiplexer {
    /// Seconds; `None` without a device.
    fire_timeout_s: Option<u32>,
    clients: BTreeMap<ClientId, Client>,
    last_pet: Option<Millis>,
    next_check: Millis,
    withheld: Option<String>,
    effects: VecDeque<Effect>,
}

impl Default for Multiplexer {
    fn default() -> Self {
        Self::new()
    }
}

impl Multiplexer {
    /// A service without a device: clients are answered, with a fire timeout of 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            fire_timeout_s: None,
            clients: BTreeMap::new(),
            last_pet: None,
            next_check: 0,
            withheld: None,
            effects: VecDeque::new(),
        }
    }

    /// A device is armed with this fire timeout in seconds. The caller armed it
    /// just now, which counts as a pet.
    pub fn device_armed(&mut self, now: Millis, fire_timeout_s: u32) {
        self.fire_timeout_s = Some(fire_timeout_s);
        self.last_pet = Some(now);
        self.next_check = now;
        self.tick(now);
    }

    /// There is no device any more (it was disarmed in a clean end).
    pub fn device_gone(&mut self) {
        self.fire_timeout_s = None;
    }

    /// The device was petted.
    pub fn petted(&mut self, now: Millis) {
        self.last_pet = Some(now);
    }

    /// Somebody connected; `false` refuses the connection because there are too many.
    #[must_use]
    pub fn connected(&mut self, client: ClientId, pid: u32) -> bool {
        if self.clients.len() >= CLIENTS_MAX {
            return false;
        }
        let entry = Client {
            pid,
            name: String::new(),
            expire_s: 0,
            refcount: false,
            connected: true,
        };
        self.clients.insert(client, entry);
        true
    }

    /// A whole message came in; returns the bytes of the answer, if it asks for one.
    /// An unknown command is ignored, as the original does.
    pub fn message(&mut self, now: Millis, client: ClientId, message: &Message) -> Option<Vec<u8>> {
        let command = Command::from_wire(message.command).ok()?;
        match command {
            Command::Status | Command::OpenWatchdog => {
                return Some(self.answer(command, message).encode().to_vec());
            }
            Command::DumpDebug => return Some(self.debug_text(now).into_bytes()),
            Command::Register
            | Command::RefcountSet
            | Command::RefcountClear
            | Command::TestLive => {}
        }
        let entry = self
            .clients
            .get_mut(&client)
            .filter(|entry| entry.connected)?;
        match command {
            Command::Register => entry.name = String::from_utf8_lossy(&message.name).into_owned(),
            Command::RefcountSet => entry.refcount = true,
            Command::RefcountClear => entry.refcount = false,
            Command::TestLive => entry.expire_s = message.expire_time_s,
            Command::Status | Command::OpenWatchdog | Command::DumpDebug => {}
        }
        None
    }

    /// The connection closed.
    pub fn closed(&mut self, client: ClientId) {
        let Some(entry) = self.clients.get_mut(&client) else {
            return;
        };
        entry.connected = false;
        if entry.expire_s == 0 {
            self.clients.remove(&client);
        }
    }

    /// Checks every expiry when a check is due. Call by [`Multiplexer::deadline`];
    /// calling early is harmless.
    pub fn tick(&mut self, now: Millis) {
        let Some(fire_timeout_s) = self.fire_timeout_s else {
            return;
        };
        if now < self.next_check {
            return;
        }
        let interval_s = test_interval_s(fire_timeout_s);
        let near = self.near_expiry(now, interval_s);
        match (&near, self.withheld.is_some()) {
            (Some(reason), false) => self.effects.push_back(Effect::Withheld(reason.clone())),
            (None, true) => self.effects.push_back(Effect::Resumed),
            _ => {}
        }
        if near.is_none() {
            self.effects.push_back(Effect::Pet);
        }
        let wait_s = if near.is_some() {
            FAILING_INTERVAL_S
        } else {
            interval_s
        };
        self.next_check = now + u64::from(wait_s) * 1000;
        self.withheld = near;
    }

    /// When [`Multiplexer::tick`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        self.fire_timeout_s.map(|_| self.next_check)
    }

    /// The next thing to do, until there is none.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Why the device may not be disarmed: an expiry or a reference is still registered.
    #[must_use]
    pub fn in_use(&self) -> Option<String> {
        let entry = self
            .clients
            .values()
            .find(|entry| entry.expire_s != 0 || entry.refcount)?;
        let what = if entry.expire_s == 0 {
            "holds a reference"
        } else {
            "has an expiry registered"
        };
        Some(format!("{} (process {}) {what}", entry.label(), entry.pid))
    }

    /// Whether a name that starts with `prefix` has an expiry registered over an open connection.
    #[must_use]
    pub fn guards(&self, prefix: &str) -> bool {
        self.clients
            .values()
            .any(|entry| entry.connected && entry.expire_s != 0 && entry.name.starts_with(prefix))
    }

    /// Why pets are withheld, while they are.
    #[must_use]
    pub fn withheld(&self) -> Option<&str> {
        self.withheld.as_deref()
    }

    /// Milliseconds since the last pet.
    #[must_use]
    pub fn last_pet_age(&self, now: Millis) -> Option<Millis> {
        Some(now.saturating_sub(self.last_pet?))
    }

    /// Every connection that registered a name or an expiry.
    #[must_use]
    pub fn clients(&self, now: Millis) -> Vec<WatchdogClient> {
        let told = self
            .clients
            .values()
            .filter(|entry| !entry.name.is_empty() || entry.expire_s != 0);
        let line = |entry: &Client| {
            let left = |expire: u64| i128::from(expire) * 1000 - i128::from(now);
            let expires_in_ms = (entry.expire_s != 0)
                .then(|| i64::try_from(left(entry.expire_s)).unwrap_or(i64::MAX));
            WatchdogClient {
                name: entry.name.clone(),
                pid: entry.pid,
                expires_in_ms,
                connected: entry.connected,
            }
        };
        told.map(line).collect()
    }

    fn near_expiry(&self, now: Millis, interval_s: u32) -> Option<String> {
        let now_s = now / 1000;
        let near = |entry: &&Client| {
            entry.expire_s != 0 && now_s >= entry.expire_s.saturating_sub(u64::from(interval_s))
        };
        let entry = self.clients.values().find(near)?;
        let closed = if entry.connected {
            ""
        } else {
            ", and its connection is closed"
        };
        let left = i128::from(entry.expire_s) - i128::from(now_s);
        Some(format!(
            "{} (process {}): {left} s left until its expiry{closed}",
            entry.label(),
            entry.pid
        ))
    }

    fn answer(&self, command: Command, asked: &Message) -> Message {
        let fire_timeout_s = self.fire_timeout_s.unwrap_or(0);
        let mut answer = Message::new(command);
        match command {
            Command::OpenWatchdog => {
                // The device has been armed since boot; 0 tells a client that wants
                // another time that it cannot have it.
                let matches = asked.fire_timeout_s == 0 || asked.fire_timeout_s == fire_timeout_s;
                answer.fire_timeout_s = if matches { fire_timeout_s } else { 0 };
            }
            _ => {
                answer.test_interval_s = test_interval_s(fire_timeout_s);
                answer.fire_timeout_s = fire_timeout_s;
                answer.last_keepalive_s = self.last_pet.unwrap_or(0) / 1000;
            }
        }
        answer
    }

    fn debug_text(&self, now: Millis) -> String {
        let mut text = format!(
            "fire_timeout {} last_pet_age_ms {} withheld {}\n",
            self.fire_timeout_s.unwrap_or(0),
            self.last_pet_age(now).unwrap_or(0),
            self.withheld.as_deref().unwrap_or("no")
        );
        for (id, entry) in &self.clients {
            let Client {
                pid,
                name,
                expire_s,
                refcount,
                connected,
            } = entry;
            text += &format!(
                "client {id} name {name} pid {pid} expire {expire_s} now {} refcount {refcount} connected {connected}\n",
                now / 1000
            );
        }
        text
    }
}

impl Client {
    fn label(&self) -> &str {
        if self.name.is_empty() {
            "unnamed client"
        } else {
            &self.name
        }
    }
}

#[cfg(test)]
mod tests;
