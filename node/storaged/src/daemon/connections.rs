//! Connections that are wanted: [`Keeper`] decides, workers do what may hang, one
//! process per connection.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use control::storage::connection::Connection;
use control::storage::report::ConnectionReport;
use control::storage::{Answer, Failure, FailureKind};
use smol::channel::{Receiver, Sender, bounded};

use super::Daemon;
use super::socket::done;
use super::workers::Key;
use crate::connect::plan::{Action, Keeper, Outcome};
use crate::connect::{self, Connected, Health};
use crate::job::Result;
use crate::worker::dispatch;
use crate::worker::work::{Carrier, Work};

/// Longest time to make or drop one: iSCSI logins over several portals, some dead.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(120);

/// Wanted by the configuration.
pub(crate) const BY_CONFIGURATION: &str = "configuration";
/// Wanted by a request.
pub(crate) const BY_REQUEST: &str = "request";

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// It can be used, or cannot.
    Made,
    /// It is gone, or stays.
    Dropped,
}

/// Those that wait for a connection, by its id.
type Waiting = BTreeMap<String, Vec<(Until, Sender<Result<()>>)>>;

/// Every connection, and who waits for it.
#[derive(Debug)]
pub(crate) struct Connections {
    keeper: RefCell<Keeper>,
    waiting: RefCell<Waiting>,
    wake: Sender<()>,
    woken: Receiver<()>,
}

impl Default for Connections {
    fn default() -> Self {
        let (wake, woken) = bounded(1);
        Self {
            keeper: RefCell::default(),
            waiting: RefCell::default(),
            wake,
            woken,
        }
    }
}

impl Connections {
    /// What is kept.
    pub(crate) fn kept(&self) -> std::cell::Ref<'_, Keeper> {
        self.keeper.borrow()
    }

    /// The same, to take up what an earlier daemon left.
    pub(crate) fn kept_mut(&self) -> std::cell::RefMut<'_, Keeper> {
        self.keeper.borrow_mut()
    }

    fn act(&self) {
        // Woken already is as good.
        self.wake.try_send(()).ok();
    }

    fn wait(&self, id: &str, until: Until) -> Receiver<Result<()>> {
        let (sender, receiver) = bounded(1);
        let mut waiting = self.waiting.borrow_mut();
        waiting
            .entry(id.to_owned())
            .or_default()
            .push((until, sender));
        receiver
    }

    /// Tells those who wait for it, when `outcome` is what they wait for.
    fn tell(&self, id: &str, dropping: bool, outcome: &Outcome) {
        let (until, told) = match outcome {
            Outcome::Connected(_) | Outcome::Checked(Health::Connected | Health::Degraded(_)) => {
                (Until::Made, Ok(()))
            }
            // It is made again at once; that is waited for.
            Outcome::Checked(Health::Broken(_) | Health::Absent) => return,
            Outcome::Disconnected => (Until::Dropped, Ok(())),
            Outcome::Failed(failure) if dropping => (Until::Dropped, Err(failure.clone())),
            Outcome::Failed(failure) => (Until::Made, Err(failure.clone())),
        };
        let mut waiting = self.waiting.borrow_mut();
        let Some(waiters) = waiting.get_mut(id) else {
            return;
        };
        waiters.retain(|(wanted, sender)| {
            if *wanted == until {
                // Whoever waited may have gone.
                sender.try_send(told.clone()).ok();
            }
            *wanted != until
        });
        if waiters.is_empty() {
            waiting.remove(id);
        }
    }
}

impl Daemon {
    /// Adds a user of a connection, which is made if need be.
    pub(crate) fn keep(&self, connection: &Connection, user: &str) -> Result<String> {
        let connection = connection.clone().normalized();
        let id = self.connections.kept_mut().hold(connection, user)?;
        self.connections.act();
        Ok(id)
    }

    /// A domain begins or ends to be used by this host: what it lies on stays for
    /// as long, whoever else lets go of it.
    pub(crate) fn keep_for_domain(&self, id: &str, domain: &str, used: bool) {
        let user = format!("domain {domain}");
        {
            let mut keeper = self.connections.kept_mut();
            let Some(connection) = keeper.connection(id).cloned() else {
                return;
            };
            let changed = if used {
                keeper.hold(connection, &user).map(drop)
            } else {
                keeper.release(id, &user)
            };
            if changed.is_err() {
                return;
            }
        }
        self.remember();
        self.connections.act();
    }

    /// Makes, looks after and drops connections, for ever.
    pub(crate) async fn keep_connections(self: Rc<Self>) {
        loop {
            let now = super::ms(self.started.elapsed());
            let (actions, deadline) = {
                let mut keeper = self.connections.kept_mut();
                (keeper.actions(now), keeper.deadline())
            };
            for action in actions {
                let daemon = Rc::clone(&self);
                self.executor
                    .spawn(async move { daemon.perform(action).await })
                    .detach();
            }
            let due = async {
                match deadline {
                    Some(at) => {
                        let rest = at.saturating_sub(now).max(1);
                        smol::Timer::after(Duration::from_millis(rest)).await;
                    }
                    None => smol::future::pending().await,
                }
            };
            smol::future::or(
                async {
                    self.connections.woken.recv().await.ok();
                },
                due,
            )
            .await;
        }
    }

    async fn perform(self: Rc<Self>, action: Action) {
        let id = action.id().to_owned();
        let key = Key::Connection(id.clone());
        let (work, looking, dropping) = match action {
            Action::Connect { connection, .. } => (Work::Connect { connection }, false, false),
            Action::Check { connection, .. } => (Work::LookAt { connection }, true, false),
            Action::Disconnect {
                connection,
                still_wanted: others,
                ..
            } => {
                self.take_down_on(&id, &connection).await;
                (Work::Disconnect { connection, others }, false, true)
            }
        };
        let answer = self.workers.work(&key, work, CONNECT_DEADLINE).await;
        let outcome = outcome(answer, looking, dropping);
        let before = self.connections.kept().report(&id);
        let now = super::ms(self.started.elapsed());
        self.connections.kept_mut().done(now, &id, outcome.clone());
        let after = self.connections.kept().report(&id);
        log(before.as_ref(), after.as_ref());
        if outcome == Outcome::Disconnected {
            self.forget_domains_of(&id);
            self.workers.stop(&key, false);
            self.remember();
        } else if !dropping && self.connections.kept().is_connected(&id) {
            self.find_on(&id).await;
        }
        self.connections.tell(&id, dropping, &outcome);
        self.paths.look();
        self.changed();
        self.connections.act();
    }

    /// Makes a connection now, and keeps it if that works.
    pub(crate) async fn connect(self: &Rc<Self>, connection: &Connection) -> Result<Answer> {
        let connection = &connection.clone().normalized();
        // What is kept may be in use: it gives way to what can be made only.
        let places = dispatch::places(self.options.root.as_deref());
        connect::check_request(&places, connection)?;
        let id = connection.id();
        let (before, was_wanted) = {
            let kept = self.connections.kept();
            let by_request = kept.users(&id).iter().any(|user| user == BY_REQUEST);
            (kept.connection(&id).cloned(), by_request)
        };
        let made = self.connections.wait(&id, Until::Made);
        self.keep(connection, BY_REQUEST)?;
        self.connections.kept_mut().hurry(&id);
        self.connections.act();
        self.remember();
        let outcome = made.recv().await.unwrap_or_else(|_| Err(unknown(&id)));
        if let Err(failure) = outcome {
            {
                let mut kept = self.connections.kept_mut();
                // It worked as it was, perhaps, and something may lie on it.
                if let Some(before) = before {
                    kept.hold(before, BY_REQUEST).ok();
                }
                // What was mistyped would be tried for ever; what was made in part
                // goes, and what others want stays theirs alone.
                if !was_wanted {
                    kept.release(&id, BY_REQUEST).ok();
                }
            }
            self.connections.act();
            self.remember();
            return Err(failure);
        }
        let report = self.connections.kept().report(&id);
        report.map(Answer::Connection).ok_or_else(|| unknown(&id))
    }

    /// Has a connection looked at now.
    pub(crate) fn hurry(&self, id: &str) {
        self.connections.kept_mut().hurry(id);
        self.connections.act();
    }

    /// Every connection, with its LUNs.
    pub(crate) fn connection_reports(&self) -> Vec<ConnectionReport> {
        let kept = self.connections.kept();
        let mut reports = kept.reports();
        for report in &mut reports {
            if let Some(connection) = kept.connection(&report.id) {
                self.paths.tell_connection(report, connection);
            }
        }
        reports
    }

    /// Takes away what is mapped of domains on a connection that goes: somebody
    /// looked at them, although this host does not use them. LUNs that something
    /// lies on cannot go.
    async fn take_down_on(self: &Rc<Self>, id: &str, connection: &Connection) {
        if !connection.is_block() {
            return;
        }
        let domains: Vec<String> = {
            let domains = self.domains.borrow();
            domains
                .values()
                .filter(|known| known.place.carrier == Carrier::Block && !known.is_used())
                .filter(|known| {
                    let report = &known.report;
                    report.connection.as_deref() == Some(id)
                        || report.connections.iter().any(|other| other == id)
                })
                .map(|known| known.report.id.clone())
                .collect()
        };
        if domains.is_empty() {
            return;
        }
        for domain in &domains {
            self.workers.stop(&Key::Domain(domain.clone()), false);
        }
        let work = Work::TakeDown { domains };
        let taken = self.workers.work(&Key::Scan, work, CONNECT_DEADLINE).await;
        if let Err(failure) = taken {
            tracing::warn!("{id}: {failure}");
        }
    }

    /// Lets go of a connection. While domains of this host are on it, it stays.
    pub(crate) async fn disconnect(self: &Rc<Self>, id: &str) -> Result<Answer> {
        let users = self.connections.kept().users(id);
        if self.connections.kept().connection(id).is_none() {
            return Err(unknown(id));
        }
        if users.iter().any(|user| user == BY_CONFIGURATION) {
            return Err(Failure::new(
                FailureKind::InUse,
                format!("{id}: the configuration wants it; take it out there"),
            ));
        }
        // Without this user it is being dropped already, or kept by domains alone.
        self.connections.kept_mut().release(id, BY_REQUEST).ok();
        self.remember();
        let left = self.connections.kept().users(id);
        if !left.is_empty() {
            return Ok(done(format!(
                "{id} stays until {} of this host's pool has left it",
                left.join(", ")
            )));
        }
        let gone = self.connections.wait(id, Until::Dropped);
        self.connections.kept_mut().hurry(id);
        self.connections.act();
        match gone.recv().await.unwrap_or_else(|_| Err(unknown(id))) {
            Ok(()) => Ok(done(format!("{id} is disconnected"))),
            Err(mut failure) => {
                failure.message += "; it is tried again until it works";
                Err(failure)
            }
        }
    }
}

/// What an answer says of a connection.
fn outcome(answer: Result<Answer>, looking: bool, dropping: bool) -> Outcome {
    let report = match answer {
        Err(failure) => return Outcome::Failed(failure),
        Ok(_) if dropping => return Outcome::Disconnected,
        Ok(Answer::Connection(report)) => report,
        Ok(_) => ConnectionReport::default(),
    };
    let reason = report.reason;
    if looking {
        let said = reason.unwrap_or_default();
        return Outcome::Checked(match report.state.as_str() {
            "degraded" => Health::Degraded(said),
            "broken" => Health::Broken(said),
            "absent" => Health::Absent,
            _ => Health::Connected,
        });
    }
    Outcome::Connected(Connected {
        path: report.path.map(Into::into),
        warnings: reason.into_iter().collect(),
        sessions: report.sessions,
    })
}

/// Tells what has changed of a connection.
fn log(before: Option<&ConnectionReport>, after: Option<&ConnectionReport>) {
    let Some(after) = after else {
        return;
    };
    let same =
        |before: &ConnectionReport| before.reason == after.reason && (before.state == after.state);
    if before.is_some_and(same) {
        return;
    }
    match &after.reason {
        Some(reason) => tracing::warn!("{}: {}: {reason}", after.id, after.state),
        None => tracing::info!("{}: {}", after.id, after.state),
    }
}

pub(crate) fn unknown(id: &str) -> Failure {
    let shown: String = id.chars().take(200).collect();
    Failure::new(
        FailureKind::NotFound,
        format!("connection {shown}: not known; `nodectl storage status` shows those that are"),
    )
}
