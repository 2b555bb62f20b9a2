//! Requests, made and received.

use disk_format::{LockspaceName, NameField, RequestRecord};
use lease::code::Code;
use lease::resource::{Examine, Outcome, Request, RequestOptions, Target};
use sanlock_wire::{DISKS_MAX, RequestFlags, Resource, RestrictFlags};

use super::flight::Purpose;
use super::table::{Key, ResId, State, Token};
use super::types::{Effect, Level, ReplyTo, Signal};
use super::{Resources, key_of};

/// Request records read at a time, of all lockspaces; more wait their turn.
const EXAMINING_MAX: u32 = 32;

impl Resources {
    pub(super) fn on_request(
        &mut self,
        reply: ReplyTo,
        flags: RequestFlags,
        force_mode: u32,
        resource: &Resource,
    ) {
        if let Err(code) = self.start_request(reply, flags, force_mode, resource) {
            self.reply(reply, code);
        }
    }

    fn start_request(
        &mut self,
        reply: ReplyTo,
        flags: RequestFlags,
        force_mode: u32,
        resource: &Resource,
    ) -> Result<(), Code> {
        if !(1..=DISKS_MAX).contains(&resource.disks.len()) {
            return Err(Code::ERANGE);
        }
        let key = key_of(resource).ok_or(Code::ENOSPC)?;
        if self.requesting.contains(&key) {
            return Err(Code::EAGAIN);
        }
        let now = self.now.boottime;
        let space = self
            .spaces
            .get(&key.lockspace)
            .filter(|space| space.is_healthy(now))
            .ok_or(Code::ENOSPC)?;
        let target = Target {
            lockspace: key.lockspace,
            resource: key.resource,
            geometry: space.view.geometry,
            disks: u8::try_from(resource.disks.len()).unwrap_or(u8::MAX),
        };
        let options = RequestOptions {
            lver: resource.lver,
            next_lver: flags.has(RequestFlags::NEXT_LVER),
            force_mode,
        };
        let core = Request::new(space.us(), target, options);
        let purpose = Purpose::Request { reply, key };
        let disks = resource.disks.as_slice().into();
        self.start(Box::new(core), purpose, key.lockspace, disks);
        Ok(())
    }

    pub(super) fn on_requested(&mut self, reply: ReplyTo, key: &Key, outcome: &Outcome) {
        if let (Some(host_id), Some(space)) = (outcome.notify, self.spaces.get(&key.lockspace)) {
            let space = space.view.id;
            self.effects.push_back(Effect::MarkHost { space, host_id });
        }
        self.reply(reply, outcome.code);
    }

    pub(super) fn on_examine(
        &mut self,
        reply: Option<ReplyTo>,
        lockspace: &NameField,
        resource: Option<&NameField>,
    ) {
        let held: Vec<ResId> = match resource {
            Some(name) => {
                let named = Resource {
                    lockspace_name: *lockspace,
                    name: *name,
                    ..Resource::default()
                };
                key_of(&named)
                    .and_then(|key| self.table.find(&key))
                    .into_iter()
                    .collect()
            }
            None => LockspaceName::from_field(lockspace)
                .ok()
                .and_then(|name| self.spaces.get(&name))
                .map(|space| space.used.iter().copied().collect())
                .unwrap_or_default(),
        };
        for id in held {
            if let Some(entry) = self.table.get_mut(id)
                && matches!(entry.state, State::Held(_))
                && !std::mem::replace(&mut entry.examine, true)
            {
                self.examine.push_back(id);
            }
        }
        self.examine_more();
        if let Some(reply) = reply {
            self.reply(reply, Code::OK);
        }
    }

    fn examine_more(&mut self) {
        while self.examining < EXAMINING_MAX {
            let Some(id) = self.examine.pop_front() else {
                return;
            };
            let now = self.now.boottime;
            let Some(entry) = self.table.get_mut(id) else {
                continue;
            };
            entry.examine = false;
            let State::Held(lease) = &entry.state else {
                continue;
            };
            let Some(space) = self
                .spaces
                .get(&entry.key.lockspace)
                .filter(|space| space.is_healthy(now))
            else {
                continue;
            };
            let lockspace = entry.key.lockspace;
            let core = Examine::new(space.us(), lease.held.geometry, lease.held.lver());
            let disks = std::sync::Arc::clone(&entry.disks);
            self.examining += 1;
            self.start(
                Box::new(core),
                Purpose::Examine { resource: id },
                lockspace,
                disks,
            );
        }
    }

    pub(super) fn on_examined(&mut self, resource: ResId, outcome: &Outcome) {
        self.examining = self.examining.saturating_sub(1);
        let code = outcome.code;
        if code != Code::OK {
            let text = format!("reading a request: {} ({})", code.0, code.text());
            self.log(Level::Warning, Some(resource), text);
        } else if let Some(record) = outcome.request {
            self.obey(resource, &record);
        }
        self.examine_more();
    }

    /// Does to the holders what another host requested, if it asks for a later
    /// version than they have: to each of them, if they share it.
    fn obey(&mut self, resource: ResId, record: &RequestRecord) {
        let Some(entry) = self.table.get(resource) else {
            return;
        };
        let State::Held(lease) = &entry.state else {
            return;
        };
        if record.force_mode == 0 || record.lver == 0 || record.lver <= lease.held.lver() {
            return;
        }
        let tokens: Vec<Token> = lease.tokens.clone();
        let mut signalled = std::collections::BTreeSet::new();
        for token in tokens {
            // A process with two shares is asked once.
            if !signalled.insert(token.client) {
                continue;
            }
            let Token { client, pid, .. } = token;
            let no_kill = token.restricted.has(RestrictFlags::SIGKILL);
            let no_term = token.restricted.has(RestrictFlags::SIGTERM);
            let effect = match record.force_mode {
                RequestRecord::FORCE => Effect::Signal {
                    client,
                    pid,
                    signal: if no_kill { Signal::Term } else { Signal::Kill },
                },
                RequestRecord::GRACEFUL => Effect::RunKillpath {
                    client,
                    pid,
                    otherwise: if no_term { Signal::Kill } else { Signal::Term },
                },
                _ => continue,
            };
            self.effects.push_back(effect);
        }
        self.count(resource, |metrics| metrics.requested += 1);
        let text = format!(
            "another host requests version {} (mode {})",
            record.lver, record.force_mode
        );
        self.log(Level::Warning, Some(resource), text);
    }
}
