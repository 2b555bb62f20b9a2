//! Which connections to make, look after and drop. Pure: time and outcomes in,
//! actions out.
//!
//! ```text
//!              hold()            Connect ok              Check: gone
//!   (nothing) ───────▶ Absent ──────────────▶ Connected ───────────▶ Broken
//!                        ▲  ▲ back-off: 1 s … 60 s  │ ▲                 │
//!                        │  └── Connect failed      │ └── Connect ok ───┘
//!                        │                          ▼ last release()
//!   forgotten ◀──────────┴──── Disconnected ◀── Disconnect (again after back-off)
//! ```
//!
//! - A connection has one action in flight at most; connections do not wait for
//!   each other.
//! - It is dropped when its last user has left, and never while it has one.
//! - After a restart ([`Keeper::adopt`]) everything is connected again: connecting
//!   adopts what is there, and what nobody wants any more is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use control::storage::connection::Connection;
use control::storage::report::ConnectionReport;
use control::storage::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use super::{Connected, Health};
use crate::job::Result;

/// First pause after a failure, doubled with each further one.
const RETRY_MS_MIN: u64 = 1_000;

/// Longest pause after a failure.
const RETRY_MS_MAX: u64 = 60_000;

/// How often a connection that works is looked at.
const CHECK_MS: u64 = 60_000;

/// Most actions in flight.
const ACTIONS_MAX: usize = 16;

/// Most connections kept.
const CONNECTIONS_MAX: usize = 256;

/// Something for a worker to do; [`Keeper::done`] takes the outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// [`super::connect`].
    Connect {
        /// Its id.
        id: String,
        /// What to connect.
        connection: Connection,
    },
    /// [`super::check`].
    Check {
        /// Its id.
        id: String,
        /// What to look at.
        connection: Connection,
    },
    /// [`super::disconnect`].
    Disconnect {
        /// Its id.
        id: String,
        /// What to drop.
        connection: Connection,
        /// What others still want.
        still_wanted: Vec<Connection>,
    },
}

impl Action {
    /// Id of the connection.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Connect { id, .. } | Self::Check { id, .. } | Self::Disconnect { id, .. } => id,
        }
    }
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Connect: done.
    Connected(Connected),
    /// Check: answered.
    Checked(Health),
    /// Disconnect: done.
    Disconnected,
    /// Any: failed, or nobody knows (its worker was given up).
    Failed(Failure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// After a restart: may be there.
    Unknown,
    Absent,
    Connected,
    /// Works with less than was asked for.
    Degraded,
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Connect,
    Check,
    Disconnect,
}

#[derive(Debug, Clone)]
struct Entry {
    connection: Connection,
    /// What it was, until another choice of options has worked.
    proven: Option<Connection>,
    users: BTreeSet<String>,
    state: State,
    doing: Option<Doing>,
    /// Failures in a row.
    failures: u32,
    /// When the next action may be taken.
    due_ms: u64,
    reason: Option<String>,
    path: Option<PathBuf>,
    /// iSCSI: `target portal` of each session it has or wants.
    sessions: Vec<String>,
}

/// What is persisted, secrets included: a file for root only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Every connection that may be there.
    pub connections: Vec<Held>,
}

/// A connection and who wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The connection.
    pub connection: Connection,
    /// `configuration`, `request`, `domain <uuid>`; none when it is to be dropped.
    pub users: BTreeSet<String>,
}

/// Keeps connections as long as somebody wants them.
#[derive(Debug, Clone, Default)]
pub struct Keeper {
    entries: BTreeMap<String, Entry>,
}

impl Keeper {
    /// Takes up what an earlier keeper left, with those of its users that `stays`
    /// accepts. What is held already keeps its options.
    pub fn adopt(&mut self, document: Document, stays: impl Fn(&str) -> bool) {
        for mut held in document.connections.into_iter().take(CONNECTIONS_MAX) {
            held.users.retain(|user| stays(user));
            let id = held.connection.id();
            match self.entries.get_mut(&id) {
                Some(entry) => {
                    entry.users.append(&mut held.users);
                    if entry.state == State::Absent {
                        entry.state = State::Unknown;
                    }
                }
                None => {
                    let entry = Entry::new(held.connection, held.users, State::Unknown);
                    self.entries.insert(id, entry);
                }
            }
        }
    }

    /// What has to be persisted; before the actions of a change are taken.
    #[must_use]
    pub fn document(&self) -> Document {
        let held = |entry: &Entry| Held {
            // Options that do not work must not outlive this daemon.
            connection: entry.proven.as_ref().unwrap_or(&entry.connection).clone(),
            users: entry.users.clone(),
        };
        Document {
            connections: self.entries.values().map(held).collect(),
        }
    }

    /// Adds a user of a connection, and gives the connection's id. Secrets and
    /// options may change while nobody else uses it.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Exists`] when others use it with other options,
    /// [`FailureKind::NoSpace`] beyond 256 connections.
    pub fn hold(&mut self, connection: Connection, user: &str) -> Result<String> {
        let id = connection.id();
        let count = self.entries.len();
        if let Some(entry) = self.entries.get_mut(&id) {
            if entry.connection != connection {
                if entry.users.iter().any(|other| other != user) {
                    let users: Vec<&str> = entry.users.iter().map(String::as_str).collect();
                    return Err(Failure::new(
                        FailureKind::Exists,
                        format!(
                            "connection {id}: used with other options by {}",
                            users.join(", ")
                        ),
                    ));
                }
                let works = matches!(entry.state, State::Connected | State::Degraded);
                let before = std::mem::replace(&mut entry.connection, connection);
                if works {
                    entry.proven = Some(before);
                }
                // An idempotent connect brings the difference.
                entry.state = State::Broken;
                entry.due_ms = 0;
            }
            if entry.users.insert(user.to_owned()) && entry.failures > 0 {
                // Somebody new does not wait for an old pause.
                entry.due_ms = 0;
            }
            return Ok(id);
        }
        if count >= CONNECTIONS_MAX {
            return Err(Failure::new(
                FailureKind::NoSpace,
                format!("connections: {count} are kept, at most {CONNECTIONS_MAX}"),
            ));
        }
        let entry = Entry::new(connection, BTreeSet::from([user.to_owned()]), State::Absent);
        self.entries.insert(id.clone(), entry);
        Ok(id)
    }

    /// Takes a user off a connection.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] when it is not kept, or not used by `user`.
    pub fn release(&mut self, id: &str, user: &str) -> Result<()> {
        let not_found = |message: String| Failure::new(FailureKind::NotFound, message);
        let Some(entry) = self.entries.get_mut(id) else {
            return Err(not_found(format!("connection {id}: not kept on this host")));
        };
        if !entry.users.remove(user) {
            let users: Vec<&str> = entry.users.iter().map(String::as_str).collect();
            return Err(not_found(format!(
                "connection {id}: not held by {user} but by {}",
                users.join(", ")
            )));
        }
        if entry.users.is_empty() {
            entry.failures = 0;
            entry.due_ms = 0;
        }
        Ok(())
    }

    /// Makes a connection's next action due now.
    pub fn hurry(&mut self, id: &str) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.due_ms = 0;
        }
    }

    /// What to do now; each is in flight until [`Keeper::done`].
    pub fn actions(&mut self, now_ms: u64) -> Vec<Action> {
        self.entries
            .retain(|_, entry| !entry.users.is_empty() || entry.is_there());
        let mut room = ACTIONS_MAX.saturating_sub(self.in_flight());
        let mut actions = Vec::new();
        let wanted: Vec<Connection> = self
            .entries
            .values()
            .filter(|entry| !entry.users.is_empty())
            .map(|entry| entry.connection.clone())
            .collect();
        for (id, entry) in &mut self.entries {
            let Some(doing) = entry.next(now_ms).filter(|_| room > 0) else {
                continue;
            };
            room -= 1;
            entry.doing = Some(doing);
            let (id, connection) = (id.clone(), entry.connection.clone());
            actions.push(match doing {
                Doing::Connect => Action::Connect { id, connection },
                Doing::Check => Action::Check { id, connection },
                Doing::Disconnect => Action::Disconnect {
                    id,
                    connection,
                    still_wanted: wanted.clone(),
                },
            });
        }
        actions
    }

    /// Takes the outcome of an action.
    pub fn done(&mut self, now_ms: u64, id: &str, outcome: Outcome) {
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let doing = entry.doing.take();
        match outcome {
            Outcome::Connected(connected) => {
                entry.proven = None;
                entry.path = connected.path;
                entry.sessions = connected.sessions;
                if connected.warnings.is_empty() {
                    entry.settle(State::Connected, now_ms);
                } else {
                    entry.fail(State::Degraded, connected.warnings.join("; "), now_ms);
                }
            }
            Outcome::Checked(Health::Connected) => entry.settle(State::Connected, now_ms),
            Outcome::Checked(Health::Degraded(reason)) => {
                entry.fail(State::Degraded, reason, now_ms);
            }
            Outcome::Checked(Health::Broken(reason)) => {
                entry.state = State::Broken;
                entry.reason = Some(reason);
                entry.due_ms = now_ms;
            }
            Outcome::Checked(Health::Absent) => {
                entry.reason = matches!(entry.state, State::Connected | State::Degraded)
                    .then(|| "it went away by itself".to_owned());
                entry.state = State::Absent;
                entry.due_ms = now_ms;
            }
            Outcome::Disconnected => {
                entry.state = State::Absent;
                entry.reason = None;
                entry.path = None;
                entry.sessions.clear();
                entry.failures = 0;
                entry.due_ms = now_ms;
            }
            Outcome::Failed(_) if doing == Some(Doing::Connect) && entry.proven.is_some() => {
                // As it was, which is made sure of at once.
                if let Some(proven) = entry.proven.take() {
                    entry.connection = proven;
                }
                entry.state = State::Broken;
                entry.due_ms = now_ms;
            }
            Outcome::Failed(failure) => {
                let state = match (doing, entry.state) {
                    // What a look that did not end says of a connection: nothing good.
                    (Some(Doing::Check), State::Connected) => State::Degraded,
                    // A connect that failed may have made half of it.
                    (Some(Doing::Connect), State::Absent | State::Unknown) => State::Broken,
                    (_, state) => state,
                };
                entry.fail(state, failure.message, now_ms);
            }
        }
    }

    /// When [`Keeper::actions`] has to be asked again, if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        if self.in_flight() >= ACTIONS_MAX {
            return None;
        }
        self.entries
            .values()
            .filter(|entry| entry.doing.is_none())
            .map(|entry| entry.due_ms)
            .min()
    }

    /// Whether a connection can be used now.
    #[must_use]
    pub fn is_connected(&self, id: &str) -> bool {
        self.entries
            .get(id)
            .is_some_and(|entry| matches!(entry.state, State::Connected | State::Degraded))
    }

    /// Whether a connection was not made yet, and did not fail either.
    #[must_use]
    pub fn is_untried(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| {
            matches!(entry.state, State::Unknown | State::Absent) && entry.reason.is_none()
        })
    }

    /// Every connection with its id.
    pub fn connections(&self) -> impl Iterator<Item = (&str, &Connection)> {
        self.entries
            .iter()
            .map(|(id, entry)| (id.as_str(), &entry.connection))
    }

    /// Every connection, with the iSCSI sessions it has or wants.
    pub fn carriers(&self) -> impl Iterator<Item = (&str, &Connection, &[String])> {
        self.entries
            .iter()
            .map(|(id, entry)| (id.as_str(), &entry.connection, entry.sessions.as_slice()))
    }

    /// A connection that is kept.
    #[must_use]
    pub fn connection(&self, id: &str) -> Option<&Connection> {
        self.entries.get(id).map(|entry| &entry.connection)
    }

    /// Where a file system is mounted.
    #[must_use]
    pub fn path(&self, id: &str) -> Option<&Path> {
        self.entries.get(id)?.path.as_deref()
    }

    /// Who wants a connection.
    #[must_use]
    pub fn users(&self, id: &str) -> Vec<String> {
        let entry = self.entries.get(id);
        entry.map_or_else(Vec::new, |entry| entry.users.iter().cloned().collect())
    }

    /// A connection, without secrets.
    #[must_use]
    pub fn report(&self, id: &str) -> Option<ConnectionReport> {
        Some(self.entries.get(id)?.report(id))
    }

    /// Every connection, by id, without secrets.
    #[must_use]
    pub fn reports(&self) -> Vec<ConnectionReport> {
        self.entries
            .iter()
            .map(|(id, entry)| entry.report(id))
            .collect()
    }

    fn in_flight(&self) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.doing.is_some())
            .count()
    }
}

impl Entry {
    fn new(connection: Connection, users: BTreeSet<String>, state: State) -> Self {
        Self {
            connection,
            proven: None,
            users,
            state,
            doing: None,
            failures: 0,
            due_ms: 0,
            reason: None,
            path: None,
            sessions: Vec::new(),
        }
    }

    fn report(&self, id: &str) -> ConnectionReport {
        ConnectionReport {
            id: id.to_owned(),
            kind: self.connection.kind().to_owned(),
            target: self.connection.target(),
            state: self.word().to_owned(),
            path: self
                .path
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned()),
            users: self.users.iter().cloned().collect(),
            reason: self.reason.clone(),
            sessions: self.sessions.clone(),
            luns: Vec::new(),
        }
    }

    /// The decision, from who wants it and how it is.
    fn next(&self, now_ms: u64) -> Option<Doing> {
        if self.doing.is_some() || now_ms < self.due_ms {
            return None;
        }
        if self.users.is_empty() {
            return self.is_there().then_some(Doing::Disconnect);
        }
        Some(match self.state {
            State::Connected => Doing::Check,
            State::Unknown | State::Absent | State::Broken | State::Degraded => Doing::Connect,
        })
    }

    /// Whether something of it may be on the host.
    fn is_there(&self) -> bool {
        self.state != State::Absent || self.doing.is_some()
    }

    fn settle(&mut self, state: State, now_ms: u64) {
        self.state = state;
        self.reason = None;
        self.failures = 0;
        self.due_ms = now_ms.saturating_add(CHECK_MS);
    }

    fn fail(&mut self, state: State, reason: String, now_ms: u64) {
        self.state = state;
        self.reason = Some(reason);
        let doubled = RETRY_MS_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.due_ms = now_ms.saturating_add(doubled.min(RETRY_MS_MAX));
    }

    fn word(&self) -> &'static str {
        match (self.doing, self.state) {
            (Some(Doing::Disconnect), _) => "disconnecting",
            (_, State::Connected) => "connected",
            (_, State::Degraded) => "degraded",
            (Some(Doing::Connect), _) => "connecting",
            (_, State::Absent) if self.users.is_empty() => "disconnected",
            (_, State::Unknown | State::Absent) if self.reason.is_none() => "connecting",
            _ => "broken",
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
