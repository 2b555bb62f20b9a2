//! How the C library hands out memory.

/// Makes all threads share one heap. By default each thread gets a heap of its
/// own, 132 KiB and up, which small daemons with locked memory pay for in full.
/// Call it before threads start.
pub fn share_one_heap() {
    // SAFETY: mallopt takes two numbers and touches nothing of ours; no other
    // thread runs yet, or it takes the allocator's own lock.
    let accepted = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // Refused only for a value out of range.
    debug_assert!(accepted == 1, "mallopt refuses one arena");
}
