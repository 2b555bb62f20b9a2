//! Identifiers: 128 bits, written as lower-case text 8-4-4-4-12.

use std::fmt;
use std::str::FromStr;

use super::error::FormatError;

/// Characters of an identifier's text.
pub const TEXT_CHARS: usize = 36;

const HYPHENS: [usize; 4] = [8, 13, 18, 23];

fn parse(noun: &'static str, text: &str) -> Result<[u8; 16], FormatError> {
    let wrong = || FormatError::value(noun, text, "lower-case text of the form 8-4-4-4-12");
    if text.len() != TEXT_CHARS {
        return Err(wrong());
    }
    let mut bytes = [0; 16];
    let mut digits = 0;
    for (place, letter) in text.bytes().enumerate() {
        if HYPHENS.contains(&place) {
            if letter != b'-' {
                return Err(wrong());
            }
            continue;
        }
        let digit = match letter {
            b'0'..=b'9' => letter - b'0',
            b'a'..=b'f' => letter - b'a' + 10,
            _ => return Err(wrong()),
        };
        let byte = bytes.get_mut(digits / 2).ok_or_else(wrong)?;
        *byte = *byte << 4 | digit;
        digits += 1;
    }
    Ok(bytes)
}

fn write(bytes: &[u8; 16], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            out.write_str("-")?;
        }
        write!(out, "{byte:02x}")?;
    }
    Ok(())
}

macro_rules! identifier {
    ($name:ident, $noun:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// All zeros: none.
            pub const BLANK: Self = Self([0; 16]);

            /// Of the 16 bytes in the order of the text.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Of 16 random bytes: the same with version 4 stamped in.
            #[must_use]
            pub const fn from_random(mut bytes: [u8; 16]) -> Self {
                bytes[6] = bytes[6] & 0x0f | 0x40;
                bytes[8] = bytes[8] & 0x3f | 0x80;
                Self(bytes)
            }

            /// The 16 bytes in the order of the text.
            #[must_use]
            pub const fn bytes(&self) -> [u8; 16] {
                self.0
            }

            /// Whether it is [`Self::BLANK`].
            #[must_use]
            pub fn is_blank(&self) -> bool {
                *self == Self::BLANK
            }
        }

        impl FromStr for $name {
            type Err = FormatError;

            fn from_str(text: &str) -> Result<Self, FormatError> {
                parse($noun, text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(&self.0, out)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write(&self.0, out)
            }
        }
    };
}

identifier!(DomainId, "domain id", "A storage domain.");
identifier!(PoolId, "pool id", "A storage pool.");
identifier!(
    ImageId,
    "image id",
    "An image: a disk, with its chain of volumes."
);
identifier!(VolumeId, "volume id", "A volume: one layer of an image.");
identifier!(LeaseId, "lease id", "An external lease.");
identifier!(TaskId, "task id", "A persisted task.");

impl ImageId {
    /// The image whose directory holds the ISO files of an ISO domain.
    pub const ISO_IMAGE: Self = Self([0x11; 16]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lower_case_form_is_an_identifier() {
        let text = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";
        let id: DomainId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.bytes()[0], 0x8a);
        for bad in [
            "",
            "8ADBC85E-e554-4ae0-b318-8a5465fe5fe1",
            "8adbc85ee-554-4ae0-b318-8a5465fe5fe1",
            "8adbc85e-e554-4ae0-b318-8a5465fe5fe",
            "8adbc85e-e554-4ae0-b318-8a5465fe5fe1 ",
            "8adbc85e-e554-4ae0-b318-8a5465fe5fé",
        ] {
            assert!(bad.parse::<DomainId>().is_err(), "{bad:?}");
        }
        assert_eq!(
            ImageId::ISO_IMAGE.to_string(),
            "11111111-1111-1111-1111-111111111111"
        );
        assert!(
            "00000000-0000-0000-0000-000000000000"
                .parse::<VolumeId>()
                .unwrap()
                .is_blank()
        );
    }
}
