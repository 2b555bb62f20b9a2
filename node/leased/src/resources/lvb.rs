//! Lock value blocks: read when a lease is acquired, kept here, written when
//! it is given back or becomes shared.

use lease::code::Code;
use sanlock_wire::{LVB_MAX, ReplyBody, Resource};

use super::table::{Lvb, State};
use super::types::ReplyTo;
use super::{Resources, key_of};

impl Resources {
    pub(super) fn on_set_lvb(&mut self, reply: ReplyTo, resource: &Resource, value: &[u8]) {
        let result = self.held_lvb(resource).and_then(|lvb| {
            let place = lvb.bytes.get_mut(..value.len()).ok_or(Code::E2BIG)?;
            place.copy_from_slice(value);
            lvb.set = true;
            Ok(())
        });
        self.reply(reply, result.err().unwrap_or(Code::OK));
    }

    pub(super) fn on_get_lvb(&mut self, reply: ReplyTo, resource: &Resource, wanted: u32) {
        let result = self.held_lvb(resource).map(|lvb| {
            let mut bytes = lvb.bytes.to_vec();
            // More than there is reads as zeros.
            match usize::try_from(wanted) {
                Ok(0) => {}
                Ok(wanted) => bytes.resize(wanted.min(LVB_MAX), 0),
                Err(_) => bytes.resize(LVB_MAX, 0),
            }
            bytes
        });
        match result {
            Ok(bytes) => self.reply_with(reply, Code::OK, ReplyBody::Lvb(bytes)),
            Err(code) => self.reply(reply, code),
        }
    }

    fn held_lvb(&mut self, resource: &Resource) -> Result<&mut Lvb, Code> {
        let key = key_of(resource).ok_or(Code::ENOENT)?;
        let found = self.table.find(&key).ok_or(Code::ENOENT)?;
        let entry = self.table.get_mut(found).ok_or(Code::ENOENT)?;
        match &entry.state {
            State::Held(_) => entry.lvb.as_mut().ok_or(Code::EINVAL),
            State::Free | State::Adding { .. } | State::Removing(_) | State::Orphan { .. } => {
                Err(Code::ENOENT)
            }
        }
    }
}
