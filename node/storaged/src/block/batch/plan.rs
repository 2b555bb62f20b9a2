//! Which free extents volumes get that grow together.

use std::collections::BTreeMap;

/// Extents that follow each other on one device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    /// The device's name within the group (`pv0`).
    pub(super) device: String,
    /// Its first extent on the device.
    pub(super) first: u64,
    /// How many.
    pub(super) count: u64,
}

/// The extents of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Extents {
    /// Extents of each device that may be used.
    pub(super) devices: BTreeMap<String, u64>,
    /// What each volume has, in the volume's order.
    pub(super) volumes: BTreeMap<String, Vec<Piece>>,
}

/// What becomes of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is that large already.
    LargeEnough,
    /// It gets these.
    Grows(Vec<Piece>),
    /// There are only so many free extents left for it.
    NoSpace { needed: u64, free: u64 },
    /// There is no such volume.
    Missing,
}

impl Extents {
    /// Says what is wrong when two volumes share an extent, or one has an extent
    /// that its device does not have.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut all: Vec<(&Piece, &str)> = self
            .volumes
            .iter()
            .flat_map(|(name, pieces)| pieces.iter().map(|piece| (piece, name.as_str())))
            .collect();
        all.sort();
        let mut before: Option<(&Piece, &str)> = None;
        for (piece, volume) in all {
            let end = piece.first.checked_add(piece.count);
            let size = self.devices.get(&piece.device).copied();
            if end.is_none() || size.is_none() || end > size || piece.count == 0 {
                return Err(format!(
                    "volume {volume}: extents {} to {end:?} of {}, which has {size:?}",
                    piece.first, piece.device
                ));
            }
            if let Some((other, owner)) = before
                && other.device == piece.device
                && other.first + other.count > piece.first
            {
                return Err(format!(
                    "volumes {owner} and {volume} share extent {} of {}",
                    piece.first, piece.device
                ));
            }
            before = Some((piece, volume));
        }
        Ok(())
    }

    /// Free extents, as pieces in order of device and number.
    pub(super) fn free(&self) -> Vec<Piece> {
        let mut used: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
        for piece in self.volumes.values().flatten() {
            let of = used.entry(piece.device.as_str()).or_default();
            of.push((piece.first, piece.count));
        }
        let mut free = Vec::new();
        for (device, &size) in &self.devices {
            let mut taken = used.remove(device.as_str()).unwrap_or_default();
            taken.sort_unstable();
            let mut next = 0;
            for (first, count) in taken.into_iter().chain([(size, 0)]) {
                if first > next {
                    free.push(Piece {
                        device: device.clone(),
                        first: next,
                        count: first - next,
                    });
                }
                next = next.max(first + count);
            }
        }
        free
    }

    /// Makes each volume at least so many extents large, in order, as far as there
    /// is room; changes itself accordingly.
    ///
    /// A volume grows where it ends when there is room for all of it, else into
    /// the largest free places: the fewest new segments.
    pub(super) fn grow(&mut self, requests: &[(&str, u64)]) -> Vec<Answer> {
        let mut free = self.free();
        let mut left: u64 = free.iter().map(|piece| piece.count).sum();
        let mut answers = Vec::with_capacity(requests.len());
        for &(volume, wanted) in requests {
            let Some(pieces) = self.volumes.get_mut(volume) else {
                answers.push(Answer::Missing);
                continue;
            };
            let has: u64 = pieces.iter().map(|piece| piece.count).sum();
            let needed = wanted.saturating_sub(has);
            if needed == 0 {
                answers.push(Answer::LargeEnough);
                continue;
            }
            if needed > left {
                answers.push(Answer::NoSpace { needed, free: left });
                continue;
            }
            let new = take(&mut free, pieces.last(), needed);
            left -= needed;
            for piece in &new {
                match pieces.last_mut() {
                    Some(last)
                        if last.device == piece.device
                            && last.first + last.count == piece.first =>
                    {
                        last.count += piece.count;
                    }
                    _ => pieces.push(piece.clone()),
                }
            }
            answers.push(Answer::Grows(new));
        }
        answers
    }
}

/// Takes `needed` extents out of `free`, which has that many.
fn take(free: &mut [Piece], after: Option<&Piece>, needed: u64) -> Vec<Piece> {
    let continues = |piece: &&mut Piece| {
        after.is_some_and(|last| {
            piece.device == last.device
                && piece.first == last.first + last.count
                && piece.count >= needed
        })
    };
    if let Some(next) = free.iter_mut().find(continues) {
        return vec![cut(next, needed)];
    }
    let mut taken = Vec::new();
    let mut missing = needed;
    while missing > 0 {
        let Some(largest) = free.iter_mut().max_by_key(|piece| piece.count) else {
            break;
        };
        if largest.count == 0 {
            break;
        }
        let count = missing.min(largest.count);
        taken.push(cut(largest, count));
        missing -= count;
    }
    taken
}

/// The first `count` extents of a free piece, which loses them.
fn cut(piece: &mut Piece, count: u64) -> Piece {
    let taken = Piece {
        device: piece.device.clone(),
        first: piece.first,
        count,
    };
    piece.first += count;
    piece.count -= count;
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(device: &str, first: u64, count: u64) -> Piece {
        Piece {
            device: device.to_owned(),
            first,
            count,
        }
    }

    fn group(devices: &[(&str, u64)], volumes: &[(&str, Vec<Piece>)]) -> Extents {
        Extents {
            devices: devices.iter().map(|&(n, s)| (n.to_owned(), s)).collect(),
            volumes: volumes
                .iter()
                .map(|(name, pieces)| ((*name).to_owned(), pieces.clone()))
                .collect(),
        }
    }

    #[test]
    fn a_volume_grows_where_it_ends_or_where_most_is_free() {
        let mut extents = group(
            &[("pv0", 100), ("pv1", 200)],
            &[
                ("a", vec![piece("pv0", 0, 10)]),
                ("b", vec![piece("pv0", 15, 10)]),
            ],
        );
        let answers = extents.grow(&[("a", 12), ("a", 30), ("b", 30), ("c", 1), ("b", 2)]);
        assert_eq!(
            answers,
            [
                Answer::Grows(vec![piece("pv0", 10, 2)]),
                // Three are free behind it: not enough, so all of it elsewhere.
                Answer::Grows(vec![piece("pv1", 0, 18)]),
                Answer::Grows(vec![piece("pv0", 25, 20)]),
                Answer::Missing,
                Answer::LargeEnough,
            ]
        );
        assert_eq!(
            extents.volumes["a"],
            [piece("pv0", 0, 12), piece("pv1", 0, 18)]
        );
        assert_eq!(extents.volumes["b"], [piece("pv0", 15, 30)]);
    }

    #[test]
    fn who_finds_no_room_does_not_keep_others_from_it() {
        let mut extents = group(&[("pv0", 10)], &[("a", vec![piece("pv0", 0, 2)])]);
        let mut wanted = extents.clone();
        let answers = extents.grow(&[("a", 11), ("a", 10)]);
        assert_eq!(answers[0], Answer::NoSpace { needed: 9, free: 8 });
        assert_eq!(answers[1], Answer::Grows(vec![piece("pv0", 2, 8)]));
        wanted
            .volumes
            .insert("a".to_owned(), vec![piece("pv0", 0, 10)]);
        assert_eq!(extents, wanted);
    }

    #[test]
    fn shared_and_missing_extents_are_found() {
        let shared = group(
            &[("pv0", 10)],
            &[
                ("a", vec![piece("pv0", 0, 3)]),
                ("b", vec![piece("pv0", 2, 1)]),
            ],
        );
        assert!(
            shared
                .check()
                .unwrap_err()
                .contains("share extent 2 of pv0")
        );
        let beyond = group(&[("pv0", 10)], &[("a", vec![piece("pv0", 8, 3)])]);
        assert!(beyond.check().is_err());
        let nowhere = group(&[], &[("a", vec![piece("pv0", 8, 3)])]);
        assert!(nowhere.check().is_err());
    }

    proptest! {
        #[test]
        fn growing_never_moves_shrinks_or_shares(
            sizes in prop::collection::vec(1u64..60, 1..4),
            steps in prop::collection::vec((0usize..8, 0u64..40), 0..60),
        ) {
            let mut extents = Extents::default();
            for (index, &size) in sizes.iter().enumerate() {
                extents.devices.insert(format!("pv{index}"), size);
            }
            for volume in 0..8 {
                extents.volumes.insert(format!("v{volume}"), Vec::new());
            }
            for (volume, wanted) in steps {
                let name = format!("v{volume}");
                let before = extents.clone();
                let free: u64 = before.free().iter().map(|piece| piece.count).sum();
                let answer = extents.grow(&[(&name, wanted)]).remove(0);
                extents.check().map_err(TestCaseError::fail)?;
                let had = size(&before, &name);
                let has = size(&extents, &name);
                match answer {
                    Answer::LargeEnough => prop_assert!(has == had && had >= wanted),
                    Answer::Grows(_) => prop_assert!(has == wanted && wanted > had),
                    Answer::NoSpace { .. } => prop_assert!(has == had && wanted - had > free),
                    Answer::Missing => prop_assert!(false),
                }
                for (other, pieces) in &before.volumes {
                    let now: Vec<_> = extents.volumes[other].iter().flat_map(list).collect();
                    let then: Vec<_> = pieces.iter().flat_map(list).collect();
                    prop_assert!(now.starts_with(&then));
                    prop_assert!(other == &name || now == then);
                }
            }
        }
    }

    fn size(extents: &Extents, volume: &str) -> u64 {
        let pieces = extents.volumes[volume].iter();
        pieces.map(|piece| piece.count).sum()
    }

    fn list(piece: &Piece) -> Vec<(String, u64)> {
        let device = &piece.device;
        (piece.first..piece.first + piece.count)
            .map(|extent| (device.clone(), extent))
            .collect()
    }
}
