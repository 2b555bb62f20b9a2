//! The pool this host is in, and the manager's role in it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use control::config::{Manager, SpmMode};
use control::storage::report::{PoolReport, SpmReport};
use control::storage::request::SpmRequest;
use control::storage::{Answer, Failure, FailureKind, Reply};
use mailbox::Monotonic;
use mailbox::role::takeover::{Candidate, Holder, Takeover};

use super::Daemon;
use super::socket::done;
use super::tasks::{After, nothing};
use super::workers::Key;
use crate::job::Result;
use crate::worker::work::{Place, PoolContext, Work};

/// Reading a master and making links.
const POOL_DEADLINE: Duration = Duration::from_secs(60);
/// Between two readings of which domains it has.
const POOL_REFRESH: Duration = Duration::from_secs(60);
/// Between two looks at who has the role.
const SPM_LOOK: Duration = Duration::from_secs(20);
/// Between two attempts of a start that an operator asked for.
const SPM_RETRY: Duration = Duration::from_secs(30);
/// Giving the role back: unmounting a master file system may take a while.
const SPM_STOP_DEADLINE: Duration = Duration::from_secs(90);

/// The pool a host wants to be in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Wanted {
    pub(crate) pool: String,
    pub(crate) host_id: u16,
    /// Its master, when told.
    pub(crate) master: Option<String>,
}

/// The pool this host is in.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) context: PoolContext,
    pub(crate) report: PoolReport,
}

/// The manager's role as this host sees it.
#[derive(Debug, Default)]
pub(crate) struct Role {
    pub(crate) report: SpmReport,
    /// Here, or on the way.
    pub(crate) here: bool,
    /// Wanted by an operator, so taken again after a restart of the daemon.
    pub(crate) asked: bool,
    /// What the writer before left is being taken away: nobody starts meanwhile.
    pub(crate) leaving: bool,
    since: Option<Instant>,
    looked: Option<Instant>,
    tried: Option<Instant>,
    /// When this host takes the role by itself, and for which host id.
    takeover: Option<(u16, Takeover)>,
}

impl Role {
    /// The decision of this host; another host id begins anew.
    fn takeover(&mut self, host_id: u16) -> &mut Takeover {
        let known = self.takeover.take().filter(|(id, _)| *id == host_id);
        let (_, takeover) = self
            .takeover
            .insert(known.unwrap_or_else(|| (host_id, Takeover::new(host_id, true))));
        takeover
    }

    /// Takes in who has the role, as `report` says (nothing: it is not known).
    fn view(&mut self, host_id: u16, report: Option<&SpmReport>) {
        let holder = match report.map(|report| report.state.as_str()) {
            Some("free") => Holder::Nobody,
            Some("elsewhere") => Holder::Somebody,
            Some(_) | None => Holder::Unknown,
        };
        let live: Vec<Candidate> = report
            .map(|report| report.live_hosts.as_slice())
            .unwrap_or_default()
            .iter()
            .map(|host_id| Candidate {
                host_id: *host_id,
                score: None,
            })
            .collect();
        self.takeover(host_id).view(now(), holder, &live);
    }

    /// A start has failed, or the role was lost: others go first.
    fn failed(&mut self) {
        if let Some((_, takeover)) = &mut self.takeover {
            takeover.failed(now());
        }
    }

    /// An operator took the role away from here.
    fn stood_down(&mut self) {
        if let Some((_, takeover)) = &mut self.takeover {
            takeover.stood_down(now());
        }
    }

    /// Whether this host takes the role by itself now.
    fn takes_over(&self) -> bool {
        let now = now();
        self.takeover
            .as_ref()
            .and_then(|(_, takeover)| takeover.due(now))
            .is_some_and(|due| due <= now)
    }

    pub(crate) fn report(&self) -> SpmReport {
        let mut report = self.report.clone();
        report.since_ms = self
            .since
            .filter(|_| self.here)
            .map(|since| super::ms(since.elapsed()));
        report
    }
}

impl Daemon {
    /// Keeps this host in the pool it wants to be in; runs for ever.
    pub(crate) async fn keep_pool(self: Rc<Self>) {
        let mut refreshed = Instant::now();
        loop {
            let wanted = self.wanted.borrow().clone();
            if let Some(wanted) = wanted {
                let connected = self.pool.borrow().is_some();
                if !connected {
                    self.try_pool(&wanted).await;
                } else if self.has_another_master() || refreshed.elapsed() >= POOL_REFRESH {
                    refreshed = Instant::now();
                    if let Err(failure) = self.refresh_pool().await {
                        tracing::warn!("pool {}: {failure}", wanted.pool);
                    }
                } else {
                    self.look_at_pool().await;
                }
            }
            self.rest(Duration::from_secs(5)).await;
        }
    }

    async fn try_pool(self: &Rc<Self>, wanted: &Wanted) {
        let Err(failure) = self.connect_pool(wanted).await else {
            return;
        };
        // Until every connection has been tried there is nothing to complain of.
        let trying = {
            let connections = self.connections.kept();
            let mut ids = connections.connections().map(|(id, _)| id);
            ids.any(|id| connections.is_untried(id))
        };
        let before = self.pool_reason.replace(Some(failure.message.clone()));
        if !trying && before.as_ref() != Some(&failure.message) {
            tracing::warn!("pool {}: {failure}", wanted.pool);
        }
    }

    /// Whether the master this host knows has ceased to be it.
    fn has_another_master(&self) -> bool {
        let pool = self.pool.borrow();
        let domains = self.domains.borrow();
        pool.as_ref()
            .and_then(|pool| domains.get(&pool.context.master.domain))
            .is_some_and(|known| {
                !known.report.role.is_empty() && !known.report.role.eq_ignore_ascii_case("master")
            })
    }

    /// The master among the domains that are known: the one that says so with
    /// the highest version.
    fn master_of(&self, wanted: &Wanted) -> Result<Place> {
        if let Some(master) = &wanted.master {
            return self.place(master);
        }
        let domains = self.domains.borrow();
        let mut masters: Vec<_> = domains
            .values()
            .filter(|known| {
                known.report.pool.as_deref() == Some(&wanted.pool)
                    && known.report.role.eq_ignore_ascii_case("master")
            })
            .collect();
        masters.sort_by_key(|known| known.report.master_version.unwrap_or(0));
        masters
            .last()
            .map(|known| known.place.clone())
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::NotFound,
                    format!(
                        "pool {}: no domain on connected storage says it is its master",
                        wanted.pool
                    ),
                )
            })
    }

    /// Context of a pool with this master, and all of its domains known here.
    fn context(&self, wanted: &Wanted, master: Place) -> PoolContext {
        let domains = self.domains.borrow();
        let mut places: Vec<Place> = domains
            .values()
            .filter(|known| known.report.pool.as_deref() == Some(&wanted.pool))
            .map(|known| known.place.clone())
            .collect();
        if !places.contains(&master) {
            places.push(master.clone());
        }
        places.sort_by(|a, b| a.domain.cmp(&b.domain));
        PoolContext {
            pool: wanted.pool.clone(),
            name: String::new(),
            host_id: wanted.host_id,
            master,
            master_version: None,
            manager: self.config.borrow().manager,
            domains: places,
        }
    }

    /// The context of the pool this host is in, as things are now.
    pub(crate) fn pool_context(&self) -> Result<PoolContext> {
        let wanted = self.wanted.borrow().clone();
        let pool = self.pool.borrow();
        let (Some(wanted), Some(pool)) = (wanted, pool.as_ref()) else {
            return Err(Failure::new(
                FailureKind::WrongState,
                "this host is in no pool; `nodectl pool connect` or the configuration puts it into one",
            ));
        };
        let mut context = self.context(&wanted, pool.context.master.clone());
        context.name.clone_from(&pool.report.name);
        Ok(context)
    }

    pub(crate) async fn connect_pool(self: &Rc<Self>, wanted: &Wanted) -> Result<PoolReport> {
        let master = self.master_of(wanted)?;
        let context = self.context(wanted, master);
        let work = Work::ConnectPool {
            pool: context.clone(),
        };
        let key = Key::Domain(context.master.domain.clone());
        let answer = self.workers.work(&key, work, POOL_DEADLINE).await?;
        let report = self.take_pool(wanted, context, answer)?;
        tracing::info!("pool {}: connected as host {}", report.id, report.host_id);
        Ok(report)
    }

    fn take_pool(
        self: &Rc<Self>,
        wanted: &Wanted,
        context: PoolContext,
        answer: Answer,
    ) -> Result<PoolReport> {
        let Answer::Pool(mut report) = answer else {
            return Err(Failure::new(FailureKind::Failed, "pool: unexpected answer"));
        };
        report.id.clone_from(&wanted.pool);
        report.host_id = wanted.host_id;
        report.master = Some(context.master.domain.clone());
        report.state = "connected".to_owned();
        report.manager = match context.manager {
            Manager::Pool => "pool",
            Manager::Domain => "domain",
        }
        .to_owned();
        let active: Vec<String> = report
            .domains
            .iter()
            .filter(|domain| domain.status == "active")
            .map(|domain| domain.id.clone())
            .collect();
        *self.pool.borrow_mut() = Some(Pool {
            context,
            report: report.clone(),
        });
        self.pool_reason.replace(None);
        for known in self.domains.borrow_mut().values_mut() {
            let mut seen = known.report.clone();
            self.place_state(&mut seen);
            known.report = seen;
        }
        self.watch_only(&active);
        self.changed();
        Ok(report)
    }

    /// Watches these domains and no others.
    fn watch_only(self: &Rc<Self>, active: &[String]) {
        for id in active {
            self.watch(id);
        }
        let others: Vec<String> = {
            let domains = self.domains.borrow();
            domains
                .values()
                .filter(|known| known.is_used() && !active.contains(&known.report.id))
                .map(|known| known.report.id.clone())
                .collect()
        };
        for id in others {
            let daemon = Rc::clone(self);
            self.executor
                .spawn(async move {
                    if let Err(failure) = daemon.unwatch(&id).await {
                        tracing::warn!("domain {id}: leaving its lockspace: {failure}");
                    }
                })
                .detach();
        }
    }

    /// Reads the pool again from its master.
    pub(crate) async fn refresh_pool(self: &Rc<Self>) -> Result<PoolReport> {
        let wanted = self.wanted.borrow().clone();
        let Some(wanted) = wanted else {
            return self.pool_context().map(|_| PoolReport::default());
        };
        match self.connect_pool(&wanted).await {
            Err(failure) if failure.kind == FailureKind::WrongState => {
                // Another host has moved the master: look what domains say now.
                self.find_everywhere().await;
                self.connect_pool(&wanted).await
            }
            outcome => outcome,
        }
    }

    /// Looks who has the role, and takes it if that is this host's job.
    async fn look_at_pool(self: &Rc<Self>) {
        let Ok(context) = self.pool_context() else {
            return;
        };
        // Domains that appeared since are watched, too.
        let missing: Vec<String> = {
            let domains = self.domains.borrow();
            let pool = self.pool.borrow();
            let listed = pool.as_ref().map(|pool| &pool.report.domains);
            domains
                .values()
                .filter(|known| !known.is_used())
                .filter(|known| {
                    listed.is_some_and(|listed| {
                        listed
                            .iter()
                            .any(|one| one.id == known.report.id && one.status == "active")
                    })
                })
                .map(|known| known.report.id.clone())
                .collect()
        };
        for id in missing {
            self.watch(&id);
        }
        self.watch_again();
        if context.manager == Manager::Domain {
            self.role.borrow_mut().report.state = "none".to_owned();
            return;
        }
        let due = {
            let role = self.role.borrow();
            !role.here && role.looked.is_none_or(|at| at.elapsed() >= SPM_LOOK)
        };
        if due {
            self.look_at_role(&context).await;
        }
        self.take_role_if_due();
    }

    pub(crate) async fn look_at_role(self: &Rc<Self>, context: &PoolContext) {
        let key = Key::Domain(context.master.domain.clone());
        let work = Work::SpmState {
            pool: context.clone(),
        };
        let outcome = self.workers.work(&key, work, POOL_DEADLINE).await;
        let mut role = self.role.borrow_mut();
        role.looked = Some(Instant::now());
        if role.here {
            return;
        }
        let report = match &outcome {
            Ok(Answer::Spm(report)) => Some(report),
            Ok(_) | Err(_) => None,
        };
        role.view(context.host_id, report);
        match outcome {
            Ok(Answer::Spm(report)) => {
                let kept = role.report.reason.take();
                role.report = report;
                role.report.reason = role.report.reason.take().or(kept);
            }
            Ok(_) => {}
            Err(failure) => {
                role.report.state = "unknown".to_owned();
                role.report.reason = Some(failure.message);
            }
        }
    }

    fn take_role_if_due(self: &Rc<Self>) {
        let auto = self.config.borrow().spm == SpmMode::Auto;
        let due = {
            let role = self.role.borrow();
            let again = role.tried.is_none_or(|at| at.elapsed() >= SPM_RETRY);
            !role.here
                && !role.leaving
                && role.report.state == "free"
                && (role.asked && again || auto && role.takes_over())
        };
        if due {
            drop(self.start_spm());
        }
    }

    /// Begins to take the role.
    pub(crate) fn start_spm(self: &Rc<Self>) -> Reply {
        let context = match self.pool_context() {
            Ok(context) if context.manager == Manager::Domain => {
                return Reply::Failure(Failure::new(
                    FailureKind::WrongState,
                    "this pool has a manager per domain: every host changes metadata, there is no role to start",
                ));
            }
            Ok(context) => context,
            Err(failure) => return Reply::Failure(failure),
        };
        {
            let mut role = self.role.borrow_mut();
            if role.here && role.report.state == "here" {
                // Whoever asks twice wants the same.
                return Reply::Answer(Box::new(Answer::Spm(role.report())));
            }
            if role.here {
                return Reply::Failure(Failure::new(
                    FailureKind::WrongState,
                    "this host is taking the role already; `nodectl task list` shows how far it is",
                ));
            }
            if role.leaving {
                return Reply::Failure(Failure::new(
                    FailureKind::WrongState,
                    "what the manager before left on this host is being taken away; ask again in a moment",
                ));
            }
            role.here = true;
            role.tried = Some(Instant::now());
            role.report.state = "starting".to_owned();
            role.report.reason = None;
            role.report.extends = 0;
        }
        let after: After = Box::new(|daemon, outcome| {
            let mut role = daemon.role.borrow_mut();
            match outcome {
                Ok(answer) => {
                    // The first commits may have been told of already.
                    let extends = role.report.extends;
                    if let Answer::Spm(report) = answer {
                        role.report = report;
                        role.report.extends = role.report.extends.max(extends);
                    }
                    role.report.state = "here".to_owned();
                    role.report.writer_pid = daemon.workers.pid(&Key::Writer(None));
                    role.since = Some(Instant::now());
                    tracing::info!("this host is the pool's manager");
                }
                Err(failure) => {
                    role.failed();
                    role.here = false;
                    role.looked = None;
                    role.report.state = "unknown".to_owned();
                    role.report.reason = Some(failure.message.clone());
                    daemon.workers.stop(&Key::Writer(None), false);
                }
            }
            drop(role);
            nothing()
        });
        self.start_task(
            "start manager",
            Some(context.master.domain.clone()),
            Some(Key::Writer(None)),
            Work::StartSpm { pool: context },
            after,
        )
    }

    /// Gives the role back.
    pub(crate) async fn stop_spm(self: &Rc<Self>) -> Result<Answer> {
        {
            let mut role = self.role.borrow_mut();
            if !role.here {
                return Err(Failure::new(
                    FailureKind::WrongState,
                    "this host is not the pool's manager; `nodectl spm status` shows who is",
                ));
            }
            role.report.state = "stopping".to_owned();
        }
        let key = Key::Writer(None);
        let outcome = self
            .workers
            .work(&key, Work::StopSpm, SPM_STOP_DEADLINE)
            .await;
        if let Err(failure) = &outcome
            && failure.kind == FailureKind::InUse
        {
            // Work goes on, and so does the manager.
            self.role.borrow_mut().report.state = "here".to_owned();
            return Err(failure.clone());
        }
        // Whatever else came of it: a writer that did not stop in order is killed, and
        // the lease daemon frees its lease when its last process is gone.
        self.workers.stop(&key, outcome.is_err());
        let mut role = self.role.borrow_mut();
        role.stood_down();
        role.here = false;
        role.since = None;
        role.looked = None;
        role.tried = Some(Instant::now());
        role.report = SpmReport {
            state: "free".to_owned(),
            reason: outcome
                .as_ref()
                .err()
                .map(|failure| failure.message.clone()),
            ..SpmReport::default()
        };
        outcome.map(|_| done("this host is not the pool's manager any more"))
    }

    /// The manager here has made so many volumes larger. Reports come on threads of
    /// their own, so a smaller number is an old one.
    pub(crate) fn writer_extended(&self, pid: u32, total: u64) {
        let mut role = self.role.borrow_mut();
        if role.here && self.workers.pid(&Key::Writer(None)) == Some(pid) {
            role.report.extends = role.report.extends.max(total);
        }
    }

    /// Shows as a task how the manager here puts in order what the one before left.
    pub(crate) fn follow_recovery(self: &Rc<Self>) {
        let after: After = Box::new(|_, _| nothing());
        let what = "finish what the manager before left";
        let key = Some(Key::Writer(None));
        let begun = self.start_task(what, None, key, Work::FollowRecovery, after);
        if let Reply::Failure(failure) = begun {
            tracing::warn!("recovery not shown as a task: {failure}");
        }
    }

    /// The writer ended without being asked to.
    pub(crate) fn writer_lost(self: &Rc<Self>, pid: u32, reason: &str) {
        let mut role = self.role.borrow_mut();
        if !role.here || role.report.state == "stopping" || role.report.state == "starting" {
            return;
        }
        tracing::error!("the manager's role is lost: writer {pid}: {reason}");
        role.failed();
        role.here = false;
        role.since = None;
        role.looked = None;
        role.tried = Some(Instant::now());
        role.report.state = "unknown".to_owned();
        role.report.writer_pid = None;
        role.report.reason = Some(format!("lost: {reason}"));
        drop(role);
        self.take_masters_away();
        self.changed();
    }

    /// Takes away what a writer that was killed left mounted: the role may go to
    /// another host at once, and nothing of ours may be written after that.
    pub(crate) fn take_masters_away(self: &Rc<Self>) {
        if std::mem::replace(&mut self.role.borrow_mut().leaving, true) {
            return;
        }
        let daemon = Rc::clone(self);
        let taken = async move {
            let outcome = daemon
                .workers
                .work(&Key::Scan, Work::TakeMastersAway, POOL_DEADLINE)
                .await;
            if let Err(failure) = outcome {
                tracing::error!("what a manager left on this host: {failure}");
            }
            daemon.role.borrow_mut().leaving = false;
            daemon.changed();
        };
        self.executor.spawn(taken).detach();
    }

    pub(crate) async fn answer_spm(self: &Rc<Self>, request: SpmRequest) -> Reply {
        let outcome = match request {
            SpmRequest::Status => {
                let mut report = self.role.borrow().report();
                report.mode = match self.config.borrow().spm {
                    SpmMode::Manual => "manual",
                    SpmMode::Auto => "auto",
                }
                .to_owned();
                Ok(Answer::Spm(report))
            }
            SpmRequest::Start => {
                let reply = self.start_spm();
                if matches!(reply, Reply::Accepted { .. }) {
                    self.role.borrow_mut().asked = true;
                    self.remember();
                }
                return reply;
            }
            SpmRequest::Stop => {
                self.role.borrow_mut().asked = false;
                self.remember();
                self.stop_spm().await
            }
            SpmRequest::Move { host_id } => self.move_spm(host_id).await,
        };
        match outcome {
            Ok(answer) => Reply::Answer(Box::new(answer)),
            Err(failure) => Reply::Failure(failure),
        }
    }

    /// Puts this host into no pool.
    pub(crate) async fn disconnect_pool(self: &Rc<Self>) -> Result<Answer> {
        let context = self.pool_context()?;
        if self.role.borrow().here {
            return Err(Failure::new(
                FailureKind::InUse,
                "this host is the pool's manager; `nodectl spm stop` first",
            ));
        }
        *self.wanted.borrow_mut() = None;
        let watched: Vec<String> = {
            let domains = self.domains.borrow();
            domains
                .values()
                .filter(|known| known.is_used())
                .map(|known| known.report.id.clone())
                .collect()
        };
        for id in watched {
            if let Err(failure) = self.unwatch(&id).await {
                tracing::warn!("domain {id}: leaving its lockspace: {failure}");
            }
        }
        self.workers.stop(&Key::Mail, false);
        let key = Key::Domain(context.master.domain.clone());
        let work = Work::DisconnectPool {
            pool: context.clone(),
        };
        let outcome = self.workers.work(&key, work, POOL_DEADLINE).await;
        *self.pool.borrow_mut() = None;
        *self.role.borrow_mut() = Role::default();
        for known in self.domains.borrow_mut().values_mut() {
            let mut seen = known.report.clone();
            self.place_state(&mut seen);
            known.report = seen;
        }
        self.remember();
        outcome?;
        Ok(done(format!("pool {} is disconnected", context.pool)))
    }

    /// Who may change the metadata of a domain of the pool.
    pub(crate) fn writer(&self, place: &Place) -> Result<Key> {
        let context = self.pool_context()?;
        if context.manager == Manager::Domain {
            return Ok(Key::Writer(Some(place.domain.clone())));
        }
        let role = self.role.borrow();
        if role.here && role.report.state == "here" {
            return Ok(Key::Writer(None));
        }
        let who = match (role.report.state.as_str(), role.report.host_id) {
            ("elsewhere", Some(host)) => format!("host {host} is; run it there"),
            ("starting", _) => "it is becoming it; ask again in a moment".to_owned(),
            _ => "`nodectl spm start` makes it so".to_owned(),
        };
        Err(Failure::new(
            FailureKind::WrongState,
            format!("this host is not the pool's manager, which alone changes storage: {who}"),
        ))
    }
}

/// The clock of the take-over.
fn now() -> Monotonic {
    Monotonic(linux::clock::boottime_ns())
}
