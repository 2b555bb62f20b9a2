//! Domains joining, leaving and resting in a pool.

use std::time::Duration;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainClass, DomainMetadata, DomainRole};
use disk_format::vdsm::pool::PoolDomainStatus;
use disk_format::vdsm::uuid::{DomainId, PoolId};
use disk_format::vdsm::version::DomainVersion;

use super::directory::Directory;
use crate::authority::Authority;
use crate::domain::Domain;
use crate::job::{Context, Result};
use crate::writer::{Cluster, LockPlace, Single};

/// How long joining a lockspace may take: as long as a dead host's record has
/// to be waited for, 8 × io_timeout + 60 s with room for 4 more I/Os.
pub(super) fn join_time(cluster: &Cluster) -> Duration {
    Duration::from_secs(u64::from(cluster.io_timeout_s()) * 12 + 60).max(JOIN_MIN)
}

/// VDSM waits so long for a host id.
const JOIN_MIN: Duration = Duration::from_secs(180);

/// Whether the domain has leases of the lease daemon.
fn has_leases(metadata: &DomainMetadata) -> bool {
    metadata.version() >= DomainVersion::V3
}

/// The domain's own `SDM` lease, when it has one.
pub(super) fn own_lease(
    context: &Context,
    cluster: &Cluster,
    domain: &dyn Domain,
) -> Result<Option<Single>> {
    if !has_leases(&domain.metadata()?) {
        return Ok(None);
    }
    single(context, cluster, domain).map(Some)
}

/// The domain's own `SDM` lease, for one change.
pub(super) fn single(context: &Context, cluster: &Cluster, domain: &dyn Domain) -> Result<Single> {
    let place = LockPlace::of(domain)?;
    cluster.join(&place, join_time(cluster))?;
    Single::take(context, cluster, &place, join_time(cluster))
}

/// A domain without leases: nobody can prove anything about it, the pool's
/// lease has to do.
struct Through<'a> {
    pool: &'a dyn Authority,
    master: String,
    domain: String,
}

impl Authority for Through<'_> {
    fn check(&self, domain: &str) -> Result<()> {
        if domain != self.domain {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!("domain {domain}: only {} is being attached", self.domain),
            ));
        }
        self.pool.check(&self.master)
    }

    fn registration(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.pool.registration()
    }
}

/// Runs `change` under the domain's own lease, which is given back afterwards.
fn under_own_lease<T>(
    context: &Context,
    pool: &dyn Authority,
    cluster: &Cluster,
    master: DomainId,
    domain: &dyn Domain,
    change: impl FnOnce(&dyn Authority) -> Result<T>,
) -> Result<T> {
    let Some(held) = own_lease(context, cluster, domain)? else {
        return change(&Through {
            pool,
            master: master.to_string(),
            domain: domain.id().to_string(),
        });
    };
    let done = change(&held);
    let released = held.release();
    let done = done?;
    released?;
    Ok(done)
}

/// Puts a domain into the pool, as attached. Under the pool's lease and the
/// domain's own; may be repeated after a crash.
///
/// # Errors
/// [`FailureKind::InUse`] when it is in another pool; the limits of a pool;
/// authority, I/O.
pub fn attach(
    context: &Context,
    authority: &dyn Authority,
    cluster: &Cluster,
    pool: PoolId,
    master: &dyn Domain,
    others: &[DomainMetadata],
    target: &dyn Domain,
) -> Result<Directory> {
    let master_metadata = master.metadata()?;
    let directory = Directory::read(pool, &master_metadata, others)?;
    directory.may_join(&target.metadata()?, others)?;
    if target.kind() == crate::domain::DomainKind::Local
        || master.kind() == crate::domain::DomainKind::Local
    {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "domain {}: a pool with a local domain has no other domain",
                target.id()
            ),
        ));
    }
    join_pool(context, authority, cluster, pool, master, target)?;
    list(authority, pool, master, others, |directory| {
        directory
            .domains
            .entry(target.id())
            .or_insert(PoolDomainStatus::Attached);
        Ok(())
    })
}

/// The domain's side of attaching.
pub(super) fn join_pool(
    context: &Context,
    authority: &dyn Authority,
    cluster: &Cluster,
    pool: PoolId,
    master: &dyn Domain,
    target: &dyn Domain,
) -> Result<()> {
    free_for(&target.metadata()?, pool)?;
    let wanted = master.metadata()?.version();
    under_own_lease(context, authority, cluster, master.id(), target, |own| {
        // Asked again: it may have been attached while the lease was waited for.
        let metadata = target.metadata()?;
        free_for(&metadata, pool)?;
        if metadata.class() == DomainClass::Data && metadata.version() > wanted {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!(
                    "domain {}: version {}, the pool's is {wanted}; upgrade the pool first",
                    target.id(),
                    metadata.version()
                ),
            ));
        }
        if metadata.class() == DomainClass::Data && metadata.version() < wanted {
            target.upgrade(context, own, wanted)?;
        }
        authority.check(&master.id().to_string())?;
        target.change_metadata(own, &mut |metadata| {
            metadata.set_pool(Some(pool));
            metadata.set_role(DomainRole::Regular);
            Ok(())
        })?;
        Ok(())
    })
}

fn free_for(metadata: &DomainMetadata, pool: PoolId) -> Result<()> {
    match metadata.pools().iter().find(|found| **found != pool) {
        Some(other) => Err(Failure::new(
            FailureKind::InUse,
            format!(
                "domain {}: attached to pool {other}; detach it there, or by force",
                metadata.id()
            ),
        )),
        None => Ok(()),
    }
}

/// Takes a domain out of the pool; the pool's manager does it.
///
/// # Errors
/// [`FailureKind::WrongState`] for the master or a domain in use; authority, I/O.
pub fn detach(
    authority: &dyn Authority,
    cluster: &Cluster,
    pool: PoolId,
    master: &dyn Domain,
    others: &[DomainMetadata],
    target: &dyn Domain,
) -> Result<Directory> {
    let refuse = |why: &str| {
        Err(Failure::new(
            FailureKind::WrongState,
            format!("domain {}: {why}", target.id()),
        ))
    };
    if target.id() == master.id() {
        return refuse("the master cannot be detached; migrate the master first");
    }
    let directory = Directory::read(pool, &master.metadata()?, others)?;
    match directory.domains.get(&target.id()) {
        None => return refuse("not in this pool"),
        Some(PoolDomainStatus::Active) if directory.on_disk => {
            return refuse("in use; deactivate it first");
        }
        Some(_) => {}
    }
    let quiet = Context::quiet();
    under_own_lease(&quiet, authority, cluster, master.id(), target, |own| {
        authority.check(&master.id().to_string())?;
        target.change_metadata(own, &mut leave(pool))?;
        Ok(())
    })?;
    list(authority, pool, master, others, |directory| {
        directory.domains.remove(&target.id());
        Ok(())
    })
}

/// Takes a domain out of whatever pool it is in, although that pool cannot be
/// asked. Its own lease proves that no manager is using it as master.
///
/// # Errors
/// [`FailureKind::InUse`] while a manager holds its lease; I/O.
pub fn force_detach(cluster: &Cluster, target: &dyn Domain) -> Result<()> {
    let nobody = crate::authority::Unattached {
        domain: target.id().to_string(),
    };
    let quiet = Context::quiet();
    under_own_lease(&quiet, &nobody, cluster, target.id(), target, |own| {
        target.change_metadata(own, &mut |metadata| {
            metadata.set_pool(None);
            metadata.set_role(DomainRole::Regular);
            metadata.set_master_version(0);
            Ok(())
        })?;
        Ok(())
    })
}

fn leave(pool: PoolId) -> impl FnMut(&mut DomainMetadata) -> Result<()> {
    move |metadata| {
        if metadata.pools().iter().all(|found| *found == pool) {
            metadata.set_pool(None);
        }
        metadata.set_role(DomainRole::Regular);
        metadata.set_master_version(0);
        Ok(())
    }
}

/// Says that a domain is in use, or is not.
///
/// # Errors
/// [`FailureKind::WrongState`] for the master or a domain of no pool;
/// authority, I/O.
pub fn set_status(
    authority: &dyn Authority,
    pool: PoolId,
    master: &dyn Domain,
    others: &[DomainMetadata],
    target: DomainId,
    status: PoolDomainStatus,
) -> Result<Directory> {
    if target == master.id() && status == PoolDomainStatus::Attached {
        return Err(Failure::new(
            FailureKind::WrongState,
            format!("domain {target}: the master cannot be deactivated; migrate the master first"),
        ));
    }
    list(
        authority,
        pool,
        master,
        others,
        |directory| match directory.domains.get_mut(&target) {
            Some(found) => {
                *found = status;
                Ok(())
            }
            None => Err(Failure::new(
                FailureKind::WrongState,
                format!("domain {target}: not in pool {pool}; attach it first"),
            )),
        },
    )
}

/// Changes the list of domains in the master's metadata.
pub(super) fn list(
    authority: &dyn Authority,
    pool: PoolId,
    master: &dyn Domain,
    others: &[DomainMetadata],
    mut change: impl FnMut(&mut Directory) -> Result<()>,
) -> Result<Directory> {
    let mut outcome = None;
    master.change_metadata(authority, &mut |metadata| {
        // The domain that changes has new metadata by now; the list decides.
        let others: Vec<_> = others
            .iter()
            .filter(|other| other.pools().contains(&pool))
            .cloned()
            .collect();
        let mut directory = Directory::read(pool, metadata, &others)?;
        change(&mut directory)?;
        directory.write(metadata)?;
        outcome = Some(directory);
        Ok(())
    })?;
    outcome.ok_or_else(|| Failure::new(FailureKind::Failed, "list of domains not written"))
}

/// Brings a domain of the pool to a newer version, under its own lease (the
/// master's is held already).
///
/// # Errors
/// Of the domain; its lease; authority.
pub fn upgrade(
    context: &Context,
    authority: &dyn Authority,
    cluster: &Cluster,
    master: DomainId,
    domain: &dyn Domain,
    to: DomainVersion,
) -> Result<()> {
    if domain.metadata()?.version() >= to {
        return Ok(());
    }
    if domain.id() == master {
        return domain.upgrade(context, authority, to);
    }
    under_own_lease(context, authority, cluster, master, domain, |own| {
        authority.check(&master.to_string())?;
        domain.upgrade(context, own, to)
    })
}
