//! wdmd's client: one connection, one registered expiry.
//!
//! Works with the supervisor and with the original daemon, whose older
//! version does not know command 7 and ignores it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::wdmd::{Command, MESSAGE_BYTES, Message};
use rustix::net::SendFlags;

/// Longest wait for an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Why there is no watchdog to register with. Each message ends with the next step.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// Nobody listens, or the conversation broke.
    #[error("watchdog socket {}: {source}; start the supervisor's watchdog or wdmd, or allow leases without a watchdog", .path.display())]
    Connection {
        /// Path of the socket.
        path: PathBuf,
        /// What happened, already part of the message.
        source: io::Error,
    },
    /// There is a multiplexer, but no device behind it.
    #[error(
        "watchdog: no device is armed; load its driver (softdog if there is no hardware), or allow leases without a watchdog"
    )]
    NoDevice,
    /// It fires at another time than everybody else relies on.
    #[error(
        "watchdog: fire timeout {actual} s, configured {wanted} s; make them equal on every host of the lockspace"
    )]
    FireTimeout {
        /// The device's, seconds.
        actual: u32,
        /// Ours, seconds.
        wanted: u32,
    },
    /// It could never be satisfied.
    #[error(
        "watchdog: checks every {test_interval_s} s, which an io_timeout of {io_timeout_s} s cannot satisfy; set a longer io_timeout"
    )]
    TestInterval {
        /// Seconds between its checks.
        test_interval_s: u32,
        /// T, seconds.
        io_timeout_s: u8,
    },
}

/// A connection to wdmd. Closing it with an expiry registered means a reset.
#[derive(Debug)]
pub struct Watchdog {
    stream: UnixStream,
    path: PathBuf,
}

/// What the daemon says of itself.
#[derive(Debug, Clone, Copy)]
struct Answer {
    test_interval_s: u32,
    fire_timeout_s: u32,
}

impl Watchdog {
    /// Connects, has the device opened, and checks that its timeouts suit us.
    /// May wait for some seconds.
    ///
    /// # Errors
    /// See [`WatchdogError`].
    pub fn connect(
        path: &Path,
        fire_timeout_s: u32,
        io_timeout_s: u8,
    ) -> Result<Self, WatchdogError> {
        let broken = |source| WatchdogError::Connection {
            path: path.to_path_buf(),
            source,
        };
        let open = || -> io::Result<Self> {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
            stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
            Ok(Self {
                stream,
                path: path.to_path_buf(),
            })
        };
        let first = open().map_err(broken)?;
        let (watchdog, answer) = match first.introduce(fire_timeout_s) {
            Ok(answer) => (first, answer),
            // Perhaps command 7 was one too many.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let second = open().map_err(broken)?;
                let answer = second.status().map_err(broken)?;
                (second, answer)
            }
            Err(error) => return Err(broken(error)),
        };
        check(answer, fire_timeout_s)?;
        let test_interval_s = answer.test_interval_s;
        // A margin of a second for the renewal itself.
        if lease::timings::watchdog_fits(io_timeout_s, test_interval_s, 1) {
            Ok(watchdog)
        } else {
            Err(WatchdogError::TestInterval {
                test_interval_s,
                io_timeout_s,
            })
        }
    }

    /// Asks for the device to be opened and for the status in one go: the
    /// number of answers tells whether command 7 is known, without waiting.
    fn introduce(&self, fire_timeout_s: u32) -> io::Result<Answer> {
        let open = Message {
            fire_timeout_s,
            ..Message::new(Command::OpenWatchdog)
        };
        self.send_all(&open)?;
        self.send_all(&Message::new(Command::Status))?;
        let first = self.receive()?;
        if first.command == Command::OpenWatchdog.to_wire() {
            self.receive().map(Answer::from)
        } else {
            Ok(first.into())
        }
    }

    fn status(&self) -> io::Result<Answer> {
        self.send_all(&Message::new(Command::Status))?;
        self.receive().map(Answer::from)
    }

    /// Registers an expiry, in seconds of the monotonic clock, under a name.
    /// May wait for some seconds.
    ///
    /// # Errors
    /// See [`WatchdogError`]; the expiry may have been registered all the same.
    pub fn register(
        &self,
        name: &str,
        fire_timeout_s: u32,
        renewal_s: u64,
        expire_s: u64,
    ) -> Result<(), WatchdogError> {
        let broken = |source| WatchdogError::Connection {
            path: self.path.clone(),
            source,
        };
        let register = Message {
            name: name.as_bytes().to_vec(),
            ..Message::new(Command::Register)
        };
        self.send_all(&register).map_err(broken)?;
        self.send_all(&Message::new(Command::RefcountSet))
            .map_err(broken)?;
        let answer = self.status().map_err(broken)?;
        check(answer, fire_timeout_s)?;
        self.send_all(&test_live(renewal_s, expire_s))
            .map_err(broken)?;
        // The daemon has taken the expiry in once it answers what came after.
        let answer = self.status().map_err(broken)?;
        check(answer, fire_timeout_s)
    }

    /// Moves the expiry. Neither waits nor allocates.
    ///
    /// # Errors
    /// The message was not sent; the former expiry stands.
    pub fn update(&self, renewal_s: u64, expire_s: u64) -> io::Result<()> {
        self.send_now(&test_live(renewal_s, expire_s))
    }

    /// Takes the expiry back: the only orderly end. Neither waits nor allocates.
    ///
    /// # Errors
    /// A message was not sent: the expiry may stand, and the machine be reset.
    pub fn clear(&self) -> io::Result<()> {
        self.send_now(&test_live(0, 0))?;
        self.send_now(&Message::new(Command::RefcountClear))
    }

    fn send_all(&self, message: &Message) -> io::Result<()> {
        (&self.stream).write_all(&message.encode())
    }

    fn send_now(&self, message: &Message) -> io::Result<()> {
        let sent = rustix::net::send(
            &self.stream,
            &message.encode(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )?;
        if sent == MESSAGE_BYTES {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    fn receive(&self) -> io::Result<Message> {
        let mut bytes = [0; MESSAGE_BYTES];
        (&self.stream).read_exact(&mut bytes)?;
        Ok(Message::decode(&bytes))
    }
}

impl From<Message> for Answer {
    fn from(message: Message) -> Self {
        Self {
            test_interval_s: message.test_interval_s,
            fire_timeout_s: message.fire_timeout_s,
        }
    }
}

fn test_live(renewal_s: u64, expire_s: u64) -> Message {
    Message {
        renewal_time_s: renewal_s,
        expire_time_s: expire_s,
        ..Message::new(Command::TestLive)
    }
}

fn check(answer: Answer, wanted: u32) -> Result<(), WatchdogError> {
    match answer.fire_timeout_s {
        0 => Err(WatchdogError::NoDevice),
        actual if actual == wanted => Ok(()),
        actual => Err(WatchdogError::FireTimeout { actual, wanted }),
    }
}
