//! What a writer does under which right: the pool's role, or a domain's own lease.

use std::collections::BTreeMap;
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
    Weak,
};
use std::time::{Duration, Instant};

use control::storage::report::{PoolReport, SpmReport};
use control::storage::{Answer, Failure, FailureKind};
use disk_format::vdsm::task::Recovery;
use disk_format::vdsm::uuid::{DomainId, PoolId, VolumeId};
use mailbox::role::{Input, Phase, Step};
use mailbox::{Extend, Outcome};

use super::commits::DomainLease;
use super::desk::{Desk, MIB, mail};
use super::membership::listed;
use super::process::Parts;
use super::recovery::{self, Account, Cleaning};
use super::tracking::{Made, is_task, tracked};
use super::{Cluster, LockPlace};
use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::mail::ManagerMail;
use crate::pool::{
    BESIDE, Directory, Fatal, Manager, Migration, OnLost, Settled, Start, StartError, Stumble,
    each, not_there,
};
use crate::task::Store;
use crate::worker::frame::Word;
use crate::worker::serve::Mouth;
use crate::worker::work::{Carrier, ExtendItem, Place, PoolContext, Settings, Work};

/// How long commits under way are waited for before the role is given back.
const MAIL_STOP: Duration = Duration::from_secs(60);
/// How long a job may keep the role from being taken, given back or moved; below
/// the limit of the core's step.
pub(super) const GATE: Duration = Duration::from_secs(60);
/// Between two looks whether it is free.
const LOOK: Duration = Duration::from_millis(50);

/// The writer's rights and what it does with them.
pub(super) struct Roles {
    pub(super) settings: Settings,
    parts: Parts,
    mouth: Mouth,
    pub(super) on_lost: OnLost,
    /// Set while this host is the pool's manager.
    role: Mutex<Option<Role>>,
    /// Jobs hold it shared; who changes the role has it alone.
    gate: RwLock<()>,
    /// Domains' own leases that jobs are using.
    leases: Mutex<BTreeMap<DomainId, Weak<DomainLease>>>,
    /// What is told of the recovery that was begun last.
    recovery: Mutex<Option<Arc<Account>>>,
}

/// The pool's role and what goes with it.
pub(super) struct Role {
    pub(super) manager: Manager,
    beside: Beside,
}

impl Role {
    /// Brings what goes with the role up to the manager's domains.
    pub(super) fn refill(&self) {
        if let Some(desk) = &self.beside.desk {
            desk.fill(&self.manager);
        }
    }
}

/// What goes with the role in this process.
#[derive(Default)]
struct Beside {
    mail: Option<Arc<ManagerMail>>,
    /// What commits of the mail are done with.
    desk: Option<Arc<Desk>>,
    /// What the manager before left, being put in order.
    cleaning: Option<Cleaning>,
}

impl Roles {
    /// Its words go to `mouth`; `on_lost` ends this process.
    pub(super) fn new(settings: Settings, parts: Parts, mouth: Mouth, on_lost: OnLost) -> Self {
        Self {
            settings,
            parts,
            mouth,
            on_lost,
            role: Mutex::new(None),
            gate: RwLock::new(()),
            leases: Mutex::default(),
            recovery: Mutex::default(),
        }
    }

    /// A domain's own lease, which all jobs of this process share.
    pub(super) fn domain_lease(
        &self,
        cluster: &Cluster,
        place: &LockPlace,
    ) -> Result<Arc<DomainLease>> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let used = leases.get(&place.domain).and_then(Weak::upgrade);
        if let Some(lease) = used.filter(|lease| lease.place() == place) {
            return Ok(lease);
        }
        let lease = Arc::new(DomainLease::new(cluster, place, Arc::clone(&self.on_lost))?);
        leases.insert(place.domain, Arc::downgrade(&lease));
        Ok(lease)
    }

    /// The gate for a job.
    pub(super) fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gate alone, or why not.
    pub(super) fn alone(
        &self,
        context: &Context,
        within: Duration,
    ) -> Result<RwLockWriteGuard<'_, ()>> {
        let start = Instant::now();
        loop {
            match self.gate.try_write() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
            context.go_on()?;
            if start.elapsed() >= within {
                return Err(Failure::new(
                    FailureKind::InUse,
                    "manager: work is under way; wait for it, or cancel it \
                     (nodectl task list shows it)",
                ));
            }
            std::thread::park_timeout(LOOK);
        }
    }

    pub(super) fn role(&self) -> MutexGuard<'_, Option<Role>> {
        self.role.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_manager(&self) -> bool {
        self.role().is_some()
    }

    pub(super) fn open(&self, context: &Context, place: &Place) -> Result<Arc<dyn Domain>> {
        (self.parts.open)(place, &self.settings, context)
    }

    pub(super) fn cluster(&self, host_id: u16) -> Result<Cluster> {
        Cluster::new(
            &self.settings.layout.sanlock,
            host_id,
            self.settings.io_timeout_s,
        )
        .map(|cluster| cluster.ended_by(Arc::clone(&self.on_lost)))
    }

    /// A domain of the pool as the manager knows it, or opened.
    pub(super) fn domain(&self, context: &Context, place: &Place) -> Result<Arc<dyn Domain>> {
        let id = id(&place.domain)?;
        let known = self
            .role()
            .as_ref()
            .and_then(|role| role.manager.domain(id).map(Arc::clone));
        match known {
            Some(domain) => Ok(domain),
            None => self.open(context, place),
        }
    }

    /// The domains of a pool but the master; those that cannot be opened are left out.
    pub(super) fn others(&self, context: &Context, pool: &PoolContext) -> Vec<Arc<dyn Domain>> {
        let places: Vec<Place> = pool
            .domains
            .iter()
            .filter(|place| place.domain != pool.master.domain)
            .cloned()
            .collect();
        let (parts, settings, context) =
            (self.parts.clone(), self.settings.clone(), context.clone());
        let opened = each(places, BESIDE, move |place| {
            let opened = (parts.open)(&place, &settings, &context);
            opened
                .inspect_err(|failure| {
                    tracing::warn!(domain = %place.domain, %failure, "domain of the pool not open");
                })
                .ok()
        });
        opened.into_iter().flatten().collect()
    }

    // --- The role ---

    pub(super) fn start(&self, context: &Context, pool: &PoolContext) -> Result<Answer> {
        // Until it is published below, nobody else has the right to anything.
        let _gate = self.alone(context, GATE)?;
        if self.is_manager() {
            return Err(wrong("this host is the pool's manager already"));
        }
        let master = self.open(context, &pool.master)?;
        let others = self.others(context, pool);
        let start = Start {
            cluster: self.cluster(pool.host_id)?,
            pool: pool_id(pool)?,
            master,
            others,
            expected_version: version(pool.master_version)?,
            upgrade: None,
            on_lost: Arc::clone(&self.on_lost),
        };
        let mut beside = Beside::default();
        let started = Manager::start_with(context, start, &mut |manager, step| {
            self.step(manager, &mut beside, step)
        });
        let manager = started.map_err(|error| self.end(error))?;
        let role = Role { manager, beside };
        let report = report(&role);
        *self.role() = Some(role);
        Ok(Answer::Spm(report))
    }

    /// What a step does in this process besides the manager's own part.
    fn step(
        &self,
        manager: &Manager,
        beside: &mut Beside,
        step: Step,
    ) -> std::result::Result<(), Stumble> {
        match step {
            // Before anybody makes anything: what is half-made now is nobody's.
            Step::ClearHalfMade => recovery::remove_half_made(manager),
            Step::StartMail => self.start_mail(manager, beside)?,
            Step::RecoverTasks => {
                beside.cleaning = self.start_recovery(manager);
            }
            Step::EndRecovery => {
                if let Some(cleaning) = beside.cleaning.take() {
                    cleaning.end();
                }
            }
            Step::StopMail => {
                if let Some(mail) = beside.mail.take()
                    && !mail.stop(MAIL_STOP)
                {
                    let failure = Failure::new(FailureKind::Timeout, "commits do not end");
                    return Err(Stumble::fatal(failure));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Begins to put in order what the manager before left.
    fn start_recovery(&self, manager: &Manager) -> Option<Cleaning> {
        let mouth = self.mouth.clone();
        let begun = Box::new(move || mouth.say(&Word::Recovering));
        let account = Arc::new(Account::new(begun));
        *self.recovery() = Some(Arc::clone(&account));
        Cleaning::start(manager, &self.settings, account)
    }

    fn recovery(&self) -> MutexGuard<'_, Option<Arc<Account>>> {
        self.recovery.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how far the recovery is until it has ended.
    pub(super) fn follow_recovery(&self, context: &Context) -> Result<Answer> {
        let account = self.recovery().clone();
        match account {
            Some(account) => account.follow(context),
            None => Err(wrong("nothing is being put in order")),
        }
    }

    /// Starts the mail of a manager, on its present master.
    fn start_mail(&self, manager: &Manager, beside: &mut Beside) -> Result<()> {
        let (parts, settings, pool) = (self.parts.clone(), self.settings.clone(), manager.pool());
        let adopt = move |id: DomainId| {
            // Only block domains have mail, and their name is all that is needed.
            let place = Place {
                domain: id.to_string(),
                carrier: Carrier::Block,
            };
            let opened = (parts.open)(&place, &settings, &Context::quiet());
            opened
                .ok()
                .filter(|domain| is_member(domain.as_ref(), pool))
        };
        let mouth = self.mouth.clone();
        let told = move |total| mouth.say(&Word::Extended { total });
        let desk = beside
            .desk
            .get_or_insert_with(|| Desk::of(manager, Box::new(adopt), Box::new(told)));
        desk.fill(manager);
        let mail = mail(manager, desk)
            .map(Arc::new)
            .map_err(|error| Failure::new(FailureKind::Failed, format!("mailbox: {error}")))?;
        let dropped = Arc::downgrade(&mail);
        let serves = manager.life().set_mail(move || {
            if let Some(mail) = dropped.upgrade() {
                mail.lease_lost();
            }
        });
        if !serves {
            return Err(wrong("the role ended while its mail was started"));
        }
        beside.mail = Some(mail);
        Ok(())
    }

    /// Ends the process when only that helps.
    fn end(&self, error: StartError) -> Failure {
        match error {
            StartError::Refused(failure) => failure,
            StartError::Fatal(Fatal(failure)) => {
                (self.on_lost)(&failure.message);
                failure
            }
        }
    }

    /// Gives the core an order that ends or interrupts service. Jobs are waited
    /// for up to `patience`; then the role is out of sight of others, in `taken`,
    /// with the gate, until the caller lets it be seen again.
    fn order<'a>(
        &'a self,
        context: &Context,
        order: Input,
        patience: Duration,
        taken: &mut Option<(RwLockWriteGuard<'a, ()>, Role)>,
        own: &mut dyn FnMut(&mut Manager, Step) -> std::result::Result<(), Stumble>,
    ) -> Result<Settled> {
        let life = self.role().as_ref().map(|role| role.manager.life());
        let Some(life) = life else {
            return Err(wrong("this host is not the pool's manager"));
        };
        life.run(order, &mut |step| {
            if step == Step::ForbidWrites {
                let gate = self.alone(context, patience)?;
                let role = self.role().take();
                *taken = role.map(|role| (gate, role));
                return Ok(());
            }
            if let Some((_, role)) = taken {
                role.manager.step(context, step)?;
                self.step(&role.manager, &mut role.beside, step)?;
                own(&mut role.manager, step)?;
            }
            Ok(())
        })
    }

    /// Gives the role back; jobs under way are waited for up to `patience`, and
    /// then it goes on.
    pub(super) fn stop(&self, context: &Context, patience: Duration) -> Result<Answer> {
        let mut taken = None;
        let settled = self.order(context, Input::Stop, patience, &mut taken, &mut |_, _| {
            Ok(())
        })?;
        if settled.phase != Phase::Free {
            return Err(self.end(not_there(settled, "the role was not given back")));
        }
        Ok(Answer::Spm(SpmReport {
            state: "free".to_owned(),
            ..SpmReport::default()
        }))
    }

    pub(super) fn migrate(&self, context: &Context, target: &Place) -> Result<Answer> {
        let target_id = id(&target.domain)?;
        let target = self.domain(context, target)?;
        let mut taken = None;
        let mut to_new = |manager: &mut Manager, step: Step| {
            if step != Step::MoveMaster {
                return Ok(());
            }
            manager.add(Arc::clone(&target));
            Migration::new(manager, target_id, None)
                .map_err(StartError::Refused)
                .and_then(|migration| migration.run(context))
                .map_err(|error| match error {
                    StartError::Refused(failure) => Stumble::from(failure),
                    StartError::Fatal(Fatal(failure)) => Stumble::fatal(failure),
                })
        };
        let settled = self.order(context, Input::Move, GATE, &mut taken, &mut to_new)?;
        if settled.phase != Phase::Serving {
            return Err(self.end(not_there(settled, "the master was not moved")));
        }
        // Whatever came of it, the manager goes on, on the master there is now.
        let directory = match taken {
            Some((gate, role)) => {
                let directory = role.manager.directory();
                let report = directory.map(|directory| pool_report(&role.manager, &directory));
                *self.role() = Some(role);
                drop(gate);
                Some(report)
            }
            None => None,
        };
        match (settled.failure, directory) {
            (Some(failure), _) => Err(failure),
            (None, Some(report)) => Ok(Answer::Pool(report?)),
            (None, None) => Err(wrong("this host is not the pool's manager")),
        }
    }

    /// Lets the manager know of a domain of the pool that was connected after it
    /// took the role.
    fn take_in(&self, context: &Context, place: &Place) -> Result<()> {
        let id = id(&place.domain)?;
        let pool = {
            let role = self.role();
            match role.as_ref() {
                Some(role) if role.manager.domain(id).is_none() => role.manager.pool(),
                _ => return Ok(()),
            }
        };
        let domain = self.open(context, place)?;
        if is_member(domain.as_ref(), pool)
            && let Some(role) = self.role().as_mut()
        {
            role.manager.add(domain);
            role.refill();
        }
        Ok(())
    }

    /// What takes work back that this process does not end, where it has to be.
    fn rollback(&self, context: &Context, work: &Work) -> Option<Recovery> {
        let made = Made::by(work)?;
        let pool = self.role().as_ref().map(|role| role.manager.pool())?;
        let domain = self.domain(context, made.place).ok()?;
        made.rollback(domain.as_ref(), &self.settings.layout, pool)
    }

    /// Where the manager's tasks are kept.
    fn store(&self) -> Option<Store> {
        let role = self.role();
        let manager = &role.as_ref()?.manager;
        let dir = manager.files()?.tasks();
        Some(Store::new(dir, manager.master().id().to_string()))
    }

    // --- Everything else ---

    /// Extends asked for on this host: together with those that come by mail.
    pub(super) fn extend(
        &self,
        context: &Context,
        place: &Place,
        items: &[ExtendItem],
    ) -> Result<Answer> {
        let domain_id = id(&place.domain)?;
        let mail = self
            .role()
            .as_ref()
            .and_then(|role| role.beside.mail.clone());
        let wanted = items
            .iter()
            .map(|item| Ok((volume_id(&item.volume.volume)?, item.size_bytes)))
            .collect::<Result<Vec<_>>>()?;
        let Some(mail) = mail else {
            let domain = self.open(context, place)?;
            let done = self.by_domain(context, domain.as_ref(), |authority| {
                domain.extend_many(context, authority, &wanted)
            })?;
            let count = done.len();
            done.into_iter().collect::<Result<Vec<_>>>()?;
            return Ok(extended(count));
        };
        self.take_in(context, place)?;
        let (sender, receiver) = std::sync::mpsc::channel();
        for (volume, bytes) in &wanted {
            let size_mib = u32::try_from(bytes.div_ceil(MIB).max(1)).map_err(|_| {
                Failure::new(
                    FailureKind::BadRequest,
                    format!("volume {volume}: {bytes} bytes, largest allowed is 4 PiB"),
                )
            })?;
            let (sender, volume) = (sender.clone(), *volume);
            let extend = Extend {
                domain: domain_id,
                volume,
                size_mib,
            };
            mail.extend(extend, true, move |outcome| {
                // Nobody waits any more: the answer is of no use.
                let _gone: std::result::Result<(), _> = sender.send((volume, outcome));
            });
        }
        drop(sender);
        let mut count = 0;
        while let Ok((volume, outcome)) = receiver.recv() {
            told(volume, outcome)?;
            count += 1;
        }
        Ok(extended(count))
    }

    /// Work of others: under the role, under the domain's own lease, or without
    /// any right where none is needed.
    pub(super) fn other(&self, context: &Context, work: &Work) -> Result<Answer> {
        let run = |authority: Option<&dyn Authority>| {
            (self.parts.dispatch)(work, &self.settings, authority, context)
        };
        let authority = self
            .role()
            .as_ref()
            .map(|role| role.manager.authority().clone());
        if let Some(authority) = authority {
            if let Some(place) = changed(work) {
                self.take_in(context, place)?;
            }
            let Some(store) = self.store().filter(|_| is_task(work)) else {
                return run(Some(&authority));
            };
            let undo = self.rollback(context, work);
            return tracked(&store, &authority, work, undo, || run(Some(&authority)));
        }
        let Some(place) = changed(work) else {
            return run(None);
        };
        let domain = self.open(context, place)?;
        self.by_domain(context, domain.as_ref(), |authority| run(Some(authority)))
    }
}

/// Whether a domain says that it is one of the pool.
fn is_member(domain: &dyn Domain, pool: PoolId) -> bool {
    domain
        .metadata()
        .is_ok_and(|found| found.pools().contains(&pool))
}

/// The domain whose metadata a piece of work changes.
fn changed(work: &Work) -> Option<&Place> {
    match work {
        Work::Volume { place, target, .. } => Some(target.as_ref().unwrap_or(place)),
        Work::Lease { place, .. }
        | Work::Ovf { place, .. }
        | Work::ExtendDomain { place, .. }
        | Work::Grow { place, .. }
        | Work::Reduce { place, .. }
        | Work::RemoveDomain { place } => Some(place),
        _ => None,
    }
}

fn report(role: &Role) -> SpmReport {
    let manager = &role.manager;
    SpmReport {
        state: "here".to_owned(),
        host_id: Some(manager.cluster().host_id().into()),
        lver: manager
            .authority()
            .master()
            .lver()
            .ok()
            .and_then(|lver| i64::try_from(lver).ok()),
        writer_pid: Some(std::process::id()),
        since_ms: u64::try_from(manager.since().elapsed().as_millis()).ok(),
        extends: role.beside.desk.as_ref().map_or(0, |desk| desk.extended()),
        ..SpmReport::default()
    }
}

fn pool_report(manager: &Manager, directory: &Directory) -> PoolReport {
    PoolReport {
        master: Some(manager.master().id().to_string()),
        host_id: manager.cluster().host_id(),
        ..listed(directory)
    }
}

fn extended(count: usize) -> Answer {
    Answer::Done {
        message: format!("{count} volumes are as large as asked for"),
    }
}

fn told(volume: VolumeId, outcome: Outcome) -> Result<()> {
    let failure = |kind, why: &str| Err(Failure::new(kind, format!("volume {volume}: {why}")));
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::Refused => failure(
            FailureKind::NoSpace,
            "not extended; no space, or no such volume",
        ),
        Outcome::Unanswered => failure(FailureKind::Timeout, "no answer to the extend"),
        Outcome::Full => failure(FailureKind::InUse, "too many extends wait already"),
        Outcome::Stopped => failure(FailureKind::Cancelled, "the manager stopped"),
    }
}

pub(super) fn wrong(why: &str) -> Failure {
    Failure::new(FailureKind::WrongState, why)
}

pub(super) fn id(text: &str) -> Result<DomainId> {
    text.parse()
        .map_err(|error| Failure::new(FailureKind::BadRequest, format!("{error}")))
}

fn volume_id(text: &str) -> Result<VolumeId> {
    text.parse()
        .map_err(|error| Failure::new(FailureKind::BadRequest, format!("{error}")))
}

pub(super) fn pool_id(pool: &PoolContext) -> Result<PoolId> {
    pool.pool
        .parse()
        .map_err(|error| Failure::new(FailureKind::BadRequest, format!("{error}")))
}

pub(super) fn version(given: Option<i64>) -> Result<Option<u64>> {
    given
        .map(|version| {
            u64::try_from(version).map_err(|_| {
                Failure::new(
                    FailureKind::BadRequest,
                    format!("master version {version}: must not be negative"),
                )
            })
        })
        .transpose()
}
