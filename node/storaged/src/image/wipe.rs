//! Zeroing before room is given back, so that no volume made later shows a byte
//! of one that is gone.
//!
//! The promise is on the storage before the first byte is zeroed (the ZERO mark
//! of [`Domain::mark_removed`](crate::domain::Domain::mark_removed)) and goes with
//! the volume, so that whoever finds the mark finishes the work, from the start.

use std::path::Path;
use std::time::{Duration, Instant};

use control::config::GivingBack;
use control::storage::{Failure, FailureKind};
use linux::zero::Eraser;

use super::Work;
use super::leases::{HeldLease, LeaseName};
use crate::domain::{EntryState, VolumeEntry};
use crate::file::failed;
use crate::job::{Context, Result};

/// Zeroed at once, as other hosts do.
const STEP_BYTES: u64 = 32 << 20;
/// A pause for the rate limit is cut into such pieces, to hear a cancel.
const PAUSE: Duration = Duration::from_millis(200);

/// How room is given back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disposal {
    /// Zero it first.
    pub wipe: bool,
    /// Tell the array that it is not needed. Best effort.
    pub discard: bool,
    /// Bytes a second that are zeroed at most; as fast as it goes when absent.
    pub bytes_per_s: Option<u64>,
}

impl Disposal {
    /// As the configuration has it: nothing is zeroed that was not promised to be.
    #[must_use]
    pub fn of(configured: &GivingBack) -> Self {
        Self {
            wipe: false,
            discard: configured.discard,
            bytes_per_s: configured.wipe_mib_per_s.map(|mib| u64::from(mib) << 20),
        }
    }
}

/// Zeroes all of `path` and waits until that is on stable storage. Tells progress.
///
/// # Errors
///
/// `InUse` when somebody has it open; `Cancelled`; I/O. Some of it may be zeros.
pub fn zero(context: &Context, path: &Path, bytes_per_s: Option<u64>) -> Result<()> {
    zero_from(context, path, 0, bytes_per_s)
}

/// The same from byte `from` (a multiple of the sector size) on.
///
/// # Errors
///
/// As [`zero`].
pub fn zero_from(
    context: &Context,
    path: &Path,
    from: u64,
    bytes_per_s: Option<u64>,
) -> Result<()> {
    let fail = |e| failed("zero", path, &e);
    let mut eraser = Eraser::open(path).map_err(fail)?;
    let total = eraser.size_bytes();
    // A step is done in at most two seconds of the allowed rate.
    let step_max = match bytes_per_s {
        Some(rate) => STEP_BYTES.min((rate.saturating_mul(2) >> 20).max(1) << 20),
        None => STEP_BYTES,
    };
    let began = Instant::now();
    let mut at = from;
    while at < total {
        context.go_on()?;
        context.tell(at, total, "zero");
        let step = step_max.min(total - at);
        eraser.zero(at, step).map_err(fail)?;
        at += step;
        pace(context, began, at - from, bytes_per_s)?;
    }
    eraser.flush().map_err(fail)?;
    context.tell(total, total, "zero");
    Ok(())
}

/// Waits until `done` bytes are not too many for the time since `began`.
fn pace(context: &Context, began: Instant, done: u64, rate: Option<u64>) -> Result<()> {
    let Some(rate) = rate.filter(|rate| *rate > 0) else {
        return Ok(());
    };
    let due_ms = u128::from(done) * 1000 / u128::from(rate);
    let due = began + Duration::from_millis(u64::try_from(due_ms).unwrap_or(u64::MAX));
    while let Some(left) = due.checked_duration_since(Instant::now()) {
        if left.is_zero() {
            break;
        }
        context.go_on()?;
        std::thread::sleep(left.min(PAUSE));
    }
    Ok(())
}

/// Takes a volume that is marked for removal, or half-made, to its end: zeroed if
/// it was promised, discarded if wished, its room given back.
///
/// The volume's own lease is held from the first zero until its room is given
/// back: another host that found the mark too must not still be writing zeros when
/// the room belongs to somebody else already.
///
/// # Errors
///
/// As [`zero`]; `InUse` while another host does it; authority. It keeps its mark
/// and can be finished later.
pub fn finish(work: &Work<'_>, entry: &VolumeEntry, disposal: Disposal) -> Result<()> {
    let zero_first =
        work.domain.kind().is_block() && matches!(entry.state, EntryState::Removed { zero: true });
    let _held = if zero_first {
        let held = hold(work, entry)?;
        let entries = work.domain.volumes()?;
        if !entries
            .iter()
            .any(|e| e.id == entry.id && e.state == entry.state)
        {
            // Finished by whoever held the lease before.
            return Ok(());
        }
        Some(held)
    } else {
        None
    };
    if zero_first || (work.domain.kind().is_block() && disposal.discard) {
        let domain = work.domain.id().to_string();
        work.domain.activate(&[entry])?;
        let path = work.domain.path(entry);
        work.authority.check(&domain)?;
        work.authority.rest(&domain);
        let done = if zero_first {
            zero(work.context, &path, disposal.bytes_per_s)
        } else {
            Ok(())
        };
        if done.is_ok() && disposal.discard {
            discard(work.context, &path);
        }
        let inactive = work.domain.deactivate(&[entry]);
        done?;
        if !inactive?.is_empty() {
            return Err(Failure::new(
                FailureKind::InUse,
                format!(
                    "volume {}: open although it is marked for removal",
                    entry.id
                ),
            ));
        }
    }
    work.domain.remove(work.authority, entry)
}

/// Takes the lease of a volume that is going. Where another thing is in its place
/// (it was never made, or is damaged) it is nobody's and made anew.
fn hold<'a>(work: &Work<'a>, entry: &VolumeEntry) -> Result<Box<dyn HeldLease + 'a>> {
    let name = LeaseName::of_entry(work.domain, entry);
    match work.leases.acquire(&name) {
        Err(failure) if failure.kind == FailureKind::Damaged => {
            tracing::info!(volume = %entry.id, %failure, "lease made anew");
            work.leases.create(&name)?;
            work.leases.acquire(&name)
        }
        other => other,
    }
}

/// Best effort: an array that cannot is as good as before.
fn discard(context: &Context, path: &Path) {
    let step = STEP_BYTES * 32;
    let all = || -> std::io::Result<()> {
        let eraser = Eraser::open(path)?;
        let mut at = 0;
        while at < eraser.size_bytes() && context.go_on().is_ok() {
            let length = step.min(eraser.size_bytes() - at);
            eraser.discard(at, length)?;
            at += length;
        }
        Ok(())
    };
    if let Err(error) = all() {
        tracing::debug!(path = %path.display(), %error, "not discarded");
    }
}

/// What was found and finished.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Volumes removed, those zeroed among them.
    pub removed: Vec<VolumeEntry>,
    /// Volumes that could not be, with the reason; they keep their mark.
    pub left: Vec<(VolumeEntry, Failure)>,
    /// Other things removed.
    pub swept: usize,
}

/// Finishes every removal that was begun, by whomever: zeroes what has the ZERO
/// mark, then gives the room back. One that fails does not keep the others.
///
/// # Errors
///
/// The domain cannot be listed; `Cancelled`; `LeaseNotHeld`.
pub fn resume_wipes(work: &Work<'_>, disposal: Disposal) -> Result<Collected> {
    collect(work, disposal, false)
}

/// What a new pool manager does with a domain: finishes removals, and removes what
/// is half-made. Only while nothing is being made by anybody: never where several
/// hosts change the domain in turns, each under its lease for a commit.
///
/// # Errors
///
/// As [`resume_wipes`].
pub fn clean_up(work: &Work<'_>, disposal: Disposal) -> Result<Collected> {
    collect(work, disposal, true)
}

fn collect(work: &Work<'_>, disposal: Disposal, half_made: bool) -> Result<Collected> {
    let mut collected = Collected::default();
    for entry in work.domain.volumes()? {
        let wanted = match entry.state {
            EntryState::Live => false,
            EntryState::HalfMade => half_made,
            EntryState::Removed { .. } => true,
        };
        if !wanted {
            continue;
        }
        work.context.go_on()?;
        tracing::info!(volume = %entry.id, image = %entry.image, state = ?entry.state, "finishing a removal");
        match finish(work, &entry, disposal) {
            Ok(()) => collected.removed.push(entry),
            Err(failure)
                if matches!(
                    failure.kind,
                    FailureKind::LeaseNotHeld | FailureKind::Cancelled
                ) =>
            {
                return Err(failure);
            }
            Err(failure) => {
                tracing::warn!(volume = %entry.id, %failure, "removal not finished");
                collected.left.push((entry, failure));
            }
        }
    }
    if half_made {
        collected.swept = work.domain.sweep(work.authority)?;
    }
    Ok(collected)
}
