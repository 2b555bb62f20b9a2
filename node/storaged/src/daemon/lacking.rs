//! The LUNs of a domain and this host: which connections they come over, which stay
//! for as long as the domain is used, and looking for those that are lacking.
//!
//! Another host of the pool adds a LUN to a domain, or lets one grow. Here the next
//! check reads it in the domain's metadata, and nothing else tells: the storage is
//! asked then, once, and again after pauses that grow.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::storage::report::DomainReport;
use control::storage::{Answer, FailureKind};

use super::Daemon;
use super::workers::Key;
use crate::job::Result;
use crate::worker::work::{Carrier, Work};

/// Asking the storage for LUNs.
const RESCAN_DEADLINE: Duration = Duration::from_secs(90);
/// Reading what a domain has.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);
/// First pause after a look that did not find them, doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(640);

/// When what a domain lacks may be looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lacking {
    looks: u32,
    next: Option<Instant>,
    /// A check beside those of every ten seconds is under way.
    checking: bool,
}

impl Lacking {
    /// Whether to look now; then the next look is later.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let pause = PAUSE_MIN.saturating_mul(1 << self.looks.min(16));
        self.next = Some(now + pause.min(PAUSE_MAX));
        self.looks = self.looks.saturating_add(1);
        true
    }
}

/// What a check says is not here: LUNs by name; `None` when nothing is.
fn lacked(outcome: &Result<Answer>) -> Option<String> {
    match outcome {
        Ok(Answer::Domain(report)) if !report.missing_luns.is_empty() => {
            Some(report.missing_luns.join(", "))
        }
        // No LUN of it at all, or none that can be read: its volumes may be on others.
        Err(failure) if matches!(failure.kind, FailureKind::NotFound | FailureKind::Io) => {
            Some(failure.message.clone())
        }
        _ => None,
    }
}

impl Daemon {
    /// Looks for what a check says is lacking of a block domain, if it is time.
    /// Whether that was done, so that the domain should be checked again.
    pub(crate) async fn look_for_luns(self: &Rc<Self>, id: &str, outcome: &Result<Answer>) -> bool {
        let what = {
            let mut domains = self.domains.borrow_mut();
            let Some(known) = domains.get_mut(id) else {
                return false;
            };
            if known.place.carrier != Carrier::Block {
                return false;
            }
            let Some(what) = lacked(outcome) else {
                known.lacking = Lacking {
                    checking: known.lacking.checking,
                    ..Lacking::default()
                };
                return false;
            };
            if !known.lacking.is_due(Instant::now()) {
                return false;
            }
            what
        };
        tracing::info!("domain {id}: lacking on this host, looked for: {what}");
        let looked = self.workers.work(&Key::Scan, Work::Rescan, RESCAN_DEADLINE);
        if let Err(failure) = looked.await {
            // What was found by then is found.
            tracing::warn!("domain {id}: looking for LUNs: {failure}");
        }
        self.paths.look();
        true
    }

    /// A volume of the domain could not be mapped as large as it is. It may have grown
    /// onto a LUN that was just added: that is not left to the next check.
    pub(crate) fn check_for_luns(self: &Rc<Self>, id: &str) {
        let place = {
            let mut domains = self.domains.borrow_mut();
            let Some(known) = domains.get_mut(id) else {
                return;
            };
            let is_block = known.place.carrier == Carrier::Block;
            if !is_block || !known.is_used() || known.lacking.checking {
                return;
            }
            known.lacking.checking = true;
            known.place.clone()
        };
        let (daemon, id) = (Rc::clone(self), id.to_owned());
        let checked = async move {
            let work = Work::Check {
                place,
                thorough: false,
            };
            let key = Key::Monitor(id.clone());
            let outcome = daemon.workers.work(&key, work, CHECK_DEADLINE).await;
            daemon.look_for_luns(&id, &outcome).await;
            if let Some(known) = daemon.domains.borrow_mut().get_mut(&id) {
                known.lacking.checking = false;
            }
        };
        self.executor.spawn(checked).detach();
    }

    /// Says of a block domain which connections its LUNs come over: the storage says,
    /// not who happened to look. Where paths are not known, it is `seen_by`.
    pub(crate) fn place_on_connections(&self, report: &mut DomainReport, seen_by: Option<&str>) {
        let connections = {
            let kept = self.connections.kept();
            super::paths::carriers(&report.lun_paths, kept.carriers())
        };
        report.connection = connections.first().cloned();
        if report.lun_paths.is_empty() {
            report.connection = seen_by.map(str::to_owned);
        }
        report.connections = connections;
    }

    /// Keeps what a domain lies on for as long as it is watched.
    pub(crate) fn hold_connections(&self, id: &str) {
        let new: Vec<String> = {
            let mut domains = self.domains.borrow_mut();
            let Some(known) = domains.get_mut(id).filter(|known| known.is_used()) else {
                return;
            };
            let report = &known.report;
            let all: BTreeSet<String> = report
                .connection
                .iter()
                .chain(&report.connections)
                .cloned()
                .collect();
            let new = all.difference(&known.held).cloned().collect();
            known.held.extend(all);
            new
        };
        for connection in &new {
            self.keep_for_domain(connection, id, true);
        }
    }

    /// Takes in which connections LUNs come over now: paths come after their domain
    /// was found, and LUNs are added to it. One that is lost meanwhile stays.
    pub(crate) fn carry_domains(&self) {
        let mut changed = Vec::new();
        {
            let kept = self.connections.kept();
            let mut domains = self.domains.borrow_mut();
            for (id, known) in domains.iter_mut() {
                if known.place.carrier != Carrier::Block {
                    continue;
                }
                let paths = self.paths.of(&known.report.luns);
                let carriers = super::paths::carriers(&paths, kept.carriers());
                let before = known.report.connections.len();
                for connection in carriers {
                    if !known.report.connections.contains(&connection) {
                        known.report.connections.push(connection);
                    }
                }
                if known.report.connections.len() > before {
                    known.report.connection = known.report.connections.first().cloned();
                    changed.push(id.clone());
                }
            }
        }
        for id in changed {
            self.hold_connections(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::storage::Failure;

    #[test]
    fn looks_are_at_once_and_then_rarer_and_rarer() {
        let begin = Instant::now();
        let at = |s: u64| begin + Duration::from_secs(s);
        let mut lacking = Lacking::default();
        assert!(lacking.is_due(at(0)));
        assert!(!lacking.is_due(at(19)));
        assert!(lacking.is_due(at(20)));
        assert!(!lacking.is_due(at(59)));
        assert!(lacking.is_due(at(60)));
        for _ in 0..40 {
            lacking.is_due(at(100_000));
        }
        lacking.looks = 40;
        assert!(lacking.is_due(at(200_000)));
        assert!(lacking.is_due(at(200_640)), "never rarer than every 640 s");
    }

    #[test]
    fn luns_are_looked_for_when_a_check_names_some_or_finds_none() {
        let domain = |missing: &[&str]| {
            Ok(Answer::Domain(DomainReport {
                missing_luns: missing.iter().map(|&lun| lun.to_owned()).collect(),
                ..DomainReport::default()
            }))
        };
        assert_eq!(lacked(&domain(&[])), None);
        assert_eq!(lacked(&domain(&["36001", "x"])).unwrap(), "36001, x");
        for (kind, is) in [
            (FailureKind::NotFound, true),
            (FailureKind::Io, true),
            // Asking the storage does not help these.
            (FailureKind::Timeout, false),
            (FailureKind::Damaged, false),
        ] {
            assert_eq!(
                lacked(&Err(Failure::new(kind, "x"))).is_some(),
                is,
                "{kind:?}"
            );
        }
    }
}
