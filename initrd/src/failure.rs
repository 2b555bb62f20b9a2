//! The end of a start that failed: say why, wait, reboot. Nothing here returns,
//! and nothing that may hang is waited for without limit.

use std::fs::File;
use std::panic::PanicHookInfo;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use linux::power::{self, End};

use crate::console::{self, Log};
use crate::report::Failure;

/// Longest that any one step may take, beyond what it waits on purpose. A driver
/// or a mount stuck in the kernel cannot be interrupted, only left by a reboot.
/// Generous, because an emulated machine on a busy host is slow, not stuck.
const STEP_MAX: Duration = Duration::from_secs(180);

/// How often the guard looks. It is no timer for anything else.
const GUARD_INTERVAL: Duration = Duration::from_secs(5);

/// What the guard and the panic hook need to know, from any thread.
struct Progress {
    step: &'static str,
    /// When the step is surely stuck.
    deadline: Option<Instant>,
    reboot_delay: Duration,
    consoles: Vec<File>,
}

static PROGRESS: Mutex<Progress> = Mutex::new(Progress {
    step: "start",
    deadline: None,
    reboot_delay: Duration::from_secs(10),
    consoles: Vec::new(),
});

/// Only one thread reports; the others wait for the reboot.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// Names the step that begins now and how long it waits on purpose.
pub(crate) fn begin(step: &'static str, waits: Duration) {
    with_progress(|progress| {
        progress.step = step;
        progress.deadline = Instant::now().checked_add(STEP_MAX.saturating_add(waits));
    });
}

/// Sets the consoles to report on and the time the report stays there.
pub(crate) fn report_on(consoles: Vec<File>) {
    with_progress(|progress| progress.consoles = consoles);
}

/// Sets how long a report stays on the consoles.
pub(crate) fn set_reboot_delay(delay: Duration) {
    with_progress(|progress| progress.reboot_delay = delay);
}

/// Turns a panic of any thread into a report, and starts the guard that does the
/// same for a step that never ends.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| give_up(&panicked(info))));
    begin("start", Duration::ZERO);
    let guard = thread::Builder::new().name("guard".to_owned());
    // Without a thread there is no guard; the start itself may still work.
    guard.spawn(watch).ok();
}

fn watch() {
    loop {
        thread::sleep(GUARD_INTERVAL);
        let stuck = with_progress(|progress| {
            progress
                .deadline
                .is_some_and(|deadline| Instant::now() > deadline)
                .then_some(progress.step)
        });
        if let Some(step) = stuck {
            if GIVEN_UP.load(Ordering::SeqCst) {
                // Even the report is stuck.
                reboot();
            }
            give_up(&Failure {
                problem: format!("the step \"{step}\" does not end"),
                next_step: "look at the kernel messages above for the device that does not answer"
                    .to_owned(),
                ..Failure::default()
            });
        }
    }
}

fn panicked(info: &PanicHookInfo<'_>) -> Failure {
    let step = with_progress(|progress| progress.step);
    Failure {
        problem: format!("the initrd itself broke in the step \"{step}\": {info}"),
        next_step: "report this; start an older image meanwhile".to_owned(),
        ..Failure::default()
    }
}

/// Reports `failure` on every console, waits the delay, reboots.
pub(crate) fn give_up(failure: &Failure) -> ! {
    if GIVEN_UP.swap(true, Ordering::SeqCst) {
        if thread::panicking() {
            // The report itself broke; there is nothing left to say.
            reboot();
        }
        loop {
            thread::park();
        }
    }
    let (consoles, delay) = with_progress(|progress| {
        progress.step = "failure report";
        let limit = STEP_MAX.saturating_add(progress.reboot_delay);
        progress.deadline = Instant::now().checked_add(limit);
        let consoles = std::mem::take(&mut progress.consoles);
        (consoles, progress.reboot_delay)
    });
    let mut log = Log::new();
    log.open();
    log.fail(failure.problem.lines().next().unwrap_or_default());
    let consoles = if consoles.is_empty() {
        console::open_all(&[])
    } else {
        consoles
    };
    console::tell_all(consoles, &failure.render(delay));
    thread::sleep(delay);
    reboot();
}

/// Reboots without writing anything back: nothing was mounted writable.
fn reboot() -> ! {
    let refused = power::end(End::Reboot);
    let mut log = Log::new();
    log.open();
    log.fail(&format!("reboot: {refused}"));
    // The kernel panics when PID 1 ends, and reboots after `panic=` seconds.
    std::process::abort();
}

fn with_progress<T>(act: impl FnOnce(&mut Progress) -> T) -> T {
    // A thread that panicked while holding the lock left plain data behind.
    let mut progress = PROGRESS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    act(&mut progress)
}
