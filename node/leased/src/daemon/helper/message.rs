//! What daemon and helper say to each other: one message, one datagram.

/// Longest order.
pub(crate) const MESSAGE_MAX: usize = 320;
/// Every answer.
pub(super) const ANSWER_BYTES: usize = 12;

/// What is sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// SIGTERM.
    Term,
    /// SIGKILL.
    Kill,
}

/// What the helper is told to do. `tag` comes back with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order<'a> {
    /// Signal a process, if it is still the one that began at `start`.
    Signal {
        /// Comes back with the answer.
        tag: u64,
        /// Its number.
        pid: u32,
        /// When it began ([`super::start_time`]); 0: not known.
        start: u64,
        /// What to send.
        signal: Sent,
    },
    /// Run a program; what it does is not waited for.
    Run {
        /// Comes back with the answer.
        tag: u64,
        /// Path of the program, at most 127 bytes.
        path: &'a [u8],
        /// Its arguments in one string, at most 127 bytes, separated by
        /// white space that has no backslash before it.
        arguments: &'a [u8],
        /// Added as last argument.
        pid: Option<u32>,
    },
    /// Set the largest request of a block device.
    MaxSectors {
        /// Comes back with the answer.
        tag: u64,
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
        /// KiB.
        kib: u32,
    },
}

/// What became of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The order's.
    pub(crate) tag: u64,
    /// 0, or the kernel's error number.
    pub(crate) error: i32,
}

impl Answer {
    pub(super) fn encode(self) -> [u8; ANSWER_BYTES] {
        let mut bytes = [0; ANSWER_BYTES];
        let (tag, error) = bytes.split_at_mut(8);
        tag.copy_from_slice(&self.tag.to_le_bytes());
        error.copy_from_slice(&self.error.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; ANSWER_BYTES]) -> Self {
        let mut reader = Reader(bytes);
        let tag = reader.u64().unwrap_or(0);
        let error = reader.u32().unwrap_or(0).cast_signed();
        Self { tag, error }
    }
}

impl<'a> Order<'a> {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        match *self {
            Self::Signal {
                tag,
                pid,
                start,
                signal,
            } => {
                into.push(match signal {
                    Sent::Term => b'T',
                    Sent::Kill => b'K',
                });
                into.extend(tag.to_le_bytes());
                into.extend(pid.to_le_bytes());
                into.extend(start.to_le_bytes());
            }
            Self::Run {
                tag,
                path,
                arguments,
                pid,
            } => {
                into.push(b'R');
                into.extend(tag.to_le_bytes());
                into.extend(pid.unwrap_or(0).to_le_bytes());
                for text in [path, arguments] {
                    let text = text.get(..127).unwrap_or(text);
                    into.push(u8::try_from(text.len()).unwrap_or(127));
                    into.extend(text);
                }
            }
            Self::MaxSectors {
                tag,
                major,
                minor,
                kib,
            } => {
                into.push(b'S');
                into.extend(tag.to_le_bytes());
                for number in [major, minor, kib] {
                    into.extend(number.to_le_bytes());
                }
            }
        }
    }

    /// `None`: not an order.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let kind = reader.take(1)?;
        let tag = reader.u64()?;
        match kind {
            b"T" | b"K" => Some(Self::Signal {
                tag,
                pid: reader.u32()?,
                start: reader.u64()?,
                signal: if kind == b"T" { Sent::Term } else { Sent::Kill },
            }),
            b"R" => {
                let pid = reader.u32()?;
                Some(Self::Run {
                    tag,
                    pid: (pid != 0).then_some(pid),
                    path: reader.text()?,
                    arguments: reader.text()?,
                })
            }
            b"S" => Some(Self::MaxSectors {
                tag,
                major: reader.u32()?,
                minor: reader.u32()?,
                kib: reader.u32()?,
            }),
            _ => None,
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length)
    }
}

/// Splits a killpath's argument string: at white space, where a backslash
/// makes the space or backslash after it part of the argument. At most
/// `most` are taken, as the original has eight places in all.
pub(super) fn split(arguments: &[u8], most: usize) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut letters = arguments.iter().copied();
    while let Some(letter) = letters.next() {
        match letter {
            b'\\' => part.extend(letters.next()),
            b' ' | b'\t' | b'\n' => {
                if !part.is_empty() {
                    parts.push(std::mem::take(&mut part));
                }
            }
            0 => break,
            other => part.push(other),
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts.truncate(most);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_survive_the_way_and_their_parts_do_not_decode() {
        let orders = [
            Order::Signal {
                tag: 7,
                pid: 4711,
                start: 99,
                signal: Sent::Kill,
            },
            Order::Run {
                tag: 8,
                path: b"/bin/kill path",
                arguments: &[b'a'; 127],
                pid: Some(5),
            },
            Order::MaxSectors {
                tag: 9,
                major: 8,
                minor: 0,
                kib: 1024,
            },
        ];
        for order in orders {
            let mut bytes = Vec::new();
            order.encode(&mut bytes);
            assert!(bytes.len() <= MESSAGE_MAX);
            assert_eq!(Order::decode(&bytes), Some(order));
            for length in 0..bytes.len() {
                assert_eq!(Order::decode(&bytes[..length]), None);
            }
        }
        let answer = Answer { tag: 3, error: -3 };
        assert_eq!(Answer::decode(&answer.encode()), answer);
    }

    #[test]
    fn arguments_split_at_white_space_unless_escaped() {
        let text = |arguments: &[u8]| -> Vec<String> {
            split(arguments, 7)
                .into_iter()
                .map(|part| String::from_utf8(part).unwrap())
                .collect()
        };
        assert_eq!(text(b"a  b\\ c d\\\\"), ["a", "b c", "d\\"]);
        assert_eq!(text(b""), Vec::<String>::new());
        assert_eq!(text(b"1 2 3 4 5 6 7 8 9").len(), 7);
    }
}
