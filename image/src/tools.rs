//! Build tools newer than the machine's, fetched from the release the image is made of and run from the cache.
//!
//! Installing them would upgrade the machine's C library; they run from a folder of their own instead.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::apt::{Apt, Package};
use crate::cache::Key;
use crate::progress::Step;
use crate::tree;

/// The tools, unpacked.
#[derive(Debug)]
pub(crate) struct Tools {
    mkosi: PathBuf,
    erofs: PathBuf,
    /// Name and version of each, for cache keys and the manifest.
    pub(crate) versions: Vec<Package>,
}

impl Tools {
    /// Fetches what is not in the cache yet.
    pub(crate) fn open(cache: &Path, apt: &Apt) -> Result<Self, Error> {
        // mkosi is pure Python: the machine's interpreter runs it, so it alone is needed.
        let mkosi: Vec<Package> = apt
            .resolve(&["mkosi"])?
            .into_iter()
            .filter(|(name, _)| name == "mkosi")
            .collect();
        let erofs = apt.resolve(&["erofs-utils"])?;
        let versions = mkosi
            .iter()
            .chain(erofs.iter().filter(|(name, _)| name == "erofs-utils"))
            .cloned()
            .collect();
        Ok(Self {
            mkosi: fetch(cache, apt, "mkosi", &mkosi)?,
            erofs: fetch(cache, apt, "erofs-utils", &erofs)?,
            versions,
        })
    }

    /// `mkosi`, to be given arguments.
    pub(crate) fn mkosi(&self) -> Command {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-m", "mkosi"]).env(
            "PYTHONPATH",
            self.mkosi.join("usr/lib/python3/dist-packages"),
        );
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// `mkfs.erofs`, to be given arguments.
    pub(crate) fn mkfs_erofs(&self) -> Command {
        foreign(&self.erofs, "usr/bin/mkfs.erofs", "mkfs.erofs")
    }
}

/// A program of the Debian tree `root`, run by that tree's own loader with that tree's libraries.
pub(crate) fn foreign(root: &Path, program: &str, name: &str) -> Command {
    let mut command = Command::new(root.join("usr/lib64/ld-linux-x86-64.so.2"));
    let libraries = [
        "usr/lib/x86_64-linux-gnu",
        "lib/x86_64-linux-gnu",
        "usr/lib",
    ];
    let path: Vec<String> = libraries
        .iter()
        .map(|dir| root.join(dir).display().to_string())
        .collect();
    command
        .arg("--library-path")
        .arg(path.join(":"))
        .arg("--argv0")
        .arg(name)
        .arg(root.join(program));
    command
}

fn fetch(cache: &Path, apt: &Apt, name: &str, packages: &[Package]) -> Result<PathBuf, Error> {
    let mut key = Key::default();
    for (package, version) in packages {
        key.add(package, version.as_bytes());
    }
    let dir = cache
        .join("tools")
        .join(format!("{name}-{}", &key.finish()[..16]));
    if !dir.join("complete").exists() {
        let step = Step::start(format!("Fetching {name}"));
        apt.unpack(packages, &dir)?;
        tree::write(&dir.join("complete"), "")?;
        step.finish(format!("{} packages", packages.len()));
    }
    Ok(dir)
}
