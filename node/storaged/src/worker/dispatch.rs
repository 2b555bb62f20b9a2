//! From a piece of work to the library function that does it.

use std::path::Path;

use control::storage::connection::Connection;
use control::storage::health::LunPaths;
use control::storage::report::{ConnectionReport, DomainReport};
use control::storage::{Answer, Failure, FailureKind};

use super::host::Host;
use super::work::{Carrier, Work};
use super::{describe, domains, ovf, pools, volumes};
use crate::authority::Authority;
use crate::connect::Health;
use crate::job::{Context, Result};
use crate::{connect, file};

pub use super::host::places;

/// Does work. `authority` is who may change metadata: the writer's; a plain
/// worker has none and is refused where one is needed.
///
/// # Errors
/// Whatever the work fails with.
pub fn run(
    work: &Work,
    host: &Host,
    authority: Option<&dyn Authority>,
    context: &Context,
) -> Result<Answer> {
    let need = || {
        authority.ok_or_else(|| {
            Failure::new(
                FailureKind::LeaseNotHeld,
                format!("{}: only the writer may do it", work.name()),
            )
        })
    };
    match work {
        Work::Connect { connection } => connect_to(connection, host, context),
        Work::Disconnect { connection, others } => {
            connect::disconnect(context, &host.places(), connection, others)?;
            Ok(done(format!("{} is disconnected", connection.id())))
        }
        Work::LookAt { connection } => look_at(connection, host, context),
        Work::Discover { connection } => {
            connect::discover(context, &host.places(), connection).map(Answer::Targets)
        }
        Work::Luns { rescan } => {
            let places = host.places();
            if *rescan {
                connect::rescan(context, &places)?;
            }
            connect::luns(context, &places).map(Answer::Luns)
        }
        Work::Rescan => {
            connect::rescan(context, &host.places())?;
            Ok(done("looked for LUNs"))
        }
        Work::TakeMastersAway => {
            let count = crate::pool::left::take_all_away(&host.settings.layout, context)?;
            Ok(done(format!("{count} masters were taken away")))
        }
        Work::Tidy => {
            let count = crate::block::deactivate_unused(&host.lvm, context)?;
            Ok(done(format!("{count} volumes were taken down")))
        }
        Work::Paths => connect::multipath::health(context, &host.places()).map(Answer::Paths),
        Work::TakeDown { domains } => domains::take_down(domains, host, context),
        Work::Find { mount: None, .. } => find_block(host),
        Work::Find {
            mount: Some(mount), ..
        } => find_files(mount),
        Work::Create {
            new,
            mount,
            local,
            connection,
        } => domains::create(
            new,
            mount.as_deref(),
            *local,
            connection.as_ref(),
            host,
            context,
        ),
        Work::Look { place } => domains::look(place, host, context),
        Work::Check { place, thorough } => domains::check(place, *thorough, host, context),
        Work::JoinHostId { place } => domains::join(place, host, context),
        Work::LeaveHostId { place } => domains::leave(place, host, context),
        Work::RemoveDomain { place } => domains::remove(place, host, context),
        Work::Volume {
            place,
            target,
            request,
        } => volumes::run(place, target.as_ref(), request, host, authority, context),
        Work::Lease { place, request } => domains::lease(place, request, host, authority, context),
        Work::Ovf { place, request } => ovf::run(place, request, host, authority, context),
        Work::ConnectPool { pool } => pools::connect(pool, host, context),
        Work::DisconnectPool { pool } => pools::disconnect(pool, host),
        Work::SpmState { pool } => pools::role(pool, host, context),
        Work::ExtendDomain { place, luns, force } => {
            domains::extend(place, luns, *force, host, need()?, context)
        }
        Work::Grow { place, lun } => domains::grow(place, lun, host, need()?, context),
        Work::Reduce { place, lun } => domains::reduce(place, lun, host, need()?, context),
        Work::Refresh { place, volume } => volumes::refresh(place, volume, host, context),
        other => Err(Failure::new(
            FailureKind::WrongState,
            format!("{}: a matter of the writer", other.name()),
        )),
    }
}

fn connect_to(connection: &Connection, host: &Host, context: &Context) -> Result<Answer> {
    let places = host.places();
    let made = connect::connect(context, &places, connection)?;
    Ok(Answer::Connection(ConnectionReport {
        state: "connected".to_owned(),
        path: made.path.map(|path| path.display().to_string()),
        reason: (!made.warnings.is_empty()).then(|| made.warnings.join("; ")),
        sessions: made.sessions,
        ..ConnectionReport::default()
    }))
}

fn look_at(connection: &Connection, host: &Host, context: &Context) -> Result<Answer> {
    let (state, reason) = match connect::check(context, &host.places(), connection)? {
        Health::Connected => ("connected", None),
        Health::Degraded(reason) => ("degraded", Some(reason)),
        Health::Broken(reason) => ("broken", Some(reason)),
        Health::Absent => ("absent", None),
    };
    Ok(Answer::Connection(ConnectionReport {
        state: state.to_owned(),
        reason,
        ..ConnectionReport::default()
    }))
}

fn find_files(mount: &Path) -> Result<Answer> {
    let found = file::discover(mount)?;
    let reports = found
        .into_iter()
        .map(|found| {
            let path = found.root.display().to_string();
            match found.metadata {
                Ok(metadata) => DomainReport {
                    path,
                    ..describe::metadata(&metadata)
                },
                Err(failure) => DomainReport {
                    id: found.id.to_string(),
                    kind: "file".to_owned(),
                    path,
                    valid: Some(false),
                    reason: Some(failure.message),
                    ..DomainReport::default()
                },
            }
        })
        .collect();
    Ok(Answer::Domains(reports))
}

fn find_block(host: &Host) -> Result<Answer> {
    let found = crate::block::find(&host.lvm)?;
    let paths = connect::multipath::listed(&host.places());
    let reports = found
        .into_iter()
        .map(|found| {
            let mut report = match &found.metadata {
                Ok(metadata) => describe::metadata(metadata),
                Err(failure) => DomainReport {
                    valid: Some(false),
                    reason: Some(failure.message.clone()),
                    ..DomainReport::default()
                },
            };
            report.id = found.id.to_string();
            report.kind = "block".to_owned();
            report.path = format!("/dev/{}", found.id);
            report.luns = domains::luns(&found.group);
            let own = |lun: &&LunPaths| report.luns.iter().any(|name| lun.is(name));
            report.lun_paths = paths.iter().filter(own).cloned().collect();
            if found.marker == disk_format::vdsm::domain::Marker::Unready {
                report.valid = Some(false);
                report.reason = Some(format!(
                    "half-made: its creation was interrupted; `nodectl domain remove {}` clears it",
                    found.id
                ));
            }
            report
        })
        .collect();
    Ok(Answer::Domains(reports))
}

/// Whether a carrier is a disk of this host alone.
pub(crate) fn is_local(carrier: &Carrier) -> bool {
    matches!(carrier, Carrier::Local { .. })
}

pub(super) fn done(message: impl Into<String>) -> Answer {
    Answer::Done {
        message: message.into(),
    }
}

pub(super) fn bad(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BadRequest, message)
}
