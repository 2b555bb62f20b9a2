//! Host name, entropy, wall clock, kernel command line.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode};
use rustix::ioctl::{self, Setter, opcode};
use rustix::time::{ClockId, Timespec};

/// Bytes a seed file holds: the size of the kernel's own key pool, doubled.
pub const SEED_BYTES: usize = 64;

/// `RNDADDENTROPY`'s argument (`struct rand_pool_info` with its buffer).
#[repr(C)]
struct Credit {
    entropy_bits: i32,
    buffer_bytes: i32,
    buffer: [u8; SEED_BYTES],
}

/// The kernel defines the request over the two leading ints only.
const ADD_ENTROPY: ioctl::Opcode = opcode::write::<[i32; 2]>(b'R', 3);

/// Sets the kernel's host name (1–64 bytes).
///
/// # Errors
/// Not root, or too long.
pub fn set_host_name(name: &str) -> io::Result<()> {
    rustix::system::sethostname(name.as_bytes())?;
    Ok(())
}

/// The kernel's host name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Release of the running kernel (`uname -r`).
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The kernel's id of this boot, a UUID.
///
/// # Errors
/// `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// Time since the kernel started (monotonic clock).
#[must_use]
pub fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Wall clock, since 1970.
#[must_use]
pub fn wall_clock() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// Sets the wall clock.
///
/// # Errors
/// Not root, or before 1970.
pub fn set_wall_clock(since_1970: Duration) -> io::Result<()> {
    let seconds = i64::try_from(since_1970.as_secs()).map_err(|_| io::ErrorKind::InvalidInput)?;
    rustix::time::clock_settime(
        ClockId::Realtime,
        Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        },
    )?;
    Ok(())
}

/// Mixes `seed` into the kernel's pool and counts it as full entropy.
///
/// # Errors
/// Not root.
pub fn credit_entropy(seed: &[u8; SEED_BYTES]) -> io::Result<()> {
    let random = OpenOptions::new().write(true).open("/dev/urandom")?;
    let bytes = i32::try_from(SEED_BYTES).map_err(|_| io::ErrorKind::InvalidInput)?;
    let credit = Credit {
        entropy_bits: bytes * 8,
        buffer_bytes: bytes,
        buffer: *seed,
    };
    // SAFETY: RNDADDENTROPY reads two ints and `buffer_bytes` bytes after them, all of which `credit` holds.
    unsafe { ioctl::ioctl(random.as_fd(), Setter::<ADD_ENTROPY, Credit>::new(credit))? };
    Ok(())
}

/// Mixes `data` into the kernel's pool without counting it.
///
/// # Errors
/// `/dev` is not mounted.
pub fn mix_entropy(data: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open("/dev/urandom")?
        .write_all(data)
}

/// Gives freed memory back to the kernel; worth a call after something large and rare.
pub fn trim_heap() {
    // SAFETY: malloc_trim takes a number and touches only memory the allocator holds free.
    unsafe { libc::malloc_trim(0) };
}

/// Random bytes that never wait: good once the pool is seeded, mere salt before.
///
/// # Errors
/// The kernel offers no randomness at all.
pub fn random_bytes(buffer: &mut [u8]) -> io::Result<()> {
    let flags = rustix::rand::GetRandomFlags::INSECURE;
    let filled = rustix::rand::getrandom(&mut *buffer, flags)?;
    if filled < buffer.len() {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(())
    }
}

/// Makes the device node `path` as depmod describes it: `c10:200` is the
/// character device with major 10, minor 200; `b` stands for block devices.
///
/// # Errors
/// The description makes no sense, or the kernel refuses (`AlreadyExists`).
pub fn make_node(path: &Path, device: &str) -> io::Result<()> {
    let (kind, numbers) = match device.split_at_checked(1) {
        Some(("c", numbers)) => (FileType::CharacterDevice, numbers),
        Some(("b", numbers)) => (FileType::BlockDevice, numbers),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let number = |text: &str| {
        text.parse::<u32>()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let (major, minor) = numbers.split_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    let number = rustix::fs::makedev(number(major)?, number(minor)?);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), number)?;
    Ok(())
}

/// The kernel command line, split into words. Double quotes hold a word together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandLine {
    words: Vec<String>,
}

impl CommandLine {
    /// The running kernel's.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/cmdline")?))
    }

    /// Splits `text`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut words = Vec::new();
        let mut word = String::new();
        let mut quoted = false;
        for c in text.chars() {
            match c {
                '"' => quoted = !quoted,
                c if c.is_whitespace() && !quoted => {
                    if !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                }
                c => word.push(c),
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
        Self { words }
    }

    /// All words, in order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    /// Value of the last `key=value`, as the kernel itself lets the last one win.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.words
            .iter()
            .rev()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// Whether the bare word `flag` is there.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.words.iter().any(|word| word == flag)
    }
}

impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_request_number_is_the_kernels() {
        assert_eq!(ADD_ENTROPY, 0x4008_5203);
    }

    #[test]
    fn the_last_value_wins_and_quotes_hold_words_together() {
        let line = CommandLine::parse(
            "quiet holdfast.console=ttyS1 holdfast.config=\"http://a/b c\" holdfast.console=ttyS2\n",
        );
        assert_eq!(line.value("holdfast.console"), Some("ttyS2"));
        assert_eq!(line.value("holdfast.config"), Some("http://a/b c"));
        assert_eq!(line.value("holdfast"), None);
        assert!(line.has("quiet"));
    }

    #[test]
    fn a_node_needs_a_description_that_makes_sense() {
        for bad in ["", "c", "x1:2", "c10", "c10:", "c10:x", "ü1:2"] {
            let error = make_node(Path::new("/dev/null/never"), bad).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
    }

    #[test]
    fn random_bytes_differ() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        random_bytes(&mut a).unwrap();
        random_bytes(&mut b).unwrap();
        assert_ne!(a, b);
    }
}
