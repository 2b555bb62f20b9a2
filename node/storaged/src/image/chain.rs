//! Chains: which volumes a guest's disk is made of, by their metadata.

use std::collections::BTreeMap;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::{ImageId, VolumeId};
use disk_format::vdsm::volume::{Legality, VolumeMetadata, VolumeType};

use crate::domain::{Domain, VolumeEntry};
use crate::job::Result;

/// Volumes of a chain at most; more is a loop or an accident.
pub const CHAIN_MAX: usize = 256;

/// The volumes from `leaf` down, base first, by who is whose parent (BLANK: none).
///
/// # Errors
///
/// `NotFound` for a missing leaf; `Damaged` for a missing parent or a loop, both
/// named.
pub fn order(leaf: VolumeId, parents: &BTreeMap<VolumeId, VolumeId>) -> Result<Vec<VolumeId>> {
    let mut chain = Vec::new();
    let mut at = leaf;
    loop {
        let Some(&parent) = parents.get(&at) else {
            return Err(match chain.last() {
                None => Failure::new(FailureKind::NotFound, format!("volume {at}: not there")),
                Some(child) => Failure::new(
                    FailureKind::Damaged,
                    format!("volume {child}: its parent {at} is not there"),
                ),
            });
        };
        if chain.contains(&at) {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!("volume {at}: its chain comes back to it"),
            ));
        }
        if chain.len() == CHAIN_MAX {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!("volume {leaf}: more than {CHAIN_MAX} volumes below it"),
            ));
        }
        chain.push(at);
        if parent.is_blank() {
            chain.reverse();
            return Ok(chain);
        }
        at = parent;
    }
}

/// A volume with its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where it is.
    pub entry: VolumeEntry,
    /// What is written about it.
    pub metadata: VolumeMetadata,
}

/// Volumes of a domain whose metadata have been read.
#[derive(Debug)]
pub struct View {
    /// Everything the domain lists.
    pub entries: Vec<VolumeEntry>,
    links: BTreeMap<VolumeId, Result<Link>>,
}

impl View {
    /// Reads an image: its own volumes and, of other images, those its chains
    /// stand on.
    ///
    /// # Errors
    ///
    /// I/O. A volume whose metadata are damaged is an error only to who asks for it.
    pub fn of_image(domain: &dyn Domain, image: ImageId) -> Result<Self> {
        let entries = domain.volumes()?;
        let mut view = Self {
            links: BTreeMap::new(),
            entries,
        };
        let mut wanted: Vec<VolumeId> = view
            .entries
            .iter()
            .filter(|entry| {
                entry.is_live() && (entry.image == image || entry.shared_with.contains(&image))
            })
            .map(|entry| entry.id)
            .collect();
        while let Some(id) = wanted.pop() {
            if view.links.contains_key(&id) {
                continue;
            }
            let Some(entry) = view.find(id).cloned() else {
                continue;
            };
            let link = read(domain, entry)?;
            if let Ok(link) = &link
                && !link.metadata.parent.is_blank()
            {
                wanted.push(link.metadata.parent);
            }
            view.links.insert(id, link);
        }
        Ok(view)
    }

    /// Reads all of a domain.
    ///
    /// # Errors
    ///
    /// As [`View::of_image`].
    pub fn of_domain(domain: &dyn Domain) -> Result<Self> {
        let entries = domain.volumes()?;
        let mut links = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.is_live()) {
            links.insert(entry.id, read(domain, entry.clone())?);
        }
        Ok(Self { entries, links })
    }

    /// The live entry of a volume.
    #[must_use]
    pub fn find(&self, id: VolumeId) -> Option<&VolumeEntry> {
        self.entries
            .iter()
            .find(|entry| entry.id == id && entry.is_live())
    }

    /// A volume that was read.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Damaged` when its metadata are.
    pub fn link(&self, id: VolumeId) -> Result<&Link> {
        match self.links.get(&id) {
            Some(Ok(link)) => Ok(link),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::new(
                FailureKind::NotFound,
                format!("volume {id}: not there"),
            )),
        }
    }

    /// All volumes that could be read, in order of id.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values().filter_map(|link| link.as_ref().ok())
    }

    /// Those that could not, with the reason.
    pub fn broken(&self) -> impl Iterator<Item = (VolumeId, &Failure)> {
        self.links
            .iter()
            .filter_map(|(id, link)| link.as_ref().err().map(|failure| (*id, failure)))
    }

    /// The chain below `leaf`, base first.
    ///
    /// # Errors
    ///
    /// As [`order`]; `Damaged` when metadata of one of it are.
    pub fn chain(&self, leaf: VolumeId) -> Result<Vec<&Link>> {
        let parents = self
            .links()
            .map(|link| (link.entry.id, link.metadata.parent))
            .collect();
        let order = match order(leaf, &parents) {
            Ok(order) => order,
            Err(failure) => {
                // The true reason may be metadata that could not be read.
                let mut at = leaf;
                for _ in 0..CHAIN_MAX {
                    match self.links.get(&at) {
                        Some(Ok(link)) => at = link.metadata.parent,
                        Some(Err(reason)) => return Err(reason.clone()),
                        None => break,
                    }
                }
                return Err(failure);
            }
        };
        order.into_iter().map(|id| self.link(id)).collect()
    }

    /// The volumes whose parent this one is, by their metadata.
    #[must_use]
    pub fn children(&self, id: VolumeId) -> Vec<&Link> {
        self.links()
            .filter(|link| link.metadata.parent == id)
            .collect()
    }

    /// Entries that may be children and cannot be read: by their tag, or, without
    /// one, anything in the same image.
    #[must_use]
    pub fn suspected_children(&self, entry: &VolumeEntry) -> Vec<VolumeId> {
        self.broken()
            .filter(|(other, _)| *other != entry.id)
            .filter_map(|(other, _)| self.find(other))
            .filter(|other| match other.parent_tag {
                Some(parent) => parent == entry.id,
                None => other.image == entry.image,
            })
            .map(|other| other.id)
            .collect()
    }

    /// The leaf of an image: its only volume that is nobody's parent, an illegal
    /// one (merged away, not yet deleted) not counted while there is a legal one.
    ///
    /// # Errors
    ///
    /// `NotFound` for an image without volumes; `Damaged` when it cannot be told.
    pub fn leaf(&self, image: ImageId) -> Result<&Link> {
        let tops: Vec<&Link> = self
            .links()
            .filter(|link| link.metadata.image == image)
            .filter(|link| {
                !self.links().any(|other| {
                    other.metadata.parent == link.entry.id && other.metadata.image == image
                })
            })
            .collect();
        let best = |tops: &[&'_ Link], keep: &dyn Fn(&Link) -> bool| -> Vec<usize> {
            (0..tops.len())
                .filter(|&at| tops.get(at).is_some_and(|link| keep(link)))
                .collect()
        };
        let usable = best(&tops, &|link| {
            link.metadata.legality == Legality::Legal
                && link.metadata.volume_type != VolumeType::Internal
        });
        let chosen = match (usable.as_slice(), tops.as_slice()) {
            ([one], _) => tops.get(*one).copied(),
            ([], [one]) => Some(*one),
            _ => None,
        };
        chosen.ok_or_else(|| {
            if tops.is_empty() {
                match self.broken().next() {
                    Some((_, failure)) => failure.clone(),
                    None => Failure::new(
                        FailureKind::NotFound,
                        format!("image {image}: no volume of it is there"),
                    ),
                }
            } else {
                let names: Vec<String> = tops.iter().map(|l| l.entry.id.to_string()).collect();
                Failure::new(
                    FailureKind::Damaged,
                    format!(
                        "image {image}: its leaf is not clear, it may be {}; name it",
                        names.join(" or ")
                    ),
                )
            }
        })
    }
}

/// Reads one volume's metadata; damage is kept, other failures end it.
fn read(domain: &dyn Domain, entry: VolumeEntry) -> Result<Result<Link>> {
    match domain.volume_metadata(&entry) {
        Ok(metadata) => Ok(Ok(Link { entry, metadata })),
        // Gone since it was listed, or damaged.
        Err(failure) if matches!(failure.kind, FailureKind::Damaged | FailureKind::NotFound) => {
            Ok(Err(failure.while_doing(format!("volume {}", entry.id))))
        }
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> VolumeId {
        if number == 0 {
            return VolumeId::BLANK;
        }
        VolumeId::from_bytes([number; 16])
    }

    fn parents(pairs: &[(u8, u8)]) -> BTreeMap<VolumeId, VolumeId> {
        pairs.iter().map(|&(c, p)| (id(c), id(p))).collect()
    }

    #[test]
    fn chain_is_ordered_base_first() {
        let all = parents(&[(3, 2), (2, 1), (1, 0), (9, 1)]);
        assert_eq!(order(id(3), &all).unwrap(), [id(1), id(2), id(3)]);
        assert_eq!(order(id(1), &all).unwrap(), [id(1)]);
    }

    #[test]
    fn loops_and_missing_parents_are_named() {
        let failure = order(id(3), &parents(&[(3, 2), (2, 3)])).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Damaged);
        assert!(failure.message.contains("comes back"), "{failure}");
        let failure = order(id(3), &parents(&[(3, 3)])).unwrap_err();
        assert!(failure.message.contains("comes back"), "{failure}");
        let failure = order(id(3), &parents(&[(3, 2)])).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Damaged);
        assert!(failure.message.contains(&id(2).to_string()), "{failure}");
        let failure = order(id(3), &parents(&[])).unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotFound);
    }
}
