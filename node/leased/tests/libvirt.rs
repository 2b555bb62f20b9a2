//! Virtual machines of unmodified libvirt: its sanlock plugin takes the lease
//! of a disk from the daemon before QEMU may run.
//!
//! A "host" is a daemon and a libvirtd in namespaces of their own; both see
//! the same directory of leases, and the same path for the guest's disk.

mod support;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use support::client::{Resource, Space, code};
use support::host::{Host, Kind};
use support::{command, wait_for};
use tempfile::TempDir;

/// Who serves the first host, and who the second.
const PAIRS: &[(Kind, Kind)] = &[
    (Kind::Ours, Kind::Ours),
    (Kind::Ours, Kind::Original),
    (Kind::Original, Kind::Ours),
];

/// Every pair at the same time: mostly they wait.
fn every_pair(body: impl Fn(Kind, Kind) + Sync) {
    std::thread::scope(|scope| {
        for (first, second) in PAIRS {
            let body = &body;
            scope.spawn(move || body(*first, *second));
        }
    });
}

const AUTOMATIC: &str = "__LIBVIRT__DISKS__";

/// A machine without an operating system, halted in its firmware.
fn domain(lease: Option<&Resource>) -> String {
    let lease = lease.map_or_else(String::new, |lease| {
        format!(
            "<lease><lockspace>{}</lockspace><key>{}</key><target path='{}' offset='{}'/></lease>",
            lease.lockspace,
            lease.name,
            lease.path.display(),
            lease.offset
        )
    });
    format!(
        "<domain type='qemu'><name>tiny</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
         <disk type='file' device='disk'><driver name='qemu' type='raw'/>
         <source file='/run/guest.img'/><target dev='vda' bus='virtio'/></disk>
         <controller type='usb' model='none'/><memballoon model='none'/>{lease}</devices></domain>"
    )
}

/// A libvirtd with the daemon it asks.
struct Machine {
    host: Host,
    libvirtd: Child,
    dir: TempDir,
}

impl Machine {
    fn start(kind: Kind, host_id: u64, leases: &Path) -> Self {
        let plugins = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
            .map(|arch| format!("/usr/lib/{arch}/libvirt/lock-driver/sanlock.so"));
        assert!(
            plugins.iter().any(|path| Path::new(path).exists()),
            "libvirt's sanlock plugin is missing; install it with: apt-get install -y libvirt-sanlock"
        );
        command("qemu-system-x86", "qemu-system-x86_64");
        let name = format!("host-{host_id}");
        let host = Host::start(kind, &name);
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display();
        for (file, text) in [
            (
                "daemon.conf",
                format!(
                    "unix_sock_dir = \"{at}\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n\
                     log_outputs = \"1:file:{at}/log\"\nlog_filters = \"1:locking 3:*\"\n"
                ),
            ),
            (
                "qemu.conf",
                "lock_manager = \"sanlock\"\nsecurity_driver = \"none\"\nuser = \"root\"\n\
                 group = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
                 cgroup_controllers = [ ]\nnamespaces = [ ]\nseccomp_sandbox = 0\n\
                 stdio_handler = \"file\"\n"
                    .to_owned(),
            ),
            (
                "qemu-sanlock.conf",
                format!(
                    "auto_disk_leases = 1\ndisk_lease_dir = \"{}\"\nhost_id = {host_id}\n\
                     io_timeout = 1\nrequire_lease_for_disks = 1\n",
                    leases.display()
                ),
            ),
        ] {
            fs::write(dir.path().join(file), text).expect("written");
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/libvirt.sh");
        let log = File::create(dir.path().join("output")).expect("a log");
        let libvirtd = command("util-linux", "unshare")
            .args(["--mount", "--net", "sh"])
            .arg(script)
            .arg(dir.path())
            .env("SANLOCK_RUN_DIR", host.run_dir())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("starts");
        let machine = Self {
            host,
            libvirtd,
            dir,
        };
        wait_for("libvirtd has its driver and lockspace", || {
            machine.virsh(&["list"]).is_ok().then_some(())
        });
        machine
    }

    fn socket(&self) -> PathBuf {
        ["libvirt-sock", "virtqemud-sock"]
            .map(|name| self.dir.path().join(name))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_default()
    }

    /// What virsh says, on standard output or as its error.
    fn virsh(&self, arguments: &[&str]) -> Result<String, String> {
        let uri = format!("qemu+unix:///system?socket={}", self.socket().display());
        let output = command("libvirt-clients", "virsh")
            .args(["--quiet", "--connect", &uri])
            .args(arguments)
            .env("LC_ALL", "C")
            .output()
            .expect("runs");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn create(&self, lease: Option<&Resource>) -> Result<String, String> {
        let file = self.dir.path().join("domain.xml");
        fs::write(&file, domain(lease)).expect("written");
        self.virsh(&["create", &file.display().to_string()])
    }

    fn done(&self, arguments: &[&str]) -> String {
        self.virsh(arguments)
            .unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{}", self.log()))
    }

    fn state(&self) -> String {
        self.done(&["domstate", "tiny"]).trim().to_owned()
    }

    /// Refused, for the reason that the lease is elsewhere.
    fn refused(&self, result: &Result<String, String>) {
        let error = result.as_ref().expect_err("refused");
        assert!(
            error.contains("acquire lock") || error.contains("resource busy"),
            "{error}\n{}",
            self.log()
        );
    }

    fn log(&self) -> String {
        ["output", "log"]
            .map(|name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default())
            .concat()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.virsh(&["destroy", "tiny"]).ok();
        if std::thread::panicking() {
            eprintln!("--- libvirtd:\n{}", self.log());
        }
        let group = i32::try_from(self.libvirtd.id()).ok();
        let group = group.and_then(Pid::from_raw).expect("a pid");
        kill_process_group(group, Signal::KILL).ok();
        self.libvirtd.wait().ok();
    }
}

/// The machines' records of STATUS: (holder's name by pid, resource texts).
fn holders(host: &Host) -> (Vec<String>, Vec<String>) {
    let named = |wanted| {
        host.status()
            .into_iter()
            .filter(|(kind, ..)| *kind == wanted)
            .map(|(_, name, _)| name)
            .collect::<Vec<_>>()
    };
    (named(2), named(4))
}

#[test]
fn a_running_guest_keeps_its_disk_from_a_second_host() {
    every_pair(|first, second| {
        let leases = support::disk_dir();
        let one = Machine::start(first, 1, leases.path());
        let two = Machine::start(second, 2, leases.path());
        let space = Space {
            name: AUTOMATIC.to_owned(),
            path: leases.path().join(AUTOMATIC),
            offset: 0,
            flags: 0,
        };
        for (machine, host_id) in [(&one, 1), (&two, 2)] {
            let joined = machine.host.inq_lockspace(&space, host_id);
            assert_eq!(joined, code::OK, "libvirt has joined it");
        }

        one.create(None)
            .unwrap_or_else(|error| panic!("{error}\n{}", one.log()));
        assert_eq!(one.state(), "running");
        let (clients, resources) = holders(&one.host);
        assert!(clients.contains(&"tiny".to_owned()), "{clients:?}");
        assert_eq!(resources.len(), 1, "a lease for its disk");
        two.refused(&two.create(None));

        // Paused, it has given the lease back: who resumes first has it.
        one.done(&["suspend", "tiny"]);
        assert_eq!(holders(&one.host).1, Vec::<String>::new());
        one.done(&["resume", "tiny"]);
        assert_eq!(holders(&one.host).1, resources);
        two.refused(&two.create(None));
        one.done(&["suspend", "tiny"]);
        two.create(None)
            .unwrap_or_else(|error| panic!("{error}\n{}", two.log()));
        assert_eq!(two.state(), "running");
        one.refused(&one.virsh(&["resume", "tiny"]));
        assert_eq!(one.state(), "paused");

        two.done(&["destroy", "tiny"]);
        one.virsh(&["destroy", "tiny"]).expect("destroyed");
        wait_for("released with the guest's end", || one.create(None).ok());
        assert_eq!(one.state(), "running");
    });
}

#[test]
fn a_guest_killed_with_its_daemon_alive_frees_its_disk() {
    every_pair(|first, second| {
        let leases = support::disk_dir();
        let one = Machine::start(first, 1, leases.path());
        let two = Machine::start(second, 2, leases.path());
        // Its own lease in a lockspace of the administrator's besides.
        let disk = support::host::Disk::new(support::host::Storage::File, 2);
        one.host.init_space(&disk.space(), 1);
        one.host.init_resource(&disk.resource(1));
        std::thread::scope(|scope| {
            for (machine, host_id) in [(&one, 1), (&two, 2)] {
                let space = disk.space();
                scope.spawn(move || assert_eq!(machine.host.join(&space, host_id, 1), code::OK));
            }
        });
        let lease = disk.resource(1);
        one.create(Some(&lease))
            .unwrap_or_else(|error| panic!("{error}\n{}", one.log()));
        let (_, mut resources) = holders(&one.host);
        resources.sort_unstable();
        assert_eq!(resources.len(), 2, "{resources:?}");
        assert!(resources.contains(&"R1".to_owned()), "{resources:?}");
        two.refused(&two.create(Some(&lease)));
        assert_eq!(two.host.owner_ids(&lease), [1]);

        let pid = fs::read_to_string(pid_file(&one)).ok();
        let pid = pid
            .and_then(|text| text.trim().parse().ok())
            .and_then(Pid::from_raw);
        rustix::process::kill_process(pid.expect("QEMU's pid"), Signal::KILL).expect("killed");
        wait_for("the second host may start it", || {
            two.create(Some(&lease)).ok()
        });
        assert_eq!(two.state(), "running");
        assert_eq!(one.host.owner_ids(&lease), [2]);
    });
}

/// Where the libvirtd in its namespace has QEMU's pid.
fn pid_file(machine: &Machine) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", machine.libvirtd.id()));
    root.join("run/libvirt/qemu/tiny.pid")
}
