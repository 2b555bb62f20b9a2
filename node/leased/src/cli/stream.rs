//! Actions that print a daemon's streams of records.

use std::io::Write;

use sanlock_wire::{Lockspace, Request, Resource, StateBody, StateKind, StateRecord};

use super::arguments::Arguments;
use super::connection::Connection;
use super::line;

/// How much of a status is wanted: without resources.
const DETAIL_LOCKSPACES: u32 = 3;

/// Asks for a stream and takes all of it.
fn records(request: &Request) -> Result<Vec<StateRecord>, i32> {
    let mut connection = Connection::open()?;
    let (_, reply) = connection.ask(request)?;
    if reply.result < 0 {
        return Err(reply.result);
    }
    Ok(connection.records())
}

/// `status`: everything, by arrival, or by process (`-o p`), or by lockspace
/// (`-o s`).
pub(super) fn status(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let records = match records(&Request::Status { detail: 0 }) {
        Ok(records) => records,
        Err(error) => return error,
    };
    let debug = arguments.debug;
    match arguments.text(b'o').and_then(|text| text.first()) {
        Some(b'p') => by_process(records, debug, out),
        Some(b's') => by_lockspace(records, debug, out),
        _ => {
            for record in &records {
                show(record, debug, out);
            }
        }
    }
    0
}

/// Takes the records for which it holds out of the list, in order.
fn take(records: &mut Vec<StateRecord>, holds: impl Fn(&StateRecord) -> bool) -> Vec<StateRecord> {
    let (taken, left) = std::mem::take(records).into_iter().partition(|r| holds(r));
    *records = left;
    taken
}

/// A connection of the daemon's own, or one that is not registered.
fn is_internal(record: &StateRecord) -> bool {
    record.kind == StateKind::Client && record.data32 == u32::MAX
}

fn by_process(mut records: Vec<StateRecord>, debug: bool, out: &mut dyn Write) {
    for first in [
        take(&mut records, |record| record.kind == StateKind::Daemon),
        take(&mut records, is_internal),
        take(&mut records, |record| record.kind == StateKind::Lockspace),
    ] {
        show_all(&first, debug, out);
    }
    for client in take(&mut records, |record| record.kind == StateKind::Client) {
        show(&client, debug, out);
        let resources = take(&mut records, |record| {
            record.kind == StateKind::Resource && record.data32 == client.data32
        });
        show_all(&resources, debug, out);
    }
    show_rest(&records, debug, out);
}

fn by_lockspace(mut records: Vec<StateRecord>, debug: bool, out: &mut dyn Write) {
    for first in [
        take(&mut records, |record| record.kind == StateKind::Daemon),
        take(&mut records, is_internal),
        take(&mut records, |record| record.kind == StateKind::Client),
    ] {
        show_all(&first, debug, out);
    }
    for lockspace in take(&mut records, |record| record.kind == StateKind::Lockspace) {
        show(&lockspace, debug, out);
        let resources = take(&mut records, |record| match &record.body {
            StateBody::Resource(resource) => resource.lockspace_name.same_name(&lockspace.name),
            StateBody::None | StateBody::Lockspace(_) => false,
        });
        show_all(&resources, debug, out);
    }
    show_rest(&records, debug, out);
}

fn show_all(records: &[StateRecord], debug: bool, out: &mut dyn Write) {
    for record in records {
        show(record, debug, out);
    }
}

fn show_rest(records: &[StateRecord], debug: bool, out: &mut dyn Write) {
    if !records.is_empty() {
        line(out, "-");
        show_all(records, debug, out);
    }
}

fn show(record: &StateRecord, debug: bool, out: &mut dyn Write) {
    let pid = record.data32.cast_signed();
    let name = record.name.bytes();
    match (&record.kind, &record.body) {
        (StateKind::Daemon, _) => line(out, [b"daemon ", name].concat()),
        (StateKind::Client, _) => {
            line(out, [format!("p {pid} ").as_bytes(), name].concat());
        }
        (_, StateBody::Lockspace(lockspace)) => {
            let mut text = b"s ".to_vec();
            text.extend(lockspace.to_text());
            text.extend_from_slice(list(record).as_bytes());
            line(out, text);
        }
        (_, StateBody::Resource(resource)) => {
            let mut text = b"r ".to_vec();
            // The resource's own version is what its client asked for.
            let held = Resource {
                lver: record.data64,
                ..resource.clone()
            };
            text.extend(held.to_text());
            text.extend_from_slice(format!(" p {pid}").as_bytes());
            text.extend_from_slice(list(record).as_bytes());
            line(out, text);
        }
        _ => return,
    }
    if debug {
        details(record, out);
    }
}

/// What is shown of the list that a lockspace or resource is in.
fn list(record: &StateRecord) -> &'static str {
    let list = record
        .text
        .split(' ')
        .find_map(|pair| pair.strip_prefix("list="));
    match list {
        Some("add") => " ADD",
        Some("rem") => " REM",
        Some("orphan") => " ORPHAN",
        _ => "",
    }
}

/// Every `key=value` on a line of its own.
fn details(record: &StateRecord, out: &mut dyn Write) {
    for pair in record.text.split(' ').filter(|pair| !pair.is_empty()) {
        line(out, format!("    {pair}"));
    }
}

/// `host_status`: the hosts of one lockspace, or of all.
pub(super) fn host_status(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let name = arguments.lockspace.name;
    let shown = if name.bytes().is_empty() {
        hosts_of_all(arguments.debug, out)
    } else {
        hosts(name.into(), arguments.debug, out)
    };
    shown.err().unwrap_or(0)
}

fn hosts_of_all(debug: bool, out: &mut dyn Write) -> Result<(), i32> {
    let lockspaces = records(&Request::Status {
        detail: DETAIL_LOCKSPACES,
    })?;
    for record in lockspaces {
        if record.kind == StateKind::Lockspace {
            line(out, [b"lockspace ", record.name.bytes()].concat());
            hosts(record.name.into(), debug, out)?;
        }
    }
    Ok(())
}

fn hosts(lockspace: Lockspace, debug: bool, out: &mut dyn Write) -> Result<(), i32> {
    for record in records(&Request::HostStatus { lockspace })? {
        line(
            out,
            format!("{} timestamp {}", record.data32, record.data64),
        );
        if debug {
            details(&record, out);
        }
    }
    Ok(())
}

/// `renewal`: the last renewals of a lockspace, oldest first.
pub(super) fn renewal(arguments: &Arguments, out: &mut dyn Write) -> i32 {
    let name = arguments.lockspace.name;
    if name.bytes().is_empty() {
        return -1;
    }
    match records(&Request::Renewal {
        lockspace: name.into(),
    }) {
        Ok(records) => {
            for record in records {
                line(out, record.text);
            }
            0
        }
        Err(error) => error,
    }
}
