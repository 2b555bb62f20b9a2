//! Storage commands over the socket, side by side with the original's daemon:
//! the same requests give the same replies, byte for byte, and the same bytes
//! on disk. Each daemon has an image of its own.
//!
//! Where ours differs on purpose, the last test says how.

mod daemon_support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use daemon_support::{DEADLINE, Daemon, disk, disk_dir, name, wait_for};
use sanlock_wire::{
    AddFlags, Lockspace, Rentry, Request, Resource, Rindex, RindexFlags, WriteFlags,
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const IMAGE_MIB: u64 = 64;

/// The original's daemon. Killed when dropped.
struct Original {
    child: Child,
    dir: TempDir,
}

impl Original {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = Path::new("/usr/sbin/sanlock");
        assert!(
            program.exists(),
            "sanlock is missing; install it with: apt-get install -y sanlock"
        );
        let child = Command::new(program)
            .args(["daemon", "-D", "-w", "0", "-l", "0", "-h", "0"])
            .args(["-U", "root", "-G", "root", "-e", "host"])
            .env("SANLOCK_RUN_DIR", dir.path())
            .env("SANLOCK_PRIVILEGED", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let daemon = Self { child, dir };
        wait_for("the original accepts connections", || {
            UnixStream::connect(daemon.socket()).ok()
        });
        daemon
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sanlock.sock")
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Two daemons, two images.
struct Both {
    dir: TempDir,
    ours: Daemon,
    theirs: Original,
}

/// A request about an image.
type Make<'a> = &'a dyn Fn(&Path) -> Request;

impl Both {
    fn new() -> Self {
        let both = Self {
            dir: disk_dir(),
            ours: Daemon::start("host"),
            theirs: Original::start(),
        };
        for image in both.images() {
            daemon_support::file(&both.dir, image, IMAGE_MIB);
        }
        both
    }

    /// Names of one length, so that replies that hold them can be compared.
    fn images(&self) -> [&'static str; 2] {
        ["image-ours", "image-orig"]
    }

    fn path(&self, image: &str) -> PathBuf {
        self.dir.path().join(image)
    }

    /// Both replies: result, and all bytes with the image's name made equal.
    fn ask(&self, make: Make<'_>) -> [(i32, Vec<u8>); 2] {
        let sockets = [self.ours.socket(), self.theirs.socket()];
        let [ours, theirs] = self.images();
        let mut replies = sockets
            .into_iter()
            .zip([ours, theirs])
            .map(|(socket, image)| {
                let reply = reply_to(&socket, &make(&self.path(image)));
                let result = i32::from_le_bytes(*reply[24..].first_chunk().expect("a header"));
                let text = String::from_utf8(reply.iter().map(|byte| byte & 0x7f).collect());
                let place = text.expect("ASCII").find(image);
                let mut reply = reply;
                if let Some(place) = place {
                    reply[place..place + ours.len()].copy_from_slice(ours.as_bytes());
                }
                (result, reply)
            });
        let mut next = || replies.next().expect("two replies");
        [next(), next()]
    }

    /// The same reply from both, with this result.
    fn same(&self, what: &str, result: i32, make: Make<'_>) {
        let [(ours, our_bytes), (theirs, their_bytes)] = self.ask(make);
        assert_eq!(theirs, result, "the original's result: {what}");
        assert_eq!(ours, result, "our result: {what}");
        assert_eq!(our_bytes, their_bytes, "reply: {what}");
    }

    /// The same bytes in both images, but for what the original leaves
    /// undefined or takes from the clock.
    fn same_bytes(&self, what: &str) {
        let [ours, theirs] = self.images().map(|image| {
            let mut bytes = fs::read(self.path(image)).expect("the image");
            for area in bytes.chunks_mut(1 << 20) {
                // Padding of a request record; when a resource was cleared.
                let is_resource =
                    matches!(area[..4], [0x10, 0x20, 0x15, 6] | [0x16, 0x20, 0x28, 0x11]);
                if is_resource {
                    for sector in [512, 4096] {
                        area[sector + 20..sector + 24].fill(0);
                    }
                    area[192..200].fill(0);
                }
            }
            bytes
        });
        if ours != theirs {
            let place = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            panic!("first differing byte after {what}: {place:?}");
        }
    }

    /// The daemons join LS of their image, and have looked at it once.
    fn join(&self) {
        let make = |path: &Path| Request::WriteLockspace {
            lockspace: lockspace(path, 0, 0),
            max_hosts: 0,
            io_timeout_s: 1,
        };
        self.same("write LS", 0, &make);
        self.same("join LS", 0, &|path| Request::AddLockspace {
            lockspace: lockspace(path, 0, 0),
            io_timeout_s: 1,
            flags: AddFlags::NONE,
        });
        wait_for("both have renewed", || {
            let replies = self.ask(&|path| Request::GetHosts {
                lockspace: lockspace(path, 0, 0),
            });
            replies.iter().all(|(result, _)| *result == 0).then_some(())
        });
    }
}

/// One request on a connection of its own; the whole reply.
fn reply_to(socket: &Path, request: &Request) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).expect("connects");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.write_all(&request.encode()).expect("sent");
    let mut reply = vec![0; 32];
    stream.read_exact(&mut reply).expect("a reply");
    let length = u32::from_le_bytes(*reply[16..].first_chunk().expect("a length"));
    reply.resize(usize::try_from(length).expect("small"), 0);
    stream
        .read_exact(&mut reply[32..])
        .expect("the whole reply");
    reply
}

fn lockspace(path: &Path, offset: u64, flags: u32) -> Lockspace {
    Lockspace {
        name: name("LS"),
        host_id: 1,
        flags,
        disk: disk(path, offset),
    }
}

fn resource(path: &Path, offset: u64, flags: u32) -> Resource {
    Resource {
        lockspace_name: name("LS"),
        name: name("R1"),
        flags,
        disks: vec![disk(path, offset)],
        ..Resource::default()
    }
}

fn rindex(path: &Path, offset: u64, flags: u32) -> Rindex {
    Rindex {
        flags,
        max_resources: 0,
        lockspace_name: name("LS"),
        disk: disk(path, offset),
    }
}

fn entry(text: &str, offset: u64) -> Rentry {
    Rentry {
        name: name(text),
        offset,
        flags: 0,
    }
}

#[test]
fn lockspaces_are_written_and_read_alike() {
    let both = Both::new();
    let write = |what: &str, result, offset, flags, io_timeout_s| {
        both.same(what, result, &|path| Request::WriteLockspace {
            lockspace: lockspace(path, offset, flags),
            max_hosts: 0,
            io_timeout_s,
        });
        both.same_bytes(what);
    };
    write("plain", 0, 0, 0, 0);
    write("timeout 3", 0, 0, 0, 3);
    write("timeout 300", 0, 0, 0, 300);
    write("timeout -1", 0, 0, 0, u32::MAX);
    write("at 512", 0, 512, 0, 0);
    write("at 100", -22, 100, 0, 0);
    write("align alone", -1, 0, 0x10, 0);
    write("sector alone", -1, 0, 0x100, 0);
    write("512/8M", -1, 0, 0x180, 0);
    write("of two sizes the smaller", 0, 0, 0x330, 0);
    write("4096/1M", 0, 8 * MIB, 0x210, 0);
    write("4096/2M", 0, 10 * MIB, 0x220, 0);
    write("4096/4M", 0, 12 * MIB, 0x240, 0);
    write("4096/8M", 0, 16 * MIB, 0x280, 0);
    write("beyond the end", 0, IMAGE_MIB * MIB, 0, 0);
    write("far beyond", -27, 1 << 62, 0, 0);

    let read = |what: &str, result, change: &dyn Fn(&mut Lockspace)| {
        both.same(what, result, &|path| {
            let mut lockspace = lockspace(path, 0, 0);
            change(&mut lockspace);
            Request::ReadLockspace { lockspace }
        });
    };
    write("again", 0, 0, 0, 7);
    read("plain", 0, &|_| ());
    read("other flags stay", 0, &|ls| ls.flags = 0xc0f);
    read("no name, no host", 0, &|ls| {
        (ls.name, ls.host_id) = (name(""), 0)
    });
    read("other name", -226, &|ls| ls.name = name("OTHER"));
    read("last host", 0, &|ls| ls.host_id = 2000);
    read("beyond", -223, &|ls| ls.host_id = 2001);
    for flags in [0x110, 0x210, 0x280, 0x10, 0x100, 0x180] {
        read("host 1, sizes given", 0, &|ls| ls.flags = flags);
    }
    for (flags, result) in [(0, 0), (0x110, -223), (0x210, 0), (0x10, 0), (0x100, -223)] {
        read("4096/1M, sizes given", result, &|ls| {
            (ls.flags, ls.host_id, ls.disk.offset) = (flags, 2, 8 * MIB);
        });
    }
    read("251 of 250", -223, &|ls| {
        (ls.host_id, ls.disk.offset) = (251, 8 * MIB)
    });
    read("nothing there", -223, &|ls| ls.disk.offset = 40 * MIB);
    read("at 100", -22, &|ls| ls.disk.offset = 100);
    read("beyond the end", -90, &|ls| ls.disk.offset = 1 << 40);
    for path in ["/nonexistent", "", "/tmp", "/dev/null"] {
        read(path, -19, &|ls| ls.disk = disk(Path::new(path), 0));
        both.same(path, -19, &|_| Request::Align {
            disk: disk(Path::new(path), 0),
        });
    }
    both.same("align", 1 << 20, &|path| Request::Align {
        disk: disk(path, 0),
    });
}

#[test]
fn resources_are_written_and_read_alike() {
    let both = Both::new();
    let write = |what: &str, result, data: u32, flags, change: &dyn Fn(&mut Resource)| {
        both.same(what, result, &|path| {
            let mut resource = resource(path, MIB, 0);
            change(&mut resource);
            Request::WriteResource {
                resource,
                max_hosts: data,
                num_hosts: 0,
                flags,
            }
        });
        both.same_bytes(what);
    };
    let (make, clear) = (WriteFlags::NONE, WriteFlags::CLEAR);
    write("plain", 0, 0, make, &|_| ());
    write("7 hosts", 0, 7, make, &|_| ());
    write("3000 hosts", 0, 3000, make, &|_| ());
    write("at 1M+512", 0, 0, make, &|res| {
        res.disks[0].offset = MIB + 512
    });
    write("at 100", -22, 0, make, &|res| res.disks[0].offset = 100);
    write("no names", 0, 0, make, &|res| {
        (res.lockspace_name, res.name, res.disks[0].offset) = (name(""), name(""), 2 * MIB);
    });
    for (flags, result) in [(0x10, -1), (0x100, -1), (0x180, -1)] {
        write("wrong sizes", result, 0, make, &|res| res.flags = flags);
    }
    for (place, flags) in [(8, 0x210), (10, 0x220), (12, 0x240), (16, 0x280)] {
        write("4096", 0, 0, make, &|res| {
            (res.flags, res.disks[0].offset) = (flags, place * MIB);
        });
    }
    write("clear", 0, 0, clear, &|res| res.disks[0].offset = 3 * MIB);
    write("clear again, no names", 0, 7, clear, &|res| {
        (res.lockspace_name, res.name, res.disks[0].offset) = (name(""), name(""), 3 * MIB);
    });
    write("two disks", 0, 0, make, &|res| {
        let mut second = res.disks[0].clone();
        second.offset = 5 * MIB;
        res.disks.push(second);
    });
    for (path, result) in [("/nonexistent", -2), ("", -2), ("/tmp", -21)] {
        write(path, result, 0, make, &|res| {
            res.disks[0] = disk(Path::new(path), 0)
        });
    }

    write("plain", 0, 0, make, &|_| ());
    let read = |what: &str, (leader, owners), change: &dyn Fn(&mut Resource)| {
        let changed = |path: &Path| {
            let mut resource = resource(path, MIB, 0);
            change(&mut resource);
            resource
        };
        both.same(what, leader, &|path| Request::ReadResource {
            resource: changed(path),
        });
        both.same(what, owners, &|path| Request::ReadResourceOwners {
            resource: changed(path),
        });
    };
    read("plain", (0, 0), &|_| ());
    read("version ignored", (0, 0), &|res| res.lver = 9);
    read("no names", (0, -226), &|res| {
        (res.lockspace_name, res.name) = (name(""), name(""));
    });
    read("other lockspace", (-226, -226), &|res| {
        res.lockspace_name = name("X")
    });
    read("other name", (-227, -227), &|res| res.name = name("X"));
    for (flags, owners) in [
        (0x110, 0),
        (0x10, 0),
        (0x100, 0),
        (0x280, -22),
        (0x180, -22),
        (0x80, -22),
        (0x200, -22),
        (0x330, 0),
        (0xc0f, 0),
    ] {
        read("sizes given", (0, owners), &|res| res.flags = flags);
    }
    for (place, flags) in [(8, 0x210), (10, 0x220), (12, 0x240), (16, 0x280)] {
        for flags in [0, flags] {
            read("4096", (0, 0), &|res| {
                (res.flags, res.disks[0].offset) = (flags, place * MIB);
            });
        }
    }
    read("cleared", (-223, -223), &|res| {
        res.disks[0].offset = 3 * MIB
    });
    read("nothing there", (-223, -22), &|res| {
        res.disks[0].offset = 40 * MIB
    });
    for (path, result) in [("/nonexistent", -2), ("", -2), ("/tmp", -21)] {
        read(path, (result, result), &|res| {
            res.disks[0] = disk(Path::new(path), 0)
        });
    }

    // Samples of leases held, one exclusively and one shared.
    for sample in [
        "paxos_acquired_ex",
        "paxos_shared_two_hosts",
        "paxos_released_ex",
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let golden = folder.join("../protocol/disk-format/tests/golden");
        let bytes = fs::read(golden.join(format!("{sample}.bin"))).expect("a sample");
        for image in both.images() {
            use std::os::unix::fs::FileExt;
            let file = fs::File::options().write(true).open(both.path(image));
            file.and_then(|file| file.write_all_at(&bytes, MIB))
                .expect("written");
        }
        read(sample, (0, 0), &|_| ());
    }
}

#[test]
fn indexes_are_kept_alike() {
    let both = Both::new();
    let none = RindexFlags::NONE;
    let alone = RindexFlags::NO_LOCKSPACE;
    let format = |what: &str, result, offset, flags, max_resources| {
        both.same(what, result, &|path| Request::FormatRindex {
            rindex: Rindex {
                max_resources,
                ..rindex(path, offset, flags)
            },
            flags: none,
        });
        both.same_bytes(what);
    };
    let look = |what: &str, result, wanted: Rentry, flags| {
        both.same(what, result, &|path| Request::LookupRindex {
            rindex: rindex(path, MIB, 0),
            entry: wanted,
            flags,
        });
    };
    let update = |what: &str, result, wanted: Rentry, flags| {
        both.same(what, result, &|path| Request::UpdateRindex {
            rindex: rindex(path, MIB, 0),
            entry: wanted,
            flags,
        });
        both.same_bytes(what);
    };
    let create = |what: &str, result, wanted: Rentry, num_hosts| {
        both.same(what, result, &|path| Request::CreateResource {
            rindex: rindex(path, MIB, 0),
            entry: wanted,
            max_hosts: 0,
            num_hosts,
            flags: none,
        });
    };
    let delete = |what: &str, result, wanted: Rentry| {
        both.same(what, result, &|path| Request::DeleteResource {
            rindex: rindex(path, MIB, 0),
            entry: wanted,
            flags: none,
        });
    };
    let rebuild = |what: &str, result, flags| {
        both.same(what, result, &|path| Request::RebuildRindex {
            rindex: rindex(path, MIB, 0),
            flags,
        });
    };
    for (flags, result) in [(0x10, -1), (0x180, -1), (0x110, 0), (0, 0)] {
        format("sizes", result, MIB, flags, 0);
    }
    format("at 100", -22, 100, 0, 0);
    format("4096/8M", 0, 16 * MIB, 0x280, 0);
    format("5 entries", 0, 40 * MIB, 0, 5);
    format("too many entries", 0, 44 * MIB, 0, 99_999_999);

    // Nothing is joined.
    look("not joined", -2, entry("", 0), none);
    look("alone", 0, entry("", 0), alone);
    create("not joined", -2, entry("a", 0), 0);
    delete("not joined", -2, entry("a", 0));
    rebuild("not joined", -2, none);
    let add = RindexFlags::ADD;
    let remove = RindexFlags::REMOVE;
    update("alone", 0, entry("x", 3 * MIB), add.with(alone));
    rebuild("alone", 0, alone);
    both.same_bytes("rebuilt alone");

    both.join();
    for (name, num_hosts) in [("a", 0), ("b", 9), ("c", 3000)] {
        create("create", 0, entry(name, 0), num_hosts);
    }
    look("first free", 0, entry("", 0), none);
    look("name", 0, entry("b", 0), none);
    look("offset", 0, entry("", 4 * MIB), none);
    look("both", 0, entry("b", 4 * MIB), none);
    look("both, differing", -278, entry("b", 5 * MIB), none);
    look("free offset", 0, entry("", 9 * MIB), none);
    look("no such name", -2, entry("z", 0), none);
    look("no place", -277, entry("", 3 * MIB + 5), none);
    delete("delete", 0, entry("b", 0));
    delete("by offset", -2, entry("", 5 * MIB));
    delete("no such name", -2, entry("z", 0));
    create("in the gap", 0, entry("d", 0), 0);
    update_after_join(&both, &entry("u", 0), add, -22);
    update_after_join(&both, &entry("u", 9 * MIB), add, 0);
    update_after_join(&both, &entry("v", 9 * MIB), add, 0);
    update_after_join(&both, &entry("w", 10 * MIB + 7), add, -277);
    update_after_join(&both, &entry("w", 10 * MIB), none, -22);
    update_after_join(&both, &entry("", 9 * MIB), remove, 0);
    update_after_join(&both, &entry("v", 0), remove, -22);
    look("removed", 0, entry("", 9 * MIB), none);
    rebuild("joined", 0, none);
    for name in ["a", "c", "d"] {
        look("after the rebuilding", 0, entry(name, 0), none);
    }
    let [ours, theirs] = both.images().map(|image| {
        let bytes = fs::read(both.path(image)).expect("the image");
        bytes[1 << 20..2 << 20].to_vec()
    });
    assert!(ours == theirs, "the index after all this");
}

fn update_after_join(both: &Both, wanted: &Rentry, flags: RindexFlags, result: i32) {
    both.same("update", result, &|path| Request::UpdateRindex {
        rindex: rindex(path, MIB, 0),
        entry: *wanted,
        flags,
    });
}

/// The original writes beside its buffer, stores 2^64−1 hosts, takes the wrong
/// field for the number of hosts, and enters a name twice; looking up a wild
/// offset ends its daemon, so that is not asked here.
#[test]
fn differences_are_deliberate() {
    let both = Both::new();
    let results = |make: Make<'_>| both.ask(make).map(|(result, _)| result);
    let hosts = |image: &str| {
        let bytes = fs::read(both.path(image)).expect("the image");
        u64::from_le_bytes(*bytes[(1 << 20) + 16..].first_chunk().expect("a number"))
    };
    let [ours, theirs] = both.images();
    for (max_hosts, num_hosts, expected) in [
        (u32::MAX, 0, [2000, u64::MAX]),
        (0, 7, [7, 2000]),
        (7, 9, [7, 7]),
    ] {
        let both_did = results(&|path| Request::WriteResource {
            resource: resource(path, MIB, 0),
            max_hosts,
            num_hosts,
            flags: WriteFlags::NONE,
        });
        assert_eq!(both_did, [0, 0]);
        assert_eq!([hosts(ours), hosts(theirs)], expected);
    }

    let format = results(&|path| Request::FormatRindex {
        rindex: rindex(path, MIB, 0),
        flags: RindexFlags::NONE,
    });
    assert_eq!(format, [0, 0]);
    both.join();
    let before = results(&|path| Request::UpdateRindex {
        rindex: rindex(path, MIB, 0),
        entry: entry("w", MIB),
        flags: RindexFlags::ADD,
    });
    assert_eq!(before, [-277, 0], "an entry before the first");
    for expected in [[0, 0], [-17, 0]] {
        let create = results(&|path| Request::CreateResource {
            rindex: rindex(path, MIB, 0),
            entry: entry("twice", 0),
            max_hosts: 0,
            num_hosts: 0,
            flags: RindexFlags::NONE,
        });
        assert_eq!(create, expected);
    }
}
