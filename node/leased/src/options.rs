//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use disk_format::{HostId, HostIdError, HostName, LockspaceName, NameError};

use crate::daemon::Configured;

/// Printed by `leased --help`.
pub const USAGE: &str = "\
leased run --lockspace NAME:HOST_ID:PATH:OFFSET… --host-name NAME [options]
leased run --sanlock-dir DIR --host-name NAME [options]

Joins lockspaces and keeps their leases renewed until SIGTERM, then releases
them. With none it waits for clients to join theirs over sanlock's socket.

  --lockspace NAME:HOST_ID:PATH:OFFSET  lockspace, our host id in it, device or
                                        file, byte offset of the area; colons in
                                        PATH may be written \\:; repeatable
  --host-name NAME        unique name of this host, the same after every boot
  --io-timeout S          1-255 seconds (10); renewals come every 2 x S, the
                          lease is lost after 8 x S without one
  --fire-timeout S        the watchdog's, equal on every host (60)
  --watchdog-socket PATH  wdmd's socket (/run/wdmd/wdmd.sock)
  --no-watchdog           hold the lease without a watchdog
  --socket PATH           where to answer status requests (/run/holdfast/leased.sock)
  --sanlock-dir DIR       serve sanlock's socket, DIR/sanlock.sock, too
  --no-realtime           neither real-time priority nor locked memory

Example:
  leased run --lockspace LS:1:/dev/disk/by-id/wwn-0x5000:0 --host-name node1
";

/// What to join and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lockspaces to join; with none, sanlock's socket is served.
    pub lockspaces: Vec<Configured>,
    /// Our unique name.
    pub host_name: HostName,
    /// T, seconds.
    pub io_timeout_s: u8,
    /// The watchdog's fire timeout, seconds.
    pub fire_timeout_s: u32,
    /// wdmd's socket; `None`: no watchdog.
    pub watchdog_socket: Option<PathBuf>,
    /// Where to answer status requests.
    pub socket: PathBuf,
    /// Where to serve sanlock's socket; `None`: nowhere.
    pub sanlock_dir: Option<PathBuf>,
    /// Whether to lock memory and take real-time priority.
    pub realtime: bool,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub enum Command {
    /// Print the usage.
    Help,
    /// Join and stay.
    Run(Box<Options>),
}

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Not understood at all.
    #[error(transparent)]
    Syntax(#[from] lexopt::Error),
    /// A bad name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A bad host id.
    #[error(transparent)]
    HostId(#[from] HostIdError),
    /// The lockspace is not in its form.
    #[error(
        "lockspace {0:?}: the form is NAME:HOST_ID:PATH:OFFSET, with an absolute PATH and an OFFSET that is a multiple of 1048576"
    )]
    Lockspace(String),
    /// A number out of range.
    #[error("{option} {value}: allowed are {least} to {most}")]
    Range {
        /// Option.
        option: &'static str,
        /// Given.
        value: u32,
        /// Least.
        least: u32,
        /// Most.
        most: u32,
    },
    /// Missing.
    #[error("{0} is missing")]
    Missing(&'static str),
}

impl Command {
    /// Reads the arguments that follow the program's name.
    ///
    /// # Errors
    /// See [`UsageError`].
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        use lexopt::prelude::*;
        let mut parser = lexopt::Parser::from_args(arguments);
        let mut run = false;
        let mut lockspaces = Vec::new();
        let mut host_name = None;
        let mut io_timeout: u32 = 10;
        let mut fire_timeout: u32 = 60;
        let mut watchdog_socket = Some(PathBuf::from(control::WDMD_SOCKET));
        let mut socket = PathBuf::from(control::LEASED_SOCKET);
        let mut sanlock_dir = None;
        let mut realtime = true;
        while let Some(argument) = parser.next()? {
            match argument {
                Long("help") | Short('h') => return Ok(Self::Help),
                Value(word) if word == "run" && !run => run = true,
                Long("lockspace") => lockspaces.push(configured(&parser.value()?.string()?)?),
                Long("host-name") => host_name = Some(HostName::new(&parser.value()?.string()?)?),
                Long("io-timeout") => io_timeout = parser.value()?.parse()?,
                Long("fire-timeout") => fire_timeout = parser.value()?.parse()?,
                Long("watchdog-socket") => watchdog_socket = Some(parser.value()?.into()),
                Long("no-watchdog") => watchdog_socket = None,
                Long("socket") => socket = parser.value()?.into(),
                Long("sanlock-dir") => sanlock_dir = Some(parser.value()?.into()),
                Long("no-realtime") => realtime = false,
                other => return Err(other.unexpected().into()),
            }
        }
        if !run {
            return Err(UsageError::Missing("the command \"run\""));
        }
        if lockspaces.is_empty() && sanlock_dir.is_none() {
            return Err(UsageError::Missing("--lockspace, or --sanlock-dir,"));
        }
        let host_name = host_name.ok_or(UsageError::Missing("--host-name"))?;
        let io_timeout_s = match u8::try_from(io_timeout) {
            Ok(seconds @ 1..) => seconds,
            _ => {
                return Err(UsageError::Range {
                    option: "--io-timeout",
                    value: io_timeout,
                    least: 1,
                    most: 255,
                });
            }
        };
        if !(1..=600).contains(&fire_timeout) {
            return Err(UsageError::Range {
                option: "--fire-timeout",
                value: fire_timeout,
                least: 1,
                most: 600,
            });
        }
        Ok(Self::Run(Box::new(Options {
            lockspaces,
            host_name,
            io_timeout_s,
            fire_timeout_s: fire_timeout,
            watchdog_socket,
            socket,
            sanlock_dir,
            realtime,
        })))
    }
}

/// One value of `--lockspace`.
fn configured(text: &str) -> Result<Configured, UsageError> {
    let (name, host_id, path, offset) =
        split_lockspace(text).ok_or_else(|| UsageError::Lockspace(text.to_owned()))?;
    Ok(Configured {
        name: LockspaceName::new(name)?,
        host_id: HostId::new(host_id)?,
        path,
        offset,
    })
}

/// The path is whatever lies between the second and the last colon: device
/// links by bus address contain colons.
fn split_lockspace(text: &str) -> Option<(&str, u64, PathBuf, u64)> {
    let (name, rest) = text.split_once(':')?;
    let (host_id, rest) = rest.split_once(':')?;
    let (path, offset) = rest.rsplit_once(':')?;
    let offset: u64 = offset
        .parse()
        .ok()
        .filter(|offset: &u64| offset.is_multiple_of(1 << 20))?;
    let path = PathBuf::from(path.replace("\\:", ":"));
    path.is_absolute()
        .then_some((name, host_id.parse().ok()?, path, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, UsageError> {
        Command::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_supervisors_command_line_is_understood() {
        let line = "run --lockspace LS:3:/dev/disk/by-path/pci-0000:00:05.0:1048576 --io-timeout 2 \
                    --host-name node3 --fire-timeout 30 --no-watchdog";
        let Ok(Command::Run(options)) = parse(line) else {
            panic!("understood")
        };
        let [space] = &options.lockspaces[..] else {
            panic!("one lockspace: {:?}", options.lockspaces)
        };
        assert_eq!(
            space.path,
            PathBuf::from("/dev/disk/by-path/pci-0000:00:05.0")
        );
        assert_eq!((space.host_id.get(), space.offset), (3, 1 << 20));
        assert_eq!((options.io_timeout_s, options.fire_timeout_s), (2, 30));
        assert_eq!(options.watchdog_socket, None);
    }

    #[test]
    fn lockspaces_may_be_several_or_left_to_clients() {
        let several = "run --host-name a --lockspace A:1:/dev/x:0 --lockspace B:2:/dev/y:0";
        let none = "run --host-name a --sanlock-dir /run/sanlock";
        for (line, count) in [(several, 2), (none, 0)] {
            assert!(
                matches!(parse(line).expect("understood"), Command::Run(options) if options.lockspaces.len() == count),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            (
                "run --host-name a",
                "--lockspace, or --sanlock-dir, is missing",
            ),
            ("run --lockspace LS:1:/dev/x:0", "--host-name is missing"),
            (
                "run --host-name a --lockspace LS:1:/dev/x:5",
                "multiple of 1048576",
            ),
            ("run --host-name a --lockspace LS:1:x:0", "absolute PATH"),
            (
                "run --host-name a --lockspace LS:0:/dev/x:0",
                "host id 0: allowed is 1 to 2000",
            ),
            (
                "run --host-name a --lockspace LS:1:/dev/x:0 --io-timeout 0",
                "allowed are 1 to 255",
            ),
            (
                "run --host-name a --lockspace :1:/dev/x:0",
                "lockspace name is empty",
            ),
            ("run --frobnicate", "invalid option"),
        ] {
            let error = parse(line).expect_err("must be refused").to_string();
            assert!(error.contains(message), "{line}: {error}");
        }
        let escaped = parse(r"run --host-name a --lockspace LS:1:/dev/a\:b:0").expect("understood");
        assert!(
            matches!(escaped, Command::Run(options) if options.lockspaces[0].path.as_os_str() == "/dev/a:b")
        );
    }
}
