//! `dump`: what lies on a device, area after area; `next_free`: where nothing
//! does.

use std::io::{self, Write};

use disk_format::leader::LEADER_BYTES;
use disk_format::paxos::{self, Area};
use disk_format::rindex::{self, Header};
use disk_format::{Geometry, HostId, Leader, delta};
use lease::code::Code;
use linux::disk::Access;
use sanlock_wire::{Disk, DiskPath, geometry_of};

use crate::cli::arguments::Arguments;
use crate::storage::device::Device;

/// Where to look for the first record, and where to stop looking.
const STEP: u64 = 1 << 20;
const LOOK_MAX: u64 = 1 << 30;
const PROBE_BYTES: usize = 4096;

/// What is to be shown.
struct Range {
    disk: Disk,
    /// Bytes; 0: up to the first area that holds nothing.
    size: u64,
}

/// `<path>[:<offset>[:<size>]]`; `\` makes the next byte of the path ordinary,
/// numbers may end in `M`.
fn range(text: &[u8]) -> Range {
    let mut fields = vec![Vec::new()];
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let byte = match byte {
            b':' => {
                fields.push(Vec::new());
                continue;
            }
            b'\\' => match bytes.next() {
                Some(&next) => next,
                None => break,
            },
            byte => byte,
        };
        if let Some(field) = fields.last_mut() {
            field.push(byte);
        }
    }
    let number = |index: usize| fields.get(index).map_or(0, |field| number(field));
    Range {
        disk: Disk {
            path: fields
                .first()
                .and_then(|path| DiskPath::new(path).ok())
                .unwrap_or_default(),
            offset: number(1),
        },
        size: number(2),
    }
}

fn number(field: &[u8]) -> u64 {
    let value = field
        .iter()
        .map_while(|&byte| char::from(byte).to_digit(10))
        .fold(0u64, |value, digit| {
            value.saturating_mul(10).saturating_add(u64::from(digit))
        });
    let in_mebibytes = field.iter().find(|byte| !byte.is_ascii_digit()) == Some(&b'M');
    if in_mebibytes {
        value.saturating_mul(1 << 20)
    } else {
        value
    }
}

/// `next_free`: the distance to the first place without a lease or an index.
pub(super) fn next_free(arguments: &Arguments, out: &mut dyn Write) -> io::Result<Code> {
    let range = range(&arguments.position);
    let Ok(device) = Device::open(&range.disk, Access::Read) else {
        return Ok(Code::EPERM);
    };
    let geometry = geometry_of(arguments.geometry_flags)
        .ok()
        .flatten()
        .unwrap_or_else(|| device.default_geometry());
    let mut distance = 0u64;
    loop {
        let place = range.disk.offset.saturating_add(distance);
        let taken = match device.read(place, geometry.sector_bytes()) {
            Ok(sector) => kind(&sector).is_some(),
            // The end of the device: there is nothing, either.
            Err(Code::EMSGSIZE) => false,
            Err(code) => return Ok(code),
        };
        if !taken {
            writeln!(out, "{distance}")?;
            return Ok(Code::OK);
        }
        distance = distance.saturating_add(u64::from(geometry.align_size()));
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Delta,
    Paxos,
    Index,
}

fn kind(sector: &[u8]) -> Option<Kind> {
    match delta::leader(sector)?.magic {
        delta::MAGIC => Some(Kind::Delta),
        paxos::MAGIC => Some(Kind::Paxos),
        rindex::MAGIC => Some(Kind::Index),
        _ => None,
    }
}

/// The geometry of the first record from `offset` on.
fn find_geometry(device: &Device, offset: u64) -> Option<Geometry> {
    let mut distance = 0;
    while distance < LOOK_MAX {
        let start = device
            .read(offset.checked_add(distance)?, PROBE_BYTES)
            .ok()?;
        let geometry = match kind(&start) {
            Some(Kind::Index) => Header::decode(&start).ok()?.geometry().ok(),
            Some(Kind::Delta | Kind::Paxos) => {
                let leader = delta::leader(&start)?;
                Geometry::from_leader(leader.sector_size, leader.flags).ok()
            }
            None => None,
        };
        if geometry.is_some() {
            return geometry;
        }
        distance += STEP;
    }
    None
}

/// `dump`.
pub(super) fn dump(arguments: &Arguments, out: &mut dyn Write) -> io::Result<Code> {
    if arguments.position.is_empty() {
        return Ok(Code::EPERM);
    }
    let range = range(&arguments.position);
    let offset = range.disk.offset;
    let Ok(device) = Device::open(&range.disk, Access::Read) else {
        out.write_all(b"Device ")?;
        out.write_all(range.disk.path.as_bytes())?;
        out.write_all(b" not found.\n")?;
        return Ok(Code::EPERM);
    };
    if !offset.is_multiple_of(STEP) {
        writeln!(
            out,
            "WARNING: dump offset should be a multiple of {STEP} bytes."
        )?;
    }
    let given = geometry_of(arguments.geometry_flags).ok().flatten();
    let Some(geometry) = given.or_else(|| find_geometry(&device, offset)) else {
        writeln!(
            out,
            "Cannot find sector_size and align_size, set with -A and -Z."
        )?;
        return Ok(Code::EPERM);
    };
    let mut dump = Dump {
        geometry,
        detail: arguments.int(b'f'),
        out,
    };
    dump.title()?;
    let sectors = range.size / u64::from(geometry.sector_size());
    let mut place = offset;
    let mut done = 0;
    while sectors == 0 || done < sectors {
        let Ok(area) = device.read(place, geometry.area_bytes()) else {
            break;
        };
        match kind(&area) {
            Some(Kind::Delta) => dump.lockspace(place, &area)?,
            Some(Kind::Paxos) => dump.resource(place, &area)?,
            Some(Kind::Index) => dump.index(place, &area)?,
            None if sectors == 0 => break,
            None => {}
        }
        done += u64::from(geometry.sectors());
        place = place.saturating_add(u64::from(geometry.align_size()));
    }
    Ok(Code::OK)
}

struct Dump<'a> {
    geometry: Geometry,
    /// 0, 1 or 2: how much more than the leaders to show.
    detail: i32,
    out: &'a mut dyn Write,
}

impl Dump<'_> {
    fn title(&mut self) -> io::Result<()> {
        let last = if self.detail == 0 {
            "lver"
        } else {
            "lver/req/mode"
        };
        writeln!(
            self.out,
            "{:>8} {:>36} {:>48} {:>10} {:>4} {:>4} {last}",
            "offset", "lockspace", "resource", "timestamp", "own", "gen"
        )
    }

    fn name(&mut self, name: &[u8], width: usize) -> io::Result<()> {
        for _ in name.len()..width {
            self.out.write_all(b" ")?;
        }
        self.out.write_all(name)
    }

    /// Offset, names, owner: what every leader has.
    fn leader(&mut self, place: u64, leader: &Leader) -> io::Result<()> {
        write!(self.out, "{place:08} ")?;
        self.name(leader.space_name.bytes(), 36)?;
        write!(self.out, " ")?;
        self.name(leader.resource_name.bytes(), 48)?;
        write!(
            self.out,
            " {:010} {:04} {:04}",
            leader.timestamp, leader.owner_id, leader.owner_generation
        )
    }

    /// Hosts that ever had their lease, whatever else is in the area.
    fn lockspace(&mut self, place: u64, area: &[u8]) -> io::Result<()> {
        let mut place = place;
        for sector in area.chunks_exact(self.geometry.sector_bytes()) {
            if let Some(leader) = sector.first_chunk::<LEADER_BYTES>().map(Leader::decode)
                && (leader.owner_id != 0 || leader.owner_generation != 0)
            {
                self.leader(place, &leader)?;
                if self.detail != 0 {
                    self.notified(sector)?;
                }
                writeln!(self.out)?;
            }
            place += u64::from(self.geometry.sector_size());
        }
        Ok(())
    }

    fn notified(&mut self, sector: &[u8]) -> io::Result<()> {
        let Some(bitmap) = delta::bitmap(sector) else {
            return Ok(());
        };
        for index in 0..usize::from(self.geometry.max_hosts()) {
            if let Some(host) = HostId::from_index(index)
                && bitmap.contains(host)
            {
                write!(self.out, " {host}")?;
            }
        }
        Ok(())
    }

    fn resource(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        let area = Area::new(bytes, self.geometry);
        let Ok(leader) = area.leader() else {
            return Ok(());
        };
        self.leader(place, &leader)?;
        write!(self.out, " {}", leader.lver)?;
        if self.detail != 0
            && let Ok(request) = area.request()
        {
            write!(self.out, "/{}/{}", request.lver, request.force_mode)?;
        }
        writeln!(self.out)?;
        for index in 0..usize::from(self.geometry.max_hosts()) {
            let Some(host) = HostId::from_index(index) else {
                break;
            };
            let Ok((dblock, mode)) = area.host(host) else {
                break;
            };
            if u64::from(host.get()) > leader.num_hosts {
                break;
            }
            if self.detail >= 2 && !dblock.is_empty() {
                writeln!(
                    self.out,
                    "dblock[{index:04}] mbal {} bal {} inp {} inp2 {} inp3 {} lver {} sum {:x}",
                    dblock.mbal,
                    dblock.bal,
                    dblock.inp,
                    dblock.inp2,
                    dblock.inp3,
                    dblock.lver,
                    dblock.checksum
                )?;
            }
            if mode.is_shared() {
                self.name(b"", 106)?;
                writeln!(self.out, "{:04} {:04} SH", host.get(), mode.generation)?;
            }
        }
        Ok(())
    }

    fn index(&mut self, place: u64, area: &[u8]) -> io::Result<()> {
        let Ok(header) = Header::decode(area) else {
            return Ok(());
        };
        write!(self.out, "{place:08} ")?;
        self.name(header.lockspace_name.bytes(), 36)?;
        writeln!(
            self.out,
            " rindex_header {:#x} {} {} {}",
            header.flags, header.sector_size, header.max_resources, header.rx_offset
        )?;
        if self.detail == 0 {
            return Ok(());
        }
        for number in 0..header.entries(self.geometry) {
            let Ok(entry) = rindex::entry(area, self.geometry, number) else {
                break;
            };
            if entry.is_free() {
                continue;
            }
            let at = place + rindex::entry_offset(self.geometry, number);
            write!(self.out, "{at:08} ")?;
            self.name(header.lockspace_name.bytes(), 36)?;
            self.out.write_all(b" rentry ")?;
            self.out.write_all(entry.name.bytes())?;
            writeln!(self.out, " {}", entry.res_offset)?;
        }
        Ok(())
    }
}
