//! How many bytes volumes get. Everything in bytes; pure.

use thin::Policy;
use thin::size::{EXTENT_BYTES, MIB};

/// Capacities are multiples of this.
pub const CAPACITY_STEP: u64 = 4096;
/// The largest capacity: the last step that files, devices and QEMU can count to.
pub const CAPACITY_MAX: u64 = (1 << 63) - CAPACITY_STEP;

/// A capacity as it is stored: the next step.
///
/// # Errors
///
/// What is wrong with one beyond [`CAPACITY_MAX`], in words.
pub fn capacity(bytes: u64) -> Result<u64, String> {
    match round_up(bytes, CAPACITY_STEP) {
        rounded if rounded <= CAPACITY_MAX => Ok(rounded),
        _ => Err(format!(
            "capacity {bytes}: largest allowed is {CAPACITY_MAX} bytes"
        )),
    }
}

/// The next multiple; the largest one when there is no next.
#[must_use]
pub fn round_up(bytes: u64, step: u64) -> u64 {
    thin::size::round_up(bytes, step)
}

/// The most a QCOW2 volume of this capacity may need: 1.1 times, whole MiB.
#[must_use]
pub fn cow_maximum(capacity: u64) -> u64 {
    thin::size::maximum_bytes(capacity)
}

/// What a QCOW2 volume on a block domain begins with. `asked`: an explicit
/// initial size of data.
#[must_use]
pub fn cow_initial(growth: &Policy, capacity: u64, preallocated: bool, asked: Option<u64>) -> u64 {
    if preallocated {
        return cow_maximum(capacity);
    }
    thin::size::initial_bytes(growth, capacity, asked).max(MIB)
}

/// The best size of a leaf that needs `required` bytes: room to grow, and no
/// more than it may ever need.
#[must_use]
pub fn optimal_leaf(growth: &Policy, required: u64, capacity: u64) -> u64 {
    thin::size::optimal_leaf_bytes(growth, required, cow_maximum(capacity))
        .max(round_up(required, EXTENT_BYTES))
}

/// The best size of a volume that is not written to any more.
#[must_use]
pub fn optimal_internal(required: u64) -> u64 {
    thin::size::optimal_internal_bytes(required)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const GROWTH: Policy = Policy::DEFAULT;

    #[test]
    fn sizes_are_those_of_the_original() {
        assert_eq!(cow_maximum(50 * GIB), 56_320 * MIB);
        assert_eq!(cow_maximum(10 * GIB), 11_264 * MIB);
        assert_eq!(cow_initial(&GROWTH, 50 * GIB, false, None), 2560 * MIB);
        assert_eq!(cow_initial(&GROWTH, GIB, false, None), GIB);
        assert_eq!(
            cow_initial(&GROWTH, 50 * GIB, false, Some(10 * GIB)),
            11 * GIB
        );
        assert_eq!(cow_initial(&GROWTH, GIB, false, Some(10 * GIB)), 1127 * MIB);
        assert_eq!(cow_initial(&GROWTH, 10 * GIB, true, None), 11_264 * MIB);
        assert_eq!(optimal_leaf(&GROWTH, MIB, 50 * GIB), 2688 * MIB);
        assert_eq!(optimal_leaf(&GROWTH, 55 * GIB, 50 * GIB), 56_320 * MIB);
        assert_eq!(optimal_internal(1), EXTENT_BYTES);
        assert_eq!(optimal_internal(EXTENT_BYTES + 1), 2 * EXTENT_BYTES);
    }

    #[test]
    fn first_and_best_sizes_follow_the_chunk() {
        let small = Policy {
            chunk_bytes: 256 * MIB,
            ..GROWTH
        };
        assert_eq!(cow_initial(&small, 50 * GIB, false, None), 256 * MIB);
        assert_eq!(cow_initial(&small, GIB / 8, false, None), GIB / 8);
        assert_eq!(optimal_leaf(&small, MIB, 50 * GIB), 384 * MIB);
    }

    #[test]
    fn capacities_are_whole_steps_up_to_the_largest() {
        assert_eq!(capacity(1), Ok(4096));
        assert_eq!(capacity(4096), Ok(4096));
        assert_eq!(capacity(CAPACITY_MAX), Ok(CAPACITY_MAX));
        for beyond in [CAPACITY_MAX + 1, 1 << 63, u64::MAX] {
            let wrong = capacity(beyond).unwrap_err();
            assert!(wrong.contains("9223372036854771712"), "{wrong}");
        }
    }

    #[test]
    fn nothing_overflows() {
        for size in [u64::MAX - 1, u64::MAX] {
            let most = cow_maximum(size);
            assert!(most > u64::MAX - 2 * MIB);
            assert!(optimal_leaf(&GROWTH, size, size) > u64::MAX - 2 * EXTENT_BYTES);
            assert_eq!(cow_initial(&GROWTH, size, false, Some(size)), most);
            assert!(optimal_internal(size) > u64::MAX - 2 * EXTENT_BYTES);
        }
    }
}
