//! The kind for kernels without `io_uring`: at most [`PER_DEVICE`] threads a
//! device, started when needed and ended when idle.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::{Completion, Job};
use crate::disk::IoError;

/// Requests of one device that are under way at a time.
const PER_DEVICE: usize = 4;
/// An idle thread ends after this; longer than the pause between renewals.
const IDLE: Duration = Duration::from_secs(120);
const STACK_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

#[derive(Debug, Default)]
struct State {
    /// By the address of the shared device, which the queue's users keep alive.
    queues: BTreeMap<usize, Queue>,
    done: VecDeque<Completion>,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    completed: OwnedFd,
}

#[derive(Debug)]
pub(super) struct Threads {
    shared: Arc<Shared>,
    /// What wakes us was readable.
    woken: bool,
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    // Nothing panics between two writes to it.
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: Condvar::new(),
                completed: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            }),
            woken: false,
        })
    }

    pub(super) fn submit(&mut self, job: Job) {
        let key = Arc::as_ptr(&job.device).addr();
        let mut state = lock(&self.shared);
        let queue = state.queues.entry(key).or_default();
        queue.waiting.push_back(job);
        if queue.idle >= queue.waiting.len() {
            self.shared.changed.notify_all();
            return;
        }
        if queue.threads >= PER_DEVICE {
            return;
        }
        queue.threads += 1;
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new()
            .name("disk".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || serve(&shared, key));
        if started.is_err() {
            queue.threads -= 1;
            if queue.threads == 0 {
                // Nobody will ever do these.
                let refused: Vec<_> = queue.waiting.drain(..).collect();
                for job in refused {
                    state
                        .done
                        .push_back(job.complete(Err(IoError::Os(libc::EAGAIN))));
                }
                announce(&self.shared.completed);
            }
        }
    }

    pub(super) fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
        let mut polled = [
            PollFd::new(&self.shared.completed, PollFlags::IN),
            PollFd::from_borrowed_fd(wake, PollFlags::IN),
        ];
        // Too long for the kernel is for ever.
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => self.woken |= polled[1].revents().contains(PollFlags::IN),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(super) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        let mut state = lock(&self.shared);
        let completion = state.done.pop_front();
        if state.done.is_empty() {
            // Under the lock, so that no announcement is taken back unseen.
            rustix::io::read(&self.shared.completed, &mut [0; 8]).ok();
        }
        completion
    }
}

impl AsFd for Threads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.completed.as_fd()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        lock(&self.shared).closed = true;
        self.shared.changed.notify_all();
    }
}

fn announce(completed: &OwnedFd) {
    // Full means announced already.
    rustix::io::write(completed, &1_u64.to_ne_bytes()).ok();
}

fn serve(shared: &Shared, key: usize) {
    let mut state = lock(shared);
    loop {
        let job = state
            .queues
            .get_mut(&key)
            .and_then(|queue| queue.waiting.pop_front());
        if let Some(job) = job {
            drop(state);
            let completion = if job.operation.is_expired() {
                job.complete(Err(IoError::Expired))
            } else {
                job.perform()
            };
            state = lock(shared);
            state.done.push_back(completion);
            announce(&shared.completed);
            continue;
        }
        if state.closed {
            return;
        }
        if let Some(queue) = state.queues.get_mut(&key) {
            queue.idle += 1;
        }
        let (guard, wait) = shared
            .changed
            .wait_timeout(state, IDLE)
            .unwrap_or_else(PoisonError::into_inner);
        state = guard;
        if let Some(queue) = state.queues.get_mut(&key) {
            queue.idle -= 1;
            if wait.timed_out() && queue.waiting.is_empty() {
                queue.threads -= 1;
                if queue.threads == 0 {
                    state.queues.remove(&key);
                }
                return;
            }
        }
    }
}
