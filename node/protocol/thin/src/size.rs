//! How large a volume is to be: every number and formula, none of the behaviour.
//!
//! P is the physical size (of the logical volume), A the allocation (highest
//! written offset), V the virtual capacity, C the chunk, L the free limit, M the
//! largest size the volume may ever need. All are bytes.

/// One mebibyte.
pub const MIB: u64 = 1 << 20;
/// One gibibyte.
pub const GIB: u64 = 1 << 30;
/// One extent of a domain's volume group.
pub const EXTENT_BYTES: u64 = 128 * MIB;

/// What a QCOW2 volume may need above its capacity, in percent: tables, headers.
const COW_OVERHEAD_PERCENT: u64 = 110;

/// Both drives grow at once while a disk is being copied: twice the chunk for both.
pub const REPLICATION_MULTIPLIER: u64 = 2;

/// How much is added, and how much is kept free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// C: what an extend adds.
    pub chunk_bytes: u64,
    /// How much of a chunk may be used before the next is asked for, 1 to 99.
    pub utilization_percent: u8,
}

impl Policy {
    /// What hosts use today: 2560 MiB and 20 %, which keeps 2048 MiB free.
    pub const DEFAULT: Self = Self {
        chunk_bytes: 2560 * MIB,
        utilization_percent: 20,
    };
    /// What hosts used before 4.5: 1024 MiB and 50 %, which keeps 512 MiB free.
    pub const BEFORE_4_5: Self = Self {
        chunk_bytes: 1024 * MIB,
        utilization_percent: 50,
    };

    /// C, doubled while the drive is being replicated.
    #[must_use]
    pub const fn chunk_bytes(&self, replicating: bool) -> u64 {
        let factor = if replicating {
            REPLICATION_MULTIPLIER
        } else {
            1
        };
        self.chunk_bytes.saturating_mul(factor)
    }

    /// L: with less than this free, more is asked for.
    #[must_use]
    pub const fn free_limit_bytes(&self, replicating: bool) -> u64 {
        let kept_percent = 100u64.saturating_sub(self.utilization_percent as u64);
        // In this order nothing overflows: a chunk is far below 2^57 bytes.
        self.chunk_bytes(replicating).saturating_mul(kept_percent) / 100
    }
}

/// Rounds up to a multiple of `unit`; at the top of the range, down.
#[must_use]
pub const fn round_up(bytes: u64, unit: u64) -> u64 {
    match bytes.checked_next_multiple_of(unit) {
        Some(rounded) => rounded,
        None => bytes / unit * unit,
    }
}

/// M = up(V × 1.1): no QCOW2 volume of this capacity needs more (but see
/// [`maximum_measured_bytes`]).
#[must_use]
pub const fn maximum_bytes(capacity_bytes: u64) -> u64 {
    round_up(overhead(capacity_bytes), MIB)
}

/// M where it was measured what a full volume needs (small clusters and bitmaps
/// can need more than 10 %): never below [`maximum_bytes`].
#[must_use]
pub const fn maximum_measured_bytes(capacity_bytes: u64, measured_bytes: u64) -> u64 {
    let by_rule = maximum_bytes(capacity_bytes);
    let measured = round_up(measured_bytes, MIB);
    if measured > by_rule {
        measured
    } else {
        by_rule
    }
}

/// N = min(up(P + C), M): the size to ask for.
#[must_use]
pub const fn next_bytes(physical_bytes: u64, chunk_bytes: u64, maximum_bytes: u64) -> u64 {
    min(
        round_up(physical_bytes.saturating_add(chunk_bytes), MIB),
        maximum_bytes,
    )
}

/// T = max(1, P − L): the write offset at which QEMU is to tell. Never 0, which
/// would switch the telling off.
#[must_use]
pub const fn threshold_bytes(physical_bytes: u64, free_limit_bytes: u64) -> u64 {
    let below_limit = physical_bytes.saturating_sub(free_limit_bytes);
    if below_limit == 0 { 1 } else { below_limit }
}

/// P − A < L: more is needed.
#[must_use]
pub const fn needs_extend(
    physical_bytes: u64,
    allocation_bytes: u64,
    free_limit_bytes: u64,
) -> bool {
    physical_bytes.saturating_sub(allocation_bytes) < free_limit_bytes
}

/// Size of a new thin QCOW2 volume before extent rounding: min(C, V), or with an
/// explicit initial size I × 1.1, at most M.
#[must_use]
pub const fn initial_bytes(policy: &Policy, capacity_bytes: u64, explicit: Option<u64>) -> u64 {
    match explicit {
        None => min(policy.chunk_bytes, capacity_bytes),
        Some(initial) => min(
            // Cut, not rounded up, as the original does.
            whole_overhead(initial),
            maximum_bytes(capacity_bytes),
        ),
    }
}

/// Size of a leaf after a merge or copy: min(upx(required + C), upx(M)).
#[must_use]
pub const fn optimal_leaf_bytes(policy: &Policy, required_bytes: u64, maximum_bytes: u64) -> u64 {
    min(
        round_up(
            required_bytes.saturating_add(policy.chunk_bytes),
            EXTENT_BYTES,
        ),
        round_up(maximum_bytes, EXTENT_BYTES),
    )
}

/// Size of a volume below the leaf: upx(required), one extent at least.
#[must_use]
pub const fn optimal_internal_bytes(required_bytes: u64) -> u64 {
    let rounded = round_up(required_bytes, EXTENT_BYTES);
    if rounded == 0 { EXTENT_BYTES } else { rounded }
}

const fn min(a: u64, b: u64) -> u64 {
    if a < b { a } else { b }
}

/// × 1.1, rounded up to a byte. A capacity near 2^64 cannot exist; it must not wrap
/// to a small size either.
const fn overhead(bytes: u64) -> u64 {
    if bytes > BYTES_MAX {
        return u64::MAX;
    }
    (bytes * COW_OVERHEAD_PERCENT).div_ceil(100)
}

/// × 1.1, cut to a byte.
const fn whole_overhead(bytes: u64) -> u64 {
    if bytes > BYTES_MAX {
        return u64::MAX;
    }
    bytes * COW_OVERHEAD_PERCENT / 100
}

/// What can be multiplied by a percentage.
const BYTES_MAX: u64 = u64::MAX / COW_OVERHEAD_PERCENT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_chunk_keeps_2048_mib_free_and_twice_that_when_replicating() {
        let policy = Policy::DEFAULT;
        assert_eq!(policy.chunk_bytes(false), 2560 * MIB);
        assert_eq!(policy.free_limit_bytes(false), 2048 * MIB);
        assert_eq!(policy.chunk_bytes(true), 5120 * MIB);
        assert_eq!(policy.free_limit_bytes(true), 4096 * MIB);
        assert_eq!(Policy::BEFORE_4_5.free_limit_bytes(false), 512 * MIB);
    }

    /// The values the original's drive class gives.
    #[test]
    fn checked_values_of_the_original() {
        let policy = Policy::DEFAULT;
        let (c, l) = (policy.chunk_bytes(false), policy.free_limit_bytes(false));
        let m = maximum_bytes(50 * GIB);
        assert_eq!(m, 56_320 * MIB);
        for (physical, threshold, next) in [
            (2560, Some(512), 5120),
            (5120, Some(3072), 7680),
            (53_248, None, 55_808),
            (55_296, None, 56_320),
        ] {
            assert_eq!(next_bytes(physical * MIB, c, m), next * MIB, "{physical}");
            if let Some(threshold) = threshold {
                assert_eq!(threshold_bytes(physical * MIB, l), threshold * MIB);
            }
        }
        let m = maximum_bytes(10 * GIB);
        assert_eq!(m, 11_264 * MIB);
        assert_eq!(threshold_bytes(1024 * MIB, l), 1);
        assert_eq!(next_bytes(1024 * MIB, c, m), 3584 * MIB);
    }

    #[test]
    fn initial_sizes_follow_chunk_capacity_and_explicit_size() {
        let policy = Policy::DEFAULT;
        assert_eq!(initial_bytes(&policy, GIB, None), GIB);
        assert_eq!(initial_bytes(&policy, 50 * GIB, None), 2560 * MIB);
        assert_eq!(initial_bytes(&policy, 50 * GIB, Some(10 * GIB)), 11 * GIB);
        assert_eq!(
            initial_bytes(&policy, 10 * GIB, Some(40 * GIB)),
            11_264 * MIB
        );
        // 105 × 1.1 = 115.5
        assert_eq!(initial_bytes(&policy, GIB, Some(105)), 115);
    }

    #[test]
    fn optimal_sizes_are_whole_extents() {
        let policy = Policy::DEFAULT;
        assert_eq!(optimal_internal_bytes(0), EXTENT_BYTES);
        assert_eq!(optimal_internal_bytes(EXTENT_BYTES + 1), 2 * EXTENT_BYTES);
        assert_eq!(
            optimal_leaf_bytes(&policy, 1, maximum_bytes(50 * GIB)),
            2688 * MIB
        );
        assert_eq!(
            optimal_leaf_bytes(&policy, 54 * GIB, maximum_bytes(50 * GIB)),
            round_up(56_320 * MIB, EXTENT_BYTES)
        );
    }

    #[test]
    fn measured_need_raises_the_maximum_and_never_lowers_it() {
        assert_eq!(
            maximum_measured_bytes(10 * GIB, 9 * GIB),
            maximum_bytes(10 * GIB)
        );
        assert_eq!(
            maximum_measured_bytes(10 * GIB, 12 * GIB + 1),
            12 * GIB + MIB
        );
    }

    #[test]
    fn absurd_numbers_do_not_wrap() {
        assert!(maximum_bytes(u64::MAX) > u64::MAX - MIB);
        assert_eq!(next_bytes(u64::MAX, u64::MAX, 7 * MIB), 7 * MIB);
        assert!(initial_bytes(&Policy::DEFAULT, u64::MAX, Some(u64::MAX)) > u64::MAX - MIB);
        assert_eq!(threshold_bytes(0, u64::MAX), 1);
    }
}
