//! The steps of the SPM's life, and domains' own leases.

use mailbox::role::{Config, Effect, Input, LeaseView, Phase};
use mailbox::role::{Sdm, SdmEffect, SdmEnd, SdmInput, Took};
use mailbox::role::{Spm, Step, StepFailed, StepId};
use mailbox::{Batch, Committed, Manager, RequestId, manager};

use super::commits::For;
use super::lease::Owner;
use super::machine::{AnyManager, Core, host_id};
use super::original::OriginalSpm;
use super::seen::Sight;
use super::world::{Event, How, World, domain_of};
use crate::clock::{MS, S};

impl World {
    /// The daemon starts a writer, which takes the role.
    pub(super) fn start_spm(&mut self, machine: usize) {
        let time = self.time();
        let of = &mut self.machines[machine];
        if of.writers[0].is_some() {
            return;
        }
        of.trying = true;
        self.new_writer(machine, 0);
        if let Some(spm) = self.machines[machine].spm() {
            spm.handle(time, Input::Start(Config::default()));
        }
        self.drain(machine, Core::Spm);
    }

    pub(super) fn stop_spm(&mut self, machine: usize) {
        let time = self.time();
        let of = &mut self.machines[machine];
        of.takeover.stood_down(time);
        self.tell_spm(machine, Input::Stop);
    }

    pub(super) fn move_spm(&mut self, machine: usize) {
        self.tell_spm(machine, Input::Move);
    }

    fn tell_spm(&mut self, machine: usize, input: Input) {
        let time = self.time();
        if let Some(spm) = self.machines[machine].spm() {
            spm.handle(time, input);
            self.drain(machine, Core::Spm);
        }
    }

    pub(super) fn drain_spm(&mut self, machine: usize) {
        while let Some(effect) = self.machines[machine].spm().and_then(Spm::next_effect) {
            self.tell_of(machine, "role", format_args!("{effect:?}"));
            let writer = self.machines[machine].writers[0].as_ref();
            let writer = writer.map_or(0, |writer| writer.id);
            match effect {
                Effect::Do(id, step) => self.begin_step(machine, writer, id, step),
                Effect::AskLease => {
                    let takes = self.random.below(S / 2);
                    self.after(takes, Event::Asked(machine, writer));
                }
                Effect::DropMail => self.drop_mail(machine),
                Effect::KillWriter(_) => self.kill_writer(machine, 0, writer),
                Effect::Settled(phase) => self.on_settled(machine, phase),
                Effect::Refused(_) => {}
            }
        }
    }

    fn on_settled(&mut self, machine: usize, phase: Phase) {
        let time = self.time();
        let of = &mut self.machines[machine];
        if phase == Phase::Serving {
            of.trying = false;
            self.seen.note(Sight::Served);
            if std::mem::take(&mut of.succeeded_dead) {
                self.seen.note(Sight::TakenOver);
            }
        } else {
            of.told_lost = false;
            // It has nothing more to do.
            let ended = of.writers[0].take().map(|writer| Owner {
                machine,
                writer: writer.id,
            });
            let held = ended.is_some() && self.owners[0] == ended;
            let of = &mut self.machines[machine];
            if std::mem::take(&mut of.trying) {
                of.takeover.failed(time);
                self.seen.note(Sight::StartFailed);
            }
            if held {
                let what = format!("h{}", host_id(machine));
                self.object("a role is free only when its lease is", what);
            }
        }
    }

    fn begin_step(&mut self, machine: usize, writer: u64, id: StepId, step: Step) {
        if step == Step::StopMail {
            return self.stop_mail(machine, id);
        }
        let mut takes = self.random.between(MS, S);
        if step == Step::ReleaseLease {
            self.judge_release(machine, 0);
        }
        let per_mille = self.swarm.step_fails;
        let how = if self.fault(per_mille) {
            takes = self.random.below(20 * S);
            self.random.pick(&[How::Undone, How::Unknown, How::Silent])
        } else {
            How::Done
        };
        self.after(takes, Event::Step(machine, writer, id, step, how));
    }

    /// Nothing changes metadata any more when the lease is released.
    fn judge_release(&mut self, machine: usize, lease: usize) {
        let of = &self.machines[machine];
        let busy = of.writers[lease]
            .as_ref()
            .is_some_and(|writer| !writer.active.is_empty());
        let serves =
            lease == 0 && matches!(of.manager, Some(AnyManager::Ours(tenure, _)) if tenure > 0);
        let role = of.writers[lease]
            .as_ref()
            .is_some_and(|writer| writer.spm.is_some());
        if busy || serves || role && of.mounted {
            let what = format!(
                "h{}: commits {busy}, mail {serves}, mounted {}",
                host_id(machine),
                of.mounted
            );
            self.object("the lease is released last", what);
        }
    }

    /// A step ends.
    pub(super) fn on_step(&mut self, machine: usize, id: StepId, step: Step, how: How) {
        if how != How::Undone && !self.do_step(machine, step) {
            return self.told_step(machine, id, How::Undone);
        }
        self.told_step(machine, id, how);
    }

    fn told_step(&mut self, machine: usize, id: StepId, how: How) {
        let input = match how {
            How::Done => Input::Done(id),
            How::Undone => Input::Failed(id, StepFailed::Undone),
            How::Unknown => Input::Failed(id, StepFailed::Unknown),
            How::Silent => return,
        };
        self.tell_spm(machine, input);
    }

    /// Does a step. Returns whether it could be done.
    fn do_step(&mut self, machine: usize, step: Step) -> bool {
        let now = self.now;
        match step {
            Step::JoinLockspace => {
                let member = &self.machines[machine].member;
                now >= member.cut_until && member.is_fresh(now)
            }
            Step::TakeLease => self.take_lease(machine, 0),
            Step::MountMaster => {
                self.machines[machine].mounted = true;
                true
            }
            Step::StartMail => {
                // Not when it was dropped meanwhile.
                let of = &mut self.machines[machine];
                let wanted = of.spm().is_some_and(|spm| spm.step() == Some(step));
                if wanted {
                    self.start_mail(machine);
                }
                wanted
            }
            Step::UnmountMaster => {
                self.machines[machine].mounted = false;
                true
            }
            Step::ReleaseLease => self.release(machine, 0),
            Step::WriteRole
            | Step::DemoteFormer
            | Step::UpgradeDomains
            | Step::ClearHalfMade
            | Step::AllowWrites
            | Step::RecoverTasks
            | Step::ForbidWrites
            | Step::EndRecovery
            | Step::StopMail
            | Step::MoveMaster
            | Step::ClearRole => true,
        }
    }

    /// The writer takes a lease, if it is free. A writer that cannot ends.
    fn take_lease(&mut self, machine: usize, lease: usize) -> bool {
        let now = self.now;
        let member = self.machines[machine].member;
        let Some(writer) = self.machines[machine].writers[lease].as_ref() else {
            return false;
        };
        let (id, dying) = (writer.id, writer.dying);
        let free = match self.owners[lease] {
            None => true,
            Some(owner) => {
                owner.machine != machine && self.machines[owner.machine].member.is_dead(now)
            }
        };
        if free && !dying && member.is_fresh(now) && now >= member.cut_until {
            self.machines[machine].succeeded_dead = self.owners[lease].is_some();
            let owner = Owner {
                machine,
                writer: id,
            };
            self.owners[lease] = Some(owner);
            self.tell_of(machine, "takes", format_args!("lease {lease}"));
            return true;
        }
        false
    }

    fn start_mail(&mut self, machine: usize) {
        let config = manager::Config {
            mailboxes: self.swarm.mailboxes,
            checksum: self.swarm.checksum,
            ..manager::Config::default()
        };
        let tenure = self.id();
        let manager = Box::new(Manager::new(config));
        self.machines[machine].manager = Some(AnyManager::Ours(tenure, manager));
        self.tick(machine, Core::Manager);
    }

    fn stop_mail(&mut self, machine: usize, id: StepId) {
        let time = self.time();
        self.machines[machine].stopping_mail = Some(id);
        match &mut self.machines[machine].manager {
            Some(AnyManager::Ours(_, manager)) => {
                manager.handle(time, manager::Input::Stop);
                self.drain(machine, Core::Manager);
            }
            _ => self.on_mail_stopped(machine),
        }
    }

    pub(super) fn on_mail_stopped(&mut self, machine: usize) {
        self.machines[machine].manager = None;
        self.judge_locals(machine);
        if let Some(id) = self.machines[machine].stopping_mail.take() {
            self.told_step(machine, id, How::Done);
        }
    }

    /// The SPM's side is told that the lease is lost, and must be silent.
    fn drop_mail(&mut self, machine: usize) {
        let time = self.time();
        let of = &mut self.machines[machine];
        of.stopping_mail = None;
        let Some(AnyManager::Ours(_, mut manager)) = of.manager.take() else {
            return;
        };
        manager.handle(time, manager::Input::LeaseLost);
        while let Some(effect) = manager.next_effect() {
            match effect {
                mailbox::Effect::Completed { request, outcome } => {
                    self.on_completed(machine, request, outcome);
                }
                mailbox::Effect::Stopped => {}
                other => {
                    let what = format!("h{}: {other:?}", host_id(machine));
                    self.object("an SPM that has lost its lease does nothing", what);
                }
            }
        }
        self.judge_locals(machine);
    }

    /// Nobody waits for an SPM's side that is no more.
    fn judge_locals(&mut self, machine: usize) {
        let waits = self.requests.iter().position(|request| {
            request.machine == machine
                && !request.by_mail
                && !request.abandoned
                && request.outcome.is_none()
        });
        if let Some(number) = waits {
            let what = format!("request {number} of h{}", host_id(machine));
            self.object("every request is answered before the SPM's side ends", what);
        }
    }

    pub(super) fn on_asked(&mut self, machine: usize) {
        if self.now < self.machines[machine].member.mute_until {
            if self.random.chance(500) {
                self.tell_lease(machine, LeaseView::Unknown);
            }
            return;
        }
        let view = self.lease_view(machine, 0);
        self.tell_lease(machine, view);
    }

    pub(super) fn tell_lease(&mut self, machine: usize, view: LeaseView) {
        let time = self.time();
        self.tell_of(machine, "lease", format_args!("{view:?}"));
        let of = &mut self.machines[machine];
        let Some(spm) = of.spm() else { return };
        spm.handle(time, Input::Lease(view));
        let lost = view == LeaseView::NotHeld && spm.phase() == Phase::Killing;
        if lost {
            self.seen.note(Sight::LeaseLost);
        }
        self.drain(machine, Core::Spm);
        if lost {
            self.machines[machine].told_lost = true;
        }
    }

    /// A writer and all its children are gone, whoever ended them.
    pub(super) fn on_writer_gone(&mut self, machine: usize, lease: usize, id: u64) {
        let writer = self.machines[machine].writers[lease]
            .as_ref()
            .filter(|writer| writer.id == id);
        let Some(writer) = writer else { return };
        let (pool, single) = (writer.spm.is_some(), self.is_single(writer));
        self.tell_of(machine, "gone", format_args!("writer of lease {lease}"));
        self.end_commits(machine, lease, id);
        // Its lease is free as soon as its daemon can say so.
        self.release(machine, lease);
        self.machines[machine].writers[lease] = None;
        if single {
            return self.forget_single(machine, lease);
        }
        if !self.machines[machine].up {
            return;
        }
        if self.swarm.mode == super::swarm::Mode::Sdm {
            return self.end_changes(machine, lease);
        }
        if !pool {
            self.machines[machine].manager = None;
            return;
        }
        let (now, time) = (self.now, self.time());
        let of = &mut self.machines[machine];
        // A thread of that process.
        of.manager = None;
        of.stopping_mail = None;
        of.told_lost = false;
        of.trying = false;
        of.takeover.failed(time);
        // Whoever waited for it is told that it has ended.
        for request in &mut self.requests {
            if request.machine == machine && !request.by_mail && request.outcome.is_none() {
                request.outcome = Some(mailbox::Outcome::Stopped);
                request.answered = now;
            }
        }
    }

    /// The changes of a writer that is gone: done or not.
    fn end_changes(&mut self, machine: usize, domain: usize) {
        let of = &mut self.machines[machine];
        let ended: Vec<RequestId> = of
            .changes
            .iter()
            .filter(|(_, (batch, _))| domain_of(batch.domain) == domain)
            .map(|(request, _)| *request)
            .collect();
        for request in ended {
            if let Some((batch, _)) = self.machines[machine].changes.remove(&request) {
                self.tell_committed(machine, 0, batch.id, &[]);
            }
        }
    }

    /// Frees a writer's lease; whether that could be told to the disk.
    pub(super) fn release(&mut self, machine: usize, lease: usize) -> bool {
        let writer = self.machines[machine].writers[lease].as_ref();
        let owner = writer.map(|writer| Owner {
            machine,
            writer: writer.id,
        });
        if self.now < self.machines[machine].member.cut_until {
            return false;
        }
        if owner.is_some() && self.owners[lease] == owner {
            self.owners[lease] = None;
        }
        true
    }

    pub(super) fn on_original_takes(&mut self, machine: usize) {
        if self.machines[machine].manager.is_some() || self.machines[machine].writers[0].is_some() {
            return;
        }
        self.new_writer(machine, 0);
        if !self.take_lease(machine, 0) {
            self.machines[machine].writers[0] = None;
            return;
        }
        self.seen.note(Sight::Served);
        let tenure = self.id();
        let spm = Box::new(OriginalSpm::new(self.swarm.mailboxes));
        self.machines[machine].manager = Some(AnyManager::Original(tenure, spm));
        self.tick(machine, Core::Manager);
    }

    /// A batch of a host whose domains have their own leases.
    pub(super) fn change(&mut self, machine: usize, batch: Batch) {
        let domain = domain_of(batch.domain);
        let request = RequestId(self.id());
        let time = self.time();
        let of = &mut self.machines[machine];
        let urgent = batch.urgent;
        of.changes.insert(request, (batch, None));
        self.new_writer(machine, domain);
        match self.machines[machine].sdm(domain) {
            Some(sdm) => sdm.handle(time, SdmInput::Change { request, urgent }),
            // It is on its way out, and the change with it.
            None => return,
        }
        self.drain(machine, Core::Sdm(domain));
    }

    pub(super) fn drain_sdm(&mut self, machine: usize, domain: usize) {
        while let Some(effect) = self.machines[machine]
            .sdm(domain)
            .and_then(Sdm::next_effect)
        {
            self.tell_of(machine, "domain", format_args!("{domain} {effect:?}"));
            let writer = self.machines[machine].writers[domain].as_ref();
            let writer = writer.map_or(0, |writer| writer.id);
            match effect {
                SdmEffect::Take => {
                    let takes = self.random.between(MS, S / 2);
                    self.after(takes, Event::Take(machine, domain, writer));
                }
                SdmEffect::Run(request) => {
                    let batch = self.machines[machine].changes.get(&request);
                    if let Some((batch, _)) = batch {
                        let batch = batch.clone();
                        self.submit(machine, domain, batch, For::Change(request));
                    }
                }
                SdmEffect::Release => {
                    self.judge_release(machine, domain);
                    let takes = self.random.between(MS, S / 2);
                    self.after(takes, Event::Release(machine, domain, writer));
                }
                SdmEffect::KillWriter => self.kill_writer(machine, domain, writer),
                SdmEffect::HangUp => {
                    let takes = self.random.below(S / 3);
                    self.after(takes, Event::HungUp(machine, domain, writer));
                }
                SdmEffect::Ended(request, end) => self.on_change_ended(machine, request, end),
            }
        }
    }

    pub(super) fn on_domain_take(&mut self, machine: usize, lease: usize) {
        let per_mille = self.swarm.step_fails;
        if self.fault(per_mille) && self.random.chance(300) {
            // Taken, or not, and never told, or told as unknown.
            self.take_lease(machine, lease);
            if self.random.chance(500) {
                self.tell_sdm(machine, lease, SdmInput::Took(Took::Unknown));
            }
            return;
        }
        let taken = self.take_lease(machine, lease);
        if !taken && self.waits_for_death(machine, lease) {
            return;
        }
        self.seen.note(if taken {
            Sight::DomainTaken
        } else {
            Sight::DomainBusy
        });
        let took = match taken {
            true => Took::Yes,
            false if self.fault(per_mille) => Took::Refused,
            false => Took::Busy,
        };
        self.tell_sdm(machine, lease, SdmInput::Took(took));
    }

    pub(super) fn on_domain_release(&mut self, machine: usize, lease: usize) {
        let per_mille = self.swarm.step_fails;
        let released = !self.fault(per_mille) && self.release(machine, lease);
        self.tell_sdm(machine, lease, SdmInput::Released(released));
    }

    pub(super) fn tell_sdm(&mut self, machine: usize, domain: usize, input: SdmInput) {
        let time = self.time();
        if let Some(sdm) = self.machines[machine].sdm(domain) {
            sdm.handle(time, input);
            self.drain(machine, Core::Sdm(domain));
        }
    }

    pub(super) fn on_change_ran(&mut self, machine: usize, lease: usize, request: RequestId) {
        self.tell_sdm(machine, lease, SdmInput::Ran(request));
    }

    fn on_change_ended(&mut self, machine: usize, request: RequestId, end: SdmEnd) {
        let Some((batch, results)) = self.machines[machine].changes.remove(&request) else {
            return;
        };
        if self.swarm.singles.is_some() {
            // Nobody's extends: whoever asked for it is told how it ended.
            if end == SdmEnd::Ran {
                self.seen.note(Sight::Single);
            }
            return;
        }
        let results: Vec<Committed> = match end {
            SdmEnd::Ran => results.unwrap_or_default(),
            SdmEnd::Busy | SdmEnd::Refused | SdmEnd::Withdrawn | SdmEnd::Full => Vec::new(),
        };
        self.tell_committed(machine, 0, batch.id, &results);
    }
}
