//! The host bitmap in a delta lease sector: whom its owner wants to notify.

use crate::id::HostId;

/// Size on disk, in bytes.
pub const BITMAP_BYTES: usize = 256;

/// One bit for each host id: bit `(h − 1) % 8` of byte `(h − 1) / 8`, least
/// significant first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostBitmap(pub [u8; BITMAP_BYTES]);

impl HostBitmap {
    /// No host.
    pub const EMPTY: Self = Self([0; BITMAP_BYTES]);

    /// Whether the host's bit is set.
    #[must_use]
    pub fn contains(&self, host: HostId) -> bool {
        self.0
            .get(host.index() / 8)
            .is_some_and(|byte| byte & (1 << (host.index() % 8)) != 0)
    }

    /// Sets the host's bit.
    pub fn insert(&mut self, host: HostId) {
        if let Some(byte) = self.0.get_mut(host.index() / 8) {
            *byte |= 1 << (host.index() % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_a_bit_of_its_own() {
        let mut bitmap = HostBitmap::EMPTY;
        for number in 1..=2000 {
            let host = HostId::new(number).unwrap();
            assert!(!bitmap.contains(host));
            bitmap.insert(host);
            assert!(bitmap.contains(host));
        }
        assert!(bitmap.0.iter().take(250).all(|&byte| byte == 0xff));
        assert!(bitmap.0.iter().skip(250).all(|&byte| byte == 0));
    }
}
