//! Work on the pool that needs no right to change it.

use std::collections::BTreeMap;

use control::storage::report::{PoolReport, SpmReport};
use control::storage::{Answer, Failure, FailureKind};
use disk_format::vdsm::uuid::PoolId;

use super::dispatch::{bad, done};
use super::host::Host;
use super::work::PoolContext;
use crate::job::{Context, Result};
use crate::pool::{self, Directory};
use crate::writer::{self, LockPlace, Owner};

fn pool_id(context: &PoolContext) -> Result<PoolId> {
    context
        .pool
        .parse()
        .map_err(|error| bad(format!("{error}")))
}

pub(super) fn connect(wanted: &PoolContext, host: &Host, context: &Context) -> Result<Answer> {
    let id = pool_id(wanted)?;
    let master = host.open(&wanted.master, context)?.domain();
    let metadata = master.metadata()?;
    let expected = wanted
        .master_version
        .and_then(|version| u64::try_from(version).ok());
    let version = pool::check_master(&metadata, id, expected)?;
    let mut roots = BTreeMap::from([(master.id(), master.root())]);
    let mut others = Vec::new();
    for place in &wanted.domains {
        if place.domain == wanted.master.domain {
            continue;
        }
        // One that cannot be read now is seen by its own monitor.
        let read = host.open(place, context).and_then(|opened| {
            let domain = opened.domain();
            Ok((domain.id(), domain.root(), domain.metadata()?))
        });
        match read {
            Ok((id, root, metadata)) => {
                roots.insert(id, root);
                others.push(metadata);
            }
            Err(failure) => tracing::warn!("domain {}: {failure}", place.domain),
        }
    }
    let directory = Directory::read(id, &metadata, &others)?;
    pool::rebuild_links(&host.settings.layout, id, master.id(), &roots)?;
    let name = metadata
        .pool_keys()
        .ok()
        .and_then(|keys| keys.description)
        .unwrap_or_default();
    Ok(Answer::Pool(PoolReport {
        name,
        master: Some(wanted.master.domain.clone()),
        master_version: i64::try_from(version).ok(),
        ..writer::listed(&directory)
    }))
}

pub(super) fn disconnect(wanted: &PoolContext, host: &Host) -> Result<Answer> {
    pool::remove_links(&host.settings.layout, pool_id(wanted)?)?;
    Ok(done("pool is disconnected"))
}

pub(super) fn role(wanted: &PoolContext, host: &Host, context: &Context) -> Result<Answer> {
    let master = host.open(&wanted.master, context)?.domain();
    let lock = LockPlace::of(master.as_ref())?;
    let cluster = host.cluster()?;
    let owner = cluster.owner(&lock)?;
    let number = |number: u64| i64::try_from(number).ok();
    // Nobody takes over from whom it does not know: an empty list is safe.
    let live_hosts = cluster.live(&lock).unwrap_or_default();
    let mut report = match owner {
        Owner::Free { lver } => SpmReport {
            state: "free".to_owned(),
            lver: number(lver),
            ..SpmReport::default()
        },
        Owner::Held {
            host_id,
            lver,
            live,
            ..
        } => {
            let host_id = u32::try_from(host_id).map_err(|_| {
                Failure::new(
                    FailureKind::Damaged,
                    format!("SDM lease: host id {host_id} is none"),
                )
            })?;
            SpmReport {
                state: "elsewhere".to_owned(),
                host_id: Some(host_id),
                lver: number(lver),
                reason: (!live).then(|| "its holder has not been seen alive".to_owned()),
                ..SpmReport::default()
            }
        }
    };
    report.live_hosts = live_hosts;
    Ok(Answer::Spm(report))
}
