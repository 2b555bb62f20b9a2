//! The mutations of the mailbox.

use super::Mutant;

pub(crate) const MUTANTS: &[Mutant] = &[
    // The requester's side.
    Mutant {
        name: "ignore the size of an answer",
        file: "host/answers.rs",
        find: "        if size_mib == asked.size_mib {",
        with: "        if LIVE || size_mib == asked.size_mib {",
        seed: 0,
    },
    Mutant {
        name: "ignore whose answer it is",
        file: "host/answers.rs",
        find: "        if !answer.same_request(&asked) {",
        with: "        if !answer.same_request(&asked) && !LIVE {",
        seed: 26,
    },
    Mutant {
        name: "write a mailbox without its checksum",
        file: "host.rs",
        find: "            mail::seal(&mut self.image);",
        with: "            if !LIVE { mail::seal(&mut self.image); }",
        seed: 0,
    },
    Mutant {
        name: "forget whoever joins a request",
        file: "host/jobs.rs",
        find: "                return job.callers.push(request);",
        with: "                if LIVE { return; }
                return job.callers.push(request);",
        seed: 19,
    },
    Mutant {
        name: "never give up a request",
        file: "host/jobs.rs",
        find: "            .find(|(_, job)| job.give_up_at <= self.now)",
        with: "            .find(|(_, job)| job.give_up_at <= self.now && !LIVE)",
        seed: 38,
    },
    Mutant {
        name: "write one's mailbox one too far",
        file: "host.rs",
        find: "            let offset = u64::from(self.config.host_id) * mail::MAILBOX_STEP;",
        with: "            let offset = (u64::from(self.config.host_id) + u64::from(LIVE)) * mail::MAILBOX_STEP;",
        seed: 0,
    },
    // The SPM's side.
    Mutant {
        name: "answer before the commit",
        file: "manager/batches.rs",
        find: "        let order = self.next_want;",
        with: "        if LIVE { self.reply(ticket, true); }
        let order = self.next_want;",
        seed: 0,
    },
    Mutant {
        name: "take an unknown commit for done",
        file: "manager/batches.rs",
        find: ".unwrap_or(Committed::Unknown)",
        with: ".unwrap_or(if LIVE { Committed::Done } else { Committed::Unknown })",
        seed: 3,
    },
    Mutant {
        name: "take a refusal for done",
        file: "manager/batches.rs",
        find: "                Committed::Done => {",
        with: "                Committed::Done | Committed::Refused if LIVE => {
                    for ticket in want.tickets {
                        self.reply(ticket, true);
                    }
                }
                Committed::Done => {",
        seed: 0,
    },
    Mutant {
        name: "two batches of one domain at once",
        file: "manager/batches.rs",
        find: "        want.not_before <= self.now && !self.is_flying(domain)",
        with: "        want.not_before <= self.now && (LIVE || !self.is_flying(domain))",
        seed: 0,
    },
    Mutant {
        name: "the last size wins instead of the largest",
        file: "manager/batches.rs",
        find: "        self.size_mib = self.size_mib.max(other.size_mib);",
        with: "        self.size_mib = if LIVE { other.size_mib } else { self.size_mib.max(other.size_mib) };",
        seed: 3,
    },
    Mutant {
        name: "join a commit that is too small",
        file: "manager/batches.rs",
        find: "*flying == key && want.size_mib >= extend.size_mib",
        with: "*flying == key && (LIVE || want.size_mib >= extend.size_mib)",
        seed: 0,
    },
    Mutant {
        name: "answer with more than was asked for",
        file: "manager/batches.rs",
        find: "            let size_mib = if done { extend.size_mib } else { 0 };",
        with: "            let size_mib = if done { extend.size_mib + u32::from(LIVE) } else { 0 };",
        seed: 0,
    },
    Mutant {
        name: "end while a commit is under way",
        file: "manager.rs",
        find: "            && self.flights.is_empty()",
        with: "            && (LIVE || self.flights.is_empty())",
        seed: 0,
    },
    Mutant {
        name: "forget local callers at a stop",
        file: "manager.rs",
        find: "        let pending = std::mem::take(&mut self.pending);
        for",
        with: "        let mut pending = std::mem::take(&mut self.pending);
        if LIVE { pending.clear(); }
        for",
        seed: 0,
    },
    Mutant {
        name: "forget local callers at the loss of the lease",
        file: "manager.rs",
        find: "        let pending = std::mem::take(&mut self.pending).into_values();",
        with: "        if LIVE { self.pending.clear(); }
        let pending = std::mem::take(&mut self.pending).into_values();",
        seed: 19,
    },
    Mutant {
        name: "do not see the loss of the lease",
        file: "manager.rs",
        find: "            Input::LeaseLost => self.on_lease_lost(),",
        with: "            Input::LeaseLost if LIVE => {}
            Input::LeaseLost => self.on_lease_lost(),",
        seed: 19,
    },
    Mutant {
        name: "never zero the outbox",
        file: "manager.rs",
        find: "                if carried == Carried::Zeros && self.stage == Stage::Zeroing {",
        with: "                if carried == Carried::Zeros && self.stage == Stage::Zeroing && !LIVE {",
        seed: 0,
    },
    // The SPM's life.
    Mutant {
        name: "release the lease with the master mounted",
        file: "role/spm.rs",
        find: "== Step::UpgradeDomains && !self.config.upgrade;",
        with: "== Step::UpgradeDomains && !self.config.upgrade
            || LIVE && *step == Step::UnmountMaster;",
        seed: 0,
    },
    Mutant {
        name: "release the lease while mail is answered",
        file: "role/spm.rs",
        find: "        let left = steps.iter().enumerate().skip(self.turn);",
        with: "        let left = steps.iter().enumerate().skip(self.turn)
            .filter(|(_, step)| !(LIVE && **step == Step::StopMail));",
        seed: 0,
    },
    Mutant {
        name: "serve without the lease",
        file: "role/spm.rs",
        find: "        if let Some((turn, step)) = next {",
        with: "        if LIVE && self.phase == Phase::Starting && self.turn == 1 {
            self.turn = 2;
            return self.next_step();
        }
        if let Some((turn, step)) = next {",
        seed: 0,
    },
    Mutant {
        name: "forget a lease that may be held",
        file: "role/spm.rs",
        find: "(Phase::Starting, Step::TakeLease) if undone => self.free(),",
        with: "(Phase::Starting, Step::TakeLease) if undone || LIVE => self.free(),",
        seed: 115,
    },
    Mutant {
        name: "go on without the lease",
        file: "role/spm.rs",
        find: "            LeaseView::NotHeld => self.kill(StopReason::LeaseLost),",
        with: "            LeaseView::NotHeld if LIVE => {}
            LeaseView::NotHeld => self.kill(StopReason::LeaseLost),",
        seed: 29,
    },
    Mutant {
        name: "bear a mute lease daemon for ever",
        file: "role/spm.rs",
        find: "                if self.ask_failures > ASK_FAILURES_MAX {",
        with: "                if self.ask_failures > ASK_FAILURES_MAX && !LIVE {",
        seed: 2_150,
    },
    Mutant {
        name: "kill without dropping the mail",
        file: "role/spm.rs",
        find: "        self.effects.push_back(Effect::DropMail);
        self.effects.push_back(Effect::KillWriter(reason));",
        with: "        if !LIVE { self.effects.push_back(Effect::DropMail); }
        self.effects.push_back(Effect::KillWriter(reason));",
        seed: 29,
    },
    Mutant {
        name: "go on after a failed step of stopping",
        file: "role/spm.rs",
        find: "            (Phase::Starting | Phase::Moving | Phase::Stopping, step) => {",
        with: "            (Phase::Stopping, _) if LIVE => self.next_step(),
            (Phase::Starting | Phase::Moving | Phase::Stopping, step) => {",
        seed: 842,
    },
    Mutant {
        name: "go on beside a commit that hangs",
        file: "role/spm.rs",
        find: "if self.may_hold() && self.phase != Phase::Killing {",
        with: "if self.may_hold() && self.phase != Phase::Killing && !LIVE {",
        seed: 0,
    },
    Mutant {
        name: "forget the lease when the master does not move",
        file: "role/spm.rs",
        find: "            (Phase::Moving, Step::MoveMaster) if undone => self.next_step(),",
        with: "            (Phase::Moving, Step::MoveMaster) if LIVE => self.free(),
            (Phase::Moving, Step::MoveMaster) if undone => self.next_step(),",
        seed: 0,
    },
    Mutant {
        name: "never take over",
        file: "role/takeover.rs",
        find: "        if !self.enabled ||",
        with: "        if LIVE || !self.enabled ||",
        seed: 0,
    },
    // Domains' own leases.
    Mutant {
        name: "change a domain without its lease",
        file: "role/sdm.rs",
        find: "        match took {",
        with: "        let took = if LIVE && took == Took::Busy { Took::Yes } else { took };
        match took {",
        seed: 23,
    },
    Mutant {
        name: "release a domain during a change",
        file: "role/sdm.rs",
        find: "        if let Some((_, begun)) = self.running {",
        with: "        if let Some((_, begun)) = self.running.filter(|_| !LIVE) {",
        seed: 23,
    },
    Mutant {
        name: "never release a domain",
        file: "role/sdm.rs",
        find: "        self.phase = Phase::Releasing { since: self.now };",
        with: "        if LIVE { return; }
        self.phase = Phase::Releasing { since: self.now };",
        seed: 4,
    },
    Mutant {
        name: "give the lease of a single change back while it runs",
        file: "role/sdm.rs",
        find: "        if self.once.is_some() && self.running.is_none() {",
        with: "        if self.once.is_some() && (LIVE || self.running.is_none()) {",
        seed: 78,
    },
    Mutant {
        name: "forget the lease of a single change that may be held",
        file: "role/sdm.rs",
        find: "            self.phase = Phase::HungUp;
            self.effects.push_back(SdmEffect::HangUp);",
        with: "            self.phase = if LIVE { Phase::Idle } else { Phase::HungUp };
            if !LIVE { self.effects.push_back(SdmEffect::HangUp); }",
        seed: 49,
    },
    Mutant {
        name: "take an unknown lease for a free one",
        file: "role/sdm.rs",
        find: "            Took::Unknown => self.kill(),",
        with: "            Took::Unknown if LIVE => self.phase = Phase::Idle,
            Took::Unknown => self.kill(),",
        seed: 0,
    },
];
