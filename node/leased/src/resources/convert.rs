//! `CONVERT`: exclusive to shared and back.

use std::sync::Arc;

use lease::Monotonic;
use lease::code::Code;
use lease::resource::{Convert, ConvertOptions, Outcome, Target};
use sanlock_wire::{ConvertFlags, Resource, ResourceFlags};

use super::flight::Purpose;
use super::table::{ResId, State};
use super::types::{ClientId, Level, ReplyTo};
use super::{Resources, key_of};

impl Resources {
    pub(super) fn on_convert(
        &mut self,
        reply: ReplyTo,
        client: ClientId,
        flags: ConvertFlags,
        resource: &Resource,
    ) {
        if let Err(code) = self.start_convert(reply, client, flags, resource) {
            self.reply(reply, code);
        }
    }

    fn start_convert(
        &mut self,
        reply: ReplyTo,
        client: ClientId,
        flags: ConvertFlags,
        wanted: &Resource,
    ) -> Result<(), Code> {
        let key = key_of(wanted).ok_or(Code::ENOENT)?;
        let (resource, _) = self.token_of(client, &key).ok_or(Code::ENOENT)?;
        let now = self.now.boottime;
        let id = self.new_id();
        let entry = self.table.get_mut(resource).ok_or(Code::ENOENT)?;
        let State::Held(lease) = &mut entry.state else {
            return Err(Code::ENOENT);
        };
        let shared = wanted.has(ResourceFlags::SHARED);
        if lease.held.shared == shared {
            return Err(Code::EALREADY);
        }
        if lease.converting {
            return Err(Code::EBUSY);
        }
        // Others of this host share it, as others elsewhere would.
        if lease.tokens.len() > 1 || lease.left_by.is_some() || entry.draining > 0 {
            return Err(Code::EAGAIN);
        }
        let space = self
            .spaces
            .get(&key.lockspace)
            .filter(|space| space.is_healthy(now))
            .ok_or(Code::ENOSPC)?;
        let lvb = match &entry.lvb {
            Some(lvb) if lvb.set && shared => Some(Arc::from(lvb.bytes.as_ref())),
            _ => None,
        };
        let target = Target {
            lockspace: key.lockspace,
            resource: key.resource,
            geometry: space.view.geometry,
            disks: u8::try_from(entry.disks.len()).unwrap_or(u8::MAX),
        };
        let options = ConvertOptions {
            shared,
            no_wait: flags.has(ConvertFlags::OWNER_NOWAIT),
            lvb,
            lvb_outside: self.settings.unsafe_lvb,
        };
        let seed = self.settings.seed ^ id.rotate_left(32);
        let core = Convert::new(space.us(), target, &lease.held, options, seed);
        lease.converting = true;
        let disks = Arc::clone(&entry.disks);
        let purpose = Purpose::Convert {
            reply,
            client,
            resource,
        };
        self.start(Box::new(core), purpose, key.lockspace, disks);
        Ok(())
    }

    pub(super) fn on_converted(
        &mut self,
        reply: ReplyTo,
        client: ClientId,
        resource: ResId,
        started: Monotonic,
        outcome: Outcome,
    ) {
        let now = self.now.boottime;
        let code = outcome.code;
        if let Some(entry) = self.table.get_mut(resource)
            && let State::Held(lease) = &mut entry.state
        {
            lease.converting = false;
            if let Some(held) = outcome.held {
                lease.held = held;
                entry.lver = held.lver();
                if code == Code::OK
                    && held.shared
                    && let Some(lvb) = &mut entry.lvb
                {
                    lvb.set = false;
                }
            }
            self.moved.insert(resource);
        }
        if code == Code::OK {
            self.count(resource, |metrics| metrics.conversions.add(started, now));
        } else {
            self.count(resource, |metrics| metrics.count_failure(code));
            let text = format!("convert: {} ({})", code.0, code.text());
            self.log(Level::Warning, Some(resource), text);
        }
        self.reply(reply, code);
        if self.clients.get(&client).is_some_and(|known| known.gone) {
            self.on_client_gone(client);
        }
    }
}
