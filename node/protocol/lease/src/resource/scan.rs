//! One pass over the blocks of all hosts, as read from disk.

use disk_format::paxos::{self, DBLOCK_BYTES, MODE_OFFSET};
use disk_format::{Dblock, Geometry, HostId, Leader, ModeBlock};

use crate::code::Code;

/// A set of hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct HostSet([u64; 32]);

const _: () = assert!(64 * 32 >= disk_format::geometry::HOSTS_MAX as usize);

impl HostSet {
    pub(super) fn insert(&mut self, host: HostId) {
        if let Some(word) = self.0.get_mut(host.index() / 64) {
            *word |= 1 << (host.index() % 64);
        }
    }

    pub(super) fn remove(&mut self, host: HostId) {
        if let Some(word) = self.0.get_mut(host.index() / 64) {
            *word &= !(1 << (host.index() % 64));
        }
    }

    pub(super) fn contains(&self, host: HostId) -> bool {
        self.0
            .get(host.index() / 64)
            .is_some_and(|word| word & (1 << (host.index() % 64)) != 0)
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    pub(super) fn first(&self) -> Option<HostId> {
        let (index, word) = self.0.iter().enumerate().find(|(_, word)| **word != 0)?;
        HostId::from_index(index * 64 + usize::try_from(word.trailing_zeros()).ok()?)
    }

    pub(super) fn last(&self) -> Option<HostId> {
        let (index, word) = self
            .0
            .iter()
            .enumerate()
            .rev()
            .find(|(_, word)| **word != 0)?;
        HostId::from_index(index * 64 + 63 - usize::try_from(word.leading_zeros()).ok()?)
    }
}

/// A value proposed in a ballot: who shall own the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Value {
    pub(super) owner_id: u64,
    pub(super) generation: u64,
    pub(super) timestamp: u64,
}

/// Why a ballot is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Abort {
    /// Somebody decides a newer version (-212).
    Version,
    /// Somebody began a higher ballot (-213).
    Number,
}

/// What a phase's reading says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Phase {
    pub(super) abort: Option<Abort>,
    /// The value accepted in the highest ballot of this version, and that
    /// ballot.
    pub(super) accepted: Option<(u64, Value)>,
    /// Highest ballot number seen.
    pub(super) max_mbal: u64,
    /// Newest version anybody's block speaks about.
    pub(super) max_lver: u64,
    /// Hosts with a shared mark.
    pub(super) shared: HostSet,
    /// A block's checksum is wrong.
    pub(super) damaged: bool,
}

/// Sectors of hosts with anything in them, with their index; almost all of a
/// large area is zeros, and those cost nine loads each.
fn blocks(area: &[u8], geometry: Geometry, num_hosts: u16) -> impl Iterator<Item = (usize, &[u8])> {
    let size = geometry.sector_bytes();
    area.get(2 * size..)
        .unwrap_or_default()
        .chunks_exact(size)
        .take(usize::from(num_hosts))
        .enumerate()
        .filter(|(_, sector)| !is_blank(sector))
}

fn is_blank(sector: &[u8]) -> bool {
    let zeros = |part: Option<&[u8]>| {
        part.is_none_or(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
    };
    zeros(sector.get(..DBLOCK_BYTES)) && zeros(sector.get(MODE_OFFSET..MODE_OFFSET + 4))
}

/// The highest ballot number of any version; every block must be intact.
///
/// # Errors
/// [`Code::DBLOCK_CHECKSUM`].
pub(super) fn max_mbal(area: &[u8], geometry: Geometry, num_hosts: u16) -> Result<u64, Code> {
    let mut max = 0;
    for (_, sector) in blocks(area, geometry, num_hosts) {
        let dblock = Dblock::decode(sector)?;
        if dblock.verify().is_err() {
            return Err(Code::DBLOCK_CHECKSUM);
        }
        max = max.max(dblock.mbal);
    }
    Ok(max)
}

/// What the blocks say about our ballot `mbal` for version `lver`.
pub(super) fn phase(
    area: &[u8],
    geometry: Geometry,
    num_hosts: u16,
    mbal: u64,
    lver: u64,
) -> Phase {
    let mut seen = Phase::default();
    for (index, sector) in blocks(area, geometry, num_hosts) {
        let (Ok(dblock), Ok(mode)) = (Dblock::decode(sector), ModeBlock::decode(sector)) else {
            continue;
        };
        if dblock.verify().is_err() {
            seen.damaged = true;
            continue;
        }
        seen.max_mbal = seen.max_mbal.max(dblock.mbal);
        seen.max_lver = seen.max_lver.max(dblock.lver);
        // To the end even when the ballot is lost: it may turn out that
        // another host has committed us, and then shared holders count.
        if mode.is_shared()
            && let Some(host) = HostId::from_index(index)
        {
            seen.shared.insert(host);
        }
        if dblock.lver < lver || seen.abort.is_some() {
            continue;
        }
        if dblock.lver > lver {
            seen.abort = Some(Abort::Version);
        } else if dblock.mbal > mbal {
            seen.abort = Some(Abort::Number);
        } else if dblock.inp != 0
            && dblock.bal != 0
            && seen.accepted.is_none_or(|(bal, _)| dblock.bal > bal)
        {
            let value = Value {
                owner_id: dblock.inp,
                generation: dblock.inp2,
                timestamp: dblock.inp3,
            };
            seen.accepted = Some((dblock.bal, value));
        }
    }
    seen
}

/// The smallest of `host`'s ballot numbers above all of `max_mbal`'s round.
/// `None` when numbers have run out, which only a forged block can bring about.
pub(super) fn next_ballot(host: HostId, max_mbal: u64, max_hosts: u16) -> Option<u64> {
    let (host, max_hosts) = (u64::from(host.get()), u64::from(max_hosts));
    if max_mbal == 0 {
        return Some(host);
    }
    (max_mbal - max_mbal % max_hosts)
        .checked_add(max_hosts)?
        .checked_add(host)
}

/// Bytes of a leader that must agree between disks: not timestamps nor who
/// wrote it.
const MAJORITY_BYTES: usize = 152;

/// The leader a majority of the disks has.
///
/// # Errors
/// [`Code::LEADER_DIFF`].
pub(super) fn majority(leaders: &[Option<Leader>], disks: u8) -> Result<Leader, Code> {
    let present = || leaders.iter().flatten();
    if disks == 1 {
        return present().next().copied().ok_or(Code::LEADER_DIFF);
    }
    let key = |leader: &Leader| {
        let bytes = leader.encode();
        bytes.first_chunk::<MAJORITY_BYTES>().copied()
    };
    let agreed = |same: &dyn Fn(&Leader, &Leader) -> bool| {
        present().find(|leader| {
            let count = present().filter(|other| same(other, leader)).count();
            count > usize::from(disks / 2)
        })
    };
    // Rather one that agrees in whether it is free, too.
    agreed(&|one, other| one == other)
        .or_else(|| agreed(&|one, other| key(one) == key(other)))
        .copied()
        .ok_or(Code::LEADER_DIFF)
}

/// The leader in a sector, if it is that of this lease and we may use it.
///
/// # Errors
/// The code of the first check that fails.
pub(super) fn leader_of(bytes: &[u8], target: &super::Target, own: HostId) -> Result<Leader, Code> {
    let leader = paxos::leader(bytes)?;
    paxos::verify(&leader, &target.lockspace, &target.resource, own)?;
    Ok(leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u64) -> HostId {
        HostId::new(number).expect("valid")
    }

    #[test]
    fn ballot_numbers_are_the_observed_ones_and_never_collide() {
        assert_eq!(next_ballot(host(1), 0, 2000), Some(1));
        assert_eq!(next_ballot(host(1), 1, 2000), Some(2001));
        assert_eq!(next_ballot(host(1), 2001, 2000), Some(4001));
        assert_eq!(next_ballot(host(2), 8001, 2000), Some(10002));
        assert_eq!(next_ballot(host(1), u64::MAX, 2000), None);
        for max in 0..5000 {
            let ballot = next_ballot(host(7), max, 250).expect("far from the end");
            assert!(ballot > max && ballot % 250 == 7);
        }
        // The last host's numbers are multiples of max_hosts.
        assert_eq!(next_ballot(host(250), 250, 250), Some(750));
    }

    #[test]
    fn a_host_set_finds_its_ends() {
        let mut set = HostSet::default();
        assert_eq!((set.first(), set.last()), (None, None));
        for number in [2000, 64, 65, 1] {
            set.insert(host(number));
        }
        assert_eq!((set.first(), set.last()), (Some(host(1)), Some(host(2000))));
        set.remove(host(1));
        set.remove(host(2000));
        assert_eq!((set.first(), set.last()), (Some(host(64)), Some(host(65))));
    }
}
