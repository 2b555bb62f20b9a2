//! Why something on a storage domain is not what it should be.

/// Text or bytes of a domain that cannot be taken for what they should be, or
/// values that cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A key that must be there is not.
    #[error("{record}: key {key} is missing")]
    Missing {
        /// What was read.
        record: &'static str,
        /// The key.
        key: &'static str,
    },
    /// A value outside what is allowed.
    #[error("{noun} {found:?}: allowed is {allowed}")]
    Value {
        /// What the value says.
        noun: &'static str,
        /// What is there, cut to 80 characters.
        found: String,
        /// What may be there.
        allowed: &'static str,
    },
    /// Two values for one key.
    #[error("{record}: key {key} has two values")]
    Twice {
        /// What was read.
        record: &'static str,
        /// The key.
        key: String,
    },
    /// More than there is room for.
    #[error("{noun} has {found} {unit}: allowed are {largest}")]
    TooLong {
        /// What is too long.
        noun: &'static str,
        /// Its length.
        found: usize,
        /// The most that fits.
        largest: usize,
        /// Of what: `bytes`, `characters`.
        unit: &'static str,
    },
    /// Fewer bytes than the record has.
    #[error("{record}: {bytes} bytes, it has {needed}")]
    Truncated {
        /// What was to be read.
        record: &'static str,
        /// Bytes given.
        bytes: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The checksum is not that of the content: changed by hand, or damaged.
    #[error("{record}: checksum {found}: the content gives {computed}")]
    Checksum {
        /// What was read.
        record: &'static str,
        /// What is stored.
        found: String,
        /// What the content gives.
        computed: String,
    },
    /// The slot was cleared; there is no volume.
    #[error("volume metadata was cleared")]
    Cleared,
    /// There is nothing but zeros.
    #[error("{record} is empty")]
    Empty {
        /// What was to be read.
        record: &'static str,
    },
    /// Not of this kind at all.
    #[error("{record}: {what}")]
    Syntax {
        /// What was to be read.
        record: &'static str,
        /// What is wrong, and where.
        what: String,
    },
    /// The index was being changed when its writer stopped.
    #[error("index of external leases is in update state: rebuild it")]
    Updating,
}

impl FormatError {
    /// A [`FormatError::Value`] with the value cut to a bearable length.
    pub(super) fn value(noun: &'static str, found: &str, allowed: &'static str) -> Self {
        Self::Value {
            noun,
            found: found.chars().take(80).collect(),
            allowed,
        }
    }

    /// A [`FormatError::Syntax`].
    pub(super) fn syntax(record: &'static str, what: impl Into<String>) -> Self {
        Self::Syntax {
            record,
            what: what.into(),
        }
    }
}

/// A number as the formats write it: decimal digits, no sign, no spaces.
pub(super) fn decimal(noun: &'static str, text: &str) -> Result<u64, FormatError> {
    let wrong = || FormatError::value(noun, text, "a decimal number below 2^64");
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}
