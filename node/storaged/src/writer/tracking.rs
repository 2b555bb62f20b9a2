//! Work that the manager after this one shall know of: persisted tasks.

use control::storage::request::VolumeRequest;
use control::storage::{Answer, Failure, FailureKind};
use disk_format::vdsm::uuid::TaskId;

use super::PoolAuthority;
use crate::job::Result;
use crate::task::Store;
use crate::worker::work::Work;

/// Ended tasks that are kept with their results.
const TASKS_KEPT: usize = 50;

/// Whether the manager after this one shall know of the work.
pub(super) fn is_task(work: &Work) -> bool {
    let Work::Volume { request, .. } = work else {
        return matches!(work, Work::ExtendDomain { .. } | Work::Reduce { .. });
    };
    matches!(
        request,
        VolumeRequest::Create(_)
            | VolumeRequest::Delete { .. }
            | VolumeRequest::DeleteImage { .. }
            | VolumeRequest::Copy { .. }
            | VolumeRequest::Template { .. }
            | VolumeRequest::Snapshot { .. }
            | VolumeRequest::Merge { .. }
    )
}

/// Does work as a persisted task. What it leaves half-made needs no steps of its
/// own: the next manager removes it, finishes removals, and marks the task undone.
pub(super) fn tracked(
    store: &Store,
    authority: &PoolAuthority,
    work: &Work,
    run: impl FnOnce() -> Result<Answer>,
) -> Result<Answer> {
    let id = TaskId::from_random(random()?);
    let task = match store.begin(authority, id, &work.name().replace(' ', "-"), work.name()) {
        Ok(task) => task,
        Err(failure) if failure.kind == FailureKind::LeaseNotHeld => return Err(failure),
        Err(failure) => {
            // A full or broken task store keeps nobody from working.
            tracing::warn!(%failure, "task not kept");
            return run();
        }
    };
    let outcome = run();
    let result = outcome
        .as_ref()
        .map(|answer| serde_json::to_string(answer).unwrap_or_default())
        .map_err(Failure::clone);
    let kept = task
        .finish(&result)
        .and_then(|_| store.prune(authority, TASKS_KEPT));
    if let Err(failure) = kept {
        tracing::warn!(%failure, "result of a task not kept");
    }
    outcome
}

/// Random bytes of the kernel's.
fn random() -> Result<[u8; 16]> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::new(FailureKind::Failed, format!("random bytes: {error}")))?;
    Ok(bytes)
}
