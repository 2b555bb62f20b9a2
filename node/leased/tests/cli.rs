//! The `sanlock` command line, side by side with the original: the same words
//! against the same daemon give the same output and exit status.
//!
//! Each story is a script. It is run by the original and by ours, each against
//! an original daemon and a disk of its own, and the transcripts must be equal
//! but for numbers that no two runs share.
//!
//! Where ours differs on purpose: the text of `help` is our own, and `command`
//! fails with status 1, not 0, when there is no daemon or no such program.

mod cli_support;
mod support;

use std::fmt::Write as _;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use cli_support::{Whose, World, alike, alike_alone};
use support::wait_for;

#[test]
fn wrong_words_are_refused_alike() {
    alike_alone(|world| {
        world.script(
            "foo
             client foo
             client help
             client -h
             -D
             -version
             direct foo
             direct read^id
             version
             version x
             status -s
             status -sfoo
             status x
             status --x
             status -
             status --
             gets -D1
             init -k 5
             init -? 5
             gets -Q
             daemon foo
             daemon -y
             daemon -y 1
             daemon -D 1
             init -s LS:1:{img}:0 -Z 512 -A 2M
             init -s LS:1:{img}:0 -A 1M
             init -s LS:1:{img}:0 -Z 513 -A 1M
             init -s LS:1:{img}:0 -Z 4K -A 1M
             format -x LS:{img}:4M -Z 512 -A 8M
             direct init -s LS:1:{img}:0 -Z 512 -A 2M",
        );
    });
}

#[test]
fn without_an_action_the_usage_is_printed() {
    for whose in [Whose::Original, Whose::Ours] {
        let world = World::new(whose);
        for (line, expected) in [
            ("", 0),
            ("help", 0),
            ("help x", 0),
            ("--help", 0),
            ("-h", 0),
            ("client", 1),
            ("direct", 1),
        ] {
            let (output, status) = world.run(line);
            assert_eq!(status, expected, "{whose:?} {line}");
            assert!(output.contains("Usage"), "{whose:?} {line}");
        }
        for line in ["--version", "-V"] {
            let (output, status) = world.run(line);
            assert_eq!(status, 0);
            assert!(output.starts_with("sanlock 3.8.5 ("), "{output}");
        }
    }
}

/// One line for every action.
const EVERY_ACTION: &str = "
    status
    status -D -o p
    gets
    gets -h 1
    host^status
    host^status -s LS
    renewal
    renewal -s LS
    set^event -s LS -i 1 -g 2 -e 0x10 -d 010
    set^config -s LS -u 1
    log^dump
    shutdown
    shutdown -f 1 -w 1
    init
    init -s LS:1:{img}:0
    init -r LS:R:{img}:1M
    init -r x
    read
    read -s LS:1:{img}:0
    read -r LS:R:{img}:1M
    read -r LS:R:{img}:1M -h 1
    read -r LS:R
    add^lockspace -s LS:1:{img}:0
    add^lockspace -s LS:1:{img}:0 -o 3
    inq^lockspace -s LS:1:{img}:0
    rem^lockspace -s LS:1:{img}:0
    acquire -r LS:R:{img}:1M -p 1
    convert -r LS:R:{img}:1M -p 1
    convert -p 1
    release -r LS:R -p 1
    release -p 1 -a 1
    inquire -p 1
    request -r LS:R:{img}:1M -f 1
    request
    examine
    examine -s LS
    examine -s LS:1:{img}:0
    examine -r LS:R
    align -s LS:1:{img}:0
    format
    format -x LS:{img}:4M
    create -x LS:{img}:4M -e a
    create
    delete -x LS:{img}:4M -e a
    lookup -x LS:{img}:4M
    update -x LS:{img}:4M -e a:7M
    rebuild -x LS:{img}:4M
    client version";

#[test]
fn without_a_daemon_every_action_fails_alike() {
    alike_alone(|world| world.script(EVERY_ACTION));
}

#[test]
fn at_a_dead_daemons_socket_every_action_fails_alike() {
    alike_alone(|world| {
        drop(UnixListener::bind(world.run_dir.join("sanlock.sock")).unwrap());
        world.script(EVERY_ACTION);
    });
}

#[test]
fn a_command_without_a_daemon_or_program_fails() {
    let world = World::new(Whose::Ours);
    let (output, status) = world.run("command -r LS:R:{img}:1M -c /bin/echo ran");
    assert_eq!(
        (output.as_str(), status),
        ("register\nregister done -2\n", 1)
    );
    let world = World::with_daemon(Whose::Ours, Whose::Original);
    let output = world
        .environment(&mut world.program())
        .args(["command", "-c", "/nonexistent/program"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("execv failed: No such file"), "{said}");
}

#[test]
fn storage_is_made_and_read_alike() {
    alike(|world| {
        world.script(
            r"init -s LS:1:{img}:0
              init -s LS:1:{img}:0 -o 2
              init -s LS:1:{img}:0 -Z 512
              init -s LS:1:{img}:0 -Z 512 -A 1M
              init -s LS:1:/nonexistent/device:0
              init -r LS:R1:{img}:1M
              init -r LS:R2:{img}:2M -n 7
              init -r LS:R3:{img}:3M -z 1
              init -r LS:R
              init -r x
              read -s LS:1:{img}:0
              read -s LS:1:{img}:0 -D
              read -s :0:{img}:0 -D
              read -s LS:2:{img}:0 -D -h 1
              read -s other:1:{img}:0
              read -s LS:1:{img}:1M
              read -s LS:1:{img}:1m
              read -s LS:1:/nonexistent/device:0
              read -s LS
              read -r LS:R1:{img}:1M
              read -r LS:R1:{img}:1M -D
              read -r LS:R1:{img}:1M -h 1
              read -r LS:R1:{img}:1M -h 1 -D
              read -r LS:R1:{img}:1048576:7
              read -r ::{img}:1M
              read -r LS:other:{img}:1M
              read -r LS:R3:{img}:3M
              read -r LS:R1:/nonexistent/device:0
              read -r a:b:c
              align -s LS:1:{img}:0
              align -s LS:1:/nonexistent/device:0
              format -x LS:{img}:4M
              format -x LS:{img}:4M -Z 4096
              format -x LS:{img}:4M -Z 512 -A 1M
              format -x LS
              lookup -x LS:{img}:4M
              create -x LS:{img}:4M -e a",
        );
    });
}

#[test]
fn a_lockspace_lives_alike() {
    alike(|world| {
        world.script(
            "init -s LS:1:{img}:0
             gets
             gets -h 1
             status
             host^status
             inq^lockspace -s LS:1:{img}:0
             add^lockspace -s LS
             add^lockspace -s LS:0:{img}:0
             add^lockspace -s LS:2001:{img}:0
             add^lockspace -s other:1:{img}:0
             add^lockspace -s LS:1:{img}:1M
             add^lockspace -s LS:1:/nonexistent/device:0",
        );
        world.start("add^lockspace -s LS:1:{img}:0 -o 3", "LS:1:", "ADD");
        world.script(
            "gets
             status
             status -o s
             inq^lockspace -s LS:1:{img}:0
             add^lockspace -s LS:1:{img}:0
             acquire -r LS:R:{img}:1M -p {pid}
             host^status -s LS",
        );
        world.finish();
        world.script(
            "add^lockspace -s LS:1:{img}:0
             add^lockspace -s LS:2:{img}:0
             inq^lockspace -s LS
             inq^lockspace -s LS:1:{img}:0
             inq^lockspace -s LS:2:{img}:0",
        );
        world.wait_for_hosts();
        world.first_line("renewal -s LS");
        world.script(
            "gets
             gets -h 1
             status
             status -D
             host^status
             host^status -D
             host^status -s LS
             host^status -s LS -D
             host^status -s other
             renewal -s other
             set^event -s LS -i 2 -g 1 -e 3 -d 4
             set^event -s LS -i 2 -e 0x5 -d 010
             set^event -s LS -i 3000 -e 5
             set^event -s LS
             set^config -s LS -u 1
             set^config -s LS -u 0
             set^config -s LS -O 1
             set^config -s LS -O 0
             set^config -s LS
             set^config -s other -u 1
             shutdown -w 1
             client version
             format -x LS:{img}:4M
             lookup -x LS:{img}:4M
             create -x LS:{img}:4M -e res1
             create -x LS:{img}:4M -e res2
             lookup -x LS:{img}:4M
             lookup -x LS:{img}:4M -e res2
             lookup -x LS:{img}:4M -e res1:7M
             lookup -x LS:{img}:4M -e :7340032
             lookup -x LS:{img}:4M -e none
             update -x LS:{img}:4M -e foo:8M
             lookup -x LS:{img}:4M -e foo
             update -x LS:{img}:4M -e foo:8M -z 1
             update -x LS:{img}:4M -e foo
             delete -x LS:{img}:4M -e res1
             delete -x LS:{img}:4M -e none
             rebuild -x LS:{img}:4M
             lookup -x LS:{img}:4M -e res2
             rem^lockspace -s LS
             rem^lockspace -s LS:1:{img}:0
             inq^lockspace -s LS:1:{img}:0
             gets
             shutdown",
        );
        let mut daemon = world.children.pop().unwrap();
        assert!(
            daemon.wait().unwrap().success(),
            "a daemon told to end ends"
        );
    });
}

#[test]
fn leases_live_alike() {
    alike(|world| {
        world.script(
            "init -s LS:1:{img}:0
             init -r LS:R1:{img}:1M
             init -r LS:R2:{img}:2M
             init -r LS:R3:{img}:3M
             add^lockspace -s LS:1:{img}:0 -o 3
             command -r LS:other:{img}:1M -c /bin/echo ran
             command -r x -c /bin/echo ran -D -s
             acquire -p 1
             acquire -r LS:R1:{img}:1M
             inquire",
        );
        world.wait_for_hosts();
        world.hold("-r LS:R1:{img}:1M -r LS:R2:{img}:2M:SH");
        world.script(
            "status
             status -o p
             status -o s
             status -o x
             status -D -o p
             inquire -p {pid}
             inquire -p {pid} -D
             read -r LS:R1:{img}:1M -h 1
             read -r LS:R2:{img}:2M -h 1 -D
             acquire -r LS:R1:{img}:1M -p {pid}
             acquire -r LS:R3:{img}:3M:9 -p {pid}
             acquire -r LS:R3:{img}:3M -p {pid} -P 1 -n 9
             convert -r LS:R3:{img}:3M -p {pid}
             convert -r LS:R3:{img}:3M:SH -p {pid}
             convert -r LS:R3:{img}:3M -p {pid}
             inquire -p {pid}
             request -r LS:R1:{img}:1M:9 -f 2
             request -r LS:R1:{img}:1M:1 -f 1
             request -r LS:R1:{img}:1M:0 -f 0
             examine -r LS:R2
             release -r LS:R2 -p {pid}
             release -r LS:R2 -p {pid}
             release -p {pid}
             inquire -p {pid}
             status -o s",
        );
        world.let_go();
        wait_for("an orphan, and no other lease", || {
            let (status, _) = world.run("status");
            (status.contains("ORPHAN") && !status.contains("LS:R1:")).then_some(())
        });
        world.hold("-r LS:R1:{img}:1M");
        world.script(
            "acquire -r LS:R3:{img}:3M -p {pid}
             release -p {pid} -O 1 -r LS:R1
             acquire -r LS:R3:{img}:3M -p {pid} -O 1
             release -p {pid} -O 1 -s LS
             release -O 1 -s LS
             inquire -p {pid}
             release -p {pid} -a 1
             inquire -p {pid}
             status",
        );
    });
}

/// A path with a space and a colon is escaped where it would be read back.
#[test]
fn odd_paths_are_shown_alike() {
    alike(|world| {
        let odd = world.dir.path().join("sp ace:colon");
        std::fs::rename(world.dir.path().join("img"), odd).unwrap();
        let path = |offset: &str| {
            let dir = world.dir.path().to_str().unwrap();
            format!(r"{dir}/sp\_ace\:colon:{offset}")
        };
        let (area, resource) = (path("0"), path("1048576"));
        for line in [
            format!("init -s LS:1:{area}"),
            format!("init -r LS:R:{resource}"),
            format!("read -s LS:1:{area}"),
            format!("read -r LS:R:{resource}"),
            format!("add^lockspace -s LS:1:{area} -o 3"),
        ] {
            let (output, status) = world.run(&line);
            let dir = world.dir.path().to_str().unwrap().to_owned();
            let output = output.replace(&dir, "DIR");
            writeln!(world.transcript, "{output}=> {status}").unwrap();
        }
        world.hold(&format!("-r LS:R:{resource}"));
        world.script(
            "gets
             status
             status -o s",
        );
        if world.daemon == Some(Whose::Ours) {
            // The original cannot read back what it wrote, and answers -81.
            let (output, status) = world.run("inquire -p {pid}");
            assert_eq!(status, 0);
            assert!(output.contains(r"/sp\ ace\:colon:1048576:1"), "{output}");
        }
    });
}

#[test]
fn the_daemon_reads_its_configuration_and_says_what_it_does_not_understand() {
    let mut world = World::new(Whose::Ours);
    let config = world.dir.path().join("sanlock.conf");
    std::fs::write(
        &config,
        "# a comment\nour_host_name = from-the-file\nquite_fail = 1\nio_timeout 3\n\
         use_watchdog = 1\nmax_worker_threads = 1\n",
    )
    .unwrap();
    let daemon = world
        .environment(&mut Command::new(world.dir.path().join("sanlock")))
        .env("SANLOCK_CONFIG", &config)
        .args([
            "daemon", "-D", "-w", "0", "-l", "0", "-U", "root", "-G", "root",
        ])
        .args(["-g", "61"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    world.children.push(daemon);
    wait_for("the daemon's answer", || {
        world.run("status").1.eq(&0).then_some(())
    });
    let (status, _) = world.run("status -D");
    for expected in [
        "daemon from-the-file",
        "use_watchdog=0",
        "kill_grace_seconds=40",
    ] {
        assert!(status.contains(expected), "{expected} in {status}");
    }
    let (log, _) = world.run("log^dump");
    for expected in [
        "line 3: unknown key \"quite_fail\"",
        "line 4: no \"=\"",
        "line 6: max_worker_threads 1: allowed is 2 to",
        "option -g: kill_grace_seconds 61: allowed is 0 to 60",
    ] {
        assert!(log.contains(expected), "{expected} in {log}");
    }
}
