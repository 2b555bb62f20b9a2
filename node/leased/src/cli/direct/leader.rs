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
    change(&mut leader, &text, out)?;
    let generated = leader.computed_checksum();
    if arguments.int(b'f') != 0 {
        writeln!(
            out,
            "warning: using specified checksum {:x} (generated is {generated:x})",
            leader.checksum
        )?;
    } else {
        leader.checksum = generated;
        writeln!(out, "use new generated checksum {generated:x}")?;
    }
    let written = found.and_then(|(spot, _, sector)| spot.write(&leader, sector));
    let code = written.err().unwrap_or(Code::OK);
    done(out, "write_leader", code)?;
    print(&subject, &leader, out)?;
    Ok(code)
}

/// What the original says when no file is named.
const EFAULT: i32 = 14;

/// Puts in the fields of lines `field value`; says which lines it ignores.
fn change(leader: &mut Leader, text: &[u8], out: &mut dyn Write) -> io::Result<()> {
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let (Some(field), Some(value)) = (words.next(), words.next()) else {
            out.write_all(b"ignore line: \"")?;
            out.write_all(line)?;
            out.write_all(b"\"\n")?;
            continue;
        };
        let decimal = number(value, 10);
        let small = u32::try_from(decimal & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        let hex = u32::try_from(number(value, 16) & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        match field {
            b"magic" => leader.magic = hex,
            b"version" => leader.version = hex,
            b"flags" => leader.flags = hex,
            b"sector_size" => leader.sector_size = small,
            b"num_hosts" => leader.num_hosts = decimal,
            b"max_hosts" => leader.max_hosts = decimal,
            b"owner_id" => leader.owner_id = decimal,
            b"owner_generation" => leader.owner_generation = decimal,
            b"lver" => leader.lver = decimal,
            b"space_name" => leader.space_name = NameField::from_bytes(value),
            b"resource_name" => leader.resource_name = NameField::from_bytes(value),
            b"timestamp" => leader.timestamp = decimal,
            b"checksum" => leader.checksum = hex,
            b"io_timeout" => {
                leader.io_timeout = u16::try_from(decimal & 0xffff).unwrap_or(u16::MAX);
            }
            b"write_id" | b"extra1" => leader.write_id = decimal,
            b"write_generation" | b"extra2" => leader.write_generation = decimal,
            b"write_timestamp" | b"extra3" => leader.write_timestamp = decimal,
            _ => {
                out.write_all(b"ignore field: \"")?;
                out.write_all(field)?;
                out.write_all(b"\"\n")?;
            }
        }
    }
    Ok(())
}

/// The digits a word begins with, `0x` before hexadecimal ones.
fn number(word: &[u8], radix: u32) -> u64 {
    let digits = match word {
        [b'0', b'x' | b'X', digits @ ..] if radix == 16 => digits,
        digits => digits,
    };
    digits
        .iter()
        .map_while(|&byte| char::from(byte).to_digit(radix))
        .fold(0u64, |value, digit| {
            value
                .saturating_mul(u64::from(radix))
                .saturating_add(u64::from(digit))
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
    let last = match subject {
        Subject::Resource(_) => ["write_id", "write_generation", "write_timestamp"],
        Subject::Host(_) | Subject::Nothing => ["extra1", "extra2", "extra3"],
    };
    let values = [
        leader.write_id,
        leader.write_generation,
        leader.write_timestamp,
    ];
    for (field, value) in last.into_iter().zip(values) {
        writeln!(out, "{field} {value}")?;
    }
    Ok(())
}
