//! One ballot for the next version of a lease: Disk Paxos with every host a
//! proposer and the blocks of all hosts on disk as the acceptors (spec §4.2,
//! steps D to H).

use disk_format::{Dblock, Leader, paxos};

use crate::code::Code;
use crate::resource::SectorBytes;
use crate::resource::acquire::{Acquire, Ballot, Stage};
use crate::resource::desk::{Arrived, Purpose, Scope, Tally};
use crate::resource::scan::{self, HostSet, Value};
use crate::time::Monotonic;

/// Hosts that keep losing ballots to each other stop after so many I/O
/// time-outs: the original's bound for a free lease.
const CONTENTION_TIMEOUTS: u64 = 6;
/// A stand-back is drawn from a window of this many ballots' duration …
const WINDOW_BALLOTS: u64 = 4;
/// … within these bounds, milliseconds. The upper one is the original's.
const WINDOW_MS: (u64, u64) = (20, 1000);

impl Acquire {
    /// Step D.
    pub(super) fn run_ballot(&mut self) {
        let Some(leader) = self.leader else {
            return self.fail(Code::ERROR);
        };
        let mbal = scan::next_ballot(self.us.host_id, self.max_mbal, self.hosts.max);
        let (Some(mbal), Some(lver)) = (mbal, leader.lver.checked_add(1)) else {
            return self.fail(Code::DBLOCK_MBAL);
        };
        // Our own block has been further: a write given up long ago has thrown
        // the leader back. Block versions never do that, or two hosts could
        // own what looks like different versions.
        let lver = lver.max(self.left.lver);
        self.ballot = Some(Ballot {
            lver,
            mbal,
            max_seen: 0,
            max_lver: 0,
            damaged: false,
            abort: None,
            accepted: None,
            value: None,
            shared: HostSet::default(),
            began: self.desk.now.boottime,
        });
        self.phase1();
    }

    /// Step F. A value accepted earlier for this version stays: another host
    /// may have seen it, or a write given up long ago have hidden that it was
    /// committed. (The original forgets its own.)
    fn phase1(&mut self) {
        let before = self.dblock.unwrap_or(self.left);
        let Some(ballot) = &mut self.ballot else {
            return;
        };
        let kept = Some(before).filter(|before| before.lver == ballot.lver && before.bal != 0);
        ballot.abort = None;
        ballot.accepted = None;
        ballot.value = None;
        ballot.began = self.desk.now.boottime;
        let (lver, mbal) = (ballot.lver, ballot.mbal);
        let value = kept.map(|kept| Value {
            owner_id: kept.inp,
            generation: kept.inp2,
            timestamp: kept.inp3,
        });
        let dblock = Dblock {
            mbal,
            lver,
            flags: self.mark(lver, value),
            ..kept.unwrap_or_default()
        };
        // If this comes to nothing, what names us is taken back.
        let named = self.leader.is_some_and(|leader| {
            leader.timestamp != 0 && leader.owner_id == u64::from(self.us.host_id.get())
        });
        if kept.is_some() || named {
            self.proposed = Some(lver);
        }
        self.stage = Stage::Ballot;
        self.write_own(Purpose::Phase1Write, &dblock);
    }

    /// Step G.
    fn phase2(&mut self) {
        let value = Value {
            owner_id: u64::from(self.us.host_id.get()),
            generation: self.us.generation.0,
            timestamp: self.desk.timestamp(),
        };
        let Some(ballot) = &mut self.ballot else {
            return;
        };
        let value = ballot.accepted.map_or(value, |(_, accepted)| accepted);
        ballot.value = Some(value);
        self.proposed = Some(ballot.lver);
        let lver = ballot.lver;
        let flags = self.mark(lver, Some(value));
        let Some(ballot) = &self.ballot else {
            return;
        };
        let dblock = Dblock {
            mbal: ballot.mbal,
            bal: ballot.mbal,
            inp: value.owner_id,
            inp2: value.generation,
            inp3: value.timestamp,
            lver,
            flags,
            checksum: 0,
        };
        self.write_own(Purpose::Phase2Write, &dblock);
    }

    /// Whether we may have owned this version before, and given it up. Deciding
    /// it again gives it to us again; then it is only a step to the next one.
    fn is_used_up(&self, lver: u64) -> bool {
        self.left.lver == lver && self.left.bal != 0
    }

    /// The mark that we have let go stays on our block until we propose
    /// ourselves anew: the leader may name us yet, or once more, by the hand of
    /// another host.
    fn mark(&self, lver: u64, value: Option<Value>) -> u32 {
        let anew = value.is_some_and(|value| self.is_us(&value)) && !self.is_used_up(lver);
        if anew || self.left.mbal == 0 {
            0
        } else {
            Dblock::RELEASED
        }
    }

    fn write_own(&mut self, purpose: Purpose, dblock: &Dblock) {
        let dblock = dblock.sealed();
        let before = self.dblock.unwrap_or(self.left);
        assert!(
            dblock.lver >= before.lver,
            "our block's version never decreases"
        );
        assert!(
            dblock.lver > before.lver
                || dblock.mbal > before.mbal
                || (dblock.mbal == before.mbal && before.bal < before.mbal),
            "a ballot number stands for one value"
        );
        assert!(
            dblock.mbal % u64::from(self.hosts.max)
                == u64::from(self.us.host_id.get()) % u64::from(self.hosts.max),
            "a ballot number is our own"
        );
        self.dblock = Some(dblock);
        self.desk.write(
            purpose,
            Scope::AllDisks,
            paxos::host_sector(self.us.host_id),
            self.geometry.sector_size(),
            &SectorBytes::host(&dblock, &self.own_mode()),
        );
    }

    pub(super) fn on_phase_written(&mut self, purpose: Purpose, tally: Tally) {
        if tally.majority().is_err() {
            return self.fail(Code::DBLOCK_WRITE);
        }
        let read = if purpose == Purpose::Phase1Write {
            Purpose::Phase1Read
        } else {
            Purpose::Phase2Read
        };
        let sectors = paxos::ballot_sectors(u64::from(self.hosts.num), self.geometry);
        self.desk.read(
            read,
            Scope::AllDisks,
            0,
            sectors * self.geometry.sector_size(),
        );
    }

    pub(super) fn on_phase_data(&mut self, arrived: Arrived<'_>) {
        let Some(ballot) = &mut self.ballot else {
            return;
        };
        let seen = scan::phase(
            arrived.bytes,
            self.geometry,
            self.hosts.num,
            ballot.mbal,
            ballot.lver,
        );
        ballot.max_seen = ballot.max_seen.max(seen.max_mbal);
        ballot.max_lver = ballot.max_lver.max(seen.max_lver);
        ballot.abort = ballot.abort.or(seen.abort);
        if arrived.purpose == Purpose::Phase1Read {
            ballot.damaged |= seen.damaged;
            if let Some((bal, value)) = seen.accepted
                && ballot.accepted.is_none_or(|(best, _)| bal > best)
            {
                ballot.accepted = Some((bal, value));
            }
            ballot.shared.merge(&seen.shared);
        }
    }

    pub(super) fn on_phase_read(&mut self, purpose: Purpose, tally: Tally) {
        if tally.majority().is_err() {
            return self.fail(Code::DBLOCK_READ);
        }
        let Some(ballot) = &self.ballot else {
            return;
        };
        if ballot.damaged && self.short_of.is_some() {
            // What the first reading would have found.
            self.fail(Code::DBLOCK_CHECKSUM);
        } else if ballot.abort.is_some() {
            self.stand_back();
        } else if purpose == Purpose::Phase1Read {
            self.phase2();
        } else {
            self.commit();
        }
    }

    /// Lost: waits a moment, and takes a number above all that were seen.
    ///
    /// The window depends on how long a ballot takes here and not on how often
    /// it was lost, so that no host is favoured for being late or early.
    fn stand_back(&mut self) {
        let now = self.desk.now.boottime;
        let Some(ballot) = &mut self.ballot else {
            return;
        };
        let above = ballot.max_seen.max(ballot.mbal);
        let next = scan::next_ballot(self.us.host_id, above, self.hosts.max);
        let took_ms = now.ms_since(ballot.began);
        let Some(next) = next else {
            return self.fail(Code::DBLOCK_MBAL);
        };
        ballot.mbal = next;
        let began = *self.contended.get_or_insert(now);
        self.lost = self.lost.saturating_add(1);
        if now > began.plus_s(CONTENTION_TIMEOUTS * self.desk.timeout_s()) {
            return self.fail(Code::EAGAIN);
        }
        let (least, most) = WINDOW_MS;
        let window_ms = took_ms.saturating_mul(WINDOW_BALLOTS).clamp(least, most);
        let window_us = window_ms * 1000;
        let pause_us = self.next_random() % window_us;
        self.stage = Stage::Backoff(Monotonic(now.0.saturating_add(1000 * pause_us)));
    }

    /// Step E, on a retry.
    pub(super) fn recheck(&mut self) {
        self.stage = Stage::Ballot;
        self.refused = None;
        self.leaders = Default::default();
        self.desk.read(
            Purpose::Recheck,
            Scope::AllDisks,
            0,
            self.geometry.sector_size(),
        );
    }

    pub(super) fn on_recheck(&mut self, tally: Tally) {
        if let Err(code) = tally.majority() {
            return self.fail(code);
        }
        let leader = match scan::majority(&self.leaders, self.target.disks) {
            Ok(leader) => leader,
            Err(code) => return self.fail(self.refused.unwrap_or(code)),
        };
        let Some(ballot) = self.ballot else {
            return self.fail(Code::ERROR);
        };
        self.settle_proposal(&leader);
        if leader.lver == ballot.lver {
            let host = u64::from(self.us.host_id.get());
            if leader.owner_id != host {
                self.leader = Some(leader);
                return self.held_elsewhere(Code::ACQUIRE_OWNED);
            }
            if leader.owner_generation == self.us.generation.0
                && leader.timestamp != 0
                && !self.is_used_up(leader.lver)
            {
                // Somebody committed us; until the end of this acquire the
                // way back leads through our mark.
                self.proposed = Some(leader.lver);
                return self.owned(leader);
            }
            return self.look();
        }
        if Some(leader) != self.leader {
            return self.look();
        }
        // Whoever speaks of a version has seen its predecessor in the leader.
        // If we, looking later, do not, then a write that was given up long
        // ago has landed on top of it. The version spoken of is decided again,
        // to the same value if it was decided, and the leader mended by it.
        if let Some(ballot) = &mut self.ballot
            && ballot.max_lver > ballot.lver
        {
            ballot.lver = ballot.max_lver;
            ballot.shared = HostSet::default();
        }
        self.phase1();
    }

    /// Step H.
    fn commit(&mut self) {
        let Some((leader, ballot, value)) = self.chosen() else {
            return self.fail(Code::ERROR);
        };
        let host = u64::from(self.us.host_id.get());
        let mut new = Leader {
            lver: ballot.lver,
            owner_id: value.owner_id,
            owner_generation: value.generation,
            // A version we have given up before is given up again at once.
            timestamp: if self.is_us(&value) && self.is_used_up(ballot.lver) {
                0
            } else {
                value.timestamp
            },
            write_id: host,
            write_generation: self.us.generation.0,
            write_timestamp: self.desk.timestamp(),
            num_hosts: self.new_num_hosts(&leader, &ballot),
            ..leader
        };
        let ours = self.is_us(&value);
        if ours && self.options.shared {
            new.flags |= paxos::SHORT_HOLD;
        } else if ours {
            new.flags &= !paxos::SHORT_HOLD;
        }
        let new = new.sealed();
        self.committing = Some(new);
        self.desk.write(
            Purpose::Commit,
            Scope::AllDisks,
            paxos::LEADER_SECTOR,
            self.geometry.sector_size(),
            &SectorBytes::leader(&new),
        );
        // The value is chosen: the last owner has written its block before it
        // let go, and nobody can write it before we do. So it may be read now.
        if ours && self.options.lvb && !self.is_used_up(ballot.lver) {
            self.read_lvb();
        }
    }

    fn chosen(&self) -> Option<(Leader, Ballot, Value)> {
        let ballot = self.ballot?;
        Some((self.leader?, ballot, ballot.value?))
    }

    fn is_us(&self, value: &Value) -> bool {
        value.owner_id == u64::from(self.us.host_id.get())
            && value.generation == self.us.generation.0
    }

    /// The number of hosts wanted, but never so few that we, or a shared
    /// holder, would fall out of sight.
    fn new_num_hosts(&self, leader: &Leader, ballot: &Ballot) -> u64 {
        let Some(wanted) = self.options.num_hosts else {
            return leader.num_hosts;
        };
        let max = u64::from(self.geometry.max_hosts());
        let wanted = match u64::from(wanted) {
            0 => max,
            wanted => wanted.min(max),
        };
        let last_shared = ballot.shared.last().map_or(0, |host| u64::from(host.get()));
        wanted
            .max(u64::from(self.us.host_id.get()))
            .max(last_shared)
    }

    pub(super) fn on_commit(&mut self, tally: Tally) {
        if let Err(code) = tally.majority() {
            return self.fail(code);
        }
        let (Some(leader), Some((_, _, value))) = (self.committing.take(), self.chosen()) else {
            return self.fail(Code::ERROR);
        };
        self.leader = Some(leader);
        if self.is_us(&value) && !self.is_used_up(leader.lver) {
            self.owned(leader);
        } else if value.owner_id == u64::from(self.us.host_id.get()) {
            // An earlier life of ours, or an earlier hold: decided, and free
            // for the taking.
            self.proposed = None;
            self.look();
        } else {
            self.proposed = None;
            self.held_elsewhere(Code::ACQUIRE_OTHER);
        }
    }
}
