//! Frames between the daemon and a worker: one JSON document a line.

use std::io::{self, Read, Write};

use control::storage::{Answer, Failure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::work::{Settings, Work};

/// Longest frame, in bytes: the volumes of a large domain.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What a worker is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// First of all: where everything is.
    Setup(Box<Settings>),
    /// Do this.
    Job {
        /// Number, for the answer.
        id: u64,
        /// What.
        work: Box<Work>,
    },
    /// End it as soon as it may be ended; it is still answered.
    Cancel {
        /// Number of the job.
        id: u64,
    },
}

/// What a worker says.
#[expect(clippy::large_enum_variant, reason = "one at a time, never stored")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// How far a job is.
    Progress {
        /// Number of the job.
        id: u64,
        /// Bytes or steps done.
        done: u64,
        /// In all; 0: not known.
        total: u64,
        /// Present step.
        step: String,
    },
    /// A job has ended.
    Done {
        /// Its number.
        id: u64,
        /// What came of it.
        outcome: Result<Answer, Failure>,
    },
    /// Volumes that the manager's commits have made larger since it took the role.
    Extended {
        /// So many in all.
        total: u64,
    },
    /// The manager has found what the one before left, and puts it in order:
    /// [`super::work::Work::FollowRecovery`] tells how far it is.
    Recovering,
    /// The writer lost the role, or is about to end, for this reason.
    Lost {
        /// Why.
        reason: String,
    },
}

/// A frame as bytes.
///
/// # Errors
/// Longer than [`FRAME_BYTES_MAX`].
pub fn encode<T: Serialize>(frame: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(frame)?;
    if line.len() >= FRAME_BYTES_MAX {
        return Err(io::Error::other(format!(
            "frame of {} bytes, longest allowed is {FRAME_BYTES_MAX}",
            line.len()
        )));
    }
    line.push(b'\n');
    Ok(line)
}

/// Cuts a stream of bytes into lines.
#[derive(Debug)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Up to where there is no line end.
    searched: usize,
    longest: usize,
}

impl Lines {
    /// Lines of at most `longest` bytes.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            searched: 0,
            longest,
        }
    }

    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line without its end.
    ///
    /// # Errors
    /// It is too long: nothing after it can be understood.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let end = self.bytes[self.searched..]
            .iter()
            .position(|&byte| byte == b'\n')
            .map(|at| self.searched + at);
        if end.unwrap_or(self.bytes.len()) > self.longest {
            return Err(io::Error::other(format!(
                "line longer than {} bytes",
                self.longest
            )));
        }
        let Some(end) = end else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        self.searched = 0;
        if self.bytes.is_empty() {
            // A large answer must not cost memory until the next one.
            self.bytes = Vec::new();
        }
        Ok(Some(line))
    }
}

/// Reads frames from a blocking stream.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    lines: Lines,
}

impl<R: Read> Reader<R> {
    /// Frames of `stream`.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            lines: Lines::new(FRAME_BYTES_MAX),
        }
    }

    /// The next frame; `None` at the end of the stream.
    ///
    /// # Errors
    /// The stream fails, or what it carries is no frame.
    pub fn next_frame<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut chunk = [0; 8192];
        loop {
            if let Some(line) = self.lines.next_line()? {
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(length) => self.lines.push(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Writes a frame to a blocking stream.
///
/// # Errors
/// The stream fails, or the frame is too long.
pub fn send<T: Serialize>(mut stream: impl Write, frame: &T) -> io::Result<()> {
    stream.write_all(&encode(frame)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let text = b"one\n\nthree and more\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::new(100);
            let mut found = Vec::new();
            for piece in text.chunks(size) {
                lines.push(piece);
                while let Some(line) = lines.next_line().expect("short") {
                    found.push(String::from_utf8(line).expect("text"));
                }
            }
            assert_eq!(found, ["one", "", "three and more"], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_memory() {
        let mut lines = Lines::new(10);
        lines.push(b"0123456789");
        assert!(lines.next_line().expect("just fits").is_none());
        lines.push(b"x");
        assert!(lines.next_line().is_err());
    }

    #[test]
    fn garbage_is_an_error_and_the_end_is_none() {
        let mut reader = Reader::new(&b"{\"nonsense\":1}\n"[..]);
        assert!(reader.next_frame::<Order>().is_err());
        assert!(reader.next_frame::<Order>().expect("end").is_none());
    }
}
