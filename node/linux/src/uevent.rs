//! Kernel device events: listening, and asking for those missed before udevd
//! ran (coldplug).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

/// Longest event: the kernel's own buffer is 2 KiB plus the header.
const EVENT_BYTES_MAX: usize = 8 * 1024;
/// Deepest directory below `/sys/devices` that is visited; real trees stay below 20.
const DEPTH_MAX: u32 = 40;

/// The multicast group of the kernel's own events.
const KERNEL: u32 = 1;
/// That of udevd's, of devices it is through with.
const UDEV: u32 = 2;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind`, …
    pub action: String,
    /// Path below `/sys`.
    pub device: String,
    /// Variables (`SUBSYSTEM`, `DEVNAME`, …).
    pub variables: BTreeMap<String, String>,
}

impl Uevent {
    /// Reads one datagram; `None` when it is not the kernel's format (libudev's
    /// own, or damaged).
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes
            .split(|&byte| byte == 0)
            .filter(|field| !field.is_empty());
        let (action, device) = std::str::from_utf8(fields.next()?).ok()?.split_once('@')?;
        let variables = fields
            .filter_map(|field| std::str::from_utf8(field).ok()?.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Some(Self {
            action: action.to_owned(),
            device: device.to_owned(),
            variables,
        })
    }

    /// The variable `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.variables.get(key).map(String::as_str)
    }
}

/// A non-blocking socket that hears the kernel's events.
#[derive(Debug)]
pub struct UeventSocket {
    fd: OwnedFd,
}

impl UeventSocket {
    /// Starts to listen.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open() -> io::Result<Self> {
        Self::of(KERNEL)
    }

    /// The same, and hears when udevd is through with a device: when it has its names.
    /// These come as events that [`Self::receive`] cannot read.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn open_with_udev() -> io::Result<Self> {
        Self::of(KERNEL | UDEV)
    }

    fn of(groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            flags,
            Some(KOBJECT_UEVENT),
        )?;
        // Coldplug comes as one burst; a small buffer would lose part of it.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&fd, 4 << 20)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&fd, 256 << 10))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd })
    }

    /// Waits for an event, at most this long, and takes all there are: whether
    /// something was told.
    ///
    /// # Errors
    /// The socket is broken.
    pub fn wait(&self, longest: Duration) -> io::Result<bool> {
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Timespec::try_from(longest).ok().as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        loop {
            match self.receive() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                // Some were lost: something was told all the same.
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next event; `Ok(None)` when it was not one of the kernel's.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `ENOBUFS` when some were lost.
    pub fn receive(&self) -> io::Result<Option<Uevent>> {
        let mut buffer = [0; EVENT_BYTES_MAX];
        let (_, length) = rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT)?;
        Ok(Uevent::parse(&buffer[..length.min(EVENT_BYTES_MAX)]))
    }
}

impl AsFd for UeventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Asks the kernel to repeat the `add` event of every device below `sys`
/// (normally `/sys`), parents before children; returns how many it asked for.
/// A device that vanishes meanwhile is passed over.
///
/// # Errors
/// `sys` has no `devices`.
pub fn coldplug(sys: &Path) -> io::Result<u32> {
    // Drivers and buses first: rules for devices may look at them.
    let mut asked = 0;
    for bus in entries(&sys.join("bus")) {
        asked += ask(&bus);
        for driver in entries(&bus.join("drivers")) {
            asked += ask(&driver);
        }
    }
    for module in entries(&sys.join("module")) {
        asked += ask(&module);
    }
    let devices = sys.join("devices");
    fs::metadata(&devices)?;
    Ok(asked + walk(&devices, 0))
}

fn walk(directory: &Path, depth: u32) -> u32 {
    let mut asked = ask(directory);
    if depth == DEPTH_MAX {
        return asked;
    }
    for child in entries(directory) {
        // Links lead out of the tree or back up; the tree itself has no loop.
        if fs::symlink_metadata(&child).is_ok_and(|found| found.is_dir()) {
            asked += walk(&child, depth + 1);
        }
    }
    asked
}

fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(found) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = found.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn ask(directory: &Path) -> u32 {
    let file = directory.join("uevent");
    u32::from(
        file.exists()
            && fs::OpenOptions::new()
                .write(true)
                .open(&file)
                .is_ok_and(|mut open| io::Write::write_all(&mut open, b"add").is_ok()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_event_is_read_and_libudevs_is_not() {
        let event = Uevent::parse(
            b"add@/devices/pci0/net/eth0\0ACTION=add\0SUBSYSTEM=net\0INTERFACE=eth0\0",
        )
        .unwrap();
        assert_eq!(
            (event.action.as_str(), event.device.as_str()),
            ("add", "/devices/pci0/net/eth0")
        );
        assert_eq!(event.get("SUBSYSTEM"), Some("net"));
        assert_eq!(event.get("MISSING"), None);
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed\xca\xfe"), None);
        assert_eq!(Uevent::parse(b""), None);
    }

    #[test]
    fn a_wait_ends_with_the_first_event_or_with_its_time() {
        let socket = UeventSocket::open_with_udev().unwrap();
        socket.wait(Duration::ZERO).unwrap();
        assert_eq!(ask(Path::new("/sys/devices/virtual/mem/null")), 1);
        assert!(socket.wait(Duration::from_secs(60)).unwrap());
    }

    #[test]
    fn coldplug_asks_every_device_once_and_follows_no_link() {
        let sys = std::env::temp_dir().join(format!("holdfast-sys-{}", std::process::id()));
        for path in ["devices/pci0/net0", "bus/pci/drivers/e1000", "module/e1000"] {
            fs::create_dir_all(sys.join(path)).unwrap();
        }
        let files = [
            "devices/pci0/uevent",
            "devices/pci0/net0/uevent",
            "bus/pci/uevent",
            "bus/pci/drivers/e1000/uevent",
            "module/e1000/uevent",
        ];
        for file in files {
            fs::write(sys.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("..", sys.join("devices/pci0/subsystem")).unwrap();
        assert_eq!(coldplug(&sys).unwrap(), 5);
        for file in files {
            assert_eq!(fs::read_to_string(sys.join(file)).unwrap(), "add", "{file}");
        }
        fs::remove_dir_all(&sys).unwrap();
        assert!(coldplug(&sys).is_err());
    }
}
