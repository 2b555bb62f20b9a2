//! How many bytes volumes get. Everything in bytes; pure.

/// Bytes a thin volume grows by, and begins with.
pub const CHUNK_BYTES: u64 = 2560 << 20;

const MIB: u64 = 1 << 20;
/// Extents of block domains.
pub const EXTENT_BYTES: u64 = 128 << 20;
/// Capacities are multiples of this.
pub const CAPACITY_STEP: u64 = 4096;

/// The next multiple; the largest one when there is no next.
#[must_use]
pub fn round_up(bytes: u64, step: u64) -> u64 {
    bytes
        .checked_next_multiple_of(step)
        .unwrap_or(u64::MAX / step * step)
}

/// The most a QCOW2 volume of this capacity may need: 1.1 times, whole MiB.
#[must_use]
pub fn cow_maximum(capacity: u64) -> u64 {
    round_up(capacity.saturating_add(capacity.div_ceil(10)), MIB)
}

/// What a QCOW2 volume on a block domain begins with. `asked`: an explicit
/// initial size of data.
#[must_use]
pub fn cow_initial(capacity: u64, preallocated: bool, asked: Option<u64>) -> u64 {
    if preallocated {
        return cow_maximum(capacity);
    }
    let size = match asked {
        Some(asked) => asked.saturating_add(asked / 10),
        None => CHUNK_BYTES.min(capacity),
    };
    size.min(cow_maximum(capacity)).max(MIB)
}

/// The best size of a leaf that needs `required` bytes: room to grow, and no
/// more than it may ever need.
#[must_use]
pub fn optimal_leaf(required: u64, capacity: u64) -> u64 {
    round_up(required.saturating_add(CHUNK_BYTES), EXTENT_BYTES)
        .min(round_up(cow_maximum(capacity), EXTENT_BYTES))
        .max(round_up(required, EXTENT_BYTES))
}

/// The best size of a volume that is not written to any more.
#[must_use]
pub fn optimal_internal(required: u64) -> u64 {
    round_up(required, EXTENT_BYTES).max(EXTENT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn sizes_are_those_of_the_original() {
        assert_eq!(cow_maximum(50 * GIB), 56_320 * MIB);
        assert_eq!(cow_maximum(10 * GIB), 11_264 * MIB);
        assert_eq!(cow_initial(50 * GIB, false, None), 2560 * MIB);
        assert_eq!(cow_initial(GIB, false, None), GIB);
        assert_eq!(cow_initial(50 * GIB, false, Some(10 * GIB)), 11 * GIB);
        assert_eq!(cow_initial(GIB, false, Some(10 * GIB)), 1127 * MIB);
        assert_eq!(cow_initial(10 * GIB, true, None), 11_264 * MIB);
        assert_eq!(optimal_leaf(MIB, 50 * GIB), 2688 * MIB);
        assert_eq!(optimal_leaf(55 * GIB, 50 * GIB), 56_320 * MIB);
        assert_eq!(optimal_internal(1), EXTENT_BYTES);
        assert_eq!(optimal_internal(EXTENT_BYTES + 1), 2 * EXTENT_BYTES);
    }

    #[test]
    fn nothing_overflows() {
        for size in [u64::MAX - 1, u64::MAX] {
            let most = cow_maximum(size);
            assert!(most > u64::MAX - 2 * MIB);
            assert!(optimal_leaf(size, size) > u64::MAX - 2 * EXTENT_BYTES);
            assert_eq!(cow_initial(size, false, Some(size)), most);
            assert!(optimal_internal(size) > u64::MAX - 2 * EXTENT_BYTES);
        }
    }
}
