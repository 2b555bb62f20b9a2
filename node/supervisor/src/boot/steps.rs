//! What each boot phase does. A step may wait; the loop does not wait for it.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use control::config::Network;
use linux::cgroup::{self, Cgroup};
use linux::error::chain;
use linux::module::{Loader, Settings};
use linux::mount::{self, ApiFileSystem, Flags};
use linux::system::{self, CommandLine, SEED_BYTES};
use smol::LocalExecutor;

use super::network;
use super::sequence::{Millis, Outcome};
use super::storage;
use crate::children::table::{CHILDREN_GROUP, LEASED_MEMORY_MIN};
use crate::config_source::{self, Loaded, STATE_MOUNT};
use crate::identity::{self, Identity};
use crate::init::Event;
use crate::journal::Logger;
use crate::{net, time, volume, worker};

/// Image identity, one line.
pub const RELEASE: &str = "/usr/lib/holdfast/release";
/// Longest time a module may take to load.
const MODULE_DEADLINE: Duration = Duration::from_secs(30);
/// Quiet time after the last device event until devices count as all there. A
/// busy machine needs more than a second from one event of a disk to the next.
const SETTLE_MS: Millis = 3_000;
/// Where the kernel lists what SCSI hosts have found.
const SCSI_DEVICES: &str = "/sys/bus/scsi/devices";
/// Longest time after coldplug until devices count as all there, whatever else
/// is announced: a path that comes and goes for ever, or a udevd that died with
/// its queue, must not keep the node from falling back to what it has.
const SETTLE_MAX_MS: Millis = 60_000;
/// The same for a coldplug that never ends, from the kernel's start.
const UNSETTLED_MAX_MS: Millis = 300_000;
/// Memory the kernel never takes from PID 1, as its control group spells it.
const SUPERVISOR_MEMORY_MIN: &str = "16M";
/// Seed kept over reboots on the state volume.
const SEED_FILE: &str = "/var/lib/holdfast/random-seed";

/// Whether a SCSI host has found a disk that has no block device yet. Drivers
/// spin disks up and read their capacity without any event in between.
fn disks_under_way(devices: &Path) -> bool {
    /// Peripheral device types of the SCSI standard: direct access, simplified direct access.
    const DISKS: [&str; 2] = ["0", "14"];
    let Ok(entries) = std::fs::read_dir(devices) else {
        return false;
    };
    entries.flatten().any(|entry| {
        // Hosts and targets are listed as well; they have no type.
        let kind = std::fs::read_to_string(entry.path().join("type")).unwrap_or_default();
        DISKS.contains(&kind.trim()) && !entry.path().join("block").exists()
    })
}

/// What phases learn and others ask for.
#[derive(Debug, Default)]
pub struct Facts {
    /// Who this machine is, once established.
    pub identity: Option<Identity>,
    /// The configuration and its report, once looked for.
    pub loaded: Option<Loaded>,
    /// When coldplug was done.
    pub coldplugged: Option<Millis>,
    /// When the last device event came.
    pub last_uevent: Millis,
    /// Whether there is a state volume in use, once known.
    pub state_volume: Option<bool>,
    /// Why one that is there is not in use.
    pub state_fault: Option<String>,
}

impl Facts {
    /// Whether every device of the boot has had time to appear: coldplug is done,
    /// udevd's queue is empty, no event came for a while and no disk is still
    /// being looked at by its driver; or it took too long.
    #[must_use]
    pub fn devices_settled(&self, now: Millis) -> bool {
        let Some(coldplugged) = self.coldplugged else {
            return now >= UNSETTLED_MAX_MS;
        };
        let quiet = now >= coldplugged.max(self.last_uevent) + SETTLE_MS
            && !Path::new("/run/udev/queue").exists()
            && !disks_under_way(Path::new(SCSI_DEVICES));
        quiet || now >= coldplugged + SETTLE_MAX_MS
    }
}

/// What steps work with.
pub struct Context {
    /// Runs tasks beside the loop, on its thread.
    pub executor: Rc<LocalExecutor<'static>>,
    /// Takes every line.
    pub logger: Arc<Logger>,
    /// The kernel command line.
    pub command_line: CommandLine,
    /// What is known.
    pub facts: RefCell<Facts>,
    /// The loop's inbox.
    pub events: smol::channel::Sender<Event>,
    network: RefCell<Option<Rc<net::Manager>>>,
    network_set: Cell<bool>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Everything still unknown.
    #[must_use]
    pub fn new(
        executor: Rc<LocalExecutor<'static>>,
        logger: Arc<Logger>,
        command_line: CommandLine,
        events: smol::channel::Sender<Event>,
    ) -> Self {
        let (facts, network) = (RefCell::default(), RefCell::default());
        Self {
            executor,
            logger,
            command_line,
            facts,
            events,
            network,
            network_set: Cell::new(false),
        }
    }

    /// The network's manager, once there is one.
    #[must_use]
    pub fn network(&self) -> Option<Rc<net::Manager>> {
        self.network.borrow().clone()
    }

    /// Makes `network` the set in force, starting the manager if need be.
    ///
    /// # Errors
    /// Its thread cannot be started.
    pub fn apply_network(&self, network: Network) -> io::Result<()> {
        let mut manager = self.network.borrow_mut();
        if manager.is_none() {
            *manager = Some(Rc::new(net::Manager::start(net::Options::default())?));
        }
        if let Some(manager) = &*manager {
            manager.apply(network);
            self.network_set.set(true);
        }
        Ok(())
    }
}

/// Runs the phase `name`; phases that are children or belong to the loop's own
/// state are not here.
pub async fn run(context: Rc<Context>, name: &'static str) -> Outcome {
    let outcome = match name {
        "api-filesystems" => api_filesystems(),
        "cgroups" => cgroups(),
        "kernel-modules" => kernel_modules(&context).await,
        "identity" => establish_identity(&context),
        "clock" => clock(),
        "config" => config(&context).await,
        "hostname" => hostname(&context),
        "network" => return network::run(&context).await,
        "storage-files" => return storage::run(&context).await,
        "coldplug" => coldplug(&context).await,
        "state-volume" => return state_volume(&context).await,
        "entropy" => return entropy(&context).await,
        other => Err(format!("phase {other}: nobody knows how to run it")),
    };
    outcome.map_or_else(Outcome::Failed, |()| Outcome::Done)
}

/// File systems beyond those the initrd hands over.
const MOUNTS: [ApiFileSystem; 5] = [
    ApiFileSystem {
        fs_type: "tmpfs",
        target: "/var",
        flags: Flags::NOSUID.union(Flags::NODEV),
        options: "mode=0755,size=25%",
    },
    ApiFileSystem {
        fs_type: "devpts",
        target: "/dev/pts",
        flags: Flags::NOSUID.union(Flags::NOEXEC),
        options: "gid=5,mode=620,ptmxmode=666",
    },
    ApiFileSystem {
        fs_type: "tmpfs",
        target: "/dev/shm",
        flags: Flags::NOSUID.union(Flags::NODEV),
        options: "mode=1777,size=25%",
    },
    ApiFileSystem {
        fs_type: "tmpfs",
        target: "/tmp",
        flags: Flags::NOSUID.union(Flags::NODEV),
        options: "mode=1777,size=10%",
    },
    mount::CGROUP2,
];

/// Directories the tmpfs start without.
const DIRECTORIES: [&str; 11] = [
    "/run/holdfast",
    "/run/holdfast/notify",
    "/run/lock",
    "/run/udev",
    "/run/systemd/journal",
    "/run/wdmd",
    "/run/log",
    "/var/lib/holdfast",
    "/var/log",
    "/var/tmp",
    "/var/cache",
];

fn api_filesystems() -> Result<(), String> {
    let mounted = mount::list().map_err(|error| chain(&error))?;
    let has = |target: &str| {
        mounted
            .iter()
            .any(|mount| mount.target == Path::new(target))
    };
    for api in [mount::PROC, mount::SYSFS, mount::DEVTMPFS, mount::RUN]
        .iter()
        .chain(&MOUNTS)
    {
        if has(api.target) {
            continue;
        }
        if let Err(error) = mount::mount_api(api) {
            // Without /tmp or /dev/pts a node still does its work; without these it cannot.
            let vital = ["/proc", "/sys", "/dev", "/run", "/var"].contains(&api.target);
            if vital {
                return Err(chain(&error));
            }
            tracing::warn!("{}", chain(&error));
        }
    }
    for directory in DIRECTORIES {
        fs::create_dir_all(directory).map_err(|error| format!("{directory}: {error}"))?;
    }
    // A kernel panic, such as the death of PID 1, must end in a reboot; a hang is the watchdog's.
    sysctl("kernel/panic", "10");
    sysctl("kernel/panic_on_oops", "1");
    sysctl("kernel/printk_devkmsg", "on\n");
    // Those of VDSM's hosts: little waits to be written, and with several devices in
    // one network each answers for its own address, as iSCSI over two of them needs.
    sysctl("vm/dirty_ratio", "5");
    sysctl("vm/dirty_background_ratio", "2");
    sysctl("net/ipv4/conf/all/arp_ignore", "1");
    sysctl("net/ipv4/conf/all/arp_announce", "2");
    Ok(())
}

fn sysctl(name: &str, value: &str) {
    if let Err(error) = fs::write(Path::new("/proc/sys").join(name), value) {
        tracing::warn!("sysctl {name} = {value}: {error}");
    }
}

fn cgroups() -> Result<(), String> {
    let root = Path::new(cgroup::ROOT);
    let say = |error: io::Error| format!("{}: {error}", root.display());
    let own = Cgroup::create(root, "supervisor").map_err(say)?;
    own.join(0).map_err(say)?;
    let children = Cgroup::create(root, CHILDREN_GROUP).map_err(say)?;
    const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
    for missing in cgroup::delegate(root, &CONTROLLERS).map_err(say)? {
        tracing::warn!("control groups: the kernel has no {missing} controller");
    }
    cgroup::delegate(children.path(), &CONTROLLERS).map_err(say)?;
    // What a group is promised counts only as far as its parents are promised it.
    let promises = [
        (&children, LEASED_MEMORY_MIN),
        (&own, SUPERVISOR_MEMORY_MIN),
    ];
    for (group, bytes) in promises {
        if let Err(error) = group.limit("memory.min", bytes) {
            tracing::warn!("memory.min of {}: {error}", group.path().display());
        }
    }
    // PID 1 never computes for long, and everybody waits for it: it goes first,
    // which shortens the boot while udevd works through all devices. The lease
    // daemon is above weights, it has real-time priority.
    if let Err(error) = own.limit("cpu.weight", "10000") {
        tracing::warn!("cpu.weight of the supervisor: {error}");
    }
    Ok(())
}

/// Loads the drivers of network cards and the bridge without waiting for udevd.
async fn kernel_modules(context: &Rc<Context>) -> Result<(), String> {
    let mut wanted = network::modaliases(Path::new("/sys/bus/pci/devices"));
    wanted.push("bridge".to_owned());
    if Path::new("/sys/bus/acpi/devices/QEMU0002:00").exists() {
        wanted.push("qemu_fw_cfg".to_owned());
    }
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    load_modules(context, &wanted).await;
    Ok(())
}

/// Loads modules by name or modalias, on a thread, without waiting beyond a
/// deadline. Failures are logged: whatever needs the module says so itself when
/// it is missing.
pub async fn load_modules(context: &Rc<Context>, wanted: &[&str]) {
    if wanted.is_empty() {
        return;
    }
    let mut words: Vec<String> = context.command_line.words().map(str::to_owned).collect();
    // Without it the driver makes a bond0 of its own.
    words.push("bonding.max_bonds=0".to_owned());
    let names: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    let work = async { worker::run("modules", move || load(&words, &names)).await };
    let overdue = async {
        smol::Timer::after(MODULE_DEADLINE).await;
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("not loaded within {} s", MODULE_DEADLINE.as_secs()),
        ))
    };
    if let Err(error) = smol::future::or(work, overdue).await {
        tracing::warn!("modules {}: {error}", wanted.join(" "));
    }
}

fn load(words: &[String], names: &[String]) {
    let settings = Settings::from_words(words.iter().map(String::as_str));
    match Loader::for_running_kernel(settings) {
        Ok(mut loader) => {
            for name in names {
                for module in loader.wanted_by(name) {
                    if let Err(error) = loader.load(&module) {
                        tracing::warn!("{}", chain(&error));
                    }
                }
            }
        }
        Err(error) => tracing::warn!("{}", chain(&error)),
    }
    // The index of all modules is the largest thing PID 1 ever holds.
    linux::system::trim_heap();
}

/// Where `/etc/machine-id` points.
const MACHINE_ID: &str = "/run/machine-id";

fn establish_identity(context: &Rc<Context>) -> Result<(), String> {
    let random = identity::random().map_err(|error| format!("random numbers: {error}"))?;
    let identity = Identity::new(&identity::hardware(Path::new("/sys")), random);
    if !identity.is_stable() {
        tracing::info!(
            "the hardware names no unique machine; its id is random and a lost lease is waited for in full"
        );
    }
    fs::write(MACHINE_ID, identity.machine_id() + "\n")
        .map_err(|error| format!("{MACHINE_ID}: {error}"))?;
    // Until the configuration says another, which a bad one never does.
    let name = default_host_name(&identity);
    if let Err(error) = system::set_host_name(&name) {
        tracing::warn!("host name {name}: {error}");
    }
    context.facts.borrow_mut().identity = Some(identity);
    Ok(())
}

/// The kernel has set the clock from the hardware's. One that lost its battery
/// stands before the image was built, which cannot be.
fn clock() -> Result<(), String> {
    let Ok(built) = fs::metadata(RELEASE).and_then(|metadata| metadata.modified()) else {
        return Ok(());
    };
    let built = built
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let now = system::wall_clock();
    if now < built {
        system::set_wall_clock(built).map_err(|error| format!("wall clock: {error}"))?;
        tracing::warn!(
            "wall clock stood at {} s since 1970, before the image was built; set to {} s",
            now.as_secs(),
            built.as_secs()
        );
    }
    Ok(())
}

async fn config(context: &Rc<Context>) -> Result<(), String> {
    let loaded = config_source::load(context).await;
    let report = loaded.report.clone();
    let good = loaded.config.is_some();
    context.facts.borrow_mut().loaded = Some(loaded);
    let source = report.source.as_deref().unwrap_or("none");
    if good {
        tracing::info!("configuration from {source}");
        return Ok(());
    }
    tracing::error!("configuration from {source} is bad; the node stays up without it:");
    for mistake in &report.mistakes {
        tracing::error!("  {mistake}");
    }
    let first = report.mistakes.first().map_or("", String::as_str);
    Err(format!(
        "{source}: {} mistake{}, first: {first}",
        report.mistakes.len(),
        if report.mistakes.len() == 1 { "" } else { "s" }
    ))
}

fn hostname(context: &Rc<Context>) -> Result<(), String> {
    let facts = context.facts.borrow();
    let configured = facts
        .loaded
        .as_ref()
        .and_then(|loaded| loaded.config.as_ref()?.hostname.clone());
    let name = configured
        .or_else(|| Some(default_host_name(facts.identity.as_ref()?)))
        .unwrap_or_else(|| "holdfast-unknown".to_owned());
    system::set_host_name(&name).map_err(|error| format!("host name {name}: {error}"))
}

fn default_host_name(identity: &Identity) -> String {
    let id = identity.machine_id();
    format!("holdfast-{}", id.get(..8).unwrap_or(&id))
}

async fn coldplug(context: &Rc<Context>) -> Result<(), String> {
    let release = system::kernel_release();
    let work = move || {
        static_nodes(
            &Path::new("/usr/lib/modules")
                .join(release)
                .join("modules.devname"),
        );
        linux::uevent::coldplug(Path::new("/sys"))
    };
    let asked = worker::run("coldplug", work)
        .await
        .and_then(|asked| asked)
        .map_err(|error| format!("coldplug: {error}"));
    // Failed or not: nothing more will be asked, and others wait for this.
    context.facts.borrow_mut().coldplugged = Some(time::now());
    let asked = asked?;
    tracing::info!("coldplug asked {asked} devices");
    Ok(())
}

/// Nodes whose first use loads their module (`/dev/net/tun`, `/dev/fuse`):
/// the kernel makes only those of drivers it has already.
fn static_nodes(list: &Path) {
    let Ok(text) = fs::read_to_string(list) else {
        return;
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (Some(_module), Some(node), Some(device)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if let Err(error) = linux::system::make_node(&Path::new("/dev").join(node), device)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            tracing::warn!("device node {node}: {error}");
        }
    }
}

async fn state_volume(context: &Rc<Context>) -> Outcome {
    let mounted = match volume::find(context, control::STATE_LABEL).await {
        None => None,
        Some(Ok(found)) => Some(volume::mount(&found, STATE_MOUNT, false).await),
        Some(Err(fault)) => Some(Err(fault)),
    };
    let mut facts = context.facts.borrow_mut();
    facts.state_volume = Some(mounted == Some(Ok(())));
    match mounted {
        None => Outcome::Skipped(format!("no volume is labelled {}", control::STATE_LABEL)),
        Some(Ok(())) => Outcome::Done,
        Some(Err(fault)) => {
            facts.state_fault = Some(fault.clone());
            Outcome::Failed(fault)
        }
    }
}

async fn entropy(context: &Rc<Context>) -> Outcome {
    if context.facts.borrow().state_volume != Some(true) {
        return Outcome::Skipped("no state volume to keep a seed on".to_owned());
    }
    let work = || {
        let mut seed = [0; SEED_BYTES];
        match fs::File::open(SEED_FILE).and_then(|mut file| file.read_exact(&mut seed)) {
            Ok(()) => {
                // Replaced before it is counted: used twice it would be worth nothing.
                save_seed()?;
                system::credit_entropy(&seed)
            }
            Err(_) => save_seed(),
        }
    };
    match worker::run("entropy", work).await.and_then(|done| done) {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Failed(format!("{SEED_FILE}: {error}")),
    }
}

/// Keeps a fresh seed for the next boot.
///
/// # Errors
/// The state volume refuses.
pub fn save_seed() -> io::Result<()> {
    let mut seed = [0; SEED_BYTES];
    system::random_bytes(&mut seed)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(SEED_FILE)?;
    file.write_all(&seed)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_settled_only_after_coldplug_and_a_quiet_while() {
        let mut facts = Facts {
            last_uevent: 5_000,
            ..Facts::default()
        };
        assert!(
            !facts.devices_settled(UNSETTLED_MAX_MS - 1),
            "coldplug has not even begun"
        );
        assert!(facts.devices_settled(UNSETTLED_MAX_MS), "nor ever will");
        facts.coldplugged = Some(4_000);
        assert!(!facts.devices_settled(5_000 + SETTLE_MS - 1));
        // On a machine whose own udevd is busy the queue file may exist.
        assert_eq!(
            facts.devices_settled(5_000 + SETTLE_MS),
            !Path::new("/run/udev/queue").exists() && !disks_under_way(Path::new(SCSI_DEVICES))
        );
        // Events without end.
        facts.last_uevent = 4_000 + SETTLE_MAX_MS - 1;
        assert!(!facts.devices_settled(4_000 + SETTLE_MAX_MS - 1));
        assert!(facts.devices_settled(4_000 + SETTLE_MAX_MS));
    }

    #[test]
    fn a_disk_counts_as_there_only_with_its_block_device() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!disks_under_way(&folder.path().join("missing")));
        for (name, kind) in [("0:0:0:0", "0\n"), ("0:0:1:0", "5\n"), ("0:0:2:0", "13\n")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("type"), kind).unwrap();
        }
        std::fs::create_dir(folder.path().join("host0")).unwrap();
        assert!(disks_under_way(folder.path()), "its driver is not done");
        std::fs::create_dir(folder.path().join("0:0:0:0/block")).unwrap();
        assert!(
            !disks_under_way(folder.path()),
            "a CD drive and an enclosure have no disk to wait for"
        );
    }
}
