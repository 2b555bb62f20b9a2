//! From a piece of work to the library function that does it.

use control::storage::{Answer, Failure, FailureKind};

use super::work::{Settings, Work};
use crate::authority::Authority;
use crate::job::{Context, Result};

/// Does work. `authority` is who may change metadata: the writer's; a plain
/// worker has none and is refused where one is needed.
///
/// # Errors
/// Whatever the work fails with.
pub fn run(
    work: &Work,
    settings: &Settings,
    authority: Option<&dyn Authority>,
    context: &Context,
) -> Result<Answer> {
    let _ = (settings, authority, context);
    Err(Failure::new(
        FailureKind::Unsupported,
        format!("{}: not in this version", work.name()),
    ))
}
