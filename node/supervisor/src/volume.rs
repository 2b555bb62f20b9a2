//! Labelled volumes: finding them while devices still appear, mounting them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use linux::error::chain;
use linux::mount::{self, Flags};
use linux::probe::{self, BlockDevice, Places};

use crate::boot::steps::Context;
use crate::{time, worker};

/// Longest wait for one device to say what is on it. A dead path may never
/// answer; its thread is left behind and the next device gets its turn.
const EXAMINE_DEADLINE: Duration = Duration::from_secs(10);
/// Longest time a mount or an unmount may take.
const MOUNT_DEADLINE: Duration = Duration::from_secs(30);
/// How often the list of devices is looked at while they appear.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Looks at a device that shows nothing. The kernel lists a disk a moment before
/// its node can be opened and read, so the first look may come too early.
const LOOKS_MAX: u32 = 10;
/// Marks a device that need not be looked at again.
const LOOKS_DONE: u32 = u32::MAX;

/// A volume that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its device node.
    pub node: PathBuf,
    /// File system type, as mount(2) wants it.
    pub fs_type: &'static str,
}

/// Waits for a volume whose file-system label or partition name is `label`;
/// `None` once all devices have appeared and none of them is it. One that bears
/// the label and cannot be a volume is an answer too, an error with the next step.
pub async fn find(context: &Rc<Context>, label: &'static str) -> Option<Result<Volume, String>> {
    let places = Places::default();
    let mut looks: BTreeMap<String, u32> = BTreeMap::new();
    loop {
        // Asked before the look, so that what appears in between is not missed.
        let settled = context.facts.borrow().devices_settled(time::now());
        for name in probe::names(&places).unwrap_or_default() {
            let looked = looks.entry(name.clone()).or_default();
            // The last look, once all are there, counts for the blank ones too.
            if *looked == LOOKS_DONE || (*looked >= LOOKS_MAX && !settled) {
                continue;
            }
            *looked += 1;
            let Some(device) = examine(&places, &name).await else {
                *looked = LOOKS_DONE;
                continue;
            };
            if device.content.is_some() {
                *looked = LOOKS_DONE;
            }
            match usable(&device, label) {
                Some(Err(_)) if *looked < LOOKS_MAX && !settled => {}
                Some(volume) => return Some(volume),
                None => {}
            }
        }
        if settled {
            return None;
        }
        smol::Timer::after(LOOK_INTERVAL).await;
    }
}

async fn examine(places: &Places, name: &str) -> Option<BlockDevice> {
    let (places, owned) = (places.clone(), name.to_owned());
    let answer = async {
        worker::run("probe", move || probe::examine(&places, &owned))
            .await
            .ok()
    };
    let overdue = async {
        smol::Timer::after(EXAMINE_DEADLINE).await;
        tracing::warn!(
            "block device {name} did not answer within {} s; passed over",
            EXAMINE_DEADLINE.as_secs()
        );
        None
    };
    smol::future::or(answer, overdue).await
}

fn usable(device: &BlockDevice, label: &str) -> Option<Result<Volume, String>> {
    if !device.is_labelled(label) {
        return None;
    }
    let node = device.node.clone();
    let Some(content) = &device.content else {
        return Some(Err(format!(
            "{} is labelled {label} and has no file system; make one on it, or take the label away",
            node.display()
        )));
    };
    Some(Ok(Volume {
        node,
        fs_type: content.kind.name(),
    }))
}

/// Mounts `volume` at `target`, which is made if missing. Read-only volumes are
/// never written to, not even to replay a journal.
///
/// # Errors
/// The kernel's refusal, or no answer in time.
pub async fn mount(volume: &Volume, target: &'static str, read_only: bool) -> Result<(), String> {
    let hardened = Flags::NOSUID | Flags::NODEV | Flags::NOEXEC;
    let flags = if read_only {
        hardened | Flags::RDONLY
    } else {
        hardened
    };
    let options = if read_only && volume.fs_type == "ext4" {
        "noload"
    } else {
        ""
    };
    let (node, fs_type) = (volume.node.clone(), volume.fs_type);
    let work = move || {
        let target = Path::new(target);
        std::fs::create_dir_all(target)
            .map_err(|error| format!("{}: {error}", target.display()))?;
        mount::mount(&node, target, fs_type, flags, options).map_err(|error| chain(&error))
    };
    bounded("mount", target, work).await
}

/// Unmounts `target`.
///
/// # Errors
/// The kernel's refusal, or no answer in time.
pub async fn unmount(target: &'static str) -> Result<(), String> {
    bounded("unmount", target, move || {
        mount::unmount(Path::new(target)).map_err(|error| chain(&error))
    })
    .await
}

async fn bounded(
    what: &str,
    target: &str,
    work: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let answer = async {
        worker::run(what, work)
            .await
            .map_err(|error| error.to_string())?
    };
    let overdue = async {
        smol::Timer::after(MOUNT_DEADLINE).await;
        Err(format!(
            "{what} {target}: no answer within {} s",
            MOUNT_DEADLINE.as_secs()
        ))
    };
    smol::future::or(answer, overdue).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux::probe::PartitionIdentity;
    use linux::probe::content::{Content, Kind};

    #[test]
    fn a_labelled_volume_without_a_file_system_is_an_error_and_not_passed_over() {
        let mut device = BlockDevice {
            name: "vdb1".to_owned(),
            node: "/dev/vdb1".into(),
            size_bytes: 1 << 20,
            partition: Some(PartitionIdentity {
                disk: "vdb".to_owned(),
                number: 1,
                uuid: None,
                name: Some("HOLDFAST".to_owned()),
            }),
            table: None,
            content: None,
            fault: None,
        };
        let error = usable(&device, "HOLDFAST").unwrap().unwrap_err();
        assert!(
            error.contains("/dev/vdb1 is labelled HOLDFAST and has no file system"),
            "{error}"
        );
        assert_eq!(usable(&device, "holdfast-state"), None);
        device.content = Some(Content {
            kind: Kind::Ext4,
            label: None,
            uuid: None,
        });
        let volume = usable(&device, "HOLDFAST").unwrap().unwrap();
        assert_eq!(volume.fs_type, Kind::Ext4.name());
    }
}
