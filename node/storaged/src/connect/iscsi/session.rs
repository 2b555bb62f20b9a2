//! iSCSI sessions, as the kernel lists them: nothing here waits for a target.

use std::fs;
use std::path::Path;

use super::portal::Portal;

/// Most sessions listed; a host has a few dozen.
const SESSIONS_MAX: usize = 4096;

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The kernel's number.
    pub id: u32,
    /// Target it is with.
    pub target: String,
    /// Portal that was asked for (a target may redirect to another).
    pub portal: Portal,
    /// Interface record it was made by.
    pub interface: String,
    /// `LOGGED_IN`, `FAILED`, `FREE`.
    pub state: String,
    /// The kernel's names of its disks.
    pub disks: Vec<String>,
}

impl Session {
    /// Whether commands reach the target.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == "LOGGED_IN"
    }
}

/// The sessions of this host by number; none where the kernel has no iSCSI.
#[must_use]
pub fn list(sys: &Path) -> Vec<Session> {
    let class = sys.join("class/iscsi_session");
    let mut sessions: Vec<Session> = names(&class)
        .iter()
        .take(SESSIONS_MAX)
        .filter_map(|name| read(sys, name))
        .collect();
    sessions.sort_by_key(|session| session.id);
    sessions
}

fn read(sys: &Path, name: &str) -> Option<Session> {
    let id = name.strip_prefix("session")?.parse().ok()?;
    let folder = sys.join("class/iscsi_session").join(name);
    let connection = sys
        .join("class/iscsi_connection")
        .join(format!("connection{id}:0"));
    let group = attribute(&folder, "tpgt").and_then(|text| text.parse().ok());
    Some(Session {
        id,
        target: attribute(&folder, "targetname")?,
        portal: Portal {
            host: super::portal::canonical(&attribute(&connection, "persistent_address")?),
            port: attribute(&connection, "persistent_port")?.parse().ok()?,
            group,
        },
        interface: attribute(&folder, "ifacename").unwrap_or_else(|| "default".into()),
        state: attribute(&folder, "state").unwrap_or_default(),
        disks: disks(&folder.join("device")),
    })
}

/// `device/target2:0:0/2:0:0:1/block/sdb`
fn disks(device: &Path) -> Vec<String> {
    let mut disks = Vec::new();
    for target in names(device) {
        if !target.starts_with("target") {
            continue;
        }
        for unit in names(&device.join(&target)) {
            disks.extend(names(&device.join(&target).join(unit).join("block")));
        }
    }
    disks.sort();
    disks
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// A line of sysfs; `None` when it is not there or the kernel has no value.
fn attribute(folder: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(folder.join(name)).ok()?;
    let text = text.trim();
    (!text.is_empty() && text != "<NULL>" && text != "(null)").then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn sessions_are_read_with_their_disks_and_half_gone_ones_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let sys = folder.path();
        assert_eq!(list(sys), Vec::new());
        for (id, host, state) in [(12, "10.0.0.2", "FAILED"), (3, "fe80::1", "LOGGED_IN")] {
            let session = format!("class/iscsi_session/session{id}");
            put(
                sys,
                &format!("{session}/targetname"),
                "iqn.2026-11.test:one\n",
            );
            put(sys, &format!("{session}/tpgt"), "1\n");
            put(sys, &format!("{session}/ifacename"), "default\n");
            put(sys, &format!("{session}/state"), &format!("{state}\n"));
            put(
                sys,
                &format!("{session}/device/target{id}:0:0/{id}:0:0:1/block/sd{id}/size"),
                "8",
            );
            put(sys, &format!("{session}/device/power/control"), "on");
            let connection = format!("class/iscsi_connection/connection{id}:0");
            put(sys, &format!("{connection}/persistent_address"), host);
            put(sys, &format!("{connection}/persistent_port"), "3260\n");
        }
        put(
            sys,
            "class/iscsi_session/session4/targetname",
            "iqn.going:away\n",
        );
        let sessions = list(sys);
        assert_eq!(sessions.len(), 2);
        assert_eq!(sessions[0].portal.to_string(), "[fe80::1]:3260,1");
        assert!(sessions[0].is_up());
        assert_eq!(sessions[0].disks, ["sd3"]);
        assert_eq!(sessions[1].id, 12);
        assert!(!sessions[1].is_up());
    }
}
