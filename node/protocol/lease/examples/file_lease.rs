//! Holds a lease on a resource in a plain file, looks at it as anybody may,
//! and gives it back, with nothing but the standard library for I/O.
//!
//! A real program opens the device with `O_DIRECT` and `O_SYNC` and first holds
//! a host id of the lockspace ([`lease::DeltaLease`]); without that its host id
//! and generation mean nothing to others.
//!
//! ```text
//! cargo run -p lease --example file_lease
//! ```
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the library leaves files and clocks to its user, which this is"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use disk_format::{Generation, Geometry, HostId, LockspaceName, ResourceName, paxos};
use lease::resource::{
    Acquire, AcquireOptions, Effect, Held, Input, Observed, Operation, Outcome, Owners, Place,
    Release, ReleaseOptions, Target, Us,
};
use lease::{IoId, IoOutcome, Monotonic, Now};

const GEOMETRY: Geometry = Geometry::Sector512Align1M;

/// Knows of no other host. A program with a joined lockspace answers from
/// [`lease::hosts`].
struct Alone;

impl Owners for Alone {
    fn observed(&self, _: &LockspaceName, _: HostId) -> Option<Observed> {
        None
    }

    fn is_joined(&self, _: &LockspaceName) -> bool {
        false
    }
}

/// Drives one operation to its end: does what it asks for, tells what came of
/// it. Everything here is synchronous, so nothing is ever late.
fn drive(file: &File, began: Instant, op: &mut dyn Operation) -> io::Result<Outcome> {
    let now = || {
        // One clock will do for a program that is not suspended.
        let elapsed = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let clock = Monotonic(1_000_000_000).0 + elapsed;
        Now {
            monotonic: Monotonic(clock),
            boottime: Monotonic(clock),
        }
    };
    op.handle(now(), Input::Start, &Alone);
    while !op.is_drained() {
        let Some(effect) = op.next_effect() else {
            // A contended ballot stands back for a moment.
            std::thread::yield_now();
            op.handle(now(), Input::Tick, &Alone);
            continue;
        };
        let (io, buffer) = perform(file, &effect)?;
        let outcome = buffer
            .as_deref()
            .map_or(IoOutcome::Written, IoOutcome::Read);
        op.handle(now(), Input::Io(io, outcome), &Alone);
    }
    op.result()
        .cloned()
        .ok_or_else(|| io::Error::other("no result"))
}

/// One read or write; the resource lies at the start of the file.
fn perform(file: &File, effect: &Effect) -> io::Result<(IoId, Option<Vec<u8>>)> {
    let size = |bytes: u32| usize::try_from(bytes).map_err(io::Error::other);
    match effect {
        Effect::Read {
            place: Place::OwnerDelta { .. },
            ..
        } => Err(io::Error::other("this program has joined no lockspace")),
        Effect::Read {
            io, offset, bytes, ..
        } => {
            let mut buffer = vec![0; size(*bytes)?];
            file.read_exact_at(&mut buffer, *offset)?;
            Ok((*io, Some(buffer)))
        }
        Effect::Write {
            io,
            offset,
            sector,
            content,
            ..
        } => {
            let mut buffer = vec![0; size(*sector)?];
            content.fill(&mut buffer);
            file.write_all_at(&buffer, *offset)?;
            file.sync_data()?;
            Ok((*io, None))
        }
    }
}

/// What a resource's area says about its owner; needs no daemon and no lease.
fn describe(file: &File) -> io::Result<String> {
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0)?;
    let leader = paxos::leader(&sector).map_err(io::Error::other)?;
    paxos::verify_kind(&leader).map_err(io::Error::other)?;
    Ok(match leader.timestamp {
        0 => format!(
            "{} is free, last version {}",
            leader.resource_name, leader.lver
        ),
        _ => format!(
            "{} is owned by host {} generation {} in version {}",
            leader.resource_name, leader.owner_id, leader.owner_generation, leader.lver
        ),
    })
}

fn format(path: &Path, target: &Target) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let area = usize::try_from(GEOMETRY.align_size()).map_err(io::Error::other)?;
    let mut area = vec![0; area];
    let leader = paxos::initial(
        target.lockspace.field(),
        target.resource.field(),
        GEOMETRY,
        8,
    );
    paxos::fill_initial(&leader, GEOMETRY, 0, &mut area);
    file.write_all_at(&area, 0)?;
    Ok(file)
}

/// Acquires, looks, releases, looks; gives what it saw.
fn story(path: &Path) -> io::Result<[String; 3]> {
    let target = Target {
        lockspace: LockspaceName::new("example").map_err(io::Error::other)?,
        resource: ResourceName::new("disk-1").map_err(io::Error::other)?,
        geometry: GEOMETRY,
        disks: 1,
    };
    let us = Us {
        host_id: HostId::new(3).map_err(io::Error::other)?,
        generation: Generation(1),
        io_timeout_s: 10,
        fire_timeout_s: 60,
    };
    let file = format(path, &target)?;
    let began = Instant::now();
    let before = describe(&file)?;

    let mut acquire = Acquire::new(us, target, AcquireOptions::default(), 7);
    let outcome = drive(&file, began, &mut acquire)?;
    let held: Held = outcome
        .held
        .ok_or_else(|| io::Error::other(outcome.code.to_string()))?;
    let during = describe(&file)?;

    let mut release = Release::new(us, target, &held, ReleaseOptions::default());
    drive(&file, began, &mut release)?;
    Ok([before, during, describe(&file)?])
}

#[expect(clippy::print_stdout, reason = "an example talks")]
fn main() -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("file_lease-{}.img", std::process::id()));
    let said = story(&path);
    std::fs::remove_file(&path)?;
    for line in said? {
        println!("{line}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_lease_in_a_file_is_owned_and_then_free_again() {
        let name = format!("file_lease-test-{}.img", std::process::id());
        let path = std::env::temp_dir().join(name);
        let said = super::story(&path);
        std::fs::remove_file(&path).expect("was made");
        assert_eq!(
            said.expect("works"),
            [
                "disk-1 is free, last version 0",
                "disk-1 is owned by host 3 generation 1 in version 1",
                "disk-1 is free, last version 1",
            ]
        );
    }
}
