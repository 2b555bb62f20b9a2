//! The keeper beside storage that stops answering.

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use disk_format::{HostId, HostName, LockspaceName};
use lease::code::Code;
use leased::area::{self, InitOptions};
use leased::keeper::{Event, Join, Keeper, Settings, SpaceId, now};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, kill_process};
use support::{Loop, disk_dir, wait_for};
use tempfile::TempDir;

const HEALTHY: SpaceId = SpaceId(100);
/// Lockspaces on the device that hangs: more than there are buffers.
const HUNG: u32 = 8;

/// A loop device whose answers come from a process that can be stopped.
struct Hanging {
    device: Option<Loop>,
    mount: PathBuf,
    server: Child,
    fuse: Child,
}

impl Hanging {
    fn new(dir: &TempDir, backing: &Path) -> Self {
        let socket = dir.path().join("nbd");
        let mount = dir.path().join("served");
        File::create(&mount).expect("a file to mount on");
        let server = support::command("nbdkit", "nbdkit")
            .args(["-f", "-U"])
            .arg(&socket)
            .arg("file")
            .arg(backing)
            .stdin(Stdio::null())
            .spawn()
            .expect("starts");
        wait_for("nbdkit's socket", || socket.exists().then_some(()));
        let fuse = support::command("libnbd-bin", "nbdfuse")
            .arg(&mount)
            .arg("--unix")
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .expect("starts");
        wait_for("nbdfuse's file", || {
            let length = std::fs::metadata(&mount).ok()?.len();
            (length > 0).then_some(())
        });
        let device = Some(Loop::attach(&mount, 512, false));
        Self {
            device,
            mount,
            server,
            fuse,
        }
    }

    fn path(&self) -> &Path {
        &self.device.as_ref().expect("attached").0
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.server.id()).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("not 0"), signal).expect("it runs");
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.device = None;
        let mount = self.mount.display().to_string();
        support::command("mount", "umount")
            .args(["--lazy", &mount])
            .output()
            .ok();
        for child in [&mut self.fuse, &mut self.server] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

fn lockspace(number: u32) -> LockspaceName {
    LockspaceName::new(&format!("LS{number}")).expect("valid")
}

fn init(path: &Path, number: u32, offset: u64) {
    let options = InitOptions {
        io_timeout_s: 1,
        offset,
        ..InitOptions::new(path, lockspace(number))
    };
    area::init(&options, &mut |_| ()).expect("made");
}

fn join(id: SpaceId, path: &Path, offset: u64) -> Join {
    Join {
        id,
        name: lockspace(id.0),
        host_id: HostId::new(1).expect("valid"),
        host_name: HostName::new("a").expect("valid"),
        path: path.to_path_buf(),
        offset,
        io_timeout_s: 1,
        fire_timeout_s: 60,
        read_extend_s: None,
        watchdog: None,
        persistent: false,
    }
}

/// What was told of every lockspace, in order.
struct Told {
    keeper: Keeper,
    events: Vec<(SpaceId, &'static str, Code)>,
}

impl Told {
    fn take(&mut self) {
        while let Some((id, event)) = self.keeper.next_event() {
            let (name, code) = match event {
                Event::Area { buffer, .. } => {
                    self.keeper.recycle(buffer);
                    continue;
                }
                Event::Joined { .. } => ("joined", Code::OK),
                Event::JoinFailed { code, .. } => ("failed", code),
                Event::Renewed(_) => ("renewed", Code::OK),
                Event::RenewalFailed { code, .. } => ("renewal failed", code),
                Event::Failing => ("failing", Code::OK),
                Event::Lost { code, .. } => ("lost", code),
                Event::Left { code } => ("left", code),
            };
            self.events.push((id, name, code));
        }
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let start = now().boottime;
        loop {
            self.take();
            if condition(self) {
                return;
            }
            assert!(
                now().boottime.ms_since(start) < 180_000,
                "{what}: {:?}",
                self.events
            );
            let second = Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            let mut fds = [PollFd::new(&self.keeper, PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&second)).expect("polled");
        }
    }

    fn count(&self, id: SpaceId, name: &str) -> usize {
        let of = |event: &&(SpaceId, &str, Code)| event.0 == id && event.1 == name;
        self.events.iter().filter(of).count()
    }

    fn all(&self, name: &str) -> bool {
        (0..HUNG).all(|number| self.count(SpaceId(number), name) > 0)
    }
}

#[test]
fn a_device_that_hangs_hurts_only_its_own_lockspaces_and_they_can_be_joined_again() {
    let dir = disk_dir();
    let healthy = support::file(&dir, "healthy", 1);
    let backing = support::file(&dir, "backing", u64::from(HUNG) + 1);
    init(&healthy, HEALTHY.0, 0);
    let offset = |number: u32| u64::from(number) << 20;
    for number in 0..=HUNG {
        init(&backing, number, offset(number));
    }
    let hanging = Hanging::new(&dir, &backing);
    let settings = Settings {
        realtime: false,
        ..Settings::default()
    };
    let mut told = Told {
        keeper: Keeper::start(settings).expect("starts"),
        events: Vec::new(),
    };
    told.keeper.join(join(HEALTHY, &healthy, 0));
    for number in 0..HUNG {
        let id = SpaceId(number);
        told.keeper.join(join(id, hanging.path(), offset(number)));
    }
    told.until("all renew", |told| {
        told.all("renewed") && told.count(HEALTHY, "renewed") > 0
    });

    hanging.signal(Signal::STOP);
    let late = SpaceId(HUNG);
    told.keeper.join(join(late, hanging.path(), offset(HUNG)));
    told.until("all on the device are lost", |told| told.all("lost"));
    for number in 0..HUNG {
        assert!(told.count(SpaceId(number), "failing") > 0);
    }
    told.until("whoever would join is told", |told| {
        told.count(late, "failed") > 0
    });
    assert!(told.events.contains(&(late, "failed", Code::AIO_TIMEOUT)));
    let renewals = told.count(HEALTHY, "renewed");
    told.until("the other goes on", |told| {
        told.count(HEALTHY, "renewed") > renewals + 2
    });
    assert_eq!(told.count(HEALTHY, "renewal failed"), 0);

    // Their users have ended; what is in flight still has not come back.
    for number in 0..HUNG {
        told.keeper.abandon(SpaceId(number));
    }
    told.until("they are forgotten", |told| told.all("left"));
    let again = SpaceId(1000);
    told.keeper.join(Join {
        name: lockspace(0),
        ..join(again, hanging.path(), offset(0))
    });
    hanging.signal(Signal::CONT);
    told.until("it is joined again", |told| {
        told.count(again, "joined") > 0 || told.count(again, "failed") > 0
    });
    assert_eq!(told.count(again, "failed"), 0, "{:?}", told.events);
    told.keeper.leave(again);
    told.until("and left", |told| told.count(again, "left") > 0);
    assert!(told.events.contains(&(again, "left", Code::OK)));
    told.keeper.end();
}

#[test]
fn a_block_device_is_told_how_large_its_requests_may_be() {
    let dir = disk_dir();
    let backing = support::file(&dir, "backing", 1);
    init(&backing, HEALTHY.0, 0);
    let device = Loop::attach(&backing, 512, false);
    let name = device.0.file_name().expect("a name").to_owned();
    let queue = Path::new("/sys/block").join(name).join("queue");
    std::fs::write(queue.join("max_sectors_kb"), "64").expect("set");
    let settings = Settings {
        realtime: false,
        ..Settings::default()
    };
    let mut told = Told {
        keeper: Keeper::start(settings).expect("starts"),
        events: Vec::new(),
    };
    told.keeper.join(join(HEALTHY, &device.0, 0));
    told.until("joined", |told| told.count(HEALTHY, "joined") > 0);
    let text = std::fs::read_to_string(queue.join("max_sectors_kb")).expect("read");
    let largest = std::fs::read_to_string(queue.join("max_hw_sectors_kb")).expect("read");
    let largest: u32 = largest.trim().parse().expect("a number");
    let size: u32 = text.trim().parse().expect("a number");
    assert_eq!(size, largest.min(1024));
    let status = told.keeper.status(HEALTHY).expect("known");
    assert_eq!(status.request_kib, Some(size));
    told.keeper.leave(HEALTHY);
    told.until("left", |told| told.count(HEALTHY, "left") > 0);
    told.keeper.end();
}
