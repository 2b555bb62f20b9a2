//! Clients that know nothing of us: Debian's Python module, its C library and
//! the original's command line. The original daemon judges the tests.

mod support;

use std::collections::BTreeSet;
use std::process::Stdio;
use std::thread;

use serde_json::{Value, json};
use support::client::{self, Resource, Space, code};
use support::guest::{Guest, described, python};
use support::host::{Disk, Host, Kind, Storage};
use support::wait_for;

/// Runs a body on both daemons at the same time.
fn both(body: impl Fn(Kind) + Sync) {
    thread::scope(|scope| {
        for kind in [Kind::Original, Kind::Ours] {
            let body = &body;
            scope.spawn(move || body(kind));
        }
    });
}

#[test]
fn every_function_of_the_python_module_works() {
    both(|kind| {
        let host = Host::start(kind, "host-one");
        let device = Disk::new(Storage::Loop4096, 8);
        let files = support::disk_dir();
        let output = python("support/bindings.py", host.run_dir())
            .env("DISKS", files.path())
            .env("DEVICE_4K", &device.path)
            .stdin(Stdio::null())
            .output()
            .expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{kind}:\n{said}\n{}", host.log());
    });
}

fn lockspace(space: &Space, host_id: u64) -> Value {
    json!({"name": space.name, "host_id": host_id, "path": space.path, "offset": space.offset})
}

#[test]
fn every_function_of_the_c_library_works() {
    both(|kind| {
        let host = Host::start(kind, "host-one");
        let disk = Disk::new(Storage::File, 10);
        let space = disk.space();
        let mut guest = Guest::start(&host);
        let version = guest.ask("version", json!({}));
        assert_eq!(
            version,
            json!({"result": 0, "version": 0x0308_0500, "protocol": 1})
        );
        assert_eq!(guest.call("align", json!({"path": disk.path})), 1 << 20);

        let of = |host_id| json!({"lockspace_": lockspace(&space, host_id)});
        let with = |host_id, key: &str, value: i64| {
            let mut arguments = of(host_id);
            arguments[key] = json!(value);
            arguments
        };
        assert_eq!(
            guest.call("init", json!({"lockspace_": lockspace(&space, 0)})),
            0
        );
        assert_eq!(guest.call("write_lockspace", with(0, "io_timeout", 3)), 0);
        let read = guest.ask("read_lockspace", of(1));
        assert_eq!(
            (&read["name"], &read["io_timeout"]),
            (&json!("LS"), &json!(3))
        );
        assert_eq!(read["flags"], 0x110);
        assert_eq!(guest.call("inq_lockspace", of(1)), -2);
        assert_eq!(guest.call("add_lockspace", with(1, "io_timeout", 1)), 0);
        assert_eq!(guest.call("inq_lockspace", of(1)), 0);
        assert_eq!(guest.call("inq_lockspace", of(0)), 0, "host id 0 is any");
        let spaces = guest.ask("get_lockspaces", json!({}));
        assert_eq!(spaces["spaces"], json!([["LS", 1, 0]]));
        let hosts = wait_for("hosts known", || {
            let hosts = guest.ask("get_hosts", json!({"name": "LS"}));
            (hosts["result"] == 0).then_some(hosts)
        });
        let first = &hosts["hosts"][0];
        assert_eq!(
            (&first[0], &first[1], &first[4]),
            (&json!(1), &json!(disk.generation(1)), &json!(3))
        );

        leases(kind, &mut guest, &disk);
        registrations(&host, &disk);
        index(&mut guest, &disk);
        events(&mut guest);

        // A used lockspace stays until its user outside the daemon is done.
        let config = |command| json!({"name": "LS", "command": command});
        assert_eq!(guest.call("set_config", config(1)), 0);
        let mut leaving = host.connect();
        let payload = client::space(&space, 1);
        leaving.send(client::command::REM_LOCKSPACE, 0, 0, 0, &payload);
        let mut renewals = BTreeSet::new();
        wait_for("renewed on", || {
            renewals.insert(disk.renewed_at(1));
            (renewals.len() > 2).then_some(())
        });
        assert_ne!(guest.call("inq_lockspace", of(1)), -2, "still here");
        assert_eq!(guest.call("set_config", config(2)), 0);
        assert_eq!(leaving.reply().result, 0);
        assert_eq!(guest.call("inq_lockspace", of(1)), -2);
        assert_eq!(guest.call("set_config", config(1)), -2);
    });
}

/// Acquire, convert, value block, inquire, release, by connection and by pid.
fn leases(kind: Kind, guest: &mut Guest, disk: &Disk) {
    let lease = disk.resource(1);
    let one = described(&lease);
    let resource = |resource: &Value| json!({"resource_": resource});
    assert_eq!(guest.call("init", resource(&one)), 0);
    let read = guest.ask("read_resource", resource(&one));
    let expected = json!({"result": 0, "lockspace": "LS", "name": "R1", "lver": 0, "flags": 0x110});
    assert_eq!(read, expected, "{kind}");
    assert_eq!(guest.acquire(&lease, 1), 0);
    assert_eq!(guest.acquire(&lease, 0), -17);
    let held = guest.ask("inquire", json!({}));
    let text = format!("LS:R1:{}:{}:1", disk.path.display(), lease.offset);
    assert_eq!(held, json!({"result": 0, "count": 1, "state": text}));
    let by_pid = guest.ask("inquire", json!({"pid": guest.pid()}));
    assert_eq!(by_pid, held);
    let owners = guest.ask("read_resource_owners", resource(&one));
    assert_eq!(
        (&owners["owners"][0][0], &owners["test"], &owners["live"]),
        (&json!(1), &json!(0), &json!(1))
    );

    let value = json!({"resource_": one, "value": "68656c6c6f"});
    assert_eq!(guest.call("set_lvb", value), 0);
    let wanted = json!({"resource_": one, "length": 8});
    let got = guest.ask("get_lvb", wanted);
    assert_eq!(got, json!({"result": 0, "value": "68656c6c6f000000"}));

    let shared = described(&lease.shared());
    assert_eq!(guest.call("convert", resource(&shared)), 0);
    assert_eq!(guest.call("convert", resource(&shared)), -114);
    let text = guest.ask("inquire", json!({}))["state"].clone();
    assert!(text.as_str().expect("text").ends_with(":SH"), "{text}");
    let by_pid = json!({"resource_": one, "pid": guest.pid()});
    assert_eq!(guest.call("convert", by_pid), 0);
    assert_eq!(
        guest.call(
            "request",
            json!({"resource_": described(&lease.version(1)), "mode": 1})
        ),
        -272
    );
    assert_eq!(guest.call("examine", resource(&one)), 0);
    assert_eq!(
        guest.call(
            "examine",
            json!({"lockspace_": lockspace(&disk.space(), 0)})
        ),
        0
    );
    let by_pid = json!({"resources": [one], "pid": guest.pid()});
    assert_eq!(guest.call("release", by_pid), 0);
    assert_eq!(guest.release(&lease), -1);
    assert_eq!(guest.call("convert", resource(&one)), -2);
    assert_eq!(
        guest.call("release", json!({"resources": [], "flags": 1})),
        0,
        "all of none"
    );
    let nobody = json!({"resources": [one], "pid": 1});
    assert_eq!(guest.call("acquire", nobody), -3);

    // Under another name from now on.
    assert_eq!(guest.acquire(&lease, 0), 0);
    let renamed = Resource {
        name: "renamed".to_owned(),
        ..lease.clone()
    };
    let both = json!({"resources": [one, described(&renamed)], "flags": 2});
    assert_eq!(guest.call("release", both), 0);
    let read = guest.ask("read_resource", json!({"resource_": described(&renamed)}));
    assert_eq!(read["name"], "renamed");
    assert_eq!(guest.acquire(&lease, 0), -227);
    let clear = json!({"resource_": one, "flags": 1});
    assert_eq!(guest.call("write_resource", clear), 0);
    assert_eq!(guest.acquire(&lease, 0), -223);
}

/// Registrations live in sockets, not in processes.
fn registrations(host: &Host, disk: &Disk) {
    let lease = disk.resource(2);
    host.init_resource(&lease);
    let mut other = host.registered();
    // An executed program keeps what was acquired before.
    let mut guest = Guest::start(host);
    let pid = guest.pid();
    assert_eq!(guest.acquire(&lease, 0), 0);
    guest.send("exec", json!({"arguments": ["cat"]}));
    assert_eq!(
        other.acquire_for(pid, &[disk.resource(3)], 0),
        -223,
        "known by its pid"
    );
    assert_eq!(host.owner_ids(&lease), [1]);
    guest.kill();
    wait_for("released with its end", || {
        host.owner_ids(&lease).is_empty().then_some(())
    });

    // A child that inherited the socket keeps the lease of a dead parent.
    let mut guest = Guest::start(host);
    assert_eq!(guest.acquire(&lease, 0), 0);
    let child = guest.call("fork", json!({}));
    guest.kill();
    assert_eq!(other.acquire(&lease, 0), code::EEXIST);
    let child = i32::try_from(child)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(child.expect("a pid"), rustix::process::Signal::KILL)
        .expect("killed");
    wait_for("released with its last socket", || {
        let result = other.acquire(&lease, 0);
        (result == code::OK).then_some(())
    });

    // A connection that restricted itself to nothing is answered nothing.
    let mut mute = Guest::start(host);
    assert_eq!(mute.call("restrict", json!({"flags": 1})), 0);
    mute.send("acquire", json!({"resources": [described(&lease)]}));
    let mut other = host.registered();
    assert_eq!(other.acquire_for(mute.pid(), &[lease], 0), code::EEXIST);
    assert!(mute.is_running());
}

fn index(guest: &mut Guest, disk: &Disk) {
    let index =
        json!({"lockspace": "LS", "path": disk.path, "offset": 4 << 20, "max_resources": 3});
    let mib = 1_u64 << 20;
    let entry = |name: &str| json!({"rindex_": index, "name": name});
    assert_eq!(guest.call("format_rindex", json!({"rindex_": index})), 0);
    for (name, place) in [("a", 6), ("b", 7), ("c", 8)] {
        let made = guest.ask("create_resource", entry(name));
        assert_eq!(
            (&made["result"], &made["offset"]),
            (&json!(0), &json!(place * mib))
        );
    }
    assert_eq!(guest.call("create_resource", entry("d")), -2, "full");
    let found = guest.ask("lookup_rindex", entry("b"));
    assert_eq!(found["offset"], 7 * mib);
    assert_eq!(guest.call("delete_resource", entry("b")), 0);
    assert_eq!(guest.call("lookup_rindex", entry("b")), -2);
    let free = guest.ask("lookup_rindex", json!({"rindex_": index}));
    assert_eq!(
        (&free["result"], &free["offset"]),
        (&json!(0), &json!(7 * mib))
    );
    let add = json!({"rindex_": index, "name": "e", "offset": 7 * mib, "flags": 0x10000});
    assert_eq!(guest.call("update_rindex", add), 0);
    assert_eq!(guest.ask("lookup_rindex", entry("e"))["offset"], 7 * mib);
    assert_eq!(guest.call("rebuild_rindex", json!({"rindex_": index})), 0);
    // What was only said to be there is not there.
    assert_eq!(guest.call("lookup_rindex", entry("e")), -2);
    assert_eq!(guest.ask("lookup_rindex", entry("c"))["offset"], 8 * mib);
}

fn events(guest: &mut Guest) {
    assert_eq!(guest.call("reg_event", json!({"name": "LS"})), 0);
    assert_eq!(guest.call("get_event", json!({})), -11);
    let set = json!({"name": "LS", "event": [2, 1, 3, 4]});
    assert_eq!(guest.call("set_event", set), 0);
    assert_eq!(guest.call("end_event", json!({"name": "LS"})), 0);
    assert_eq!(guest.call("reg_event", json!({"name": "nowhere"})), -2);
}

/// The original's command line, for what it prints and how it ends.
struct Shell<'a> {
    host: &'a Host,
    disk: &'a Disk,
    guest: &'a Guest,
    said: Vec<String>,
}

impl Shell<'_> {
    fn run(&mut self, line: &str) -> (String, Option<i32>) {
        let words: Vec<String> = line
            .split_whitespace()
            .map(|word| {
                word.replace("DISK", &self.disk.path.display().to_string())
                    .replace("PID", &self.guest.pid().to_string())
            })
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self.host.client(&words);
        let said = String::from_utf8_lossy(&output.stdout)
            .replace(&self.disk.path.display().to_string(), "DISK")
            .replace(&self.guest.pid().to_string(), "PID");
        (said, output.status.code())
    }

    /// Keeps what it says, times left out.
    fn tell(&mut self, line: &str) {
        let (said, code) = self.run(line);
        let said: Vec<String> = said.lines().map(without_times).collect();
        self.said
            .push(format!("$ {line}\n{}\n= {code:?}", said.join("\n")));
    }

    fn until(&mut self, line: &str, part: &str) {
        wait_for(&format!("{part} in {line}"), || {
            self.run(line).0.contains(part).then_some(())
        });
    }
}

/// A line in which numbers that differ from run to run are `N`.
fn without_times(line: &str) -> String {
    const KEYS: [&str; 7] = [
        "gen",
        "timestamp",
        "read_ms",
        "write_ms",
        "last_check",
        "last_live",
        "fd",
    ];
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for index in 0..words.len() {
        let word = words[index].trim_start().to_owned();
        if let Some((key, _)) = word.split_once('=')
            && KEYS.contains(&key)
        {
            words[index] = format!("{key}=N");
        } else if KEYS.contains(&word.as_str())
            && let Some(next) = words.get_mut(index + 1)
        {
            "N".clone_into(next);
        }
    }
    words.join(" ").trim_end().to_owned()
}

#[test]
fn the_originals_command_line_is_told_the_same_by_both_daemons() {
    let told = thread::scope(|scope| {
        [Kind::Original, Kind::Ours]
            .map(|kind| scope.spawn(move || session(kind)))
            .map(|session| session.join().expect("a session"))
    });
    let [theirs, ours] = told;
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(theirs.len(), ours.len());
}

fn session(kind: Kind) -> Vec<String> {
    let host = Host::start(kind, "host-one");
    let disk = Disk::new(Storage::File, 12);
    let mut guest = Guest::start(&host);
    let mut shell = Shell {
        host: &host,
        disk: &disk,
        guest: &guest,
        said: Vec::new(),
    };
    for line in [
        "version",
        "gets",
        "read -s LS:1:DISK:0",
        "inq_lockspace -s LS:1:DISK:0",
        "init -s LS:0:DISK:0 -o 1",
        "init -r LS:R1:DISK:1M",
        "init -r LS:R2:DISK:2M",
        "read -s LS:1:DISK:0 -D",
        "read -r LS:R1:DISK:1048576 -D",
        "read -r LS:R1:DISK:1048576 -D -h 1",
        "align -s LS:0:DISK:0",
        "acquire -r LS:R1:DISK:1048576 -p PID",
        "add_lockspace -s LS:2001:DISK:0",
        "add_lockspace -s other:1:DISK:0",
        "add_lockspace -s LS:1:DISK-missing:0 -o 1",
        "add_lockspace -s LS:1:DISK:0 -o 1",
        "add_lockspace -s LS:1:DISK:0 -o 1",
        "add_lockspace -s LS:2:DISK:0 -o 1",
        "inq_lockspace -s LS:1:DISK:0",
    ] {
        shell.tell(line);
    }
    shell.until("gets -h 1", "LIVE");
    for line in [
        "gets -h 1",
        "host_status",
        "acquire -r LS:R1:DISK:1048576 -r LS:R2:DISK:2097152:SH -p PID",
        "acquire -r LS:R1:DISK:1048576 -p PID",
        "inquire -p PID",
        "inquire -p PID -D",
        "status",
        "status -o p",
        "status -o s",
        "read -r LS:R1:DISK:1048576",
        "convert -r LS:R1:DISK:1048576:SH -p PID",
        "convert -r LS:R1:DISK:1048576:SH -p PID",
        "convert -r LS:R1:DISK:1048576 -p PID",
        "request -r LS:R1:DISK:1048576:1 -f 2",
        "examine -r LS:R1:DISK:1048576",
        "examine -s LS:0:DISK:0",
        "set_event -s LS -i 2 -g 1 -e 3 -d 4",
        "set_event -s nowhere -i 2 -g 1 -e 3 -d 4",
        "set_config -s LS -u 1",
        "set_config -s LS -u 0",
        "set_config -s nowhere -u 0",
        "release -r LS:R1:DISK:1048576 -p PID",
        "release -r LS:R1:DISK:1048576 -p PID",
        "release -r LS:R2:DISK:2097152 -p 1",
        "release -a 1 -p PID",
        "inquire -p PID",
        "inquire -p 1",
        "format -x LS:DISK:4194304",
        "create -x LS:DISK:4194304 -e one",
        "create -x LS:DISK:4194304 -e two",
        "lookup -x LS:DISK:4194304 -e two",
        "lookup -x LS:DISK:4194304",
        "lookup -x LS:DISK:4194304 -e three",
        "update -x LS:DISK:4194304 -e four:8388608",
        "lookup -x LS:DISK:4194304 -e four",
        "delete -x LS:DISK:4194304 -e one",
        "delete -x LS:DISK:4194304 -e one",
        "rebuild -x LS:DISK:4194304",
        "lookup -x LS:DISK:5242880 -e two",
        "shutdown",
    ] {
        shell.tell(line);
    }
    shell.until("renewal -s LS", "timestamp");
    for line in [
        "rem_lockspace -s LS:1:DISK:0",
        "rem_lockspace -s LS:1:DISK:0",
        "gets",
        "status",
        "shutdown -w 1",
    ] {
        shell.tell(line);
    }
    let said = shell.said;
    assert!(guest.is_running());
    assert!(host.ended().success());
    said
}
