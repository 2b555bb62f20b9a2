//! What befalls machines, what their users want, and the calm after it.

use disk_format::vdsm::mailbox::{EventBlock, Extend, MAILBOX_BYTES, Mailbox, Message, SLOTS};
use mailbox::role::{LeaseView, Phase};
use mailbox::{Outcome, RequestId, Volume, host, manager};

use super::lease;
use super::machine::{AnyHost, AnyManager, Core, host_id};
use super::seen::Sight;
use super::swarm::Mode;
use super::world::{Event, Request, World, domain_id, volume_id};
use crate::clock::{MS, S};

impl World {
    pub(super) fn on_renew(&mut self, machine: usize) {
        let now = self.now;
        let of = &self.machines[machine];
        let cut = now < of.member.cut_until;
        let fresh = of.member.is_fresh(now);
        let writers = of.writers.iter().zip(&self.owners).any(|(writer, owner)| {
            let owner = owner.filter(|owner| owner.machine == machine);
            writer.as_ref().map(|writer| writer.id) == owner.map(|owner| owner.writer)
                && writer.is_some()
        });
        if cut || (!of.up && !fresh) || (!fresh && writers) {
            return self.after(S, Event::Renew(machine));
        }
        self.machines[machine].member.renewed = Some(now);
        for lease in 0..self.owners.len() {
            let Some(owner) = self.owners[lease] else {
                continue;
            };
            let writer = self.machines[machine].writers[lease].as_ref();
            let held = writer.is_some_and(|writer| writer.id == owner.writer);
            if owner.machine == machine && !held {
                self.owners[lease] = None;
            }
        }
        self.after(lease::RENEWAL, Event::Renew(machine));
        self.after(lease::LOST, Event::Lost(machine, now));
    }

    pub(super) fn on_lost(&mut self, machine: usize, renewed: u64) {
        if self.machines[machine].member.renewed != Some(renewed) || !self.machines[machine].up {
            return;
        }
        if self.swarm.singles.is_some() {
            // Those ask before every write; here they are told.
            for lease in 0..self.owners.len() {
                self.tell_sdm(machine, lease, mailbox::role::SdmInput::LeaseLost);
            }
        }
        let per_mille = self.swarm.told_of_loss;
        if self.machines[machine].original {
            // Its own lease daemon kills it.
            self.end_original(machine);
        } else if self.swarm.mode == Mode::Sdm {
            // The writer asks before every change; here it is told.
            for domain in 0..self.swarm.domains {
                self.tell_sdm(machine, domain, mailbox::role::SdmInput::LeaseLost);
            }
        } else if self.random.chance(per_mille) {
            self.tell_lease(machine, LeaseView::NotHeld);
        }
    }

    fn end_original(&mut self, machine: usize) {
        self.machines[machine].manager = None;
        if let Some(writer) = &self.machines[machine].writers[0] {
            let id = writer.id;
            self.kill_writer(machine, 0, id);
        }
    }

    /// In a mixed pool the manager appoints the SPM.
    pub(super) fn on_engine(&mut self) {
        self.after(10 * S, Event::Engine);
        if self.swarm.mode != Mode::Spm || self.swarm.automatic {
            return;
        }
        let busy = self
            .machines
            .iter()
            .any(|machine| machine.writers[0].is_some() || machine.manager.is_some());
        if busy {
            return;
        }
        let machine = self.random.index(self.machines.len());
        self.appoint(machine);
    }

    fn appoint(&mut self, machine: usize) {
        let of = &self.machines[machine];
        if !of.up || self.swarm.mode != Mode::Spm {
            return;
        }
        if of.original {
            let life = of.life;
            self.after(S, Event::OriginalTakes(machine, life));
        } else if self.machines[machine].phase() == Phase::Serving {
            self.move_spm(machine);
        } else {
            self.start_spm(machine);
        }
    }

    pub(super) fn on_trouble(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.random.between(1, 2 * self.swarm.pace);
        self.after(pause, Event::Trouble);
        let weights = self.swarm.troubles;
        let weights = [
            weights.nothing,
            weights.power,
            weights.kill,
            weights.writer,
            weights.cut,
            weights.mute,
            weights.start,
            weights.stop,
            weights.garbage,
        ];
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let mut drawn = self.random.below(total.max(1));
        let mut kind = 0;
        for (index, weight) in weights.iter().enumerate() {
            if drawn < u64::from(*weight) {
                kind = index;
                break;
            }
            drawn -= u64::from(*weight);
        }
        let machine = self.random.index(self.machines.len());
        match kind {
            1 => self.power(machine),
            2 => self.kill_daemon(machine),
            3 => {
                let lease = self.random.index(self.owners.len());
                if let Some(writer) = &self.machines[machine].writers[lease] {
                    let id = writer.id;
                    self.tell_of(machine, "writer", format_args!("dies"));
                    self.kill_writer(machine, lease, id);
                }
            }
            4 => {
                let until = self.now + self.random.between(30, 250) * S;
                self.tell_of(machine, "cut", format_args!("until {} s", until / S));
                self.machines[machine].member.cut_until = until;
                if self.random.chance(300) {
                    self.machines[machine].member.mute_until = until;
                }
            }
            5 => {
                let until = self.now + self.random.below(90 * S);
                self.tell_of(machine, "mute", format_args!("until {} s", until / S));
                self.machines[machine].member.mute_until = until;
            }
            6 => self.appoint(machine),
            7 if self.swarm.mode == Mode::Spm => {
                if self.machines[machine].original {
                    self.end_original(machine);
                } else if self.machines[machine].up {
                    self.stop_spm(machine);
                }
            }
            8 => self.garbage(),
            _ => {}
        }
    }

    fn power(&mut self, machine: usize) {
        if !self.machines[machine].up {
            return;
        }
        self.seen.note(Sight::Power);
        self.tell_of(machine, "power", format_args!("fails"));
        self.abandon(machine);
        self.machines[machine].stop();
        self.machines[machine].mounted = false;
        for lease in 0..self.owners.len() {
            if let Some(writer) = &self.machines[machine].writers[lease] {
                let id = writer.id;
                self.end_commits(machine, lease, id);
                // The lease stays as it is on the disk.
                self.machines[machine].writers[lease] = None;
            }
        }
        self.orphan(machine);
        let pause = self.random.between(5, self.swarm.outage_s) * S;
        self.after(pause, Event::Restart(machine));
    }

    fn kill_daemon(&mut self, machine: usize) {
        if !self.machines[machine].up {
            return;
        }
        self.seen.note(Sight::DaemonKilled);
        self.tell_of(machine, "killed", format_args!(""));
        self.abandon(machine);
        self.machines[machine].stop();
        for lease in 0..self.owners.len() {
            if let Some(writer) = &self.machines[machine].writers[lease] {
                let id = writer.id;
                self.kill_writer(machine, lease, id);
            }
        }
        self.orphan(machine);
        let pause = self.random.between(1, 30) * S / 10;
        self.after(pause, Event::Restart(machine));
    }

    fn abandon(&mut self, machine: usize) {
        for request in &mut self.requests {
            if request.machine == machine && request.outcome.is_none() {
                request.abandoned = true;
            }
        }
    }

    /// Something in the mailboxes that nobody here has put there.
    pub(super) fn garbage(&mut self) {
        if self.swarm.mode != Mode::Spm {
            return;
        }
        let machine = self.random.index(self.machines.len());
        let own = usize::from(host_id(machine));
        let strange = self.machines.len() + 1;
        let (domain, number) = (
            self.random.index(self.swarm.domains),
            self.random.index(self.swarm.volumes),
        );
        let volume = volume_id(machine, number, true);
        let size = self.disk.size(domain, volume);
        let below = u32::try_from(self.random.below(u64::from(size) + 1)).unwrap_or(0);
        let stale = Message::Extend(Extend {
            domain: domain_id(domain),
            volume,
            size_mib: below,
        });
        let slot = self.random.index(SLOTS);
        let mut noise = [0; 64];
        for byte in &mut noise {
            *byte = u8::try_from(self.random.below(256)).unwrap_or(0);
        }
        let messages = [stale, Message::Clean, Message::Unknown(noise), stale];
        let message = self.random.pick(&messages);
        let kind = self.random.below(5);
        self.tell("world", "garbage", format_args!("{kind} {message:?}"));
        match kind {
            // Mail of a host that is no more.
            0 => {
                let mut mailbox = Mailbox::new();
                mailbox.put(slot, &message);
                mailbox.seal();
                self.disk
                    .write(Volume::Inbox, strange * MAILBOX_BYTES, mailbox.bytes());
            }
            // Noise in a living host's mailbox.
            1 => self
                .disk
                .write(Volume::Inbox, own * MAILBOX_BYTES + slot * 64, &noise),
            2 => {
                let mut id = [0; 16];
                id.copy_from_slice(&noise[..16]);
                let block = EventBlock { id }.encode();
                self.disk.write(Volume::Inbox, 0, &block);
            }
            // An answer from the past.
            _ => self.disk.write(
                Volume::Outbox,
                own * MAILBOX_BYTES + slot * 64,
                &message.encode(),
            ),
        }
    }

    pub(super) fn on_user(&mut self, machine: usize) {
        if self.calm {
            return;
        }
        let pause = self.random.between(MS, 2 * self.swarm.users_pace);
        self.after(pause, Event::User(machine));
        if !self.machines[machine].up || self.requests.len() > 10_000 {
            return;
        }
        let times = self.random.index(self.swarm.burst) + 1;
        for _ in 0..times {
            let domain = self.random.index(self.swarm.domains);
            let number = self.random.index(self.swarm.volumes);
            let exists = !self.random.chance(50);
            let more = u32::try_from(self.random.below(4)).unwrap_or(0);
            self.ask(machine, domain, number, exists, more, false);
        }
        // An early call is harmless, whatever goes on.
        self.tick(machine, Core::Host);
        self.tick(machine, Core::Manager);
        self.tick(machine, Core::Spm);
        for domain in 0..self.machines[machine].writers.len() {
            self.tick(machine, Core::Sdm(domain));
        }
    }

    pub(super) fn ask(
        &mut self,
        machine: usize,
        domain: usize,
        number: usize,
        exists: bool,
        more: u32,
        probe: bool,
    ) {
        let volume = volume_id(machine, number, exists);
        let wanted = self.wanted.entry((domain, volume)).or_insert(1);
        *wanted += more;
        let extend = Extend {
            domain: domain_id(domain),
            volume,
            size_mib: *wanted,
        };
        let request = RequestId(u64::try_from(self.requests.len()).unwrap_or(u64::MAX));
        let bypass = probe || self.random.chance(800);
        let local = match self.swarm.mode {
            Mode::Sdm => true,
            Mode::Spm => {
                bypass && matches!(self.machines[machine].manager, Some(AnyManager::Ours(..)))
            }
        };
        self.requests.push(Request {
            machine,
            domain,
            extend,
            asked: self.now,
            answered: 0,
            by_mail: !local,
            outcome: None,
            abandoned: false,
            probe,
        });
        self.tell_of(
            machine,
            "asks",
            format_args!("{} {extend:?} local: {local}", request.0),
        );
        let (now, time) = (self.now, self.time());
        let urgent = self.random.chance(200);
        let of = &mut self.machines[machine];
        if local {
            if let Some(AnyManager::Ours(_, manager)) = &mut of.manager {
                let input = manager::Input::LocalExtend {
                    request,
                    extend,
                    urgent,
                };
                manager.handle(time, input);
            }
            return self.drain(machine, Core::Manager);
        }
        match &mut of.host {
            Some(AnyHost::Ours(host)) => host.handle(time, host::Input::Extend(request, extend)),
            Some(AnyHost::Original(host)) => host.ask(now, request, extend),
            None => {}
        }
        self.drain(machine, Core::Host);
    }

    /// No more faults; what was asked for before is of no interest, but that it
    /// is answered.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.tell("world", "calm", format_args!(""));
        for machine in 0..self.machines.len() {
            self.machines[machine].member.cut_until = self.now;
            self.machines[machine].member.mute_until = self.now;
            self.on_restart(machine);
        }
    }

    /// Every host of ours asks for more of every volume it has, again and
    /// again. Returns whether all have it.
    pub(super) fn probe(&mut self) -> bool {
        let mut all = true;
        for machine in 0..self.machines.len() {
            if self.machines[machine].original {
                continue;
            }
            for domain in 0..self.swarm.domains {
                for number in 0..self.swarm.volumes.min(2) {
                    all &= self.probe_one(machine, domain, number);
                }
            }
        }
        all
    }

    fn probe_one(&mut self, machine: usize, domain: usize, number: usize) -> bool {
        let volume = volume_id(machine, number, true);
        let last = self.requests.iter().rev().find(|request| {
            request.probe
                && request.machine == machine
                && request.domain == domain
                && request.extend.volume == volume
        });
        match last.map(|request| request.outcome) {
            Some(Some(Outcome::Done)) => true,
            Some(None) => false,
            None | Some(Some(_)) => {
                self.ask(machine, domain, number, true, 1, true);
                false
            }
        }
    }

    /// Whether somebody has waited for longer than promised.
    pub(super) fn judge_waiting(&mut self) {
        let limit = mailbox::timings::GIVE_UP_MS * MS + S;
        let late = self.requests.iter().enumerate().find(|(_, request)| {
            request.outcome.is_none()
                && !request.abandoned
                && request.by_mail
                && !self.machines[request.machine].original
                && request.asked + limit < self.now
        });
        if let Some((number, request)) = late {
            let what = format!(
                "request {number} of h{} {:?}",
                host_id(request.machine),
                request.extend
            );
            self.object("every request is answered in time", what);
        }
    }
}
