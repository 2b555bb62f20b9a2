//! What is on a block device: partition tables, labels, UUIDs.
//!
//! [`table`] and [`content`] are pure parsers over bytes; any bytes get an
//! answer, none a panic. The scan around them reads `/sys/class/block` for what
//! exists and the first [`content::START_LEN`] bytes of each device for what it
//! holds. It never writes, and never opens a device for writing.
//!
//! Reads go through the page cache on purpose: they wait killably, so a dead disk
//! cannot keep a process from ending.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

pub mod content;
pub mod table;

use content::Content;
use table::{GptFault, Table};

/// Most block devices a scan lists; more are left out. A host with many LUNs on
/// many paths has a few thousand.
pub const DEVICES_MAX: usize = 16_384;

/// One block device and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// The kernel's name, such as `vda1`.
    pub name: String,
    /// Its device node.
    pub node: PathBuf,
    /// Size in bytes.
    pub size_bytes: u64,
    /// For a partition: which one.
    pub partition: Option<PartitionIdentity>,
    /// For a disk: kind of its partition table, `gpt` or `mbr`.
    pub table: Option<&'static str>,
    /// File system or other signature found.
    pub content: Option<Content>,
    /// Why it could not be read, or what is wrong with its partition table.
    pub fault: Option<String>,
}

/// How a partition is named by the table it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionIdentity {
    /// The kernel's name of the disk.
    pub disk: String,
    /// Number, from 1.
    pub number: u32,
    /// PARTUUID, lower case: a GUID, or `diskid-number` in an MBR.
    pub uuid: Option<String>,
    /// GPT partition name.
    pub name: Option<String>,
}

impl BlockDevice {
    /// PARTUUID, lower case.
    #[must_use]
    pub fn partition_uuid(&self) -> Option<&str> {
        self.partition.as_ref()?.uuid.as_deref()
    }

    /// GPT partition name.
    #[must_use]
    pub fn partition_name(&self) -> Option<&str> {
        self.partition.as_ref()?.name.as_deref()
    }

    /// File system label.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.content.as_ref()?.label.as_deref()
    }

    /// File system UUID.
    #[must_use]
    pub fn uuid(&self) -> Option<&str> {
        self.content.as_ref()?.uuid.as_deref()
    }

    /// True if the file system's label or the partition's name is `label`.
    #[must_use]
    pub fn is_labelled(&self, label: &str) -> bool {
        self.label() == Some(label) || self.partition_name() == Some(label)
    }
}

/// Where the kernel shows its devices; the default is the running machine.
#[derive(Debug, Clone)]
pub struct Places {
    /// Directory of all block devices.
    pub sys_class_block: PathBuf,
    /// Directory of device nodes.
    pub dev: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            sys_class_block: PathBuf::from("/sys/class/block"),
            dev: PathBuf::from("/dev"),
        }
    }
}

/// Names of the block devices worth reading, in natural order (`sda2` before
/// `sda10`). Devices without size (an empty card reader, a free loop device),
/// floppy drives and RAM disks are left out.
///
/// # Errors
/// The directory cannot be read.
pub fn names(places: &Places) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(&places.sys_class_block)?.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if is_worth_reading(&name) && size_bytes(places, &name) > 0 && names.len() < DEVICES_MAX {
            names.push(name);
        }
    }
    names.sort_by(|left, right| natural(left).cmp(&natural(right)));
    Ok(names)
}

/// What the kernel says about the device called `name`, without reading it.
#[must_use]
pub fn describe(places: &Places, name: &str) -> BlockDevice {
    BlockDevice {
        name: name.to_owned(),
        node: node(places, name),
        size_bytes: size_bytes(places, name),
        partition: identity(places, name),
        table: None,
        content: None,
        fault: None,
    }
}

/// Reads what is on the device called `name`. Never fails: what went wrong is in
/// [`BlockDevice::fault`]. Blocks as long as the device takes to answer.
#[must_use]
pub fn examine(places: &Places, name: &str) -> BlockDevice {
    let mut device = describe(places, name);
    if let Err(error) = read_content(places, &mut device) {
        device.fault = Some(error.to_string());
    }
    if let Some(partition) = &mut device.partition
        && let Ok(Some(table)) = read_table(places, &partition.disk)
        && let Some(entry) = table.partition(partition.number)
    {
        partition.uuid = Some(entry.uuid.clone());
        if !entry.name.is_empty() {
            partition.name = Some(entry.name.clone());
        }
    }
    device
}

/// Reads every block device, one after the other.
///
/// # Errors
/// The list of devices cannot be read; a device that cannot is in the answer,
/// with its fault.
pub fn scan(places: &Places) -> io::Result<Vec<BlockDevice>> {
    Ok(names(places)?
        .iter()
        .map(|name| examine(places, name))
        .collect())
}

fn read_content(places: &Places, device: &mut BlockDevice) -> io::Result<()> {
    let file = File::open(&device.node)?;
    let start = read_up_to(&file, 0, content::START_LEN)?;
    device.content = content::identify(&start);
    if let Some(found) = &mut device.content
        && let Some(directory) = content::fat_root_directory(&start)
    {
        // The directory's label is the one that tools show and change.
        let bytes = read_up_to(&file, directory.offset, directory.len)?;
        if let Some(label) = content::fat_directory_label(&bytes) {
            found.label = Some(label);
        }
    }
    if device.partition.is_none()
        && device
            .content
            .as_ref()
            .is_none_or(|found| found.allows_table())
    {
        match read_table(places, &device.name) {
            Ok(found) => device.table = found.map(|table| table.kind()),
            Err(TableError::Gpt(fault)) => device.fault = Some(format!("partition table: {fault}")),
            Err(TableError::Read(error)) => return Err(error),
        }
    }
    Ok(())
}

enum TableError {
    Read(io::Error),
    Gpt(GptFault),
}

/// The partition table of a disk; `None` if it has none.
fn read_table(places: &Places, disk: &str) -> Result<Option<Table>, TableError> {
    let file = File::open(node(places, disk)).map_err(TableError::Read)?;
    let block_size = attribute(places, disk, "queue/logical_block_size")
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|size| (512..=65_536).contains(size))
        .unwrap_or(512);
    let block = u64::from(block_size);
    let first = read_up_to(&file, 0, 512).map_err(TableError::Read)?;
    let primary = read_gpt(&file, block, 1);
    let fault = match primary {
        Ok(partitions) => return Ok(Some(Table::Gpt(partitions))),
        Err(fault) => fault,
    };
    if let Some(last) = (size_bytes(places, disk) / block).checked_sub(1)
        && table::claims_gpt(&first)
        && let Ok(partitions) = read_gpt(&file, block, last)
    {
        return Ok(Some(Table::Gpt(partitions)));
    }
    match fault {
        TableError::Gpt(GptFault::NoSignature) => {}
        TableError::Gpt(_) if !table::claims_gpt(&first) => {}
        fault => return Err(fault),
    }
    Ok(table::parse_mbr(&first).map(Table::Mbr))
}

fn read_gpt(file: &File, block: u64, at: u64) -> Result<Vec<table::Partition>, TableError> {
    let header = read_up_to(file, at.saturating_mul(block), 512).map_err(TableError::Read)?;
    let header = table::GptHeader::parse(&header, at).map_err(TableError::Gpt)?;
    let offset = header.entries_at.checked_mul(block);
    let offset = offset.ok_or(TableError::Gpt(GptFault::Truncated))?;
    let entries = read_up_to(file, offset, header.entries_len()).map_err(TableError::Read)?;
    header.parse_entries(&entries).map_err(TableError::Gpt)
}

/// Reads up to `len` bytes; fewer at the end of the device.
fn read_up_to(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        match file.read_at(&mut bytes[filled..], at) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn is_worth_reading(name: &str) -> bool {
    let kind = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    !matches!(kind, "ram" | "fd" | "zram")
}

/// A disk's name may hold `!` where its node's path has `/`.
fn node(places: &Places, name: &str) -> PathBuf {
    places.dev.join(name.replace('!', "/"))
}

fn attribute(places: &Places, name: &str, attribute: &str) -> Option<String> {
    let path = places.sys_class_block.join(name).join(attribute);
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The kernel counts in 512-byte units, whatever the block size.
fn size_bytes(places: &Places, name: &str) -> u64 {
    attribute(places, name, "size")
        .and_then(|text| text.parse::<u64>().ok())
        .and_then(|units| units.checked_mul(512))
        .unwrap_or(0)
}

fn identity(places: &Places, name: &str) -> Option<PartitionIdentity> {
    let number = attribute(places, name, "partition")?.parse().ok()?;
    let link = fs::canonicalize(places.sys_class_block.join(name)).ok()?;
    let disk = link.parent()?.file_name()?.to_str()?.to_owned();
    let uevent = attribute(places, name, "uevent").unwrap_or_default();
    let value = |key: &str| {
        uevent
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
    };
    Some(PartitionIdentity {
        disk,
        number,
        // Newer kernels say it; older ones need the disk's table.
        uuid: value("PARTUUID").map(|uuid| uuid.to_ascii_lowercase()),
        name: value("PARTNAME").map(|name| content::printable(&name)),
    })
}

/// Splits a name into text and number parts, so that 2 comes before 10.
fn natural(name: &str) -> Vec<(&str, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail
            .find(|letter: char| !letter.is_ascii_digit())
            .unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        parts.push((text, number.parse().unwrap_or(0)));
        rest = tail;
    }
    parts
}

#[cfg(test)]
mod tests;
