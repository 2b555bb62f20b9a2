//! A raw file that plays the shared LUN: attached to several machines at once,
//! read by the harness behind their backs, decoded when a scenario fails.
//!
//! The decoder here is deliberately not the product's: it reads the four fields
//! a scenario judges by straight from the offsets of the specification, so that
//! a mistake in `disk-format` cannot hide itself.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use disk_format::{LockspaceName, delta};
use sha2::{Digest, Sha256};

/// The breath between two looks at a record.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a lease record this module looks at.
const RECORD_BYTES: usize = 200;
/// First four bytes of a lease record.
const RECORD_MAGIC: u32 = 0x1221_2010;

/// The file and how machines see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lun {
    /// The file.
    pub path: PathBuf,
    /// Serial number shown to the guest, at most 20 characters.
    pub serial: String,
    /// World-wide name; all machines see the same.
    pub wwn: u64,
    /// Logical block size in bytes, 512 or 4096.
    pub block_bytes: u32,
    /// Attached read-only.
    pub read_only: bool,
}

/// What a lease record says, undisguised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Host id of the holder.
    pub owner: u64,
    /// Generation.
    pub generation: u64,
    /// Unique host name of the holder.
    pub name: String,
    /// Owner's clock in seconds at the last renewal; 0 when free.
    pub timestamp: u64,
}

impl Lun {
    /// Creates a file of `mib` MiB full of zeros.
    pub fn create(path: &Path, number: u16, mib: u64) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("LUN {}", path.display()))?;
        file.set_len(mib << 20)
            .with_context(|| format!("LUN {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            serial: format!("holdfast-lun-{number}"),
            wwn: 0x5000_c500_aa00_0000 + u64::from(number),
            block_bytes: 512,
            read_only: false,
        })
    }

    /// An existing file, looked at from outside only.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            serial: String::new(),
            wwn: 0,
            block_bytes: 512,
            read_only: true,
        }
    }

    /// Path of the device inside a node.
    #[must_use]
    pub fn guest_path(&self) -> String {
        format!("/dev/disk/by-id/wwn-0x{:016x}", self.wwn)
    }

    /// The record in the sector of `host_id`; `None` where there is no record.
    pub fn record(&self, host_id: u32) -> Result<Option<Record>> {
        let mut bytes = [0; RECORD_BYTES];
        let offset = u64::from(host_id - 1) * u64::from(self.block_bytes);
        self.file()?
            .read_exact_at(&mut bytes, offset)
            .with_context(|| format!("LUN {}", self.path.display()))?;
        Ok(decode(&bytes))
    }

    /// SHA-256 of the whole file.
    pub fn digest(&self) -> Result<String> {
        digest(&self.path)
    }

    /// Initialises a lockspace at its start with the original tool, for hosts
    /// with this io_timeout in seconds.
    pub fn initialise(&self, lockspace: &str, io_timeout_s: u32) -> Result<()> {
        let area = format!("{lockspace}:0:{}:0", self.path.display());
        let block = self.block_bytes.to_string();
        let align = if self.block_bytes == 4096 { "8M" } else { "1M" };
        crate::tools::run(
            "sanlock",
            &[
                "direct",
                "init",
                "-s",
                &area,
                "-Z",
                &block,
                "-A",
                align,
                "-o",
                &io_timeout_s.to_string(),
            ],
        )?;
        Ok(())
    }

    /// Reads the whole area with the product's own reader; fails on the first
    /// record that is not a sound record of `lockspace`.
    pub fn check_area(&self, lockspace: &str) -> Result<()> {
        let name = LockspaceName::new(lockspace)?;
        let file = self.file()?;
        let mut start = vec![0; delta::PROBE_BYTES];
        file.read_exact_at(&mut start, 0).context("area: read")?;
        let geometry = delta::discover(&start).context("area")?;
        let mut sector = vec![0; usize::try_from(geometry.sector_size())?];
        for host_id in 1..=u64::from(geometry.max_hosts()) {
            let offset = (host_id - 1) * u64::from(geometry.sector_size());
            file.read_exact_at(&mut sector, offset)
                .context("area: read")?;
            let leader = delta::leader(&sector).context("area: short sector")?;
            delta::verify(&leader, &name)
                .with_context(|| format!("record of host id {host_id}"))?;
        }
        Ok(())
    }

    /// Waits until the record of `host_id` is another than `known`.
    pub fn wait_change(
        &self,
        host_id: u32,
        known: Option<&Record>,
        patience: Duration,
    ) -> Result<Record> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(record) = self.record(host_id)?.filter(|record| Some(record) != known) {
                return Ok(record);
            }
            ensure!(
                Instant::now() < deadline,
                "record of host id {host_id}: unchanged for {} s",
                patience.as_secs()
            );
            // Nobody announces a write to a disk.
            std::thread::park_timeout(LOOK_PAUSE);
        }
    }

    /// A table of every record of the first area, for people.
    pub fn describe(&self) -> Result<String> {
        let size = self.file()?.metadata().context("LUN")?.len();
        let mut text = format!(
            "{}, {size} bytes, {}-byte blocks\n",
            self.path.display(),
            self.block_bytes
        );
        let hosts = u32::try_from(size / u64::from(self.block_bytes))
            .unwrap_or(u32::MAX)
            .min(2000);
        let mut records = 0;
        for host_id in 1..=hosts {
            let Some(record) = self.record(host_id)? else {
                continue;
            };
            records += 1;
            if record.owner != 0 {
                writeln!(
                    text,
                    "host id {host_id}: owner {} generation {} timestamp {} name {:?}",
                    record.owner, record.generation, record.timestamp, record.name
                )?;
            }
        }
        writeln!(text, "{records} records, the others free or never held")?;
        Ok(text)
    }

    /// Whether the file system takes direct I/O; where it does not, all
    /// machines share the host's page cache, which is coherent as well.
    #[must_use]
    pub fn direct(&self) -> bool {
        let flags = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
        OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&self.path)
            .is_ok()
    }

    /// Block node and device for QEMU's command line or QMP, names from `id`.
    #[must_use]
    pub fn block_node(&self, id: &str) -> serde_json::Value {
        serde_json::json!({
            "driver": "raw",
            "node-name": id,
            "read-only": self.read_only,
            "cache": { "direct": self.direct() },
            "file": {
                "driver": "file",
                "node-name": format!("{id}-file"),
                "filename": self.path,
                "locking": "off",
                "read-only": self.read_only,
                "cache": { "direct": self.direct() },
            },
        })
    }

    /// The SCSI disk over the block node `id`.
    #[must_use]
    pub fn device(&self, id: &str) -> serde_json::Value {
        serde_json::json!({
            "driver": "scsi-hd",
            "id": format!("{id}-disk"),
            "bus": "scsi.0",
            "drive": id,
            "share-rw": true,
            "serial": self.serial,
            "device_id": self.serial,
            "wwn": self.wwn,
            "logical_block_size": self.block_bytes,
            "physical_block_size": self.block_bytes,
        })
    }

    fn file(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("LUN {}", self.path.display()))
    }
}

/// SHA-256 of a file, in hexadecimal.
pub fn digest(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).with_context(|| path.display().to_string())?;
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn decode(bytes: &[u8; RECORD_BYTES]) -> Option<Record> {
    let u64_at = |at: usize| {
        bytes[at..at + 8]
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    };
    if bytes[..4] != RECORD_MAGIC.to_le_bytes() {
        return None;
    }
    let name = &bytes[104..152];
    let name = &name[..name
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(name.len())];
    Some(Record {
        owner: u64_at(32),
        generation: u64_at(40),
        name: String::from_utf8_lossy(name).into_owned(),
        timestamp: u64_at(152),
    })
}

/// The original tool's view of an area; fails unless it reads `records` valid
/// records or more.
pub fn original_dump(lun: &Lun, records: usize) -> Result<String> {
    let area = format!("{}:0", lun.path.display());
    let block = lun.block_bytes.to_string();
    let align = if lun.block_bytes == 4096 { "8M" } else { "1M" };
    let output = crate::tools::run(
        "sanlock",
        &["direct", "dump", &area, "-Z", &block, "-A", align],
    )?;
    let lines = output
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count();
    // One line of headings, then one line a record that was ever held.
    ensure!(
        lines > records,
        "sanlock direct dump {area}: {records} records expected, it shows:\n{output}"
    );
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_lun_has_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let lun = Lun::create(&dir.path().join("lun"), 1, 1).unwrap();
        assert_eq!(lun.record(1).unwrap(), None);
    }

    #[test]
    fn the_original_tools_area_decodes() {
        let dir = tempfile::tempdir().unwrap();
        let lun = Lun::create(&dir.path().join("lun"), 1, 1).unwrap();
        let lockspace = format!("LS:0:{}:0", lun.path.display());
        crate::tools::run("sanlock", &["direct", "init", "-s", &lockspace]).unwrap();
        let free = Record {
            owner: 0,
            generation: 0,
            name: String::new(),
            timestamp: 0,
        };
        assert_eq!(lun.record(1).unwrap(), Some(free.clone()));
        assert_eq!(lun.record(2000).unwrap(), Some(free));
        assert_eq!(lun.record(2001).unwrap(), None);
    }

    #[test]
    fn a_held_record_shows_its_holder() {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        bytes[32] = 2;
        bytes[40] = 7;
        bytes[104..109].copy_from_slice(b"hostB");
        bytes[152..154].copy_from_slice(&2683_u16.to_le_bytes());
        let expected = Record {
            owner: 2,
            generation: 7,
            name: "hostB".to_owned(),
            timestamp: 2683,
        };
        assert_eq!(decode(&bytes), Some(expected));
    }
}
