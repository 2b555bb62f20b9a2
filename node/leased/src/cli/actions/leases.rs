//! Actions on the leases of processes.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use sanlock_wire::{
    AcquireFlags, ConvertFlags, ForceMode, Lockspace, Options, Release, ReplyBody, Request,
    RequestFlags, Resource, ResourceFlags, Target, parse_resource,
};

use crate::cli::arguments::Arguments;
use crate::cli::client::EINVAL;
use crate::cli::connection::{Connection, ask, result};
use crate::cli::line;

/// The process that `-p` names; -1, which is nobody's, without.
fn pid(arguments: &Arguments) -> i32 {
    if arguments.given(b'p') {
        arguments.int(b'p')
    } else {
        -1
    }
}

fn target(pid: i32) -> Target {
    match pid {
        -1 => Target::ThisConnection,
        pid => Target::Pid(pid),
    }
}

fn acquire_request(arguments: &Arguments, target: Target) -> Request {
    let hosts = arguments.int(b'n').cast_unsigned();
    let mut resources = arguments.resources.clone();
    for resource in &mut resources {
        let flags = ResourceFlags(resource.flags)
            .with_if(ResourceFlags::PERSISTENT, arguments.set(b'P'))
            .with_if(ResourceFlags::NUM_HOSTS, hosts != 0);
        resource.flags = flags.0;
        resource.data32 = hosts;
    }
    Request::Acquire {
        target,
        flags: AcquireFlags::NONE.with_if(AcquireFlags::ORPHAN, arguments.set(b'O')),
        resources,
        options: Options::default(),
    }
}

/// `command`: registers, acquires, and becomes the program, which inherits the
/// connection and so the leases.
pub(in crate::cli) fn command(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    line(out, "register");
    let opened = Connection::open().and_then(|mut connection| {
        connection.send(&Request::Register)?;
        Ok(connection)
    });
    let mut connection = match opened {
        Ok(connection) => connection,
        Err(error) => {
            line(out, format!("register done {error}"));
            return error;
        }
    };
    let descriptor = connection.as_fd().as_raw_fd();
    line(out, format!("register done {descriptor}"));
    line(out, format!("acquire fd {descriptor}"));
    let request = acquire_request(arguments, Target::ThisConnection);
    let result = connection
        .ask(&request)
        .map_or_else(|error| error, |(_, reply)| reply.result);
    line(out, format!("acquire done {result}"));
    if result < 0 {
        return result;
    }
    match arguments.command.split_first() {
        Some((program, words)) => become_program(&connection, program, words),
        None => hold(&connection),
    }
}

/// Runs the program in place of this one; returns only if that fails.
fn become_program(connection: &Connection, program: &[u8], words: &[Vec<u8>]) -> i32 {
    let inherited = fcntl_setfd(connection, FdFlags::empty());
    // A name without a slash is a file here, never looked up in PATH.
    let mut path = program.to_vec();
    if !path.contains(&b'/') {
        path.splice(..0, *b"./");
    }
    let error = match inherited {
        Ok(()) => Command::new(OsStr::from_bytes(&path))
            .arg0(OsStr::from_bytes(program))
            .args(words.iter().map(|word| OsStr::from_bytes(word)))
            .exec(),
        Err(error) => error.into(),
    };
    drop(writeln!(std::io::stderr(), "execv failed: {error}"));
    -1
}

/// Keeps the leases until this process is ended.
fn hold(_connection: &Connection) -> ! {
    loop {
        std::thread::park();
    }
}

/// `acquire`: for another process.
pub(in crate::cli) fn acquire(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let pid = pid(arguments);
    line(out, format!("acquire pid {pid}"));
    let result = result(&acquire_request(arguments, target(pid)));
    line(out, format!("acquire done {result}"));
    result
}

/// `convert`.
pub(in crate::cli) fn convert(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let pid = pid(arguments);
    line(out, format!("convert pid {pid}"));
    let result = match arguments.resources.first() {
        Some(resource) => result(&Request::Convert {
            target: target(pid),
            resource: resource.clone(),
            flags: ConvertFlags::NONE,
        }),
        None => EINVAL,
    };
    line(out, format!("convert done {result}"));
    result
}

/// `release`: resources, all, or orphans.
pub(in crate::cli) fn release(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let pid = pid(arguments);
    line(out, format!("release pid {pid}"));
    let lockspace_name = arguments.lockspace.name;
    let release = if arguments.set(b'O') {
        match arguments.resources.first() {
            Some(resource) => Some(Release::Orphans(resource.clone())),
            None if lockspace_name.bytes().is_empty() => None,
            None => Some(Release::Orphans(Resource {
                lockspace_name,
                ..Resource::default()
            })),
        }
    } else if arguments.set(b'a') {
        Some(Release::All)
    } else {
        Some(Release::Resources(arguments.resources.clone()))
    };
    let result = release.map_or(EINVAL, |release| {
        result(&Request::Release {
            target: target(pid),
            release,
        })
    });
    line(out, format!("release done {result}"));
    result
}

/// `inquire`: the leases of a process as one string; with `-D` also one by one.
pub(in crate::cli) fn inquire(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let pid = pid(arguments);
    line(out, format!("inquire pid {pid}"));
    let (result, count, text) = match ask(&Request::Inquire {
        target: target(pid),
    }) {
        Ok(reply) => match reply.body {
            ReplyBody::Inquiry { count, text } => (reply.result, count, text),
            _ => (reply.result, 0, Vec::new()),
        },
        Err(error) => (error, 0, Vec::new()),
    };
    line(out, format!("inquire done {result} res_count {count}"));
    if result < 0 {
        return result;
    }
    if text.is_empty() {
        // What the original's C library makes of no string.
        line(out, "\"(null)\"");
        return result;
    }
    line(out, quoted(&text));
    if arguments.debug {
        let resources: Vec<Resource> = split(&text)
            .iter()
            .filter_map(|text| parse_resource(text).ok())
            .collect();
        line(
            out,
            format!("\nstate_to_args done 0 res_count {}", resources.len()),
        );
        for resource in &resources {
            let exclusive = Resource {
                flags: resource.flags & !ResourceFlags::SHARED.0,
                ..resource.clone()
            };
            line(out, quoted(&exclusive.to_text()));
        }
        line(out, "\nargs_to_state done 0");
        if let ReplyBody::Inquiry { text, .. } = ReplyBody::inquiry(&resources) {
            line(out, quoted(&text));
        }
    }
    result
}

fn quoted(text: &[u8]) -> Vec<u8> {
    [b"\"", text, b"\""].concat()
}

/// The strings between spaces that no `\` makes ordinary.
fn split(text: &[u8]) -> Vec<&[u8]> {
    let mut escaped = false;
    text.split(|&byte| {
        let ends = byte == b' ' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
    .filter(|part| !part.is_empty())
    .collect()
}

/// `request`.
pub(in crate::cli) fn request(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    line(out, "request");
    let mode = u32::try_from(arguments.unsigned(b'f') & u64::from(u32::MAX)).unwrap_or(0);
    let result = match arguments.resources.first() {
        Some(resource) => result(&Request::Request {
            resource: resource.clone(),
            force_mode: ForceMode::from_number(mode),
            flags: RequestFlags::NONE,
        }),
        None => EINVAL,
    };
    line(out, format!("request done {result}"));
    result
}

/// `examine`: a whole lockspace, or one resource.
pub(in crate::cli) fn examine(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    line(out, "examine");
    let lockspace: &Lockspace = &arguments.lockspace;
    let result = if !lockspace.disk.path.is_empty() {
        result(&Request::ExamineLockspace {
            lockspace: lockspace.clone(),
        })
    } else if let Some(resource) = arguments.resources.first() {
        result(&Request::ExamineResource {
            resource: resource.clone(),
        })
    } else {
        EINVAL
    };
    line(out, format!("examine done {result}"));
    result
}
