//! `sanlock direct`: leases on a device without a daemon.
//!
//! What it is: the original's actions, with its output and results. What it is
//! not: coordinated with a daemon, or with another host that uses the same
//! leases; that is the operator's business, as with the original.

mod dump;
mod host_lease;
mod leader;
mod resource_lease;

use std::io::{self, Write};

use lease::code::Code;
use sanlock_wire::{Lockspace, Resource, Rindex, RindexFlags};

use super::arguments::Arguments;
use crate::storage;

/// Every action there is.
pub(super) const ACTIONS: [&str; 14] = [
    "init",
    "read_leader",
    "write_leader",
    "dump",
    "next_free",
    "acquire",
    "release",
    "acquire_id",
    "renew_id",
    "release_id",
    "format",
    "lookup",
    "update",
    "rebuild",
];

/// Does one action; the result is 0 or a negative number. What cannot be
/// printed is lost, as in the original.
pub(super) fn run(action: &str, arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let result = match action {
        "init" => init(arguments, out),
        "read_leader" => leader::read(arguments, out),
        "write_leader" => leader::write(arguments, out),
        "dump" => dump::dump(arguments, out),
        "next_free" => dump::next_free(arguments, out),
        "acquire" => done(out, action, resource_lease::acquire(arguments)),
        "release" => done(out, action, resource_lease::release(arguments)),
        "acquire_id" => done(out, action, host_lease::acquire(arguments)),
        // The original spells it so, and scripts may look for it.
        "renew_id" => done(out, "rewew_id", host_lease::renew(arguments)),
        "release_id" => done(out, action, host_lease::release(arguments)),
        "format" => done(out, action, storage::format_rindex(&rindex(arguments))),
        "lookup" => lookup(arguments, out),
        "update" => done(out, action, update(arguments)),
        "rebuild" => done(
            out,
            action,
            storage::rebuild_rindex(&rindex(arguments), None),
        ),
        _ => unknown(out, action),
    };
    let flushed = out.flush();
    result
        .and_then(|code| flushed.map(|()| code))
        .map_or(-1, |code| code.0)
}

fn done(out: &mut dyn Write, action: &str, code: Code) -> io::Result<Code> {
    writeln!(out, "{action} done {}", code.0)?;
    Ok(code)
}

fn unknown(out: &mut dyn Write, action: &str) -> io::Result<Code> {
    writeln!(out, "direct action \"{action}\" is unknown")?;
    Ok(Code::EPERM)
}

/// The lockspace of `-s`, with the sizes of `-Z` and `-A`; `None` without a
/// path, as if it had not been given.
fn lockspace(arguments: &Arguments) -> Option<Lockspace> {
    let mut lockspace = arguments.lockspace.clone();
    lockspace.flags = arguments.geometry_flags;
    Some(lockspace).filter(|lockspace| !lockspace.disk.path.is_empty())
}

/// The first resource of `-r`, with the same sizes.
fn resource(arguments: &Arguments) -> Option<Resource> {
    let mut resource = arguments.resources.first()?.clone();
    resource.flags = arguments.geometry_flags;
    Some(resource)
}

fn rindex(arguments: &Arguments) -> Rindex {
    Rindex {
        flags: arguments.geometry_flags,
        ..arguments.rindex.clone()
    }
}

fn init(arguments: &Arguments, out: &mut dyn Write) -> io::Result<Code> {
    let code = if let Some(lockspace) = lockspace(arguments) {
        storage::write_lockspace(&lockspace, arguments.int(b'o').cast_unsigned())
    } else if let Some(resource) = resource(arguments) {
        if resource.disks.is_empty() {
            Code::ENODEV
        } else {
            let hosts = arguments.int(b'n');
            storage::write_resource(&resource, hosts, arguments.given(b'z'))
        }
    } else {
        Code::EINVAL
    };
    done(out, "init", code)
}

fn lookup(arguments: &Arguments, out: &mut dyn Write) -> io::Result<Code> {
    let (code, entry) = storage::lookup_rindex(&rindex(arguments), &arguments.rentry);
    done(out, "lookup", code)?;
    if code == Code::OK {
        out.write_all(b"name ")?;
        let name = entry.name.bytes();
        out.write_all(if name.is_empty() { b"-" } else { name })?;
        writeln!(out, " offset {}", entry.offset)?;
    }
    Ok(code)
}

fn update(arguments: &Arguments) -> Code {
    let flags = if arguments.given(b'z') {
        RindexFlags::REMOVE
    } else {
        RindexFlags::ADD
    };
    storage::update_rindex(&rindex(arguments), &arguments.rentry, flags).0
}
