//! Leases through the lease daemon's socket, which is sanlock's: what stands,
//! who waits for whom, and orders. Works on any host that runs the daemon.

mod resource;

use std::os::unix::process::CommandExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use control::lease::LeaseReport;
use disk_format::{LockspaceName, NameField};
use lease::code::Code;
use rustix::io::{FdFlags, fcntl_setfd};
use sanlock_wire::{
    AcquireFlags, AddFlags, Command, ConvertFlags, DiskPath, ForceMode, Header, Lockspace, Options,
    Release, RemoveFlags, Reply, ReplyBody, Request, RequestFlags, ResourceFlags, Target,
};

use crate::args::{JoinOrder, LeaseCommand, ResourcePlace};
use crate::render;
use crate::session::{Ending, Session};
use crate::text::clean;

/// For what the daemon answers from memory.
const AT_ONCE: Duration = Duration::from_secs(10);
/// For what takes reads and writes and may wait for the death of another host,
/// which takes 8 × its io_timeout + 60 s.
const PATIENT: Duration = Duration::from_secs(900);
/// Between two pictures of the live view.
const PICTURE: Duration = Duration::from_secs(1);
/// Home, and clear to the end: understood by every terminal since the VT100.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Carries out one command.
pub(crate) fn run(command: LeaseCommand, session: &mut Session<'_>) -> Result<Ending> {
    match command {
        LeaseCommand::List(output) => {
            let lockspaces = session.lockspaces()?;
            if output.json {
                session.print_json(&lockspaces)?;
            } else {
                session.print(&render::lockspaces(&lockspaces))?;
            }
            Ok(Ending::Done)
        }
        LeaseCommand::Status(output) => {
            let report = report(session)?;
            if output.json {
                session.print_json(&report)?;
            } else {
                session.print(&render::leases(&report))?;
            }
            Ok(Ending::Done)
        }
        LeaseCommand::Waits(output) => {
            let report = report(session)?;
            if output.json {
                session.print_json(&report.waits)?;
            } else {
                session.print(&render::waits(&report))?;
            }
            Ok(Ending::Done)
        }
        LeaseCommand::Watch => watch(session),
        LeaseCommand::Join(order) => join(&order, session),
        LeaseCommand::Leave { lockspace } => leave(&lockspace, session),
        LeaseCommand::Create {
            place,
            num_hosts,
            force,
        } => resource::create(&place, num_hosts, force.as_deref(), session),
        LeaseCommand::Owners { place, output } => resource::owners(&place, output.json, session),
        LeaseCommand::Acquire { place, pid, shared } => {
            let mut wanted = resource::with_disk(&place)?;
            if shared {
                wanted.flags |= ResourceFlags::SHARED.0;
            }
            let request = Request::Acquire {
                target: Target::Pid(pid),
                flags: AcquireFlags::NONE,
                resources: vec![wanted],
                options: Options::default(),
            };
            let done = format!("process {pid} holds {}", place.lease);
            order(&request, PATIENT, &done, session)
        }
        LeaseCommand::Release { lease, pid } => {
            let request = Request::Release {
                target: Target::Pid(pid),
                release: Release::Resources(vec![resource::named(&lease)?]),
            };
            let done = format!("process {pid} has given back {lease}");
            order(&request, PATIENT, &done, session)
        }
        LeaseCommand::Convert {
            lease,
            pid,
            shared,
            exclusive: _,
        } => {
            let mut wanted = resource::named(&lease)?;
            if shared {
                wanted.flags |= ResourceFlags::SHARED.0;
            }
            let request = Request::Convert {
                target: Target::Pid(pid),
                resource: wanted,
                flags: ConvertFlags::NONE,
            };
            let mode = if shared { "shared" } else { "exclusive" };
            let done = format!("process {pid} holds {lease} {mode}");
            order(&request, PATIENT, &done, session)
        }
        LeaseCommand::Request { place, kill } => {
            let request = Request::Request {
                resource: resource::with_disk(&place)?,
                force_mode: if kill {
                    ForceMode::Force
                } else {
                    ForceMode::Graceful
                },
                flags: RequestFlags::NEXT_LVER,
            };
            let done = format!(
                "the owner of {} learns with its next reading that it is asked to give it back",
                place.lease
            );
            order(&request, PATIENT, &done, session)
        }
        LeaseCommand::Run { place, command } => run_with(&place, &command, session),
    }
}

/// The daemon's report.
fn report(session: &Session<'_>) -> Result<LeaseReport> {
    // A number of ours: the original has no such command.
    let header = Header {
        cmd: control::lease::REPORT_COMMAND,
        ..Header::request(Command::Version)
    };
    let json = session.sanlock.metrics(&header, AT_ONCE)?;
    serde_json::from_slice(&json).context(
        "the lease daemon's report makes no sense; the original sanlock has none, ask it with: sanlock client status",
    )
}

/// One order; a refusal is told with the daemon's number and its text.
fn order(
    request: &Request,
    deadline: Duration,
    done: &str,
    session: &mut Session<'_>,
) -> Result<Ending> {
    let reply = session.sanlock.call(request, deadline)?;
    Ok(match result(&reply) {
        Ok(()) => {
            session.print(&(clean(done) + "\n"))?;
            Ending::Done
        }
        Err(refusal) => session.refuse(&refusal),
    })
}

/// What a reply says, in words.
fn result(reply: &Reply) -> Result<(), String> {
    let code = Code(reply.result);
    if reply.result >= 0 {
        Ok(())
    } else {
        Err(format!(
            "lease daemon refuses: {} ({})",
            code.text(),
            reply.result
        ))
    }
}

fn watch(session: &mut Session<'_>) -> Result<Ending> {
    let terminal = session.input.is_terminal();
    if terminal {
        session.say("Enter ends the view\n");
    }
    loop {
        let picture = render::leases(&report(session)?);
        let clear = if terminal { CLEAR } else { "" };
        session.print(&format!("{clear}{picture}"))?;
        if session.input.pause(PICTURE)? {
            return Ok(Ending::Done);
        }
    }
}

fn lockspace_name(text: &str) -> Result<NameField> {
    Ok(*LockspaceName::new(text)?.field())
}

fn join(wanted: &JoinOrder, session: &mut Session<'_>) -> Result<Ending> {
    let lockspace = Lockspace {
        name: lockspace_name(&wanted.lockspace)?,
        host_id: wanted.host_id.into(),
        flags: 0,
        disk: sanlock_wire::Disk {
            path: DiskPath::new(wanted.path.as_os_str().as_encoded_bytes())?,
            offset: wanted.offset,
        },
    };
    session.say(&format!(
        "joining {}: takes two io timeouts, and longer where another host may still hold the id\n",
        wanted.lockspace
    ));
    let request = Request::AddLockspace {
        lockspace,
        io_timeout_s: wanted.io_timeout.into(),
        flags: AddFlags::NONE,
    };
    let done = format!("joined {} as host {}", wanted.lockspace, wanted.host_id);
    order(&request, PATIENT, &done, session)
}

fn leave(name: &str, session: &mut Session<'_>) -> Result<Ending> {
    let wanted = lockspace_name(name)?;
    let reply = session.sanlock.call(&Request::GetLockspaces, AT_ONCE)?;
    let ReplyBody::Lockspaces(joined) = reply.body else {
        bail!("lease daemon gave no list of lockspaces");
    };
    let Some(lockspace) = joined.into_iter().find(|found| found.name == wanted) else {
        return Ok(session.refuse(&format!(
            "lockspace {name} is not joined; nodectl lease status lists those that are"
        )));
    };
    // Leaving kills whoever still holds a lease there.
    let request = Request::RemLockspace {
        lockspace,
        flags: RemoveFlags::UNUSED,
    };
    order(&request, PATIENT, &format!("left {name}"), session)
}

/// Becomes the command, holding the lease for as long as it, or a child that
/// keeps the connection, runs.
fn run_with(
    place: &ResourcePlace,
    command: &[String],
    session: &mut Session<'_>,
) -> Result<Ending> {
    let Some((program, arguments)) = command.split_first() else {
        bail!("no command given");
    };
    let request = Request::Acquire {
        target: Target::ThisConnection,
        flags: AcquireFlags::NONE,
        resources: vec![resource::with_disk(place)?],
        options: Options::default(),
    };
    let mut connection = session.sanlock.register(PATIENT)?;
    let reply = connection.call(&request, PATIENT)?;
    if let Err(refusal) = result(&reply) {
        return Ok(session.refuse(&refusal));
    }
    let socket = connection.into_socket();
    fcntl_setfd(&socket, FdFlags::empty()).context("keeping the connection open")?;
    let error = std::process::Command::new(program).args(arguments).exec();
    // Closing the connection gives the lease back.
    drop(socket);
    Err(error).with_context(|| format!("{program}: cannot be started"))
}
