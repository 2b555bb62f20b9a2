//! Actions on lockspaces and on the daemon.

use std::io::Write;

use sanlock_wire::{
    AddFlags, Command, ConfigAction, EventFlags, HostEvent, HostState, InquireFlags, Lockspace,
    LockspaceFlags, PROTOCOL_VERSION, RemoveFlags, ReplyBody, Request, VERSION_NUMBER,
};

use crate::cli::arguments::Arguments;
use crate::cli::connection::{Connection, ask, result};
use crate::cli::line;

const EAGAIN: i32 = -11;
/// T of a lockspace that gives none, in seconds.
const IO_TIMEOUT_S: i32 = 10;

/// `add_lockspace`.
pub(in crate::cli) fn add(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let (name, shown, io_timeout_s) = match arguments.int(b'o') {
        0 | IO_TIMEOUT_S => (Command::AddLockspace.name(), String::new(), 0),
        seconds => ("add_lockspace_timeout", format!(" {seconds}"), seconds),
    };
    line(out, format!("{name}{shown}"));
    let result = result(&Request::AddLockspace {
        lockspace: arguments.lockspace.clone(),
        io_timeout_s: io_timeout_s.cast_unsigned(),
        flags: AddFlags::NONE,
    });
    line(out, format!("{name} done {result}"));
    result
}

/// `inq_lockspace`.
pub(in crate::cli) fn inquire(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    simple(
        out,
        &Request::InqLockspace {
            lockspace: arguments.lockspace.clone(),
            flags: InquireFlags::NONE,
        },
    )
}

/// `rem_lockspace`.
pub(in crate::cli) fn remove(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    simple(
        out,
        &Request::RemLockspace {
            lockspace: arguments.lockspace.clone(),
            flags: RemoveFlags::NONE,
        },
    )
}

/// Name, and name with result.
fn simple(out: &mut dyn Write, request: &Request) -> i32 {
    let name = request.command().name();
    line(out, name);
    let result = result(request);
    line(out, format!("{name} done {result}"));
    result
}

/// `gets`: the lockspaces, with `-h 1` also their hosts.
pub(in crate::cli) fn gets(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let reply = match ask(&Request::GetLockspaces) {
        Ok(reply) if reply.result == 0 => reply,
        Ok(reply) => return gets_failed(out, reply.result),
        Err(error) => return gets_failed(out, error),
    };
    let ReplyBody::Lockspaces(lockspaces) = reply.body else {
        return 0;
    };
    for lockspace in &lockspaces {
        let mut text = b"s ".to_vec();
        text.extend(plain(lockspace));
        text.push(b' ');
        if lockspace.has(LockspaceFlags::ADD) {
            text.extend_from_slice(b"ADD ");
        }
        if lockspace.has(LockspaceFlags::REM) {
            text.extend_from_slice(b"REM ");
        }
        line(out, text);
        if arguments.set(b'h') {
            hosts(lockspace, out);
        }
    }
    0
}

fn gets_failed(out: &mut dyn Write, error: i32) -> i32 {
    line(out, format!("gets error {error}"));
    error
}

/// The lockspace as a string whose path is not escaped.
pub(in crate::cli) fn plain(lockspace: &Lockspace) -> Vec<u8> {
    [
        lockspace.name.bytes(),
        format!(":{}:", lockspace.host_id).as_bytes(),
        lockspace.disk.path.as_bytes(),
        format!(":{}", lockspace.disk.offset).as_bytes(),
    ]
    .concat()
}

fn hosts(lockspace: &Lockspace, out: &mut dyn Write) {
    let asked = ask(&Request::GetHosts {
        lockspace: lockspace.name.into(),
    });
    let (result, body) = match asked {
        Ok(reply) => (reply.result, Some(reply.body)),
        Err(error) => (error, None),
    };
    match (result, body) {
        (EAGAIN, _) => line(out, "hosts not ready"),
        (0, Some(ReplyBody::Hosts(hosts))) => {
            for host in hosts {
                let state = match host.state() {
                    Some(HostState::Unknown) => "UNKNOWN",
                    Some(HostState::Free) => "FREE",
                    Some(HostState::Live) => "LIVE",
                    Some(HostState::Fail) => "FAIL",
                    Some(HostState::Dead) => "DEAD",
                    None => "?",
                };
                line(
                    out,
                    format!(
                        "h {} gen {} timestamp {} {state}",
                        host.host_id, host.generation, host.timestamp
                    ),
                );
            }
        }
        (error, _) => line(out, format!("hosts error {error}")),
    }
}

/// `set_event`.
pub(in crate::cli) fn set_event(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let event = HostEvent {
        host_id: arguments.unsigned(b'i'),
        generation: arguments.unsigned(b'g'),
        event: arguments.unsigned(b'e'),
        data: arguments.unsigned(b'd'),
    };
    line(
        out,
        format!(
            "set_event {} {} event {:#x} data {:#x}",
            event.host_id, event.generation, event.event, event.data
        ),
    );
    let result = result(&Request::SetEvent {
        lockspace: arguments.lockspace.name.into(),
        event,
        flags: EventFlags::NONE,
    });
    line(out, format!("set_event done {result}"));
    result
}

/// `set_config`: `-O` wins over `-u`.
pub(in crate::cli) fn set_config(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let action = if arguments.given(b'O') {
        match arguments.set(b'O') {
            true => ConfigAction::UsedByOrphans,
            false => ConfigAction::UnusedByOrphans,
        }
    } else if arguments.given(b'u') {
        match arguments.set(b'u') {
            true => ConfigAction::Used,
            false => ConfigAction::Unused,
        }
    } else {
        ConfigAction::Other(0)
    };
    let name = arguments.lockspace.name;
    let number = action.number();
    line(
        out,
        [
            b"set_config ",
            name.bytes(),
            format!(" {number}").as_bytes(),
        ]
        .concat(),
    );
    let result = result(&Request::SetConfig {
        lockspace: name.into(),
        action,
    });
    line(out, format!("set_config done {result}"));
    result
}

/// `log_dump`. Its result is the number of bytes, and so its exit status 1:
/// as ever.
pub(in crate::cli) fn log_dump(_: &Arguments, out: &mut dyn Write) -> i32 {
    match ask(&Request::LogDump) {
        Ok(reply) => {
            if let ReplyBody::Log(text) = reply.body {
                line(out, text);
            }
            reply.result
        }
        Err(error) => error,
    }
}

/// `shutdown`: with `-w 1` waits for it and may be refused.
pub(in crate::cli) fn shutdown(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let (force, wait) = (arguments.int(b'f'), arguments.int(b'w'));
    line(out, format!("shutdown force {force} wait {wait}"));
    let force = force != 0;
    let result = if wait != 0 {
        result(&Request::ShutdownWait { force })
    } else {
        Connection::open()
            .and_then(|mut connection| connection.send(&Request::Shutdown { force }))
            .err()
            .unwrap_or(0)
    };
    line(out, format!("shutdown done {result}"));
    result
}

/// `version`: ours and the daemon's.
pub(in crate::cli) fn version(_: &Arguments, out: &mut dyn Write) -> i32 {
    let asked = Connection::open().and_then(|mut connection| connection.ask(&Request::Version));
    let (error, daemon, protocol) = match asked {
        Ok((header, reply)) => match reply.body {
            ReplyBody::Version(version) => (reply.result, version, header.version),
            _ => (reply.result, 0, header.version),
        },
        Err(error) => (error, 0, 0),
    };
    if error < 0 {
        line(out, format!("daemon version error {error}"));
    }
    for (who, version) in [("client", VERSION_NUMBER), ("daemon", daemon)] {
        let [_, patch, minor, major] = version.to_le_bytes();
        line(
            out,
            format!("{who} version {major}.{minor}.{patch} (0x{version:08x})"),
        );
    }
    for (who, version) in [("client", PROTOCOL_VERSION), ("daemon", protocol)] {
        let (major, minor) = (version >> 16, version & 0xffff);
        line(out, format!("{who} socket protocol {major}.{minor}"));
    }
    0
}
