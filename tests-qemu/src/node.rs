//! One machine: its life, and the questions put to the node inside.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::status::Snapshot;
use serde_json::json;

use crate::console::Console;
use crate::line::{Line, lock};
use crate::lun::Lun;
pub use crate::machine::{Boot, Plug, Spec};
use crate::machine::{arguments, log_name, netdev};
use crate::qmp::{Event, Qmp};
use crate::tied;

/// How long a boot may take until the console answers: emulated, with every
/// core busy, a boot of 30 s has been seen to take five minutes.
pub const BOOT_PATIENCE: Duration = Duration::from_secs(600);
/// How long anything else inside a node may take before it counts as broken.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// How long one question for the status may take: a node that resets meanwhile
/// never answers.
pub const STATUS_PATIENCE: Duration = Duration::from_secs(20);
/// The breath between two looks at a node's status.
const LOOK_PAUSE: Duration = Duration::from_millis(700);

/// A machine under power.
#[derive(Debug)]
pub struct Node {
    /// What it was made from.
    pub spec: Spec,
    /// QEMU's control session.
    pub qmp: Qmp,
    /// First serial line: kernel messages and the operator's screen.
    pub serial: Line,
    /// Second serial line: the command line of `nodectl`.
    pub console: Console,
    /// Third serial line: root shell of the debug image.
    pub shell: Option<Line>,
    /// Where its files are.
    pub directory: PathBuf,
    child: Mutex<Child>,
    sockets: Sockets,
    /// When power was switched on.
    pub started: Instant,
}

/// The directory of the machine's sockets; short, because socket paths are.
#[derive(Debug)]
enum Sockets {
    Temporary(tempfile::TempDir),
    Kept(PathBuf),
}

impl Sockets {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Kept(path) => path,
        }
    }
}

impl Node {
    /// Switches a machine on; logs go to `directory`, one set for each start.
    pub fn start(spec: Spec, directory: &Path) -> Result<Self> {
        let name = spec.name.clone();
        Self::launch(spec, directory).with_context(|| format!("start of {name}"))
    }

    fn launch(spec: Spec, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let sockets = tempfile::Builder::new()
            .prefix("holdfast-")
            .tempdir()
            .context("socket directory")?;
        let sockets = if spec.outlive {
            Sockets::Kept(sockets.keep())
        } else {
            Sockets::Temporary(sockets)
        };
        let arguments = arguments(&spec, directory, sockets.path())?;
        let errors = directory.join(format!("{}.qemu.log", log_name(&spec, directory)));
        let errors_file = File::create(&errors).with_context(|| errors.display().to_string())?;
        let start = if spec.outlive {
            Command::new
        } else {
            tied::command
        };
        let mut command = match &spec.namespace {
            None => start(QEMU),
            Some(namespace) => {
                let mut command = start("nsenter");
                command
                    .arg(format!("--net={}", namespace.display()))
                    .arg(QEMU);
                command
            }
        };
        let mut child = command
            .args(&arguments)
            // A Ctrl-C on the terminal is for the harness.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors_file)
            .spawn()
            .with_context(|| format!("{QEMU} does not start"))?;
        let opened = open_lines(&sockets, spec.shell, &mut child);
        let (qmp, serial, console, shell) = match opened {
            Ok(lines) => lines,
            Err(error) => {
                stop_child(&mut child);
                let words = fs::read_to_string(&errors).unwrap_or_default();
                return Err(error.context(format!("QEMU said: {}", words.trim())));
            }
        };
        let console = Console::new(
            console,
            directory.join(format!("{}.status.json", spec.name)),
        );
        let mut node = Self {
            spec,
            qmp,
            serial,
            console,
            shell,
            directory: directory.to_owned(),
            child: Mutex::new(child),
            sockets,
            started: Instant::now(),
        };
        node.qmp.execute("cont", json!({}))?;
        node.started = Instant::now();
        Ok(node)
    }

    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Directory of its sockets (`console`, `qmp`, `serial`).
    #[must_use]
    pub fn socket_directory(&self) -> &Path {
        self.sockets.path()
    }

    /// Kills QEMU outright: what a power cut is to the disk.
    pub fn cut_power(&self) -> Instant {
        stop_child(&mut lock(&self.child));
        Instant::now()
    }

    /// Waits until QEMU has ended by itself.
    pub fn wait_off(&self, patience: Duration) -> Result<()> {
        let name = &self.spec.name;
        let deadline = Instant::now() + patience;
        while !self.qmp.closed() {
            ensure!(
                Instant::now() < deadline,
                "{name}: still under power after {} s",
                patience.as_secs()
            );
            self.qmp.rest(usize::MAX, Duration::from_secs(1));
        }
        // The session closes as QEMU exits.
        lock(&self.child).wait().context("QEMU")?;
        Ok(())
    }

    /// The node's own account of itself.
    pub fn status(&self) -> Result<Snapshot> {
        self.console
            .status(PATIENCE)
            .with_context(|| format!("{}: status", self.spec.name))
    }

    /// Waits until the console answers at all.
    pub fn wait_console(&self) -> Result<()> {
        self.console.wait_prompt(BOOT_PATIENCE).with_context(|| {
            let text = self.serial.text_after(0);
            format!(
                "{}: console of the node; the kernel's last words:\n{}",
                self.spec.name,
                crate::line::tail(&text, 15)
            )
        })
    }

    /// Runs one `nodectl` command line on the console.
    pub fn command(&self, line: &str) -> Result<String> {
        let what = || format!("{}: nodectl {line}", self.spec.name);
        let output = self.console.run(line, PATIENCE).with_context(what)?;
        if output.lines().any(|line| line.starts_with("nodectl: ")) {
            return Err(anyhow::anyhow!("{}", output.trim_end())).with_context(what);
        }
        Ok(output)
    }

    /// Gives one `nodectl` command that ends the node; its answer may never come.
    pub fn order(&self, line: &str) -> Result<()> {
        self.console
            .order(line, PATIENCE)
            .with_context(|| format!("{}: nodectl {line}", self.spec.name))
    }

    /// Looks at the status until `wanted` holds.
    pub fn wait_status(
        &self,
        what: &str,
        patience: Duration,
        mut wanted: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Snapshot> {
        let deadline = Instant::now() + patience;
        let mut last = None;
        loop {
            let seen = self.qmp.event_count();
            match self.console.status(STATUS_PATIENCE) {
                Ok(snapshot) if wanted(&snapshot) => return Ok(snapshot),
                Ok(snapshot) => last = Some(snapshot),
                // The console comes later than the kernel, and a node may be
                // restarting just now.
                Err(error) if Instant::now() >= deadline || self.qmp.closed() => {
                    return Err(error.context(format!("{}: {what}", self.spec.name)));
                }
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                let last =
                    last.map_or_else(|| "none".to_owned(), |snapshot| format!("{snapshot:#?}"));
                bail!(
                    "{}: {what}: not seen within {} s; last status: {last}",
                    self.spec.name,
                    patience.as_secs()
                );
            }
            self.qmp.rest(seen, LOOK_PAUSE);
        }
    }

    /// Waits until the node says it is up.
    pub fn wait_ready(&self) -> Result<Snapshot> {
        self.wait_console()?;
        self.wait_status("phase ready", BOOT_PATIENCE, |snapshot| {
            snapshot.phase == "ready"
        })
    }

    /// Waits until the machine resets, for whatever reason.
    pub fn wait_reset(&self, first_event: usize, patience: Duration) -> Result<Event> {
        self.qmp
            .wait_event(first_event, "RESET", patience)
            .with_context(|| format!("{}: reset", self.spec.name))
    }

    /// Waits until the watchdog card fires.
    pub fn wait_watchdog(&self, first_event: usize, patience: Duration) -> Result<Event> {
        self.qmp
            .wait_event(first_event, "WATCHDOG", patience)
            .with_context(|| format!("{}: watchdog", self.spec.name))
    }

    /// Plugs a LUN in while the machine runs.
    pub fn plug(&self, lun: &Lun, id: &str) -> Result<()> {
        self.qmp.execute("blockdev-add", lun.block_node(id))?;
        self.qmp.execute("device_add", lun.device(id))?;
        Ok(())
    }

    /// Pulls LUN `id` out from under the guest.
    pub fn unplug(&self, id: &str) -> Result<()> {
        self.qmp
            .execute("device_del", json!({ "id": format!("{id}-disk") }))?;
        Ok(())
    }

    /// Lets I/O of LUN `id` through at `bytes_per_second` at most; 0 lifts the limit.
    pub fn throttle(&self, id: &str, bytes_per_second: u64) -> Result<()> {
        let limits = json!({
            "id": format!("{id}-disk"),
            "bps": bytes_per_second, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
        });
        self.qmp.execute("block_set_io_throttle", limits)?;
        Ok(())
    }

    /// Makes every read and write of LUN `id` fail with this error number of the
    /// machine's, or lets them through again. 5 (EIO) is what the guest tries
    /// again on every path; 12 (ENOMEM) reaches it as a fault of the LUN itself,
    /// which no other path mends.
    pub fn fail_io(&self, id: &str, errno: Option<u8>) -> Result<()> {
        let (file, broken) = (format!("{id}-file"), format!("{id}-broken"));
        let reopen = |child: &str| {
            let node = json!({ "driver": "raw", "node-name": id, "file": child, "cache": { "direct": true } });
            self.qmp
                .execute("blockdev-reopen", json!({ "options": [node] }))
        };
        if let Some(errno) = errno {
            // Not flushes: QEMU itself has to flush to put the LUN right again.
            let kinds = ["read", "write", "write-zeroes", "discard"];
            let faults =
                kinds.map(|kind| json!({ "event": "none", "iotype": kind, "errno": errno }));
            let faulty = json!({
                "driver": "blkdebug", "node-name": broken, "image": file, "inject-error": faults,
            });
            self.qmp.execute("blockdev-add", faulty)?;
            reopen(&broken)?;
        } else {
            reopen(&file)?;
            self.qmp
                .execute("blockdev-del", json!({ "node-name": broken }))?;
        }
        Ok(())
    }

    /// Makes LUN `id` `mib` MiB large; the guest is told that it changed.
    pub fn grow(&self, id: &str, mib: u64) -> Result<()> {
        self.qmp.execute(
            "block_resize",
            json!({ "node-name": id, "size": mib << 20 }),
        )?;
        Ok(())
    }

    /// Presses the power button.
    pub fn press_power(&self) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({}))?;
        Ok(())
    }

    /// Presses Ctrl-Alt-Del on the machine's keyboard.
    pub fn press_ctrl_alt_del(&self) -> Result<()> {
        let keys = ["ctrl", "alt", "delete"].map(|key| json!({ "type": "qcode", "data": key }));
        self.qmp.execute("send-key", json!({ "keys": keys }))?;
        Ok(())
    }

    /// Plugs a network card into a free slot.
    pub fn plug_nic(&self, index: usize, slot: u8, plug: &Plug) -> Result<()> {
        self.qmp
            .execute("netdev_add", netdev(&self.spec, index, plug))?;
        let device = json!({
            "driver": "virtio-net-pci", "id": format!("nic{index}"), "netdev": format!("net{index}"),
            "mac": self.spec.mac(index), "bus": format!("slot{slot}"), "romfile": "",
            // 802.3ad bonds only cards that state them.
            "speed": 10000, "duplex": "full",
        });
        self.qmp.execute("device_add", device)?;
        Ok(())
    }

    /// Plugs or unplugs the cable of card `index`.
    pub fn set_link(&self, index: usize, up: bool) -> Result<()> {
        self.qmp.execute(
            "set_link",
            json!({ "name": format!("nic{index}"), "up": up }),
        )?;
        Ok(())
    }

    /// Runs a line in the debug image's root shell and answers with its output.
    pub fn shell(&self, line: &str) -> Result<String> {
        let shell = self
            .shell
            .as_ref()
            .context("this machine was started without a shell")?;
        // The markers are split so that the echo of the line, which may come
        // twice and be wrapped, does not match them.
        let position = shell.position();
        shell.send(
            format!("echo begin-of'-'output; {line}; echo end-of'-'output=$?\n").as_bytes(),
        )?;
        let what = format!("{}: shell line {line:?}", self.spec.name);
        shell.wait(position, PATIENCE, &what, |text| {
            let (_, text) = text.split_once("begin-of-output")?;
            let (output, status) = text.split_once("end-of-output=")?;
            let status = status.split_once(['\r', '\n'])?.0;
            let output = output
                .split_once('\n')
                .map_or("", |(_, output)| output)
                .replace('\r', "");
            Some(if status == "0" {
                Ok(output)
            } else {
                Err(anyhow::anyhow!("{what}: exit {status}\n{output}"))
            })
        })?
    }

    /// Waits until the debug image's root shell answers, in the output after `position`.
    pub fn wait_shell(&self, position: usize) -> Result<()> {
        let shell = self
            .shell
            .as_ref()
            .context("this machine was started without a shell")?;
        shell.wait(
            position,
            BOOT_PATIENCE,
            "prompt of the root shell",
            |text| text.contains('#').then_some(()),
        )
    }

    /// Sends a shell line whose answer never comes.
    pub fn shell_last_words(&self, line: &str) -> Result<()> {
        let shell = self
            .shell
            .as_ref()
            .context("this machine was started without a shell")?;
        shell.send(format!("{line}\n").as_bytes())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.spec.outlive || std::thread::panicking() {
            stop_child(&mut lock(&self.child));
        }
    }
}

const QEMU: &str = "qemu-system-x86_64";

fn stop_child(child: &mut Child) {
    // Both fail only when it has ended already.
    drop(child.kill());
    drop(child.wait());
}

/// Connects to every socket, as soon as QEMU listens.
fn open_lines(
    sockets: &Sockets,
    shell: bool,
    child: &mut Child,
) -> Result<(Qmp, Line, Line, Option<Line>)> {
    let deadline = Instant::now() + PATIENCE;
    let path = sockets.path();
    // QMP is last on the command line: once it answers, all sockets are there.
    let qmp = loop {
        match Qmp::connect(&path.join("qmp")) {
            Ok(qmp) => break qmp,
            Err(error) => {
                if let Some(status) = child.try_wait().context("QEMU")? {
                    bail!("QEMU ended with {status}");
                }
                if Instant::now() >= deadline {
                    return Err(error);
                }
                // There is no event to wait for before the first socket exists.
                std::thread::park_timeout(Duration::from_millis(50));
            }
        }
    };
    let serial = Line::connect(&path.join("serial"))?;
    let console = Line::connect(&path.join("console"))?;
    let shell = if shell {
        Some(Line::connect(&path.join("shell"))?)
    } else {
        None
    };
    Ok((qmp, serial, console, shell))
}
