//! Real processes under the table's rules: started, ended, killed, reaped. Time
//! is an argument, so nothing here waits for a back-off or a deadline.
//!
//! One test program of its own, because it reaps whatever it finds.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test panic as the test does"
)]
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use linux::process::Exit;
use smol::LocalExecutor;
use supervisor::children::policy::Limits;
use supervisor::children::table::Child;
use supervisor::children::{Children, reaper};
use supervisor::journal::Logger;

/// Generous: a machine under load is slow, not broken.
const PATIENCE: Duration = Duration::from_secs(60);

const LIMITS: Limits = Limits {
    start_deadline_ms: 5_000,
    run_min_ms: 10_000,
    backoff_min_ms: 100,
    backoff_max_ms: 1_000,
    stop_deadline_ms: 3_000,
    notifies: false,
};

/// All processes of this program have one reaper, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    // As process 1 is: orphans come here.
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).unwrap();
    guard
}

struct Stage {
    children: Children,
    executor: Rc<LocalExecutor<'static>>,
    logger: Arc<Logger>,
    /// Strangers that were reaped, and how they ended.
    strangers: Vec<Exit>,
}

fn stage() -> Stage {
    let executor = Rc::new(LocalExecutor::new());
    let logger = Logger::new();
    let (notices, _noticed) = smol::channel::bounded(16);
    let children = Children::new(executor.clone(), logger.clone(), notices);
    Stage {
        children,
        executor,
        logger,
        strangers: Vec::new(),
    }
}

fn script(name: &str, text: &str) -> Child {
    Child {
        name: name.to_owned(),
        program: "/bin/sh".into(),
        argv0: None,
        arguments: vec!["-c".to_owned(), text.to_owned()],
        environment: Vec::new(),
        terminal: None,
        oom_score_adj: 0,
        group: &[],
        // Else the logger would wait for journald.
        logs_past_journald: false,
        limits: LIMITS,
    }
}

impl Stage {
    /// Reaps and reads output at the time `now` until `done`.
    fn until(&mut self, now: u64, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{what}: not seen");
            while self.executor.try_tick() {}
            for (pid, exit) in reaper::reap().unwrap().ended {
                if !self.children.exited(now, pid, exit) {
                    self.strangers.push(exit);
                }
            }
            std::thread::yield_now();
        }
    }

    fn state(&self, name: &str) -> (String, u32) {
        let report = self.children.report(0);
        let child = report.iter().find(|child| child.name == name).unwrap();
        (child.state.clone(), child.restarts)
    }

    fn said(&self, word: &str) -> bool {
        self.logger
            .last(100)
            .iter()
            .any(|line| line.ends_with(word))
    }
}

#[test]
fn a_dying_child_comes_back_after_its_wait_and_orphans_are_reaped_without_harm() {
    let _alone = alone();
    let mut stage = stage();
    // The inner one outlives its parent and becomes an orphan.
    let text = "(read line; exit 7) & exit 3";
    stage.children.start(0, script("dying", text));
    stage.children.drive(0);
    stage.until(1, "both ends", |stage| {
        stage.state("dying").0 == "backing-off" && stage.strangers == [Exit::Code(7)]
    });
    assert_eq!(
        stage.children.last_exit("dying").as_deref(),
        Some("exit 3"),
        "the orphan's end is nobody else's"
    );
    stage.children.drive(1);
    assert_eq!(stage.children.deadline(), Some(101));
    stage.children.drive(100);
    assert_eq!(stage.state("dying"), ("backing-off".to_owned(), 0));
    stage.children.drive(101);
    assert_eq!(stage.state("dying"), ("ready".to_owned(), 1));
    stage.until(102, "second end", |stage| {
        stage.state("dying").0 == "backing-off" && stage.strangers.len() == 2
    });
    stage.children.drive(102);
    assert_eq!(
        stage.children.deadline(),
        Some(302),
        "twice as long, after a run shorter than the minimum"
    );
    stage.children.stop(103, |_| true);
    assert!(stage.children.stopped(|_| true));
}

#[test]
fn a_child_deaf_to_the_request_to_end_is_killed_at_its_deadline_and_one_that_hears_is_not() {
    let _alone = alone();
    let mut stage = stage();
    let deaf = "trap '' TERM; echo deaf; while :; do read line </dev/zero; done";
    stage.children.start(0, script("deaf", deaf));
    let polite = "trap 'exit 5' TERM; echo polite; while :; do :; done";
    stage.children.start(0, script("polite", polite));
    stage.children.drive(0);
    stage.until(0, "both traps", |stage| {
        stage.said("deaf") && stage.said("polite")
    });
    stage.children.stop(10, |_| true);
    stage.children.drive(10);
    stage.until(11, "polite end", |stage| {
        stage.children.stopped(|name| name == "polite")
    });
    assert_eq!(
        stage.children.last_exit("polite").as_deref(),
        Some("exit 5")
    );
    stage.children.drive(10 + LIMITS.stop_deadline_ms - 1);
    assert_eq!(stage.state("deaf").0, "stopping");
    stage.children.drive(10 + LIMITS.stop_deadline_ms);
    stage.until(4_000, "killed", |stage| stage.children.stopped(|_| true));
    assert_eq!(
        stage.children.last_exit("deaf").as_deref(),
        Some("signal 9")
    );
}

#[test]
fn a_program_that_is_missing_is_tried_again_and_reported() {
    let _alone = alone();
    let mut stage = stage();
    let mut missing = script("missing", "");
    missing.program = "/no/such/program".into();
    stage.children.start(0, missing);
    stage.children.drive(0);
    assert_eq!(stage.state("missing").0, "backing-off");
    let why = stage.children.last_exit("missing").unwrap();
    assert!(why.contains("No such file"), "{why}");
    stage.children.drive(100);
    assert_eq!(stage.state("missing"), ("backing-off".to_owned(), 1));
}
