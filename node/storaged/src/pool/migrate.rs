//! Another master while the old one can be read (§3.3).
//!
//! The order is what makes it safe to crash anywhere: until [`Step::Roles`] is
//! on disk the old master is the master and a new attempt begins from the start;
//! from then on the new one is, having the higher version, and whoever takes the
//! role next demotes the old one.

use std::sync::Arc;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::DomainRole;
use disk_format::vdsm::pool::PoolDomainStatus;
use disk_format::vdsm::uuid::DomainId;

use super::create::fit_for_master;
use super::files::{MasterFiles, prepare_mailboxes};
use super::spm::{Fatal, Manager, StartError, give_back, take};
use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::writer::{Held, PoolAuthority};

/// What has been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The target has the lease, and the pool's version.
    Lease,
    /// Its mailboxes are ready.
    Mailboxes,
    /// Its file system is mounted and has the old one's files.
    Files,
    /// It is the master: the point of no return.
    Roles,
    /// The lease is watched, and writing done, under its name.
    Watch,
    /// The old master is a regular domain.
    Demoted,
    /// The old master's file system is unmounted, its lease given back.
    Left,
}

/// A migration under way. Dropping it is what a crash does.
#[derive(Debug)]
pub struct Migration<'a> {
    manager: &'a mut Manager,
    target: Arc<dyn Domain>,
    version: u64,
    done: Option<Step>,
    lease: Option<Held>,
    files: Option<MasterFiles>,
    /// The old master with its authority and files, after the change.
    old: Option<Old>,
}

#[derive(Debug)]
struct Old {
    domain: Arc<dyn Domain>,
    authority: PoolAuthority,
    files: Option<MasterFiles>,
}

impl<'a> Migration<'a> {
    /// Checks whether it can be done at all. The new master's version is
    /// `version`, one more than the old one's when absent.
    ///
    /// # Errors
    /// [`FailureKind::WrongState`] for a target that is not active in the pool or
    /// the master already; [`FailureKind::BadRequest`] for a version not higher.
    pub fn new(manager: &'a mut Manager, target: DomainId, version: Option<u64>) -> Result<Self> {
        let refuse = |kind, why: String| {
            Err(Failure::new(
                kind,
                format!("domain {target} cannot become the master: {why}"),
            ))
        };
        if target == manager.master.id() {
            return refuse(FailureKind::WrongState, "it is".to_owned());
        }
        let directory = manager.directory()?;
        match directory.domains.get(&target) {
            Some(PoolDomainStatus::Active) => {}
            Some(PoolDomainStatus::Attached) => {
                return refuse(FailureKind::WrongState, "it is not active".to_owned());
            }
            None => return refuse(FailureKind::WrongState, "it is not in the pool".to_owned()),
        }
        let Some(domain) = manager.domain(target).map(Arc::clone) else {
            return refuse(FailureKind::NotFound, "it is not connected".to_owned());
        };
        fit_for_master(&domain.metadata()?)?;
        let present = manager
            .master
            .metadata()?
            .master_version()
            .map_err(|error| Failure::new(FailureKind::Damaged, error.to_string()))?
            .unwrap_or(0);
        let version = version.unwrap_or(present.saturating_add(1));
        if version <= present {
            return refuse(
                FailureKind::BadRequest,
                format!("version {version} is not above the present {present}"),
            );
        }
        Ok(Self {
            manager,
            target: domain,
            version,
            done: None,
            lease: None,
            files: None,
            old: None,
        })
    }

    /// Does everything. Before the point of no return a failure puts everything
    /// back.
    ///
    /// # Errors
    /// [`StartError::Refused`]: the old master is the master as before;
    /// [`StartError::Fatal`]: the process has to end.
    pub fn run(mut self, context: &Context) -> std::result::Result<(), StartError> {
        loop {
            match self.step(context) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(failure) if self.done < Some(Step::Roles) => return self.back(failure),
                Err(failure) => return Err(StartError::Fatal(Fatal(failure))),
            }
        }
    }

    /// Does the next step; `None` after the last.
    ///
    /// # Errors
    /// The step's; it may be done again.
    pub fn step(&mut self, context: &Context) -> Result<Option<Step>> {
        let step = match self.done {
            None => Step::Lease,
            Some(Step::Lease) => Step::Mailboxes,
            Some(Step::Mailboxes) => Step::Files,
            Some(Step::Files) => Step::Roles,
            Some(Step::Roles) => Step::Watch,
            Some(Step::Watch) => Step::Demoted,
            Some(Step::Demoted) => Step::Left,
            Some(Step::Left) => return Ok(None),
        };
        match step {
            Step::Lease => self.take_lease(context)?,
            Step::Mailboxes => prepare_mailboxes(self.lease()?, self.target.as_ref())?,
            Step::Files => self.copy_files(context)?,
            Step::Roles => self.change_roles()?,
            Step::Watch => self.change_watch()?,
            Step::Demoted => self.demote(),
            Step::Left => self.leave()?,
        }
        self.done = Some(step);
        Ok(Some(step))
    }

    fn lease(&self) -> Result<&Held> {
        self.lease
            .as_ref()
            .ok_or_else(|| Failure::new(FailureKind::LeaseNotHeld, "lease of the new master"))
    }

    fn take_lease(&mut self, context: &Context) -> Result<()> {
        context.tell(0, 7, "taking the new master's lease");
        let wanted = self.manager.master.metadata()?.version();
        let lease = take(&self.manager.cluster, self.target.as_ref())?;
        if self.target.metadata()?.version() < wanted {
            self.target.upgrade(context, &lease, wanted)?;
        }
        self.lease = Some(lease);
        Ok(())
    }

    fn copy_files(&mut self, context: &Context) -> Result<()> {
        let name = self.target.id().to_string();
        if self.files.is_none() {
            let files = MasterFiles::open(context, self.lease()?, self.target.as_ref())?;
            self.files = Some(files);
        }
        let lease = self.lease()?;
        let (Some(new), Some(old)) = (&self.files, &self.manager.files) else {
            return Err(Failure::new(
                FailureKind::WrongState,
                "the old master's files are not open",
            ));
        };
        new.clean(lease, &name)?;
        new.copy_from(context, lease, &name, old)
    }

    fn change_roles(&self) -> Result<()> {
        // Both leases, right before the change that makes it true.
        let old = &self.manager.master;
        self.manager.authority.check(&old.id().to_string())?;
        let before = old.metadata()?;
        let keys = before
            .pool_keys()
            .map_err(|error| Failure::new(FailureKind::Damaged, error.to_string()))?;
        let (pool, version) = (self.manager.pool, self.version);
        self.target
            .change_metadata(self.lease()?, &mut |metadata| {
                metadata.set_role(DomainRole::Master);
                metadata.set_master_version(version);
                metadata.set_pool(Some(pool));
                metadata
                    .set_pool_keys(&keys)
                    .map_err(|error| Failure::new(FailureKind::Failed, error.to_string()))
            })?;
        Ok(())
    }

    fn change_watch(&mut self) -> Result<()> {
        let lease = self
            .lease
            .take()
            .ok_or_else(|| Failure::new(FailureKind::LeaseNotHeld, "lease of the new master"))?;
        let authority = self.manager.authority.moved(lease);
        let manager = &mut *self.manager;
        let old_master = std::mem::replace(&mut manager.master, Arc::clone(&self.target));
        let old = Old {
            authority: std::mem::replace(&mut manager.authority, authority),
            files: std::mem::replace(&mut manager.files, self.files.take()),
            domain: Arc::clone(&old_master),
        };
        let target = self.target.id();
        manager.others.retain(|other| other.id() != target);
        manager.others.push(old_master);
        self.old = Some(old);
        Ok(())
    }

    /// Failures are only told: the pool has its new master, and whoever takes the
    /// role next tries again.
    fn demote(&self) {
        let Some(old) = &self.old else {
            return;
        };
        let name = old.domain.id().to_string();
        let done = old
            .domain
            .change_metadata(&old.authority, &mut |metadata| {
                metadata.set_role(DomainRole::Regular);
                metadata.set_master_version(0);
                Ok(())
            })
            .and_then(|_| match &old.files {
                Some(files) => files.clean(&old.authority, &name),
                None => Ok(()),
            });
        if let Err(failure) = done {
            tracing::warn!(domain = %name, %failure, "former master not demoted");
        }
    }

    fn leave(&mut self) -> Result<()> {
        let Some(mut old) = self.old.take() else {
            return Ok(());
        };
        if let Some(files) = old.files.take() {
            // Without this the lease stays: it goes with the process.
            files.close(old.domain.as_ref())?;
        }
        give_back(&old.authority)
    }

    /// Everything as before the first step.
    fn back(mut self, failure: Failure) -> std::result::Result<(), StartError> {
        let undone = (|| {
            if let Some(files) = self.files.take() {
                files.close(self.target.as_ref())?;
            }
            match self.lease.take() {
                Some(lease) => lease.release(),
                None => Ok(()),
            }
        })();
        match undone {
            Ok(()) => Err(StartError::Refused(failure)),
            Err(worse) => Err(StartError::Fatal(Fatal(worse.while_doing(failure)))),
        }
    }
}
