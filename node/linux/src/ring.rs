//! Many reads and writes in flight from one thread, on any number of devices.
//!
//! What it is: a queue of whole-buffer requests. With `io_uring` they cost a
//! system call a batch and complete without a thread; where a site has turned
//! that off, a few threads a device do the same. What it is not: no time-outs;
//! a request that never comes back costs its buffer and nothing else.
//!
//! ```text
//!   submit ──▶ queued ──flush──▶ in the kernel ──▶ next_completion
//!                                     │
//!              rest of a short transfer goes round again
//! ```
//!
//! Invariants: a buffer belongs to the ring from [`Ring::submit`] until its
//! completion is handed out, however long that takes, also when the ring is
//! dropped before; requests of one device never wait for another device's.
//!
//! A file on a memory file system is the exception: its I/O is a copy that
//! waits for nothing, so it is done at once, without the kernel's workers.

mod threads;
mod uring;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{AlignedBuffer, BlockDevice, IoError};

/// Room made beforehand for requests that end at once.
const ENDED: usize = 256;

/// How requests reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `io_uring` if the kernel lets us, threads otherwise.
    Auto,
    /// `io_uring` or failure.
    Uring,
    /// Threads.
    Threads,
}

/// What to do with the whole of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Fill it from this byte offset.
    Read {
        /// Byte offset on the device, a multiple of its sector size.
        offset: u64,
    },
    /// Write it at this byte offset.
    Write {
        /// Byte offset on the device, a multiple of its sector size.
        offset: u64,
        /// Do nothing if boot-time (ns) has passed this when the request is
        /// about to be handed to the kernel.
        not_after_ns: Option<u64>,
    },
}

impl Operation {
    fn offset(self) -> u64 {
        match self {
            Self::Read { offset } | Self::Write { offset, .. } => offset,
        }
    }

    /// Whether it must not be begun any more.
    fn is_expired(self) -> bool {
        match self {
            Self::Write {
                not_after_ns: Some(latest),
                ..
            } => crate::clock::boottime_ns() > latest,
            Self::Read { .. } | Self::Write { .. } => false,
        }
    }
}

/// A request that is over.
#[derive(Debug)]
pub struct Completion {
    /// As given to [`Ring::submit`].
    pub token: u64,
    /// Whether the whole buffer was transferred. After a failed write any
    /// part of it may be on the disk.
    pub result: Result<(), IoError>,
    /// The buffer, given back.
    pub buffer: AlignedBuffer,
}

/// One request, from submission to completion.
#[derive(Debug)]
struct Job {
    token: u64,
    device: Arc<BlockDevice>,
    operation: Operation,
    buffer: AlignedBuffer,
    /// Bytes transferred so far.
    done: usize,
}

impl Job {
    /// Does it here and now, waiting as long as it takes.
    fn perform(mut self) -> Completion {
        let result = match self.operation {
            Operation::Read { offset } => self.device.read_at(&mut self.buffer, offset),
            Operation::Write { offset, .. } => self.device.write_at(&self.buffer, offset),
        };
        self.complete(result)
    }

    fn complete(self, result: Result<(), IoError>) -> Completion {
        Completion {
            token: self.token,
            result,
            buffer: self.buffer,
        }
    }
}

#[derive(Debug)]
enum Kind {
    Uring(Box<uring::Uring>),
    Threads(threads::Threads),
}

/// The queue; one thread uses it.
#[derive(Debug)]
pub struct Ring {
    kind: Kind,
    /// Done without waiting.
    ended: VecDeque<Completion>,
    in_flight: usize,
}

impl Ring {
    /// A queue. With [`Backend::Auto`] the choice is made here, once.
    ///
    /// # Errors
    /// When the kernel refuses the queue or its event descriptor.
    pub fn new(backend: Backend) -> io::Result<Self> {
        let kind = match backend {
            Backend::Uring => Kind::Uring(Box::new(uring::Uring::new()?)),
            Backend::Threads => Kind::Threads(threads::Threads::new()?),
            Backend::Auto => match uring::Uring::new() {
                Ok(uring) => Kind::Uring(Box::new(uring)),
                Err(_) => Kind::Threads(threads::Threads::new()?),
            },
        };
        Ok(Self {
            kind,
            ended: VecDeque::with_capacity(ENDED),
            in_flight: 0,
        })
    }

    /// Whether requests go through `io_uring`.
    #[must_use]
    pub fn is_uring(&self) -> bool {
        matches!(self.kind, Kind::Uring(_))
    }

    /// Queues a request for the whole of `buffer`; `token` comes back with its
    /// completion. It starts at the next [`Self::flush`] at the latest.
    pub fn submit(
        &mut self,
        token: u64,
        device: &Arc<BlockDevice>,
        operation: Operation,
        buffer: AlignedBuffer,
    ) {
        self.in_flight += 1;
        let job = Job {
            token,
            device: Arc::clone(device),
            operation,
            buffer,
            done: 0,
        };
        if job.operation.is_expired() {
            self.ended.push_back(job.complete(Err(IoError::Expired)));
            return;
        }
        if job.device.is_in_memory() {
            self.ended.push_back(job.perform());
            return;
        }
        match &mut self.kind {
            Kind::Uring(uring) => uring.submit(job),
            Kind::Threads(threads) => threads.submit(job),
        }
    }

    /// Hands everything queued to the kernel. Requests that need not wait are
    /// complete when this returns: take completions before waiting for the
    /// descriptor, which does not tell of those.
    ///
    /// # Errors
    /// When the kernel takes none of it now; what is queued stays queued.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Uring(uring) => uring.flush(),
            Kind::Threads(_) => Ok(()),
        }
    }

    /// The next finished request; `None` when there is none now.
    pub fn next_completion(&mut self) -> Option<Completion> {
        let completion = self.ended.pop_front().or_else(|| match &mut self.kind {
            Kind::Uring(uring) => uring.next_completion(),
            Kind::Threads(threads) => threads.next_completion(),
        });
        self.in_flight -= usize::from(completion.is_some());
        completion
    }

    /// Hands everything queued to the kernel and waits in the same system call:
    /// for a completion, for `wake` to become readable, or until `timeout` has
    /// passed. May return earlier. Whether it was `wake` is told by
    /// [`Self::take_woken`] once [`Self::next_completion`] has given all it has.
    /// `wake` is to be the same descriptor every time.
    ///
    /// # Errors
    /// When the kernel takes none of it now; what is queued stays queued.
    pub fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
        let timeout = if self.ended.is_empty() {
            timeout
        } else {
            Duration::ZERO
        };
        match &mut self.kind {
            Kind::Uring(uring) => uring.wait(wake, timeout),
            Kind::Threads(threads) => threads.wait(wake, timeout),
        }
    }

    /// Whether [`Self::wait`] saw its `wake` readable since this was last asked.
    pub fn take_woken(&mut self) -> bool {
        match &mut self.kind {
            Kind::Uring(uring) => uring.take_woken(),
            Kind::Threads(threads) => threads.take_woken(),
        }
    }

    /// Requests submitted whose completion was not handed out yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl AsFd for Ring {
    /// Readable when a completion waits that [`Ring::next_completion`] did
    /// not give when it was last asked.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Uring(uring) => uring.as_fd(),
            Kind::Threads(threads) => threads.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests;
