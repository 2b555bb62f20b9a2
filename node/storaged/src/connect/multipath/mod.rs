//! Multipath: the configuration, what multipathd and the kernel say of maps and
//! paths, and the waits after devices came.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use linux::blkdev::{self, Block};

use super::Places;
use crate::command::Run;
use crate::job::{Context, Result};

pub mod conf;
pub mod daemon;
pub mod status;

/// How long udev may take to finish with new devices.
const UDEV_SETTLE_S: u64 = 5;

/// How long multipathd may take to be idle.
const IDLE_DEADLINE: Duration = Duration::from_secs(10);

/// How often multipathd is asked while it is not idle.
const IDLE_POLL: Duration = Duration::from_millis(200);

/// By map name: whether the path with a device number works.
pub type PathStates = BTreeMap<String, BTreeMap<String, bool>>;

/// The paths of one LUN, for statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapHealth {
    /// World-wide name of the LUN.
    pub wwid: String,
    /// Paths that work.
    pub paths_active: usize,
    /// Paths that do not.
    pub paths_failed: usize,
}

/// The state of every path, as the kernel's maps have it.
///
/// # Errors
///
/// When `dmsetup` cannot be run or fails.
pub fn paths(context: &Context) -> Result<PathStates> {
    // Without --noflush the question itself would write to a LUN without paths.
    let output = Run::new("dmsetup")
        .args(["status", "--target", "multipath", "--noflush"])
        .within(Duration::from_secs(10))
        .succeed(context)?;
    Ok(status::parse(&output.text())
        .into_iter()
        .map(|map| {
            let paths = map.groups.into_iter().flat_map(|group| group.paths);
            let states = paths.map(|path| (path.number, path.active)).collect();
            (map.name, states)
        })
        .collect())
}

/// How many paths each LUN has.
///
/// # Errors
///
/// As [`paths`].
pub fn health(context: &Context, places: &Places) -> Result<Vec<MapHealth>> {
    let states = paths(context)?;
    Ok(blkdev::list(&places.sys)
        .iter()
        .filter_map(|block| {
            let states = states.get(&block.map.as_ref()?.name)?;
            let active = states.values().filter(|active| **active).count();
            Some(MapHealth {
                wwid: block.multipath_wwid()?.to_owned(),
                paths_active: active,
                paths_failed: states.len() - active,
            })
        })
        .collect())
}

/// Waits until udev and multipathd are through with devices that came, and lets
/// maps of grown LUNs grow. A multipathd that does not run is passed over: the
/// LUN table shows which disks have no map.
///
/// # Errors
///
/// [`control::storage::FailureKind::Cancelled`].
pub fn settle(context: &Context, places: &Places) -> Result<()> {
    context.go_on()?;
    let timeout = format!("--timeout={UDEV_SETTLE_S}");
    let settled = Run::new("udevadm")
        .args(["settle", &timeout])
        .within(Duration::from_secs(UDEV_SETTLE_S + 5))
        .run(context);
    if let Err(failure) = settled {
        tracing::warn!(%failure, "udev was not waited for");
    }
    if let Err(failure) = wait_idle(context, &daemon::Socket::default()) {
        context.go_on()?;
        tracing::warn!(%failure, "multipathd was not waited for");
        return Ok(());
    }
    for name in grown(&blkdev::list(&places.sys)) {
        match daemon::Socket::default().ask(&format!("resize map {name}")) {
            Ok(_) => tracing::info!(map = name, "map resized"),
            Err(failure) => tracing::warn!(map = name, %failure, "map not resized"),
        }
    }
    context.go_on()
}

/// Waits for two idle answers in a row.
///
/// # Errors
///
/// [`control::storage::FailureKind::Timeout`] after ten seconds, or when
/// multipathd cannot be asked.
pub fn wait_idle(context: &Context, socket: &daemon::Socket) -> Result<()> {
    let until = Instant::now() + IDLE_DEADLINE;
    let mut idle = 0;
    loop {
        context.go_on()?;
        idle = if daemon::is_idle(&socket.ask("show daemon")?) {
            idle + 1
        } else {
            0
        };
        if idle == 2 {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(control::storage::Failure::new(
                control::storage::FailureKind::Timeout,
                format!("multipathd: not idle after {} s", IDLE_DEADLINE.as_secs()),
            ));
        }
        std::thread::sleep(IDLE_POLL);
    }
}

/// Takes away the maps that have no path but `disks`, before these go: multipath
/// would keep them, and queue, until its own timeouts end. Failing is no harm.
pub(super) fn remove_maps(context: &Context, places: &Places, disks: &[&str]) {
    for block in blkdev::list(&places.sys) {
        let only = !block.slaves.is_empty()
            && block
                .slaves
                .iter()
                .all(|slave| disks.contains(&slave.as_str()));
        if !only || block.multipath_wwid().is_none() || context.go_on().is_err() {
            continue;
        }
        if let Some(map) = &block.map
            && let Err(failure) = daemon::Socket::default().ask(&format!("del map {}", map.name))
        {
            tracing::warn!(map = map.name, %failure, "map not removed");
        }
    }
}

/// Names of maps whose every path has grown beyond them, all alike.
fn grown(blocks: &[Block]) -> Vec<String> {
    blocks
        .iter()
        .filter(|block| block.multipath_wwid().is_some())
        .filter(|map| {
            let mut sizes = blocks
                .iter()
                .filter(|disk| map.slaves.contains(&disk.name))
                .map(|disk| disk.size_bytes);
            sizes
                .next()
                .is_some_and(|first| first > map.size_bytes && sizes.all(|size| size == first))
        })
        .filter_map(|map| Some(map.map.as_ref()?.name.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, size: u64, slaves: &[&str]) -> Block {
        Block {
            name: name.into(),
            number: "0:0".into(),
            size_bytes: size,
            logical_block_bytes: 512,
            physical_block_bytes: 512,
            discard_max_bytes: 0,
            read_only: false,
            holders: Vec::new(),
            slaves: slaves.iter().map(|&slave| slave.to_owned()).collect(),
            partitions: Vec::new(),
            map: (!slaves.is_empty()).then(|| blkdev::Map {
                name: format!("3{name}"),
                uuid: format!("mpath-3{name}"),
                suspended: false,
            }),
        }
    }

    #[test]
    fn a_map_grows_only_when_all_its_paths_have() {
        let blocks = [
            block("sda", 200, &[]),
            block("sdb", 200, &[]),
            block("sdc", 100, &[]),
            block("dm-0", 100, &["sda", "sdb"]),
            block("dm-1", 100, &["sda", "sdc"]),
            block("dm-2", 200, &["sda", "sdb"]),
        ];
        assert_eq!(grown(&blocks), ["3dm-0"]);
    }
}
