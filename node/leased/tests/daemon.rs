//! The daemon's life, its socket, and clients that mean no good: whatever one
//! does or does not do, the others are served (spec §6.1, §6.2, §7.1).

mod daemon_support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::{Duration, Instant};

use daemon_support::{
    Daemon, acquire, disk_dir, file, lockspace, name, resource, sanlock, shared, spawn, wait_for,
};
use rustix::process::Signal;
use sanlock_wire::{
    AcquireFlags, Command, Header, Release, Reply, ReplyBody, Request, RestrictFlags, StateKind,
    Target, VERSION_NUMBER,
};

/// What the original's own tests allow for the first connection.
const ACCEPTS_WITHIN: Duration = Duration::from_millis(500);

#[test]
fn it_accepts_connections_before_the_originals_tests_lose_patience() {
    // The fastest of a few: the machine may be busy, the daemon must not be.
    let fastest = (0..5)
        .map(|_| {
            let start = Instant::now();
            let daemon = Daemon::start("hostA");
            let took = start.elapsed();
            drop(daemon);
            took
        })
        .min();
    assert!(fastest < Some(ACCEPTS_WITHIN), "{fastest:?}");
}

#[test]
fn a_second_daemon_ends_at_once_and_a_killed_one_is_in_nobodys_way() {
    let mut daemon = Daemon::start("hostA");
    let pid = fs::read_to_string(daemon.run_dir().join("sanlock.pid")).expect("a pid file");
    assert_eq!(pid, format!("{}\n", daemon.pid()));
    let second = spawn(daemon.run_dir(), "hostB", &["-w", "0"])
        .wait()
        .expect("ends");
    assert_eq!(second.code(), Some(1));
    for _ in 0..3 {
        daemon.kill();
        let socket = fs::symlink_metadata(daemon.socket()).expect("the socket stays");
        assert!(socket.file_type().is_socket());
        daemon.restart("hostA");
        assert_eq!(daemon.ask(&Request::Version).result, 0);
    }
}

#[test]
fn socket_pid_file_and_directory_have_the_originals_modes() {
    let daemon = Daemon::start("hostA");
    let mode =
        |path: &std::path::Path| fs::metadata(path).expect("exists").permissions().mode() & 0o7777;
    assert_eq!(mode(&daemon.socket()), 0o660);
    assert_eq!(mode(&daemon.run_dir().join("sanlock.pid")), 0o644);
    assert_eq!(mode(daemon.run_dir()), 0o775);
}

#[test]
fn in_the_background_the_caller_ends_when_connections_are_accepted() {
    let dir = tempfile::tempdir().expect("a directory");
    let status = sanlock(dir.path())
        .args(["daemon", "-w", "0", "-l", "0", "-U", "root", "-G", "root"])
        .status()
        .expect("runs");
    assert_eq!(status.code(), Some(0));
    // Nobody waits for the end of what it was called with.
    let pid: u32 = fs::read_to_string(dir.path().join("sanlock.pid"))
        .expect("a pid file")
        .trim()
        .parse()
        .expect("a pid");
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("open");
        assert_eq!(target, std::path::Path::new("/dev/null"), "{fd}");
    }
    let stream = std::os::unix::net::UnixStream::connect(dir.path().join("sanlock.sock"));
    let mut client = daemon_support::Client {
        stream: stream.expect("accepts"),
    };
    let reply = client.ask(&Request::ShutdownWait { force: false });
    assert_eq!(reply.result, 0);
}

#[test]
fn signals_end_it_only_without_lockspaces() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 1);
    let mut daemon = Daemon::start("hostA");
    daemon.init(&path, 0);
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
    daemon.signal(Signal::TERM);
    daemon.until_logged("signal ignored");
    assert_eq!(daemon.ask(&Request::Version).result, 0);
    let refused = daemon.ask(&Request::ShutdownWait { force: false });
    assert_eq!(refused.result, -16);
    assert_eq!(daemon.rem(&lockspace(&path, 1)), 0);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().code(), Some(0));
}

#[test]
fn version_is_answered_whatever_version_is_asked_with() {
    let daemon = Daemon::start("hostA");
    let mut client = daemon.connect();
    let header = Header {
        version: 0x0009_0000,
        seq: 7,
        ..Header::request(Command::Version)
    };
    client.raw(&header.encode());
    let reply = client.header();
    assert_eq!((reply.data2, reply.version), (VERSION_NUMBER, 1));
    // It stays for more.
    assert_eq!(
        client.ask(&Request::Version),
        Reply::with(ReplyBody::Version(VERSION_NUMBER))
    );
}

#[test]
fn ten_bytes_and_a_request_without_its_body_delay_nobody() {
    let daemon = Daemon::start("hostA");
    let mut slow = Vec::new();
    for length in 1..32 {
        let mut client = daemon.connect();
        client.raw(&Header::request(Command::GetHosts).encode()[..length]);
        slow.push(client);
    }
    let mut bodyless = daemon.connect();
    bodyless.raw(&Header::request(Command::GetHosts).encode());
    for _ in 0..50 {
        assert_eq!(daemon.ask(&Request::Version).result, 0);
    }
    // What was begun can still be completed.
    let mut late = slow.remove(9);
    late.raw(&Header::request(Command::GetHosts).encode()[10..]);
    let rest = Request::GetHosts {
        lockspace: lockspace(std::path::Path::new("/x"), 0),
    }
    .encode();
    late.raw(&rest[32..]);
    assert_eq!(late.reply().result, -2);
    // An end in the middle is answered.
    bodyless.finish();
    assert_eq!(bodyless.reply().result, -107);
    assert!(bodyless.is_closed());
}

#[test]
fn what_is_not_the_protocol_gets_no_answer_and_harms_nobody() {
    let daemon = Daemon::start("hostA");
    let mut other = daemon.connect();
    other.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(other.is_closed());
    // A command nobody knows is dropped; the connection goes on.
    let mut unknown = daemon.connect();
    let header = Header {
        cmd: 41,
        ..Header::request(Command::Version)
    };
    unknown.raw(&header.encode());
    assert_eq!(unknown.ask(&Request::Version).result, 0);
    // So is one of a protocol to come.
    let header = Header {
        version: 0x0001_0000,
        ..Header::request(Command::GetLockspaces)
    };
    unknown.raw(&header.encode());
    assert_eq!(unknown.ask(&Request::Version).result, 0);
    // Nor does it fill anybody's disk with lines about it.
    for _ in 0..5000 {
        unknown.raw(&header.encode());
    }
    assert_eq!(unknown.ask(&Request::Version).result, 0);
    let lines = daemon.log().matches("ignored").count();
    assert!(lines < 1000, "{lines} lines");
    // A flood of rubbish.
    let mut flood = daemon.connect();
    let rubbish: Vec<u8> = (0..1u32 << 20).map(|n| (n * 31 % 251) as u8).collect();
    flood.stream.write_all(&rubbish).ok();
    assert_eq!(daemon.ask(&Request::Version).result, 0);
}

#[test]
fn random_messages_on_many_connections_harm_nobody_who_holds_a_lease() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 3);
    let daemon = Daemon::start("hostA");
    daemon.init(&path, 2);
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
    let mut holder = daemon.register();
    assert_eq!(holder.acquire(&[resource(&path, 1)]), 0);
    let before = holder.inquire();
    // The same numbers in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    // What may not be asked: to end, to leave, to write to the disk.
    let forbidden = [3, 4, 18, 19, 29, 35, 36, 38, 39, 40];
    let mut connections: Vec<_> = (0..50).map(|_| daemon.connect()).collect();
    let mut sent = 0;
    while sent < 20_000 {
        let cmd = u32::try_from(random(44)).expect("small");
        if forbidden.contains(&cmd) {
            continue;
        }
        let pick = usize::try_from(random(50)).expect("small");
        let some = |number: u64| u32::try_from(number).expect("small");
        let header = Header {
            cmd,
            cmd_flags: some(random(32)),
            length: some(random(1 << 13)),
            data: some(random(10)),
            // A pid nobody has: the holder's own would be an order to release.
            data2: u32::MAX - some(random(2) << 24),
            ..Header::request(Command::Version)
        };
        let mut bytes = header.encode().to_vec();
        let payload = usize::try_from(random(6000)).expect("small");
        bytes.extend((0..payload).map(|_| u8::try_from(random(3)).expect("small")));
        bytes.truncate(usize::try_from(random(6000) + 1).expect("small"));
        let stream = &mut connections[pick].stream;
        stream.set_nonblocking(true).expect("set");
        // It may be full, or closed for what it sent.
        let written = stream.write(&bytes).is_ok();
        let mut reply = [0; 4096];
        let read = std::io::Read::read(stream, &mut reply);
        let gone = matches!(read, Ok(0))
            || read.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock);
        if !written || gone {
            connections[pick] = daemon.connect();
        }
        sent += 1;
    }
    assert_eq!(holder.inquire(), before);
    let mut other = daemon.register();
    assert_eq!(other.acquire(&[resource(&path, 2)]), 0);
    assert_eq!(holder.release(&[resource(&path, 1)]), 0);
}

#[test]
fn a_registered_connection_survives_its_own_rubbish() {
    let daemon = Daemon::start("hostA");
    let mut client = daemon.register();
    let header = Header {
        magic: 0xdead_beef,
        ..Header::request(Command::Version)
    };
    client.raw(&header.encode());
    assert_eq!(client.ask(&Request::Version).result, 0);
    assert_eq!(client.inquire(), "");
}

#[test]
fn too_many_resources_or_disks_are_refused_with_the_originals_numbers() {
    let daemon = Daemon::start("hostA");
    let mut client = daemon.register();
    let header = Header {
        data: 9,
        data2: u32::MAX,
        ..Header::request(Command::Acquire)
    };
    client.raw(&header.encode());
    assert_eq!(client.reply().result, -7);
    let path = std::path::Path::new("/none");
    let mut many = resource(path, 1);
    many.disks = vec![many.disks[0].clone(); 4];
    let mut bytes = acquire(Target::ThisConnection, &[many], AcquireFlags::NONE).encode();
    // num_disks of the first resource.
    bytes[32 + 124] = 5;
    client.raw(&bytes);
    assert_eq!(client.reply().result, -34);
    assert_eq!(client.ask(&Request::Version).result, 0);
}

#[test]
fn commands_for_a_process_want_it_registered() {
    let daemon = Daemon::start("hostA");
    let mut client = daemon.connect();
    let inquire = |target| Request::Inquire { target };
    assert_eq!(client.ask(&inquire(Target::ThisConnection)).result, -16);
    assert_eq!(client.ask(&inquire(Target::Pid(1))).result, -3);
    // The payload is not waited for.
    let header = Header {
        data: 1,
        data2: 1,
        ..Header::request(Command::Acquire)
    };
    client.raw(&header.encode());
    assert_eq!(client.reply().result, -3);
    let registered = daemon.register();
    let own = i32::try_from(std::process::id()).expect("a pid");
    wait_for("registered", || {
        (daemon.ask(&inquire(Target::Pid(own))).result == 0).then_some(())
    });
    drop(registered);
    wait_for("forgotten", || {
        (daemon.ask(&inquire(Target::Pid(own))).result == -3).then_some(())
    });
}

#[test]
fn restricted_from_everything_it_is_ignored() {
    let daemon = Daemon::start("hostA");
    let mut client = daemon.connect();
    let restricted = client.ask(&Request::Restrict {
        flags: RestrictFlags::ALL,
    });
    assert_eq!(restricted.result, 0);
    client.send(&Request::Version);
    assert_eq!(daemon.ask(&Request::Version).result, 0);
    assert!(client.is_silent());
}

#[test]
fn status_names_everybody_in_the_originals_order() {
    let daemon = Daemon::start("hostA");
    let _registered = daemon.register();
    let own = i32::try_from(std::process::id()).expect("a pid");
    wait_for("registered", || {
        let status = daemon.status(0);
        let clients: Vec<(i32, String)> = status
            .iter()
            .filter(|record| record.kind == StateKind::Client)
            .map(|record| (record.data32.cast_signed(), record.name.to_string()))
            .collect();
        let wanted = [
            (-1, "helper".to_owned()),
            (-1, "listener".to_owned()),
            // Registered, and nothing asked for since.
            (own, own.to_string()),
            (-1, "status".to_owned()),
        ];
        (clients == wanted && status[0].kind == StateKind::Daemon).then_some(())
    });
    assert_eq!(daemon.status(1).len(), 1);
    assert!(daemon.status(1)[0].text.starts_with("our_host_name=hostA "));
}

#[test]
fn a_thousand_connections_and_more_are_served() {
    // Beyond the 1024 at which the original accepts and then forgets one.
    let daemon = Daemon::start("hostA");
    let mut clients: Vec<_> = (0..1100).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send(&Request::Version);
    }
    for client in &mut clients {
        assert_eq!(client.reply().result, 0);
    }
}

#[test]
fn connections_beyond_the_limit_are_refused_and_others_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = env!("CARGO_BIN_EXE_leased");
    let arguments = "daemon -D -w 0 -l 0 -U root -G root";
    // 256 descriptors are not for clients, and there are at least 1024 that are.
    let mut shell = std::process::Command::new("/bin/bash")
        .arg("-c")
        .arg(format!(
            "ulimit -n 1400; exec -a sanlock {program} {arguments}"
        ))
        .env("SANLOCK_RUN_DIR", dir.path())
        .env("SANLOCK_PRIVILEGED", "0")
        .stderr(fs::File::create(dir.path().join("log")).expect("a log"))
        .spawn()
        .expect("starts");
    let socket = dir.path().join("sanlock.sock");
    let connect = || std::os::unix::net::UnixStream::connect(&socket).ok();
    let first = wait_for("accepts", connect);
    let mut first = daemon_support::Client { stream: first };
    let mut others: Vec<_> = (0..1200).filter_map(|_| connect()).collect();
    assert_eq!(first.ask(&Request::Version).result, 0);
    wait_for("the refusal is logged", || {
        let log = fs::read_to_string(dir.path().join("log")).ok()?;
        log.contains("connections refused").then_some(())
    });
    // Whoever goes makes room.
    others.drain(..600);
    wait_for("another is served", || {
        let mut client = daemon_support::Client { stream: connect()? };
        client.stream.write_all(&Request::Version.encode()).ok()?;
        let mut reply = [0; 32];
        std::io::Read::read_exact(&mut client.stream, &mut reply).ok()
    });
    shell.kill().expect("killed");
    shell.wait().expect("ends");
}

#[test]
fn readers_of_the_log_that_do_not_read_cost_a_bounded_amount() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 1);
    let daemon = Daemon::start("hostA");
    daemon.init(&path, 0);
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
    let kib = || -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("runs");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
            .expect("a size")
    };
    // Something to read.
    let mut asking = daemon.connect();
    for _ in 0..10_000 {
        let refused = asking.ask(&Request::ShutdownWait { force: false });
        assert_eq!(refused.result, -16);
    }
    let mut readers: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    for reader in &mut readers {
        reader.send(&Request::LogDump);
        assert_eq!(daemon.ask(&Request::Version).result, 0);
    }
    assert!(kib() < 64 << 10, "{} KiB", kib());
    // Who reads at once gets all of it.
    let mut reader = daemon.connect();
    let ReplyBody::Log(text) = reader.ask(&Request::LogDump).body else {
        panic!("no log");
    };
    assert!(text.len() > 500 << 10, "{} bytes", text.len());
}

#[test]
fn a_reader_of_status_that_does_not_read_holds_up_nobody() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 10);
    let daemon = Daemon::start("hostA");
    daemon.init(&path, 2);
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
    let mut holders: Vec<_> = (0..400).map(|_| daemon.register()).collect();
    for holder in &mut holders {
        assert_eq!(holder.acquire(&[shared(&path, 1)]), 0);
    }
    let mut slow: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for client in &mut slow {
        client.send(&Request::Status { detail: 0 });
    }
    for _ in 0..20 {
        let mut client = daemon.register();
        assert_eq!(client.acquire(&[resource(&path, 2)]), 0);
        assert_eq!(client.release(&[resource(&path, 2)]), 0);
    }
    // Whoever reads after all gets everything.
    let mut late = slow.pop().expect("eight");
    late.header();
    let records = late.records();
    let held = records
        .iter()
        .filter(|record| record.kind == StateKind::Resource)
        .count();
    assert_eq!(held, 400);
}

#[test]
fn a_lockspace_is_added_once_and_removed_once() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 2);
    let daemon = Daemon::start("hostA");
    daemon.init(&path, 1);
    let space = lockspace(&path, 1);
    let inquire = || {
        daemon
            .ask(&Request::InqLockspace {
                lockspace: space.clone(),
                flags: sanlock_wire::InquireFlags::NONE,
            })
            .result
    };
    assert_eq!(inquire(), -2);
    let mut adding = daemon.connect();
    adding.send(&Request::AddLockspace {
        lockspace: space.clone(),
        io_timeout_s: 1,
        flags: sanlock_wire::AddFlags::NONE,
    });
    wait_for("adding", || (inquire() == -115).then_some(()));
    assert_eq!(daemon.add(&space), -115);
    assert_eq!(daemon.hosts(&space), Err(-2), "not joined yet");
    let other_host = lockspace(&path, 2);
    assert_eq!(daemon.add(&other_host), -22);
    assert_eq!(adding.reply().result, 0);
    assert_eq!(daemon.hosts(&space), Err(-11), "not looked at yet");
    assert_eq!((inquire(), daemon.add(&space)), (0, -17));
    let hosts = wait_for("hosts", || daemon.hosts(&space).ok());
    assert_eq!((hosts.len(), hosts[0].flags & 0xf), (1, 3));
    let beyond = daemon.hosts(&lockspace(&path, 2001));
    assert_eq!(beyond, Ok(Vec::new()));
    let never = daemon.hosts(&lockspace(&path, 7)).expect("hosts");
    assert_eq!((never[0].flags, never[0].io_timeout), (2, 0));
    let listed = daemon.ask(&Request::GetLockspaces).body;
    assert_eq!(listed, ReplyBody::Lockspaces(vec![space.clone()]));
    assert_eq!(daemon.rem(&other_host), -2);
    assert_eq!(daemon.rem(&space), 0);
    assert_eq!((inquire(), daemon.rem(&space)), (-2, -2));
}

#[test]
fn what_cannot_be_joined_says_why() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 2);
    let daemon = Daemon::start("hostA");
    assert_eq!(daemon.add(&lockspace(&path, 1)), -223);
    assert_eq!(daemon.add(&lockspace(&dir.path().join("none"), 1)), -19);
    assert_eq!(daemon.add(&lockspace(&path, 0)), -22);
    daemon.init(&path, 0);
    let mut named = lockspace(&path, 1);
    named.name = name("other");
    assert_eq!(daemon.add(&named), -226);
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
}

#[test]
fn a_lease_is_taken_shown_and_given_back() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 4);
    let daemon = Daemon::start("hostA");
    daemon.init(&path, 3);
    let mut client = daemon.register();
    assert_eq!(client.acquire(&[resource(&path, 1)]), -28, "not joined");
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
    let leases = [resource(&path, 1), resource(&path, 2)];
    assert_eq!(client.acquire(&leases), 0);
    let shown = path.display();
    assert_eq!(
        client.inquire(),
        format!("LS:R1:{shown}:1048576:1 LS:R2:{shown}:2097152:1")
    );
    let mut second = daemon.register();
    assert_eq!(second.acquire(&leases[..1]), -17);
    assert_eq!(client.release(&leases[..1]), 0);
    assert_eq!(second.acquire(&leases[..1]), 0);
    // All or nothing.
    let all = [resource(&path, 3), resource(&path, 1)];
    assert_eq!(client.acquire(&all), -17);
    assert_eq!(client.inquire(), format!("LS:R2:{shown}:2097152:1"));
    let released = second.ask(&Request::Release {
        target: Target::ThisConnection,
        release: Release::All,
    });
    assert_eq!((released.result, second.inquire()), (0, String::new()));
}

#[test]
fn leases_end_with_the_last_duplicate_of_the_socket() {
    let dir = disk_dir();
    let path = file(&dir, "disk", 2);
    let daemon = Daemon::start("hostA");
    daemon.init(&path, 1);
    assert_eq!(daemon.add(&lockspace(&path, 1)), 0);
    let mut client = daemon.register();
    assert_eq!(client.acquire(&[resource(&path, 1)]), 0);
    let duplicate = client.stream.try_clone().expect("a duplicate");
    drop(client);
    let mut other = daemon.register();
    assert_eq!(other.acquire(&[resource(&path, 1)]), -17, "still held");
    drop(duplicate);
    wait_for("released", || {
        (other.acquire(&[resource(&path, 1)]) == 0).then_some(())
    });
}
