//! The changes of LVM metadata there are, and their command lines.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Seconds between two words of a move about how far it is.
const MOVE_INTERVAL_S: &str = "2";

/// One LVM commit (or, for devices, one command).
///
/// The volume group is not part of it: it is the domain that
/// [`super::Lvm::change`] was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Prepares devices: two metadata areas of 128 MiB each, both ignored.
    CreatePhysical {
        /// The devices.
        devices: &'a [PathBuf],
        /// Overwrite what is on them.
        force: bool,
    },
    /// Lets a device's metadata areas be used.
    UseMetadataAreas {
        /// The device.
        device: &'a PathBuf,
    },
    /// Takes the label off a device that is in no group.
    RemovePhysical {
        /// The device.
        device: &'a PathBuf,
    },
    /// Makes the group.
    CreateGroup {
        /// Its devices, the one with the metadata first.
        devices: &'a [PathBuf],
        /// Its tags.
        tags: &'a [String],
    },
    /// Removes the group, with what is in it.
    RemoveGroup,
    /// Changes the group's tags.
    TagGroup {
        /// Tags to take off.
        delete: &'a [String],
        /// Tags to put on.
        add: &'a [String],
    },
    /// Adds prepared devices.
    AddPhysical {
        /// The devices.
        devices: &'a [PathBuf],
    },
    /// Takes an empty device out.
    DropPhysical {
        /// The device.
        device: &'a PathBuf,
    },
    /// Makes use of a device that has grown.
    GrowPhysical {
        /// The device.
        device: &'a PathBuf,
    },
    /// Moves the extents of one volume off a device, to wherever there is room.
    /// Takes hours; see [`super::Lvm::move_extents`].
    MoveExtents {
        /// The volume: no other one is locked meanwhile.
        volume: &'a str,
        /// From here.
        from: &'a PathBuf,
    },
    /// Gives up a move that was interrupted.
    AbortMoves,
    /// Makes a volume, active where there is a device-mapper.
    CreateVolume {
        /// Its name.
        name: &'a str,
        /// Its size in MiB, rounded up to extents by LVM.
        mib: u64,
        /// Its tags.
        tags: &'a [String],
        /// The device it shall be on.
        device: Option<&'a PathBuf>,
    },
    /// Removes volumes.
    RemoveVolumes {
        /// Their names.
        names: &'a [&'a str],
    },
    /// Makes a volume larger.
    ExtendVolume {
        /// Its name.
        name: &'a str,
        /// Its new size in MiB.
        mib: u64,
        /// Whether this host's mapping grows at once. A thin volume's must not:
        /// no host sees a size before it asked for it.
        map: bool,
    },
    /// Makes a volume smaller.
    ReduceVolume {
        /// Its name.
        name: &'a str,
        /// Its new size in MiB.
        mib: u64,
    },
    /// Changes the tags of volumes, of all alike.
    TagVolumes {
        /// Their names.
        names: &'a [&'a str],
        /// Tags to take off.
        delete: &'a [String],
        /// Tags to put on.
        add: &'a [String],
    },
    /// Commits the metadata text in a file in place of what is there.
    Restore {
        /// The file.
        file: &'a PathBuf,
    },
}

/// What the host's LVM can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abilities {
    pub(super) device_mapper: bool,
    pub(super) fs_option: bool,
}

impl<'a> Change<'a> {
    /// The command's name.
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::CreatePhysical { .. } => "pvcreate",
            Self::UseMetadataAreas { .. } => "pvchange",
            Self::RemovePhysical { .. } => "pvremove",
            Self::CreateGroup { .. } => "vgcreate",
            Self::RemoveGroup => "vgremove",
            Self::TagGroup { .. } => "vgchange",
            Self::AddPhysical { .. } => "vgextend",
            Self::DropPhysical { .. } => "vgreduce",
            Self::GrowPhysical { .. } => "pvresize",
            Self::MoveExtents { .. } | Self::AbortMoves => "pvmove",
            Self::CreateVolume { .. } => "lvcreate",
            Self::RemoveVolumes { .. } => "lvremove",
            Self::ExtendVolume { .. } => "lvextend",
            Self::ReduceVolume { .. } => "lvreduce",
            Self::TagVolumes { .. } => "lvchange",
            Self::Restore { .. } => "vgcfgrestore",
        }
    }

    /// Devices it names beside those of the group.
    pub(super) fn devices(&self) -> Vec<&'a PathBuf> {
        match *self {
            Self::CreatePhysical { devices, .. }
            | Self::CreateGroup { devices, .. }
            | Self::AddPhysical { devices } => devices.iter().collect(),
            Self::UseMetadataAreas { device } | Self::RemovePhysical { device } => vec![device],
            Self::RemoveGroup
            | Self::TagGroup { .. }
            | Self::DropPhysical { .. }
            | Self::GrowPhysical { .. }
            | Self::MoveExtents { .. }
            | Self::AbortMoves
            | Self::CreateVolume { .. }
            | Self::RemoveVolumes { .. }
            | Self::ExtendVolume { .. }
            | Self::ReduceVolume { .. }
            | Self::TagVolumes { .. }
            | Self::Restore { .. } => Vec::new(),
        }
    }

    /// Whether the group has other devices afterwards.
    pub(super) fn changes_devices(&self) -> bool {
        matches!(
            self,
            Self::CreateGroup { .. }
                | Self::RemoveGroup
                | Self::AddPhysical { .. }
                | Self::DropPhysical { .. }
        )
    }

    /// Whether it is a move of extents or ends one: LVM's own daemon for these is not
    /// used, so that they end with who began them.
    pub(super) fn is_of_moves(&self) -> bool {
        matches!(self, Self::MoveExtents { .. } | Self::AbortMoves)
    }

    /// How long it may take before it is killed, and its outcome is unknown.
    pub(super) fn timeout(&self) -> Duration {
        match self {
            Self::MoveExtents { .. } => Duration::from_secs(7 * 86_400),
            _ => Duration::from_secs(180),
        }
    }

    /// The words after the environment (§1.7).
    pub(super) fn words(&self, group: &str, able: &Abilities) -> Vec<OsString> {
        let mut words = Words::default();
        if matches!(
            self,
            Self::CreateVolume { .. }
                | Self::RemoveVolumes { .. }
                | Self::ExtendVolume { .. }
                | Self::ReduceVolume { .. }
                | Self::TagVolumes { .. }
        ) {
            words.put(["--autobackup", "n"]);
        }
        match *self {
            Self::CreatePhysical { devices, force } => {
                if force {
                    words.put(["-y", "-ff"]);
                }
                words.put(["--metadatasize", "128m", "--metadatacopies", "2"]);
                words.put(["--metadataignore", "y"]);
                words.paths(devices);
            }
            Self::UseMetadataAreas { device } => {
                words.put(["--metadataignore", "n"]);
                words.path(device);
            }
            Self::RemovePhysical { device } => words.path(device),
            Self::CreateGroup { devices, tags } => {
                words.put(["--setautoactivation", "n", "--physicalextentsize", "128m"]);
                words.tags("--addtag", tags);
                words.put([group]);
                words.paths(devices);
            }
            Self::RemoveGroup => words.put(["-f", group]),
            Self::TagGroup { delete, add } => {
                words.tags("--deltag", delete);
                words.tags("--addtag", add);
                words.put([group]);
            }
            Self::AddPhysical { devices } => {
                words.put([group]);
                words.paths(devices);
            }
            Self::DropPhysical { device } => {
                words.put([group]);
                words.path(device);
            }
            Self::GrowPhysical { device } => words.path(device),
            Self::MoveExtents { volume, from } => {
                words.put(["--interval", MOVE_INTERVAL_S, "--name", volume]);
                words.path(from);
            }
            Self::AbortMoves => words.put(["--abort"]),
            Self::CreateVolume {
                name,
                mib,
                tags,
                device,
            } => {
                words.put(["--contiguous", "n", "--size"]);
                words.put([format!("{mib}m").as_str()]);
                words.put(["--wipesignatures", "n"]);
                words.tags("--addtag", tags);
                words.put(["--name", name, group]);
                if let Some(device) = device {
                    words.path(device);
                }
            }
            Self::RemoveVolumes { names } => {
                words.put(["-f"]);
                words.volumes(group, names);
            }
            Self::ExtendVolume { name, mib, map } => {
                if !map && able.device_mapper {
                    words.put(["--driverloaded", "n"]);
                }
                words.put(["--size", format!("{mib}m").as_str()]);
                words.volumes(group, &[name]);
            }
            Self::ReduceVolume { name, mib } => {
                words.put(["--force"]);
                if able.fs_option {
                    words.put(["--fs", "ignore"]);
                }
                words.put(["--size", format!("{mib}m").as_str()]);
                words.volumes(group, &[name]);
            }
            Self::TagVolumes { names, delete, add } => {
                words.tags("--deltag", delete);
                words.tags("--addtag", add);
                words.volumes(group, names);
            }
            Self::Restore { file } => {
                words.put(["--yes", "--file"]);
                words.path(file);
                words.put([group]);
            }
        }
        words.0
    }
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn put<const N: usize>(&mut self, words: [&str; N]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn path(&mut self, path: &PathBuf) {
        self.0.push(path.into());
    }

    fn paths(&mut self, paths: &[PathBuf]) {
        self.0.extend(paths.iter().map(OsString::from));
    }

    fn tags(&mut self, option: &str, tags: &[String]) {
        for tag in tags {
            self.put([option, tag]);
        }
    }

    fn volumes(&mut self, group: &str, names: &[&str]) {
        self.0
            .extend(names.iter().map(|name| format!("{group}/{name}").into()));
    }
}
