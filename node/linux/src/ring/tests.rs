use std::fs;
use std::path::Path;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::*;
use crate::disk::Access;

const BACKENDS: [Backend; 2] = [Backend::Uring, Backend::Threads];

fn file(dir: &Path, name: &str, content: &[u8]) -> Arc<BlockDevice> {
    let path = dir.join(name);
    fs::write(&path, content).unwrap();
    Arc::new(BlockDevice::open(&path, Access::ReadWrite).unwrap())
}

fn next(ring: &mut Ring) -> Completion {
    let deadline = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    loop {
        if let Some(completion) = ring.next_completion() {
            return completion;
        }
        let mut fds = [PollFd::new(&*ring, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&deadline)).unwrap(), 1, "no completion");
    }
}

#[test]
fn what_is_written_is_read_back_by_both_kinds() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let device = file(dir.path(), "disk", &[0; 1 << 20]);
        let mut ring = Ring::new(backend).unwrap();
        let mut block = AlignedBuffer::new(4096);
        block.fill(0xa5);
        let write = Operation::Write {
            offset: 8192,
            not_after_ns: None,
        };
        ring.submit(1, &device, write, block);
        ring.flush().unwrap();
        let written = next(&mut ring);
        assert_eq!((written.token, written.result), (1, Ok(())));
        let whole = AlignedBuffer::new(1 << 20);
        ring.submit(2, &device, Operation::Read { offset: 0 }, whole);
        ring.flush().unwrap();
        let read = next(&mut ring);
        assert_eq!((read.token, read.result), (2, Ok(())));
        assert!(read.buffer[8192..12288].iter().all(|&byte| byte == 0xa5));
        assert!(read.buffer[..8192].iter().all(|&byte| byte == 0));
        assert_eq!(ring.in_flight(), 0);
    }
}

#[test]
fn a_thousand_requests_at_once_all_come_back() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..=255u8).flat_map(|sector| [sector; 512]).collect();
        let device = file(dir.path(), "disk", &content);
        let mut ring = Ring::new(backend).unwrap();
        for token in 0..1000 {
            let offset = (token % 256) * 512;
            ring.submit(
                token,
                &device,
                Operation::Read { offset },
                AlignedBuffer::new(512),
            );
        }
        ring.flush().unwrap();
        let mut seen = vec![false; 1000];
        for _ in 0..1000 {
            let read = next(&mut ring);
            assert_eq!(read.result, Ok(()));
            let token = usize::try_from(read.token).unwrap();
            assert!(!std::mem::replace(&mut seen[token], true), "twice: {token}");
            let expected = u8::try_from(token % 256).unwrap();
            assert!(read.buffer.iter().all(|&byte| byte == expected));
        }
        assert!(ring.next_completion().is_none());
    }
}

#[test]
fn the_end_of_the_device_and_an_expired_write_are_told() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let device = file(dir.path(), "disk", &[7; 8192]);
        let mut ring = Ring::new(backend).unwrap();
        ring.submit(
            1,
            &device,
            Operation::Read { offset: 4096 },
            AlignedBuffer::new(8192),
        );
        ring.flush().unwrap();
        assert_eq!(next(&mut ring).result, Err(IoError::Short(4096)));
        let late = Operation::Write {
            offset: 0,
            not_after_ns: Some(0),
        };
        ring.submit(2, &device, late, AlignedBuffer::new(4096));
        ring.flush().unwrap();
        assert_eq!(next(&mut ring).result, Err(IoError::Expired));
        let content = fs::read(dir.path().join("disk")).unwrap();
        assert_eq!(
            content, [7; 8192],
            "an expired write must not touch the disk"
        );
    }
}

#[test]
fn a_ring_dropped_with_requests_in_flight_harms_nobody() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let device = file(dir.path(), "disk", &vec![1; 4 << 20]);
        let mut ring = Ring::new(backend).unwrap();
        for token in 0..32 {
            ring.submit(
                token,
                &device,
                Operation::Read { offset: 0 },
                AlignedBuffer::new(4 << 20),
            );
        }
        ring.flush().unwrap();
        drop(ring);
    }
}

#[test]
fn a_wait_ends_with_a_completion_or_when_woken() {
    const LONG: Duration = Duration::from_secs(3600);
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let device = file(dir.path(), "disk", &[9; 4096]);
        let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut ring = Ring::new(backend).unwrap();
        for token in 0..3 {
            ring.submit(
                token,
                &device,
                Operation::Read { offset: 0 },
                AlignedBuffer::new(4096),
            );
            let read = loop {
                // Hands it to the kernel, too.
                ring.wait(wake.as_fd(), LONG).unwrap();
                if let Some(read) = ring.next_completion() {
                    break read;
                }
            };
            assert_eq!((read.token, read.result), (token, Ok(())));
            assert!(!ring.take_woken());

            rustix::io::write(&wake, &1_u64.to_ne_bytes()).unwrap();
            loop {
                ring.wait(wake.as_fd(), LONG).unwrap();
                assert!(ring.next_completion().is_none());
                if ring.take_woken() {
                    break;
                }
            }
            rustix::io::read(&wake, &mut [0; 8]).unwrap();
        }
        // Nothing comes: the time ends it.
        ring.wait(wake.as_fd(), Duration::from_millis(1)).unwrap();
        assert!(ring.next_completion().is_none() && !ring.take_woken());
    }
}

#[test]
fn a_file_in_memory_needs_no_waiting() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let device = file(dir.path(), "disk", &[5; 4096]);
        assert!(device.is_in_memory());
        let mut ring = Ring::new(backend).unwrap();
        let read = Operation::Read { offset: 0 };
        ring.submit(1, &device, read, AlignedBuffer::new(4096));
        ring.flush().unwrap();
        let read = ring.next_completion().expect("complete at once");
        assert_eq!((read.result, &read.buffer[..]), (Ok(()), &[5; 4096][..]));
    }
}

#[test]
fn auto_takes_a_kind_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let device = file(dir.path(), "disk", &[3; 4096]);
    let mut ring = Ring::new(Backend::Auto).unwrap();
    ring.submit(
        9,
        &device,
        Operation::Read { offset: 0 },
        AlignedBuffer::new(512),
    );
    ring.flush().unwrap();
    assert_eq!(next(&mut ring).buffer[..], [3; 512]);
}
