//! What a writer does to the pool itself: under the pool's role, or under the
//! domains' own leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use control::config::Manager as Mode;
use control::storage::report::{PoolDomain, PoolReport};
use control::storage::{Answer, Failure, FailureKind};
use disk_format::vdsm::pool::PoolDomainStatus;
use disk_format::vdsm::uuid::PoolId;
use disk_format::vdsm::version::DomainVersion;

use super::roles::{Roles, id, pool_id, version, wrong};
use super::{Cluster, Commits, LockPlace};
use crate::authority::Authority;
use crate::command::left_writing;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::pool::{self, Directory, NewPool};
use crate::worker::work::{Place, PoolContext};

/// How long another host's commit is waited for.
const COMMIT_PATIENCE: Duration = Duration::from_secs(120);

impl Roles {
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
        let lease = self.domain_lease(cluster, &place)?;
        let commits = Commits::on(&lease, COMMIT_PATIENCE, context);
        let before = left_writing();
        let done = change(&commits);
        if left_writing() > before {
            lease.hangs();
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
            let seen = pool::metadata_of(others);
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
            role.refill();
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
            let seen = pool::metadata_of(others);
            pool::detach(authority, cluster, id, master, &seen, target.as_ref())
        })?;
        if let Some(role) = self.role().as_mut() {
            role.manager.remove(target.id());
            role.refill();
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
            pool::set_status(
                authority,
                id,
                master,
                &pool::metadata_of(others),
                target,
                status,
            )
        })?;
        if active
            && self
                .role()
                .as_ref()
                .is_some_and(|role| role.manager.domain(target).is_none())
        {
            let domain = self.open(context, place)?;
            if let Some(role) = self.role().as_mut() {
                role.manager.add(domain);
                role.refill();
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
            // It may have had a newer one all along.
            message: format!("domain {} has version {}", place.domain, domain.version()),
        })
    }

    /// A change of one domain without the pool's role: allowed where every domain
    /// has its own manager, and where the domain is in no pool.
    pub(super) fn by_domain<T>(
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
