//! The manager's role: taking it, keeping it, giving it back (§3.4).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainMetadata, DomainRole};
use disk_format::vdsm::pool::{PoolDomainStatus, PoolKeys};
use disk_format::vdsm::uuid::{DomainId, PoolId};
use disk_format::vdsm::version::DomainVersion;

use super::directory::{Directory, check_master};
use super::each::{BESIDE, each};
use super::files::{MasterFiles, prepare_mailboxes};
use super::member::{join_time, own_lease, upgrade};
use crate::authority::Authority;
use crate::domain::{Domain, DomainKind};
use crate::job::{Context, Result};
use crate::writer::{Cluster, Held, LockPlace, PoolAuthority};

/// The lease is asked for at least so often.
const WATCH_MAX: Duration = Duration::from_secs(20);
/// So many answers in a row may fail to come; a definite no ends it at once.
const DOUBTS_MAX: u32 = 3;

/// Called when the lease is lost: ends the process.
pub type OnLost = Arc<dyn Fn(&str) + Send + Sync>;

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
    pub(super) watch: Option<Watch>,
    on_lost: Loss,
    since: Instant,
}

struct Loss(OnLost);

impl std::fmt::Debug for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loss")
    }
}

impl Manager {
    /// Takes the role. On failure everything is put back as it was, as far as
    /// that can be proved.
    ///
    /// # Errors
    /// [`StartError::Refused`]: wrong master, the role is held elsewhere, I/O;
    /// [`StartError::Fatal`] when the way back failed.
    pub fn start(context: &Context, start: Start) -> std::result::Result<Self, StartError> {
        let steps = STEPS;
        context.tell(0, steps, "reading the master");
        let metadata = start.master.metadata()?;
        check_master(&metadata, start.pool, start.expected_version)?;
        let place = LockPlace::of(start.master.as_ref())?;

        context.tell(1, steps, "joining the master's lockspace");
        start.cluster.join(&place, join_time(&start.cluster))?;

        context.tell(2, steps, "taking the lease");
        let held = start
            .cluster
            .take(&place, false, join_time(&start.cluster))?;
        let members = start.others.iter().map(|other| other.id());
        let authority = PoolAuthority::new(held, members);
        let mut manager = Self {
            cluster: start.cluster,
            pool: start.pool,
            master: start.master,
            others: start.others,
            authority,
            files: None,
            watch: None,
            on_lost: Loss(start.on_lost),
            since: Instant::now(),
        };
        match manager.begin(context, start.expected_version, start.upgrade) {
            Ok(()) => Ok(manager),
            Err(failure) => match manager.stop() {
                Ok(()) => Err(StartError::Refused(failure)),
                Err(Fatal(worse)) => Err(StartError::Fatal(Fatal(worse.while_doing(failure)))),
            },
        }
    }

    /// Everything after the lease.
    fn begin(
        &mut self,
        context: &Context,
        expected_version: Option<u64>,
        to: Option<DomainVersion>,
    ) -> Result<()> {
        // Again, now that nobody else may change it.
        let metadata = self.master.metadata()?;
        check_master(&metadata, self.pool, expected_version)?;
        self.write_role(i64::from(self.cluster.host_id()))?;
        self.demote_former_masters(context)?;
        if let Some(to) = to {
            context.tell(3, STEPS, "upgrading domains");
            self.upgrade_all(context, to)?;
        }
        context.tell(4, STEPS, "opening the master's files");
        self.files = Some(MasterFiles::open(
            context,
            &self.authority,
            self.master.as_ref(),
        )?);
        context.tell(5, STEPS, "preparing the mailboxes");
        self.watch = Some(self.start_watch()?);
        if self.has_mail() {
            prepare_mailboxes(&self.authority, self.master.as_ref())?;
        }
        context.tell(STEPS, STEPS, "manager of the pool");
        Ok(())
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
    fn demote_former_masters(&self, context: &Context) -> Result<()> {
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
        Ok(())
    }

    /// Makes a former master a regular domain and cleans its tree.
    fn demote(&self, context: &Context, former: &dyn Domain) -> Result<()> {
        let Some(own) = own_lease(&self.cluster, former)? else {
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

    pub(super) fn start_watch(&self) -> Result<Watch> {
        let period = Duration::from_secs(u64::from(self.cluster.io_timeout_s()) * 2);
        Watch::start(
            self.authority.clone(),
            period.clamp(Duration::from_secs(1), WATCH_MAX),
            Arc::clone(&self.on_lost.0),
        )
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
        if let Some(watch) = self.watch.take() {
            watch.end();
        }
        if let Some(files) = self.files.take() {
            files.close(self.master.as_ref()).map_err(Fatal)?;
        }
        if let Err(failure) = self.write_role(-1) {
            // Historic keys; the lease itself says that the role is free.
            tracing::warn!(%failure, "role not written back to the master's metadata");
        }
        self.authority.give_back().map_err(Fatal)
    }
}

/// Metadata of domains; those that cannot be read, or not in time, are left out.
pub(crate) fn metadata_of(domains: &[Arc<dyn Domain>]) -> Vec<DomainMetadata> {
    let read = each(domains.to_vec(), BESIDE, |domain| domain.metadata().ok());
    read.into_iter().flatten().collect()
}

/// Steps that progress counts.
const STEPS: u64 = 6;

/// Asks for the lease all the time.
#[derive(Debug)]
pub(super) struct Watch {
    ended: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(authority: PoolAuthority, period: Duration, on_lost: OnLost) -> Result<Self> {
        let ended: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let mine = Arc::clone(&ended);
        let thread = std::thread::Builder::new()
            .name("lease watch".to_owned())
            .spawn(move || watch(&authority, period, &on_lost, &mine))
            .map_err(|error| {
                Failure::new(
                    FailureKind::Failed,
                    format!("thread for the lease: {error}"),
                )
            })?;
        Ok(Self {
            ended,
            thread: Some(thread),
        })
    }

    /// Ends it; returns when it has.
    pub(super) fn end(mut self) {
        self.tell();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }

    fn tell(&self) {
        *self.ended.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.1.notify_all();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tell();
    }
}

fn watch(
    authority: &PoolAuthority,
    period: Duration,
    on_lost: &OnLost,
    ended: &(Mutex<bool>, Condvar),
) {
    let mut doubts = 0;
    let lost = AtomicBool::new(false);
    loop {
        let guard = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = ended
            .1
            .wait_timeout_while(guard, period, |ended| !*ended)
            .unwrap_or_else(PoisonError::into_inner);
        if *guard {
            return;
        }
        drop(guard);
        let held = authority.master();
        let why = match held.check_now() {
            Ok(()) => {
                doubts = 0;
                continue;
            }
            Err(failure) if held.surely_lost() => failure.to_string(),
            Err(failure) => {
                doubts += 1;
                tracing::warn!(%failure, doubts, "lease not confirmed");
                if doubts <= DOUBTS_MAX {
                    continue;
                }
                format!("{failure} ({doubts} times in a row)")
            }
        };
        if !lost.swap(true, Ordering::Relaxed) {
            on_lost(&why);
        }
        return;
    }
}

/// The lease of a domain, for what the manager does outside the pool.
pub(super) fn take(cluster: &Cluster, domain: &dyn Domain) -> Result<Held> {
    let place = LockPlace::of(domain)?;
    cluster.join(&place, join_time(cluster))?;
    cluster.take(&place, false, join_time(cluster))
}
