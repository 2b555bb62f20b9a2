//! The reference machine of the boot benchmark: a plain Debian with systemd in the node's place.
//!
//! | | node | reference |
//! |---|---|---|
//! | kernel | Debian's, from the shared tree | the same file |
//! | initrd | ours | initramfs-tools, Debian's default settings |
//! | root | EROFS, read-only | ext4, writable, as Debian's installer makes it |
//! | PID 1 | supervisor | systemd |
//! | devices, log | systemd-udevd, systemd-journald | the same |
//! | network | supervisor | systemd-networkd: the same bridge, DHCPv4, no spanning tree, no IPv6 |
//! | leases, watchdog | leased, supervisor | sanlock, wdmd |
//! | power button, logins | supervisor, `nodectl console` | systemd-logind with dbus, getty |
//! | storage | the same tools, no daemon of theirs started | what lvm2, multipath-tools, open-iscsi, nfs-common start |
//!
//! It is lean on purpose: no recommended package, no ssh, no cron, no time service, nothing a package does not enable by
//! itself. First-boot work (machine id, hardware database, journal catalogue) is done when it is built, so that only an
//! ordinary boot is measured. What it is not: tuned. Every setting that is not named here or in `image/reference/` is
//! Debian's default.

use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::Apt;
use crate::base::{self, Base};
use crate::cache::{self, Key, Lock};
use crate::progress::{Step, say};
use crate::tools::{self, Tools};
use crate::{Error, Options, disk, run, tree};

/// Any constant will do, but the root must be found by it.
const ROOT_UUID: &str = "72656665-7265-4e63-8000-726f6f740001";

/// The rest of its command line. Status lines of services are off, as on an installed Debian with `quiet`: an emulated
/// serial line is slow, and `quiet` itself would hide the kernel's hand-over.
const CMDLINE: &str = "ro panic=10 console=ttyS0 systemd.show_status=auto";

/// Room left on the root for logs.
const FREE_BYTES: u64 = 256 << 20;

/// A finished reference machine.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The folder that holds everything below.
    pub dir: PathBuf,
    /// The kernel, byte for byte the node's.
    pub vmlinuz: PathBuf,
    /// Debian's initrd.
    pub initrd: PathBuf,
    /// A GPT disk laid out as the node's. The machine writes to it: give it a copy.
    pub disk: PathBuf,
    /// The kernel command line for booting from `disk`.
    pub cmdline: String,
}

impl Reference {
    fn new(dir: PathBuf) -> Self {
        Self {
            vmlinuz: dir.join("vmlinuz"),
            initrd: dir.join("initrd.img"),
            disk: dir.join("disk.raw"),
            cmdline: format!("root=PARTUUID={ROOT_UUID} {CMDLINE}"),
            dir,
        }
    }
}

/// Builds the reference machine of the boot benchmark into the cache, or returns the one already there.
///
/// Of `options`, the source tree counts; neither profile nor output folder matter.
///
/// # Errors
///
/// Any [`Error`]; the message names the step, the log file and its last lines.
pub fn reference(options: &Options) -> Result<Reference, Error> {
    let cache = cache::directory()?;
    let _lock = Lock::take(&cache)?;
    let apt = Apt::open(&cache)?;
    let tools = Tools::open(&cache, &apt)?;
    let base = base::build(&cache, &apt, &tools, &options.source, None)?;
    let source = options.source.join("image/reference");
    let conf = source.join("mkosi.conf");
    let conf = fs::read_to_string(&conf).map_err(Error::io("read", &conf))?;

    let mut key = Key::default();
    key.add("base", base.key.as_bytes());
    for (name, version) in base::resolve(&apt, &conf)? {
        key.add(&name, version.as_bytes());
    }
    key.add_tree(&source)?;
    key.add("builder", include_bytes!("reference.rs"));
    let key = key.finish();
    // One is enough: another takes its place when anything it is made from changes.
    let dir = cache.join("reference");
    let complete = dir.join("complete");
    if fs::read_to_string(&complete).ok().as_ref() == Some(&key) {
        say(&format!(
            "reference machine in {} is up to date",
            dir.display()
        ));
        return Ok(Reference::new(dir));
    }
    tree::empty(&dir)?;
    make(&cache, &apt, &tools, &base, &source, &dir)?;
    tree::write(&complete, &key)?;
    Ok(Reference::new(dir))
}

/// Makes all files of the reference machine in `dir`.
fn make(
    cache: &Path,
    apt: &Apt,
    tools: &Tools,
    base: &Base,
    source: &Path,
    dir: &Path,
) -> Result<(), Error> {
    let work = cache.join("work");
    tree::empty(&work)?;
    let step = Step::start("Reference machine (mkosi)");
    let mut command = tools.mkosi();
    command.arg("--directory").arg(source);
    command.arg("--output-directory").arg(dir);
    command.arg("--workspace-directory").arg(&work);
    command.arg("--package-cache-dir").arg(apt.packages());
    command.arg("--sandbox-tree").arg(apt.sandbox_tree());
    command.arg("--base-tree").arg(&base.root);
    command.args(["--cache-only=metadata", "--force", "build"]);
    run::logged(
        &step,
        "building the reference machine",
        &mut command,
        &cache.join("log/reference.log"),
    )?;
    step.finish("done");

    let step = Step::start("Kernel, initrd and disk of the reference machine");
    let root = dir.join("reference");
    let version = base.kernel_version()?;
    let files = Reference::new(dir.to_owned());
    let modules = base.root.join("usr/lib/modules");
    tree::copy(&modules.join(&version).join("vmlinuz"), &files.vmlinuz)?;
    tree::copy(
        &root.join(format!("boot/initrd.img-{version}")),
        &files.initrd,
    )?;
    let file_system = dir.join("root.ext4");
    make_ext4(base, &root, &file_system)?;
    disk::write(&files.disk, &file_system, ROOT_UUID)?;
    fs::remove_file(&file_system).map_err(Error::io("remove", &file_system))?;
    // mkosi's own copy of the kernel, and the tree, which is on the disk now.
    tree::remove(&root)?;
    let spare = dir.join("reference.vmlinuz");
    if spare.exists() {
        fs::remove_file(&spare).map_err(Error::io("remove", &spare))?;
    }
    tree::remove(&work)?;
    step.finish("written");
    Ok(())
}

/// Packs the tree `root` as ext4, with the tool and the defaults of the Debian it holds.
fn make_ext4(base: &Base, root: &Path, out: &Path) -> Result<(), Error> {
    /// What ext4 needs for itself, per thousand bytes of contents; journal and inode tables included.
    const OVERHEAD_PER_MILLE: u64 = 150;
    let mut bytes = 0;
    for path in tree::walk(root)? {
        let path = root.join(path);
        let meta = fs::symlink_metadata(&path).map_err(Error::io("read", &path))?;
        bytes += meta.len().next_multiple_of(4096);
    }
    let kib = (bytes + bytes * OVERHEAD_PER_MILLE / 1000 + FREE_BYTES) / 1024;
    let mut command = tools::foreign(&base.root, "usr/sbin/mke2fs", "mke2fs");
    command.env("MKE2FS_CONFIG", base.root.join("etc/mke2fs.conf"));
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", "reference"]);
    // Otherwise the kernel would finish the file system's tables while it is being measured.
    command.args(["-E", "lazy_itable_init=0,lazy_journal_init=0"]);
    command.arg("-d").arg(root).arg(out).arg(format!("{kib}k"));
    run::captured(&mut command).map(drop)
}
