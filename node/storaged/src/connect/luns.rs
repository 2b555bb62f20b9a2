//! The LUN table of the deploy flow: every LUN of this host, by multipath map
//! where it has one, and whose data is on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use control::storage::connection::{Lun, LunPath, LunStatus, Signature};
use control::storage::{Failure, FailureKind};
use linux::blkdev::{self, Block, Map};
use linux::scsi::{self, Identity};

use super::signature::{self, Holding};
use super::{Places, iscsi, multipath};
use crate::job::{Context, Result};

/// How long all LUNs together may take to show what is on them.
const READ_DEADLINE: Duration = Duration::from_secs(20);

/// Most LUNs read at a time.
const READERS_MAX: usize = 16;

/// What the kernel knows of this host's disks at one moment.
struct Inventory {
    blocks: Vec<Block>,
    identities: BTreeMap<String, Identity>,
    /// World-wide names of SCSI disks; the kernel's name of one that has none.
    wwids: BTreeMap<String, String>,
    /// By device number: mount points, `swap`.
    uses: BTreeMap<String, Vec<String>>,
    /// By disk: `target portal`.
    sessions: BTreeMap<String, String>,
}

/// The LUN table, by WWID.
///
/// A LUN that does not answer is listed with its fault; none waits for another.
///
/// # Errors
///
/// [`FailureKind::Cancelled`].
pub fn luns(context: &Context, places: &Places) -> Result<Vec<Lun>> {
    context.go_on()?;
    let inventory = Inventory::read(places);
    // Without an answer the paths are shown as the kernel's disks are.
    let paths = multipath::paths(places, &inventory.blocks).unwrap_or_default();
    let mut luns = table(places, &inventory, &paths);
    let readable: Vec<(usize, PathBuf)> = luns
        .iter()
        .enumerate()
        .filter(|(_, lun)| lun.fault.is_none())
        .map(|(index, lun)| (index, PathBuf::from(&lun.device)))
        .collect();
    let total = u64::try_from(readable.len()).unwrap_or(0);
    context.tell(0, total, "reading LUNs");
    let mut read = read_all(readable);
    signature::join_groups(
        read.values_mut()
            .filter_map(|holding| holding.as_mut().ok()),
    );
    for (index, lun) in luns.iter_mut().enumerate() {
        match read.remove(&index) {
            Some(Ok(holding)) => finish(lun, holding.signatures),
            Some(Err(fault)) => lun.fault = Some(fault),
            None if lun.fault.is_none() => {
                lun.fault = Some(format!("no answer within {} s", READ_DEADLINE.as_secs()));
            }
            None => {}
        }
    }
    Ok(luns)
}

/// Refuses when something on this host uses a LUN that has no path but `disks`.
pub(super) fn refuse_used(places: &Places, disks: &[&str]) -> Result<()> {
    let inventory = Inventory::read(places);
    let mut users = BTreeSet::new();
    for block in &inventory.blocks {
        let is_disk = disks.contains(&block.name.as_str());
        let is_map = block.multipath_wwid().is_some()
            && !block.slaves.is_empty()
            && block
                .slaves
                .iter()
                .all(|slave| disks.contains(&slave.as_str()));
        if !is_disk && !is_map {
            continue;
        }
        let lone = is_map
            || !inventory
                .blocks
                .iter()
                .any(|map| map.multipath_wwid().is_some() && map.slaves.contains(&block.name));
        if lone {
            let users_of = inventory.users(places, &block.name);
            users.extend(
                users_of
                    .into_iter()
                    .map(|user| format!("{} by {user}", block.name)),
            );
        }
    }
    if users.is_empty() {
        return Ok(());
    }
    let users: Vec<String> = users.into_iter().take(5).collect();
    Err(Failure::new(
        FailureKind::InUse,
        format!("LUNs in use on this host: {}", users.join(", ")),
    ))
}

impl Inventory {
    fn read(places: &Places) -> Self {
        let blocks = blkdev::list(&places.sys);
        let mut identities = BTreeMap::new();
        let mut wwids = BTreeMap::new();
        for block in &blocks {
            if let Some(identity) = scsi::identity(&places.sys, &block.name) {
                let wwid = super::wwid(places, block, &identity);
                let wwid = wwid.unwrap_or_else(|| block.name.clone());
                wwids.insert(block.name.clone(), wwid);
                identities.insert(block.name.clone(), identity);
            }
        }
        let mut uses: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for mount in linux::mount::list().unwrap_or_default() {
            let target = mount.target.to_string_lossy().into_owned();
            uses.entry(mount.device).or_default().push(target);
        }
        let swaps = std::fs::read_to_string(places.proc.join("swaps")).unwrap_or_default();
        for device in swaps
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
        {
            let name = Path::new(device).file_name().and_then(|name| name.to_str());
            if let Some(number) = name.and_then(|name| blkdev::number(&places.sys, name)) {
                uses.entry(number).or_default().push("swap".into());
            }
        }
        let sessions = iscsi::session::list(&places.sys)
            .into_iter()
            .flat_map(|session| {
                let name = format!("{} {}", session.target, session.portal.endpoint());
                session
                    .disks
                    .into_iter()
                    .map(move |disk| (disk, name.clone()))
            })
            .collect();
        Self {
            blocks,
            identities,
            wwids,
            uses,
            sessions,
        }
    }

    /// Mount points of what lies on a disk, and the maps above it that are no
    /// multipath map of its own.
    fn users(&self, places: &Places, name: &str) -> Vec<String> {
        let mut users = Vec::new();
        for above in blkdev::stack(&places.sys, name) {
            let block = self.blocks.iter().find(|block| block.name == above);
            let map = block.and_then(|block| block.map.as_ref());
            if above != name
                && let Some(map) = map.filter(|map| !map.uuid.starts_with("mpath-"))
            {
                users.push(map.name.clone());
            }
            let number = block
                .map(|block| block.number.clone())
                .or_else(|| blkdev::number(&places.sys, &above));
            let mounts = number.and_then(|number| self.uses.get(&number));
            users.extend(mounts.into_iter().flatten().cloned());
        }
        users
    }
}

/// Everything but what has to be read from the LUNs themselves: a row for each
/// world-wide name, whether a map has been made for its disks yet or not.
fn table(places: &Places, inventory: &Inventory, states: &multipath::PathStates) -> Vec<Lun> {
    let maps: Vec<&Block> = inventory
        .blocks
        .iter()
        .filter(|block| block.multipath_wwid().is_some())
        .collect();
    // By name: the map where there is one, and the disks.
    let mut found: BTreeMap<String, (Option<&Block>, Vec<&Block>)> = BTreeMap::new();
    for map in &maps {
        let name = map.multipath_wwid().unwrap_or_default().to_owned();
        found.entry(name).or_default().0 = Some(map);
    }
    for disk in &inventory.blocks {
        let map = maps.iter().find(|map| map.slaves.contains(&disk.name));
        let name = match map {
            Some(map) => map.multipath_wwid().map(str::to_owned),
            None => inventory.wwids.get(&disk.name).cloned(),
        };
        if let Some(name) = name {
            found.entry(name).or_default().1.push(disk);
        }
    }
    found
        .into_iter()
        .filter_map(|(wwid, (map, disks))| {
            // Of bare disks one that works stands for the others.
            let works = |disk: &&&Block| path(inventory, states, None, disk).state != "failed";
            let device = map
                .or_else(|| disks.iter().find(works).copied())
                .or_else(|| disks.first().copied())?;
            Some(Lun {
                wwid,
                ..row(places, inventory, states, device, &disks)
            })
        })
        .zip(1..)
        .map(|(lun, number)| Lun { number, ..lun })
        .collect()
}

fn row(
    places: &Places,
    inventory: &Inventory,
    states: &multipath::PathStates,
    block: &Block,
    disks: &[&Block],
) -> Lun {
    let wwid = block.multipath_wwid();
    let map = block.map.as_ref().filter(|_| wwid.is_some());
    let identities: Vec<&Identity> = disks
        .iter()
        .filter_map(|disk| inventory.identities.get(&disk.name))
        .collect();
    let first = identities.first().copied().cloned().unwrap_or_default();
    let path_list: Vec<LunPath> = disks
        .iter()
        .map(|disk| {
            let in_map = map.filter(|_| block.slaves.contains(&disk.name));
            path(inventory, states, in_map, disk)
        })
        .collect();
    // A path outside of the map carries nothing yet.
    let count = |state: &str| path_list.iter().filter(|path| path.state == state).count();
    let active = count("active");
    let works = active > 0 || map.is_none() && count("bare") > 0;
    let mut sessions: Vec<String> = disks
        .iter()
        .filter_map(|disk| inventory.sessions.get(&disk.name).cloned())
        .collect();
    sessions.sort();
    sessions.dedup();
    let device = match map {
        Some(map) => places.dev.join("mapper").join(&map.name),
        None => places.dev.join(&block.name),
    };
    let suspended = map.is_some_and(|map| map.suspended);
    let fault = if !works {
        // Reading would wait until multipath stops queueing.
        Some("no path works".to_owned())
    } else if suspended {
        Some("its map is suspended".to_owned())
    } else {
        None
    };
    Lun {
        device: device.to_string_lossy().into_owned(),
        size_bytes: block.size_bytes,
        vendor: first.vendor,
        product: first.product,
        serial: first.serial.unwrap_or_default(),
        logical_block_bytes: block.logical_block_bytes,
        physical_block_bytes: block.physical_block_bytes,
        discard_max_bytes: block.discard_max_bytes,
        in_use_by: inventory.users(places, &block.name),
        paths_active: u32::try_from(active).unwrap_or(u32::MAX),
        paths: u32::try_from(path_list.len()).unwrap_or(u32::MAX),
        path_list,
        sessions,
        multipath: wwid.is_some(),
        fault,
        ..Lun::default()
    }
}

fn path(
    inventory: &Inventory,
    states: &multipath::PathStates,
    map: Option<&Map>,
    disk: &Block,
) -> LunPath {
    let identity = inventory.identities.get(&disk.name);
    let runs = identity.is_none_or(|identity| {
        matches!(
            identity.state.as_str(),
            "running" | "" | "quiesce" | "created"
        )
    });
    let told = map.and_then(|map| states.get(&map.name)?.get(&disk.number));
    let active = told.copied().unwrap_or(runs);
    LunPath {
        device: disk.name.clone(),
        number: disk.number.clone(),
        address: identity.map_or_else(String::new, |identity| identity.address.clone()),
        state: match (active, map) {
            (false, _) => "failed",
            (true, Some(_)) => "active",
            (true, None) => "bare",
        }
        .into(),
    }
}

/// Whether the LUN can be taken, once it was read. Bytes that nobody knows do
/// not make it used, and are told.
fn finish(lun: &mut Lun, signatures: Vec<Signature>) {
    let known: Vec<String> = signatures
        .iter()
        .filter(|signature| **signature != Signature::Unrecognized)
        .map(Signature::to_string)
        .collect();
    lun.status = if known.is_empty() && lun.in_use_by.is_empty() {
        LunStatus::Free
    } else {
        LunStatus::Used
    };
    if !known.is_empty() {
        lun.used_by = Some(known.join(", "));
    } else if !lun.in_use_by.is_empty() {
        lun.used_by = Some(format!("open: {}", lun.in_use_by.join(", ")));
    }
    lun.signatures = signatures;
}

/// Reads devices on threads of their own; those that do not answer in time are
/// left out, and their threads left behind with this process.
fn read_all(
    devices: Vec<(usize, PathBuf)>,
) -> BTreeMap<usize, std::result::Result<Holding, String>> {
    let count = devices.len();
    let (work, queue) = mpsc::channel();
    for device in devices {
        // Its receiver is here.
        work.send(device).ok();
    }
    drop(work);
    let queue = std::sync::Arc::new(std::sync::Mutex::new(queue));
    let (answer, answers) = mpsc::channel();
    for _ in 0..count.min(READERS_MAX) {
        let (queue, answer) = (std::sync::Arc::clone(&queue), answer.clone());
        std::thread::spawn(move || {
            loop {
                let next = queue
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .try_recv();
                let Ok((index, path)) = next else {
                    break;
                };
                if answer.send((index, signature::read(&path))).is_err() {
                    break;
                }
            }
        });
    }
    drop(answer);
    let until = Instant::now() + READ_DEADLINE;
    let mut read = BTreeMap::new();
    while read.len() < count {
        let left = until.saturating_duration_since(Instant::now());
        match answers.recv_timeout(left) {
            Ok((index, outcome)) => {
                read.insert(index, outcome);
            }
            Err(_) => break,
        }
    }
    read
}

#[cfg(test)]
#[path = "luns_tests.rs"]
mod tests;
