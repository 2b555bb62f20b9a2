//! The manager's role: what its steps do (§3.4). Which one comes next, and what
//! follows a failure, is the core's decision ([`super::life`]).

use std::sync::Arc;
use std::time::Instant;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainMetadata, DomainRole};
use disk_format::vdsm::pool::{PoolDomainStatus, PoolKeys};
use disk_format::vdsm::uuid::{DomainId, PoolId};
use disk_format::vdsm::version::DomainVersion;
use mailbox::role::{Config, Input, Phase, Step};

use super::directory::{Directory, check_master};
use super::each::{BESIDE, each};
use super::files::{MasterFiles, prepare_mailboxes};
use super::left;
use super::life::{Life, Living, OnLost, Settled, Stumble};
use super::member::{join_time, own_lease, upgrade};
use crate::authority::Authority;
use crate::command::left_writing;
use crate::domain::{Domain, DomainKind, Special};
use crate::job::{Context, Result};
use crate::writer::{Cluster, Held, LockPlace, PoolAuthority};

/// What goes with the role in the process that has it, done after the manager's
/// own part of each step.
pub(crate) type Beside<'a> =
    &'a mut dyn FnMut(&mut Manager, Step) -> std::result::Result<(), Stumble>;

/// What is needed to take the role.
pub struct Start {
    /// This host.
    pub cluster: Cluster,
    /// The pool.
    pub pool: PoolId,
    /// Its master, connected.
    pub master: Arc<dyn Domain>,
    /// Its other domains, as far as they are connected.
    pub others: Vec<Arc<dyn Domain>>,
    /// The master's version somebody has given; the one found otherwise.
    pub expected_version: Option<u64>,
    /// Bring the pool's domains to this version.
    pub upgrade: Option<DomainVersion>,
    /// Ends the process when the lease is lost.
    pub on_lost: OnLost,
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start")
            .field("pool", &self.pool)
            .field("master", &self.master.id())
            .finish_non_exhaustive()
    }
}

/// Something that only the end of this process puts right: a file system that
/// does not unmount, a lease that may or may not be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal(pub Failure);

/// Why the role was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartError {
    /// Nothing is left behind.
    Refused(Failure),
    /// The process has to end.
    Fatal(Fatal),
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// The role. Dropping it without [`Manager::stop`] is what a crash does: the
/// lease goes with the connection, nothing else is put in order.
#[derive(Debug)]
pub struct Manager {
    pub(super) cluster: Cluster,
    pub(super) pool: PoolId,
    pub(super) master: Arc<dyn Domain>,
    pub(super) others: Vec<Arc<dyn Domain>>,
    pub(super) authority: PoolAuthority,
    pub(super) files: Option<MasterFiles>,
    life: Arc<Living>,
    expected_version: Option<u64>,
    upgrade: Option<DomainVersion>,
    since: Instant,
}

impl Manager {
    /// Takes the role. On failure everything is put back as it was, as far as
    /// that can be proved.
    ///
    /// # Errors
    /// [`StartError::Refused`]: wrong master, the role is held elsewhere, I/O;
    /// [`StartError::Fatal`] when the way back failed.
    pub fn start(context: &Context, start: Start) -> std::result::Result<Self, StartError> {
        Self::start_with(context, start, &mut |_, _| Ok(()))
    }

    /// The same, with what goes with the role.
    pub(crate) fn start_with(
        context: &Context,
        start: Start,
        beside: Beside<'_>,
    ) -> std::result::Result<Self, StartError> {
        let life = Arc::new(Life::begin(Arc::clone(&start.on_lost))?);
        let order = Input::Start(Config {
            upgrade: start.upgrade.is_some(),
            io_timeout_s: start.cluster.io_timeout_s(),
        });
        let place = LockPlace::of(start.master.as_ref())?;
        let (expected, upgrade) = (start.expected_version, start.upgrade);
        let (cluster, pool, master) = (start.cluster, start.pool, start.master);
        let mut others = Some(start.others);
        let mut manager: Option<Self> = None;
        let settled = life.run(order, &mut |step| {
            tell(context, step);
            match (step, &mut manager) {
                (Step::JoinLockspace, _) => {
                    check_master(&master.metadata()?, pool, expected)?;
                    Ok(cluster.join(&place, join_time(&cluster))?)
                }
                (Step::TakeLease, _) => {
                    let held = cluster.take(&place, false, join_time(&cluster))?;
                    let others = others.take().unwrap_or_default();
                    let members = others.iter().map(|other| other.id());
                    manager = Some(Self {
                        authority: PoolAuthority::new(held, members, &life),
                        cluster: cluster.clone(),
                        pool,
                        master: Arc::clone(&master),
                        others,
                        files: None,
                        life: Arc::clone(&life),
                        expected_version: expected,
                        upgrade,
                        since: Instant::now(),
                    });
                    Ok(())
                }
                (step, Some(manager)) => {
                    manager.step(context, step)?;
                    beside(manager, step)
                }
                (_, None) => Ok(()),
            }
        })?;
        match (settled, manager) {
            (
                Settled {
                    phase: Phase::Serving,
                    ..
                },
                Some(manager),
            ) => Ok(manager),
            (settled, _) => Err(not_there(settled, "the role was not taken")),
        }
    }

    /// The manager's own part of a step.
    ///
    /// # Errors
    /// The step's.
    pub(crate) fn step(&mut self, context: &Context, step: Step) -> Result<()> {
        match step {
            Step::WriteRole => {
                // Again, now that nobody else may change it.
                check_master(&self.master.metadata()?, self.pool, self.expected_version)?;
                self.write_role(i64::from(self.cluster.host_id()))
            }
            Step::DemoteFormer => {
                self.demote_former_masters(context);
                Ok(())
            }
            Step::UpgradeDomains => match self.upgrade {
                Some(to) => self.upgrade_all(context, to),
                None => Ok(()),
            },
            Step::MountMaster => {
                let files = MasterFiles::open(context, &self.authority, self.master.as_ref())?;
                self.files = Some(files);
                Ok(())
            }
            Step::StartMail if self.has_mail() => {
                prepare_mailboxes(&self.authority, self.master.as_ref())
            }
            Step::UnmountMaster => match self.files.take() {
                Some(files) => files.close(self.master.as_ref()),
                // Half of a start, or nothing.
                None => {
                    let dir = self.master.root().join(Special::Master.name());
                    left::take_away(context, &dir, self.master.id())
                }
            },
            Step::ClearRole => {
                if let Err(failure) = self.write_role(-1) {
                    // Historic keys; the lease itself says that the role is free.
                    tracing::warn!(%failure, "role not written back to the master's metadata");
                }
                Ok(())
            }
            Step::ReleaseLease => give_back(&self.authority),
            _ => Ok(()),
        }
    }

    /// Writes host id and lease version where the pool keeps them on disk.
    fn write_role(&self, id: i64) -> Result<()> {
        self.master
            .change_metadata(&self.authority, &mut |metadata| {
                let keys = metadata.pool_keys().map_err(|error| {
                    Failure::new(
                        FailureKind::Damaged,
                        format!("domain {}: {error}", metadata.id()),
                    )
                })?;
                let Some(before) = keys.spm_lver else {
                    return Ok(());
                };
                let lver = if id < 0 {
                    None
                } else {
                    Some(before.max(0).saturating_add(1))
                };
                metadata
                    .set_pool_keys(&PoolKeys {
                        spm_id: Some(id),
                        spm_lver: lver,
                        ..PoolKeys::default()
                    })
                    .map_err(|error| Failure::new(FailureKind::Failed, error.to_string()))
            })
            .map(drop)
    }

    /// Domains that still say they are the master, with a lower version: a
    /// migration was interrupted, or they were away.
    fn demote_former_masters(&self, context: &Context) {
        let read = self.others_metadata();
        for other in &self.others {
            let former = read.iter().any(|found| {
                found.id() == other.id()
                    && found.role() == DomainRole::Master
                    && found.pools().contains(&self.pool)
            });
            if former && let Err(failure) = self.demote(context, other.as_ref()) {
                // It may be away, or broken; the role does not depend on it.
                tracing::warn!(domain = %other.id(), %failure, "former master not demoted");
            }
        }
    }

    /// Makes a former master a regular domain and cleans its tree.
    fn demote(&self, context: &Context, former: &dyn Domain) -> Result<()> {
        let Some(own) = own_lease(context, &self.cluster, former)? else {
            return Ok(());
        };
        let done = self.demote_under(context, &own, former);
        let released = own.release();
        done?;
        released
    }

    pub(super) fn demote_under(
        &self,
        context: &Context,
        own: &dyn Authority,
        former: &dyn Domain,
    ) -> Result<()> {
        self.authority.check(&self.master.id().to_string())?;
        former.change_metadata(own, &mut |metadata| {
            metadata.set_role(DomainRole::Regular);
            metadata.set_master_version(0);
            Ok(())
        })?;
        let files = MasterFiles::open(context, own, former)?;
        let cleaned = files.clean(own, &former.id().to_string());
        files.close(former)?;
        cleaned
    }

    /// Brings every domain in use to a version.
    fn upgrade_all(&self, context: &Context, to: DomainVersion) -> Result<()> {
        let directory = self.directory()?;
        upgrade(
            context,
            &self.authority,
            &self.cluster,
            self.master.id(),
            self.master.as_ref(),
            to,
        )?;
        for other in &self.others {
            let active = directory.domains.get(&other.id()) == Some(&PoolDomainStatus::Active);
            let data = other
                .metadata()
                .is_ok_and(|found| found.class() == disk_format::vdsm::domain::DomainClass::Data);
            if !(active && data) {
                continue;
            }
            let upgraded = upgrade(
                context,
                &self.authority,
                &self.cluster,
                self.master.id(),
                other.as_ref(),
                to,
            );
            if let Err(failure) = upgraded {
                // Tried again when the role is taken next; others go on.
                tracing::warn!(domain = %other.id(), %failure, "domain not upgraded");
            }
        }
        Ok(())
    }

    /// The role's core.
    pub(crate) fn life(&self) -> Arc<Living> {
        Arc::clone(&self.life)
    }

    /// Whether hosts send mail to this pool's manager.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.master.kind() != DomainKind::Local
    }

    /// The pool.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        self.pool
    }

    /// The master.
    #[must_use]
    pub fn master(&self) -> &Arc<dyn Domain> {
        &self.master
    }

    /// The other connected domains.
    #[must_use]
    pub fn others(&self) -> &[Arc<dyn Domain>] {
        &self.others
    }

    /// This host.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The right to change the pool's domains.
    #[must_use]
    pub fn authority(&self) -> &PoolAuthority {
        &self.authority
    }

    /// The master's files.
    #[must_use]
    pub fn files(&self) -> Option<&MasterFiles> {
        self.files.as_ref()
    }

    /// Since when it has the role.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Metadata of the other connected domains, those that cannot be read left out.
    #[must_use]
    pub fn others_metadata(&self) -> Vec<DomainMetadata> {
        metadata_of(&self.others)
    }

    /// A connected domain of the pool.
    #[must_use]
    pub fn domain(&self, id: DomainId) -> Option<&Arc<dyn Domain>> {
        std::iter::once(&self.master)
            .chain(&self.others)
            .find(|domain| domain.id() == id)
    }

    /// The pool's domains.
    ///
    /// # Errors
    /// The master cannot be read.
    pub fn directory(&self) -> Result<Directory> {
        Directory::read(self.pool, &self.master.metadata()?, &self.others_metadata())
    }

    /// Knows of one more connected domain (attached, or connected later).
    pub fn add(&mut self, domain: Arc<dyn Domain>) {
        if self.domain(domain.id()).is_none() {
            self.authority.add(domain.id());
            self.others.push(domain);
        }
    }

    /// Forgets a domain that was detached.
    pub fn remove(&mut self, domain: DomainId) {
        self.authority.remove(domain);
        self.others.retain(|other| other.id() != domain);
    }

    /// Gives the role back. Whoever uses [`Self::authority`] has ended before.
    ///
    /// # Errors
    /// [`Fatal`]: the process has to end, and with it the lease.
    pub fn stop(mut self) -> std::result::Result<(), Fatal> {
        let context = Context::quiet();
        let settled = self
            .life()
            .run(Input::Stop, &mut |step| Ok(self.step(&context, step)?));
        match settled {
            Ok(Settled {
                phase: Phase::Free, ..
            }) => Ok(()),
            Ok(settled) => Err(Fatal(why(settled, "the role was not given back"))),
            Err(failure) => Err(Fatal(failure)),
        }
    }
}

/// Gives a manager's lease back.
///
/// # Errors
/// The outcome is not known, or something that was run under it may still write.
pub(super) fn give_back(authority: &PoolAuthority) -> Result<()> {
    let left = left_writing();
    if left > 0 {
        return Err(Failure::new(
            FailureKind::InUse,
            format!("{left} processes were killed and have not ended: they may still write"),
        ));
    }
    authority.give_back()
}

/// What became of a role that is not there.
pub(crate) fn not_there(settled: Settled, otherwise: &str) -> StartError {
    let ends = settled.phase == Phase::Killing;
    let failure = why(settled, otherwise);
    if ends {
        StartError::Fatal(Fatal(failure))
    } else {
        StartError::Refused(failure)
    }
}

fn why(settled: Settled, otherwise: &str) -> Failure {
    let unknown = || Failure::new(FailureKind::Timeout, format!("{otherwise} in time"));
    settled.failure.unwrap_or_else(unknown)
}

/// Tells how far a start is.
fn tell(context: &Context, step: Step) {
    let steps = u64::try_from(Step::START.len()).unwrap_or(u64::MAX);
    let words = match step {
        Step::JoinLockspace => "joining the master's lockspace",
        Step::TakeLease => "taking the lease",
        Step::WriteRole => "writing the role into the master",
        Step::DemoteFormer => "looking for former masters",
        Step::UpgradeDomains => "upgrading domains",
        Step::MountMaster => "opening the master's files",
        Step::ClearHalfMade => "removing what is half-made",
        Step::StartMail => "preparing the mailboxes",
        Step::AllowWrites => "manager of the pool",
        _ => "giving the role back",
    };
    let turn = Step::START.iter().position(|one| *one == step);
    let done = turn.and_then(|turn| u64::try_from(turn).ok());
    context.tell(done.unwrap_or(steps), steps, words);
}

/// Metadata of domains; those that cannot be read, or not in time, are left out.
pub(crate) fn metadata_of(domains: &[Arc<dyn Domain>]) -> Vec<DomainMetadata> {
    let read = each(domains.to_vec(), BESIDE, |domain| domain.metadata().ok());
    read.into_iter().flatten().collect()
}

/// The lease of a domain, for what the manager does outside the pool.
pub(super) fn take(cluster: &Cluster, domain: &dyn Domain) -> Result<Held> {
    let place = LockPlace::of(domain)?;
    cluster.join(&place, join_time(cluster))?;
    cluster.take(&place, false, join_time(cluster))
}
