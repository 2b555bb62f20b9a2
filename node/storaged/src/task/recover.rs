//! Undoing what a manager that is gone had begun.

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::task::{Outcome, Recovery, Task, TaskState};
use disk_format::vdsm::uuid::TaskId;

use super::store::Store;
use crate::authority::Authority;
use crate::job::{Context, Result};

/// What became of a task of a former manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// It had ended; its result is kept.
    Kept(Box<Task>),
    /// It was undone.
    Undone(TaskId),
    /// It cannot be undone: why.
    Failed(TaskId, Failure),
}

/// Undoes every task that had not ended, last step first. `undo` does one step
/// and must succeed when there is nothing to undo: a step may be done twice.
///
/// # Errors
/// The store cannot be read; authority. Failures of single tasks are answers.
pub fn recover(
    context: &Context,
    store: &Store,
    authority: &dyn Authority,
    undo: &mut dyn FnMut(&Task, &Recovery) -> Result<()>,
) -> Result<Vec<Recovered>> {
    let loaded = store.load()?;
    let begun = |task: &Result<Task>| task.as_ref().is_ok_and(|task| !task.state.is_over());
    let total = loaded.values().filter(|task| begun(task)).count();
    let total = u64::try_from(total).unwrap_or(u64::MAX);
    let mut done = 0;
    let mut all = Vec::new();
    for (id, task) in loaded {
        context.go_on()?;
        all.push(match task {
            Err(failure) => Recovered::Failed(id, failure),
            Ok(task) if task.state.is_over() => Recovered::Kept(Box::new(task)),
            Ok(task) => {
                context.tell(done, total, &format!("undo {}", task.name));
                done += 1;
                one(store, authority, task, undo)?
            }
        });
    }
    Ok(all)
}

fn one(
    store: &Store,
    authority: &dyn Authority,
    mut task: Task,
    undo: &mut dyn FnMut(&Task, &Recovery) -> Result<()>,
) -> Result<Recovered> {
    task.state = TaskState::Recovering;
    store.save(authority, &task)?;
    while let Some(step) = task.recoveries.last().cloned() {
        if let Err(failure) = undo(&task, &step) {
            if !matches!(failure.kind, FailureKind::Damaged | FailureKind::BadRequest) {
                // Not now, or not by this manager: it stays to be recovered.
                return Ok(Recovered::Failed(task.id, failure));
            }
            // The step itself makes no sense, to nobody.
            task.state = TaskState::Failed;
            task.outcome = Some(ended(200, &format!("recovery failed: {failure}")));
            store.save(authority, &task)?;
            return Ok(Recovered::Failed(task.id, failure));
        }
        task.recoveries.pop();
        store.save(authority, &task)?;
    }
    task.state = TaskState::Recovered;
    task.outcome = Some(ended(411, "undone: its manager was gone before it ended"));
    store.save(authority, &task)?;
    Ok(Recovered::Undone(task.id))
}

fn ended(code: i64, message: &str) -> Outcome {
    let message: String = message
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(4000)
        .collect();
    Outcome {
        code,
        message: message.replace("_eq_", "_eq").trim().to_owned(),
        result: String::new(),
    }
}
