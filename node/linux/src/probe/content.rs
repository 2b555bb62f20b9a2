//! File systems and other things that sign the start of a device.

/// How many bytes of a device [`identify`] wants to see: up to and including the
/// superblock that lies farthest in (btrfs, at 64 KiB).
pub const START_LEN: usize = 68 * 1024;

/// What a device holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Second extended file system.
    Ext2,
    /// Third extended file system.
    Ext3,
    /// Fourth extended file system.
    Ext4,
    /// Enhanced read-only file system.
    Erofs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// Extended FAT.
    ExFat,
    /// Windows' file system.
    Ntfs,
    /// CD file system.
    Iso9660,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// squashfs.
    Squashfs,
    /// Swap space.
    Swap,
    /// Physical volume of LVM.
    LvmPv,
    /// Encrypted volume.
    Luks,
    /// Member of a Linux software RAID.
    MdRaid,
    /// Host-id leases of a sanlock lockspace.
    SanlockLockspace,
    /// A resource lease of sanlock.
    SanlockResource,
}

impl Kind {
    /// The usual name, short; for a file system, what `mount` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Erofs => "erofs",
            Self::Fat => "vfat",
            Self::ExFat => "exfat",
            Self::Ntfs => "ntfs",
            Self::Iso9660 => "iso9660",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Swap => "swap",
            Self::LvmPv => "lvm-pv",
            Self::Luks => "luks",
            Self::MdRaid => "md-raid",
            Self::SanlockLockspace => "sanlock-lockspace",
            Self::SanlockResource => "sanlock-resource",
        }
    }

    /// Type to mount it with; `None` if it is no file system.
    #[must_use]
    pub fn mount_type(self) -> Option<&'static str> {
        match self {
            Self::Swap
            | Self::LvmPv
            | Self::Luks
            | Self::MdRaid
            | Self::SanlockLockspace
            | Self::SanlockResource => None,
            _ => Some(self.name()),
        }
    }
}

/// A recognised signature, and how it is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// What it is.
    pub kind: Kind,
    /// Label; for a sanlock area, the name of the lockspace. Control characters
    /// are replaced by `?`, so that it can be printed.
    pub label: Option<String>,
    /// UUID in the format's usual spelling, lower case (upper case for FAT).
    pub uuid: Option<String>,
}

impl Content {
    /// May the same device have a partition table too? A CD image may; for the
    /// others, what looks like a table is their boot code.
    #[must_use]
    pub fn allows_table(&self) -> bool {
        matches!(self.kind, Kind::Iso9660)
    }
}

/// Recognises what the first [`START_LEN`] bytes (or all there are) belong to.
#[must_use]
pub fn identify(start: &[u8]) -> Option<Content> {
    // Strong signatures first; FAT has the weakest.
    type Parser = fn(&[u8]) -> Option<Content>;
    const PARSERS: [Parser; 13] = [
        luks, lvm, xfs, squashfs, erofs, ext, btrfs, swap, md_raid, sanlock, iso9660, windows, fat,
    ];
    PARSERS.iter().find_map(|parse| parse(start))
}

/// Where the root directory of a FAT file system starts, and how much of it is
/// worth reading for its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FatDirectory {
    /// Byte offset on the device.
    pub offset: u64,
    /// Bytes, at most 16 KiB; the label is nearly always the first entry.
    pub len: usize,
}

/// Finds the root directory from a FAT boot sector; `None` for anything else.
#[must_use]
pub fn fat_root_directory(start: &[u8]) -> Option<FatDirectory> {
    const LEN_MAX: u64 = 16 * 1024;
    let boot = FatBoot::parse(start)?;
    let tables = u64::from(boot.tables) * u64::from(boot.table_sectors);
    let after_tables = u64::from(boot.reserved_sectors) + tables;
    let (sector, len) = if boot.root_cluster == 0 {
        (after_tables, u64::from(boot.root_entries) * 32)
    } else {
        let per_cluster = u64::from(boot.cluster_sectors);
        let cluster = u64::from(boot.root_cluster.checked_sub(2)?);
        let length = per_cluster * u64::from(boot.sector_size);
        (after_tables + cluster * per_cluster, length)
    };
    Some(FatDirectory {
        offset: sector * u64::from(boot.sector_size),
        len: usize::try_from(len.min(LEN_MAX)).ok()?,
    })
}

/// The volume label entry of a FAT root directory.
#[must_use]
pub fn fat_directory_label(directory: &[u8]) -> Option<String> {
    const LONG_NAME: u8 = 0x0F;
    const VOLUME: u8 = 0x08;
    const DIRECTORY: u8 = 0x10;
    for entry in directory.chunks_exact(32) {
        let attributes = entry[11];
        match entry[0] {
            0 => return None,
            // Deleted.
            0xE5 => continue,
            _ => {}
        }
        if attributes & LONG_NAME != LONG_NAME && attributes & (VOLUME | DIRECTORY) == VOLUME {
            return padded_text(&entry[..11]);
        }
    }
    None
}

/// Replaces control characters by `?`: labels come from disks, and are printed on
/// consoles that obey escape sequences.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .collect()
}

struct FatBoot {
    sector_size: u16,
    cluster_sectors: u8,
    reserved_sectors: u16,
    tables: u8,
    root_entries: u16,
    table_sectors: u32,
    /// 0 for FAT12 and FAT16.
    root_cluster: u32,
}

impl FatBoot {
    fn parse(start: &[u8]) -> Option<Self> {
        let boot = start.get(..512)?;
        let small_table = u16_at(boot, 22)?;
        let wide = small_table == 0;
        let parsed = Self {
            sector_size: u16_at(boot, 11)?,
            cluster_sectors: boot[13],
            reserved_sectors: u16_at(boot, 14)?,
            tables: boot[16],
            root_entries: u16_at(boot, 17)?,
            table_sectors: if wide {
                u32_at(boot, 36)?
            } else {
                u32::from(small_table)
            },
            root_cluster: if wide { u32_at(boot, 44)? } else { 0 },
        };
        let sectors = u32::from(u16_at(boot, 19)?).max(u32_at(boot, 32)?);
        let plausible = boot[510..512] == [0x55, 0xAA]
            && matches!(boot[0], 0xE9 | 0xEB)
            && matches!(parsed.sector_size, 512 | 1024 | 2048 | 4096)
            && parsed.cluster_sectors.is_power_of_two()
            && parsed.reserved_sectors > 0
            && matches!(parsed.tables, 1 | 2)
            && parsed.table_sectors > 0
            && boot[21] >= 0xF0
            && sectors > 0
            && (wide == (parsed.root_entries == 0))
            && (!wide || parsed.root_cluster >= 2);
        plausible.then_some(parsed)
    }
}

fn fat(start: &[u8]) -> Option<Content> {
    let boot = FatBoot::parse(start)?;
    let (signature, serial, label) = if boot.root_cluster == 0 {
        (38, 39, 43)
    } else {
        (66, 67, 71)
    };
    let mut content = plain(Kind::Fat);
    if start.get(signature) == Some(&0x29) {
        let serial = u32_at(start, serial)?;
        content.uuid = Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xFFFF));
        content.label = padded_text(start.get(label..label + 11)?);
    }
    Some(content)
}

fn windows(start: &[u8]) -> Option<Content> {
    match start.get(3..11)? {
        b"NTFS    " => Some(plain(Kind::Ntfs)),
        b"EXFAT   " => Some(plain(Kind::ExFat)),
        _ => None,
    }
}

fn ext(start: &[u8]) -> Option<Content> {
    let block = start.get(1024..2048)?;
    if u16_at(block, 56)? != 0xEF53 {
        return None;
    }
    let (compatible, incompatible, read_only) =
        (u32_at(block, 92)?, u32_at(block, 96)?, u32_at(block, 100)?);
    // What ext3 knows: filetype, recover, meta_bg; sparse_super, large_file, btree_dir.
    let newer = incompatible & !(0x2 | 0x4 | 0x10) != 0 || read_only & !0x7 != 0;
    let kind = if newer {
        Kind::Ext4
    } else if compatible & 0x4 != 0 {
        Kind::Ext3
    } else {
        Kind::Ext2
    };
    named(kind, block.get(120..136)?, block.get(104..120)?)
}

fn erofs(start: &[u8]) -> Option<Content> {
    let block = start.get(1024..1152)?;
    if u32_at(block, 0)? != 0xE0F5_E1E2 {
        return None;
    }
    named(Kind::Erofs, block.get(64..80)?, block.get(48..64)?)
}

fn xfs(start: &[u8]) -> Option<Content> {
    if start.get(..4)? != b"XFSB" {
        return None;
    }
    named(Kind::Xfs, start.get(108..120)?, start.get(32..48)?)
}

fn btrfs(start: &[u8]) -> Option<Content> {
    let block = start.get(64 * 1024..)?;
    if block.get(64..72)? != b"_BHRfS_M" {
        return None;
    }
    named(Kind::Btrfs, block.get(299..555)?, block.get(32..48)?)
}

fn squashfs(start: &[u8]) -> Option<Content> {
    (start.get(..4)? == b"hsqs").then(|| plain(Kind::Squashfs))
}

fn swap(start: &[u8]) -> Option<Content> {
    if start.get(4086..4096)? != b"SWAPSPACE2" {
        return None;
    }
    named(Kind::Swap, start.get(1052..1068)?, start.get(1036..1052)?)
}

fn iso9660(start: &[u8]) -> Option<Content> {
    let descriptor = start.get(32 * 1024..34 * 1024)?;
    if descriptor.get(..6)? != b"\x01CD001" {
        return None;
    }
    let mut content = plain(Kind::Iso9660);
    content.label = padded_text(descriptor.get(40..72)?);
    Some(content)
}

fn lvm(start: &[u8]) -> Option<Content> {
    // The label may be in any of the first four sectors.
    let label = start
        .chunks_exact(512)
        .take(4)
        .find(|sector| sector.starts_with(b"LABELONE") && sector[24..32] == *b"LVM2 001")?;
    let mut content = plain(Kind::LvmPv);
    content.uuid = text(label.get(32..64)?);
    Some(content)
}

fn luks(start: &[u8]) -> Option<Content> {
    if start.get(..6)? != b"LUKS\xba\xbe" {
        return None;
    }
    let mut content = plain(Kind::Luks);
    content.uuid = text(start.get(168..208)?);
    if start.get(6..8)? == [0, 2] {
        content.label = text(start.get(24..72)?);
    }
    Some(content)
}

fn md_raid(start: &[u8]) -> Option<Content> {
    [0, 4096]
        .iter()
        .any(|offset| u32_at(start, *offset) == Some(0xA92B_4EFC))
        .then(|| plain(Kind::MdRaid))
}

fn sanlock(start: &[u8]) -> Option<Content> {
    let kind = match u32_at(start, 0)? {
        0x1221_2010 => Kind::SanlockLockspace,
        0x0615_2010 => Kind::SanlockResource,
        _ => return None,
    };
    let mut content = plain(kind);
    content.label = text(start.get(56..104)?);
    Some(content)
}

fn plain(kind: Kind) -> Content {
    Content {
        kind,
        label: None,
        uuid: None,
    }
}

fn named(kind: Kind, label: &[u8], uuid: &[u8]) -> Option<Content> {
    let mut content = plain(kind);
    content.label = text(label);
    content.uuid = (uuid.iter().any(|byte| *byte != 0))
        .then(|| uuid_text(uuid))
        .flatten();
    Some(content)
}

/// Text up to the first zero byte; `None` if there is none.
fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    let text = printable(&String::from_utf8_lossy(bytes.get(..end)?));
    (!text.is_empty()).then_some(text)
}

/// Text padded with blanks, as in FAT and on CDs.
fn padded_text(bytes: &[u8]) -> Option<String> {
    text(bytes)
        .map(|text| text.trim_end().to_owned())
        // What tools write for "no label".
        .filter(|text| !text.is_empty() && text != "NO NAME")
}

/// A UUID whose bytes are in the order they are written.
fn uuid_text(bytes: &[u8]) -> Option<String> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Some(text)
}

/// A GUID as EFI stores it: the first three fields little-endian.
pub(super) fn guid_text(bytes: &[u8]) -> Option<String> {
    let mut bytes: [u8; 16] = bytes.try_into().ok()?;
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    uuid_text(&bytes)
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_le_bytes(*field))
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_le_bytes(*field))
}

pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let field = bytes.get(offset..)?.first_chunk()?;
    Some(u64::from_le_bytes(*field))
}
