//! The size of a block device without touching it.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Sectors in `/sys` are of this size whatever the device's are.
const SECTOR_BYTES: u64 = 512;

/// Bytes of the block device at `path`, as the kernel maps it now. Follows links;
/// `sys` is where sysfs is mounted. Does no I/O on the device.
///
/// # Errors
/// No such path, not a block device, or the kernel does not know it any more.
pub fn size_bytes(path: &Path, sys: &Path) -> io::Result<u64> {
    let metadata = path.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Err(io::Error::other(format!(
            "{}: not a block device",
            path.display()
        )));
    }
    let number = metadata.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let file = sys.join(format!("dev/block/{major}:{minor}/size"));
    let text = std::fs::read_to_string(&file)?;
    text.trim()
        .parse::<u64>()
        .ok()
        .and_then(|sectors| sectors.checked_mul(SECTOR_BYTES))
        .ok_or_else(|| io::Error::other(format!("{}: {text:?} is no size", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_refused() {
        let sys = Path::new("/sys");
        assert!(size_bytes(Path::new("/dev/null"), sys).is_err());
        assert!(size_bytes(Path::new("/nonexistent"), sys).is_err());
    }
}
