//! Writes the disk: a GPT with an EFI system partition and the root.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;

use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition_types;

use crate::{Error, run};

/// Partitions begin at multiples of this, as every tool does it.
const ALIGNMENT: u64 = 1 << 20;

/// Room for two kernels with their initrds.
const ESP_BYTES: u64 = 128 << 20;

const SECTOR: u64 = 512;

/// The root partition's name.
const ROOT_NAME: &str = "holdfast-root";

/// A UUID made from the first 16 bytes of a SHA-256, marked as version 4.
pub(crate) fn uuid_from_sha256(hex: &str) -> String {
    let mut digits: Vec<char> = hex.chars().take(32).collect();
    assert_eq!(digits.len(), 32, "a SHA-256 has 64 hex digits");
    digits[12] = '4';
    digits[16] = match digits[16] {
        '0' | '4' | '8' | 'c' => '8',
        '1' | '5' | '9' | 'd' => '9',
        '2' | '6' | 'a' | 'e' => 'a',
        _ => 'b',
    };
    let digits: String = digits.into_iter().collect();
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

/// Writes a disk with the root file system `root`, whose partition gets the UUID `root_uuid`.
///
/// The disk depends on nothing but the root: its own UUID and the other partition's are derived from the root's.
pub(crate) fn write(path: &Path, root: &Path, root_uuid: &str) -> Result<(), Error> {
    let root_bytes = fs::metadata(root)
        .map_err(Error::io("read", root))?
        .len()
        .next_multiple_of(ALIGNMENT);
    let total = ALIGNMENT + ESP_BYTES + root_bytes + ALIGNMENT;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(Error::io("create", path))?;
    file.set_len(total).map_err(Error::io("size", path))?;

    // The two differ from the root's in the first digit group, by a fixed pattern.
    let derived = |mask: u32| -> Result<uuid::Uuid, Error> {
        let root = uuid(root_uuid)?;
        Ok(uuid::Uuid::from_u128(
            root.as_u128() ^ (u128::from(mask) << 96),
        ))
    };
    let last = u32::try_from(total / SECTOR - 1).unwrap_or(u32::MAX);
    let failed = |source: io::Error| Error::Io {
        action: "partition",
        path: path.to_owned(),
        source,
    };
    let gpt_failed = |error: gpt::GptError| failed(io::Error::other(error));
    ProtectiveMBR::with_lb_size(last)
        .overwrite_lba0(&mut file)
        .map_err(|error| failed(io::Error::other(error)))?;
    let mut disk = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(file, Some(derived(1)?))
        .map_err(gpt_failed)?;
    let mut table = std::collections::BTreeMap::new();
    let partition = |kind, uuid, start: u64, bytes: u64, name: &str| gpt::partition::Partition {
        part_type_guid: kind,
        part_guid: uuid,
        first_lba: start / SECTOR,
        last_lba: (start + bytes) / SECTOR - 1,
        flags: 0,
        name: name.to_owned(),
    };
    table.insert(
        1,
        partition(
            partition_types::EFI,
            derived(2)?,
            ALIGNMENT,
            ESP_BYTES,
            "holdfast-esp",
        ),
    );
    let root_start = ALIGNMENT + ESP_BYTES;
    table.insert(
        2,
        partition(
            partition_types::LINUX_FS,
            uuid(root_uuid)?,
            root_start,
            root_bytes,
            ROOT_NAME,
        ),
    );
    disk.update_partitions(table).map_err(gpt_failed)?;
    let mut file = disk.write().map_err(gpt_failed)?;

    file.seek(SeekFrom::Start(root_start))
        .map_err(Error::io("write", path))?;
    let mut from = File::open(root).map_err(Error::io("open", root))?;
    io::copy(&mut from, &mut file).map_err(Error::io("write", path))?;
    drop(file);
    format_esp(path)
}

/// Puts an empty FAT file system on the EFI system partition.
fn format_esp(path: &Path) -> Result<(), Error> {
    let mut command = Command::new("mkfs.vfat");
    // "invariant": no time stamp and no random volume number.
    command.args(["--invariant", "-F", "32", "-n", "HOLDFASTESP", "--offset"]);
    command
        .arg((ALIGNMENT / SECTOR).to_string())
        .arg(path)
        .arg((ESP_BYTES / 1024).to_string());
    // Debian keeps it where an ordinary user's path does not reach.
    command.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    run::captured(&mut command).map(drop)
}

fn uuid(text: &str) -> Result<uuid::Uuid, Error> {
    uuid::Uuid::parse_str(text)
        .map_err(|error| Error::Input(format!("partition UUID {text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_is_the_hash_with_version_and_variant_set() {
        let hash = "0123456789abcdef".repeat(4);
        assert_eq!(
            uuid_from_sha256(&hash),
            "01234567-89ab-4def-8123-456789abcdef"
        );
        assert_eq!(
            uuid_from_sha256(&"f".repeat(64)),
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
        );
        assert_eq!(
            uuid::Uuid::parse_str(&uuid_from_sha256(&hash))
                .unwrap()
                .get_version_num(),
            4
        );
    }

    #[test]
    fn disk_has_the_root_where_its_table_says() {
        let dir = tempfile::tempdir().unwrap();
        let (root, path) = (dir.path().join("root"), dir.path().join("disk"));
        let contents: Vec<u8> = (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(&root, &contents).unwrap();
        let uuid = uuid_from_sha256(&"5a".repeat(32));
        write(&path, &root, &uuid).unwrap();
        let again = dir.path().join("again");
        write(&again, &root, &uuid).unwrap();
        assert!(
            fs::read(&path).unwrap() == fs::read(&again).unwrap(),
            "two disks of one root differ"
        );

        let disk = gpt::GptConfig::new().open(&path).unwrap();
        let partition = &disk.partitions()[&2];
        assert_eq!(
            (partition.name.as_str(), partition.part_guid.to_string()),
            ("holdfast-root", uuid)
        );
        let start = usize::try_from(partition.first_lba * SECTOR).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert!(
            bytes[start..].starts_with(&contents),
            "the root is not at {start}"
        );
        let esp = usize::try_from(disk.partitions()[&1].first_lba * SECTOR).unwrap();
        assert_eq!(&bytes[esp + 82..esp + 87], b"FAT32");
    }
}
