//! Bits and events: what our renewals tell other hosts, and who is told what
//! theirs say (spec §5.2–5.4).

use std::os::fd::{AsFd, OwnedFd};

use disk_format::{Generation, HostExtras, HostId};
use lease::Monotonic;
use lease::code::Code;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use sanlock_wire::{ConfigAction, EventFlags, EventMessage, Header, HostEvent, Lockspace, Reply};

use super::spaces::bitmap_s;
use super::{Daemon, now};
use crate::keeper::SpaceId;
use crate::resources::ClientId;

/// Event connections of one lockspace.
const LISTENERS_MAX: usize = 32;

impl Daemon {
    /// Sets a host's bit: there is a request for it.
    pub(super) fn mark_host(&mut self, id: SpaceId, host: HostId) {
        if let Some(space) = self.spaces.get_mut(id) {
            space.calls.set.insert(host, now().boottime);
            self.publish_calls(id);
        }
    }

    /// Hands bits and event to the next renewals.
    fn publish_calls(&mut self, id: SpaceId) {
        let Some(space) = self.spaces.get(id) else {
            return;
        };
        let for_s = bitmap_s(&self.options, space);
        let at = now().boottime;
        let Some(space) = self.spaces.get_mut(id) else {
            return;
        };
        let bitmap = space.calls.bitmap(at, for_s);
        space.calls_due = space.calls.deadline(for_s);
        let extras = space.calls.event;
        self.keeper.notify(id, bitmap, extras);
    }

    /// Takes back the bits that have been set for long enough.
    pub(super) fn expire_calls(&mut self, id: SpaceId, at: Monotonic) {
        let due = self
            .spaces
            .get(id)
            .and_then(|space| space.calls_due)
            .is_some_and(|due| due <= at);
        if due {
            self.publish_calls(id);
        }
    }

    /// `SET_EVENT`.
    pub(super) fn set_event(
        &mut self,
        asked: &Lockspace,
        event: HostEvent,
        flags: EventFlags,
    ) -> Result<(), Code> {
        let host = HostId::new(event.host_id).map_err(|_| Code::EINVAL)?;
        let at = now().boottime;
        let space = self.spaces.named(&asked.name).ok_or(Code::ENOENT)?;
        let geometry = space.geometry.ok_or(Code::ENOENT)?;
        host.fits(geometry).map_err(|_| Code::EINVAL)?;
        let for_s = bitmap_s(&self.options, space);
        let present = space
            .hosts
            .as_ref()
            .map_or(Generation(0), |hosts| hosts.get(host).generation);
        let id = space.id;
        let Some(space) = self.spaces.get_mut(id) else {
            return Err(Code::ENOENT);
        };
        let calls = &mut space.calls;
        if flags.has(EventFlags::CLEAR_EVENT) {
            calls.event = HostExtras::NONE;
            calls.event_at = None;
        } else {
            let young = calls.event_at.is_some_and(|since| since.plus_s(for_s) > at);
            let other =
                calls.event.event != 0 && event.event != 0 && calls.event.event != event.event;
            if young && other && !flags.has(EventFlags::REPLACE_EVENT) {
                return Err(Code::EBUSY);
            }
            let generation = match event.generation {
                0 if flags.has(EventFlags::CUR_GENERATION) => present.0,
                given => given,
            };
            calls.event = HostExtras {
                generation,
                event: event.event,
                data: event.data,
            };
            calls.event_at = Some(at);
        }
        if flags.has(EventFlags::CLEAR_HOSTID) {
            calls.set.remove(&host);
        } else if flags.has(EventFlags::ALL_HOSTS) {
            let own = space.host_id;
            let all = (0..usize::from(geometry.max_hosts())).filter_map(HostId::from_index);
            calls
                .set
                .extend(all.filter(|host| *host != own).map(|host| (host, at)));
        } else if !flags.has(EventFlags::CLEAR_EVENT) {
            calls.set.insert(host, at);
        }
        self.publish_calls(id);
        Ok(())
    }

    /// `REG_EVENT`: after the answer the connection is an event channel.
    pub(super) fn on_reg_event(&mut self, id: ClientId, header: &Header, asked: &Lockspace) {
        self.sweep_listeners(asked);
        let code = match self.spaces.named(&asked.name) {
            None => Code::ENOENT,
            Some(space) if space.listeners.len() >= LISTENERS_MAX => Code::ENOCSI,
            Some(_) => Code::OK,
        };
        self.reply(id, header, &Reply::code(code.0));
        if code != Code::OK {
            return;
        }
        if let Some(client) = self.clients.get_mut(id) {
            client.close_after = false;
        }
        if !self.send(id) {
            return;
        }
        let Some(client) = self.clients.remove(id, &self.poller) else {
            return;
        };
        let socket = client.into_socket();
        let number = id.0;
        if self.poller.watch_listener(&socket, number).is_err() {
            return;
        }
        if let Some(space) = self.spaces.named_mut(&asked.name) {
            space.listeners.insert(number, socket);
        }
    }

    /// `END_EVENT`: drops the channels whose other end has said so.
    pub(super) fn on_end_event(&mut self, asked: &Lockspace) -> Code {
        self.sweep_listeners(asked);
        match self.spaces.named(&asked.name) {
            None => Code::ENOENT,
            Some(_) => Code::OK,
        }
    }

    fn sweep_listeners(&mut self, asked: &Lockspace) {
        let Some(space) = self.spaces.named_mut(&asked.name) else {
            return;
        };
        let ended: Vec<u64> = space
            .listeners
            .iter()
            .filter(|(_, socket)| has_ended(socket))
            .map(|(number, _)| *number)
            .collect();
        let id = space.id;
        for number in ended {
            self.drop_listener(id, number);
        }
    }

    /// Something came on an event channel.
    pub(super) fn on_listener(&mut self, number: u64) {
        let ended = self.spaces.iter().find_map(|space| {
            let socket = space.listeners.get(&number)?;
            has_ended(socket).then_some(space.id)
        });
        if let Some(id) = ended {
            self.drop_listener(id, number);
        }
    }

    fn drop_listener(&mut self, id: SpaceId, number: u64) {
        let Some(space) = self.spaces.get_mut(id) else {
            return;
        };
        if let Some(socket) = space.listeners.remove(&number) {
            self.poller.forget(&socket);
        }
    }

    /// Tells every listener of an event another host sent us.
    pub(super) fn deliver(
        &mut self,
        id: SpaceId,
        from: HostId,
        from_generation: Generation,
        extras: HostExtras,
    ) {
        let Some(space) = self.spaces.get(id) else {
            return;
        };
        let message = EventMessage {
            event: HostEvent {
                host_id: u64::from(space.host_id.get()),
                generation: extras.generation,
                event: extras.event,
                data: extras.data,
            },
            from_host_id: u64::from(from.get()),
            from_generation: from_generation.0,
        };
        let bytes = message.encode();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let failed: Vec<u64> = space
            .listeners
            .iter()
            .filter(|(_, socket)| send(socket, &bytes, flags) != Ok(bytes.len()))
            .map(|(number, _)| *number)
            .collect();
        self.log.info(format_args!(
            "{id} event {:#x} data {:#x} from host {from}, {} listeners",
            extras.event,
            extras.data,
            space.listeners.len()
        ));
        for number in failed {
            self.drop_listener(id, number);
        }
    }

    /// `SET_CONFIG`.
    pub(super) fn set_config(&mut self, asked: &Lockspace, action: ConfigAction) -> Code {
        let Some(space) = self.spaces.named_mut(&asked.name) else {
            return Code::ENOENT;
        };
        match action {
            ConfigAction::Used => space.used = true,
            ConfigAction::Unused => space.used = false,
            ConfigAction::UsedByOrphans => space.used_by_orphans = true,
            ConfigAction::UnusedByOrphans => space.used_by_orphans = false,
            ConfigAction::Other(_) => return Code::EINVAL,
        }
        Code::OK
    }
}

/// Whether the other end has closed an event channel, or said that it will.
fn has_ended(socket: &OwnedFd) -> bool {
    loop {
        let mut bytes = [0; 4];
        match recv(socket.as_fd(), &mut bytes, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return true,
            Ok(_) if bytes == EventMessage::END => return true,
            // Nothing that means anything.
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Err(_) => return true,
        }
    }
}
