//! Device-mapper: looking at maps, and giving one another table.
//!
//! What it is: the calls of `/dev/mapper/control`, typed. What it is not: which
//! table a map should have is for the caller to know. Making maps is left to
//! `lvm` and `multipathd`.
//!
//! A new table becomes the active one by one call ([`Control::resume`]): the
//! kernel itself suspends the map, exchanges the tables and resumes it. Nobody
//! who dies between two calls leaves a guest's disk suspended.

mod wire;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, opcode};

use crate::error::Error;
use wire::Message;

/// The device all calls are made on.
pub const CONTROL: &str = "/dev/mapper/control";

/// Answers are first given this much room…
const ROOM_BYTES: usize = 16 * 1024;
/// …and at most this: a table of a million lines is no table of ours.
const ROOM_BYTES_MAX: usize = 64 << 20;

const TYPE: u8 = 0xfd;
const VERSION: Opcode = opcode::read_write::<[u8; wire::HEADER_BYTES]>(TYPE, 0);
const LIST_DEVICES: Opcode = opcode::read_write::<[u8; wire::HEADER_BYTES]>(TYPE, 2);
const DEV_SUSPEND: Opcode = opcode::read_write::<[u8; wire::HEADER_BYTES]>(TYPE, 6);
const DEV_STATUS: Opcode = opcode::read_write::<[u8; wire::HEADER_BYTES]>(TYPE, 7);
const TABLE_LOAD: Opcode = opcode::read_write::<[u8; wire::HEADER_BYTES]>(TYPE, 9);
const TABLE_CLEAR: Opcode = opcode::read_write::<[u8; wire::HEADER_BYTES]>(TYPE, 10);
const TABLE_DEPS: Opcode = opcode::read_write::<[u8; wire::HEADER_BYTES]>(TYPE, 11);
const TABLE_STATUS: Opcode = opcode::read_write::<[u8; wire::HEADER_BYTES]>(TYPE, 12);

/// A map's name: 1 to 127 bytes without NUL or slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// A name; `None` when it can be none.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fits = !name.is_empty() && name.len() < 128 && !name.contains(['\0', '/']);
        fits.then(|| Self(name.to_owned()))
    }

    /// The name LVM gives to a volume's map: `<group>-<volume>`, each with its
    /// dashes doubled.
    #[must_use]
    pub fn of_volume(group: &str, volume: &str) -> Option<Self> {
        Self::new(&format!(
            "{}-{}",
            group.replace('-', "--"),
            volume.replace('-', "--")
        ))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A map in the list of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Major and minor number of its device.
    pub device: (u32, u32),
}

/// What the kernel says of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// Who made it and for what: `LVM-<group id><volume id>` for LVM's.
    pub uuid: String,
    /// Major and minor number of its device.
    pub device: (u32, u32),
    /// How often it is open.
    pub open_count: u32,
    /// Lines of the table asked about.
    pub targets: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// I/O waits until it is resumed.
    pub suspended: bool,
    /// It has a table.
    pub has_table: bool,
    /// A table is loaded that has not become active.
    pub has_inactive_table: bool,
}

/// A line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetLine {
    /// First sector of 512 bytes of the map.
    pub start_sector: u64,
    /// Sectors.
    pub sectors: u64,
    /// `linear`, `multipath`, …
    pub kind: String,
    /// What the kind takes: `<major>:<minor> <first sector>` for `linear`.
    pub parameters: String,
}

impl std::fmt::Display for TargetLine {
    /// As `dmsetup table` prints it.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{} {} {} {}",
            self.start_sector, self.sectors, self.kind, self.parameters
        )
    }
}

/// Which of a map's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one in use.
    Active,
    /// The one loaded to come next.
    Inactive,
}

/// Device-mapper.
#[derive(Debug)]
pub struct Control {
    file: File,
    path: PathBuf,
}

impl Control {
    /// Opens `path` (usually [`CONTROL`]) and asks whether it speaks version 4.
    ///
    /// # Errors
    /// No such device, no device-mapper in this kernel, another version.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| Error::new("open", path, source))?;
        let control = Self {
            file,
            path: path.to_path_buf(),
        };
        let message = Message::new(None, 0, 0, &[], 0);
        let answer = control.call::<VERSION>(message, "ask the version of")?;
        let (major, minor, patch) = answer.version();
        if major == 4 {
            return Ok(control);
        }
        let source = io::Error::other(format!("version {major}.{minor}.{patch}, spoken is 4"));
        Err(Error::new("talk to", path, source))
    }

    /// Names and device numbers of all maps.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let answer = self.ask::<LIST_DEVICES>(None, 0, "list the maps of")?;
        answer.names().map_err(|errno| self.nonsense(errno))
    }

    /// What the kernel says of a map.
    ///
    /// # Errors
    /// `ENXIO` when there is none of this name.
    pub fn status(&self, name: &Name) -> Result<Map, Error> {
        let message = Message::new(Some(name), 0, 0, &[], 0);
        self.call::<DEV_STATUS>(message, "ask for a map of")
            .map(|answer| answer.map())
    }

    /// A table of a map.
    ///
    /// # Errors
    /// `ENXIO` when there is no map of this name.
    pub fn table(&self, name: &Name, which: Which) -> Result<Vec<TargetLine>, Error> {
        let answer = self.ask::<TABLE_STATUS>(
            Some(name),
            wire::STATUS_TABLE | inactive(which),
            "ask for a table of",
        )?;
        answer.lines().map_err(|errno| self.nonsense(errno))
    }

    /// What the targets of a map's active table say of their state. No request
    /// to the devices below it is waited for.
    ///
    /// # Errors
    /// `ENXIO` when there is no map of this name.
    pub fn target_states(&self, name: &Name) -> Result<Vec<TargetLine>, Error> {
        let answer =
            self.ask::<TABLE_STATUS>(Some(name), wire::NO_FLUSH, "ask for the state of")?;
        answer.lines().map_err(|errno| self.nonsense(errno))
    }

    /// The devices that a map's active table uses, by number.
    ///
    /// # Errors
    /// `ENXIO` when there is no map of this name.
    pub fn devices(&self, name: &Name) -> Result<Vec<(u32, u32)>, Error> {
        let answer = self.ask::<TABLE_DEPS>(Some(name), 0, "ask for devices of")?;
        answer.devices().map_err(|errno| self.nonsense(errno))
    }

    /// Loads a table beside the active one, in place of one loaded before.
    ///
    /// # Errors
    /// The kernel does not accept the table, with its reason in the kernel's log.
    pub fn load(&self, name: &Name, lines: &[TargetLine], read_only: bool) -> Result<(), Error> {
        let flags = if read_only { wire::READ_ONLY } else { 0 };
        let count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        let data = wire::table(lines);
        let message = Message::new(Some(name), flags, count, &data, 0);
        self.call::<TABLE_LOAD>(message, "load a table through")
            .map(drop)
    }

    /// Forgets a table that was loaded and is not active.
    ///
    /// # Errors
    /// `ENXIO` when there is no map of this name.
    pub fn clear(&self, name: &Name) -> Result<(), Error> {
        let message = Message::new(Some(name), 0, 0, &[], 0);
        self.call::<TABLE_CLEAR>(message, "clear a table through")
            .map(drop)
    }

    /// Makes the loaded table the active one, and lets I/O go on. File systems
    /// above are not frozen and requests under way are not waited for, as LVM
    /// does it for volumes that only grow.
    ///
    /// # Errors
    /// The kernel's refusal; the old table is then active still.
    pub fn resume(&self, name: &Name) -> Result<(), Error> {
        let flags = wire::SKIP_LOCKFS | wire::NO_FLUSH;
        let message = Message::new(Some(name), flags, 0, &[], 0);
        self.call::<DEV_SUSPEND>(message, "resume a map through")
            .map(drop)
    }

    /// Makes every request to a map fail from now on, whatever is below it. What a
    /// file system above has not written yet is not written any more.
    ///
    /// # Errors
    /// The kernel's refusal; the old table is then active still.
    pub fn fail(&self, name: &Name) -> Result<(), Error> {
        let lines = self.table(name, Which::Active)?;
        let end = |line: &TargetLine| line.start_sector.saturating_add(line.sectors);
        let error = TargetLine {
            start_sector: 0,
            sectors: lines.iter().map(end).max().unwrap_or(0),
            kind: "error".to_owned(),
            parameters: String::new(),
        };
        self.load(name, &[error], false)?;
        self.resume(name)
    }

    /// A question whose answer may need more room than it was given.
    fn ask<const OPCODE: Opcode>(
        &self,
        name: Option<&Name>,
        flags: u32,
        operation: &'static str,
    ) -> Result<Message, Error> {
        let mut room = ROOM_BYTES;
        loop {
            let message = Message::new(name, flags, 0, &[], room);
            let answer = self.call::<OPCODE>(message, operation)?;
            if answer.flags() & wire::BUFFER_FULL == 0 {
                return Ok(answer);
            }
            room *= 4;
            if room > ROOM_BYTES_MAX {
                return Err(Error::new(operation, &self.path, Errno::MSGSIZE));
            }
        }
    }

    fn call<const OPCODE: Opcode>(
        &self,
        mut message: Message,
        operation: &'static str,
    ) -> Result<Message, Error> {
        let call = Call::<OPCODE> {
            message: &mut message,
        };
        // SAFETY: every opcode here takes a struct dm_ioctl, which says in itself
        // how many bytes follow it. `Message` is exactly that long, is written by
        // nobody else during the call, and the kernel writes no further.
        let outcome = unsafe { ioctl::ioctl(self.file.as_fd(), call) };
        match outcome {
            Ok(()) => Ok(message),
            Err(errno) => Err(Error::new(operation, &self.path, errno)),
        }
    }

    fn nonsense(&self, errno: Errno) -> Error {
        Error::new("understand", &self.path, errno)
    }
}

fn inactive(which: Which) -> u32 {
    match which {
        Which::Active => 0,
        Which::Inactive => wire::QUERY_INACTIVE,
    }
}

/// A call that is given a message and writes its answer over it.
struct Call<'a, const OPCODE: Opcode> {
    message: &'a mut Message,
}

// SAFETY: the pointer is to the message's bytes, which are initialised, live as
// long as the call and are exclusively ours; the return value carries nothing.
unsafe impl<const OPCODE: Opcode> Ioctl for Call<'_, OPCODE> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        self.message.bytes.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(
        _output: IoctlOutput,
        _argument: *mut core::ffi::c_void,
    ) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_lvm() {
        let name = Name::of_volume("5f35-00c2", "metadata").expect("a name");
        assert_eq!(name.as_str(), "5f35--00c2-metadata");
        assert!(Name::new("").is_none());
        assert!(Name::new("a/b").is_none());
        assert!(Name::new(&"x".repeat(128)).is_none());
        assert!(Name::new(&"x".repeat(127)).is_some());
        // Two UUIDs, dashes doubled: 40 + 1 + 40.
        let uuid = "01234567-89ab-cdef-0123-456789abcdef";
        assert!(Name::of_volume(uuid, uuid).is_some());
    }

    #[test]
    fn opcodes_are_those_of_the_kernels_header() {
        assert_eq!(u64::from(VERSION), 0xc138_fd00);
        assert_eq!(u64::from(TABLE_LOAD), 0xc138_fd09);
        assert_eq!(u64::from(TABLE_STATUS), 0xc138_fd0c);
    }

    #[test]
    fn what_is_no_control_device_is_refused_with_its_name() {
        let error = Control::open(Path::new("/dev/null")).expect_err("not device-mapper");
        let text = crate::error::chain(&error);
        assert!(text.starts_with("ask the version of /dev/null: "), "{text}");
        let error = Control::open(Path::new("/nonexistent")).expect_err("nothing there");
        assert!(crate::error::chain(&error).starts_with("open /nonexistent: "));
    }
}
