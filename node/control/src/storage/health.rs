//! How storage is doing: paths of LUNs, checks of domains.

use serde::{Deserialize, Serialize};

/// The paths of one LUN on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LunPaths {
    /// World-wide name of the LUN.
    pub wwid: String,
    /// Name of its multipath map; absent while none has been made.
    pub map: Option<String>,
    /// Paths in all.
    pub paths: u32,
    /// Those the map uses and that work.
    pub active: u32,
    /// Those that do not work.
    pub failed: u32,
    /// iSCSI sessions it comes over: `target portal`.
    pub sessions: Vec<String>,
}

impl LunPaths {
    /// Whether `name` is this LUN: its world-wide name, its map's, or the path of
    /// that.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        let last = name.rsplit('/').next().unwrap_or(name);
        last == self.wwid || self.map.as_deref() == Some(last)
    }

    /// In a few words: `1 of 2 paths work`.
    #[must_use]
    pub fn words(&self) -> String {
        let what = if self.paths == 1 { "path" } else { "paths" };
        let work = if self.active == 1 { "works" } else { "work" };
        let (active, paths) = (self.active, self.paths);
        match (&self.map, self.active) {
            (None, _) => format!("no multipath map yet, {paths} {what}"),
            (Some(_), 0) => format!("none of {paths} {what} works"),
            (Some(_), _) => format!("{active} of {paths} {what} {work}"),
        }
    }
}

/// What other hosts' managers poll of a domain that is watched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainStats {
    /// 0: good; 358: the domain is not there; 200: anything else.
    pub code: u32,
    /// Milliseconds since the last check ended.
    pub last_check_ms: u64,
    /// Milliseconds its read took, rounded up.
    pub delay_ms: u64,
    /// Whether the last check went well.
    pub valid: bool,
    /// Version of the domain.
    pub version: u8,
    /// Whether this host's id in it is held.
    pub acquired: bool,
    /// Whether it was checked at all since it is watched.
    pub actual: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lun_is_known_by_each_of_its_names_and_tells_how_many_paths_work() {
        let mut lun = LunPaths {
            wwid: "36001405".into(),
            map: Some("mpatha".into()),
            paths: 2,
            active: 1,
            failed: 1,
            ..LunPaths::default()
        };
        for name in ["36001405", "mpatha", "/dev/mapper/mpatha"] {
            assert!(lun.is(name), "{name}");
        }
        assert!(!lun.is("3600140"));
        assert_eq!(lun.words(), "1 of 2 paths works");
        lun.active = 0;
        assert_eq!(lun.words(), "none of 2 paths works");
        lun.map = None;
        assert_eq!(lun.words(), "no multipath map yet, 2 paths");
        assert!(!lun.is("mpatha"));
    }
}
