//! Talking to the storage daemon.

pub(crate) mod args;
mod long;
mod requests;
pub(crate) mod volume_args;

use std::time::Duration;

use anyhow::{Result, bail};
use control::storage::ovf::OvfRequest;
use control::storage::request::{
    DomainRequest, LeaseRequest, PoolRequest, SpmRequest, TaskRequest,
};
use control::storage::{Answer, Failure, Reply, Request};

use self::args::{
    DomainCommand, DomainLeaseCommand, DomainOvfCommand, PoolCommand, SpmCommand, StorageCommand,
    TaskCommand,
};
use self::volume_args::VolumeCommand;
use crate::render;
use crate::session::{Ending, Session};
use crate::text::clean;

/// What the daemon answers from memory.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// What a worker has to do first; the daemon's own deadlines are shorter, so
/// that it is the one that says what was late.
const WORK_DEADLINE: Duration = Duration::from_secs(180);

/// The manager stops, another host hears of it and starts.
const MOVE_DEADLINE: Duration = Duration::from_secs(300);

/// Connections and LUNs.
pub(crate) fn storage(command: StorageCommand, session: &mut Session<'_>) -> Result<Ending> {
    let (request, deadline, output) = match command {
        StorageCommand::Status(output) => (Request::Status, ANSWER_DEADLINE, output),
        StorageCommand::Luns { rescan, output } => {
            (Request::Luns { rescan }, WORK_DEADLINE, output)
        }
        StorageCommand::Rescan(output) => (Request::Rescan, WORK_DEADLINE, output),
        StorageCommand::Discover { portal, output } => {
            let connection = requests::iscsi(portal, None, None, session)?;
            (Request::Discover { connection }, WORK_DEADLINE, output)
        }
        StorageCommand::Connect(command) => {
            let (connection, output) = requests::connection(command, session)?;
            (Request::Connect { connection }, WORK_DEADLINE, output)
        }
        StorageCommand::Disconnect { connection, output } => {
            (Request::Disconnect { connection }, WORK_DEADLINE, output)
        }
    };
    ask(&request, deadline, output.json, session)
}

/// Domains.
pub(crate) fn domain(command: DomainCommand, session: &mut Session<'_>) -> Result<Ending> {
    let command = match command {
        DomainCommand::List(output) => {
            let request = Request::Domain(DomainRequest::List);
            return ask(&request, ANSWER_DEADLINE, output.json, session);
        }
        DomainCommand::Show { domain, output } => {
            let request = Request::Domain(DomainRequest::Show { domain });
            return ask(&request, WORK_DEADLINE, output.json, session);
        }
        DomainCommand::Lease(command) => return domain_lease(command, session),
        DomainCommand::Ovf(command) => return domain_ovf(command, session),
        DomainCommand::Remove { name, yes } => {
            if !yes && !session.confirm("destroys everything in domain", &name.domain)? {
                return Ok(session.refuse("nothing was done"));
            }
            DomainCommand::Remove { name, yes }
        }
        DomainCommand::Reconstruct { name, yes } => {
            let deed = "takes the pool away from its present master and gives it to domain";
            if !yes && !session.confirm(deed, &name.domain)? {
                return Ok(session.refuse("nothing was done"));
            }
            DomainCommand::Reconstruct { name, yes }
        }
        other => other,
    };
    let (request, long) = requests::domain(command)?;
    long::start(&Request::Domain(request), long, session)
}

fn domain_lease(command: DomainLeaseCommand, session: &mut Session<'_>) -> Result<Ending> {
    let (request, output) = match command {
        DomainLeaseCommand::Add(name) => (
            LeaseRequest::Add {
                domain: name.domain,
                lease: name.lease,
            },
            name.output,
        ),
        DomainLeaseCommand::List { domain, output } => (LeaseRequest::List { domain }, output),
        DomainLeaseCommand::Show(name) => (
            LeaseRequest::Show {
                domain: name.domain,
                lease: name.lease,
            },
            name.output,
        ),
        DomainLeaseCommand::Remove(name) => (
            LeaseRequest::Remove {
                domain: name.domain,
                lease: name.lease,
            },
            name.output,
        ),
        DomainLeaseCommand::Rebuild { domain, output } => {
            (LeaseRequest::Rebuild { domain }, output)
        }
    };
    ask(
        &Request::Lease(request),
        WORK_DEADLINE,
        output.json,
        session,
    )
}

fn domain_ovf(command: DomainOvfCommand, session: &mut Session<'_>) -> Result<Ending> {
    let (request, output) = match command {
        DomainOvfCommand::List { domain, output } => (OvfRequest::List { domain }, output),
        DomainOvfCommand::Show(name) => (
            OvfRequest::Show {
                domain: name.domain,
                guest: name.guest,
            },
            name.output,
        ),
        DomainOvfCommand::Save { name, file } => (
            OvfRequest::Save {
                domain: name.domain,
                guest: name.guest,
                content: requests::ovf(&file, session)?,
            },
            name.output,
        ),
        DomainOvfCommand::Remove(name) => (
            OvfRequest::Remove {
                domain: name.domain,
                guest: name.guest,
            },
            name.output,
        ),
    };
    ask(&Request::Ovf(request), WORK_DEADLINE, output.json, session)
}

/// Volumes.
pub(crate) fn volume(command: VolumeCommand, session: &mut Session<'_>) -> Result<Ending> {
    match requests::volume(command)? {
        requests::Asked::Short(request, output) => ask(
            &Request::Volume(request),
            WORK_DEADLINE,
            output.json,
            session,
        ),
        requests::Asked::Long(request, long) => {
            long::start(&Request::Volume(request), long, session)
        }
    }
}

/// Long work.
pub(crate) fn task(command: TaskCommand, session: &mut Session<'_>) -> Result<Ending> {
    let (request, output) = match command {
        TaskCommand::List(output) => (TaskRequest::List, output),
        TaskCommand::Show { task, output } => (TaskRequest::Show { task }, output),
        TaskCommand::Watch { task, output } => return long::watch(&task, output.json, session),
        TaskCommand::Cancel { task, output } => (TaskRequest::Cancel { task }, output),
        TaskCommand::Forget { task, output } => (TaskRequest::Forget { task }, output),
    };
    ask(
        &Request::Task(request),
        ANSWER_DEADLINE,
        output.json,
        session,
    )
}

/// The manager's role.
pub(crate) fn spm(command: SpmCommand, session: &mut Session<'_>) -> Result<Ending> {
    let (request, output) = match command {
        SpmCommand::Status(output) => (SpmRequest::Status, output),
        SpmCommand::Start(long) => {
            return long::start(&Request::Spm(SpmRequest::Start), long, session);
        }
        SpmCommand::Stop(output) => (SpmRequest::Stop, output),
        SpmCommand::Move { host_id, output } => {
            let request = Request::Spm(SpmRequest::Move { host_id });
            return ask(&request, MOVE_DEADLINE, output.json, session);
        }
    };
    ask(&Request::Spm(request), WORK_DEADLINE, output.json, session)
}

/// The pool.
pub(crate) fn pool(command: PoolCommand, session: &mut Session<'_>) -> Result<Ending> {
    let (request, output) = match command {
        PoolCommand::Create {
            name,
            domains,
            id,
            long,
        } => {
            let request = PoolRequest::Create {
                pool: id,
                name,
                domains,
            };
            return long::start(&Request::Pool(request), long, session);
        }
        PoolCommand::Connect {
            pool,
            host_id,
            master,
            output,
        } => (
            PoolRequest::Connect {
                pool,
                host_id,
                master,
            },
            output,
        ),
        PoolCommand::Disconnect(output) => (PoolRequest::Disconnect, output),
        PoolCommand::Show(output) => (PoolRequest::Show, output),
        PoolCommand::Refresh(output) => (PoolRequest::Refresh, output),
        PoolCommand::Upgrade { format, long } => {
            let request = PoolRequest::Upgrade { version: format };
            return long::start(&Request::Pool(request), long, session);
        }
    };
    ask(&Request::Pool(request), WORK_DEADLINE, output.json, session)
}

/// Asks, prints the answer.
fn ask(
    request: &Request,
    deadline: Duration,
    json: bool,
    session: &mut Session<'_>,
) -> Result<Ending> {
    match session.storaged.ask(request, deadline)? {
        Reply::Answer(answer) => print(&answer, json, session),
        Reply::Accepted { task } => long::watch(&task, json, session),
        Reply::Failure(failure) => Ok(refuse(&failure, json, session)),
    }
}

fn print(answer: &Answer, json: bool, session: &mut Session<'_>) -> Result<Ending> {
    if json {
        session.print_json(answer)?;
    } else {
        session.print(&render::answer(answer))?;
    }
    Ok(Ending::Done)
}

/// The answer is no. With `--json` the failure is data, too.
fn refuse(failure: &Failure, json: bool, session: &mut Session<'_>) -> Ending {
    if json {
        // That it cannot be printed changes nothing about the answer.
        drop(session.print_json(failure));
        return Ending::No;
    }
    session.refuse(&clean(&failure.message))
}

/// A volume as it is typed.
fn volume_name(text: &str) -> Result<control::storage::VolumeName> {
    let parts: Vec<&str> = text.split('/').collect();
    let [domain, image, volume] = parts[..] else {
        bail!(
            "{text}: a volume is written DOMAIN/IMAGE/VOLUME; `nodectl volume list DOMAIN` shows them"
        );
    };
    Ok(control::storage::VolumeName {
        domain: domain.to_owned(),
        image: image.to_owned(),
        volume: volume.to_owned(),
    })
}
