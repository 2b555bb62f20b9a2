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
//! - After a restart ([`Keeper::restore`]) everything is looked at before it is
//!   made: what is connected is adopted.

use std::collections::{BTreeMap, BTreeSet};

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
const CHECK_MS: u64 = 30_000;

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
    /// After a restart: not looked at yet.
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
    users: BTreeSet<String>,
    state: State,
    doing: Option<Doing>,
    /// Failures in a row.
    failures: u32,
    /// When the next action may be taken.
    due_ms: u64,
    reason: Option<String>,
    path: Option<std::path::PathBuf>,
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
    /// A keeper that takes up what another left.
    #[must_use]
    pub fn restore(document: Document) -> Self {
        let entry = |held: Held| {
            let entry = Entry {
                connection: held.connection,
                users: held.users,
                state: State::Unknown,
                doing: None,
                failures: 0,
                due_ms: 0,
                reason: None,
                path: None,
            };
            (entry.connection.id(), entry)
        };
        Self {
            entries: document
                .connections
                .into_iter()
                .take(CONNECTIONS_MAX)
                .map(entry)
                .collect(),
        }
    }

    /// What has to be persisted; before the actions of a change are taken.
    #[must_use]
    pub fn document(&self) -> Document {
        let held = |entry: &Entry| Held {
            connection: entry.connection.clone(),
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
                entry.connection = connection;
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
        self.entries.insert(
            id.clone(),
            Entry {
                connection,
                users: BTreeSet::from([user.to_owned()]),
                state: State::Absent,
                doing: None,
                failures: 0,
                due_ms: 0,
                reason: None,
                path: None,
            },
        );
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

    /// Takes a user off every connection, and gives their ids.
    pub fn release_all(&mut self, user: &str) -> Vec<String> {
        let ids: Vec<String> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.users.contains(user))
            .map(|(id, _)| id.clone())
            .collect();
        for id in &ids {
            // Just found there.
            let _ = self.release(id, user);
        }
        ids
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
                entry.path = connected.path;
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
                entry.failures = 0;
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

    /// A connection that is kept.
    #[must_use]
    pub fn connection(&self, id: &str) -> Option<&Connection> {
        self.entries.get(id).map(|entry| &entry.connection)
    }

    /// Every connection, by id, without secrets.
    #[must_use]
    pub fn reports(&self) -> Vec<ConnectionReport> {
        self.entries
            .iter()
            .map(|(id, entry)| ConnectionReport {
                id: id.clone(),
                kind: entry.connection.kind().to_owned(),
                target: entry.connection.target(),
                state: entry.word().to_owned(),
                path: entry
                    .path
                    .as_ref()
                    .map(|path| path.to_string_lossy().into_owned()),
                users: entry.users.iter().cloned().collect(),
                reason: entry.reason.clone(),
            })
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
    /// The decision, from who wants it and how it is.
    fn next(&self, now_ms: u64) -> Option<Doing> {
        if self.doing.is_some() || now_ms < self.due_ms {
            return None;
        }
        if self.users.is_empty() {
            return self.is_there().then_some(Doing::Disconnect);
        }
        Some(match self.state {
            State::Unknown | State::Connected => Doing::Check,
            State::Absent | State::Broken | State::Degraded => Doing::Connect,
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
            (_, State::Unknown) => "unknown",
            (_, State::Absent | State::Broken) => "broken",
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
