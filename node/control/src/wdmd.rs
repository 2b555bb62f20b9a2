//! wdmd's messages: 176 bytes each way, little-endian (sanlock specification §6.9).

/// Size of every message, in bytes.
pub const MESSAGE_BYTES: usize = 176;
/// Longest name, in bytes, NUL included.
pub const NAME_BYTES: usize = 128;

/// Seconds between two checks of the registered expiries, for a watchdog that
/// fires `fire_timeout_s` seconds after its last ping (specification §6.9). A
/// check already fails one interval before the expiry.
#[must_use]
pub fn test_interval_s(fire_timeout_s: u32) -> u32 {
    match fire_timeout_s {
        60.. => 10,
        30..=59 => 5,
        10..=29 => 2,
        0..=9 => 1,
    }
}

/// What a message asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// 1: the name is recorded with the peer's process id; no reply.
    Register,
    /// 2: the server must not exit cleanly; no reply.
    RefcountSet,
    /// 3: lifts 2; no reply.
    RefcountClear,
    /// 4: renewal and expiry in seconds of the monotonic clock; expiry 0 disables; no reply.
    TestLive,
    /// 5: asks for test interval, fire timeout and last keepalive.
    Status,
    /// 6: asks for debug text.
    DumpDebug,
    /// 7: asks that the device be opened with a fire timeout; the reply carries the actual one, 0 on failure.
    OpenWatchdog,
}

impl Command {
    /// The number on the wire, or the unknown number itself.
    pub fn from_wire(number: u32) -> Result<Self, u32> {
        Ok(match number {
            1 => Self::Register,
            2 => Self::RefcountSet,
            3 => Self::RefcountClear,
            4 => Self::TestLive,
            5 => Self::Status,
            6 => Self::DumpDebug,
            7 => Self::OpenWatchdog,
            other => return Err(other),
        })
    }

    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        match self {
            Self::Register => 1,
            Self::RefcountSet => 2,
            Self::RefcountClear => 3,
            Self::TestLive => 4,
            Self::Status => 5,
            Self::DumpDebug => 6,
            Self::OpenWatchdog => 7,
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Command number; kept raw so that an unknown one can be named.
    pub command: u32,
    /// Seconds between checks (replies).
    pub test_interval_s: u32,
    /// Seconds from last ping to reset.
    pub fire_timeout_s: u32,
    /// Monotonic seconds of the last ping (replies).
    pub last_keepalive_s: u64,
    /// Monotonic seconds of the last renewal.
    pub renewal_time_s: u64,
    /// Monotonic seconds of expiry; 0 = disabled.
    pub expire_time_s: u64,
    /// Client name, without its NUL padding.
    pub name: Vec<u8>,
}

impl Message {
    /// A message with everything but the command zero.
    #[must_use]
    pub fn new(command: Command) -> Self {
        Self {
            command: command.to_wire(),
            test_interval_s: 0,
            fire_timeout_s: 0,
            last_keepalive_s: 0,
            renewal_time_s: 0,
            expire_time_s: 0,
            name: Vec::new(),
        }
    }

    /// The wire form. A name longer than 127 bytes is cut.
    #[must_use]
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[4..8].copy_from_slice(&self.command.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.test_interval_s.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.fire_timeout_s.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.last_keepalive_s.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.renewal_time_s.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.expire_time_s.to_le_bytes());
        let length = self.name.len().min(NAME_BYTES - 1);
        bytes[48..48 + length].copy_from_slice(&self.name[..length]);
        bytes
    }

    /// Reads a message; every bit pattern has a meaning, unused fields are ignored.
    #[must_use]
    pub fn decode(bytes: &[u8; MESSAGE_BYTES]) -> Self {
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let name = &bytes[48..];
        let length = name
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(NAME_BYTES);
        Self {
            command: u32_at(4),
            test_interval_s: u32_at(16),
            fire_timeout_s: u32_at(20),
            last_keepalive_s: u64_at(24),
            renewal_time_s: u64_at(32),
            expire_time_s: u64_at(40),
            name: name[..length].to_vec(),
        }
    }
}
