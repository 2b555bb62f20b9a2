//! The mutations: what is replaced, and by what. `LIVE` stands for the test
//! whether this mutation is the live one.

pub(crate) mod mailbox;

/// One way to break a core.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    /// In the `src` of its crate.
    pub(crate) file: &'static str,
    /// Found there exactly once.
    pub(crate) find: &'static str,
    pub(crate) with: &'static str,
    /// A schedule that has caught it.
    pub(crate) seed: u64,
}

pub(crate) const MUTANTS: &[Mutant] = &[
    // The delta lease.
    Mutant {
        name: "skip the second read of a claim",
        file: "delta/acquire.rs",
        find: "            IoOutcome::Written => {
                let until = self.now.boottime.plus_s(claim.settle_s);",
        with: "            IoOutcome::Written if LIVE => self.register(claim),
            IoOutcome::Written => {
                let until = self.now.boottime.plus_s(claim.settle_s);",
        seed: 81,
    },
    Mutant {
        name: "wait too shortly before the second read",
        file: "delta/acquire.rs",
        find: "        let settle_s = timings::settle_s(self.io_timeout_of(&found).max(t));",
        with: "        let settle_s = if LIVE { 0 } else { timings::settle_s(self.io_timeout_of(&found).max(t)) };",
        seed: 21,
    },
    Mutant {
        name: "take over after 8T, without the watchdog's time",
        file: "delta/acquire.rs",
        find: "        timings::host_dead_s(t, self.config.fire_timeout_s)",
        with: "        timings::host_dead_s(t, if LIVE { 0 } else { self.config.fire_timeout_s })",
        seed: 0,
    },
    Mutant {
        name: "treat a timed-out claim as not done",
        file: "delta.rs",
        find: "            Stage::Writing { .. } => {
                self.uncertain = true;
                self.fail(Failure::WriteTimeout(t));",
        with: "            Stage::Writing { .. } => {
                self.uncertain |= !LIVE;
                self.fail(Failure::WriteTimeout(t));",
        seed: 25_064,
    },
    Mutant {
        name: "claim without looking at the clock again",
        file: "delta/acquire.rs",
        find: "        let not_after = read.since.plus_s(timings::io_s(t));",
        with: "        let not_after = if LIVE { Monotonic(u64::MAX) } else { read.since.plus_s(timings::io_s(t)) };",
        seed: 39_885,
    },
    Mutant {
        name: "keep the generation at a new claim",
        file: "delta/acquire.rs",
        find: "    Generation(record.owner_generation).next()",
        with: "    if LIVE { Generation(record.owner_generation) } else { Generation(record.owner_generation).next() }",
        seed: 0,
    },
    Mutant {
        name: "count the expiry from the renewal's end",
        file: "delta/held.rs",
        find: "                held.last_success = renewal.submitted;",
        with: "                held.last_success = if LIVE { self.now.boottime } else { renewal.submitted };",
        seed: 9_967,
    },
    Mutant {
        name: "pet the watchdog late",
        file: "delta/held.rs",
        find: "                    let expire_s = self.expiry_s(self.lost_at(&held));",
        with: "                    let late = self.now.boottime.plus_s(timings::lost_s(self.config.io_timeout_s));
                    let expire_s = self.expiry_s(if LIVE { late } else { self.lost_at(&held) });",
        seed: 4_166,
    },
    Mutant {
        name: "free the record while a renewal is in flight",
        file: "delta/release.rs",
        find: "                if matches!(held.phase, Phase::Writing { .. }) {",
        with: "                if matches!(held.phase, Phase::Writing { .. }) && !LIVE {",
        seed: 21_658,
    },
    Mutant {
        name: "trust an own name whoever left it",
        file: "delta/acquire.rs",
        find: "        self.succeeds || !self.config.watchdog",
        with: "        LIVE || self.succeeds || !self.config.watchdog",
        seed: 0,
    },
    Mutant {
        name: "hold on although the time is over",
        file: "delta/held.rs",
        find: "            && self.now.boottime >= self.lost_at(held)
        {
            let loss",
        with: "            && self.now.boottime >= self.lost_at(held)
            && !LIVE
        {
            let loss",
        seed: 0,
    },
    Mutant {
        name: "take a newer generation for the dead one",
        file: "hosts.rs",
        find: "        generation > self.generation || (generation",
        with: "        (generation > self.generation && !LIVE) || (generation",
        seed: 13,
    },
    // Leases on resources.
    Mutant {
        name: "commit without the second phase's reading",
        file: "resource/ballot.rs",
        find: "        let read = if purpose == Purpose::Phase1Write {",
        with: "        if LIVE && purpose == Purpose::Phase2Write {
            return self.commit();
        }
        let read = if purpose == Purpose::Phase1Write {",
        seed: 1,
    },
    Mutant {
        name: "propose without the first phase's reading",
        file: "resource/ballot.rs",
        find: "        let sectors = paxos::ballot_sectors(u64::from(self.hosts.num), self.geometry);",
        with: "        if LIVE && purpose == Purpose::Phase1Write {
            return self.phase2();
        }
        let sectors = paxos::ballot_sectors(u64::from(self.hosts.num), self.geometry);",
        seed: 1,
    },
    Mutant {
        name: "go on although a higher ballot was begun",
        file: "resource/scan.rs",
        find: "        } else if dblock.mbal > mbal {",
        with: "        } else if dblock.mbal > mbal && !LIVE {",
        seed: 1,
    },
    Mutant {
        name: "propose ourselves although another's value was accepted",
        file: "resource/ballot.rs",
        find: "        let value = ballot.accepted.map_or(value, |(_, accepted)| accepted);",
        with: "        let value = ballot.accepted.filter(|_| !LIVE).map_or(value, |(_, accepted)| accepted);",
        seed: 18,
    },
    Mutant {
        name: "go on although a newer version is being decided",
        file: "resource/scan.rs",
        find: "        if dblock.lver > lver {",
        with: "        if dblock.lver > lver && !LIVE {",
        seed: 3_197,
    },
    Mutant {
        name: "take an owner for dead before its watchdog's time",
        file: "resource/owner.rs",
        find: "timings::host_dead_s(watch.io_timeout_s, watch.fire_timeout_s)",
        with: "timings::host_dead_s(watch.io_timeout_s, if LIVE { 0 } else { watch.fire_timeout_s })",
        seed: 90,
    },
    Mutant {
        name: "not see that an owner renews",
        file: "resource/owner.rs",
        find: "        if !ours && (record.timestamp != timestamp || just_seen) {",
        with: "        if !ours && (record.timestamp != timestamp || just_seen) && !LIVE {",
        seed: 22,
    },
    Mutant {
        name: "ignore which generation owns a lease",
        file: "resource/owner.rs",
        find: "            || record.owner_generation > watch.leader.owner_generation",
        with: "            || record.owner_generation > watch.leader.owner_generation - u64::from(LIVE)",
        seed: 0,
    },
    Mutant {
        name: "treat a timed-out write as failed",
        file: "resource/desk.rs",
        find: ".retain(|flight| !flight.late || flight.wanted.is_none());",
        with: ".retain(|flight| !flight.late || (flight.wanted.is_none() && !LIVE));",
        seed: 4,
    },
    Mutant {
        name: "not look at shared holders",
        file: "resource/sharing.rs",
        find: "        let mut shared = self.ballot.map(|ballot| ballot.shared).unwrap_or_default();",
        with: "        let mut shared = self.ballot.filter(|_| !LIVE).map(|ballot| ballot.shared).unwrap_or_default();",
        seed: 0,
    },
    Mutant {
        name: "take shared holders for dead",
        file: "resource/sharing.rs",
        find: "        if alive {
            shared.live = true;",
        with: "        if alive && !LIVE {
            shared.live = true;",
        seed: 0,
    },
    Mutant {
        name: "go shared without a mark",
        file: "resource/sharing.rs",
        find: "            self.free(Some(own), true, leader, After::GoShared);",
        with: "            self.free(Some(own).filter(|_| !LIVE), true, leader, After::GoShared);",
        seed: 1,
    },
    Mutant {
        name: "take a holder's newer generation for the dead one",
        file: "resource/owners.rs",
        find: "            return generation > self.generation;",
        with: "            return generation > self.generation && !LIVE;",
        seed: 873,
    },
    Mutant {
        name: "write the value again whenever a release is tried again",
        file: "resource/freeing.rs",
        find: "            lvb: self.lvb.clone().filter(|_| !freed.marked),",
        with: "            lvb: self.lvb.clone().filter(|_| !freed.marked || LIVE),",
        seed: 627,
    },
    Mutant {
        name: "decide a version again that was given up",
        file: "resource/ballot.rs",
        find: "        self.left.lver == lver && self.left.bal != 0",
        with: "        self.left.lver == lver && self.left.bal != 0 && !LIVE",
        seed: 28_361,
    },
];
