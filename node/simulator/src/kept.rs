//! Seeds that once failed, each with its reason, run before all others.
//!
//! A seed names a run only as long as the simulator draws the same numbers
//! from it: when the simulator changes, an old seed tells another story. Then
//! the bug it was kept for lives on as a mutation or a story of the core, and
//! the seed stays as one more run.

/// The file's text: a seed and its reason on each line, `#` begins a remark.
const TEXT: &str = include_str!("../failing-seeds.txt");

/// The same for the storage world.
const STORAGE_TEXT: &str = include_str!("../failing-seeds-storage.txt");

/// A seed and why it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The seed.
    pub seed: u64,
    /// What it once showed.
    pub reason: &'static str,
}

/// All kept seeds.
///
/// # Panics
/// When a line of the file is not a seed and a reason.
#[must_use]
pub fn kept() -> Vec<Kept> {
    parse("failing-seeds.txt", TEXT)
}

/// All kept seeds of the storage world.
///
/// # Panics
/// When a line of the file is not a seed and a reason.
#[must_use]
pub fn kept_of_storage() -> Vec<Kept> {
    parse("failing-seeds-storage.txt", STORAGE_TEXT)
}

fn parse(file: &str, text: &'static str) -> Vec<Kept> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let parsed = line.split_once(' ').and_then(|(seed, reason)| {
                Some(Kept {
                    seed: seed.parse().ok()?,
                    reason: reason.trim(),
                })
            });
            parsed.unwrap_or_else(|| panic!("{file}: no seed and reason: {line}"))
        })
        .collect()
}
