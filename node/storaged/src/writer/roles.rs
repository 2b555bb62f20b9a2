//! What a writer does under which right: the pool's role, or a domain's own lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use control::config::Manager as Mode;
use control::storage::report::{PoolDomain, PoolReport, SpmReport};
use control::storage::{Answer, Failure, FailureKind};
use disk_format::vdsm::pool::PoolDomainStatus;
use disk_format::vdsm::uuid::{DomainId, PoolId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use mailbox::{Batch, Committed, Extend, Outcome};

use super::process::Parts;
use super::{Cluster, Commits, LockPlace, PoolAuthority};
use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::mail::{MailPlace, ManagerMail};
use crate::pool::{self, Directory, Fatal, Manager, Migration, NewPool, OnLost, Start, StartError};
use crate::worker::work::{ExtendItem, Place, PoolContext, Settings, Work};

/// How long another host's commit is waited for.
const COMMIT_PATIENCE: Duration = Duration::from_secs(120);
/// How long commits under way are waited for before the role is given back.
const MAIL_STOP: Duration = Duration::from_secs(60);
/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// The writer's rights and what it does with them.
pub(super) struct Roles {
    settings: Settings,
    parts: Parts,
    on_lost: OnLost,
    /// Set while this host is the pool's manager.
    role: Mutex<Option<Role>>,
}

struct Role {
    manager: Manager,
    mail: Option<Arc<ManagerMail>>,
    /// What commits of the mail are done with.
    desk: Arc<Desk>,
}

/// What a commit needs; apart from the role, which is busy while it changes.
struct Desk {
    state: Mutex<(PoolAuthority, BTreeMap<DomainId, Arc<dyn Domain>>)>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, (PoolAuthority, BTreeMap<DomainId, Arc<dyn Domain>>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One commit for all volumes of a batch.
    fn commit(&self, batch: &Batch) -> Vec<Committed> {
        let (authority, domain) = {
            let state = self.lock();
            (state.0.clone(), state.1.get(&batch.domain).map(Arc::clone))
        };
        let Some(domain) = domain else {
            tracing::warn!(domain = %batch.domain, "mail for a domain that is not in the pool");
            return vec![Committed::Refused; batch.extends.len()];
        };
        let requests: Vec<(VolumeId, u64)> = batch
            .extends
            .iter()
            .map(|extend| (extend.volume, u64::from(extend.size_mib) * MIB))
            .collect();
        match domain.extend_many(&Context::quiet(), &authority, &requests) {
            Ok(results) => results
                .into_iter()
                .zip(&requests)
                .map(|(result, (volume, _))| match result {
                    Ok(_) => Committed::Done,
                    Err(failure) if is_sure(failure.kind) => {
                        tracing::warn!(%volume, %failure, "volume not extended");
                        Committed::Refused
                    }
                    Err(failure) => {
                        tracing::warn!(%volume, %failure, "volume extended or not");
                        Committed::Unknown
                    }
                })
                .collect(),
            Err(failure) => {
                tracing::warn!(domain = %batch.domain, %failure, "commit failed");
                let each = if is_sure(failure.kind) {
                    Committed::Refused
                } else {
                    Committed::Unknown
                };
                vec![each; requests.len()]
            }
        }
    }
}

/// Whether a failure proves that nothing was done.
fn is_sure(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::NoSpace
            | FailureKind::NotFound
            | FailureKind::WrongState
            | FailureKind::BadRequest
            | FailureKind::LeaseNotHeld
    )
}

impl Roles {
    pub(super) fn new(settings: Settings, parts: Parts, on_lost: OnLost) -> Self {
        Self {
            settings,
            parts,
            on_lost,
            role: Mutex::new(None),
        }
    }

    fn role(&self) -> MutexGuard<'_, Option<Role>> {
        self.role.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_manager(&self) -> bool {
        self.role().is_some()
    }

    fn open(&self, context: &Context, place: &Place) -> Result<Arc<dyn Domain>> {
        (self.parts.open)(place, &self.settings, context)
    }

    fn cluster(&self, host_id: u16) -> Result<Cluster> {
        Cluster::new(
            &self.settings.layout.sanlock,
            host_id,
            self.settings.io_timeout_s,
        )
    }

    /// A domain of the pool as the manager knows it, or opened.
    fn domain(&self, context: &Context, place: &Place) -> Result<Arc<dyn Domain>> {
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
    fn others(&self, context: &Context, pool: &PoolContext) -> Vec<Arc<dyn Domain>> {
        pool.domains
            .iter()
            .filter(|place| place.domain != pool.master.domain)
            .filter_map(|place| match self.open(context, place) {
                Ok(domain) => Some(domain),
                Err(failure) => {
                    tracing::warn!(domain = %place.domain, %failure, "domain of the pool not open");
                    None
                }
            })
            .collect()
    }

    // --- The role ---

    pub(super) fn start(&self, context: &Context, pool: &PoolContext) -> Result<Answer> {
        if self.is_manager() {
            return Err(wrong("this host is the pool's manager already"));
        }
        let master = self.open(context, &pool.master)?;
        let others = self.others(context, pool);
        let started = Manager::start(
            context,
            Start {
                cluster: self.cluster(pool.host_id)?,
                pool: pool_id(pool)?,
                master,
                others,
                expected_version: version(pool.master_version)?,
                upgrade: None,
                on_lost: Arc::clone(&self.on_lost),
            },
        );
        let manager = started.map_err(|error| self.end(error))?;
        let role = self.with_mail(manager)?;
        let report = report(&role);
        *self.role() = Some(role);
        Ok(Answer::Spm(report))
    }

    /// Starts the mail of a manager. Its failure gives the role back.
    fn with_mail(&self, manager: Manager) -> Result<Role> {
        let desk = Arc::new(Desk {
            state: Mutex::new((manager.authority().clone(), BTreeMap::new())),
        });
        fill(&desk, &manager);
        match mail(&manager, &desk) {
            Ok(mail) => Ok(Role {
                manager,
                mail: Some(Arc::new(mail)),
                desk,
            }),
            Err(error) => {
                let failure = Failure::new(FailureKind::Failed, format!("mailbox: {error}"));
                match manager.stop() {
                    Ok(()) => Err(failure),
                    Err(fatal) => Err(self.end(StartError::Fatal(fatal))),
                }
            }
        }
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

    pub(super) fn stop(&self) -> Result<Answer> {
        let Some(mut role) = self.role().take() else {
            return Err(wrong("this host is not the pool's manager"));
        };
        if let Some(mail) = role.mail.take()
            && !mail.stop(MAIL_STOP)
        {
            (self.on_lost)("commits do not end");
        }
        role.manager
            .stop()
            .map_err(|fatal| self.end(StartError::Fatal(fatal)))?;
        Ok(Answer::Spm(SpmReport {
            state: "free".to_owned(),
            ..SpmReport::default()
        }))
    }

    pub(super) fn migrate(&self, context: &Context, target: &Place) -> Result<Answer> {
        let target_id = id(&target.domain)?;
        let target = self.domain(context, target)?;
        let mut guard = self.role();
        let Some(mut role) = guard.take() else {
            return Err(wrong("this host is not the pool's manager"));
        };
        if let Some(mail) = role.mail.take()
            && !mail.stop(MAIL_STOP)
        {
            (self.on_lost)("commits do not end");
        }
        role.manager.add(target);
        let moved = Migration::new(&mut role.manager, target_id, None)
            .map_err(StartError::Refused)
            .and_then(|migration| migration.run(context));
        // Whatever came of it, the mail goes on, on the master there is now.
        let outcome = moved.map_err(|error| self.end(error));
        *role.desk.lock() = (role.manager.authority().clone(), BTreeMap::new());
        fill(&role.desk, &role.manager);
        let started = mail(&role.manager, &role.desk);
        let lost = started.is_err();
        role.mail = started.ok().map(Arc::new);
        let directory = role.manager.directory();
        let report = directory.map(|directory| pool_report(&role.manager, &directory));
        *guard = Some(role);
        drop(guard);
        if lost {
            (self.on_lost)("the mailbox of the new master cannot be served");
        }
        outcome?;
        Ok(Answer::Pool(report?))
    }

    // --- The pool ---

    pub(super) fn create_pool(&self, context: &Context, pool: &PoolContext) -> Result<Answer> {
        let cluster = self.cluster(pool.host_id)?;
        let mut domains = vec![self.open(context, &pool.master)?];
        for place in &pool.domains {
            if place.domain != pool.master.domain {
                domains.push(self.open(context, place)?);
            }
        }
        let new = NewPool {
            id: pool_id(pool)?,
            name: pool.name.clone(),
            master_version: version(pool.master_version)?.unwrap_or(1),
        };
        let made = pool::create(context, &cluster, &new, &domains);
        // The number was only borrowed.
        for domain in &domains {
            let left = LockPlace::of(domain.as_ref()).and_then(|place| cluster.leave(&place));
            if let Err(failure) = left {
                tracing::warn!(domain = %domain.id(), %failure, "lockspace not left");
            }
        }
        let directory = made?;
        let metadata = domains
            .first()
            .map(|master| master.metadata())
            .transpose()?;
        Ok(Answer::Pool(PoolReport {
            name: pool.name.clone(),
            master: Some(pool.master.domain.clone()),
            master_version: metadata.and_then(|found| {
                found
                    .master_version()
                    .ok()
                    .flatten()
                    .and_then(|version| i64::try_from(version).ok())
            }),
            ..listed(&directory)
        }))
    }

    pub(super) fn reconstruct(&self, context: &Context, pool: &PoolContext) -> Result<Answer> {
        if self.is_manager() {
            return Err(wrong(
                "this host is the pool's manager; migrate the master, or stop the manager first",
            ));
        }
        let master = self.open(context, &pool.master)?;
        let known = pool
            .domains
            .iter()
            .map(|place| Ok((id(&place.domain)?, PoolDomainStatus::Active)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let name = (!pool.name.is_empty()).then_some(pool.name.as_str());
        let directory = pool::reconstruct(
            &self.cluster(pool.host_id)?,
            pool_id(pool)?,
            name,
            master.as_ref(),
            &known,
            version(pool.master_version)?.unwrap_or(0),
        )?;
        Ok(Answer::Pool(PoolReport {
            name: pool.name.clone(),
            master: Some(pool.master.domain.clone()),
            ..listed(&directory)
        }))
    }

    /// Runs `change` with the right to change the master's list of domains.
    fn on_list<T>(
        &self,
        context: &Context,
        pool: &PoolContext,
        change: impl FnOnce(
            &dyn Authority,
            &Cluster,
            PoolId,
            &dyn Domain,
            &[Arc<dyn Domain>],
        ) -> Result<T>,
    ) -> Result<T> {
        let held = self.role().as_ref().map(|role| {
            (
                role.manager.authority().clone(),
                role.manager.cluster().clone(),
                role.manager.pool(),
                Arc::clone(role.manager.master()),
                role.manager.others().to_vec(),
            )
        });
        if let Some((authority, cluster, pool, master, others)) = held {
            return change(&authority, &cluster, pool, master.as_ref(), &others);
        }
        if pool.manager != Mode::Domain {
            return Err(wrong("this host is not the pool's manager"));
        }
        let cluster = self.cluster(pool.host_id)?;
        let master = self.open(context, &pool.master)?;
        let others = self.others(context, pool);
        self.under_own_lease(context, &cluster, master.as_ref(), |authority| {
            change(
                authority,
                &cluster,
                pool_id(pool)?,
                master.as_ref(),
                &others,
            )
        })
    }

    /// Runs `change` with the domain's own lease, only while it is needed.
    fn under_own_lease<T>(
        &self,
        context: &Context,
        cluster: &Cluster,
        domain: &dyn Domain,
        change: impl FnOnce(&dyn Authority) -> Result<T>,
    ) -> Result<T> {
        let place = LockPlace::of(domain)?;
        cluster.join(&place, COMMIT_PATIENCE)?;
        let commits = Commits::new(cluster, &place, COMMIT_PATIENCE, context)?;
        let done = change(&commits);
        if let Err(failure) = commits.finish() {
            (self.on_lost)(&failure.message);
        }
        done
    }

    pub(super) fn attach(
        &self,
        context: &Context,
        pool: &PoolContext,
        place: &Place,
    ) -> Result<Answer> {
        let target = self.open(context, place)?;
        let directory = self.on_list(context, pool, |authority, cluster, id, master, others| {
            let seen = metadata(others);
            pool::attach(
                context,
                authority,
                cluster,
                id,
                master,
                &seen,
                target.as_ref(),
            )
        })?;
        if let Some(role) = self.role().as_mut() {
            role.manager.add(Arc::clone(&target));
            fill(&role.desk, &role.manager);
        }
        Ok(Answer::Pool(listed(&directory)))
    }

    pub(super) fn detach(
        &self,
        context: &Context,
        pool: &PoolContext,
        place: &Place,
        force: bool,
    ) -> Result<Answer> {
        let target = self.domain(context, place)?;
        let by_manager = self.is_manager() || pool.manager == Mode::Domain;
        let member = target
            .metadata()?
            .pools()
            .iter()
            .any(|found| found.to_string() == pool.pool);
        if force && !(by_manager && member) {
            pool::force_detach(&self.cluster(pool.host_id)?, target.as_ref())?;
            return Ok(Answer::Done {
                message: format!("domain {} is in no pool any more", place.domain),
            });
        }
        let directory = self.on_list(context, pool, |authority, cluster, id, master, others| {
            let seen = metadata(others);
            pool::detach(authority, cluster, id, master, &seen, target.as_ref())
        })?;
        if let Some(role) = self.role().as_mut() {
            role.manager.remove(target.id());
            fill(&role.desk, &role.manager);
        }
        Ok(Answer::Pool(listed(&directory)))
    }

    pub(super) fn set_status(
        &self,
        context: &Context,
        pool: &PoolContext,
        place: &Place,
        active: bool,
    ) -> Result<Answer> {
        let target = id(&place.domain)?;
        let status = if active {
            PoolDomainStatus::Active
        } else {
            PoolDomainStatus::Attached
        };
        let directory = self.on_list(context, pool, |authority, _, id, master, others| {
            pool::set_status(authority, id, master, &metadata(others), target, status)
        })?;
        if active
            && !self
                .role()
                .as_ref()
                .is_none_or(|role| role.manager.domain(target).is_some())
        {
            let domain = self.open(context, place)?;
            if let Some(role) = self.role().as_mut() {
                role.manager.add(domain);
                fill(&role.desk, &role.manager);
            }
        }
        Ok(Answer::Pool(listed(&directory)))
    }

    pub(super) fn upgrade(&self, context: &Context, place: &Place, version: u8) -> Result<Answer> {
        let to = DomainVersion::from_number(version.into()).ok_or_else(|| {
            Failure::new(
                FailureKind::BadRequest,
                format!("domain version {version}: allowed are 4 and 5"),
            )
        })?;
        let domain = self.domain(context, place)?;
        let held = self.role().as_ref().map(|role| {
            (
                role.manager.authority().clone(),
                role.manager.cluster().clone(),
                role.manager.master().id(),
            )
        });
        match held {
            Some((authority, cluster, master)) => {
                pool::upgrade(context, &authority, &cluster, master, domain.as_ref(), to)?;
            }
            None => self.by_domain(context, domain.as_ref(), |authority| {
                domain.upgrade(context, authority, to)
            })?,
        }
        Ok(Answer::Done {
            message: format!("domain {} has version {to}", place.domain),
        })
    }

    /// A change of one domain without the pool's role: allowed where every domain
    /// has its own manager, and where the domain is in no pool.
    fn by_domain<T>(
        &self,
        context: &Context,
        domain: &dyn Domain,
        change: impl FnOnce(&dyn Authority) -> Result<T>,
    ) -> Result<T> {
        if self.settings.manager != Mode::Domain && !domain.metadata()?.pools().is_empty() {
            return Err(wrong("this host is not the pool's manager"));
        }
        let cluster = self.cluster(self.settings.host_id)?;
        self.under_own_lease(context, &cluster, domain, change)
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
        let mail = self.role().as_ref().and_then(|role| role.mail.clone());
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
            return run(Some(&authority));
        }
        let Some(place) = changed(work) else {
            return run(None);
        };
        let domain = self.open(context, place)?;
        self.by_domain(context, domain.as_ref(), |authority| run(Some(authority)))
    }
}

/// The mail of a manager, on its present master.
fn mail(manager: &Manager, desk: &Arc<Desk>) -> std::io::Result<ManagerMail> {
    let place = manager
        .has_mail()
        .then(|| MailPlace::of(manager.master().as_ref()));
    let desk: Weak<Desk> = Arc::downgrade(desk);
    ManagerMail::start(
        place.as_ref(),
        Arc::new(move |batch| match desk.upgrade() {
            Some(desk) => desk.commit(batch),
            None => Vec::new(),
        }),
    )
}

/// Brings the desk up to the manager's domains.
fn fill(desk: &Desk, manager: &Manager) {
    let domains = std::iter::once(manager.master())
        .chain(manager.others())
        .map(|domain| (domain.id(), Arc::clone(domain)))
        .collect();
    desk.lock().1 = domains;
}

/// The domain whose metadata a piece of work changes.
fn changed(work: &Work) -> Option<&Place> {
    match work {
        Work::Volume { place, target, .. } => Some(target.as_ref().unwrap_or(place)),
        Work::Lease { place, .. }
        | Work::ExtendDomain { place, .. }
        | Work::Grow { place, .. }
        | Work::Reduce { place, .. }
        | Work::RemoveDomain { place } => Some(place),
        _ => None,
    }
}

fn metadata(domains: &[Arc<dyn Domain>]) -> Vec<disk_format::vdsm::domain::DomainMetadata> {
    domains
        .iter()
        .filter_map(|domain| domain.metadata().ok())
        .collect()
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
        extends: role.mail.as_ref().map_or(0, |mail| mail.served()),
        ..SpmReport::default()
    }
}

/// The pool's report, as far as its list of domains goes.
pub(crate) fn listed(directory: &Directory) -> PoolReport {
    PoolReport {
        id: directory.pool.to_string(),
        domains: directory
            .domains
            .iter()
            .map(|(id, status)| PoolDomain {
                id: id.to_string(),
                status: match status {
                    PoolDomainStatus::Active => "active",
                    PoolDomainStatus::Attached => "attached",
                }
                .to_owned(),
            })
            .collect(),
        ..PoolReport::default()
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

fn wrong(why: &str) -> Failure {
    Failure::new(FailureKind::WrongState, why)
}

fn id(text: &str) -> Result<DomainId> {
    text.parse()
        .map_err(|error| Failure::new(FailureKind::BadRequest, format!("{error}")))
}

fn volume_id(text: &str) -> Result<VolumeId> {
    text.parse()
        .map_err(|error| Failure::new(FailureKind::BadRequest, format!("{error}")))
}

fn pool_id(pool: &PoolContext) -> Result<PoolId> {
    pool.pool
        .parse()
        .map_err(|error| Failure::new(FailureKind::BadRequest, format!("{error}")))
}

fn version(given: Option<i64>) -> Result<Option<u64>> {
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
