//! Domains that are known, and those of the pool that are watched: a read and a
//! look every 10 s, the host id joined, the state told.

use std::cell::Cell;
use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::storage::connection::Connection;
use control::storage::health::DomainStats;
use control::storage::report::DomainReport;
use control::storage::{Answer, Failure, FailureKind};

use super::Daemon;
use super::lacking::Lacking;
use super::requests::checks::check_name;
use super::workers::Key;
use crate::job::Result;
use crate::worker::work::{Carrier, Place, Work};

/// Between two checks of a domain.
const CYCLE: Duration = Duration::from_secs(10);
/// A check that takes longer has failed.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);
/// Between two checks that cost more.
const THOROUGH: Duration = Duration::from_secs(300);
/// The first check opens the domain, which activates volumes; a thorough one has
/// LVM compare its copies of the metadata.
const THOROUGH_DEADLINE: Duration = Duration::from_secs(60);
/// Looking for domains on a connection.
const FIND_DEADLINE: Duration = Duration::from_secs(60);
/// Taking down volumes that an earlier life of this machine's daemon left active.
const TIDY_DEADLINE: Duration = Duration::from_secs(120);
/// Leaving a lockspace, and taking down the domain's volumes.
const LEAVE_DEADLINE: Duration = Duration::from_secs(60);
/// Asking to join a lockspace; joining itself goes on without us.
const JOIN_DEADLINE: Duration = Duration::from_secs(20);

/// A domain that was seen.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) place: Place,
    pub(crate) report: DomainReport,
    /// When the last check ended.
    pub(crate) checked: Option<Instant>,
    /// What kind of failure it found.
    failed: Option<FailureKind>,
    /// Watched as one of the pool; false ends it.
    pub(crate) watched: Rc<Cell<bool>>,
    /// Connections kept for it while it is watched.
    pub(crate) held: BTreeSet<String>,
    /// When its LUNs may be looked for again.
    pub(crate) lacking: Lacking,
}

impl Known {
    /// Whether this host uses it.
    pub(crate) fn is_used(&self) -> bool {
        self.watched.get()
    }

    pub(crate) fn report(&self) -> DomainReport {
        let mut report = self.report.clone();
        report.last_check_age_ms = self.checked.map(|at| super::ms(at.elapsed()));
        report.stats = self.is_used().then(|| self.stats(&report));
        report
    }

    /// What managers poll.
    fn stats(&self, report: &DomainReport) -> DomainStats {
        let valid = report.valid == Some(true);
        DomainStats {
            code: match self.failed {
                None => 0,
                Some(FailureKind::NotFound) => 358,
                Some(_) => 200,
            },
            last_check_ms: report.last_check_age_ms.unwrap_or(0),
            delay_ms: report.read_delay_us.unwrap_or(0).div_ceil(1000),
            valid,
            version: report.version,
            acquired: report.host_id == "held",
            actual: self.checked.is_some(),
        }
    }
}

impl Daemon {
    /// Looks for domains on a connection.
    pub(crate) async fn find_on(self: &Rc<Self>, id: &str) {
        let found = {
            let connections = self.connections.kept();
            let Some(connection) = connections.connection(id) else {
                return;
            };
            if connection.is_block() {
                None
            } else {
                let local = matches!(connection, Connection::Local { .. });
                let path = connections.path(id);
                path.map(|path| (path.to_owned(), local))
            }
        };
        let outcome = match &found {
            None => self.find_block(Some(id)).await,
            Some((mount, local)) => {
                let work = Work::Find {
                    mount: Some(mount.clone()),
                    local: *local,
                };
                let key = Key::Connection(id.to_owned());
                let before = self.known_ids();
                let outcome = self.workers.work(&key, work, FIND_DEADLINE).await;
                outcome.map(|answer| {
                    self.take_found(answer, &before, Some(id), Some((mount, *local)));
                })
            }
        };
        if let Err(failure) = outcome {
            tracing::warn!("{id}: looking for domains: {failure}");
        }
    }

    /// Looks for domains on LUNs.
    pub(crate) async fn find_block(self: &Rc<Self>, id: Option<&str>) -> Result<()> {
        if !self.tidied.replace(true)
            && let Err(failure) = self
                .workers
                .work(&Key::Scan, Work::Tidy, TIDY_DEADLINE)
                .await
        {
            tracing::warn!("taking down what nobody uses: {failure}");
        }
        let work = Work::Find {
            mount: None,
            local: false,
        };
        let before = self.known_ids();
        let answer = self.workers.work(&Key::Scan, work, FIND_DEADLINE).await?;
        self.take_found(answer, &before, id, None);
        Ok(())
    }

    fn known_ids(&self) -> HashSet<String> {
        self.domains.borrow().keys().cloned().collect()
    }

    /// Takes in what a look found that began when the domains `before` were known.
    fn take_found(
        &self,
        answer: Answer,
        before: &HashSet<String>,
        connection: Option<&str>,
        mount: Option<(&PathBuf, bool)>,
    ) {
        let Answer::Domains(reports) = answer else {
            return;
        };
        let mut domains = self.domains.borrow_mut();
        // Those that were there and are not any more; a watched one stays, its
        // check says what is wrong, and one made since cannot have been seen.
        let found: Vec<String> = reports.iter().map(|report| report.id.clone()).collect();
        domains.retain(|id, known| {
            let here = match mount {
                Some(_) => known.report.connection.as_deref() == connection,
                None => known.place.carrier == Carrier::Block,
            };
            !here || known.is_used() || found.contains(id) || !before.contains(id)
        });
        for mut report in reports {
            let carrier = match mount {
                None => Carrier::Block,
                Some((mount, true)) => Carrier::Local {
                    mount: mount.clone(),
                },
                Some((mount, false)) => Carrier::File {
                    mount: mount.clone(),
                },
            };
            match mount {
                None => self.place_on_connections(&mut report, connection),
                Some(_) => report.connection = connection.map(str::to_owned),
            }
            let place = Place {
                domain: report.id.clone(),
                carrier,
            };
            self.place_state(&mut report);
            match domains.get_mut(&report.id) {
                Some(known) => {
                    known.place = place;
                    merge(&mut known.report, report);
                }
                None => {
                    domains.insert(
                        report.id.clone(),
                        Known {
                            place,
                            report,
                            checked: None,
                            failed: None,
                            watched: Rc::default(),
                            held: BTreeSet::new(),
                            lacking: Lacking::default(),
                        },
                    );
                }
            }
        }
    }

    /// What a domain is to this host's pool.
    pub(crate) fn place_state(&self, report: &mut DomainReport) {
        let pool = self.pool.borrow();
        report.state = match (&report.pool, pool.as_ref()) {
            (None, _) => "unattached",
            (Some(of), Some(pool)) if *of == pool.report.id => {
                let active = pool
                    .report
                    .domains
                    .iter()
                    .any(|domain| domain.id == report.id && domain.status == "active");
                if active { "active" } else { "attached" }
            }
            (Some(_), Some(_)) => "foreign",
            (Some(_), None) => "attached",
        }
        .to_owned();
    }

    /// A connection is gone, and with it what was on no other.
    pub(crate) fn forget_domains_of(&self, connection: &str) {
        self.domains.borrow_mut().retain(|_, known| {
            let report = &mut known.report;
            report.connections.retain(|other| other != connection);
            if report.connection.as_deref() == Some(connection) {
                report.connection = report.connections.first().cloned();
                return report.connection.is_some();
            }
            true
        });
    }

    /// The domain that a person or program means.
    pub(crate) fn place(&self, name: &str) -> Result<Place> {
        check_name("domain", name)?;
        let domains = self.domains.borrow();
        if let Some(known) = domains.get(name) {
            return Ok(known.place.clone());
        }
        let mut named = domains.values().filter(|known| {
            known.report.name == name || (name.len() >= 4 && known.report.id.starts_with(name))
        });
        match (named.next(), named.next()) {
            (Some(known), None) => Ok(known.place.clone()),
            (Some(_), Some(_)) => Err(Failure::new(
                FailureKind::BadRequest,
                format!("domain {name}: more than one is called so; give its UUID"),
            )),
            (None, _) => Err(Failure::new(
                FailureKind::NotFound,
                format!(
                    "domain {name}: not on any storage that is connected; `nodectl storage status` shows connections, `nodectl storage rescan` looks again"
                ),
            )),
        }
    }

    /// Every known domain.
    pub(crate) fn domain_reports(&self) -> Vec<DomainReport> {
        let domains = self.domains.borrow();
        let mut reports: Vec<DomainReport> = domains.values().map(Known::report).collect();
        for report in &mut reports {
            self.paths.tell_domain(report);
        }
        reports
    }

    /// Begins to watch a domain of the pool.
    pub(crate) fn watch(self: &Rc<Self>, id: &str) {
        let watched = {
            let domains = self.domains.borrow();
            let Some(known) = domains.get(id) else {
                return;
            };
            if known.watched.replace(true) {
                return;
            }
            Rc::clone(&known.watched)
        };
        self.hold_connections(id);
        let daemon = Rc::clone(self);
        let id = id.to_owned();
        self.executor
            .spawn(async move { daemon.monitor(&id, &watched).await })
            .detach();
    }

    /// Ends it and leaves the domain's lockspace.
    pub(crate) async fn unwatch(self: &Rc<Self>, id: &str) -> Result<()> {
        let (place, held) = {
            let mut domains = self.domains.borrow_mut();
            let Some(known) = domains.get_mut(id) else {
                return Ok(());
            };
            if !known.watched.replace(false) {
                return Ok(());
            }
            // A later watch must not revive the monitor that is ending.
            known.watched = Rc::default();
            known.checked = None;
            known.failed = None;
            known.report.host_id = String::new();
            known.lacking = Lacking::default();
            (known.place.clone(), std::mem::take(&mut known.held))
        };
        let work = Work::LeaveHostId { place };
        let key = Key::Monitor(id.to_owned());
        // What these have open of it would keep its volumes.
        self.workers.stop(&Key::Domain(id.to_owned()), false);
        self.workers.stop(&Key::Refresh(id.to_owned()), false);
        let left = self.workers.work(&key, work, LEAVE_DEADLINE).await;
        for connection in &held {
            self.keep_for_domain(connection, id, false);
        }
        left.map(drop)
    }

    async fn monitor(self: &Rc<Self>, id: &str, watched: &Cell<bool>) {
        let key = Key::Monitor(id.to_owned());
        let mut thorough: Option<Instant> = None;
        while watched.get() {
            let began = Instant::now();
            let Some(place) = self
                .domains
                .borrow()
                .get(id)
                .map(|known| known.place.clone())
            else {
                return;
            };
            let costly = thorough.is_none_or(|at| at.elapsed() >= THOROUGH);
            let work = Work::Check {
                place: place.clone(),
                thorough: costly,
            };
            let deadline = if costly {
                THOROUGH_DEADLINE
            } else {
                CHECK_DEADLINE
            };
            let mut outcome = self.workers.work(&key, work, deadline).await;
            if watched.get() && self.look_for_luns(id, &outcome).await {
                let work = Work::Check {
                    place: place.clone(),
                    thorough: true,
                };
                outcome = self.workers.work(&key, work, THOROUGH_DEADLINE).await;
            }
            if !watched.get() {
                return;
            }
            // After a failure the domain is opened anew.
            thorough = match (&outcome, costly) {
                (Err(_), _) => None,
                (Ok(_), true) => Some(began),
                (Ok(_), false) => thorough,
            };
            let valid = self.checked(id, outcome);
            if valid && !matches!(place.carrier, Carrier::Local { .. }) {
                let work = Work::JoinHostId { place };
                let joined = self.workers.work(&key, work, JOIN_DEADLINE).await;
                self.joined(id, &joined);
            }
            self.changed();
            let next = began + CYCLE;
            let soon = Instant::now() + Duration::from_millis(if valid { 100 } else { 1000 });
            smol::Timer::at(next.max(soon)).await;
        }
    }

    /// Takes what a check found; whether the domain is well.
    fn checked(&self, id: &str, outcome: Result<Answer>) -> bool {
        let mut domains = self.domains.borrow_mut();
        let Some(known) = domains.get_mut(id) else {
            return false;
        };
        let before = known.report.valid;
        known.failed = None;
        let (valid, reason) = match outcome {
            Ok(Answer::Domain(mut report)) => {
                let (valid, reason) = (report.valid.unwrap_or(true), report.reason.take());
                self.place_state(&mut report);
                merge(&mut known.report, report);
                known.failed = (!valid).then_some(FailureKind::Failed);
                (valid, reason)
            }
            Ok(_) => (true, None),
            Err(failure) => {
                known.failed = Some(failure.kind);
                (false, Some(failure.message))
            }
        };
        known.checked = Some(Instant::now());
        known.report.valid = Some(valid);
        known.report.reason = reason;
        if before != Some(valid) {
            match &known.report.reason {
                Some(reason) if !valid => tracing::warn!("domain {id}: not usable: {reason}"),
                _ => tracing::info!("domain {id}: usable"),
            }
            // What it lies on may have to be made again, and is not left for a minute.
            if !valid && let Some(connection) = &known.report.connection {
                self.hurry(connection);
            }
        }
        valid
    }

    fn joined(&self, id: &str, outcome: &Result<Answer>) {
        let mut domains = self.domains.borrow_mut();
        let Some(known) = domains.get_mut(id) else {
            return;
        };
        let state = match outcome {
            Ok(Answer::Done { message }) => message.clone(),
            Ok(_) => "held".to_owned(),
            Err(failure) => format!("failed: {failure}"),
        };
        if known.report.host_id != state {
            tracing::info!("domain {id}: host id: {state}");
            known.report.host_id = state;
        }
    }
}

/// Takes what a later look saw, keeping what it did not look at.
fn merge(known: &mut DomainReport, mut seen: DomainReport) {
    let keep = |new: &mut String, old: &String| {
        if new.is_empty() {
            new.clone_from(old);
        }
    };
    keep(&mut seen.name, &known.name);
    keep(&mut seen.kind, &known.kind);
    keep(&mut seen.storage_type, &known.storage_type);
    keep(&mut seen.class, &known.class);
    keep(&mut seen.path, &known.path);
    keep(&mut seen.host_id, &known.host_id);
    seen.connection = seen.connection.take().or_else(|| known.connection.clone());
    if seen.connections.is_empty() {
        seen.connections.clone_from(&known.connections);
    }
    if seen.luns.is_empty() {
        seen.luns.clone_from(&known.luns);
    }
    seen.size_bytes = seen.size_bytes.or(known.size_bytes);
    seen.free_bytes = seen.free_bytes.or(known.free_bytes);
    seen.valid = seen.valid.or(known.valid);
    seen.read_delay_us = seen.read_delay_us.or(known.read_delay_us);
    if seen.reason.is_none() {
        seen.reason.clone_from(&known.reason);
    }
    *known = seen;
}
