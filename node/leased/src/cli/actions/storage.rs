//! Actions on storage, through the daemon.

use std::io::Write;

use disk_format::Geometry;
use sanlock_wire::{
    Lockspace, Rentry, ReplyBody, Request, Resource, Rindex, RindexFlags, WriteFlags, geometry_of,
};

use super::lockspaces::plain;
use crate::cli::arguments::Arguments;
use crate::cli::client::EINVAL;
use crate::cli::connection::{ask, result};
use crate::cli::line;

/// T written into a new lockspace without `-o`, in seconds.
const IO_TIMEOUT_S: u32 = 10;

/// The lockspace of `-s`, if it has a path, with `-Z` and `-A`.
fn lockspace(arguments: &Arguments) -> Option<Lockspace> {
    let lockspace = arguments.lockspace.clone();
    (!lockspace.disk.path.is_empty()).then_some(Lockspace {
        flags: lockspace.flags | arguments.geometry_flags,
        ..lockspace
    })
}

/// The first resource of `-r`, with `-Z` and `-A`.
fn resource(arguments: &Arguments) -> Option<Resource> {
    let resource = arguments.resources.first()?.clone();
    (!resource.disks.is_empty()).then_some(Resource {
        flags: resource.flags | arguments.geometry_flags,
        ..resource
    })
}

/// `init`: a lockspace, or else a resource.
pub(in crate::cli) fn init(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    line(out, "init");
    let max_hosts = arguments.int(b'm').cast_unsigned();
    let result = if let Some(lockspace) = lockspace(arguments) {
        let io_timeout_s = if arguments.given(b'o') {
            arguments.int(b'o').cast_unsigned()
        } else {
            IO_TIMEOUT_S
        };
        result(&Request::WriteLockspace {
            lockspace,
            max_hosts,
            io_timeout_s,
        })
    } else if let Some(resource) = resource(arguments) {
        result(&Request::WriteResource {
            resource,
            max_hosts,
            num_hosts: arguments.int(b'n').cast_unsigned(),
            flags: WriteFlags::NONE.with_if(WriteFlags::CLEAR, arguments.given(b'z')),
        })
    } else {
        EINVAL
    };
    line(out, format!("init done {result}"));
    result
}

/// `read`: a lockspace, or else a resource.
pub(in crate::cli) fn read(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let result = if let Some(lockspace) = lockspace(arguments) {
        read_lockspace(lockspace, arguments, out)
    } else if let Some(resource) = resource(arguments) {
        if arguments.set(b'h') {
            read_owners(resource, arguments, out)
        } else {
            read_resource(resource, arguments, out)
        }
    } else {
        Err(EINVAL)
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            line(out, format!("read error {error}"));
            error
        }
    }
}

/// Asks, and takes an error for the reply's end.
fn body(request: &Request) -> Result<ReplyBody, i32> {
    match ask(request)? {
        reply if reply.result == 0 => Ok(reply.body),
        reply => Err(reply.result),
    }
}

fn read_lockspace(
    lockspace: Lockspace,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), i32> {
    let ReplyBody::Lockspace {
        io_timeout_s,
        lockspace,
    } = body(&Request::ReadLockspace { lockspace })?
    else {
        return Err(-1);
    };
    line(out, [b"s ", plain(&lockspace).as_slice()].concat());
    if arguments.debug {
        line(out, format!("io_timeout {io_timeout_s}"));
        sizes(lockspace.flags, out);
    }
    Ok(())
}

fn read_resource(
    resource: Resource,
    arguments: &Arguments,
    out: &mut dyn Write,
) -> Result<(), i32> {
    let disks = resource.disks.clone();
    let ReplyBody::Resource(found) = body(&Request::ReadResource { resource })? else {
        return Err(-1);
    };
    let found = Resource { disks, ..found };
    line(out, [b"r ", found.to_text().as_slice()].concat());
    if arguments.debug {
        sizes(found.flags, out);
    }
    Ok(())
}

fn read_owners(resource: Resource, arguments: &Arguments, out: &mut dyn Write) -> Result<(), i32> {
    let disks = resource.disks.clone();
    let ReplyBody::Owners {
        resource: found,
        owners,
    } = body(&Request::ReadResourceOwners { resource })?
    else {
        return Err(-1);
    };
    let found = Resource { disks, ..found };
    line(out, [b"r ", found.to_text().as_slice()].concat());
    if arguments.debug {
        sizes(found.flags, out);
    }
    for owner in owners {
        let mut text = format!("h {} gen {}", owner.host_id, owner.generation);
        if owner.timestamp != 0 {
            text += &format!(" timestamp {}", owner.timestamp);
        }
        line(out, text);
    }
    Ok(())
}

/// The sizes that flags tell; 0 when they tell none.
fn sizes(flags: u32, out: &mut dyn Write) {
    let geometry: Option<Geometry> = geometry_of(flags).ok().flatten();
    let sector_size = geometry.map_or(0, Geometry::sector_size);
    let align_size = geometry.map_or(0, Geometry::align_size);
    line(out, format!("sector_size {sector_size}"));
    line(out, format!("align_size {align_size}"));
}

/// `align`. Its result is the size, and so its exit status 1: as ever.
pub(in crate::cli) fn align(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    line(out, "align");
    let result = result(&Request::Align {
        disk: arguments.lockspace.disk.clone(),
    });
    line(out, format!("align done {result}"));
    result
}

/// The index of `-x`, if it has a name and a path.
fn rindex(arguments: &Arguments) -> Option<Rindex> {
    let rindex = arguments.rindex.clone();
    let complete = !rindex.lockspace_name.bytes().is_empty() && !rindex.disk.path.is_empty();
    complete.then_some(rindex)
}

/// `format`.
pub(in crate::cli) fn format(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let result = rindex(arguments).map_or(EINVAL, |rindex| {
        result(&Request::FormatRindex {
            rindex: Rindex {
                flags: arguments.geometry_flags,
                ..rindex
            },
            flags: RindexFlags::NONE,
        })
    });
    line(out, format!("format done {result}"));
    result
}

/// `rebuild`.
pub(in crate::cli) fn rebuild(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let result = rindex(arguments).map_or(EINVAL, |rindex| {
        result(&Request::RebuildRindex {
            rindex,
            flags: RindexFlags::NONE,
        })
    });
    line(out, format!("rebuild done {result}"));
    result
}

/// Asks about one entry; result, and the entry as answered.
fn entry(arguments: &Arguments, request: impl FnOnce(Rindex, Rentry) -> Request) -> (i32, Rentry) {
    let Some(rindex) = rindex(arguments) else {
        return (EINVAL, Rentry::default());
    };
    match ask(&request(rindex, arguments.rentry)) {
        Ok(reply) => match reply.body {
            ReplyBody::Entry(entry) => (reply.result, entry),
            _ => (reply.result, Rentry::default()),
        },
        Err(error) => (error, Rentry::default()),
    }
}

/// `create`.
pub(in crate::cli) fn create(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let (result, found) = entry(arguments, |rindex, entry| Request::CreateResource {
        rindex,
        entry,
        max_hosts: 0,
        num_hosts: 0,
        flags: RindexFlags::NONE,
    });
    line(out, format!("create_resource done {result}"));
    if result == 0 {
        line(out, format!("offset {}", found.offset));
    }
    result
}

/// `delete`.
pub(in crate::cli) fn delete(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let (result, _) = entry(arguments, |rindex, entry| Request::DeleteResource {
        rindex,
        entry,
        flags: RindexFlags::NONE,
    });
    line(out, format!("delete_resource done {result}"));
    result
}

/// `lookup`.
pub(in crate::cli) fn lookup(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let (result, found) = entry(arguments, |rindex, entry| Request::LookupRindex {
        rindex,
        entry,
        flags: RindexFlags::NONE,
    });
    line(out, format!("lookup done {result}"));
    if result == 0 {
        let name = match found.name.bytes() {
            [] => b"-",
            name => name,
        };
        let offset = found.offset.to_string();
        line(
            out,
            [b"name ", name, b" offset ", offset.as_bytes()].concat(),
        );
    }
    result
}

/// `update`: puts the entry in; with `-z`, whatever its value, takes it out.
pub(in crate::cli) fn update(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let flags = if arguments.given(b'z') {
        RindexFlags::REMOVE
    } else {
        RindexFlags::ADD
    };
    let (result, _) = entry(arguments, |rindex, entry| Request::UpdateRindex {
        rindex,
        entry,
        flags,
    });
    line(out, format!("update done {result}"));
    result
}
