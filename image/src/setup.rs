//! Makes the machine ready: the Debian packages the whole project builds and tests with.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::progress::{Step, say};
use crate::{Error, apt, cache, run, sources, tree};

/// What each package is needed for is said once, here.
const PACKAGES: &[(&str, &str)] = &[
    ("apt", "fetches the image's packages"),
    ("ca-certificates", "mirrors reached by https"),
    ("cpio", "a test reads our initrd with it"),
    ("debian-archive-keyring", "checks the image's packages"),
    ("dnsmasq-base", "serves addresses in the network's tests"),
    ("dosfstools", "formats the EFI system partition"),
    ("dpkg", "unpacks the image's packages"),
    ("e2fsprogs", "formats state volumes in tests"),
    (
        "erofs-utils",
        "makes file systems to be recognised in tests",
    ),
    ("gcc", "links Rust programs"),
    ("git", "names the commit an image is made of"),
    ("iproute2", "sets up the networks of tests"),
    ("ipxe-qemu", "network boot in tests"),
    ("kmod", "mkosi runs depmod"),
    ("libc6-dev", "links Rust programs, statically too"),
    (
        "libsanlock-client1",
        "the original's client library, judging our daemon in tests",
    ),
    ("libvirt-clients", "starts virtual machines in tests"),
    ("libvirt-daemon", "runs virtual machines in tests"),
    (
        "libvirt-daemon-driver-qemu",
        "runs virtual machines in tests",
    ),
    (
        "libvirt-sanlock",
        "takes the leases of virtual machines in tests",
    ),
    ("lvm2", "makes block domains in tests"),
    ("mount", "mounts file systems in tests"),
    ("mtools", "fills configuration volumes in tests"),
    (
        "multipath-tools",
        "reads our multipath configuration in tests",
    ),
    ("nfs-ganesha", "an NFS server for nodes in tests"),
    ("nfs-ganesha-vfs", "an NFS server for nodes in tests"),
    ("open-iscsi", "asks an iSCSI target in tests"),
    ("ovmf", "firmware for UEFI boot in tests"),
    ("python3", "runs mkosi and the original sanlock's library"),
    ("python3-sanlock", "compares ours with the original"),
    ("qemu-system-x86", "runs the nodes of demo and tests"),
    ("qemu-utils", "makes disks for tests"),
    ("sanlock", "compares ours with the original"),
    ("strace", "kills lvm between its writes in tests"),
    ("systemd", "mkosi runs systemctl, sysusers and tmpfiles"),
    ("tar", "mkosi unpacks packages"),
    ("tgt", "an iSCSI target for nodes in tests"),
    ("util-linux", "mkosi's sandbox; loop devices in tests"),
    ("xz-utils", "unpacks the image's packages"),
    ("zstd", "unpacks the image's packages"),
];

/// Installs what is missing of the packages the project is built and tested with.
///
/// Does nothing when all are there. Needs root to install.
///
/// # Errors
///
/// [`Error::MissingPackages`], with the line to run, when not root; [`Error::Command`] when apt fails.
pub fn setup() -> Result<(), Error> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    let release = apt::machine_release()?;
    let cache = cache::directory()?;
    let _lock = cache::Lock::take(&cache)?;
    if !rustix::process::geteuid().is_root() {
        let command = format!("apt-get install {}", missing.join(" "));
        return Err(Error::MissingPackages { missing, command });
    }
    say(&format!(
        "Debian packages to install: {}",
        missing.join(" ")
    ));
    let log = cache.join("log");
    let step = Step::start("Debian package lists");
    run::logged(
        &step,
        "fetching package lists",
        Command::new("apt-get").arg("update"),
        &log.join("setup-update.log"),
    )?;
    step.finish("up to date");

    let mut command = install(&missing);
    if run::captured(install(&missing).arg("--simulate")).is_err() && release == "bookworm" {
        // A machine that has part of QEMU from backports refuses the rest of it from the release itself.
        say("apt refuses these versions together; taking newer ones from backports");
        command = install_from_backports(&cache, &release, &missing)?;
    }
    let step = Step::start("Installing Debian packages");
    run::logged(
        &step,
        "installing Debian packages",
        &mut command,
        &log.join("setup-install.log"),
    )?;
    step.finish(format!("{} installed", missing.len()));
    Ok(())
}

/// Packages of the table that are not installed.
fn missing() -> Result<Vec<String>, Error> {
    let mut command = Command::new("dpkg-query");
    command.args([
        "--show",
        "--showformat",
        "${binary:Package} ${db:Status-Status}\n",
    ]);
    Ok(not_installed(&run::captured(&mut command)?))
}

fn not_installed(query: &str) -> Vec<String> {
    let installed: BTreeSet<&str> = query
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(|name| name.split(':').next().unwrap_or(name))
        .collect();
    PACKAGES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !installed.contains(name))
        .map(str::to_owned)
        .collect()
}

fn install(packages: &[String]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages);
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C");
    command
}

/// The same with the backports of the machine's own mirrors added, the machine's configuration left as it is.
fn install_from_backports(
    cache: &Path,
    release: &str,
    packages: &[String],
) -> Result<Command, Error> {
    let dir = cache.join("backports");
    let lists = dir.join("lists/partial");
    fs::create_dir_all(&lists).map_err(Error::io("create", &lists))?;
    let text = sources::rewritten(
        &sources::of_this_machine(release)?,
        release,
        &["", "-backports"],
    );
    tree::write(&dir.join("sources/machine.sources"), text)?;
    let options = |command: &mut Command| {
        command.arg("-oDir::Etc::SourceList=/dev/null");
        command.arg(format!(
            "-oDir::Etc::SourceParts={}",
            dir.join("sources").display()
        ));
        command.arg(format!(
            "-oDir::State::Lists={}",
            dir.join("lists").display()
        ));
        command
            .arg("-oDir::Cache::pkgcache=")
            .arg("-oDir::Cache::srcpkgcache=");
    };
    let step = Step::start("Debian package lists with backports");
    let mut update = Command::new("apt-get");
    options(&mut update);
    update.arg("update");
    run::logged(
        &step,
        "fetching package lists",
        &mut update,
        &cache.join("log/setup-backports.log"),
    )?;
    step.finish("up to date");

    let mut command = install(packages);
    options(&mut command);
    command.arg(format!("--target-release={release}-backports"));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_half_installed_packages_are_missing() {
        let all: String = PACKAGES
            .iter()
            .map(|(name, _)| format!("{name} installed\n"))
            .collect();
        assert_eq!(not_installed(&all), Vec::<String>::new());
        let some = all
            .replace("sanlock installed\npython3-sanlock", "x\npython3-sanlock")
            .replace("zstd installed", "zstd config-files")
            .replace("libc6-dev installed", "libc6-dev:amd64 installed")
            .replace("mtools installed", "mtools:amd64 half-configured");
        assert_eq!(not_installed(&some), ["mtools", "zstd"]);
    }

    #[test]
    fn table_is_sorted_without_repetition() {
        assert!(PACKAGES.is_sorted_by(|a, b| a.0 < b.0));
    }
}
