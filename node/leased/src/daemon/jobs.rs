//! Work that may block for as long as a device likes: opening, looking at a
//! path, storage commands. Each piece has a short-lived thread of its own.
//!
//! A path that hangs keeps its own pieces waiting and nobody else's: at most
//! [`PER_PATH_MAX`] threads are spent on one, and one that has none may always
//! start one, up to [`THREADS_MAX`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use lease::Monotonic;
use rustix::event::{EventfdFlags, eventfd};

/// Threads on one path.
const PER_PATH_MAX: usize = 4;
/// Threads of paths that have some already.
const SHARED_MAX: usize = 64;
/// Threads in all, hung ones included.
const THREADS_MAX: usize = 128;
/// How long to wait when the machine has no thread to give.
const RETRY_MS: u64 = 100;
/// Pieces waiting for one path; more are refused.
const WAITING_MAX: usize = 256;
/// Deep enough for formatting a path and a syscall.
const STACK_BYTES: usize = 256 * 1024;

type Work<T> = Box<dyn FnOnce() -> T + Send>;

#[derive(Default)]
struct Queue<T> {
    running: usize,
    waiting: VecDeque<Work<T>>,
}

/// The pieces of work under way; `T` is what comes of each.
pub(crate) struct Jobs<T> {
    paths: BTreeMap<Arc<[u8]>, Queue<T>>,
    running: usize,
    sender: Sender<(Arc<[u8]>, T)>,
    receiver: Receiver<(Arc<[u8]>, T)>,
    event: Arc<OwnedFd>,
    /// The machine had no thread to give; when to ask again.
    retry_at: Option<Monotonic>,
}

impl<T: Send + 'static> Jobs<T> {
    /// # Errors
    /// No more descriptors.
    pub(crate) fn new() -> io::Result<Self> {
        let (sender, receiver) = channel();
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            paths: BTreeMap::new(),
            running: 0,
            sender,
            receiver,
            event: Arc::new(event),
            retry_at: None,
        })
    }

    /// Starts a piece of work that touches `path`, now or when its turn has
    /// come. `false`: too much waits for that path already.
    pub(crate) fn start(&mut self, path: &[u8], work: Work<T>) -> bool {
        let key = match self.paths.get_key_value(path) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(path),
        };
        let queue = self.paths.entry(Arc::clone(&key)).or_insert_with(|| Queue {
            running: 0,
            waiting: VecDeque::new(),
        });
        if queue.waiting.len() >= WAITING_MAX {
            return false;
        }
        queue.waiting.push_back(work);
        self.advance(&key);
        true
    }

    /// Takes the ringing of the descriptor back; before [`Self::next_done`],
    /// so that a piece that ends meanwhile rings again.
    pub(crate) fn quiet(&self) {
        let mut count = [0; 8];
        // It may have been quiet already.
        rustix::io::read(&*self.event, &mut count).ok();
    }

    /// The next piece that is done.
    pub(crate) fn next_done(&mut self) -> Option<T> {
        let (path, outcome) = self.receiver.try_recv().ok()?;
        self.ended(&path);
        Some(outcome)
    }

    /// When to call [`Self::tick`].
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.retry_at
    }

    /// Starts what found no thread before.
    pub(crate) fn tick(&mut self, now: Monotonic) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.advance_all();
        }
    }

    fn ended(&mut self, path: &Arc<[u8]>) {
        self.running -= 1;
        if let Some(queue) = self.paths.get_mut(path) {
            queue.running -= 1;
        }
        self.advance(path);
        self.advance_all();
    }

    fn advance_all(&mut self) {
        // What waited for any thread at all rather than for its path's.
        let starved: Vec<Arc<[u8]>> = self
            .paths
            .iter()
            .filter(|(_, queue)| queue.running < PER_PATH_MAX && !queue.waiting.is_empty())
            .map(|(path, _)| Arc::clone(path))
            .collect();
        for path in starved {
            self.advance(&path);
        }
    }

    fn advance(&mut self, path: &Arc<[u8]>) {
        while let Some(queue) = self.paths.get_mut(path) {
            let limit = if queue.running == 0 {
                THREADS_MAX
            } else {
                SHARED_MAX
            };
            if queue.running >= PER_PATH_MAX || self.running >= limit {
                return;
            }
            let Some(work) = queue.waiting.pop_front() else {
                if queue.running == 0 {
                    self.paths.remove(path);
                }
                return;
            };
            match self.spawn(Arc::clone(path), work) {
                None => {
                    self.running += 1;
                    if let Some(queue) = self.paths.get_mut(path) {
                        queue.running += 1;
                    }
                }
                Some(work) => {
                    let now = Monotonic(linux::clock::boottime_ns());
                    self.retry_at = Some(now.plus_ms(RETRY_MS));
                    if let Some(queue) = self.paths.get_mut(path) {
                        queue.waiting.push_front(work);
                    }
                    return;
                }
            }
        }
    }

    /// Starts a thread; without one to be had the work comes back.
    fn spawn(&self, path: Arc<[u8]>, work: Work<T>) -> Option<Work<T>> {
        let (sender, event) = (self.sender.clone(), Arc::clone(&self.event));
        // Left here for the thread, or for us if there is none.
        let left = Arc::new(Mutex::new(Some(work)));
        let taken = Arc::clone(&left);
        let take = |left: &Mutex<Option<Work<T>>>| {
            left.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let body = move || {
            let Some(work) = take(&taken) else { return };
            let outcome = work();
            // The loop has ended if nobody listens; a full counter rings, too.
            sender.send((path, outcome)).ok();
            rustix::io::write(&*event, &1u64.to_ne_bytes()).ok();
        };
        let thread = thread::Builder::new()
            .name("storage".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(body);
        match thread {
            Ok(_) => None,
            Err(_) => take(&left),
        }
    }
}

impl<T> AsFd for Jobs<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl<T> fmt::Debug for Jobs<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Jobs")
            .field("paths", &self.paths.len())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn next(jobs: &mut Jobs<&'static str>) -> &'static str {
        loop {
            if let Some(done) = jobs.next_done() {
                return done;
            }
            let limit = Timespec::try_from(Duration::from_secs(60)).unwrap();
            let mut wanted = [PollFd::new(&*jobs, PollFlags::IN)];
            assert_eq!(poll(&mut wanted, Some(&limit)).unwrap(), 1, "nothing ends");
            jobs.quiet();
        }
    }

    #[test]
    fn a_path_that_hangs_keeps_only_its_own_work_waiting() {
        let mut jobs = Jobs::new().unwrap();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let hang = || -> Work<&'static str> {
            let gate = Arc::clone(&gate);
            Box::new(move || {
                gate.lock().unwrap().recv().unwrap();
                "hung"
            })
        };
        for _ in 0..10 {
            assert!(jobs.start(b"/hung", hang()));
        }
        assert_eq!(jobs.running, PER_PATH_MAX);
        assert!(jobs.start(b"/good", Box::new(|| "good")));
        assert_eq!(next(&mut jobs), "good");
        for _ in 0..10 {
            release.send(()).unwrap();
            assert_eq!(next(&mut jobs), "hung");
        }
        assert_eq!((jobs.running, jobs.paths.len()), (0, 0));
    }

    #[test]
    fn what_waits_for_one_path_is_bounded() {
        let mut jobs = Jobs::new().unwrap();
        let (_release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let mut accepted = 0;
        while accepted < 10_000 {
            let gate = Arc::clone(&gate);
            let work = Box::new(move || {
                gate.lock().unwrap().recv().ok();
                "hung"
            });
            if !jobs.start(b"/hung", work) {
                break;
            }
            accepted += 1;
        }
        assert_eq!(accepted, PER_PATH_MAX + WAITING_MAX);
    }
}
