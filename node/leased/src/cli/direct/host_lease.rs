//! Delta leases by hand: acquire, renew and release one host id.

use std::fs;
use std::thread;
use std::time::Duration;

use disk_format::{HostBitmap, Leader, NameField, delta};
use lease::code::Code;
use linux::disk::{Access, AlignedBuffer};
use sanlock_wire::Lockspace;

use super::leader::{Spot, verify_host};
use super::lockspace;
use crate::cli::arguments::Arguments;

/// Seconds, where the record or the command line says nothing.
const IO_TIMEOUT_DEFAULT_S: u8 = 10;
/// Seconds after which other hosts' watchdogs have fired.
const FIRE_TIMEOUT_S: u64 = 60;

/// Takes the host id under a name never used before, after waiting for
/// whoever may have it (spec §3.2).
pub(super) fn acquire(arguments: &Arguments) -> Code {
    with(arguments, |lockspace, spot, io_timeout_s| {
        let (mut found, _) = read(spot, lockspace)?;
        let theirs_s = match u64::from(found.io_timeout & 0xff) {
            0 => u64::from(io_timeout_s),
            seconds => seconds,
        };
        if found.timestamp != 0 {
            wait(8 * theirs_s + FIRE_TIMEOUT_S);
            let (now, _) = read(spot, lockspace)?;
            if now != found && now.timestamp != 0 {
                return Err(Code::HOSTID_BUSY);
            }
            found = now;
        }
        let ours = Leader {
            timestamp: monotonic_s(),
            io_timeout: u16::from(io_timeout_s),
            owner_id: lockspace.host_id,
            owner_generation: found.owner_generation.wrapping_add(1),
            resource_name: new_host_name(),
            ..found
        }
        .sealed();
        write(spot, &ours)?;
        wait(2 * theirs_s);
        let (now, _) = read(spot, lockspace)?;
        if now == ours {
            Ok(())
        } else {
            Err(Code::HOSTID_BUSY)
        }
    })
}

/// Writes the time of now into the record of whoever has the host id.
pub(super) fn renew(arguments: &Arguments) -> Code {
    with(arguments, |lockspace, spot, io_timeout_s| {
        let (found, _) = read(spot, lockspace)?;
        if found.owner_id != lockspace.host_id {
            return Err(Code::EINVAL);
        }
        let renewed = Leader {
            timestamp: monotonic_s(),
            io_timeout: u16::from(io_timeout_s),
            ..found
        };
        write(spot, &renewed.sealed())
    })
}

/// Frees the host id.
pub(super) fn release(arguments: &Arguments) -> Code {
    with(arguments, |lockspace, spot, _| {
        let (found, _) = read(spot, lockspace)?;
        if found.owner_id != lockspace.host_id {
            return Err(Code::EINVAL);
        }
        let free = Leader {
            timestamp: 0,
            ..found
        };
        write(spot, &free.sealed())
    })
}

fn with(
    arguments: &Arguments,
    work: impl FnOnce(&Lockspace, &Spot, u8) -> Result<(), Code>,
) -> Code {
    let Some(lockspace) = lockspace(arguments) else {
        return Code::ENODEV;
    };
    let io_timeout_s = match u8::try_from(arguments.unsigned(b'o') & 0xff) {
        Ok(0) | Err(_) => IO_TIMEOUT_DEFAULT_S,
        Ok(seconds) => seconds,
    };
    Spot::of_host(&lockspace, Access::ReadWrite)
        .and_then(|spot| work(&lockspace, &spot, io_timeout_s))
        .err()
        .unwrap_or(Code::OK)
}

fn read(spot: &Spot, lockspace: &Lockspace) -> Result<(Leader, AlignedBuffer), Code> {
    let (leader, sector) = spot.read()?;
    verify_host(&leader, lockspace)?;
    Ok((leader, sector))
}

/// The record, and nobody to notify.
fn write(spot: &Spot, leader: &Leader) -> Result<(), Code> {
    let (_, mut sector) = spot.read()?;
    delta::encode_sector(leader, &HostBitmap::EMPTY, &mut sector);
    spot.write(leader, sector)
}

fn monotonic_s() -> u64 {
    linux::clock::monotonic_ns() / 1_000_000_000
}

/// Waits on the clock that goes on while the machine sleeps.
fn wait(seconds: u64) {
    let end = linux::clock::boottime_ns().saturating_add(seconds.saturating_mul(1_000_000_000));
    loop {
        let left = end.saturating_sub(linux::clock::boottime_ns());
        if left == 0 {
            return;
        }
        thread::sleep(Duration::from_nanos(left));
    }
}

/// `<uuid>.<node name>`, as the daemon's of a host without a name of its own.
fn new_host_name() -> NameField {
    let line = |path| fs::read_to_string(path).unwrap_or_default();
    let uuid = line("/proc/sys/kernel/random/uuid");
    let node = line("/proc/sys/kernel/hostname");
    NameField::from_bytes(format!("{}.{}", uuid.trim(), node.trim()).as_bytes())
}
