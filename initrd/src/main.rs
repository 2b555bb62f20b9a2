//! The first process: finds the root, switches to it.
//!
//! ```text
//! /proc /sys /dev /run ─▶ command line ─▶ drivers and root ─▶ mount ─▶ switch ─▶ supervisor
//!                                 └───────────┴── any failure: report, wait, reboot
//! ```
//!
//! What it is not: it starts no other program, writes to no disk, and decides
//! nothing but which device is the root. It never returns and never hangs: every
//! failure, panic and stuck step ends in a report on all consoles and a reboot.

#![forbid(unsafe_code)]

mod choose;
mod console;
mod drivers;
mod failure;
mod report;
mod search;
mod settings;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use linux::error::{Error, chain};
use linux::loop_device::{self, LoopDevice};
use linux::module::Loader;
use linux::mount;
use linux::probe::BlockDevice;
use linux::probe::content::Kind;
use linux::system::CommandLine;

use console::Log;
use drivers::Drivers;
use report::Failure;
use settings::{RootSpec, Settings};

/// Where the root is mounted until it becomes `/`.
const NEW_ROOT: &str = "/sysroot";
/// The root inside the initramfs, for `holdfast.root=initrd`.
const EMBEDDED_ROOT: &str = "/root.erofs";
/// What becomes process 1.
const SUPERVISOR: &str = "/usr/lib/holdfast/supervisor";
/// Mounts the new root gets from here.
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("initrd: this is /init of an initramfs; it runs only as process 1");
        return ExitCode::from(2);
    }
    failure::install();
    match start() {
        Err(failure) => failure::give_up(&failure),
    }
}

/// Everything up to the supervisor, which replaces this process.
fn start() -> Result<std::convert::Infallible, Box<Failure>> {
    let mut log = Log::new();
    mount_interfaces(&mut log)?;

    failure::begin("command line", Duration::ZERO);
    let line = CommandLine::read().map_err(|error| broken("read /proc/cmdline", &error))?;
    let settings = Settings::parse(line.words());
    failure::set_reboot_delay(settings.reboot_delay);
    failure::report_on(console::open_all(&settings.consoles));
    for warning in &settings.warnings {
        log.warn(warning);
    }
    let spec = settings.root.clone().map_err(|problem| Failure {
        problem,
        next_step: "give holdfast.root=PARTUUID=…, LABEL=… or initrd on the kernel command line"
            .to_owned(),
        ..Failure::default()
    })?;
    log.step("command line", &format!("root is {spec}"));

    let parameters = linux::module::Settings::from_words(line.words());
    let extra = fs::read_to_string(drivers::EXTRA_MODULES).unwrap_or_default();
    let mut drivers = Drivers::new(Loader::for_running_kernel(parameters), &extra);
    let root = match &spec {
        RootSpec::Initrd => embedded_root(&mut drivers, &mut log)?,
        spec => disk_root(spec, settings.root_wait, &mut drivers, &mut log)?,
    };
    mount_root(&root, &spec, &mut drivers, &mut log)?;
    hand_over(&root, &mut log)
}

fn mount_interfaces(log: &mut Log) -> Result<(), Box<Failure>> {
    failure::begin("mounts", Duration::ZERO);
    for api in [&mount::PROC, &mount::SYSFS, &mount::DEVTMPFS, &mount::RUN] {
        mount::mount_api(api).map_err(|error| broken("prepare", &error))?;
    }
    console::take_as_standard();
    failure::report_on(console::open_all(&[]));
    log.open();
    log.step("mounts", "/proc /sys /dev /run");
    Ok(())
}

/// What will be `/`.
struct Root {
    node: PathBuf,
    fs_type: &'static str,
    devices: Option<Vec<BlockDevice>>,
    /// Keeps the device attached until it is mounted.
    _loop_device: Option<LoopDevice>,
}

fn disk_root(
    spec: &RootSpec,
    wait: Duration,
    drivers: &mut Drivers,
    log: &mut Log,
) -> Result<Root, Box<Failure>> {
    failure::begin("root device", wait);
    let (search, deaf) = search::Search::new(spec, drivers, Path::new("/sys"));
    if let Some(warning) = deaf {
        log.warn(&warning);
    }
    let found = search.run(wait)?;
    for warning in &found.warnings {
        log.warn(warning);
    }
    let device = found.device;
    let fs_type = device
        .content
        .as_ref()
        .and_then(|content| content.kind.mount_type());
    let Some(fs_type) = fs_type else {
        let holds = device.content.as_ref().map_or_else(
            || {
                device
                    .fault
                    .clone()
                    .unwrap_or_else(|| "nothing recognised".to_owned())
            },
            |content| content.kind.name().to_owned(),
        );
        return Err(Box::new(Failure {
            problem: format!(
                "{} is {spec} but holds no file system: {holds}",
                device.name
            ),
            looked_for: Some(format!("{spec} (holdfast.root)")),
            devices: Some(found.devices),
            next_step: "write the image to the disk again".to_owned(),
            ..Failure::default()
        }));
    };
    log.step("modules", &drivers.summary());
    log.step(
        "root device",
        &format!("{} ({fs_type})", device.node.display()),
    );
    Ok(Root {
        node: device.node,
        fs_type,
        devices: Some(found.devices),
        _loop_device: None,
    })
}

fn embedded_root(drivers: &mut Drivers, log: &mut Log) -> Result<Root, Box<Failure>> {
    failure::begin("root in the initramfs", Duration::ZERO);
    let file = Path::new(EMBEDDED_ROOT);
    let metadata = fs::metadata(file).map_err(|error| Failure {
        problem: format!("{EMBEDDED_ROOT} is not in the initramfs: {error}"),
        looked_for: Some("initrd (holdfast.root)".to_owned()),
        next_step: "start the initramfs that carries the root, or give \
                    holdfast.root=PARTUUID=… on the kernel command line"
            .to_owned(),
        ..Failure::default()
    })?;
    if !Path::new("/dev/loop-control").exists() {
        drivers.need("loop");
    }
    let whole_blocks = metadata.len().is_multiple_of(4096);
    let options = loop_device::Options {
        block_size: if whole_blocks { 4096 } else { 512 },
        read_only: true,
        direct_io: false,
        auto_clear: true,
    };
    let device = LoopDevice::attach(file, &options).map_err(|error| Failure {
        notes: drivers.notes(Path::new("/sys")),
        ..broken("show the root as a block device", &error)
    })?;
    log.step(
        "root device",
        &format!("{} over {EMBEDDED_ROOT}", device.path().display()),
    );
    Ok(Root {
        node: device.path().to_path_buf(),
        fs_type: Kind::Erofs.name(),
        devices: None,
        _loop_device: Some(device),
    })
}

fn mount_root(
    root: &Root,
    spec: &RootSpec,
    drivers: &mut Drivers,
    log: &mut Log,
) -> Result<(), Box<Failure>> {
    failure::begin("mount", Duration::ZERO);
    if !kernel_knows(root.fs_type) {
        drivers.load_extra();
        drivers.need(&format!("fs-{}", root.fs_type));
    }
    let new_root = Path::new(NEW_ROOT);
    let mounted = make_dir(new_root)
        .and_then(|()| mount::mount(&root.node, new_root, root.fs_type, mount::Flags::RDONLY, ""));
    mounted.map_err(|error| Failure {
        problem: format!(
            "cannot mount {} ({}) read-only: {}",
            root.node.display(),
            root.fs_type,
            chain(&error)
        ),
        looked_for: Some(format!("{spec} (holdfast.root)")),
        devices: root.devices.clone(),
        notes: drivers.notes(Path::new("/sys")),
        next_step: "look at the kernel messages above; write the image to the disk again if \
                    they speak of damage"
            .to_owned(),
        ..Failure::default()
    })?;
    log.step("mount", &format!("{} read-only", root.node.display()));
    Ok(())
}

fn hand_over(root: &Root, log: &mut Log) -> Result<std::convert::Infallible, Box<Failure>> {
    failure::begin("switch root", Duration::ZERO);
    let inside = Path::new(NEW_ROOT).join(SUPERVISOR.trim_start_matches('/'));
    let not_ours = |why: String| Failure {
        problem: format!(
            "the root {} has no usable {SUPERVISOR}: {why}",
            root.node.display()
        ),
        devices: root.devices.clone(),
        next_step: "check holdfast.root: this is no Holdfast root, or a damaged one".to_owned(),
        ..Failure::default()
    };
    let metadata = fs::metadata(&inside).map_err(|error| not_ours(error.to_string()))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(not_ours("it is not an executable file".to_owned()).into());
    }
    for directory in MOVED {
        let below = Path::new(NEW_ROOT).join(directory.trim_start_matches('/'));
        if !below.is_dir() {
            return Err(Box::new(Failure {
                problem: format!(
                    "the root {} has no directory {directory}",
                    root.node.display()
                ),
                devices: root.devices.clone(),
                next_step: "check holdfast.root: this is no Holdfast root, or a damaged one"
                    .to_owned(),
                ..Failure::default()
            }));
        }
    }
    let freed = mount::switch_root(Path::new(NEW_ROOT), &MOVED)
        .map_err(|error| broken("switch to the root", &error))?;
    log.step("switch root", &format!("{} files freed", freed.deleted));

    failure::begin("supervisor", Duration::ZERO);
    log.step(
        "supervisor",
        &format!(
            "starting {:.3} s after the kernel",
            linux::system::monotonic().as_secs_f64()
        ),
    );
    let error = Command::new(SUPERVISOR)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(not_ours(error.to_string()).into())
}

/// True if the file system is built in or its module is loaded.
fn kernel_knows(fs_type: &str) -> bool {
    fs::read_to_string("/proc/filesystems")
        .unwrap_or_default()
        .lines()
        .any(|line| line.rsplit('\t').next() == Some(fs_type))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|error| Error::new("create directory", path, error))
}

/// A failure that no operator can provoke by a wrong setting.
fn broken(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure {
        problem: format!("cannot {what}: {}", chain(error)),
        next_step: "look at the kernel messages above; start an older image meanwhile".to_owned(),
        ..Failure::default()
    }
}
