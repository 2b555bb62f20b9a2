//! The mutations: what is replaced, and by what. `LIVE` stands for the test
//! whether this mutation is the live one.

/// One way to break a core.
pub struct Mutant {
    pub name: &'static str,
    /// In `node/protocol/lease/src`.
    pub file: &'static str,
    /// Found there exactly once.
    pub find: &'static str,
    pub with: &'static str,
}

pub const MUTANTS: &[Mutant] = &[
    // The delta lease.
    Mutant {
        name: "skip the second read of a claim",
        file: "delta/acquire.rs",
        find: "            IoOutcome::Written => {
                let until = self.now.boottime.plus_s(claim.settle_s);",
        with: "            IoOutcome::Written if LIVE => self.register(claim),
            IoOutcome::Written => {
                let until = self.now.boottime.plus_s(claim.settle_s);",
    },
    Mutant {
        name: "wait too shortly before the second read",
        file: "delta/acquire.rs",
        find: "        let settle_s = timings::settle_s(self.io_timeout_of(&found).max(t));",
        with: "        let settle_s = if LIVE { 0 } else { timings::settle_s(self.io_timeout_of(&found).max(t)) };",
    },
    Mutant {
        name: "take over after 8T, without the watchdog's time",
        file: "delta/acquire.rs",
        find: "        timings::host_dead_s(t, self.config.fire_timeout_s)",
        with: "        timings::host_dead_s(t, if LIVE { 0 } else { self.config.fire_timeout_s })",
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
    },
    Mutant {
        name: "claim without looking at the clock again",
        file: "delta/acquire.rs",
        find: "        let not_after = read.since.plus_s(timings::io_s(t));",
        with: "        let not_after = if LIVE { Monotonic(u64::MAX) } else { read.since.plus_s(timings::io_s(t)) };",
    },
    Mutant {
        name: "keep the generation at a new claim",
        file: "delta/acquire.rs",
        find: "    Generation(record.owner_generation).next()",
        with: "    if LIVE { Generation(record.owner_generation) } else { Generation(record.owner_generation).next() }",
    },
    Mutant {
        name: "count the expiry from the renewal's end",
        file: "delta/held.rs",
        find: "                held.last_success = renewal.submitted;",
        with: "                held.last_success = if LIVE { self.now.boottime } else { renewal.submitted };",
    },
    Mutant {
        name: "pet the watchdog late",
        file: "delta/held.rs",
        find: "                    let expire_s = record.timestamp + timings::lost_s(t);",
        with: "                    let expire_s = if LIVE { self.now.monotonic.seconds() } else { record.timestamp } + timings::lost_s(t);",
    },
    Mutant {
        name: "renew without looking at what is on disk",
        file: "delta/held.rs",
        find: "        if let Err(loss) = self.still_ours(&held, &found) {",
        with: "        let found = if LIVE { held.record } else { found };
        if let Err(loss) = self.still_ours(&held, &found) {",
    },
    Mutant {
        name: "free the record while a renewal is in flight",
        file: "delta/release.rs",
        find: "                if matches!(held.phase, Phase::Writing { .. }) {",
        with: "                if matches!(held.phase, Phase::Writing { .. }) && !LIVE {",
    },
];
