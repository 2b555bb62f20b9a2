//! One leader record: shown, and changed field by field.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use disk_format::leader::LEADER_BYTES;
use disk_format::{Leader, NameField, delta, paxos};
use lease::code::Code;
use linux::disk::Access;
use sanlock_wire::{Lockspace, Resource};

use super::{done, lockspace, resource};
use crate::cli::arguments::Arguments;
use crate::storage::device::Device;
use crate::storage::sector_of;

/// Where a leader record lies.
pub(super) struct Spot {
    device: Device,
    offset: u64,
    sector_bytes: usize,
}

impl Spot {
    /// A host's sector of a lockspace.
    pub(super) fn of_host(lockspace: &Lockspace, access: Access) -> Result<Self, Code> {
        if lockspace.disk.path.is_empty() {
            return Err(Code::ENODEV);
        }
        let index = lockspace.host_id.checked_sub(1).ok_or(Code::EINVAL)?;
        let device = Device::open_lockspace(&lockspace.disk, access)?;
        let start = lockspace.disk.offset;
        let sector = match sector_of(lockspace.flags) {
            Some(sector) => sector,
            None => delta::discover(&device.read(start, delta::PROBE_BYTES)?)?.sector_size(),
        };
        device.check_sector(sector)?;
        let offset = index
            .checked_mul(u64::from(sector))
            .and_then(|distance| start.checked_add(distance))
            .ok_or(Code::EINVAL)?;
        Ok(Self {
            device,
            offset,
            sector_bytes: bytes(sector),
        })
    }

    /// The first sector of a resource on its first disk.
    pub(super) fn of_resource(resource: &Resource, access: Access) -> Result<Self, Code> {
        let disk = resource.disks.first().ok_or(Code::EPERM)?;
        let device = Device::open(disk, access)?;
        let sector = match sector_of(resource.flags) {
            Some(sector) => sector,
            None => {
                let start = device.read(disk.offset, delta::PROBE_BYTES)?;
                match paxos::leader(&start)?.sector_size {
                    known @ (512 | 4096) => known,
                    _ => device.default_geometry().sector_size(),
                }
            }
        };
        device.check_sector(sector)?;
        Ok(Self {
            device,
            offset: disk.offset,
            sector_bytes: bytes(sector),
        })
    }

    /// The whole sector.
    pub(super) fn read(&self) -> Result<(Leader, linux::disk::AlignedBuffer), Code> {
        let sector = self.device.read(self.offset, self.sector_bytes)?;
        let leader = paxos::leader(&sector)?;
        Ok((leader, sector))
    }

    /// Replaces the record; the rest of the sector is `sector`'s.
    pub(super) fn write(
        &self,
        leader: &Leader,
        mut sector: linux::disk::AlignedBuffer,
    ) -> Result<(), Code> {
        if let Some(place) = sector.first_chunk_mut() {
            *place = leader.encode();
        }
        self.device.write(self.offset, &sector)
    }
}

fn bytes(sector: u32) -> usize {
    usize::try_from(sector).unwrap_or(delta::PROBE_BYTES)
}

/// Checks a host's record; an empty name is a wrong one.
pub(super) fn verify_host(leader: &Leader, lockspace: &Lockspace) -> Result<(), Code> {
    delta::verify_kind(leader)?;
    if !leader.space_name.same_name(&lockspace.name) {
        return Err(Code::LEADER_LOCKSPACE);
    }
    delta::verify_checksum(leader)?;
    Ok(())
}

/// Checks a resource's leader; an empty name is a wrong one.
pub(super) fn verify_resource(leader: &Leader, resource: &Resource) -> Result<(), Code> {
    paxos::verify_kind(leader)?;
    if !leader.space_name.same_name(&resource.lockspace_name) {
        return Err(Code::LEADER_LOCKSPACE);
    }
    if !leader.resource_name.same_name(&resource.name) {
        return Err(Code::LEADER_RESOURCE);
    }
    delta::verify_checksum(leader)?;
    Ok(())
}

/// What the command line names.
enum Subject {
    Host(Lockspace),
    Resource(Resource),
    Nothing,
}

impl Subject {
    fn new(arguments: &Arguments) -> Self {
        match (lockspace(arguments), resource(arguments)) {
            (Some(lockspace), _) => Self::Host(lockspace),
            (None, Some(resource)) => Self::Resource(resource),
            (None, None) => Self::Nothing,
        }
    }

    fn spot(&self, access: Access) -> Result<Spot, Code> {
        match self {
            Self::Host(lockspace) => Spot::of_host(lockspace, access),
            Self::Resource(resource) => Spot::of_resource(resource, access),
            Self::Nothing => Err(Code::EPERM),
        }
    }

    /// What the last three fields are called.
    fn last_fields(&self) -> [&'static str; 3] {
        match self {
            Self::Resource(_) => ["write_id", "write_generation", "write_timestamp"],
            Self::Host(_) | Self::Nothing => ["extra1", "extra2", "extra3"],
        }
    }

    /// What lies where a lockspace should begin.
    fn probe(&self) -> Option<Leader> {
        let Self::Host(lockspace) = self else {
            return None;
        };
        let device = Device::open_lockspace(&lockspace.disk, Access::Read).ok()?;
        let start = device.read(lockspace.disk.offset, delta::PROBE_BYTES);
        delta::leader(&start.ok()?)
    }

    fn verify(&self, leader: &Leader) -> Result<(), Code> {
        match self {
            Self::Host(lockspace) => verify_host(leader, lockspace),
            Self::Resource(resource) => verify_resource(leader, resource),
            Self::Nothing => Err(Code::EPERM),
        }
    }
}

fn empty() -> Leader {
    Leader::decode(&[0; LEADER_BYTES])
}

/// `read_leader`: the record as it is on disk, right or not.
pub(super) fn read(arguments: &Arguments, out: &mut dyn Write) -> io::Result<Code> {
    let subject = Subject::new(arguments);
    let (code, leader) = match subject.spot(Access::Read).and_then(|spot| spot.read()) {
        Ok((leader, _)) => (subject.verify(&leader).err().unwrap_or(Code::OK), leader),
        Err(code) => (code, subject.probe().unwrap_or(empty())),
    };
    done(out, "read_leader", code)?;
    print(&subject, &leader, out)?;
    Ok(code)
}

/// `write_leader`: the record with the fields of a file put in.
pub(super) fn write(arguments: &Arguments, out: &mut dyn Write) -> io::Result<Code> {
    let subject = Subject::new(arguments);
    let path = arguments.text(b'F');
    let text = match path.map(|path| fs::read(Path::new(std::ffi::OsStr::from_bytes(path)))) {
        Some(Ok(text)) => text,
        failed => {
            let number = match failed {
                Some(Err(error)) => error.raw_os_error().unwrap_or(0),
                _ => EFAULT,
            };
            write!(out, "open error {number} ")?;
            out.write_all(path.unwrap_or(b"(null)"))?;
            writeln!(out)?;
            return Ok(Code::EPERM);
        }
    };
    let found = subject
        .spot(Access::ReadWrite)
        .and_then(|spot| spot.read().map(|(leader, sector)| (spot, leader, sector)));
    let mut leader = found.as_ref().map_or(empty(), |(_, leader, _)| *leader);
    let specified = change(&subject, &mut leader, &text, out)?;
    let generated = leader.computed_checksum();
    leader.checksum = generated;
    if arguments.int(b'f') != 0 {
        writeln!(
            out,
            "warning: using specified checksum {:x} (generated is {generated:x})",
            specified.unwrap_or(0)
        )?;
        leader.checksum = specified.unwrap_or(generated);
    } else {
        writeln!(out, "use new generated checksum {generated:x}")?;
    }
    let written = found.and_then(|(spot, _, sector)| match leader.sector_size {
        512 | 4096 => spot.write(&leader, sector),
        _ => Err(Code::EINVAL),
    });
    let code = written.err().unwrap_or(Code::OK);
    done(out, "write_leader", code)?;
    if code == Code::OK {
        print(&subject, &leader, out)?;
    }
    Ok(code)
}

/// What the original says when no file is named.
const EFAULT: i32 = 14;

/// Puts in the fields of lines `field value`, and says which it ignores. The
/// checksum, if there is one other than 0, is returned.
fn change(
    subject: &Subject,
    leader: &mut Leader,
    text: &[u8],
    out: &mut dyn Write,
) -> io::Result<Option<u32>> {
    let mut checksum = None;
    let [first, second, third] = subject.last_fields();
    let lines = text
        .split_inclusive(|&byte| byte == b'\n')
        .flat_map(|line| line.chunks(LINE_MAX));
    for line in lines {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let (Some(field), Some(value)) = (words.next(), words.next()) else {
            out.write_all(b"ignore line: \"")?;
            out.write_all(line)?;
            out.write_all(b"\"\n")?;
            continue;
        };
        // A value that is no number changes nothing.
        let decimal = decimal(value);
        let small = decimal.and_then(|value| u32::try_from(value & 0xffff_ffff).ok());
        let hex = hexadecimal(value);
        match field {
            b"magic" => leader.magic = hex.unwrap_or(leader.magic),
            b"version" => leader.version = hex.unwrap_or(leader.version),
            b"flags" => leader.flags = hex.unwrap_or(leader.flags),
            b"sector_size" => leader.sector_size = small.unwrap_or(leader.sector_size),
            b"num_hosts" => put(&mut leader.num_hosts, decimal),
            b"max_hosts" => put(&mut leader.max_hosts, decimal),
            b"owner_id" => put(&mut leader.owner_id, decimal),
            b"owner_generation" => put(&mut leader.owner_generation, decimal),
            b"lver" => put(&mut leader.lver, decimal),
            b"space_name" => leader.space_name = NameField::from_bytes(value),
            b"resource_name" => leader.resource_name = NameField::from_bytes(value),
            b"timestamp" => put(&mut leader.timestamp, decimal),
            b"checksum" => checksum = hex.filter(|&value| value != 0),
            b"io_timeout" => {
                let short = small.and_then(|value| u16::try_from(value & 0xffff).ok());
                leader.io_timeout = short.unwrap_or(leader.io_timeout);
            }
            field if field == first.as_bytes() => put(&mut leader.write_id, decimal),
            field if field == second.as_bytes() => put(&mut leader.write_generation, decimal),
            field if field == third.as_bytes() => put(&mut leader.write_timestamp, decimal),
            _ => {
                out.write_all(b"ignore field: \"")?;
                out.write_all(field)?;
                out.write_all(b"\"\n")?;
            }
        }
    }
    Ok(checksum)
}

/// Longest piece of a line that is looked at as a whole, in bytes.
const LINE_MAX: usize = 127;

fn put(field: &mut u64, value: Option<u64>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// The decimal number a word begins with; a negative one wraps around, a large
/// one is the largest.
fn decimal(word: &[u8]) -> Option<u64> {
    let (negative, digits) = match word {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let value = number(digits, 10)?;
    Some(if negative {
        value.wrapping_neg()
    } else {
        value
    })
}

/// The hexadecimal number a word begins with, after `0x`.
fn hexadecimal(word: &[u8]) -> Option<u32> {
    let value = number(word.strip_prefix(b"0x")?, 16)?;
    Some(u32::try_from(value).unwrap_or(u32::MAX))
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    digits
        .iter()
        .map_while(|&byte| char::from(byte).to_digit(radix))
        .fold(None, |value: Option<u64>, digit| {
            let value = value.unwrap_or(0).saturating_mul(u64::from(radix));
            Some(value.saturating_add(u64::from(digit)))
        })
}

fn print(subject: &Subject, leader: &Leader, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "magic {:#x}", leader.magic)?;
    writeln!(out, "version {:#x}", leader.version)?;
    writeln!(out, "flags {:#x}", leader.flags)?;
    writeln!(out, "sector_size {}", leader.sector_size)?;
    writeln!(out, "num_hosts {}", leader.num_hosts)?;
    writeln!(out, "max_hosts {}", leader.max_hosts)?;
    writeln!(out, "owner_id {}", leader.owner_id)?;
    writeln!(out, "owner_generation {}", leader.owner_generation)?;
    writeln!(out, "lver {}", leader.lver)?;
    for (field, name) in [
        ("space_name", &leader.space_name),
        ("resource_name", &leader.resource_name),
    ] {
        write!(out, "{field} ")?;
        out.write_all(name.bytes())?;
        writeln!(out)?;
    }
    writeln!(out, "timestamp {}", leader.timestamp)?;
    writeln!(out, "checksum {:#x}", leader.checksum)?;
    writeln!(out, "io_timeout {}", leader.io_timeout)?;
    let values = [
        leader.write_id,
        leader.write_generation,
        leader.write_timestamp,
    ];
    for (field, value) in subject.last_fields().into_iter().zip(values) {
        writeln!(out, "{field} {value}")?;
    }
    Ok(())
}
