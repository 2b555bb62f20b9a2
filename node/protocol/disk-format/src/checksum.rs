//! Checksums, named by record.

/// Bytes of a leader record its checksum covers: magic to `unused1`.
pub const LEADER_COVERED_BYTES: usize = 168;

/// Checksum of a leader record: CRC-32C over its first
/// [`LEADER_COVERED_BYTES`], register started at `0xFFFF_FFFE`, no final
/// inversion. `covered` is exactly those bytes.
#[must_use]
pub fn leader_checksum(covered: &[u8]) -> u32 {
    sanlock_crc(covered)
}

/// Bytes of a dblock its checksum covers: `mbal` to `lver`.
pub const DBLOCK_COVERED_BYTES: usize = 48;

/// Checksum of a dblock: the same algorithm over its first
/// [`DBLOCK_COVERED_BYTES`]. `covered` is exactly those bytes.
#[must_use]
pub fn dblock_checksum(covered: &[u8]) -> u32 {
    sanlock_crc(covered)
}

/// The library inverts on the way in and out; starting it at 1 and inverting
/// once more gives start `!1` and no final inversion.
fn sanlock_crc(data: &[u8]) -> u32 {
    !crc32c::crc32c_append(1, data)
}

#[cfg(test)]
mod tests {
    use super::sanlock_crc;

    #[test]
    fn pinned_values_of_the_specification() {
        assert_eq!(sanlock_crc(b""), 0xFFFF_FFFE);
        assert_eq!(sanlock_crc(b"123456789"), 0xE8C7_BB34);
        assert_eq!(sanlock_crc(&[0; 48]), 0xCB5A_D842);
        assert_eq!(sanlock_crc(&[0; 168]), 0x7E11_FBD1);
    }
}
