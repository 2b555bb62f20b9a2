//! New pools, and new masters for pools whose master is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainClass, DomainMetadata, DomainRole, POOL_DOMAINS_MAX};
use disk_format::vdsm::pool::{PoolDomainStatus, PoolKeys};
use disk_format::vdsm::uuid::{DomainId, PoolId};

use super::directory::{Directory, damaged};
use super::member::{join_pool, list, single};
use crate::authority::Authority;
use crate::domain::{Domain, DomainKind};
use crate::job::{Context, Result};
use crate::writer::Cluster;

/// A pool to be made.
#[derive(Debug, Clone)]
pub struct NewPool {
    /// Its id.
    pub id: PoolId,
    /// What people call it, at most 50 characters.
    pub name: String,
    /// Version of its first master.
    pub master_version: u64,
}

/// Makes a pool of domains that are in none, the first being the master. The
/// master's lease is held meanwhile; the list of domains is kept on disk. After
/// a crash the same call goes on.
///
/// # Errors
/// A domain is in another pool or not fit; leases; I/O.
pub fn create(
    context: &Context,
    cluster: &Cluster,
    new: &NewPool,
    domains: &[Arc<dyn Domain>],
) -> Result<Directory> {
    let Some((master, others)) = domains.split_first() else {
        return Err(bad("pool: no domain given, the first one is the master"));
    };
    if domains.len() > POOL_DOMAINS_MAX {
        return Err(bad(&format!(
            "pool: {} domains, at most {POOL_DOMAINS_MAX} are allowed",
            domains.len()
        )));
    }
    if domains.len() > 1 && domains.iter().any(|one| one.kind() == DomainKind::Local) {
        return Err(bad("pool: a local domain is the only one of its pool"));
    }
    let metadata = master.metadata()?;
    fit_for_master(&metadata)?;
    in_no_other(&metadata, new.id)?;
    for other in others {
        in_no_other(&other.metadata()?, new.id)?;
    }

    let held = single(context, cluster, master.as_ref())?;
    let made = found(context, cluster, &held, new, master.as_ref(), others);
    // Given back whatever came of it; the failure that matters is the first.
    let released = held.release();
    let directory = made?;
    released?;
    Ok(directory)
}

fn found(
    context: &Context,
    cluster: &Cluster,
    authority: &dyn Authority,
    new: &NewPool,
    master: &dyn Domain,
    others: &[Arc<dyn Domain>],
) -> Result<Directory> {
    let keys = PoolKeys {
        description: Some(new.name.clone()),
        domains: Some(BTreeMap::from([(master.id(), PoolDomainStatus::Active)])),
        spm_id: Some(-1),
        spm_lver: Some(-1),
    };
    let written = master.change_metadata(authority, &mut |metadata| {
        in_no_other(metadata, new.id)?;
        metadata.set_role(DomainRole::Master);
        metadata.set_pool(Some(new.id));
        metadata.set_master_version(new.master_version);
        metadata
            .set_pool_keys(&keys)
            .map_err(|error| bad(&error.to_string()))
    })?;
    let mut directory = Directory::read(new.id, &written, &[])?;
    let mut seen: Vec<DomainMetadata> = vec![written];
    let total = u64::try_from(others.len()).unwrap_or(u64::MAX);
    for (done, other) in (0..).zip(others) {
        context.tell(done, total, "attaching domains");
        let metadata = other.metadata()?;
        directory.may_join(&metadata, &seen)?;
        join_pool(context, authority, cluster, new.id, master, other.as_ref())?;
        directory = list(authority, new.id, master, &[], |directory| {
            directory
                .domains
                .insert(other.id(), PoolDomainStatus::Active);
            Ok(())
        })?;
        seen.push(other.metadata()?);
    }
    Ok(directory)
}

/// Makes `master` the pool's master although the old one cannot be read. `known`
/// are the pool's domains as far as anybody knows, `version` the highest master
/// version anybody has seen.
///
/// # Errors
/// The domain is not fit, or of another pool; its lease; I/O.
pub fn reconstruct(
    cluster: &Cluster,
    pool: PoolId,
    name: Option<&str>,
    master: &dyn Domain,
    known: &BTreeMap<DomainId, PoolDomainStatus>,
    version: u64,
) -> Result<Directory> {
    let metadata = master.metadata()?;
    fit_for_master(&metadata)?;
    if !metadata.pools().contains(&pool) {
        return Err(Failure::new(
            FailureKind::WrongState,
            format!(
                "domain {}: not in pool {pool}; attach it first",
                master.id()
            ),
        ));
    }
    let held = single(&Context::quiet(), cluster, master)?;
    let written = master.change_metadata(&held, &mut |metadata| {
        let own = metadata
            .master_version()
            .map_err(|error| damaged(metadata, &error))?
            .unwrap_or(0);
        let mut domains = known.clone();
        domains.insert(master.id(), PoolDomainStatus::Active);
        let before = metadata.pool_keys().unwrap_or_default();
        metadata.set_role(DomainRole::Master);
        metadata.set_master_version(own.max(version).saturating_add(1));
        metadata
            .set_pool_keys(&PoolKeys {
                description: name.map(str::to_owned).or(before.description),
                domains: Some(domains),
                spm_id: Some(-1),
                spm_lver: Some(-1),
            })
            .map_err(|error| bad(&error.to_string()))
    });
    let released = held.release();
    let written = written?;
    released?;
    Directory::read(pool, &written, &[])
}

/// Whether a domain may be a master at all.
///
/// # Errors
/// [`FailureKind::Unsupported`] for ISO and export domains, and versions below 3.
pub(super) fn fit_for_master(metadata: &DomainMetadata) -> Result<()> {
    if metadata.class() != DomainClass::Data {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "domain {}: of class {}, a master is a data domain",
                metadata.id(),
                metadata.class()
            ),
        ));
    }
    if !metadata.version().is_supported() {
        return Err(Failure::new(
            FailureKind::Unsupported,
            format!(
                "domain {}: version {}, supported are 3 and later",
                metadata.id(),
                metadata.version()
            ),
        ));
    }
    Ok(())
}

fn in_no_other(metadata: &DomainMetadata, pool: PoolId) -> Result<()> {
    match metadata.pools().iter().find(|found| **found != pool) {
        None => Ok(()),
        Some(other) => Err(Failure::new(
            FailureKind::InUse,
            format!("domain {}: attached to pool {other}", metadata.id()),
        )),
    }
}

fn bad(message: &str) -> Failure {
    Failure::new(FailureKind::BadRequest, message)
}
