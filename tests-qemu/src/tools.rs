//! Programs of the host the scenarios need, and what to install when one is
//! missing: a missing tool is a failure, never a skipped test.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Program and the Debian package that brings it.
const PROGRAMS: &[(&str, &str)] = &[
    ("dumpe2fs", "e2fsprogs"),
    ("ganesha.nfsd", "nfs-ganesha nfs-ganesha-vfs"),
    ("ip", "iproute2"),
    ("mcopy", "mtools"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mount", "mount"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("nsenter", "util-linux"),
    ("sanlock", "sanlock"),
    ("tgtadm", "tgt"),
    ("tgtd", "tgt"),
    ("unshare", "util-linux"),
];

/// Fails with the install line unless every program of the scenarios runs.
pub fn check() -> Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !exists(program))
        .map(|&(_, package)| package)
        .collect();
    ensure!(
        missing.is_empty(),
        "missing programs; install them as root with: apt-get install --no-install-recommends {}",
        missing.join(" ")
    );
    Ok(())
}

/// Runs a program to its end and answers with its output; a failure carries
/// both its streams.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| missing(program))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {}: {}\n{text}{errors}",
            arguments.join(" "),
            output.status
        );
    }
    Ok(text)
}

fn missing(program: &str) -> String {
    let package = PROGRAMS
        .iter()
        .find(|(name, _)| program.rsplit('/').next() == Some(name))
        .map_or(program, |&(_, package)| package);
    format!(
        "{program} does not start; install it as root with: apt-get install --no-install-recommends {package}"
    )
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps daemons where an ordinary user's path does not look.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}
