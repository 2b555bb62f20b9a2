//! What to correct in the metadata of a chain after a live merge, from what the
//! hypervisor really has open. Pure.

use disk_format::vdsm::uuid::VolumeId;

/// A correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// The leaf was merged away (the guest is just about to pivot, or did):
    /// nobody may start from it.
    MarkIllegal {
        /// The stored leaf.
        leaf: VolumeId,
    },
    /// A volume in between was merged away.
    SetParent {
        /// Whose metadata change.
        child: VolumeId,
        /// Its parent now; BLANK for none.
        parent: VolumeId,
    },
    /// The merge of the leaf failed after it was marked: it is in use as before.
    MarkLegal {
        /// The stored leaf.
        leaf: VolumeId,
    },
}

/// Why nothing can be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// One of the chains is empty.
    #[error("a chain without volumes")]
    Empty,
    /// The hypervisor has a volume that is not in the metadata.
    #[error("volume {0} is open and not in the stored chain")]
    Unknown(VolumeId),
    /// The same volumes in another order.
    #[error("volume {0} is open at another place than the stored chain has it")]
    Order(VolumeId),
}

/// Compares the stored chain with the actual one, both base first.
///
/// # Errors
///
/// See [`SyncError`]: then the metadata must stay as they are.
pub fn corrections(
    stored: &[VolumeId],
    leaf_is_legal: bool,
    actual: &[VolumeId],
) -> Result<Vec<Correction>, SyncError> {
    let (Some(&leaf), false) = (stored.last(), actual.is_empty()) else {
        return Err(SyncError::Empty);
    };
    let mut rest = stored.iter();
    for volume in actual {
        if !stored.contains(volume) {
            return Err(SyncError::Unknown(*volume));
        }
        if !rest.any(|other| other == volume) {
            return Err(SyncError::Order(*volume));
        }
    }
    if stored == actual {
        return Ok(if leaf_is_legal {
            Vec::new()
        } else {
            vec![Correction::MarkLegal { leaf }]
        });
    }
    if !actual.contains(&leaf) {
        return Ok(if leaf_is_legal {
            vec![Correction::MarkIllegal { leaf }]
        } else {
            Vec::new()
        });
    }
    let mut corrections = Vec::new();
    for (place, &child) in actual.iter().enumerate() {
        let parent = place
            .checked_sub(1)
            .and_then(|below| actual.get(below))
            .copied()
            .unwrap_or(VolumeId::BLANK);
        let was = stored
            .iter()
            .position(|&volume| volume == child)
            .and_then(|at| at.checked_sub(1))
            .and_then(|below| stored.get(below))
            .copied()
            .unwrap_or(VolumeId::BLANK);
        if parent != was {
            corrections.push(Correction::SetParent { child, parent });
        }
    }
    Ok(corrections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> VolumeId {
        VolumeId::from_bytes([number; 16])
    }

    fn ids(numbers: &[u8]) -> Vec<VolumeId> {
        numbers.iter().copied().map(id).collect()
    }

    #[test]
    fn the_four_rows_of_the_table() {
        let chain = ids(&[1, 2, 3]);
        let row = |legal, actual: &[u8]| corrections(&chain, legal, &ids(actual)).unwrap();
        assert_eq!(
            row(true, &[1, 2]),
            [Correction::MarkIllegal { leaf: id(3) }]
        );
        let parent = Correction::SetParent {
            child: id(3),
            parent: id(1),
        };
        assert_eq!(row(true, &[1, 3]), [parent]);
        assert_eq!(
            row(false, &[1, 2, 3]),
            [Correction::MarkLegal { leaf: id(3) }]
        );
        assert_eq!(row(true, &[1, 2, 3]), []);
    }

    #[test]
    fn doing_it_twice_is_doing_it_once() {
        let chain = ids(&[1, 2, 3]);
        assert_eq!(corrections(&chain, false, &ids(&[1, 2])), Ok(Vec::new()));
        assert_eq!(
            corrections(&ids(&[1, 3]), true, &ids(&[1, 3])),
            Ok(Vec::new())
        );
    }

    #[test]
    fn merged_base_makes_its_child_the_base() {
        let base = Correction::SetParent {
            child: id(2),
            parent: VolumeId::BLANK,
        };
        assert_eq!(
            corrections(&ids(&[1, 2, 3]), true, &ids(&[2, 3])),
            Ok(vec![base])
        );
    }

    #[test]
    fn chains_that_cannot_be_one_another_change_nothing() {
        let chain = ids(&[1, 2, 3]);
        assert_eq!(
            corrections(&chain, true, &ids(&[1, 9])),
            Err(SyncError::Unknown(id(9)))
        );
        assert_eq!(
            corrections(&chain, true, &ids(&[2, 1, 3])),
            Err(SyncError::Order(id(1)))
        );
        assert_eq!(
            corrections(&chain, true, &ids(&[1, 1])),
            Err(SyncError::Order(id(1)))
        );
        assert_eq!(corrections(&chain, true, &[]), Err(SyncError::Empty));
        assert_eq!(corrections(&[], true, &chain), Err(SyncError::Empty));
    }
}
