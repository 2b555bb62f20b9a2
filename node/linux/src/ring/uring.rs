//! The `io_uring` kind.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;

use super::{Completion, Job, Operation};
use crate::disk::IoError;

/// Entries of the submission queue.
const ENTRIES: u32 = 256;
/// Entries of the completion queue, by the kernel's default, but for the one of
/// what wakes us. No more jobs are in the kernel at a time, so completions never
/// overflow.
const IN_KERNEL_MAX: usize = 511;
/// What the kernel was told as the number of what wakes us; no job's.
const WAKE: u64 = u64::MAX;

pub(super) struct Uring {
    ring: IoUring,
    /// Every job the kernel holds pointers into, by the number it was told.
    jobs: Vec<Option<Job>>,
    free: Vec<usize>,
    /// Jobs for which there was no room in the queues.
    backlog: VecDeque<usize>,
    /// Jobs in the queues or in the kernel.
    in_kernel: usize,
    /// The kernel looks at what wakes us.
    armed: bool,
    /// It was readable.
    woken: bool,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Uring")
            .field("jobs", &self.jobs.len())
            .field("free", &self.free.len())
            .finish_non_exhaustive()
    }
}

impl Uring {
    pub(super) fn new() -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::PollAdd::CODE,
        ];
        if !needed.iter().all(|&code| probe.is_supported(code))
            || !ring.params().is_feature_ext_arg()
        {
            return Err(io::Error::from(Errno::OPNOTSUPP));
        }
        let capacity = usize::try_from(ENTRIES).unwrap_or(0);
        Ok(Self {
            ring,
            jobs: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            backlog: VecDeque::with_capacity(capacity),
            in_kernel: 0,
            armed: false,
            woken: false,
        })
    }

    pub(super) fn submit(&mut self, job: Job) {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.jobs.push(None);
                self.jobs.len() - 1
            }
        };
        self.jobs[slot] = Some(job);
        self.queue(slot);
    }

    /// Puts the rest of a job into the submission queue, or on the backlog.
    fn queue(&mut self, slot: usize) {
        if self.in_kernel >= IN_KERNEL_MAX {
            self.backlog.push_back(slot);
            return;
        }
        let Some(job) = self.jobs.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let fd = types::Fd(job.device.as_fd().as_raw_fd());
        let offset = job.operation.offset() + crate::disk::advance(job.done);
        let rest = &mut job.buffer[job.done..];
        // The kernel counts in 32 bits; a longer rest goes round again.
        let length = u32::try_from(rest.len()).unwrap_or(1 << 30);
        let start = rest.as_mut_ptr();
        let entry = match job.operation {
            Operation::Read { .. } => opcode::Read::new(fd, start, length).offset(offset).build(),
            Operation::Write { .. } => opcode::Write::new(fd, start, length).offset(offset).build(),
        };
        let entry = entry.user_data(crate::disk::advance(slot));
        // SAFETY: the memory and the descriptor belong to `job`, which stays in
        // `self.jobs` until the kernel has completed this entry; the buffer's
        // heap memory does not move with it, and `drop` leaks what is in flight.
        let queued = unsafe { self.ring.submission().push(&entry) };
        match queued {
            Ok(()) => self.in_kernel += 1,
            Err(_) => self.backlog.push_back(slot),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        loop {
            if !self.ring.submission().is_empty() {
                match self.ring.submit() {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                }
            }
            if self.backlog.is_empty() || self.in_kernel >= IN_KERNEL_MAX {
                return Ok(());
            }
            let room = usize::try_from(ENTRIES).unwrap_or(0);
            for _ in 0..room.min(IN_KERNEL_MAX - self.in_kernel) {
                if let Some(slot) = self.backlog.pop_front() {
                    self.queue(slot);
                }
            }
        }
    }

    pub(super) fn wait(&mut self, wake: BorrowedFd<'_>, timeout: Duration) -> io::Result<()> {
        if !self.backlog.is_empty() {
            self.flush()?;
        }
        self.arm(wake);
        let time = types::Timespec::from(timeout);
        let arguments = types::SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(_) => Ok(()),
            // The time has passed, or a signal came.
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has the kernel look at what wakes us, once, unless it does already.
    fn arm(&mut self, wake: BorrowedFd<'_>) {
        if self.armed {
            return;
        }
        let events = u32::try_from(libc::POLLIN).unwrap_or(0);
        let entry = opcode::PollAdd::new(types::Fd(wake.as_raw_fd()), events).build();
        // SAFETY: the entry refers to no memory, and the kernel keeps the file
        // behind the descriptor itself from the submission on, which follows
        // while the borrow lasts.
        let queued = unsafe { self.ring.submission().push(&entry.user_data(WAKE)) };
        // Without room it is done the next time: jobs are about to complete.
        self.armed = queued.is_ok();
    }

    pub(super) fn take_woken(&mut self) -> bool {
        std::mem::take(&mut self.woken)
    }

    pub(super) fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let Some(entry) = self.ring.completion().next() else {
                if self.backlog.is_empty() || self.in_kernel >= IN_KERNEL_MAX {
                    return None;
                }
                // Room was made since the last flush.
                self.flush().ok()?;
                continue;
            };
            if entry.user_data() == WAKE {
                self.armed = false;
                self.woken = true;
                continue;
            }
            self.in_kernel -= 1;
            let slot = usize::try_from(entry.user_data()).ok()?;
            let Some(mut job) = self.jobs.get_mut(slot).and_then(Option::take) else {
                continue;
            };
            let asked = job.buffer.len() - job.done;
            let result = match usize::try_from(entry.result()) {
                Ok(0) if asked > 0 => Err(IoError::Short(job.done)),
                Ok(count) if count < asked => {
                    job.done += count;
                    self.again(slot, job);
                    continue;
                }
                Ok(_) => Ok(()),
                Err(_) if matches!(-entry.result(), libc::EINTR | libc::EAGAIN) => {
                    self.again(slot, job);
                    continue;
                }
                Err(_) => Err(IoError::Os(-entry.result())),
            };
            self.free.push(slot);
            return Some(job.complete(result));
        }
    }

    /// Hands the rest of a job to the kernel.
    fn again(&mut self, slot: usize, job: Job) {
        self.jobs[slot] = Some(job);
        self.queue(slot);
        // A failure leaves it queued for the next flush.
        self.flush().ok();
    }
}

impl AsFd for Uring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open for as long as the ring, which the
        // borrow keeps.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may still write into these.
        for job in self.jobs.iter_mut().filter_map(Option::take) {
            std::mem::forget(job);
        }
    }
}
