//! Long work: its progress and what came of it, for as long as people may ask.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::storage::report::{TaskReport, TaskState};
use control::storage::request::TaskRequest;
use control::storage::{Answer, Failure, FailureKind, Reply};
use smol::channel::{Sender, bounded};

use super::Daemon;
use super::requests::checks::check_name;
use super::socket::done;
use super::workers::{Key, Step};
use crate::job::Result;
use crate::worker::work::Work;

/// Ended tasks that are kept; the oldest go first.
const ENDED_MAX: usize = 200;
/// Tasks under way.
const RUNNING_MAX: usize = 100;
/// Longest wait for news.
const WATCH_MAX: Duration = Duration::from_secs(60);

type Cancel = Box<dyn Fn()>;

struct Task {
    report: TaskReport,
    asked: Instant,
    cancel: Option<Cancel>,
    waiters: Vec<Sender<()>>,
}

/// All tasks.
#[derive(Default)]
pub(crate) struct Tasks {
    /// By order of asking.
    tasks: RefCell<BTreeMap<u64, Task>>,
    next: Cell<u64>,
    /// The daemon ends: what is cancelled now nobody asked to be.
    ending: Cell<bool>,
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

/// What is done when the work of a task has ended; the task ends with it.
pub(crate) type After = Box<dyn FnOnce(Rc<Daemon>, Result<Answer>) -> Finish>;
/// Doing it.
pub(crate) type Finish = Pin<Box<dyn Future<Output = ()>>>;

/// Nothing is to be done.
pub(crate) fn nothing() -> Finish {
    Box::pin(std::future::ready(()))
}

impl Tasks {
    /// A new task that nobody works on yet.
    pub(crate) fn add(
        &self,
        what: &str,
        domain: Option<String>,
        if_interrupted: String,
    ) -> Result<(u64, String)> {
        if self.running() >= RUNNING_MAX as u64 {
            return Err(Failure::new(
                FailureKind::InUse,
                format!("{RUNNING_MAX} tasks run already; ask again when one has ended"),
            ));
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let id = crate::random::uuid()?;
        let report = TaskReport {
            id: id.clone(),
            what: what.to_owned(),
            domain,
            if_interrupted,
            ..TaskReport::default()
        };
        let mut tasks = self.tasks.borrow_mut();
        tasks.insert(
            number,
            Task {
                report,
                asked: Instant::now(),
                cancel: None,
                waiters: Vec::new(),
            },
        );
        let ended: Vec<u64> = tasks
            .iter()
            .filter(|(_, task)| task.report.state.ended())
            .map(|(number, _)| *number)
            .collect();
        for number in ended.iter().take(ended.len().saturating_sub(ENDED_MAX)) {
            tasks.remove(number);
        }
        Ok((number, id))
    }

    /// Puts back what an earlier daemon knew. What ran then ended with it.
    pub(crate) fn restore(&self, reports: Vec<TaskReport>) {
        for mut report in reports.into_iter().take(ENDED_MAX) {
            if !report.state.ended() {
                interrupted(&mut report);
            }
            let number = self.next.get();
            self.next.set(number + 1);
            self.tasks.borrow_mut().insert(
                number,
                Task {
                    report,
                    asked: Instant::now(),
                    cancel: None,
                    waiters: Vec::new(),
                },
            );
        }
    }

    /// Cancels everything, for the daemon ends: what can be is taken back while
    /// there is somebody to do it.
    pub(crate) fn interrupt(&self) {
        self.ending.set(true);
        let tasks = self.tasks.borrow();
        for task in tasks.values().filter(|task| !task.report.state.ended()) {
            if let Some(cancel) = &task.cancel {
                cancel();
            }
        }
    }

    /// Tasks that have not ended.
    pub(crate) fn running(&self) -> u64 {
        let tasks = self.tasks.borrow();
        tasks
            .values()
            .filter(|task| !task.report.state.ended())
            .count() as u64
    }

    /// All, oldest first.
    pub(crate) fn reports(&self) -> Vec<TaskReport> {
        self.tasks.borrow().values().map(Task::report).collect()
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Task)) {
        if let Some(task) = self.tasks.borrow_mut().get_mut(&number) {
            change(task);
            task.report.number += 1;
            task.waiters.clear();
        }
    }

    fn find(&self, id: &str) -> Result<u64> {
        check_name("task", id)?;
        let tasks = self.tasks.borrow();
        let mut found = tasks
            .iter()
            .filter(|(_, task)| task.report.id.starts_with(id) && id.len() >= 4);
        match (found.next(), found.next()) {
            (Some((number, _)), None) => Ok(*number),
            (Some(_), Some(_)) => Err(Failure::new(
                FailureKind::BadRequest,
                format!("task {id}: more than one begins so; give all of its id"),
            )),
            (None, _) => Err(Failure::new(
                FailureKind::NotFound,
                format!("task {id}: not known; `nodectl task list` shows those that are"),
            )),
        }
    }

    fn show(&self, number: u64) -> Option<TaskReport> {
        self.tasks.borrow().get(&number).map(Task::report)
    }

    pub(crate) async fn answer(&self, request: TaskRequest) -> Result<Answer> {
        let gone = || Failure::new(FailureKind::NotFound, "task: forgotten meanwhile");
        match request {
            TaskRequest::List => Ok(Answer::Tasks(self.reports())),
            TaskRequest::Show { task } => {
                let number = self.find(&task)?;
                self.show(number).map(Answer::Task).ok_or_else(gone)
            }
            TaskRequest::Watch {
                task,
                seen,
                wait_ms,
            } => {
                let number = self.find(&task)?;
                self.news(number, seen, Duration::from_millis(wait_ms))
                    .await;
                self.show(number).map(Answer::Task).ok_or_else(gone)
            }
            TaskRequest::Cancel { task } => {
                let number = self.find(&task)?;
                self.cancel(number, &task)
            }
            TaskRequest::Forget { task } => {
                let number = self.find(&task)?;
                let mut tasks = self.tasks.borrow_mut();
                if tasks
                    .get(&number)
                    .is_some_and(|task| !task.report.state.ended())
                {
                    return Err(Failure::new(
                        FailureKind::InUse,
                        format!("task {task}: still runs; cancel it first"),
                    ));
                }
                tasks.remove(&number);
                Ok(done(format!("task {task} is forgotten")))
            }
        }
    }

    /// Returns when the report differs from number `seen`, or at the deadline.
    async fn news(&self, number: u64, seen: u64, wait: Duration) {
        let (tell, told) = bounded::<()>(1);
        {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&number) else {
                return;
            };
            if task.report.number != seen || task.report.state.ended() {
                return;
            }
            task.waiters.push(tell);
        }
        // Dropping the sender is the news.
        let news = async {
            told.recv().await.ok();
        };
        smol::future::or(news, async {
            smol::Timer::after(wait.min(WATCH_MAX)).await;
        })
        .await;
    }

    fn cancel(&self, number: u64, id: &str) -> Result<Answer> {
        let mut tasks = self.tasks.borrow_mut();
        let task = tasks
            .get_mut(&number)
            .filter(|task| !task.report.state.ended())
            .ok_or_else(|| {
                Failure::new(
                    FailureKind::WrongState,
                    format!("task {id}: has ended already"),
                )
            })?;
        if let Some(cancel) = &task.cancel {
            cancel();
        }
        task.report.state = TaskState::Cancelling;
        task.report.number += 1;
        task.waiters.clear();
        Ok(done(format!(
            "task {id} ends as soon as it may; `nodectl task watch` shows when"
        )))
    }
}

/// Ends a task with the daemon.
fn interrupted(report: &mut TaskReport) {
    report.state = TaskState::Interrupted;
    report.failure = Some(Failure::new(
        FailureKind::Failed,
        format!(
            "{}: the storage daemon ended before it did; {}",
            report.what, report.if_interrupted
        ),
    ));
}

impl Task {
    fn report(&self) -> TaskReport {
        let mut report = self.report.clone();
        report.age_ms = super::ms(self.asked.elapsed());
        report
    }
}

impl Daemon {
    /// Does work as a task.
    pub(crate) fn start_task(
        self: &Rc<Self>,
        what: &str,
        domain: Option<String>,
        key: Option<Key>,
        work: Work,
        after: After,
    ) -> Reply {
        let (number, id) = match self.tasks.add(what, domain, work.if_interrupted()) {
            Ok(added) => added,
            Err(failure) => return Reply::Failure(failure),
        };
        let key = key.unwrap_or_else(|| Key::Task(id.clone()));
        let (tell, told) = bounded::<Step>(16);
        let state = match work {
            Work::FollowRecovery => TaskState::Recovering,
            _ => TaskState::Running,
        };
        let call = self.workers.call(&key, work, None, Some(tell));
        let cancel = call.canceller();
        self.tasks.change(number, |task| {
            task.cancel = Some(Box::new(cancel));
            task.report.state = state;
        });
        self.remember();
        let progress = {
            let daemon = Rc::clone(self);
            async move {
                while let Ok(step) = told.recv().await {
                    daemon.tasks.change(number, |task| {
                        task.report.done = step.done;
                        task.report.total = step.total;
                        task.report.step = step.step;
                    });
                }
                std::future::pending::<()>().await;
            }
        };
        let daemon = Rc::clone(self);
        self.executor
            .spawn(async move {
                let outcome = smol::future::or(async { Some(call.answer().await) }, async {
                    progress.await;
                    None
                })
                .await;
                let outcome = outcome.unwrap_or_else(|| {
                    Err(Failure::new(FailureKind::Failed, "its worker was ended"))
                });
                if matches!(key, Key::Task(_)) {
                    daemon.workers.stop(&key, false);
                }
                after(Rc::clone(&daemon), outcome.clone()).await;
                let ending = daemon.tasks.ending.get();
                daemon.tasks.change(number, |task| {
                    task.cancel = None;
                    task.report.took_ms = Some(super::ms(task.asked.elapsed()));
                    match outcome {
                        Ok(answer) => {
                            task.report.state = TaskState::Done;
                            // Whatever it told last: all of it is done.
                            task.report.total = task.report.total.max(1);
                            task.report.done = task.report.total;
                            task.report.result = Some(Box::new(answer));
                        }
                        Err(failure) if failure.kind == FailureKind::Cancelled && ending => {
                            interrupted(&mut task.report);
                        }
                        Err(failure) => {
                            task.report.state = if failure.kind == FailureKind::Cancelled {
                                TaskState::Cancelled
                            } else {
                                TaskState::Failed
                            };
                            task.report.failure = Some(failure);
                        }
                    }
                });
                daemon.remember();
            })
            .detach();
        Reply::Accepted { task: id }
    }
}
