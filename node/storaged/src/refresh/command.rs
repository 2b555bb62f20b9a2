//! `storaged refresh-table [--check] [--device PATH]... DOMAIN/VOLUME`: for proving that tables are
//! those of LVM, and for operators who want to see them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use linux::dm::{CONTROL, Control};

use super::{Plan, Tables, direct, explain};
use crate::block::BlockDomain;
use crate::layout::Layout;
use crate::lvm::{Candidates, Lvm, LvmEnv};

/// Does what the rest of the command line says: prints both tables (`--check`),
/// or loads the one wanted, never by `lvm`.
///
/// ```text
/// loaded 0 5242880 linear 253:0 264192
/// wanted 0 10485760 linear 253:0 264192
/// plan load
/// ```
///
/// # Errors
/// A wrong command line, no such domain or volume, or what a refresh would leave
/// to `lvm`.
pub fn command(mut arguments: lexopt::Parser) -> io::Result<()> {
    let mut check = false;
    let mut which = None;
    let mut also = Vec::new();
    while let Some(argument) = arguments.next().map_err(io::Error::other)? {
        match argument {
            lexopt::Arg::Long("check") => check = true,
            lexopt::Arg::Long("device") => {
                also.push(arguments.value().map_err(io::Error::other)?.into());
            }
            lexopt::Arg::Value(value) if which.is_none() => which = value.into_string().ok(),
            other => return Err(io::Error::other(other.unexpected())),
        }
    }
    let which = which.unwrap_or_default();
    let (domain, volume) = which.split_once('/').ok_or_else(|| {
        io::Error::other("usage: storaged refresh-table [--check] [--device PATH]... DOMAIN/VOLUME")
    })?;
    let domain = domain.parse().map_err(io::Error::other)?;
    let lvm = Arc::new(Lvm::new(LvmEnv {
        candidates: Candidates::Multipath { also },
        ..LvmEnv::node(Layout::default())
    }));
    let group = BlockDomain::look(&lvm, domain)
        .and_then(|domain| domain.group())
        .map_err(io::Error::other)?;
    let control = Control::open(Path::new(CONTROL))
        .map_err(|error| io::Error::other(linux::error::chain(&error)))?;
    if check {
        let tables = explain(&control, &group, volume).map_err(io::Error::other)?;
        return print(&tables);
    }
    let done = match direct(&control, &group, volume).map_err(io::Error::other)? {
        Plan::Nothing => "has its table already",
        Plan::Load(_) => "table loaded",
    };
    writeln!(io::stdout(), "{which}: {done}")
}

fn print(tables: &Tables) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in &tables.loaded {
        writeln!(out, "loaded {line}")?;
    }
    for line in &tables.wanted {
        writeln!(out, "wanted {line}")?;
    }
    match &tables.plan {
        Ok(Plan::Nothing) => writeln!(out, "plan nothing"),
        Ok(Plan::Load(_)) => writeln!(out, "plan load"),
        Err(reason) => writeln!(out, "plan lvm: {reason}"),
    }
}
