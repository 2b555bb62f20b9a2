//! Child processes: the table ([`table`]), the pure core that decides about
//! each ([`policy`]), and this driver, which starts, signals and listens.

pub mod output;
pub mod policy;
pub mod reaper;
pub mod table;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use control::status::ChildReport;
use linux::cgroup::Cgroup;
use linux::process::{self, Exit, Spawn};
use smol::net::unix::UnixDatagram;
use smol::{Async, LocalExecutor, Task};

use self::output::Lines;
use self::policy::{Effect, Policy, State};
use self::table::Child;
use crate::boot::sequence::Millis;
use crate::journal::{Logger, Priority};

/// Directory of the readiness sockets, one a child, so that nobody can speak for another.
const NOTIFY_DIRECTORY: &str = "/run/holdfast/notify";
/// Where every child's search path points.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// What happened to a child, as its tasks tell the loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It told its readiness.
    Ready(String),
}

/// What the loop must know about children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It became ready.
    Ready(String),
    /// It ended by itself, this way, and starts again.
    Restarting(String, String),
}

struct Running {
    child: Child,
    policy: Policy,
    pid: Option<u32>,
    cgroup: Option<Cgroup>,
    _notify: Option<Task<()>>,
}

/// Every child.
pub struct Children {
    executor: Rc<LocalExecutor<'static>>,
    logger: Arc<Logger>,
    notices: smol::channel::Sender<Notice>,
    running: Vec<Running>,
}

impl std::fmt::Debug for Children {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self
            .running
            .iter()
            .map(|running| running.child.name.as_str())
            .collect();
        f.debug_struct("Children")
            .field("running", &names)
            .finish_non_exhaustive()
    }
}

impl Children {
    /// No child yet. Readiness arrives on `notices` and is handed back by [`Children::notice`].
    #[must_use]
    pub fn new(
        executor: Rc<LocalExecutor<'static>>,
        logger: Arc<Logger>,
        notices: smol::channel::Sender<Notice>,
    ) -> Self {
        Self {
            executor,
            logger,
            notices,
            running: Vec::new(),
        }
    }

    /// Adds `child` and starts it; one of that name that exists already stays as it is.
    pub fn start(&mut self, now: Millis, child: Child) {
        if self
            .running
            .iter()
            .any(|running| running.child.name == child.name)
        {
            return;
        }
        let cgroup = match child.make_cgroup() {
            Ok(cgroup) => Some(cgroup),
            Err(error) => {
                tracing::warn!(
                    "control group of {}: {error}; it runs without limits",
                    child.name
                );
                None
            }
        };
        let mut policy = Policy::new(child.limits);
        policy.want(now);
        self.running.push(Running {
            child,
            policy,
            pid: None,
            cgroup,
            _notify: None,
        });
    }

    /// Whether a child of that name was started (and not stopped).
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.running
            .iter()
            .any(|running| running.child.name == name && running.policy.state() != State::Stopped)
    }

    /// Whether the child is ready.
    #[must_use]
    pub fn is_ready(&self, name: &str) -> bool {
        self.running
            .iter()
            .any(|running| running.child.name == name && running.policy.state() == State::Ready)
    }

    /// Stops every child `which` picks.
    pub fn stop(&mut self, now: Millis, which: impl Fn(&str) -> bool) {
        for running in self
            .running
            .iter_mut()
            .filter(|running| which(&running.child.name))
        {
            running.policy.stop(now);
        }
    }

    /// Whether every child `which` picks is stopped.
    #[must_use]
    pub fn stopped(&self, which: impl Fn(&str) -> bool) -> bool {
        self.running
            .iter()
            .filter(|running| which(&running.child.name))
            .all(|running| running.policy.state() == State::Stopped)
    }

    /// How the child last ended.
    #[must_use]
    pub fn last_exit(&self, name: &str) -> Option<String> {
        let running = self
            .running
            .iter()
            .find(|running| running.child.name == name)?;
        running.policy.last_exit().map(str::to_owned)
    }

    /// A notice of one of the tasks.
    pub fn notice(&mut self, now: Millis, notice: &Notice) {
        let Notice::Ready(name) = notice;
        if let Some(running) = self
            .running
            .iter_mut()
            .find(|running| running.child.name == *name)
        {
            running.policy.ready(now);
        }
    }

    /// The process `pid` ended; `false` when it was none of these children.
    pub fn exited(&mut self, now: Millis, pid: u32, exit: Exit) -> bool {
        let Some(running) = self
            .running
            .iter_mut()
            .find(|running| running.pid == Some(pid))
        else {
            return false;
        };
        running.pid = None;
        // What it left behind in its group must not run beside its successor.
        if let Some(cgroup) = &running.cgroup {
            cgroup.kill().ok();
        }
        running.policy.exited(now, exit);
        true
    }

    /// Acts on what is due and returns what changed.
    pub fn drive(&mut self, now: Millis) -> Vec<Change> {
        let mut changes = Vec::new();
        for index in 0..self.running.len() {
            self.running[index].policy.tick(now);
            while let Some(effect) = self.running[index].policy.next_effect() {
                let name = self.running[index].child.name.clone();
                match effect {
                    Effect::Spawn => self.spawn(now, index),
                    Effect::Terminate => self.signal(index, false),
                    Effect::Kill => self.signal(index, true),
                    Effect::BecameReady => changes.push(Change::Ready(name)),
                    Effect::RestartIn(wait_ms) => {
                        let how = self.running[index]
                            .policy
                            .last_exit()
                            .unwrap_or("")
                            .to_owned();
                        tracing::warn!("{name} ended ({how}); it starts again in {wait_ms} ms");
                        changes.push(Change::Restarting(name, how));
                    }
                }
            }
        }
        changes
    }

    /// When [`Children::drive`] must be called next.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        self.running
            .iter()
            .filter_map(|running| running.policy.deadline())
            .min()
    }

    /// Everything, for people.
    #[must_use]
    pub fn report(&self, now: Millis) -> Vec<ChildReport> {
        let line = |running: &Running| ChildReport {
            name: running.child.name.clone(),
            state: running.policy.state().word().to_owned(),
            pid: running.pid,
            restarts: running.policy.restarts(),
            age_ms: running
                .policy
                .started()
                .map(|started| now.saturating_sub(started)),
            last_exit: running.policy.last_exit().map(str::to_owned),
            resident_kib: running.pid.and_then(resident_kib),
        };
        self.running.iter().map(line).collect()
    }

    fn spawn(&mut self, now: Millis, index: usize) {
        let name = self.running[index].child.name.clone();
        match self.try_spawn(index) {
            Ok(pid) => {
                tracing::info!("{name} started as process {pid}");
                self.running[index].pid = Some(pid);
                self.running[index].policy.spawned(now);
            }
            Err(error) => {
                tracing::error!(
                    "{name} cannot be started: {}: {error}",
                    self.running[index].child.program.display()
                );
                self.running[index]
                    .policy
                    .spawn_failed(now, &error.to_string());
            }
        }
    }

    fn try_spawn(&mut self, index: usize) -> io::Result<u32> {
        let running = &self.running[index];
        let child = &running.child;
        let mut environment = environment();
        environment.extend(
            child
                .environment
                .iter()
                .map(|(key, value)| (key.into(), value.into())),
        );
        let mut notify = None;
        if child.limits.notifies {
            let (path, socket) = notify_socket(&child.name)?;
            environment.push(("NOTIFY_SOCKET".into(), path.into()));
            let listening = listen_for_readiness(socket, child.name.clone(), self.notices.clone());
            notify = Some(self.executor.spawn(listening));
        }
        let spawned = process::spawn(&Spawn {
            program: child.program.clone(),
            name: child.argv0.clone().map(Into::into),
            arguments: child.arguments.iter().map(Into::into).collect(),
            environment,
            cgroup: running
                .cgroup
                .as_ref()
                .map(|cgroup| cgroup.path().to_owned()),
            oom_score_adj: child.oom_score_adj,
            terminal: child.terminal.clone(),
        })?;
        if let Some(output) = spawned.output {
            self.executor
                .spawn(read_output(
                    output,
                    child.name.clone(),
                    child.logs_past_journald,
                    self.logger.clone(),
                ))
                .detach();
        }
        self.running[index]._notify = notify;
        Ok(spawned.pid)
    }

    fn signal(&self, index: usize, kill: bool) {
        let running = &self.running[index];
        let Some(pid) = running.pid else { return };
        let name = &running.child.name;
        let sent = if kill {
            tracing::warn!("{name} (process {pid}) did not end in time; its whole group is killed");
            let group = running
                .cgroup
                .as_ref()
                .map_or(Err(io::ErrorKind::NotFound.into()), Cgroup::kill);
            group.or_else(|_| process::kill(pid))
        } else {
            process::terminate(pid)
        };
        if let Err(error) = sent {
            tracing::error!("{name} (process {pid}) cannot be signalled: {error}");
        }
    }
}

/// The environment every child gets.
#[must_use]
pub fn environment() -> Vec<(std::ffi::OsString, std::ffi::OsString)> {
    vec![("PATH".into(), PATH.into())]
}

fn notify_socket(name: &str) -> io::Result<(PathBuf, UnixDatagram)> {
    std::fs::create_dir_all(NOTIFY_DIRECTORY)?;
    let path = Path::new(NOTIFY_DIRECTORY).join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(&path)?;
    Ok((path, socket))
}

async fn listen_for_readiness(
    socket: UnixDatagram,
    name: String,
    notices: smol::channel::Sender<Notice>,
) {
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer).await {
        let told = buffer[..length]
            .split(|&byte| byte == b'\n')
            .any(|line| line == b"READY=1");
        if told && notices.send(Notice::Ready(name.clone())).await.is_err() {
            return;
        }
    }
}

async fn read_output(output: OwnedFd, name: String, past_journald: bool, logger: Arc<Logger>) {
    let Ok(output) = Async::new(std::fs::File::from(output)) else {
        return;
    };
    let line = |priority: Priority, text: &str| {
        if past_journald {
            logger.line_past_journald(&name, priority, text);
        } else {
            logger.line(&name, priority, text);
        }
    };
    let mut lines = Lines::default();
    let mut buffer = [0; 1024];
    loop {
        match output
            .read_with(|mut file| io::Read::read(&mut file, &mut buffer))
            .await
        {
            Ok(0) | Err(_) => break,
            Ok(length) => lines.take(&buffer[..length], line),
        }
        // A child that floods its output must not starve the loop that pets the watchdog.
        smol::future::yield_now().await;
    }
    lines.end(line);
}

/// Resident memory of a process in KiB.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
