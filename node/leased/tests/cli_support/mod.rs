//! One command line, one daemon, one disk, and a transcript of what was said.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

use crate::support::{command, disk_dir, file, wait_for};

/// Whose command line runs the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Original,
    Ours,
}

/// One command line, one daemon, one disk.
pub struct World {
    pub whose: Whose,
    pub daemon: Option<Whose>,
    pub dir: TempDir,
    pub run_dir: PathBuf,
    /// The daemon and whatever a script left running.
    pub children: Vec<Child>,
    /// Whether a line of [`Self::start`] is still under way.
    started: bool,
    /// Process that `{pid}` stands for; at first one that nobody has.
    pub pid: u32,
    pub transcript: String,
}

impl World {
    /// Without a daemon.
    pub fn new(whose: Whose) -> Self {
        let dir = disk_dir();
        let run_dir = dir.path().join("run");
        std::fs::create_dir(&run_dir).unwrap();
        symlink(env!("CARGO_BIN_EXE_leased"), dir.path().join("sanlock")).unwrap();
        file(&dir, "img", 16);
        Self {
            whose,
            daemon: None,
            dir,
            run_dir,
            children: Vec::new(),
            started: false,
            pid: 99_999_999,
            transcript: String::new(),
        }
    }

    /// With a daemon.
    pub fn with_daemon(whose: Whose, daemon: Whose) -> Self {
        let mut world = Self::new(whose);
        world.daemon = Some(daemon);
        let mut program = match daemon {
            Whose::Original => command("sanlock", "sanlock"),
            Whose::Ours => Command::new(world.dir.path().join("sanlock")),
        };
        let daemon = world
            .environment(&mut program)
            .args(["daemon", "-D", "-w", "0", "-l", "0", "-h", "0"])
            .args(["-U", "root", "-G", "root", "-e", "host"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        world.children.push(daemon);
        wait_for("the daemon's answer", || {
            world.run("status").1.eq(&0).then_some(())
        });
        world
    }

    pub fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("SANLOCK_RUN_DIR", &self.run_dir)
            .env("SANLOCK_PRIVILEGED", "0")
            .stdin(Stdio::null())
    }

    /// The program, whose output is whole lines at once even into a pipe.
    pub fn program(&self) -> Command {
        match self.whose {
            Whose::Original => {
                let mut program = command("coreutils", "stdbuf");
                program.args(["-oL", "sanlock"]);
                program
            }
            Whose::Ours => Command::new(self.dir.path().join("sanlock")),
        }
    }

    /// A script's words, with `{img}` and `{pid}` filled in; `_` is a space.
    pub fn words(&self, line: &str) -> Vec<String> {
        let image = self.dir.path().join("img");
        line.split(' ')
            .filter(|word| !word.is_empty())
            .map(|word| {
                word.replace("{img}", image.to_str().unwrap())
                    .replace("{pid}", &self.pid.to_string())
                    .replace('_', " ")
                    .replace("^", "_")
            })
            .collect()
    }

    /// Runs one line; its output and exit status.
    pub fn run(&self, line: &str) -> (String, i32) {
        let output = self
            .environment(&mut self.program())
            .args(self.words(line))
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{line}: {output:?}");
        let status = output
            .status
            .code()
            .unwrap_or_else(|| panic!("{:?} {line}: {output:?}", self.whose));
        (String::from_utf8(output.stdout).unwrap(), status)
    }

    /// Runs one line and writes down what it did.
    pub fn step(&mut self, line: &str) {
        if line.starts_with("status") && !self.started {
            self.wait_for_silence();
        }
        let (output, status) = self.run(line);
        let dir = self.dir.path().to_str().unwrap();
        let output = output
            .replace(dir, "DIR")
            .replace(&format!(" {}", self.pid), " PID")
            .replace(&format!("pid={}", self.pid), "pid=PID");
        writeln!(self.transcript, "$ {line}\n{}=> {status}", steady(&output)).unwrap();
    }

    /// Waits until the daemon has seen the end of every earlier command's
    /// connection, so that status shows none of them.
    fn wait_for_silence(&self) {
        wait_for("the daemon to see the end of connections", || {
            let (status, _) = self.run("status");
            let own = ["p -1 helper", "p -1 listener", "p -1 status"];
            (!status
                .lines()
                .any(|line| line.starts_with("p -1 ") && !own.contains(&line)))
            .then_some(())
        });
    }

    pub fn script(&mut self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.step(line);
        }
    }

    /// `command` with a program that goes on running; writes down what was
    /// printed before it ran. `{pid}` is its process from now on.
    pub fn hold(&mut self, resources: &str) {
        let line = format!("client command {resources} -c /bin/sh -c");
        let mut child = self
            .environment(&mut self.program())
            .args(self.words(&line))
            .arg("echo running; exec sleep 1000")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let text = printed.next().expect("it runs").unwrap();
            writeln!(self.transcript, "{text}").unwrap();
            if text == "running" {
                break;
            }
        }
        self.pid = child.id();
        self.children.push(child);
    }

    /// Ends the process that holds leases and waits until the daemon knows.
    pub fn let_go(&mut self) {
        let mut child = self.children.pop().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = format!("p {} ", self.pid);
        wait_for("the daemon to see the end of a process", || {
            let (status, _) = self.run("status");
            (!status.lines().any(|line| line.starts_with(&gone))).then_some(())
        });
    }

    /// Starts a line that takes long; goes on once a lockspace of `gets` is in
    /// this state.
    pub fn start(&mut self, line: &str, lockspace: &str, state: &str) {
        self.started = true;
        let child = self
            .environment(&mut self.program())
            .args(self.words(line))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        self.children.push(child);
        wait_for("a lockspace on its way", || {
            let (spaces, _) = self.run("gets");
            spaces
                .lines()
                .any(|line| line.contains(lockspace) && line.contains(state))
                .then_some(())
        });
    }

    /// Waits for what was started, and writes down what it did.
    pub fn finish(&mut self) {
        self.started = false;
        let output = self.children.pop().unwrap().wait_with_output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        writeln!(self.transcript, "{printed}=> {:?}", output.status.code()).unwrap();
    }

    /// Runs a line and writes down the form of the first line it prints.
    pub fn first_line(&mut self, line: &str) {
        let (printed, status) = self.run(line);
        let form: String = printed
            .lines()
            .next()
            .unwrap_or_default()
            .split('=')
            .map(|part| part.trim_start_matches(|letter: char| letter.is_ascii_digit()))
            .collect();
        writeln!(self.transcript, "$ {line}\n{form}\n=> {status}").unwrap();
    }

    pub fn wait_for_hosts(&self) {
        wait_for("hosts", || {
            let (output, _) = self.run("gets -h 1");
            output.contains("LIVE").then_some(())
        });
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The output without what no two runs share: times and descriptors, and in
/// which slots connections are, by which status lists them.
fn steady(output: &str) -> String {
    let mut lines: Vec<&str> = output.lines().collect();
    if !lines.iter().any(|line| line.starts_with(' ')) {
        for connections in
            lines.chunk_by_mut(|one, next| [one, next].iter().all(|line| line.starts_with("p -1 ")))
        {
            connections.sort_unstable();
        }
    }
    lines
        .into_iter()
        // A later original tells these, too.
        .filter(|line| !line.starts_with("    io_timeout="))
        .filter(|line| !line.starts_with("    watchdog_fire_timeout="))
        .map(|line| {
            let mut line = line.to_owned();
            for key in [
                "timestamp ",
                "timestamp=",
                "monotime=",
                "helper_pid=",
                "helper_last_status=",
                "helper_kill_fd=",
                "ci=",
                "space_id=",
                "res_id=",
                "set_max_sectors_kb=",
                "fd=",
                "last_check=",
                "last_live=",
                "read_ms=",
                "acquire_last_attempt=",
                "acquire_last_success=",
                "renewal_last_attempt=",
                "renewal_last_success=",
            ] {
                line = without_number(&line, key);
            }
            line + "\n"
        })
        .collect()
}

fn without_number(line: &str, key: &str) -> String {
    match line.split_once(key) {
        Some((head, tail)) => {
            let rest =
                tail.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '-');
            format!("{head}{key}N{rest}")
        }
        None => line.to_owned(),
    }
}

/// Tells a story without any daemon, by the original and by ours.
pub fn alike_alone(story: impl Fn(&mut World) + Sync) {
    compare(
        &[World::new(Whose::Original), World::new(Whose::Ours)].map(|mut world| {
            story(&mut world);
            std::mem::take(&mut world.transcript)
        }),
    );
}

/// Tells a story by the original to its own daemon, by ours to the original's,
/// and by ours to ours, all at once.
pub fn alike(story: impl Fn(&mut World) + Sync) {
    let story = &story;
    let transcripts = thread::scope(|scope| {
        [
            (Whose::Original, Whose::Original),
            (Whose::Ours, Whose::Original),
            (Whose::Ours, Whose::Ours),
        ]
        .map(|(whose, daemon)| {
            scope.spawn(move || {
                let mut world = World::with_daemon(whose, daemon);
                story(&mut world);
                std::mem::take(&mut world.transcript)
            })
        })
        .map(|teller| teller.join().unwrap())
    });
    compare(&transcripts);
}

/// Whether all transcripts are the first one.
fn compare(transcripts: &[String]) {
    let [original, rest @ ..] = transcripts else {
        return;
    };
    for (place, other) in rest.iter().enumerate() {
        let mut command = "";
        for (theirs, ours) in original.lines().zip(other.lines()) {
            if theirs.starts_with("$ ") {
                command = theirs;
            }
            assert_eq!(
                ours,
                theirs,
                "{command}, world {}\n--- original\n{original}\n--- other\n{other}",
                place + 1
            );
        }
        assert_eq!(original.lines().count(), other.lines().count());
    }
}
