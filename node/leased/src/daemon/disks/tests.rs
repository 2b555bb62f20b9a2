//! Files that are replaced, go away, or hang.

use std::fs;
use std::path::{Path, PathBuf};

use lease::resource::SectorBytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::files::IDLE_S;
use super::*;

const BYTES: u32 = 4096;

fn at(ms: u64) -> Monotonic {
    Monotonic(0).plus_ms(1_000_000 + ms)
}

struct World {
    dir: tempfile::TempDir,
    disks: Disks,
    next: u64,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        Self {
            dir,
            disks: Disks::new().expect("a ring"),
            next: 1,
        }
    }

    fn file(&self, name: &str, content: u8) -> PathBuf {
        let path = self.dir.path().join(name);
        let fresh = self.dir.path().join("fresh");
        fs::write(&fresh, vec![content; 8192]).expect("written");
        fs::rename(&fresh, &path).expect("in its place");
        path
    }

    fn submit(&mut self, operation: u64, path: &Path, io: DiskIo, now: Monotonic) -> IoToken {
        use std::os::unix::ffi::OsStrExt;
        let token = IoToken(self.next);
        self.next += 1;
        let place = Where::Path(path.as_os_str().as_bytes());
        self.disks
            .submit(OperationId(operation), token, place, io, now);
        token
    }

    fn read(&mut self, operation: u64, path: &Path, now: Monotonic) -> Result<u8, i32> {
        let io = DiskIo::Read {
            offset: 0,
            bytes: BYTES,
        };
        let token = self.submit(operation, path, io, now);
        match self.outcome(token) {
            DoneAs::Read(buffer) => {
                let first = buffer[0];
                self.disks.recycle(buffer);
                Ok(first)
            }
            DoneAs::Failed(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, operation: u64, path: &Path, byte: u8, now: Monotonic) -> DoneAs {
        let mut bytes = [0; disk_format::leader::LEADER_BYTES];
        bytes[0] = byte;
        let io = DiskIo::Write {
            offset: 0,
            content: SectorBytes::Record { len: 1, bytes },
            bytes: BYTES,
            not_after: Monotonic(u64::MAX),
        };
        let token = self.submit(operation, path, io, now);
        self.outcome(token)
    }

    fn errands(&mut self) {
        while let Some(errand) = self.disks.next_errand() {
            let found = errand.run();
            self.disks.found(found);
        }
    }

    fn outcome(&mut self, token: IoToken) -> DoneAs {
        loop {
            self.errands();
            self.disks.pump();
            while let Some(done) = self.disks.next_done() {
                if done.token == token {
                    return done.outcome;
                }
            }
            let limit = Timespec {
                tv_sec: 60,
                tv_nsec: 0,
            };
            let mut wanted = [PollFd::new(&self.disks, PollFlags::IN)];
            assert_eq!(poll(&mut wanted, Some(&limit)), Ok(1), "it hangs");
        }
    }
}

#[test]
fn a_replaced_file_is_not_seen_half_way_and_never_written_afterwards() {
    let mut world = World::new();
    let path = world.file("lease", 1);
    assert_eq!(world.read(1, &path, at(0)), Ok(1));
    let old = fs::File::open(&path).expect("the old one");
    world.file("lease", 2);
    assert_eq!(world.read(1, &path, at(1)), Ok(1), "the same operation");
    assert_eq!(world.read(2, &path, at(2)), Ok(2), "another operation");
    world.disks.ended(OperationId(1), at(3));
    world.disks.ended(OperationId(2), at(3));
    assert!(matches!(world.write(3, &path, 9, at(4)), DoneAs::Written));
    assert_eq!(fs::read(&path).expect("the new one")[..2], [9, 0]);
    let mut first = [0; 1];
    std::os::unix::fs::FileExt::read_exact_at(&old, &mut first, 0).expect("read");
    assert_eq!(first, [1]);
}

#[test]
fn a_file_that_comes_later_is_found_by_the_next_operation() {
    let mut world = World::new();
    let path = world.dir.path().join("lease");
    let missing = Errno::NOENT.raw_os_error();
    assert_eq!(world.read(1, &path, at(0)), Err(missing));
    world.disks.ended(OperationId(1), at(0));
    world.file("lease", 7);
    assert_eq!(world.read(2, &path, at(1)), Ok(7));
}

#[test]
fn a_descriptor_is_closed_when_it_was_idle_for_long_enough() {
    let mut world = World::new();
    let path = world.file("lease", 1);
    assert_eq!(world.read(1, &path, at(0)), Ok(1));
    assert_eq!(world.disks.deadline(), None, "in use");
    world.disks.ended(OperationId(1), at(10));
    let due = at(10).plus_s(IDLE_S);
    assert_eq!(world.disks.deadline(), Some(due));
    world.disks.tick(at(20));
    assert_eq!((world.disks.paths.len(), world.disks.lanes.len()), (1, 1));
    world.disks.tick(due);
    assert_eq!((world.disks.paths.len(), world.disks.lanes.len()), (0, 0));
    assert_eq!((world.disks.spare_bytes, world.disks.pins.len()), (0, 0));
}

#[test]
fn a_file_in_memory_is_read_with_one_buffer_however_many_ask() {
    let mut world = World::new();
    let dir = tempfile::tempdir_in("/dev/shm").expect("memory");
    let path = dir.path().join("lease");
    fs::write(&path, vec![3; 8192]).expect("written");
    let mut tokens = Vec::new();
    for number in 0..50 {
        let io = DiskIo::Read {
            offset: 0,
            bytes: BYTES,
        };
        tokens.push(world.submit(number, &path, io, at(0)));
    }
    world.errands();
    let mut done = Vec::new();
    while let Some(one) = world.disks.next_done() {
        done.push(one.token);
        let DoneAs::Read(buffer) = one.outcome else {
            panic!("{one:?}");
        };
        world.disks.recycle(buffer);
        assert_eq!(world.disks.spare.len(), 1);
    }
    assert_eq!(done, tokens);
    assert!(!world.disks.is_busy());
}

#[test]
fn a_device_whose_requests_hang_leaves_memory_to_the_others() {
    let mut world = World::new();
    let (hung, good) = (world.file("hung", 1), world.file("good", 2));
    // Nobody runs the errand that opens it, so what waits for it waits.
    let io = || DiskIo::Read {
        offset: 0,
        bytes: BYTES,
    };
    for number in 0..1000 {
        world.submit(number, &hung, io(), at(0));
    }
    let kept = world.disks.next_errand().expect("opening");
    assert_eq!(world.read(5000, &good, at(1)), Ok(2));
    assert_eq!(world.disks.in_flight_bytes, 0);
    // It comes back after all: everything is answered, a share at a time.
    world.disks.found(kept.run());
    assert!(world.disks.in_flight_bytes <= SHARE_BYTES);
    let last = world.submit(5001, &hung, io(), at(2));
    assert!(matches!(world.outcome(last), DoneAs::Read(_)));
    assert!(
        world
            .disks
            .lanes
            .values()
            .all(|lane| lane.waiting.is_empty())
    );
}
