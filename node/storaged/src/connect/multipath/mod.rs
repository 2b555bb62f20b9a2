//! Multipath: the configuration, what multipathd and the kernel say of maps and
//! paths, and the waits after devices came.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use control::storage::health::LunPaths;
use control::storage::{Failure, FailureKind};
use linux::blkdev::{self, Block};
use linux::dm::{Control, Name};
use linux::uevent::UeventSocket;

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

/// How long LUNs that are to be used may take to come.
const LUNS_DEADLINE: Duration = Duration::from_secs(60);

/// How often is looked whether they have when nothing is told of devices: states of
/// paths change without a word.
const LUNS_POLL: Duration = Duration::from_millis(500);

/// By map name: whether the path with a device number works.
pub type PathStates = BTreeMap<String, BTreeMap<String, bool>>;

/// The state of every path, as the kernel's maps have it. No path is waited for.
///
/// # Errors
///
/// When the kernel has no device-mapper, or does not answer.
pub fn paths(places: &Places, blocks: &[Block]) -> Result<PathStates> {
    let maps: Vec<&str> = blocks
        .iter()
        .filter(|block| block.multipath_wwid().is_some())
        .filter_map(|block| Some(block.map.as_ref()?.name.as_str()))
        .collect();
    if maps.is_empty() {
        return Ok(PathStates::new());
    }
    let failed = |error: linux::error::Error| super::io_failure(error.to_string(), &error.source);
    let control = Control::open(&places.dev.join("mapper/control")).map_err(failed)?;
    let mut states = PathStates::new();
    for name in maps {
        let Some(checked) = Name::new(name) else {
            continue;
        };
        // One that went away meanwhile is no fault.
        let Ok(lines) = control.target_states(&checked) else {
            continue;
        };
        let text: String = lines
            .iter()
            .map(|line| format!("{name}: {line}\n"))
            .collect();
        for map in status::parse(&text) {
            let paths = map.groups.into_iter().flat_map(|group| group.paths);
            states.insert(
                name.to_owned(),
                paths.map(|path| (path.number, path.active)).collect(),
            );
        }
    }
    Ok(states)
}

/// How many paths each LUN has, and how many of them work.
///
/// # Errors
///
/// As [`paths`].
pub fn health(context: &Context, places: &Places) -> Result<Vec<LunPaths>> {
    context.go_on()?;
    let blocks = blkdev::list(&places.sys);
    let states = paths(places, &blocks)?;
    Ok(count(places, &blocks, &states))
}

/// The LUNs of this host with their sessions, from what the kernel lists alone:
/// whether a path works is as good as its disk says.
#[must_use]
pub fn listed(places: &Places) -> Vec<LunPaths> {
    count(places, &blkdev::list(&places.sys), &PathStates::new())
}

/// Counts paths: those of maps, and disks of sessions that have no map yet.
pub(super) fn count(places: &Places, blocks: &[Block], states: &PathStates) -> Vec<LunPaths> {
    let disks: Vec<Disk<'_>> = blocks
        .iter()
        .filter_map(|block| {
            let identity = linux::scsi::identity(&places.sys, &block.name)?;
            Some(Disk {
                block,
                wwid: super::wwid(places, block, &identity)?,
                runs: matches!(
                    identity.state.as_str(),
                    "running" | "" | "quiesce" | "created"
                ),
            })
        })
        .collect();
    let sessions = super::iscsi::session::list(&places.sys);
    let mut luns: BTreeMap<String, LunPaths> = BTreeMap::new();
    for map in blocks {
        let (Some(wwid), Some(about)) = (map.multipath_wwid(), &map.map) else {
            continue;
        };
        let told = states.get(&about.name);
        let works = |slave: &String| {
            let disk = disks.iter().find(|disk| disk.block.name == *slave);
            let runs = disk.is_some_and(|disk| disk.runs);
            disk.and_then(|disk| told?.get(&disk.block.number).copied())
                .unwrap_or(runs)
        };
        let active = map.slaves.iter().filter(|slave| works(slave)).count();
        luns.insert(
            wwid.to_owned(),
            LunPaths {
                wwid: wwid.to_owned(),
                map: Some(about.name.clone()),
                paths: number(map.slaves.len()),
                active: number(active),
                failed: number(map.slaves.len() - active),
                sessions: Vec::new(),
            },
        );
    }
    for disk in &disks {
        let in_map = blocks
            .iter()
            .any(|map| map.multipath_wwid().is_some() && map.slaves.contains(&disk.block.name));
        let session = sessions
            .iter()
            .find(|session| session.disks.contains(&disk.block.name));
        // A disk of this machine's own has no map, and shall have none.
        if !in_map && session.is_none() && !luns.contains_key(&disk.wwid) {
            continue;
        }
        let lun = luns.entry(disk.wwid.clone()).or_insert_with(|| LunPaths {
            wwid: disk.wwid.clone(),
            ..LunPaths::default()
        });
        if !in_map {
            lun.paths += 1;
            lun.failed += u32::from(!disk.runs);
        }
        lun.sessions.extend(
            session.map(|session| format!("{} {}", session.target, session.portal.endpoint())),
        );
    }
    let mut luns: Vec<LunPaths> = luns.into_values().collect();
    for lun in &mut luns {
        lun.sessions.sort();
        lun.sessions.dedup();
    }
    luns
}

struct Disk<'a> {
    block: &'a Block,
    wwid: String,
    runs: bool,
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Waits until LUNs, named by their world-wide names, can be used: after a boot
/// or a login their disks come first, then maps, then names. Paths of devices are
/// passed over.
///
/// # Errors
///
/// [`FailureKind::NotFound`] after a minute: which LUN, and what is missing of it.
pub fn await_luns(context: &Context, places: &Places, luns: &[String]) -> Result<()> {
    let wanted: Vec<String> = luns
        .iter()
        .filter(|lun| !lun.starts_with('/'))
        .cloned()
        .collect();
    let until = Instant::now() + LUNS_DEADLINE;
    let events = UeventSocket::open_with_udev()
        .inspect_err(|error| tracing::debug!(%error, "events of devices"))
        .ok();
    let mut looked = false;
    loop {
        context.go_on()?;
        let blocks = blkdev::list(&places.sys);
        let states = paths(places, &blocks).unwrap_or_default();
        let missing = missing(places, &wanted, &states);
        let Some((lun, reason)) = missing.first() else {
            return Ok(());
        };
        if Instant::now() >= until {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!(
                    "LUN {lun}: not usable after {} s: {reason}; `nodectl storage luns` shows \
                     every LUN with its paths",
                    LUNS_DEADLINE.as_secs()
                ),
            ));
        }
        let ready = wanted.len() - missing.len();
        context.tell(
            u64::try_from(ready).unwrap_or(0),
            u64::try_from(wanted.len()).unwrap_or(0),
            &format!("waiting for LUN {lun}: {reason}"),
        );
        if looked {
            let told = events.as_ref().map(|events| events.wait(LUNS_POLL));
            if !matches!(told, Some(Ok(_))) {
                std::thread::sleep(LUNS_POLL);
            }
        } else {
            // Once: what the storage shows since the last login, maps being made.
            looked = true;
            if let Err(failure) = super::rescan(context, places) {
                context.go_on()?;
                tracing::warn!(%failure, "LUNs were not all looked for");
            }
        }
    }
}

/// Those of `luns` that cannot be used, with what is missing.
pub(super) fn missing(
    places: &Places,
    luns: &[String],
    states: &PathStates,
) -> Vec<(String, String)> {
    let blocks = blkdev::list(&places.sys);
    let found = count(places, &blocks, states);
    let plural = |count: usize| if count == 1 { "path" } else { "paths" };
    let reason = |lun: &String| {
        let Some(paths) = found.iter().find(|paths| paths.is(lun)) else {
            let disks = blocks
                .iter()
                .filter_map(|block| {
                    let identity = linux::scsi::identity(&places.sys, &block.name)?;
                    super::wwid(places, block, &identity)
                })
                .filter(|wwid| wwid == lun)
                .count();
            return Some(match disks {
                0 => "no disk of this host is that LUN".to_owned(),
                1 => "1 path of it is there, but no multipath map yet".to_owned(),
                _ => format!("{disks} paths of it are there, but no multipath map yet"),
            });
        };
        let Some(map) = &paths.map else {
            return Some(paths.words());
        };
        let suspended = blocks
            .iter()
            .filter_map(|block| block.map.as_ref())
            .any(|about| about.name == *map && about.suspended);
        if suspended {
            return Some("its map is suspended".to_owned());
        }
        if paths.active == 0 {
            let count = usize::try_from(paths.paths).unwrap_or(usize::MAX);
            return Some(format!("none of its {count} {} works", plural(count)));
        }
        let device = places.dev.join("mapper").join(map);
        (!device.exists()).then(|| format!("its map has no name {} yet", device.display()))
    };
    luns.iter()
        .filter_map(|lun| Some((lun.clone(), reason(lun)?)))
        .collect()
}

/// Waits until udev and multipathd are through with devices that came, and lets
/// maps of grown LUNs grow. A multipathd that does not run is passed over: the
/// LUN table shows which disks have no map.
///
/// # Errors
///
/// [`FailureKind::Cancelled`].
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
/// [`FailureKind::Timeout`] after ten seconds, or when
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
            return Err(Failure::new(
                FailureKind::Timeout,
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

/// Refuses a LUN whose paths do not have the same size: one that was not asked again
/// would fail what is written behind its end.
///
/// # Errors
///
/// [`FailureKind::WrongState`]: which path has how much.
pub fn alike(places: &Places, lun: &str) -> Result<()> {
    let blocks = blkdev::list(&places.sys);
    let last = lun.rsplit('/').next().unwrap_or(lun);
    let map = blocks.iter().find(|block| {
        let names = block.map.as_ref().is_some_and(|map| map.name == last);
        names || block.multipath_wwid() == Some(last)
    });
    // Something else than a map has one size only.
    let Some(map) = map else {
        return Ok(());
    };
    let disks: Vec<&Block> = blocks
        .iter()
        .filter(|disk| map.slaves.contains(&disk.name))
        .collect();
    let all = disks.iter().chain([&map]);
    if all.clone().all(|block| block.size_bytes == map.size_bytes) {
        return Ok(());
    }
    let sizes: Vec<String> = all
        .map(|block| format!("{} {} bytes", block.name, block.size_bytes))
        .collect();
    Err(Failure::new(
        FailureKind::WrongState,
        format!(
            "LUN {lun}: its paths and its map {} differ in size ({}); see that every path works \
             (`nodectl storage luns`) and ask again",
            map.name,
            sizes.join(", ")
        ),
    ))
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

    #[test]
    fn a_lun_of_which_a_path_has_not_grown_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (name, number, sectors) in [
            ("sda", "8:0", "200"),
            ("sdb", "8:16", "200"),
            ("dm-0", "253:0", "200"),
        ] {
            put(&format!("block/{name}/dev"), number);
            put(&format!("block/{name}/size"), sectors);
        }
        put("block/dm-0/dm/name", "36001");
        put("block/dm-0/dm/uuid", "mpath-36001");
        put("block/dm-0/slaves/sda/x", "");
        put("block/dm-0/slaves/sdb/x", "");
        let places = Places {
            sys: folder.path().to_path_buf(),
            ..Places::default()
        };
        alike(&places, "36001").unwrap();
        alike(&places, "/dev/mapper/36001").unwrap();
        alike(&places, "/dev/loop3").unwrap();
        put("block/sdb/size", "100");
        let failure = alike(&places, "36001").unwrap_err();
        assert_eq!(failure.kind, FailureKind::WrongState);
        assert!(failure.message.contains("sdb 51200 bytes"), "{failure}");
    }
}
