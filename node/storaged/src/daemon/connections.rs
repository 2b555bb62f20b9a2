//! Connections that are wanted: made, looked after, made again, and dropped when
//! nobody wants them any more. What may hang is done by a worker of each.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use control::storage::connection::Connection;
use control::storage::report::ConnectionReport;
use control::storage::{Answer, Failure, FailureKind};
use smol::channel::{Sender, bounded};

use super::Daemon;
use super::socket::done;
use super::workers::Key;
use crate::job::Result;
use crate::worker::work::Work;

/// Longest time to make one: iSCSI logins over several portals, one after the
/// other dead.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(120);
/// How often one that is made is looked at.
const LOOK: Duration = Duration::from_secs(60);
/// Pauses between attempts.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Connections at once.
const CONNECTIONS_MAX: usize = 128;

/// Wanted by the configuration.
pub(crate) const BY_CONFIGURATION: &str = "configuration";
/// Wanted by a request.
pub(crate) const BY_REQUEST: &str = "request";

/// One connection.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) connection: Connection,
    pub(crate) users: BTreeSet<String>,
    pub(crate) state: &'static str,
    pub(crate) path: Option<PathBuf>,
    pub(crate) reason: Option<String>,
    /// Dropped to end its keeper's pause; a message makes it look at once.
    wake: Sender<()>,
}

impl Kept {
    pub(crate) fn report(&self) -> ConnectionReport {
        ConnectionReport {
            id: self.connection.id(),
            kind: self.connection.kind().to_owned(),
            target: self.connection.target(),
            state: self.state.to_owned(),
            path: self.path.as_ref().map(|path| path.display().to_string()),
            users: self.users.iter().cloned().collect(),
            reason: self.reason.clone(),
        }
    }
}

impl Daemon {
    /// Adds a user of a connection, making it if need be.
    pub(crate) fn keep(self: &Rc<Self>, connection: &Connection, user: &str) -> Result<String> {
        let id = connection.id();
        let mut connections = self.connections.borrow_mut();
        if let Some(kept) = connections.get_mut(&id) {
            if kept.connection != *connection {
                // The same target with another password, for instance.
                kept.connection = connection.clone();
                kept.wake.try_send(()).ok();
            }
            kept.users.insert(user.to_owned());
            return Ok(id);
        }
        if connections.len() >= CONNECTIONS_MAX {
            return Err(Failure::new(
                FailureKind::InUse,
                format!("{CONNECTIONS_MAX} connections are kept already; disconnect one first"),
            ));
        }
        let (wake, woken) = bounded(1);
        connections.insert(
            id.clone(),
            Kept {
                connection: connection.clone(),
                users: BTreeSet::from([user.to_owned()]),
                state: "connecting",
                path: None,
                reason: None,
                wake,
            },
        );
        let daemon = Rc::clone(self);
        let kept = id.clone();
        self.executor
            .spawn(async move { daemon.look_after(&kept, woken).await })
            .detach();
        Ok(id)
    }

    /// Makes a connection and looks after it until nobody wants it.
    async fn look_after(self: &Rc<Self>, id: &str, woken: smol::channel::Receiver<()>) {
        let key = Key::Connection(id.to_owned());
        let mut retry = RETRY_MIN;
        loop {
            let Some(connection) = self.wanted(id) else {
                return;
            };
            let work = Work::Connect { connection };
            let outcome = self.workers.work(&key, work, CONNECT_DEADLINE).await;
            let pause = match self.note(id, &outcome) {
                Some(true) => {
                    retry = RETRY_MIN;
                    self.find_on(id).await;
                    LOOK
                }
                Some(false) => {
                    let pause = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    pause
                }
                None => return,
            };
            self.changed();
            let woke = async { woken.recv().await.is_ok() };
            let rested = async {
                smol::Timer::after(pause).await;
                true
            };
            if !smol::future::or(woke, rested).await {
                return;
            }
        }
    }

    fn wanted(&self, id: &str) -> Option<Connection> {
        let connections = self.connections.borrow();
        connections.get(id).map(|kept| kept.connection.clone())
    }

    /// Notes what came of an attempt; whether it is connected.
    fn note(&self, id: &str, outcome: &Result<Answer>) -> Option<bool> {
        let mut connections = self.connections.borrow_mut();
        let kept = connections.get_mut(id)?;
        let before = (kept.state, kept.reason.clone());
        match outcome {
            Ok(Answer::Connection(report)) => {
                kept.state = "connected";
                kept.path = report.path.as_ref().map(PathBuf::from);
                kept.reason.clone_from(&report.reason);
            }
            Ok(_) => {
                kept.state = "connected";
                kept.reason = None;
            }
            Err(failure) => {
                kept.state = if kept.state == "connected" || kept.state == "broken" {
                    "broken"
                } else {
                    "connecting"
                };
                kept.reason = Some(failure.message.clone());
            }
        }
        if before != (kept.state, kept.reason.clone()) {
            match &kept.reason {
                Some(reason) => tracing::warn!("{id}: {}: {reason}", kept.state),
                None => tracing::info!("{id}: {}", kept.state),
            }
        }
        Some(kept.state == "connected")
    }

    /// Makes a connection now, and keeps it if that works or may work later.
    pub(crate) async fn connect(self: &Rc<Self>, connection: &Connection) -> Result<Answer> {
        let id = connection.id();
        let new = !self.connections.borrow().contains_key(&id);
        let key = Key::Connection(id.clone());
        let work = Work::Connect {
            connection: connection.clone(),
        };
        let outcome = self.workers.work(&key, work, CONNECT_DEADLINE).await;
        if let Err(failure) = &outcome
            && new
        {
            // What was mistyped would be tried for ever.
            return Err(failure.clone());
        }
        self.keep(connection, BY_REQUEST)?;
        self.note(&id, &outcome);
        self.find_on(&id).await;
        self.changed();
        self.remember();
        outcome?;
        let connections = self.connections.borrow();
        let kept = connections.get(&id).ok_or_else(|| unknown(&id))?;
        Ok(Answer::Connection(kept.report()))
    }

    /// Drops a connection.
    pub(crate) async fn disconnect(self: &Rc<Self>, id: &str) -> Result<Answer> {
        let connection = {
            let connections = self.connections.borrow();
            let kept = connections.get(id).ok_or_else(|| unknown(id))?;
            if kept.users.contains(BY_CONFIGURATION) {
                return Err(Failure::new(
                    FailureKind::InUse,
                    format!("{id}: the configuration wants it; take it out there"),
                ));
            }
            kept.connection.clone()
        };
        let used: Vec<String> = self
            .domains
            .borrow()
            .values()
            .filter(|known| known.report.connection.as_deref() == Some(id) && known.is_used())
            .map(|known| known.report.id.clone())
            .collect();
        if let Some(domain) = used.first() {
            return Err(Failure::new(
                FailureKind::InUse,
                format!(
                    "{id}: domain {domain} of this host's pool is on it; deactivate and detach it, or disconnect the pool first"
                ),
            ));
        }
        if let Some(kept) = self.connections.borrow_mut().get_mut(id) {
            kept.state = "disconnecting";
        }
        let key = Key::Connection(id.to_owned());
        let others = {
            let connections = self.connections.borrow();
            connections
                .iter()
                .filter(|(other, _)| *other != id)
                .map(|(_, kept)| kept.connection.clone())
                .collect()
        };
        let work = Work::Disconnect { connection, others };
        let outcome = self.workers.work(&key, work, CONNECT_DEADLINE).await;
        match outcome {
            Ok(_) => {
                self.connections.borrow_mut().remove(id);
                self.forget_domains_of(id);
                self.workers.stop(&key, false);
                self.remember();
                Ok(done(format!("{id} is disconnected")))
            }
            Err(failure) => {
                if let Some(kept) = self.connections.borrow_mut().get_mut(id) {
                    kept.state = "broken";
                    kept.reason = Some(failure.message.clone());
                }
                Err(failure)
            }
        }
    }
}

pub(crate) fn unknown(id: &str) -> Failure {
    Failure::new(
        FailureKind::NotFound,
        format!("connection {id}: not known; `nodectl storage status` shows those that are"),
    )
}
