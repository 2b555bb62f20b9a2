//! What is told of a recovery while it goes on, and what came of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::storage::{Answer, Failure, FailureKind};

use crate::image::wipe::Collected;
use crate::job::{Context, Progress, Result};

/// Between two looks whether whoever follows wants it to end.
const LOOK: Duration = Duration::from_millis(100);

/// One recovery as others see it.
pub(in crate::writer) struct Account {
    told: Mutex<Told>,
    news: Condvar,
    cancelled: Arc<AtomicBool>,
    begun: Box<dyn Fn() + Send + Sync>,
}

struct Told {
    begun: bool,
    /// Grows with each change.
    number: u64,
    progress: Progress,
    step: String,
    outcome: Option<Result<String>>,
}

impl Account {
    /// Of one that begins. `begun` is called once, when it finds something to do.
    pub(in crate::writer) fn new(begun: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            told: Mutex::new(Told {
                begun: false,
                number: 0,
                progress: Progress { done: 0, total: 0 },
                step: String::new(),
                outcome: None,
            }),
            news: Condvar::new(),
            cancelled: Arc::default(),
            begun,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its work is given. Every step's name is followed by `of`.
    pub(super) fn context(self: &Arc<Self>, of: &str) -> Context {
        let (mine, of) = (Arc::clone(self), of.to_owned());
        let tell = move |progress: Progress, step: &str| {
            mine.begin();
            let mut told = mine.lock();
            told.number += 1;
            told.progress = progress;
            told.step = format!("{step}{of}");
            drop(told);
            mine.news.notify_all();
        };
        Context::new(Arc::new(tell), Arc::clone(&self.cancelled))
    }

    /// There is something to do.
    pub(super) fn begin(&self) {
        let before = std::mem::replace(&mut self.lock().begun, true);
        if !before {
            (self.begun)();
        }
    }

    /// Ends it between two steps.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// It has ended.
    pub(super) fn close(&self, outcome: Result<String>) {
        self.lock().outcome = Some(outcome);
        self.news.notify_all();
    }

    /// Tells `context` how far it is until it has ended; cancelling that ends it.
    ///
    /// # Errors
    /// What is left, and why.
    pub(in crate::writer) fn follow(&self, context: &Context) -> Result<Answer> {
        let mut seen = 0;
        let mut told = self.lock();
        loop {
            if let Some(outcome) = &told.outcome {
                return outcome
                    .clone()
                    .map(|message| Answer::Done { message })
                    .map_err(|failure| match failure.kind {
                        FailureKind::Cancelled => Failure::new(
                            failure.kind,
                            "ended before all was in order; the next manager goes on with it",
                        ),
                        _ => failure,
                    });
            }
            if context.go_on().is_err() {
                self.cancel();
            }
            if std::mem::replace(&mut seen, told.number) != told.number {
                let (progress, step) = (told.progress, told.step.clone());
                drop(told);
                context.tell(progress.done, progress.total, &step);
                told = self.lock();
                continue;
            }
            let waited = self.news.wait_timeout(told, LOOK);
            told = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What a recovery has done.
#[derive(Debug, Default)]
pub(super) struct Sum {
    /// Tasks.
    pub(super) undone: usize,
    removed: usize,
    swept: usize,
    /// What it could not do.
    pub(super) left: Vec<String>,
}

impl Sum {
    pub(super) fn add(&mut self, collected: &Collected, swept: usize) {
        self.removed += collected.removed.len();
        self.swept += swept;
        let left = collected.left.iter();
        self.left
            .extend(left.map(|(entry, failure)| format!("volume {}: {failure}", entry.id)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.undone + self.removed + self.swept + self.left.len() == 0
    }

    /// For people.
    ///
    /// # Errors
    /// Something is left.
    pub(super) fn words(&self) -> Result<String> {
        let done = format!(
            "undone: {} tasks; finished: {} removals; other leftovers removed: {}",
            self.undone, self.removed, self.swept
        );
        let Some(first) = self.left.first() else {
            return Ok(done);
        };
        Err(Failure::new(
            FailureKind::Failed,
            format!(
                "{first}; {} in all are left, the next manager tries again ({done})",
                self.left.len()
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    fn account() -> (Arc<Account>, Arc<AtomicU32>) {
        let begun = Arc::<AtomicU32>::default();
        let count = Arc::clone(&begun);
        let tell = Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        (Arc::new(Account::new(tell)), begun)
    }

    #[test]
    fn it_is_told_of_once_and_only_when_there_is_something_to_do() {
        let (one, begun) = account();
        one.close(Ok("nothing".to_owned()));
        assert_eq!(begun.load(Ordering::SeqCst), 0);
        let (two, begun) = account();
        let context = two.context(", domain x");
        context.tell(1, 2, "zero");
        context.tell(2, 2, "zero");
        two.begin();
        assert_eq!(begun.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn who_follows_sees_its_steps_and_its_end() {
        let (one, _) = account();
        let steps = Arc::<Mutex<Vec<(u64, String)>>>::default();
        let (kept, ends) = (Arc::clone(&steps), Arc::clone(&one));
        let follower = Context::new(
            Arc::new(move |progress: Progress, step: &str| {
                let told = (progress.done, step.to_owned());
                kept.lock().expect("steps").push(told);
                ends.close(Ok("all in order".to_owned()));
            }),
            Arc::default(),
        );
        one.context(", domain x").tell(3, 4, "zero");
        let message = "all in order".to_owned();
        assert_eq!(one.follow(&follower), Ok(Answer::Done { message }));
        let steps = steps.lock().expect("steps").clone();
        assert_eq!(steps, [(3, "zero, domain x".to_owned())]);
    }

    #[test]
    fn who_follows_may_end_it() {
        let (one, _) = account();
        let work = one.context("");
        let cancelled = Arc::new(AtomicBool::new(true));
        let follower = Context::new(Arc::new(|_, _| {}), cancelled);
        let mine = Arc::clone(&one);
        let working = std::thread::spawn(move || {
            let failure = loop {
                match work.go_on() {
                    Ok(()) => std::thread::yield_now(),
                    Err(failure) => break failure,
                }
            };
            mine.close(Err(failure));
        });
        let failure = one.follow(&follower).expect_err("ended");
        assert_eq!(failure.kind, FailureKind::Cancelled);
        assert!(failure.message.contains("next manager"), "{failure}");
        working.join().expect("ended");
    }

    #[test]
    fn what_is_left_is_a_failure_with_its_reason() {
        let mut sum = Sum::default();
        assert!(sum.is_empty() && sum.words().is_ok());
        sum.undone = 2;
        assert!(sum.words().expect("all done").contains("2 tasks"));
        sum.left = vec!["volume x: busy".to_owned(), "task y: odd".to_owned()];
        let failure = sum.words().expect_err("left");
        assert!(
            failure.message.starts_with("volume x: busy; 2 in all"),
            "{failure}"
        );
    }
}
