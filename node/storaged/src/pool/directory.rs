//! Which domains are in a pool, and which of them is the master.

use std::collections::BTreeMap;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainClass, DomainMetadata, DomainRole, POOL_DOMAINS_MAX};
use disk_format::vdsm::pool::{PoolDomainStatus, PoolKeys};
use disk_format::vdsm::uuid::{DomainId, PoolId};

use crate::job::Result;

/// The domains of a pool and whether they are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The pool.
    pub pool: PoolId,
    /// Its domains.
    pub domains: BTreeMap<DomainId, PoolDomainStatus>,
    /// Whether the list is kept in the master's metadata.
    pub on_disk: bool,
}

impl Directory {
    /// Read from the master's metadata; where the list is not kept there, every
    /// one of `others` that names the pool is one of its domains, in use.
    ///
    /// # Errors
    /// The list is there and cannot be read.
    pub fn read(pool: PoolId, master: &DomainMetadata, others: &[DomainMetadata]) -> Result<Self> {
        let keys = master
            .pool_keys()
            .map_err(|error| damaged(master, &error))?;
        let on_disk = keys.domains.is_some();
        let mut domains = keys.domains.unwrap_or_default();
        // A crash between a domain's own metadata and the list leaves one of
        // them behind; the domain's own word counts.
        for other in others {
            let member = other.pools().contains(&pool);
            if member {
                let found = if on_disk {
                    PoolDomainStatus::Attached
                } else {
                    PoolDomainStatus::Active
                };
                domains.entry(other.id()).or_insert(found);
            } else {
                domains.remove(&other.id());
            }
        }
        domains.insert(master.id(), PoolDomainStatus::Active);
        Ok(Self {
            pool,
            domains,
            on_disk,
        })
    }

    /// Writes the list into the master's metadata, if it is kept there.
    ///
    /// # Errors
    /// More than [`POOL_DOMAINS_MAX`] domains.
    pub fn write(&self, master: &mut DomainMetadata) -> Result<()> {
        if !self.on_disk {
            return Ok(());
        }
        let keys = PoolKeys {
            domains: Some(self.domains.clone()),
            ..PoolKeys::default()
        };
        master
            .set_pool_keys(&keys)
            .map_err(|error| Failure::new(FailureKind::BadRequest, error.to_string()))
    }

    /// Whether one more domain of this class may join.
    ///
    /// # Errors
    /// [`FailureKind::NoSpace`] at the limit; [`FailureKind::WrongState`] for a
    /// second ISO or export domain.
    pub fn may_join(&self, new: &DomainMetadata, others: &[DomainMetadata]) -> Result<()> {
        if self.domains.len() >= POOL_DOMAINS_MAX && !self.domains.contains_key(&new.id()) {
            return Err(Failure::new(
                FailureKind::NoSpace,
                format!(
                    "pool {}: has {} domains, at most {POOL_DOMAINS_MAX} are allowed",
                    self.pool,
                    self.domains.len()
                ),
            ));
        }
        if new.class() == DomainClass::Data {
            return Ok(());
        }
        let same = others.iter().find(|other| {
            other.id() != new.id()
                && other.class() == new.class()
                && self.domains.contains_key(&other.id())
        });
        match same {
            None => Ok(()),
            Some(same) => Err(Failure::new(
                FailureKind::WrongState,
                format!(
                    "pool {}: domain {} is its {} domain already, and only one is allowed",
                    self.pool,
                    same.id(),
                    new.class()
                ),
            )),
        }
    }
}

/// Succeeds when this is the pool's master with the expected version.
///
/// # Errors
/// [`FailureKind::WrongState`]: wrong master, and in which way.
pub fn check_master(
    master: &DomainMetadata,
    pool: PoolId,
    expected_version: Option<u64>,
) -> Result<u64> {
    let wrong = |why: String| {
        Err(Failure::new(
            FailureKind::WrongState,
            format!(
                "domain {} is the wrong master of pool {pool}: {why}",
                master.id()
            ),
        ))
    };
    if master.role() != DomainRole::Master {
        return wrong("its role is Regular".to_owned());
    }
    if !master.pools().contains(&pool) {
        let pools: Vec<_> = master.pools().iter().map(PoolId::to_string).collect();
        return wrong(match pools.as_slice() {
            [] => "it is in no pool".to_owned(),
            pools => format!("it is of pool {}", pools.join(", ")),
        });
    }
    let version = master
        .master_version()
        .map_err(|error| damaged(master, &error))?
        .unwrap_or(0);
    match expected_version {
        Some(expected) if expected != version => wrong(format!(
            "its version is {version}, that of the master is {expected}"
        )),
        _ => Ok(version),
    }
}

/// The master of a pool among connected domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The master.
    pub master: DomainId,
    /// Its version.
    pub version: u64,
    /// Former masters that still say they are: a change was interrupted after
    /// its point of no return, or they were away when the master changed.
    pub stale: Vec<DomainId>,
}

/// Of all that say they are the pool's master, the one with the highest version.
///
/// # Errors
/// [`FailureKind::NotFound`] when there is none, [`FailureKind::Damaged`] when
/// two have the same version.
pub fn choose_master(pool: PoolId, domains: &[DomainMetadata]) -> Result<Choice> {
    let mut masters: Vec<(u64, DomainId)> = domains
        .iter()
        .filter(|domain| domain.class() == DomainClass::Data)
        .filter_map(|domain| Some((check_master(domain, pool, None).ok()?, domain.id())))
        .collect();
    masters.sort_unstable();
    let Some((version, master)) = masters.pop() else {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!(
                "pool {pool}: none of the {} connected domains is its master",
                domains.len()
            ),
        ));
    };
    if let Some((_, twin)) = masters.iter().find(|(other, _)| *other == version) {
        return Err(Failure::new(
            FailureKind::Damaged,
            format!(
                "pool {pool}: domains {master} and {twin} both say they are its master, \
                 version {version}; disconnect the wrong one, or reconstruct"
            ),
        ));
    }
    Ok(Choice {
        master,
        version,
        stale: masters.into_iter().map(|(_, domain)| domain).collect(),
    })
}

pub(super) fn damaged(domain: &DomainMetadata, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        FailureKind::Damaged,
        format!("domain {}: {error}", domain.id()),
    )
}
