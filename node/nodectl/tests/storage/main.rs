//! nodectl against a real storage daemon, on domains of this machine's own disk.

mod full;
#[path = "../../../sanlock-client/tests/support/mod.rs"]
mod lease_daemon;
mod moving;
mod refusals;
mod support;
mod volumes;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::{Daemon, until};

/// A pool with one domain, whose manager this host is.
fn managed() -> (Daemon, String) {
    let daemon = Daemon::start();
    let domain = daemon.domain("images", "data");
    let pool = daemon.json(["pool", "create", "main", "images"])["pool"]["id"]
        .as_str()
        .expect("the pool's id")
        .to_owned();
    daemon.done(["pool", "connect", &pool, "--host-id", "1"]);
    daemon.done(["spm", "start"]);
    (daemon, domain)
}

const GUEST: &str = "6a1f0000-1111-4222-8333-444444444444";

#[test]
fn configurations_of_guests_are_kept_in_the_domain() {
    let (daemon, _) = managed();
    let none = daemon.json(["domain", "ovf", "list", "images"]);
    assert!(none["ovf-store"]["volume"].is_null(), "{none}");
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("vm.ovf");
    let path = file.to_str().expect("a path of text");
    for text in ["<Envelope one/>\n", "<Envelope two/>\n"] {
        std::fs::write(&file, text).expect("a file");
        daemon.done(["domain", "ovf", "save", "images", GUEST, path]);
        assert_eq!(
            daemon.done(["domain", "ovf", "show", "images", GUEST]),
            text
        );
    }
    let list = daemon.json(["domain", "ovf", "list", "images"]);
    assert_eq!(
        list["ovf-store"]["files"][0]["name"],
        format!("{GUEST}.ovf")
    );
    assert_eq!(list["ovf-store"]["files"][0]["size_bytes"], 16);
    // Two stores, made when the first was needed, and volumes like others.
    let volumes = daemon.json(["volume", "list", "images"]);
    assert_eq!(volumes["volumes"].as_array().map(Vec::len), Some(2));
    daemon.done(["domain", "ovf", "remove", "images", GUEST]);
    let gone = daemon.run(["domain", "ovf", "show", "images", GUEST]);
    assert_eq!(gone.status, 1, "{gone:?}");
}

#[test]
fn a_volume_lives_from_creation_to_deletion() {
    let (daemon, domain) = managed();
    assert_eq!(daemon.json(["spm", "status"])["spm"]["state"], "here");
    // Asked for again, there is nothing to do.
    assert_eq!(daemon.json(["spm", "start"])["spm"]["state"], "here");

    let name = daemon.done(["volume", "create", "images", "--size", "4M"]);
    let name = name.trim();
    assert!(name.starts_with(&domain), "{name}");
    let image = name.split('/').nth(1).expect("DOMAIN/IMAGE/VOLUME");
    let prepared = daemon.json(["volume", "prepare", "images", image]);
    let path = prepared["prepared"]["path"].as_str().expect("a path");
    assert_eq!(std::fs::metadata(path).expect("the volume").len(), 4 << 20);
    let refused = daemon.run(["volume", "delete", name]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.err.contains("tear that down first"), "{refused:?}");
    daemon.done(["volume", "teardown", "images", image]);

    daemon.done(["volume", "snapshot", "images", image]);
    let volumes = daemon.json(["volume", "list", "images"]);
    let kinds: Vec<&Value> = volumes["volumes"]
        .as_array()
        .expect("volumes")
        .iter()
        .map(|volume| &volume["volume_type"])
        .collect();
    assert_eq!(kinds, ["internal", "leaf"]);
    let refused = daemon.run(["volume", "delete", name]);
    assert_eq!(refused.status, 1, "a parent is not deleted: {refused:?}");
    daemon.done(["volume", "delete-image", "images", image]);
    assert_eq!(
        daemon.json(["volume", "list", "images"])["volumes"],
        json!([])
    );

    daemon.done(["spm", "stop"]);
    let refused = daemon.run(["volume", "create", "images", "--size", "4M"]);
    assert_eq!(refused.status, 1);
    assert!(refused.err.contains("spm start"), "{refused:?}");
    daemon.done(["pool", "disconnect"]);
}

#[test]
fn a_pool_is_upgraded_as_a_whole_and_its_domains_tell_how_they_do() {
    let daemon = Daemon::start();
    daemon.domain_of("one", "one", "4");
    let pool = daemon.json(["pool", "create", "main", "one"]);
    let pool = pool["pool"]["id"]
        .as_str()
        .expect("the pool's id")
        .to_owned();
    daemon.done(["pool", "connect", &pool, "--host-id", "1"]);
    let refused = daemon.run(["pool", "upgrade", "5"]);
    assert_eq!(refused.status, 1, "without the role: {refused:?}");
    daemon.done(["spm", "start"]);
    let said = daemon.done(["pool", "upgrade", "5"]);
    assert!(said.contains("1 of 1 domains"), "{said}");
    let stats = until("it is checked", || {
        let domains = daemon.json(["domain", "list"]);
        let domains = domains["domains"].as_array()?.clone();
        let stats: Vec<Value> = domains.iter().map(|one| one["stats"].clone()).collect();
        stats
            .iter()
            .all(|one| one["actual"] == true && one["version"] == 5)
            .then_some(stats)
    });
    for one in stats {
        assert_eq!((&one["code"], &one["valid"]), (&json!(0), &json!(true)));
        assert!(
            one["last_check_ms"].is_u64() && one["delay_ms"].is_u64(),
            "{one}"
        );
        // A domain of this machine alone has no host ids.
        assert_eq!(one["acquired"], false);
    }
    let shown = daemon.json(["domain", "show", "one"]);
    assert_eq!(shown["domain"]["stats"]["version"], 5, "{shown}");
    let said = daemon.done(["pool", "upgrade", "5"]);
    assert!(said.contains("version 5 or newer"), "{said}");
}

#[test]
fn long_work_is_a_task_that_outlives_its_client() {
    let (daemon, _) = managed();
    let accepted = daemon.json([
        "volume",
        "create",
        "images",
        "--size",
        "64M",
        "--preallocated",
        "--no-wait",
    ]);
    let task = accepted["accepted"]["task"].as_str().expect("a task");
    let watched = daemon.json(["task", "watch", task]);
    assert!(watched["made-volume"]["volume"].is_string(), "{watched}");
    let shown = daemon.json(["task", "show", &task[..8]]);
    assert_eq!(shown["task"]["state"], "done");
    let again = daemon.run(["task", "cancel", task]);
    assert_eq!(again.status, 1, "it has ended: {again:?}");
    daemon.done(["task", "forget", task]);
    assert_eq!(daemon.run(["task", "show", task]).status, 1);
}

#[test]
fn a_restarted_daemon_goes_on_where_the_last_one_ended() {
    let (mut daemon, domain) = managed();
    let volume = daemon.done(["volume", "create", "images", "--size", "1M"]);
    daemon.restart();
    until("the manager's role is taken again", || {
        let spm = daemon.json(["spm", "status"]);
        (spm["spm"]["state"] == "here").then_some(())
    });
    let status = daemon.json(["storage", "status"]);
    assert_eq!(status["status"]["pool"]["state"], "connected", "{status}");
    assert_eq!(status["status"]["domains"][0]["id"], domain);
    daemon.done(["volume", "show", volume.trim()]);
    let tasks = daemon.json(["task", "list"]);
    let known = tasks["tasks"].as_array().expect("tasks");
    assert!(
        known
            .iter()
            .any(|task| task["what"] == "create volume" && task["state"] == "done"),
        "{tasks}"
    );
}

#[test]
fn a_worker_that_hangs_hurts_nobody_else() {
    let (mut daemon, _) = managed();
    daemon.domain("other", "data2");
    let pid = until("a worker watches the domain", || {
        let status = daemon.json(["storage", "status"]);
        let workers = status["status"]["workers"].as_array()?.clone();
        workers.iter().find_map(|worker| {
            let watches = worker["key"].as_str()?.starts_with("monitor ");
            let pid = i32::try_from(worker["pid"].as_i64()?).ok()?;
            (watches && pid != 0).then_some(pid)
        })
    });
    let worker = Pid::from_raw(pid).expect("a process");
    kill_process(worker, Signal::STOP).expect("stopped");
    // nodectl itself gives up on a daemon that is silent for five seconds.
    let reason = until("the domain is told to be unusable", || {
        let domains = daemon.json(["domain", "list"]);
        let domain = domains["domains"]
            .as_array()?
            .iter()
            .find(|domain| domain["name"] == "images")?
            .clone();
        (domain["valid"] == false).then(|| domain["reason"].to_string())
    });
    assert!(reason.contains("no answer in time"), "{reason}");
    daemon.done(["domain", "show", "other"]);
    daemon.done(["volume", "create", "images", "--size", "1M"]);
    until("another worker finds the domain well", || {
        let domains = daemon.json(["domain", "list"]);
        let domains = domains["domains"].as_array()?.clone();
        let domain = domains.iter().find(|domain| domain["name"] == "images")?;
        (domain["valid"] == true).then_some(())
    });
    assert!(
        rustix::process::test_kill_process(worker).is_err(),
        "the worker was killed and reaped"
    );
    assert!(daemon.stop(), "and the daemon ends in order");
}

#[test]
fn a_writer_that_dies_loses_the_role_and_nothing_else() {
    let (daemon, _) = managed();
    let spm = daemon.json(["spm", "status"]);
    let pid = i32::try_from(spm["spm"]["writer_pid"].as_i64().expect("a writer")).expect("a pid");
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("killed");
    until("the loss is told", || {
        let spm = daemon.json(["spm", "status"]);
        (spm["spm"]["state"] != "here").then_some(())
    });
    // It was asked for: it is taken again without anybody's help.
    until("the role is taken again", || {
        let spm = daemon.json(["spm", "status"]);
        (spm["spm"]["state"] == "here" && spm["spm"]["writer_pid"] != pid).then_some(())
    });
    daemon.done(["volume", "create", "images", "--size", "1M"]);
}

#[test]
fn garbage_is_refused_and_the_connection_goes_on() {
    let daemon = Daemon::start();
    let mut stream = UnixStream::connect(daemon.socket()).expect("connected");
    let mut answers = BufReader::new(stream.try_clone().expect("a copy"));
    let bytes: &[&[u8]] = &[
        b"",
        b"x",
        b"{}",
        b"[]",
        b"null",
        b"\"stat\"",
        b"\xff\xfe\x00",
        b"{\"volume\":{\"create\":{}}}",
        b"{\"volume\":{\"create\":{\"domain\":7}}}",
        b"{\"pool\":{\"connect\":{\"pool\":\"x\",\"host_id\":70000}}}",
        b"{\"domain\":{\"show\":{\"domain\":\"x\",\"when\":\"tomorrow\"}}}",
        b"{\"status\":{}} trailing",
    ];
    for line in bytes {
        stream.write_all(line).expect("sent");
        stream.write_all(b"\n").expect("sent");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("an answer");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(
            answer["failure"]["kind"],
            "bad-request",
            "{}: {answer}",
            String::from_utf8_lossy(line)
        );
    }
    stream.write_all(b"\"status\"\n").expect("sent");
    let mut answer = String::new();
    answers.read_line(&mut answer).expect("an answer");
    assert!(answer.starts_with("{\"answer\""), "{answer}");

    // A line without an end is refused before it fills memory.
    let long = vec![b'a'; 1 << 20];
    stream.write_all(&long).ok();
    let mut answer = String::new();
    answers.read_line(&mut answer).ok();
    assert!(
        answer.is_empty() || answer.contains("longer than"),
        "{answer}"
    );
    daemon.done(["storage", "status"]);
}

#[test]
fn every_name_that_cannot_be_right_is_refused_with_its_reason() {
    let (daemon, _) = managed();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["domain", "show", "nowhere"], 1, "storage rescan"),
        (&["domain", "attach", "../../etc"], 1, "not on any storage"),
        (
            &["domain", "create", "x", "--connection", "nfs:nowhere:/x"],
            1,
            "storage status",
        ),
        (&["domain", "create", "x", "--lun", "-rf"], 2, ""),
        (
            &["domain", "create", "x", "--id", "123", "--lun", "a"],
            1,
            "UUID",
        ),
        (
            &["domain", "remove", "images", "--yes"],
            1,
            "detach it first",
        ),
        (&["domain", "detach", "images"], 1, "master"),
        (&["domain", "deactivate", "images"], 1, "master"),
        (
            &["domain", "grow", "images", "--lun", "a"],
            1,
            "made of files",
        ),
        (&["domain", "lease", "add", "images", "x"], 1, "UUID"),
        (&["volume", "show", "images"], 2, "DOMAIN/IMAGE/VOLUME"),
        (&["volume", "show", "images/x/y"], 1, "UUID"),
        (&["volume", "create", "images"], 2, "--size"),
        (
            &["volume", "create", "images", "--size", "0"],
            1,
            "capacity",
        ),
        (
            &["volume", "create", "images", "--size", "1M", "--image", "x"],
            1,
            "UUID",
        ),
        (
            &[
                "volume",
                "prepare",
                "images",
                "00000000-0000-0000-0000-000000000001",
            ],
            1,
            "",
        ),
        (
            &["volume", "watch", "/none", "--drive", "a"],
            2,
            "NODE=DOMAIN/IMAGE/VOLUME",
        ),
        (&["volume", "unwatch", "/none"], 1, "not watched"),
        (&["pool", "connect", "x", "--host-id", "1"], 1, "UUID"),
        (
            &["pool", "create", "second", "images"],
            1,
            "attached to pool",
        ),
        (&["pool", "disconnect"], 1, "spm stop"),
        (&["domain", "ovf", "show", "images", "vm1"], 1, "UUID"),
        (
            &["domain", "ovf", "save", "images", GUEST, "/dev/null"],
            1,
            "0 bytes",
        ),
        (
            &["domain", "ovf", "remove", "images", GUEST],
            1,
            "OVF_STORE",
        ),
        (&["task", "show", "abcdefgh"], 1, "task list"),
        (&["storage", "disconnect", "nfs:x:/y"], 1, "storage status"),
        (&["storage", "connect", "local", "relative"], 1, ""),
        (&["storage", "connect", "nfs", "no-path"], 1, ""),
    ];
    for (command, status, said) in cases {
        let ran = daemon.run(*command);
        assert_eq!(ran.status, *status, "{command:?}: {ran:?}");
        assert!(ran.err.contains(said), "{command:?}: {ran:?}");
        assert!(ran.out.is_empty(), "{command:?}: {ran:?}");
    }
    daemon.done(["storage", "status"]);
}

#[test]
fn connections_of_the_configuration_are_made_at_the_start() {
    let dir = support::directory();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    std::os::unix::fs::chown(&data, Some(36), Some(36)).expect("root gives it away");
    let config = json!({
        "pool": null, "host_id": 3, "spm": "manual", "manager": "pool",
        "io_timeout_s": 2, "initiator_name": null,
        "connections": [{"type": "local", "path": data}],
    });
    let daemon = Daemon::start_in(dir, &config);
    let id = until("it is connected", || {
        let status = daemon.json(["storage", "status"]);
        let connection = status["status"]["connections"].get(0)?.clone();
        (connection["state"] == "connected").then(|| connection["id"].clone())
    });
    let refused = daemon.run(["storage", "disconnect", id.as_str().expect("an id")]);
    assert_eq!(refused.status, 1);
    assert!(refused.err.contains("configuration"), "{refused:?}");
}
