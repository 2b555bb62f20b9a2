//! The watchdog device.
//!
//! Opening it arms it. Dropping a [`Watchdog`] closes it *without* the magic
//! character, which leaves the timer running: that is the safe side, and only
//! [`Watchdog::disarm`] does otherwise.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::ioctl::{self, Getter, Updater, opcode};

/// `WDIOC_GETSUPPORT`'s answer (`struct watchdog_info`).
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

const _: () = assert!(size_of::<Info>() == 40);

const GET_SUPPORT: ioctl::Opcode = opcode::read::<Info>(b'W', 0);
const SET_TIMEOUT: ioctl::Opcode = opcode::read_write::<i32>(b'W', 6);
const GET_TIMEOUT: ioctl::Opcode = opcode::read::<i32>(b'W', 7);

/// An armed watchdog.
#[derive(Debug)]
pub struct Watchdog {
    file: File,
    path: PathBuf,
    identity: String,
}

impl Watchdog {
    /// Opens and thereby arms the device. The kernel lets one process hold it.
    ///
    /// # Errors
    /// No such device, held by somebody else, or not a watchdog.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(path)?;
        // SAFETY: WDIOC_GETSUPPORT fills exactly one `struct watchdog_info`, whose size and layout `Info` has.
        let info: Info = unsafe { ioctl::ioctl(file.as_fd(), Getter::<GET_SUPPORT, Info>::new())? };
        let end = info
            .identity
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(info.identity.len());
        let identity = String::from_utf8_lossy(&info.identity[..end]).into_owned();
        Ok(Self {
            file,
            path: path.to_owned(),
            identity,
        })
    }

    /// Path it was opened at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name the driver gives itself.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Asks for `seconds` from the last pet to the reset and returns what the
    /// device really does, which may differ (hardware has steps).
    ///
    /// # Errors
    /// The device cannot be set, or reports nonsense.
    pub fn set_timeout(&self, seconds: u32) -> io::Result<u32> {
        let mut value = i32::try_from(seconds).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: WDIOC_SETTIMEOUT reads and writes back exactly one int, which `value` is.
        unsafe {
            ioctl::ioctl(
                self.file.as_fd(),
                Updater::<SET_TIMEOUT, i32>::new(&mut value),
            )?
        };
        self.timeout()
    }

    /// Seconds from the last pet to the reset.
    ///
    /// # Errors
    /// The device does not say.
    pub fn timeout(&self) -> io::Result<u32> {
        // SAFETY: WDIOC_GETTIMEOUT fills exactly one int.
        let value: i32 =
            unsafe { ioctl::ioctl(self.file.as_fd(), Getter::<GET_TIMEOUT, i32>::new())? };
        u32::try_from(value).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Restarts the countdown.
    ///
    /// # Errors
    /// The device failed; the countdown goes on.
    pub fn pet(&self) -> io::Result<()> {
        // Any byte but 'V' pets and at the same time takes back an earlier 'V'.
        (&self.file).write_all(&[0])
    }

    /// Whether the driver ignores the magic character (`nowayout`), as far as it says.
    #[must_use]
    pub fn never_disarms(&self) -> bool {
        let Some(name) = self.path.file_name() else {
            return false;
        };
        let file = Path::new("/sys/class/watchdog").join(name).join("nowayout");
        fs::read_to_string(file).is_ok_and(|text| text.trim() == "1")
    }

    /// Stops the countdown and closes the device: for a clean end only.
    ///
    /// # Errors
    /// The magic character could not be written; the countdown goes on.
    pub fn disarm(self) -> io::Result<()> {
        (&self.file).write_all(b"V")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_numbers_are_the_kernels() {
        assert_eq!(GET_SUPPORT, 0x8028_5700);
        assert_eq!(SET_TIMEOUT, 0xC004_5706);
        assert_eq!(GET_TIMEOUT, 0x8004_5707);
    }

    #[test]
    fn a_file_that_is_no_watchdog_is_refused() {
        assert!(Watchdog::open(Path::new("/dev/null")).is_err());
    }
}
