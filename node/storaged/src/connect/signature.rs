//! Whose data is on a LUN: reads it, writes nothing.

use std::path::Path;

use control::storage::connection::Signature;
use disk_format::vdsm::domain::{TAG_READY, TAG_UNREADY};
use disk_format::vdsm::lvm::label::{self, Area};
use disk_format::vdsm::lvm::text::Vg;
use linux::disk::{Access, AlignedBuffer, BlockDevice};
use linux::probe::content::{self, Kind};
use linux::probe::table;

/// Direct reads are aligned to this, whatever the sector size.
const ALIGNMENT: u64 = 4096;

/// Largest piece read at once: the text of a large volume group.
const READ_BYTES_MAX: u64 = 32 << 20;

/// Magic number of Linux software RAID.
const RAID_MAGIC: [u8; 4] = 0xA92B_4EFC_u32.to_le_bytes();

/// What a LUN holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Holding {
    /// Strongest first.
    pub(super) signatures: Vec<Signature>,
    /// Id of a physical volume.
    pub(super) volume_id: Option<String>,
    /// Every physical volume of its group, where it has a copy of the metadata.
    pub(super) members: Vec<String>,
}

/// Reads what is on a device. Blocks as long as the device does.
///
/// # Errors
///
/// Why it cannot be read.
pub(super) fn read(path: &Path) -> Result<Holding, String> {
    let device = BlockDevice::open(path, Access::Read).map_err(|error| error.to_string())?;
    let mut holding = Holding::default();
    let start_len = u64::try_from(content::START_LEN).unwrap_or(u64::MAX);
    let start = piece(&device, 0, start_len)?;
    let found = content::identify(&start);
    match found.as_ref().map(|content| content.kind) {
        Some(Kind::LvmPv) => lvm(&device, &mut holding),
        Some(Kind::MdRaid) => holding.signatures.push(Signature::RaidMember),
        Some(kind @ (Kind::SanlockLockspace | Kind::SanlockResource)) => {
            holding.signatures.push(Signature::Sanlock {
                area: if kind == Kind::SanlockLockspace {
                    "lockspace"
                } else {
                    "resource"
                }
                .into(),
                name: found
                    .as_ref()
                    .and_then(|content| content.label.clone())
                    .unwrap_or_default(),
            });
        }
        Some(kind) => holding.signatures.push(Signature::Content {
            name: kind.name().to_owned(),
            label: found.as_ref().and_then(|content| content.label.clone()),
            uuid: found.as_ref().and_then(|content| content.uuid.clone()),
        }),
        None => {}
    }
    let tail = tail(&device)?;
    if raid_at_end(&tail, device.size()) && !holding.signatures.contains(&Signature::RaidMember) {
        holding.signatures.push(Signature::RaidMember);
    }
    let sector = usize::try_from(device.sector_size().unwrap_or(512)).unwrap_or(512);
    // A boot sector of a file system looks like a partition table.
    if found.as_ref().is_none_or(content::Content::allows_table)
        && let Some(table) = partition_table(&start, &tail, sector)
    {
        holding.signatures.push(Signature::PartitionTable {
            table: table.into(),
        });
    }
    if holding.signatures.is_empty() && start.iter().any(|byte| *byte != 0) {
        holding.signatures.push(Signature::Unrecognized);
    }
    Ok(holding)
}

/// Gives physical volumes without metadata of their own the group that another
/// one names; VDSM keeps metadata on one or two of a domain's LUNs only.
pub(super) fn join_groups<'a>(holdings: impl IntoIterator<Item = &'a mut Holding>) {
    let mut holdings: Vec<&mut Holding> = holdings.into_iter().collect();
    let groups: Vec<(Vec<String>, Signature)> = holdings
        .iter()
        .filter(|holding| !holding.members.is_empty())
        .filter_map(|holding| Some((holding.members.clone(), holding.signatures.first()?.clone())))
        .collect();
    for holding in &mut holdings {
        let Some(id) = holding.volume_id.clone() else {
            continue;
        };
        let group = groups.iter().find(|(members, _)| members.contains(&id));
        if let (Some(first), Some((_, group))) = (holding.signatures.first_mut(), group)
            && matches!(first, Signature::PhysicalVolume { .. })
        {
            *first = group.clone();
        }
    }
}

fn lvm(device: &BlockDevice, holding: &mut Holding) {
    let found = label::read_device(|Area { offset, bytes }| piece(device, offset, bytes));
    let Ok(found) = found else {
        // Labelled, and damaged: still not free.
        holding.signatures.push(Signature::PhysicalVolume {
            uuid: "with a damaged label".into(),
        });
        return;
    };
    holding.volume_id = Some(plain(&found.label.uuid));
    match label::newest([&found]) {
        Some(group) => {
            holding.members = group.pvs.values().map(|pv| plain(&pv.uuid)).collect();
            holding.signatures.push(group_signature(group));
        }
        None => holding.signatures.push(Signature::PhysicalVolume {
            uuid: found.label.uuid,
        }),
    }
}

/// LVM writes its ids with dashes in texts and without in labels.
fn plain(id: &str) -> String {
    id.chars().filter(|letter| *letter != '-').collect()
}

fn group_signature(group: &Vg) -> Signature {
    let tag = |wanted: &str| group.tags.iter().any(|tag| tag == wanted);
    if !tag(TAG_READY) && !tag(TAG_UNREADY) {
        return Signature::VolumeGroup {
            name: content::printable(&group.name),
        };
    }
    let pool = group
        .tags
        .iter()
        .filter_map(|tag| tag.strip_prefix("MDT_POOL_UUID="))
        .find(|pool| !pool.is_empty())
        .map(content::printable);
    Signature::StorageDomain {
        domain: content::printable(&group.name),
        pool,
    }
}

fn partition_table(start: &[u8], tail: &[u8], sector: usize) -> Option<&'static str> {
    const GPT: &[u8] = b"EFI PART";
    let last = tail.len().checked_sub(sector)?;
    if start
        .get(sector..)
        .is_some_and(|rest| rest.starts_with(GPT))
        || tail.get(last..).is_some_and(|rest| rest.starts_with(GPT))
        || start.get(..512).is_some_and(table::claims_gpt)
    {
        return Some("gpt");
    }
    table::parse_mbr(start.get(..512)?).map(|_| "mbr")
}

/// The last 128 KiB, or all of a smaller device.
fn tail(device: &BlockDevice) -> Result<Vec<u8>, String> {
    let from = device.size().saturating_sub(128 << 10) / ALIGNMENT * ALIGNMENT;
    piece(device, from, device.size() - from)
}

/// Versions 0.90 and 1.0 keep their superblock at the end.
fn raid_at_end(tail: &[u8], size: u64) -> bool {
    let tail_at = size - u64::try_from(tail.len()).unwrap_or(0);
    let old = (size & !0xFFFF).checked_sub(64 << 10);
    let new = (size / 512).checked_sub(16).map(|at| (at & !7) * 512);
    [old, new].into_iter().flatten().any(|at| {
        at.checked_sub(tail_at)
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| tail.get(at..))
            .is_some_and(|rest| rest.starts_with(&RAID_MAGIC))
    })
}

/// Bytes from anywhere on the device; fewer at its end.
fn piece(device: &BlockDevice, offset: u64, bytes: u64) -> Result<Vec<u8>, String> {
    if bytes > READ_BYTES_MAX {
        return Err(format!("piece of {bytes} bytes: at most {READ_BYTES_MAX}"));
    }
    let end = offset.saturating_add(bytes).min(device.size());
    let from = offset / ALIGNMENT * ALIGNMENT;
    if end <= offset {
        return Ok(Vec::new());
    }
    let sector = u64::from(device.sector_size().unwrap_or(512));
    let aligned_end = end
        .next_multiple_of(ALIGNMENT)
        .min(device.size().next_multiple_of(sector));
    let length = usize::try_from(aligned_end - from).map_err(|error| error.to_string())?;
    let mut buffer = AlignedBuffer::new(length);
    device
        .read_at(&mut buffer, from)
        .map_err(|error| format!("read at byte {from}: {error}"))?;
    let skip = usize::try_from(offset - from).unwrap_or(0);
    let keep = usize::try_from(end - offset).unwrap_or(0);
    Ok(buffer.get(skip..skip + keep).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    struct Disk {
        _folder: tempfile::TempDir,
        path: PathBuf,
    }

    /// On the build folder's file system: temporary ones in memory may lack direct I/O.
    fn disk(size: u64, pieces: &[(u64, &[u8])]) -> Disk {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("disk");
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        file.set_len(size).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        Disk {
            _folder: folder,
            path,
        }
    }

    fn signatures(size: u64, pieces: &[(u64, &[u8])]) -> Vec<Signature> {
        read(&disk(size, pieces).path).unwrap().signatures
    }

    #[test]
    fn an_empty_lun_has_no_signature_and_any_byte_is_seen() {
        assert_eq!(signatures(8 << 20, &[]), []);
        assert_eq!(
            signatures(8 << 20, &[(512, b"x")]),
            [Signature::Unrecognized]
        );
        assert_eq!(signatures(512, &[]), []);
        assert_eq!(signatures(0, &[]), []);
    }

    #[test]
    fn raid_members_are_seen_wherever_their_superblock_is() {
        let size = 10 << 20;
        for at in [0, 4096, size - (64 << 10), size - 8192] {
            assert_eq!(
                signatures(size, &[(at, &RAID_MAGIC)]),
                [Signature::RaidMember],
                "{at}"
            );
        }
    }

    #[test]
    fn partition_tables_are_seen_at_either_end() {
        let gpt = [Signature::PartitionTable {
            table: "gpt".into(),
        }];
        assert_eq!(signatures(1 << 20, &[(512, b"EFI PART")]), gpt);
        assert_eq!(signatures(1 << 20, &[((1 << 20) - 512, b"EFI PART")]), gpt);
        let mut mbr = vec![0_u8; 512];
        mbr[446..462].copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0]);
        mbr[510..].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(
            signatures(1 << 20, &[(0, &mbr)]),
            [Signature::PartitionTable {
                table: "mbr".into()
            }]
        );
    }

    #[test]
    fn volumes_without_metadata_take_the_group_of_those_that_name_them() {
        let domain = Signature::StorageDomain {
            domain: "d".into(),
            pool: None,
        };
        let mut holdings = [
            Holding {
                signatures: vec![Signature::PhysicalVolume { uuid: "b".into() }],
                volume_id: Some("b".into()),
                members: Vec::new(),
            },
            Holding {
                signatures: vec![domain.clone()],
                volume_id: Some("a".into()),
                members: vec!["a".into(), "b".into()],
            },
            Holding {
                signatures: vec![Signature::PhysicalVolume { uuid: "c".into() }],
                volume_id: Some("c".into()),
                members: Vec::new(),
            },
        ];
        join_groups(&mut holdings);
        assert_eq!(holdings[0].signatures, [domain]);
        assert!(matches!(
            holdings[2].signatures[0],
            Signature::PhysicalVolume { .. }
        ));
    }

    #[test]
    fn sanlock_areas_name_themselves() {
        let mut area = vec![0_u8; 512];
        area[..4].copy_from_slice(&0x1221_2010_u32.to_le_bytes());
        area[56..60].copy_from_slice(b"room");
        assert_eq!(
            signatures(4 << 20, &[(0, &area)]),
            [Signature::Sanlock {
                area: "lockspace".into(),
                name: "room".into()
            }]
        );
    }
}
