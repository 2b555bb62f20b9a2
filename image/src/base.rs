//! The Debian tree the root is taken from, made by mkosi and kept in the cache.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::apt::{Apt, Package};
use crate::cache::Key;
use crate::progress::{Step, say};
use crate::tools::Tools;
use crate::{run, tree};

/// How many trees the cache keeps: the one in use, and one to come back to from another branch.
const KEPT: usize = 2;

/// A complete Debian tree.
#[derive(Debug)]
pub(crate) struct Base {
    /// The tree's root folder.
    pub(crate) root: PathBuf,
    /// What it was made from.
    pub(crate) key: String,
}

impl Base {
    /// The version of the only kernel in it.
    pub(crate) fn kernel_version(&self) -> Result<String, Error> {
        let dir = self.root.join("usr/lib/modules");
        let mut versions = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("list", &dir))? {
            let name = entry.map_err(Error::io("list", &dir))?.file_name();
            versions.push(name.to_string_lossy().into_owned());
        }
        match versions.as_slice() {
            [version] => Ok(version.clone()),
            _ => Err(Error::Input(format!(
                "kernels in the Debian tree: {versions:?}, exactly one is expected"
            ))),
        }
    }
}

/// Returns the tree for `source`'s `mkosi.conf` and today's packages, from the cache unless `fresh`.
///
/// A fresh tree is made in `work` and left out of the cache, so that it really is a second one.
pub(crate) fn build(
    cache: &Path,
    apt: &Apt,
    tools: &Tools,
    source: &Path,
    fresh: Option<&Path>,
) -> Result<Base, Error> {
    let conf_path = source.join("mkosi.conf");
    let conf = fs::read_to_string(&conf_path).map_err(Error::io("read", &conf_path))?;
    let packages = resolve(apt, &conf)?;
    let mut key = Key::default();
    key.add("mkosi.conf", conf.as_bytes());
    for (name, version) in packages.iter().chain(&tools.versions) {
        key.add(name, version.as_bytes());
    }
    let key = key.finish();
    let bases = cache.join("base");
    let dir = fresh.map_or_else(|| bases.join(&key[..16]), Path::to_owned);
    if fresh.is_none() && dir.join("complete").exists() {
        tree::write(&dir.join("complete"), &key)?;
        return Ok(Base {
            root: dir.join("base"),
            key,
        });
    }

    let step = Step::start(format!(
        "Debian tree of {} packages (mkosi)",
        packages.len()
    ));
    let work = cache.join("work");
    tree::empty(&dir)?;
    tree::empty(&work)?;
    let mut command = tools.mkosi();
    command.arg("--directory").arg(source);
    command.arg("--output-directory").arg(&dir);
    command.arg("--workspace-directory").arg(&work);
    command.arg("--package-cache-dir").arg(apt.packages());
    command.arg("--sandbox-tree").arg(apt.sandbox_tree());
    // The lists are fetched already, and both must see the same ones.
    command.args(["--cache-only=metadata", "--force", "build"]);
    run::logged(
        &step,
        "building the Debian tree",
        &mut command,
        &cache.join("log/mkosi.log"),
    )?;
    tree::remove(&work)?;
    tree::write(&dir.join("complete"), &key)?;
    step.finish("done");
    if fresh.is_none() {
        forget_old(&bases)?;
    }
    Ok(Base {
        root: dir.join("base"),
        key,
    })
}

/// Every package mkosi will install: those of its configuration, the essential ones, and what they need.
pub(crate) fn resolve(apt: &Apt, conf: &str) -> Result<Vec<Package>, Error> {
    let mut names = vec!["?essential", "base-files"];
    names.extend(packages(conf));
    apt.resolve(&names)
}

/// The values of every `Packages=` in a mkosi configuration.
fn packages(conf: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in conf.lines().filter(|line| !line.starts_with('#')) {
        let value = if let Some(value) = line.strip_prefix("Packages=") {
            inside = true;
            value
        } else if inside && line.starts_with([' ', '\t']) {
            line
        } else {
            inside = false;
            continue;
        };
        found.extend(value.split_whitespace());
    }
    found
}

/// Removes all but the trees used last.
fn forget_old(bases: &Path) -> Result<(), Error> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(bases).map_err(Error::io("list", bases))? {
        let path = entry.map_err(Error::io("list", bases))?.path();
        let used = fs::metadata(path.join("complete"))
            .and_then(|meta| meta.modified())
            .ok();
        dirs.push((used, path));
    }
    dirs.sort();
    for (_, path) in dirs.iter().rev().skip(KEPT) {
        say(&format!("removing an old Debian tree, {}", path.display()));
        tree::remove(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_every_section_are_found() {
        let conf = "[Content]\nPackages=\n        a\n\tb\nWithDocs=no\n\n# more\nPackages=c d\n        e\n[Output]\n        f\n";
        assert_eq!(packages(conf), ["a", "b", "c", "d", "e"]);
    }
}
