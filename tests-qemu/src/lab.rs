//! Storage servers that nodes reach over the network: an iSCSI target behind
//! two portals, each a process of its own so that one path can be lost, and an
//! NFS server.
//!
//! They live in a network namespace together with the machines: a target tells
//! its own address in discovery, so that address has to mean the same to the
//! server and to the node, and no address of the build machine does.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::line::lock;
use crate::{tied, tools};

/// Addresses of the portals; the NFS server has the first.
pub const PORTALS: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
/// The target's name.
pub const TARGET: &str = "iqn.2026-11.example.holdfast:lab";
/// What the NFS server calls its export.
pub const EXPORT: &str = "/export";
/// Longest wait for a server to answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// The breath between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A disk of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetDisk {
    /// The file behind it.
    pub path: PathBuf,
    /// Logical unit number, 1–99.
    pub number: u16,
}

impl TargetDisk {
    /// Its serial number, the same behind both portals.
    #[must_use]
    pub fn serial(&self) -> String {
        format!("lab{:05}", self.number)
    }
}

/// Credentials for CHAP: name and secret of the initiator, and of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chap {
    /// What the initiator must say.
    pub incoming: (String, String),
    /// What the target answers.
    pub outgoing: (String, String),
}

/// A server process; killed with the lab.
#[derive(Debug)]
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been stopped by a signal: only this one ends it then.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Server {
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("process id")?;
        rustix::process::kill_process(pid, signal).context("signal to a server")
    }
}

/// The servers and their network.
#[derive(Debug)]
pub struct Lab {
    holder: Server,
    directory: PathBuf,
    portals: Mutex<[Option<Server>; 2]>,
    control: [u16; 2],
    disks: Vec<TargetDisk>,
    chap: Option<Chap>,
    nfs: Mutex<Option<Server>>,
}

impl Lab {
    /// A network without servers; logs go to `directory`.
    pub fn new(directory: &Path) -> Result<Self> {
        /// Control channels are numbered machine-wide.
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let base = u16::try_from(1000 + std::process::id() % 30_000)?;
        let first = base + 2 * NEXT.fetch_add(1, Ordering::Relaxed);
        let mut command = tied::command("unshare");
        // Mounts of its own, too: what is mounted for the servers goes with them.
        command.args(["--net", "--mount", "tail", "-f", "/dev/null"]);
        let holder = Server(spawn(command, &directory.join("lab.log"))?);
        let lab = Self {
            holder,
            directory: directory.to_owned(),
            portals: Mutex::default(),
            control: [first, first + 1],
            disks: Vec::new(),
            chap: None,
            nfs: Mutex::default(),
        };
        let own = fs::read_link("/proc/self/ns/net").context("own network namespace")?;
        wait("a network namespace", || {
            fs::read_link(lab.namespace()).is_ok_and(|its| its != own)
        })?;
        lab.inside("ip", &["link", "set", "lo", "up"])?;
        for address in PORTALS {
            let address = format!("{address}/32");
            lab.inside("ip", &["address", "add", &address, "dev", "lo"])?;
        }
        Ok(lab)
    }

    /// The network namespace, for [`crate::machine::Spec::namespace`].
    #[must_use]
    pub fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.0.id()))
    }

    /// Serves these disks, with credentials if any, on both portals.
    pub fn serve_disks(&mut self, disks: &[TargetDisk], chap: Option<&Chap>) -> Result<()> {
        self.disks = disks.to_vec();
        self.chap = chap.cloned();
        self.restore_portal(0)?;
        self.restore_portal(1)
    }

    /// Ends the process behind a portal: its connections break at once.
    pub fn lose_portal(&self, index: usize) {
        lock(&self.portals)[index] = None;
    }

    /// Stops the process behind a portal: nothing answers, nothing breaks.
    pub fn freeze_portal(&self, index: usize, frozen: bool) -> Result<()> {
        let portals = lock(&self.portals);
        let server = portals[index].as_ref().context("portal is not served")?;
        server.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    /// Serves the disks on a portal (again).
    pub fn restore_portal(&self, index: usize) -> Result<()> {
        let control = self.control[index].to_string();
        let portal = format!("portal={}:3260", PORTALS[index]);
        let command = self.command("tgtd", &["-f", "-C", &control, "--iscsi", &portal]);
        let log = self.directory.join(format!("tgtd.{index}.log"));
        let server = Server(spawn(command, &log)?);
        let admin = |arguments: &[&str]| -> Result<String> {
            let all = [&["-C", &control, "--lld", "iscsi"], arguments].concat();
            tools::run("tgtadm", &all)
        };
        wait("tgtd", || {
            admin(&["--op", "show", "--mode", "target"]).is_ok()
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        let target = ["--mode", "target", "--tid", "1"];
        admin(&[&["--op", "new"], &target[..], &["-T", TARGET]].concat())?;
        for disk in &self.disks {
            let number = disk.number.to_string();
            let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", &number];
            let path = disk.path.to_str().context("path of a disk")?;
            admin(&[&["--op", "new"], &unit[..], &["-b", path]].concat())?;
            let parameters = format!(
                "vendor_id=HOLDFAST,product_id=LAB,scsi_sn={0},scsi_id={0}",
                disk.serial()
            );
            admin(&[&["--op", "update"], &unit[..], &["--params", &parameters]].concat())?;
        }
        if let Some(chap) = &self.chap {
            let account = ["--mode", "account"];
            for ((user, password), outgoing) in [(&chap.incoming, false), (&chap.outgoing, true)] {
                let words = ["--user", user.as_str(), "--password", password.as_str()];
                admin(&[&["--op", "new"], &account[..], &words].concat())?;
                let mut bind =
                    [&["--op", "bind", "--tid", "1"], &account[..], &words[..2]].concat();
                if outgoing {
                    bind.push("--outgoing");
                }
                admin(&bind)?;
            }
        }
        admin(&[&["--op", "bind"], &target[..], &["-I", "ALL"]].concat())?;
        lock(&self.portals)[index] = Some(server);
        Ok(())
    }

    /// Serves `directory` as [`EXPORT`] to everybody, root as nobody: it must
    /// belong to 36:36.
    pub fn serve_nfs(&self, directory: &Path) -> Result<()> {
        let mut text = String::new();
        // Versions 4 only: they need no port mapper.
        writeln!(
            text,
            "NFS_CORE_PARAM {{ Bind_addr = {}; Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false; }}",
            PORTALS[0]
        )?;
        // Short, so that a restarted server serves again soon. Not 4.2: version
        // 4.3 of the server answers its READ_PLUS wrongly, and reads come back
        // empty or as EIO.
        writeln!(
            text,
            "NFSv4 {{ Grace_Period = 2; Lease_Lifetime = 5; Graceless = true; Minor_Versions = 0, 1; }}"
        )?;
        writeln!(
            text,
            "EXPORT {{ Export_Id = 1; Path = {}; Pseudo = {EXPORT}; Access_Type = RW; Squash = Root_Squash; SecType = sys; FSAL {{ Name = VFS; }} }}",
            directory.display()
        )?;
        let config = self.directory.join("ganesha.conf");
        fs::write(&config, text).with_context(|| config.display().to_string())?;
        self.restore_nfs()
    }

    /// Mounts a new file system of `mib` MiB at `directory`, for the servers
    /// only; where it is to be seen from outside.
    pub fn mount(&self, directory: &Path, mib: u64) -> Result<PathBuf> {
        let image = directory.with_extension("img");
        let file = fs::File::create(&image).with_context(|| image.display().to_string())?;
        file.set_len(mib << 20)
            .with_context(|| image.display().to_string())?;
        let (image, there) = (path_text(&image)?, path_text(directory)?);
        // Nothing kept for root, so that full means full.
        let owner = "root_owner=36:36,lazy_itable_init=0,lazy_journal_init=0";
        tools::run("mkfs.ext4", &["-q", "-m", "0", "-E", owner, image])?;
        self.inside("mount", &["-o", "loop", image, there])?;
        let root = format!("/proc/{}/root", self.holder.0.id());
        Ok(Path::new(&root).join(there.trim_start_matches('/')))
    }

    /// Serves the export again.
    pub fn restore_nfs(&self) -> Result<()> {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let (config, log, pid) = (
            file("ganesha.conf"),
            file("ganesha.log"),
            file("ganesha.pid"),
        );
        fs::remove_file(&log).ok();
        let command = self.command(
            "ganesha.nfsd",
            &["-F", "-f", &config, "-L", &log, "-p", &pid],
        );
        let server = Server(spawn(command, &self.directory.join("ganesha.out"))?);
        wait("nfs-ganesha", || {
            fs::read_to_string(&log).is_ok_and(|text| text.contains("NFS SERVER INITIALIZED"))
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        *lock(&self.nfs) = Some(server);
        Ok(())
    }

    /// Stops the NFS server without a word, or lets it go on.
    pub fn freeze_nfs(&self, frozen: bool) -> Result<()> {
        let nfs = lock(&self.nfs);
        let server = nfs.as_ref().context("NFS is not served")?;
        server.signal(if frozen { Signal::STOP } else { Signal::CONT })
    }

    fn inside(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let holder = self.holder.0.id().to_string();
        let own = ["--target", &holder, "--net", "--mount", program];
        tools::run("nsenter", &[&own, arguments].concat())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = tied::command("nsenter");
        command
            .arg(format!("--target={}", self.holder.0.id()))
            .args(["--net", "--mount", program])
            .args(arguments);
        command
    }
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| path.display().to_string())
}

fn spawn(mut command: std::process::Command, log: &Path) -> Result<Child> {
    let file = fs::File::create(log).with_context(|| log.display().to_string())?;
    let errors = file.try_clone().context("log")?;
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .context("start of a server")
}

fn wait(what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        if Instant::now() >= deadline {
            bail!("{what}: not there after {} s", PATIENCE.as_secs());
        }
        // A server does not announce that it listens.
        std::thread::park_timeout(LOOK_PAUSE);
    }
    Ok(())
}

/// Makes the file of a disk, `mib` MiB full of zeros.
pub fn disk(path: &Path, number: u16, mib: u64) -> Result<TargetDisk> {
    ensure!((1..100).contains(&number), "disk number {number}: 1 to 99");
    let file = fs::File::create(path).with_context(|| path.display().to_string())?;
    file.set_len(mib << 20)
        .with_context(|| path.display().to_string())?;
    Ok(TargetDisk {
        path: path.to_owned(),
        number,
    })
}
