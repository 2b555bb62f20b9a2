//! Resource indexes.

use disk_format::rindex::{self, Entry, Header};
use disk_format::{Geometry, LockspaceName, NameField, paxos};
use lease::code::Code;
use linux::disk::{Access, AlignedBuffer};
use sanlock_wire::{Rentry, Rindex, RindexFlags, geometry_of};

use super::device::Device;
use super::index_lock::{Member, with_lock};
use super::resource::{cleared, write_leader_area};

/// Bytes to read at an index's start when its sector size is not known.
const PROBE_BYTES: usize = 4096;
/// Bytes to read of an index in the hope that it is all of it: the smallest
/// area, which has room for 16,000 entries.
const READ_BYTES: usize = 1 << 20;

/// Makes an index, empty, and the resource that protects it.
#[must_use]
pub fn format_rindex(index: &Rindex) -> Code {
    format(index).err().unwrap_or(Code::OK)
}

fn format(index: &Rindex) -> Result<(), Code> {
    let device = Device::open(&index.disk, Access::ReadWrite)?;
    let geometry = geometry_of(index.flags)
        .map_err(|_| Code::EPERM)?
        .unwrap_or_else(|| device.default_geometry());
    let offset = index.disk.offset;
    let lease_offset = lease_offset(offset, geometry)?;
    let name = &index.lockspace_name;
    let header = Header::initial(name, geometry, index.max_resources, offset);
    let uncommitted = Header { magic: 0, ..header };
    device.write_area(offset, geometry, false, &|first_sector, committed, part| {
        part.fill(0);
        if first_sector == 0 {
            let header = if committed { &header } else { &uncommitted };
            for (place, byte) in part.iter_mut().zip(header.encode()) {
                *place = byte;
            }
        }
    })?;
    let lease_name = NameField::from_bytes(rindex::LEASE_NAME.as_bytes());
    let leader = paxos::initial(name, &lease_name, geometry, 0);
    write_leader_area(&device, lease_offset, geometry, &leader)
}

/// Where the resource lies that protects an index.
pub(super) fn lease_offset(offset: u64, geometry: Geometry) -> Result<u64, Code> {
    offset
        .checked_add(u64::from(geometry.align_size()))
        .ok_or(Code::EINVAL)
}

/// An index on its device, its header checked.
struct Open {
    device: Device,
    offset: u64,
    geometry: Geometry,
    header: Header,
}

impl Open {
    fn new(index: &Rindex, access: Access) -> Result<Self, Code> {
        let device = Device::open(&index.disk, access)?;
        let start = device.read(index.disk.offset, PROBE_BYTES)?;
        Self::with_start(index, device, &start)
    }

    /// The index and all its entries, in one reading if it has no more of them
    /// than fit.
    fn whole(index: &Rindex, access: Access) -> Result<(Self, AlignedBuffer), Code> {
        let device = Device::open(&index.disk, access)?;
        let start = device.read(index.disk.offset, READ_BYTES)?;
        let open = Self::with_start(index, device, &start)?;
        if open.used_bytes() <= READ_BYTES {
            return Ok((open, start));
        }
        let all = open.read()?;
        Ok((open, all))
    }

    fn with_start(index: &Rindex, device: Device, start: &[u8]) -> Result<Self, Code> {
        let offset = index.disk.offset;
        let header = Header::decode(start)?;
        let lockspace = LockspaceName::from_field(&index.lockspace_name);
        header.verify_kind()?;
        match lockspace {
            Ok(name) => header.verify(&name, offset)?,
            Err(_) => return Err(Code::RINDEX_LOCKSPACE),
        }
        let geometry = header.geometry()?;
        device.check_sector(geometry.sector_size())?;
        Ok(Self {
            device,
            offset,
            geometry,
            header,
        })
    }

    fn entries(&self) -> u32 {
        self.header.entries(self.geometry)
    }

    /// What header and entries occupy, whole sectors.
    fn used_bytes(&self) -> usize {
        let end = rindex::entry_offset(self.geometry, self.entries());
        let bytes = usize::try_from(end).unwrap_or(usize::MAX);
        bytes
            .next_multiple_of(self.geometry.sector_bytes())
            .min(self.geometry.area_bytes())
    }

    fn read(&self) -> Result<AlignedBuffer, Code> {
        self.device.read(self.offset, self.used_bytes())
    }

    /// Where the sector of an entry starts, from the index's start.
    fn sector(&self, number: u32) -> u64 {
        let sector = u64::from(self.geometry.sector_size());
        rindex::entry_offset(self.geometry, number) / sector * sector
    }

    /// Where in its sector an entry starts.
    fn within(&self, number: u32) -> usize {
        let distance = rindex::entry_offset(self.geometry, number) - self.sector(number);
        usize::try_from(distance).unwrap_or(usize::MAX)
    }

    fn read_sector(&self, number: u32) -> Result<AlignedBuffer, Code> {
        let place = self.offset.saturating_add(self.sector(number));
        self.device.read(place, self.geometry.sector_bytes())
    }

    /// One entry as it is on disk now.
    fn entry(&self, number: u32) -> Result<Entry, Code> {
        let sector = self.read_sector(number)?;
        let bytes = sector.get(self.within(number)..).unwrap_or_default();
        Ok(Entry::decode(bytes)?)
    }

    /// Changes one entry in its sector as it is on disk now.
    fn change(&self, number: u32, entry: &Entry) -> Result<(), Code> {
        self.write_entry(number, entry, self.read_sector(number)?)
    }

    /// The same with the sector taken from what was read of the whole index.
    fn change_in(&self, all: &[u8], number: u32, entry: &Entry) -> Result<(), Code> {
        let mut sector = AlignedBuffer::new(self.geometry.sector_bytes());
        let start = usize::try_from(self.sector(number)).unwrap_or(usize::MAX);
        copy(&mut sector, 0, all.get(start..).unwrap_or_default());
        self.write_entry(number, entry, sector)
    }

    fn write_entry(
        &self,
        number: u32,
        entry: &Entry,
        mut sector: AlignedBuffer,
    ) -> Result<(), Code> {
        copy(&mut sector, self.within(number), &entry.encode());
        let place = self.offset.saturating_add(self.sector(number));
        self.device.write(place, &sector)
    }

    /// The entry whose resource lies at `offset`; the place of no resource is
    /// an error, where the original reads and writes beside its buffer.
    fn at(&self, offset: u64) -> Result<u32, Code> {
        rindex::entry_at(self.offset, self.geometry, offset).ok_or(Code::RINDEX_OFFSET)
    }

    fn place(&self, number: u32) -> Result<u64, Code> {
        rindex::resource_offset(self.offset, self.geometry, number).ok_or(Code::RINDEX_OFFSET)
    }

    fn find(&self, all: &[u8], wanted: impl Fn(&Entry) -> bool) -> Option<(u32, Entry)> {
        (0..self.entries()).find_map(|number| {
            let entry = rindex::entry(all, self.geometry, number).ok()?;
            wanted(&entry).then_some((number, entry))
        })
    }
}

fn reply(result: Result<Rentry, Code>) -> (Code, Rentry) {
    match result {
        Ok(entry) => (Code::OK, entry),
        Err(code) => (code, Rentry::default()),
    }
}

fn rentry(name: NameField, offset: u64) -> Rentry {
    Rentry {
        name,
        offset,
        flags: 0,
    }
}

/// Looks up by name, by offset, or, given neither, the first free entry. Given
/// both they must belong together; if not, what is at the offset comes back
/// with the error.
#[must_use]
pub fn lookup_rindex(index: &Rindex, entry: &Rentry) -> (Code, Rentry) {
    let found = Open::new(index, Access::Read).and_then(|open| lookup(&open, entry));
    match found {
        Ok((code, entry)) => (code, entry),
        Err(code) => (code, Rentry::default()),
    }
}

fn lookup(open: &Open, wanted: &Rentry) -> Result<(Code, Rentry), Code> {
    if wanted.offset != 0 {
        let number = open.at(wanted.offset)?;
        let entry = open.entry(number)?;
        let matches = wanted.name.is_empty() || wanted.name.same_name(&entry.name);
        let code = if matches { Code::OK } else { Code::RINDEX_DIFF };
        return Ok((code, rentry(entry.name.cleaned(), wanted.offset)));
    }
    let all = open.read()?;
    let (number, entry) = open
        .find(&all, |entry| {
            if wanted.name.is_empty() {
                entry.is_free()
            } else {
                entry.name.same_name(&wanted.name)
            }
        })
        .ok_or(Code::ENOENT)?;
    Ok((Code::OK, rentry(entry.name.cleaned(), open.place(number)?)))
}

/// Sets ([`RindexFlags::ADD`], which needs name and offset) or clears
/// ([`RindexFlags::REMOVE`], which needs the offset) one entry, whatever is in
/// it. Nothing protects this from another host doing the same.
#[must_use]
pub fn update_rindex(index: &Rindex, entry: &Rentry, flags: RindexFlags) -> (Code, Rentry) {
    reply(update(index, entry, flags))
}

fn update(index: &Rindex, entry: &Rentry, flags: RindexFlags) -> Result<Rentry, Code> {
    let remove = flags.has(RindexFlags::REMOVE);
    let add = flags.has(RindexFlags::ADD);
    let open = Open::new(index, Access::ReadWrite)?;
    if entry.offset == 0 || !(add || remove) || (!remove && entry.name.is_empty()) {
        return Err(Code::EINVAL);
    }
    let number = open.at(entry.offset)?;
    if remove {
        open.change(number, &Entry::FREE)?;
        return Ok(Rentry::default());
    }
    open.change(number, &Entry::new(&entry.name, entry.offset))?;
    Ok(rentry(entry.name.cleaned(), entry.offset))
}

/// Does `work` on an index and its entries, under the index's lease.
///
/// Where the lease lies depends on the index's geometry. Most indexes have
/// their lockspace's: then the header need not be read beforehand.
fn locked<T>(
    index: &Rindex,
    member: &Member,
    work: impl Fn(&Open, &[u8]) -> Result<T, Code>,
) -> Result<T, Code> {
    let under = |geometry| {
        with_lock(index, geometry, member, || {
            let (open, all) = Open::whole(index, Access::ReadWrite)?;
            if open.geometry != geometry {
                return Err(Code::EINVAL);
            }
            work(&open, &all)
        })
    };
    let likely = geometry_of(index.flags)
        .ok()
        .flatten()
        .unwrap_or(member.geometry);
    under(likely).unwrap_or_else(|refused| {
        // Not there, or not to be had: the header says which.
        let actual = Open::new(index, Access::Read)?.geometry;
        if actual == likely {
            Err(refused)
        } else {
            under(actual)?
        }
    })
}

/// Makes a resource in the first free place and enters it. A name that is in
/// the index already is refused ([`Code::EEXIST`]), where the original enters
/// it twice and then finds only the first.
#[must_use]
pub fn create_resource(
    index: &Rindex,
    entry: &Rentry,
    num_hosts: u32,
    member: &Member,
) -> (Code, Rentry) {
    let name = entry.name.cleaned();
    reply(locked(index, member, |open, all| {
        let same_name = |other: &Entry| other.name.same_name(&name);
        if !name.is_empty() && open.find(all, same_name).is_some() {
            return Err(Code::EEXIST);
        }
        let (number, _) = open.find(all, Entry::is_free).ok_or(Code::ENOENT)?;
        let place = open.place(number)?;
        let lockspace = &open.header.lockspace_name;
        let leader = paxos::initial(lockspace, &name, open.geometry, num_hosts);
        member.check()?;
        write_leader_area(&open.device, place, open.geometry, &leader)?;
        member.check()?;
        open.change_in(all, number, &Entry::new(&name, place))?;
        Ok(rentry(NameField::EMPTY, place))
    }))
}

/// Removes the resource of this name from the index and clears it.
#[must_use]
pub fn delete_resource(index: &Rindex, entry: &Rentry, member: &Member) -> (Code, Rentry) {
    let name = entry.name.cleaned();
    reply(locked(index, member, |open, all| {
        let same_name = |other: &Entry| other.name.same_name(&name);
        if name.is_empty() {
            return Err(Code::ENOENT);
        }
        let (number, _) = open.find(all, same_name).ok_or(Code::ENOENT)?;
        let place = open.place(number)?;
        member.check()?;
        open.change_in(all, number, &Entry::FREE)?;
        let leader = cleared((&open.header.lockspace_name, &name), open.geometry, 0);
        member.check()?;
        write_leader_area(&open.device, place, open.geometry, &leader)?;
        Ok(Rentry::default())
    }))
}

/// Enters every resource found in the index's places, and nothing else.
/// Without a member (no lockspace is joined) nothing protects the index from
/// another host meanwhile.
#[must_use]
pub fn rebuild_rindex(index: &Rindex, member: Option<&Member>) -> Code {
    let result = match member {
        Some(member) => locked(index, member, |open, _| rebuild(open, &|| member.check())),
        None => Open::new(index, Access::ReadWrite).and_then(|open| rebuild(&open, &|| Ok(()))),
    };
    result.err().unwrap_or(Code::OK)
}

fn rebuild(open: &Open, check: &dyn Fn() -> Result<(), Code>) -> Result<(), Code> {
    let geometry = open.geometry;
    let mut found = Vec::new();
    for number in 0..open.entries() {
        let Ok(place) = open.place(number) else {
            break;
        };
        let sector = match open.device.read(place, geometry.sector_bytes()) {
            Ok(sector) => sector,
            // The end of the device.
            Err(Code::EMSGSIZE) => break,
            Err(code) => return Err(code),
        };
        let leader = paxos::leader(&sector)?;
        if leader.magic == paxos::MAGIC {
            found.push((number, Entry::new(&leader.resource_name, place)));
        }
    }
    // The whole area is written again; its validity does not change meanwhile,
    // only which entries it has.
    let part_entries = |first_sector: u32, part: &mut [u8]| {
        part.fill(0);
        let start = u64::from(first_sector) * u64::from(geometry.sector_size());
        let end = start + u64::try_from(part.len()).unwrap_or(u64::MAX);
        if first_sector == 0 {
            copy(part, 0, &open.header.encode());
        }
        for (number, entry) in &found {
            let place = rindex::entry_offset(geometry, *number);
            if place >= start && place < end {
                let within = usize::try_from(place - start).unwrap_or(usize::MAX);
                copy(part, within, &entry.encode());
            }
        }
    };
    check()?;
    open.device
        .write_area(open.offset, geometry, false, &|first_sector, _, part| {
            part_entries(first_sector, part);
        })
}

fn copy(part: &mut [u8], start: usize, record: &[u8]) {
    for (place, byte) in part.iter_mut().skip(start).zip(record) {
        *place = *byte;
    }
}
