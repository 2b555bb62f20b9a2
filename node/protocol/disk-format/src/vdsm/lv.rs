//! What the name and tags of a logical volume say.

use super::error::FormatError;
use super::slot::SlotNumber;
use super::uuid::{ImageId, VolumeId};
use super::version::DomainVersion;

/// Tag of a volume that is being made; every reader ignores such a volume.
pub const INITIALIZING: &str = "OVIRT_VOL_INITIALIZING";
/// Before the image id of a volume to be removed.
pub const REMOVE_PREFIX: &str = "_remove_me_";
/// Before the image id of a volume to be zeroed and removed.
pub const REMOVE_ZERO_PREFIX: &str = "_remove_me_ZERO_";
const SLOT_PREFIX: &str = "MD_";
const IMAGE_PREFIX: &str = "IU_";
const PARENT_PREFIX: &str = "PU_";

/// The logical volumes every block domain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SpecialLv {
    /// Volume metadata slots.
    Metadata,
    /// Host leases.
    Ids,
    /// Mail from hosts to the SPM.
    Inbox,
    /// Mail from the SPM to hosts.
    Outbox,
    /// The `SDM` lease and volume leases.
    Leases,
    /// External leases (version 4 and later).
    Xleases,
    /// File system of the SPM.
    Master,
}

impl SpecialLv {
    /// All, in the order in which they are created.
    pub const ALL: [Self; 7] = [
        Self::Metadata,
        Self::Ids,
        Self::Inbox,
        Self::Outbox,
        Self::Leases,
        Self::Xleases,
        Self::Master,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Ids => "ids",
            Self::Inbox => "inbox",
            Self::Outbox => "outbox",
            Self::Leases => "leases",
            Self::Xleases => "xleases",
            Self::Master => "master",
        }
    }

    /// The one of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|special| special.name() == name)
    }

    /// The size asked for at creation, in bytes, before rounding to extents.
    #[must_use]
    pub const fn requested_bytes(self, alignment_bytes: u64) -> u64 {
        match self {
            Self::Metadata => 128 << 20,
            Self::Ids => 8 << 20,
            Self::Inbox | Self::Outbox => 16 << 20,
            Self::Leases => 2048 * alignment_bytes,
            Self::Xleases => 1024 * alignment_bytes,
            Self::Master => 1024 << 20,
        }
    }

    /// Whether domains of this version have it.
    #[must_use]
    pub fn is_in(self, version: DomainVersion) -> bool {
        self != Self::Xleases || version.has_external_leases()
    }
}

/// The tags of a complete volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeTags {
    /// Its metadata slot.
    pub slot: SlotNumber,
    /// Its image.
    pub image: ImageId,
    /// Its parent as of the last LVM commit: may be stale, the metadata slot's
    /// is the truth. Blank for a base volume.
    pub parent: VolumeId,
}

impl VolumeTags {
    /// `MD_…`, `IU_…`, `PU_…`.
    #[must_use]
    pub fn encode(&self) -> [String; 3] {
        [
            slot_tag(self.slot),
            image_tag(&self.image),
            parent_tag(&self.parent),
        ]
    }
}

/// `MD_<slot>`.
#[must_use]
pub fn slot_tag(slot: SlotNumber) -> String {
    format!("{SLOT_PREFIX}{slot}")
}

/// `IU_<image>`.
#[must_use]
pub fn image_tag(image: &ImageId) -> String {
    format!("{IMAGE_PREFIX}{image}")
}

/// `PU_<parent>`.
#[must_use]
pub fn parent_tag(parent: &VolumeId) -> String {
    format!("{PARENT_PREFIX}{parent}")
}

/// The tag that takes the place of `IU_<image>` when the volume is to go:
/// with `zero`, its extents must be zeroed before they are given back.
#[must_use]
pub fn removed_tag(image: &ImageId, zero: bool) -> String {
    let prefix = if zero {
        REMOVE_ZERO_PREFIX
    } else {
        REMOVE_PREFIX
    };
    format!("{IMAGE_PREFIX}{prefix}{image}")
}

/// What a logical volume of a domain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LvState {
    /// One of the domain's own.
    Special(SpecialLv),
    /// A complete volume.
    Volume {
        /// Its id.
        id: VolumeId,
        /// Its tags.
        tags: VolumeTags,
    },
    /// Being made (or left half-made by a writer that died).
    Initializing {
        /// Its id.
        id: VolumeId,
        /// The slot, when the tags say one already.
        slot: Option<SlotNumber>,
    },
    /// Marked for removal; its slot stays occupied.
    Removed {
        /// Its id.
        id: VolumeId,
        /// Its tags; the image is the one it belonged to.
        tags: VolumeTags,
        /// Whether it has to be zeroed first.
        zero: bool,
    },
    /// Has a volume's name and not a volume's tags; skipped by every reader.
    Incomplete {
        /// Its id.
        id: VolumeId,
        /// The slot, when the tags say one.
        slot: Option<SlotNumber>,
        /// What is wrong with the tags.
        error: FormatError,
    },
    /// Not of the domain format: neither a special name nor a volume id.
    Foreign,
}

impl LvState {
    /// Judges an LV by its name and tags.
    #[must_use]
    pub fn of<'a>(name: &str, tags: impl IntoIterator<Item = &'a str>) -> Self {
        if let Some(special) = SpecialLv::from_name(name) {
            return Self::Special(special);
        }
        let Ok(id) = name.parse() else {
            return Self::Foreign;
        };
        let mut initializing = false;
        let (mut slot, mut image, mut parent) = (None, None, None);
        let mut twice = None;
        for tag in tags {
            let place = if tag == INITIALIZING {
                initializing = true;
                continue;
            } else if let Some(value) = tag.strip_prefix(SLOT_PREFIX) {
                (&mut slot, "MD_", value)
            } else if let Some(value) = tag.strip_prefix(IMAGE_PREFIX) {
                (&mut image, "IU_", value)
            } else if let Some(value) = tag.strip_prefix(PARENT_PREFIX) {
                (&mut parent, "PU_", value)
            } else {
                continue;
            };
            let (place, key, value) = place;
            if place.replace(value).is_some() {
                twice = Some(key);
            }
        }
        let slot = slot.map(parse_slot);
        let known_slot = slot.as_ref().and_then(|slot| slot.clone().ok());
        if initializing {
            return Self::Initializing {
                id,
                slot: known_slot,
            };
        }
        let parsed = || -> Result<(VolumeTags, Option<bool>), FormatError> {
            if let Some(key) = twice {
                return Err(FormatError::Twice {
                    record: "volume tags",
                    key: key.to_owned(),
                });
            }
            let missing = |key| FormatError::Missing {
                record: "volume tags",
                key,
            };
            let slot = slot.ok_or_else(|| missing("MD_"))??;
            let image = image.ok_or_else(|| missing("IU_"))?;
            let parent = parent.ok_or_else(|| missing("PU_"))?.parse()?;
            let (image, removed) = if let Some(image) = image.strip_prefix(REMOVE_ZERO_PREFIX) {
                (image, Some(true))
            } else if let Some(image) = image.strip_prefix(REMOVE_PREFIX) {
                (image, Some(false))
            } else {
                (image, None)
            };
            let image = image.parse()?;
            Ok((
                VolumeTags {
                    slot,
                    image,
                    parent,
                },
                removed,
            ))
        };
        match parsed() {
            Ok((tags, None)) => Self::Volume { id, tags },
            Ok((tags, Some(zero))) => Self::Removed { id, tags, zero },
            Err(error) => Self::Incomplete {
                id,
                slot: known_slot,
                error,
            },
        }
    }

    /// The metadata slot its tags occupy, whatever its state.
    #[must_use]
    pub fn slot(&self) -> Option<SlotNumber> {
        match self {
            Self::Special(_) | Self::Foreign => None,
            Self::Volume { tags, .. } | Self::Removed { tags, .. } => Some(tags.slot),
            Self::Initializing { slot, .. } | Self::Incomplete { slot, .. } => *slot,
        }
    }
}

fn parse_slot(text: &str) -> Result<SlotNumber, FormatError> {
    let number = super::error::decimal("metadata slot", text)?;
    u32::try_from(number)
        .map(SlotNumber)
        .map_err(|_| FormatError::value("metadata slot", text, "a decimal number below 2^32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: &str = "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f";
    const IMAGE: &str = "6b055e16-337d-4cbe-9af9-d75f00f910c1";

    fn of(tags: &[&str]) -> LvState {
        LvState::of(VOLUME, tags.iter().copied())
    }

    #[test]
    fn a_volume_is_one_only_with_all_three_tags() {
        let tags = VolumeTags {
            slot: SlotNumber(7),
            image: IMAGE.parse().unwrap(),
            parent: VolumeId::BLANK,
        };
        let text = tags.encode();
        let all: Vec<&str> = text.iter().map(String::as_str).collect();
        let id = VOLUME.parse().unwrap();
        assert_eq!(of(&all), LvState::Volume { id, tags });
        for missing in 0..3 {
            let mut some = all.clone();
            some.remove(missing);
            let state = of(&some);
            assert!(matches!(state, LvState::Incomplete { .. }), "{state:?}");
            assert_eq!(state.slot().is_some(), missing != 0);
        }
        let mut making = all.clone();
        making.push(INITIALIZING);
        let slot = Some(SlotNumber(7));
        assert_eq!(of(&making), LvState::Initializing { id, slot });
        let mut two = all.clone();
        two.push("MD_8");
        assert!(matches!(of(&two), LvState::Incomplete { .. }));
    }

    #[test]
    fn removal_and_wiping_are_told_apart_and_keep_the_slot() {
        let image: ImageId = IMAGE.parse().unwrap();
        for zero in [false, true] {
            let mark = removed_tag(&image, zero);
            match of(&["MD_9", &mark, &parent_tag(&VolumeId::BLANK)]) {
                LvState::Removed {
                    tags, zero: found, ..
                } => {
                    assert_eq!((tags.image, tags.slot), (image, SlotNumber(9)));
                    assert_eq!(found, zero);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn names_decide_before_tags() {
        assert_eq!(
            LvState::of("master", ["MD_1"]),
            LvState::Special(SpecialLv::Master)
        );
        assert_eq!(LvState::of("swap", []), LvState::Foreign);
        assert_eq!(SpecialLv::Leases.requested_bytes(1 << 20), 2 << 30);
        assert!(!SpecialLv::Xleases.is_in(DomainVersion::V3));
    }
}
