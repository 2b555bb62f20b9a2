//! Control groups, version 2: one directory a group, one file a knob.
//!
//! Everything here is plain file access below the mount of `cgroup2`; no call
//! waits for a process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the hierarchy is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// One control group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the group `name` below `parent` (an existing group is taken as it is).
    ///
    /// # Errors
    /// The hierarchy is missing, or the kernel refuses another group.
    pub fn create(parent: &Path, name: &str) -> io::Result<Self> {
        let path = parent.join(name);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(Self { path })
    }

    /// Directory of the group.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves process `pid` (0: the caller) into the group.
    ///
    /// # Errors
    /// No such process, or the group has controllers enabled for its children.
    pub fn join(&self, pid: u32) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.to_string())
    }

    /// Writes a limit, e.g. `memory.max` = `64M`.
    ///
    /// # Errors
    /// The controller is not enabled here, or the value is not understood.
    pub fn limit(&self, knob: &str, value: &str) -> io::Result<()> {
        fs::write(self.path.join(knob), value)
    }

    /// Sends SIGKILL to every process of the group and of the groups below.
    ///
    /// # Errors
    /// The group is gone, or the kernel is older than 5.14.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether a process lives in the group or below.
    ///
    /// # Errors
    /// The group is gone.
    pub fn populated(&self) -> io::Result<bool> {
        let events = fs::read_to_string(self.path.join("cgroup.events"))?;
        Ok(events.lines().any(|line| line == "populated 1"))
    }
}

/// Hands `controllers` of the group at `path` to its children. A controller the
/// kernel lacks is left out and returned.
///
/// # Errors
/// The list of controllers cannot be read, or the group refuses to delegate
/// (it still has processes of its own).
pub fn delegate<'a>(path: &Path, controllers: &[&'a str]) -> io::Result<Vec<&'a str>> {
    let offered = fs::read_to_string(path.join("cgroup.controllers"))?;
    let mut missing = Vec::new();
    for controller in controllers {
        if offered.split_whitespace().any(|name| name == *controller) {
            fs::write(
                path.join("cgroup.subtree_control"),
                format!("+{controller}"),
            )?;
        } else {
            missing.push(*controller);
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delegation_names_the_controllers_the_kernel_lacks() {
        let directory =
            std::env::temp_dir().join(format!("holdfast-cgroup-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("cgroup.controllers"), "cpu memory\n").unwrap();
        fs::write(directory.join("cgroup.subtree_control"), "").unwrap();
        let missing = delegate(&directory, &["memory", "pids"]).unwrap();
        assert_eq!(missing, ["pids"]);
        assert_eq!(
            fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap(),
            "+memory"
        );
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_existing_group_is_taken_and_a_missing_hierarchy_is_an_error() {
        let directory =
            std::env::temp_dir().join(format!("holdfast-cgroup-make-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let first = Cgroup::create(&directory, "leased").unwrap();
        assert_eq!(Cgroup::create(&directory, "leased").unwrap(), first);
        fs::write(
            first.path().join("cgroup.events"),
            "populated 1\nfrozen 0\n",
        )
        .unwrap();
        assert!(first.populated().unwrap());
        assert!(Cgroup::create(&directory.join("missing"), "leased").is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
