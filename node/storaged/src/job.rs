//! What a piece of work is given: where to tell its progress, and whether it
//! shall end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use control::storage::{Failure, FailureKind};

/// The answer of everything that works on storage.
pub type Result<T> = std::result::Result<T, Failure>;

/// How far a piece of work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes (or steps) done.
    pub done: u64,
    /// Bytes (or steps) in all; 0 when not known.
    pub total: u64,
}

/// Where progress goes.
pub type ProgressSink = Arc<dyn Fn(Progress, &str) + Send + Sync>;

/// What a piece of work is given.
#[derive(Clone)]
pub struct Context {
    progress: ProgressSink,
    cancelled: Arc<AtomicBool>,
}

impl Context {
    /// A context that tells progress to `progress` and ends when `cancelled` is set.
    pub fn new(progress: ProgressSink, cancelled: Arc<AtomicBool>) -> Self {
        Self {
            progress,
            cancelled,
        }
    }

    /// A context that tells nobody and is never cancelled.
    pub fn quiet() -> Self {
        Self::new(Arc::new(|_, _| {}), Arc::default())
    }

    /// Tells how far the step named `step` is.
    pub fn tell(&self, done: u64, total: u64, step: &str) {
        (self.progress)(Progress { done, total }, step);
    }

    /// Fails when the work was cancelled; called between steps that may be left off.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Cancelled`].
    pub fn go_on(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Failure::new(FailureKind::Cancelled, "cancelled by request"));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("cancelled", &self.cancelled)
            .finish_non_exhaustive()
    }
}
