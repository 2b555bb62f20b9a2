//! A thread that does one request at a time on one device, and owns the
//! buffers, so that a device that never answers costs its caller nothing but
//! the answer.
//!
//! ```text
//!             submit            thread picks up         kernel returns
//!   Idle ───────────────▶ Queued ────────────▶ Running ───────────────▶ Done
//!    ▲                                                                   │
//!    └───────────────────────────── collect ─────────────────────────────┘
//! ```
//!
//! Invariants: at most one request is in the worker; its buffers are never
//! touched by anybody else before the kernel has given them back, however
//! long the caller has stopped waiting; neither submitting nor collecting
//! allocates or waits for I/O.
//!
//! Why threads and not io_uring: two hung requests are the most a lockspace
//! can have, a hung `pread` and a hung ring entry are equally uncancellable,
//! and threads need neither kernel switches some sites turn off nor `unsafe`.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{AlignedBuffer, BlockDevice, IoError};

/// Stack of a worker thread: its deepest call is a `pread`.
const STACK_BYTES: usize = 64 * 1024;

/// A wake-up that is not lost when nobody waits yet.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Signal {
    /// Ends the current or the next [`Self::wait`].
    pub fn raise(&self) {
        *lock(&self.raised) = true;
        self.changed.notify_all();
    }

    /// Waits until raised, at most `timeout`; clears the signal.
    pub fn wait(&self, timeout: Duration) {
        let (mut raised, _) = self
            .changed
            .wait_timeout_while(lock(&self.raised), timeout, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        *raised = false;
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read the first `keep` bytes of each of `count` blocks of `stride`
    /// bytes that follow each other from `offset`.
    Gather {
        /// Byte offset on the device.
        offset: u64,
        /// Bytes from one block to the next: the sector size.
        stride: usize,
        /// Bytes kept of each, at most `stride`.
        keep: usize,
        /// Number of blocks.
        count: usize,
    },
    /// Write the block given to [`Worker::submit`] at `offset`, unless
    /// boot-time has passed `not_after_ns` when the thread is about to.
    Write {
        /// Byte offset on the device.
        offset: u64,
        /// Latest start, nanoseconds of boot-time.
        not_after_ns: u64,
    },
}

/// The worker has a request already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an earlier request is still in flight")]
pub struct Busy;

#[derive(Debug, Clone, Copy)]
enum Stage {
    Idle,
    Queued(Request),
    Running,
    Done(Result<(), IoError>),
    Stop,
}

#[derive(Debug)]
struct Buffers {
    /// What the device reads into, one chunk at a time.
    chunk: AlignedBuffer,
    /// What is gathered from the chunks.
    gathered: Vec<u8>,
    /// The block to write.
    block: AlignedBuffer,
}

#[derive(Debug)]
struct Slot {
    stage: Stage,
    token: u64,
    block_length: usize,
    gathered_length: usize,
    /// Absent while the thread uses them.
    buffers: Option<Buffers>,
}

#[derive(Debug)]
struct Shared {
    slot: Mutex<Slot>,
    queued: Condvar,
}

/// Sizes of a worker's buffers, in bytes, all allocated when it starts.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Most that one read call asks for: a multiple of every stride used.
    pub chunk: usize,
    /// Most that one request gathers.
    pub gathered: usize,
    /// Largest block to write.
    pub block: usize,
}

/// A handle on one worker thread. Dropping it lets the thread end as soon as
/// the kernel has given back what is in flight.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    /// Starts the thread. `on_start` runs in it first (priority, for
    /// example); `completed` is raised after each request.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        name: &str,
        device: Arc<BlockDevice>,
        sizes: Sizes,
        completed: Arc<Signal>,
        on_start: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let mut gathered = vec![0; sizes.gathered];
        // Touch every page now: zeroed memory is otherwise mapped on first use.
        gathered.fill(1);
        let buffers = Buffers {
            chunk: AlignedBuffer::new(sizes.chunk),
            gathered,
            block: AlignedBuffer::new(sizes.block),
        };
        let shared = Arc::new(Shared {
            slot: Mutex::new(Slot {
                stage: Stage::Idle,
                token: 0,
                block_length: 0,
                gathered_length: 0,
                buffers: Some(buffers),
            }),
            queued: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                on_start();
                serve(&of_thread, &device, &completed);
            })?;
        Ok(Self { shared })
    }

    /// Hands over a request; `token` comes back with its result. `block` is
    /// what a write writes, ignored otherwise.
    ///
    /// # Errors
    /// When the previous request has not been collected.
    ///
    /// # Panics
    /// When the request exceeds the worker's buffers.
    pub fn submit(&self, token: u64, request: Request, block: &[u8]) -> Result<(), Busy> {
        let mut slot = lock(&self.shared.slot);
        let slot = &mut *slot;
        let (Stage::Idle, Some(buffers)) = (slot.stage, slot.buffers.as_mut()) else {
            return Err(Busy);
        };
        slot.gathered_length = 0;
        match request {
            Request::Gather {
                stride,
                keep,
                count,
                ..
            } => {
                assert!(
                    keep <= stride && stride > 0 && buffers.chunk.len().is_multiple_of(stride),
                    "whole blocks fit a chunk"
                );
                assert!(
                    keep * count <= buffers.gathered.len(),
                    "the gathered bytes fit their buffer"
                );
                slot.gathered_length = keep * count;
            }
            Request::Write { .. } => {
                buffers.block[..block.len()].copy_from_slice(block);
                slot.block_length = block.len();
            }
        }
        slot.token = token;
        slot.stage = Stage::Queued(request);
        self.shared.queued.notify_one();
        Ok(())
    }

    /// Whether nothing is in flight and nothing waits to be collected.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(lock(&self.shared.slot).stage, Stage::Idle)
    }

    /// If a request has finished, gives its token, its result and what it
    /// gathered (nothing unless it succeeded) to `with`; the worker is idle
    /// afterwards.
    pub fn collect<R>(&self, with: impl FnOnce(u64, Result<(), IoError>, &[u8]) -> R) -> Option<R> {
        let mut slot = lock(&self.shared.slot);
        let slot = &mut *slot;
        let (Stage::Done(result), Some(buffers)) = (slot.stage, slot.buffers.as_ref()) else {
            return None;
        };
        let length = if result.is_ok() {
            slot.gathered_length
        } else {
            0
        };
        slot.stage = Stage::Idle;
        Some(with(slot.token, result, &buffers.gathered[..length]))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut slot = lock(&self.shared.slot);
        // A queued request is dropped unstarted; a running one ends as Done,
        // and the thread sees that nobody else holds the slot.
        slot.stage = Stage::Stop;
        self.shared.queued.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned slot is still consistent: nothing panics between its writes.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(shared: &Shared, device: &BlockDevice, completed: &Signal) {
    let mut slot = lock(&shared.slot);
    loop {
        match slot.stage {
            Stage::Stop => return,
            Stage::Queued(request) => {
                let Some(mut buffers) = slot.buffers.take() else {
                    return;
                };
                let block_length = slot.block_length;
                slot.stage = Stage::Running;
                drop(slot);
                let result = perform(device, request, block_length, &mut buffers);
                slot = lock(&shared.slot);
                slot.buffers = Some(buffers);
                if matches!(slot.stage, Stage::Running) {
                    slot.stage = Stage::Done(result);
                }
                completed.raise();
            }
            Stage::Idle | Stage::Running | Stage::Done(_) => {
                slot = shared
                    .queued
                    .wait(slot)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

fn perform(
    device: &BlockDevice,
    request: Request,
    block_length: usize,
    buffers: &mut Buffers,
) -> Result<(), IoError> {
    match request {
        Request::Write {
            offset,
            not_after_ns,
        } => {
            if crate::clock::boottime_ns() > not_after_ns {
                return Err(IoError::Expired);
            }
            device.write_at(&buffers.block[..block_length], offset)
        }
        Request::Gather {
            offset,
            stride,
            keep,
            count,
        } => {
            let per_chunk = buffers.chunk.len() / stride;
            let mut kept = buffers.gathered.chunks_exact_mut(keep);
            let mut next = 0;
            while next < count {
                let blocks = per_chunk.min(count - next);
                let chunk = &mut buffers.chunk[..blocks * stride];
                device.read_at(chunk, offset + super::advance(next * stride))?;
                for (block, place) in chunk.chunks_exact(stride).zip(&mut kept) {
                    place.copy_from_slice(&block[..keep]);
                }
                next += blocks;
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Access;
    use super::*;

    fn collect(worker: &Worker, completed: &Signal) -> (u64, Result<(), IoError>, Vec<u8>) {
        loop {
            if let Some(result) =
                worker.collect(|token, result, bytes| (token, result, bytes.to_vec()))
            {
                return result;
            }
            completed.wait(Duration::from_secs(1));
        }
    }

    #[test]
    fn a_worker_gathers_the_heads_of_all_sectors_and_writes_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let content: Vec<u8> = (0..64u8).flat_map(|sector| [sector; 4096]).collect();
        fs::write(&path, &content).unwrap();
        let device = Arc::new(BlockDevice::open(&path, Access::ReadWrite).unwrap());
        let completed = Arc::new(Signal::default());
        let sizes = Sizes {
            chunk: 16384,
            gathered: 512 * 64,
            block: 4096,
        };
        let worker = Worker::start("test", device, sizes, Arc::clone(&completed), || ()).unwrap();

        let gather = Request::Gather {
            offset: 4096,
            stride: 4096,
            keep: 512,
            count: 62,
        };
        worker.submit(7, gather, &[]).unwrap();
        assert_eq!(worker.submit(8, gather, &[]), Err(Busy));
        let (token, result, bytes) = collect(&worker, &completed);
        assert_eq!((token, result), (7, Ok(())));
        assert_eq!(
            bytes,
            (1..63u8)
                .flat_map(|sector| [sector; 512])
                .collect::<Vec<_>>()
        );
        assert!(worker.is_idle());

        worker
            .submit(
                9,
                Request::Write {
                    offset: 8192,
                    not_after_ns: u64::MAX,
                },
                &[0xee; 4096],
            )
            .unwrap();
        assert_eq!(collect(&worker, &completed).1, Ok(()));
        worker
            .submit(
                10,
                Request::Write {
                    offset: 0,
                    not_after_ns: 0,
                },
                &[0xee; 4096],
            )
            .unwrap();
        assert_eq!(collect(&worker, &completed).1, Err(IoError::Expired));
        let after = fs::read(&path).unwrap();
        assert_eq!(
            after[..8192],
            content[..8192],
            "an expired write must not touch the disk"
        );
        assert!(after[8192..12288].iter().all(|&byte| byte == 0xee));

        worker
            .submit(
                11,
                Request::Gather {
                    offset: 4096 * 60,
                    stride: 4096,
                    keep: 512,
                    count: 10,
                },
                &[],
            )
            .unwrap();
        let (token, result, bytes) = collect(&worker, &completed);
        assert_eq!(
            (token, result, bytes.len()),
            (11, Err(IoError::Short(0)), 0)
        );
    }
}
