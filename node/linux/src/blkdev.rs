//! Block devices as sysfs shows them: sizes, limits, who lies above whom.
//!
//! Nothing here opens a device: reading sysfs never waits for one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Most devices listed; a host with many LUNs on many paths has a few thousand.
pub const DEVICES_MAX: usize = 16_384;

/// Deepest stack of devices followed upwards.
const DEPTH_MAX: usize = 16;

/// A device-mapper device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// Its UUID, whose prefix says whose it is: `mpath-`, `LVM-`.
    pub uuid: String,
    /// I/O to it waits.
    pub suspended: bool,
}

/// One whole disk or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The kernel's name, such as `sda` or `dm-3`.
    pub name: String,
    /// `major:minor`.
    pub number: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Bytes of a logical sector.
    pub logical_block_bytes: u32,
    /// Bytes of a physical sector.
    pub physical_block_bytes: u32,
    /// Largest discard in bytes; 0 when it cannot.
    pub discard_max_bytes: u64,
    /// Cannot be written.
    pub read_only: bool,
    /// Names of what lies above it.
    pub holders: Vec<String>,
    /// Names of what it lies on.
    pub slaves: Vec<String>,
    /// Names of its partitions.
    pub partitions: Vec<String>,
    /// What device-mapper says of it.
    pub map: Option<Map>,
}

impl Block {
    /// World-wide name of a multipath map.
    #[must_use]
    pub fn multipath_wwid(&self) -> Option<&str> {
        self.map.as_ref()?.uuid.strip_prefix("mpath-")
    }
}

/// Whole disks and maps, by name; those without size and RAM disks are left out.
#[must_use]
pub fn list(sys: &Path) -> Vec<Block> {
    let mut blocks: Vec<Block> = names(&sys.join("block"))
        .iter()
        .filter(|name| !name.starts_with("ram") && !name.starts_with("zram"))
        .take(DEVICES_MAX)
        .filter_map(|name| read(sys, name))
        .filter(|block| block.size_bytes > 0)
        .collect();
    blocks.sort_by(|one, other| (one.name.len(), &one.name).cmp(&(other.name.len(), &other.name)));
    blocks
}

/// One whole disk or map; `None` when it is not there (any more).
#[must_use]
pub fn read(sys: &Path, name: &str) -> Option<Block> {
    let folder = sys.join("block").join(name);
    let number = |path: &str| attribute(&folder, path).and_then(|text| text.parse::<u64>().ok());
    let small = |path: &str| {
        number(path)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0)
    };
    let map = attribute(&folder, "dm/name").map(|name| Map {
        name,
        uuid: attribute(&folder, "dm/uuid").unwrap_or_default(),
        suspended: number("dm/suspended") == Some(1),
    });
    Some(Block {
        name: name.to_owned(),
        number: attribute(&folder, "dev")?,
        // The kernel counts in 512 bytes, whatever the sector size.
        size_bytes: number("size")?.checked_mul(512)?,
        logical_block_bytes: small("queue/logical_block_size"),
        physical_block_bytes: small("queue/physical_block_size"),
        discard_max_bytes: number("queue/discard_max_bytes").unwrap_or(0),
        read_only: number("ro") == Some(1),
        holders: names(&folder.join("holders")),
        slaves: names(&folder.join("slaves")),
        partitions: names(&folder)
            .into_iter()
            .filter(|entry| folder.join(entry).join("partition").exists())
            .collect(),
        map,
    })
}

/// Everything that lies on a disk or map, itself first: its partitions, and the
/// maps above all of them.
#[must_use]
pub fn stack(sys: &Path, name: &str) -> Vec<String> {
    let mut found = vec![name.to_owned()];
    let mut seen = BTreeSet::from([name.to_owned()]);
    let mut layer = vec![(sys.join("block").join(name), name.to_owned())];
    for _ in 0..DEPTH_MAX {
        let mut above: Vec<(PathBuf, String)> = Vec::new();
        for (folder, _) in &layer {
            for entry in names(folder) {
                if folder.join(&entry).join("partition").exists() {
                    above.push((folder.join(&entry), entry));
                }
            }
            for holder in names(&folder.join("holders")) {
                above.push((sys.join("block").join(&holder), holder));
            }
        }
        above.retain(|(_, name)| seen.insert(name.clone()) && seen.len() < DEVICES_MAX);
        if above.is_empty() {
            break;
        }
        found.extend(above.iter().map(|(_, name)| name.clone()));
        layer = above;
    }
    found
}

/// The kernel's number of a disk, map or partition.
#[must_use]
pub fn number(sys: &Path, name: &str) -> Option<String> {
    attribute(&sys.join("class/block").join(name), "dev")
        .or_else(|| attribute(&sys.join("block").join(name), "dev"))
}

/// Names in a directory of sysfs, sorted; none when it is not there.
#[must_use]
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// A line of sysfs without blanks around it; `None` when it is empty or not there.
#[must_use]
pub fn attribute(folder: &Path, name: &str) -> Option<String> {
    let bytes = fs::read(folder.join(name)).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn disks_maps_and_what_lies_above_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path();
        put(sys, "block/sda/dev", "8:0\n");
        put(sys, "block/sda/size", "2048\n");
        put(sys, "block/sda/queue/logical_block_size", "512\n");
        put(sys, "block/sda/queue/discard_max_bytes", "4294966784\n");
        put(sys, "block/sda/sda1/partition", "1\n");
        put(sys, "block/sda/sda1/holders/dm-1/x", "");
        put(sys, "block/sda/holders/dm-0/x", "");
        put(sys, "block/dm-0/dev", "253:0\n");
        put(sys, "block/dm-0/size", "2048\n");
        put(sys, "block/dm-0/dm/name", "360014\n");
        put(sys, "block/dm-0/dm/uuid", "mpath-360014\n");
        put(sys, "block/dm-0/dm/suspended", "0\n");
        put(sys, "block/dm-0/slaves/sda/x", "");
        put(sys, "block/dm-0/holders/dm-1/x", "");
        put(sys, "block/sr0/dev", "11:0\n");
        put(sys, "block/sr0/size", "0\n");
        put(sys, "block/broken/size", "many\n");
        let blocks = list(sys);
        let found: Vec<&str> = blocks.iter().map(|block| block.name.as_str()).collect();
        assert_eq!(found, ["sda", "dm-0"]);
        assert_eq!(blocks[0].size_bytes, 1 << 20);
        assert_eq!(blocks[0].logical_block_bytes, 512);
        assert_eq!(blocks[0].discard_max_bytes, 4_294_966_784);
        assert_eq!(blocks[0].partitions, ["sda1"]);
        assert_eq!(blocks[1].multipath_wwid(), Some("360014"));
        assert_eq!(stack(sys, "sda"), ["sda", "sda1", "dm-0", "dm-1"]);
        assert_eq!(number(sys, "dm-0").as_deref(), Some("253:0"));
        assert_eq!(read(sys, "gone"), None);
    }
}
