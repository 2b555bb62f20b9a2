//! Lockspaces: joining, leaving, and what the keeper tells of them
//! (spec §6.3–6.5).

use std::collections::BTreeMap;
use std::io;

use disk_format::{Geometry, HostId, LockspaceName, NameField};
use lease::code::Code;
use lease::hosts::{Changes, Hosts, Names, Notice, Viewpoint};
use lease::resource::{Observed, Owners};
use lease::{Monotonic, Now, timings};
use linux::disk::BlockDevice;
use linux::ring::Backend;
use sanlock_wire::{AddFlags, Header, InquireFlags, Lockspace, RemoveFlags, Reply};

use super::helper::{Order, Tag};
use super::killing::Reason;
use super::options::{MaxSectors, Options};
use super::space::{Phase, Space};
use super::{Daemon, now};
use crate::keeper::{self, Event, Join, Keeper, RequestSize, SpaceId};
use crate::resources::{ClientId, Ending, Input, ReplyTo, SpaceView};

/// All lockspaces, and what is known of their hosts.
#[derive(Debug)]
pub(super) struct Spaces {
    table: BTreeMap<SpaceId, Space>,
    names: BTreeMap<LockspaceName, SpaceId>,
    next: u32,
    host_names: Names,
}

/// Starts the thread that renews.
pub(super) fn start_keeper(options: &Options) -> io::Result<Keeper> {
    Keeper::start(keeper::Settings {
        realtime: options.high_priority,
        backend: Backend::Auto,
        request_size: match options.max_sectors {
            MaxSectors::Ignore => RequestSize::Ignore,
            MaxSectors::Align => RequestSize::Align,
            MaxSectors::Kib(kib) => RequestSize::Kib(kib),
        },
    })
}

impl Spaces {
    pub(super) fn new() -> Self {
        Self {
            table: BTreeMap::new(),
            names: BTreeMap::new(),
            next: 1,
            host_names: Names::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn ids(&self) -> Vec<SpaceId> {
        self.table.keys().copied().collect()
    }

    pub(super) fn get(&self, id: SpaceId) -> Option<&Space> {
        self.table.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SpaceId) -> Option<&mut Space> {
        self.table.get_mut(&id)
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Space> {
        self.table.values()
    }

    /// The latest lockspace in a phase that is older than this one: lists are
    /// newest first, as the original's.
    pub(super) fn before(&self, id: SpaceId, phase: Phase) -> Option<&Space> {
        self.table
            .range(..id)
            .rev()
            .map(|(_, space)| space)
            .find(|space| space.phase == phase)
    }

    /// The lockspace of this name.
    pub(super) fn named(&self, name: &NameField) -> Option<&Space> {
        let name = LockspaceName::from_field(name).ok()?;
        self.table.get(self.names.get(&name)?)
    }

    /// The same, to change it.
    pub(super) fn named_mut(&mut self, name: &NameField) -> Option<&mut Space> {
        let name = LockspaceName::from_field(name).ok()?;
        self.table.get_mut(self.names.get(&name)?)
    }

    /// The lockspace that is meant: everything that is given must fit.
    fn meant(&self, asked: &Lockspace) -> Option<&Space> {
        self.named(&asked.name).filter(|space| {
            space.asked.disk == asked.disk
                && (asked.host_id == 0 || asked.host_id == space.asked.host_id)
        })
    }

    fn insert(&mut self, space: Space) {
        self.names.insert(space.name, space.id);
        self.table.insert(space.id, space);
    }

    pub(super) fn remove(&mut self, id: SpaceId) -> Option<Space> {
        let space = self.table.remove(&id)?;
        self.names.remove(&space.name);
        Some(space)
    }

    /// What a new lockspace gets in the way of: an error number of §6.3.
    fn conflict(&self, asked: &Lockspace) -> Option<Code> {
        if let Some(space) = self.named(&asked.name) {
            let same = space.asked.disk == asked.disk && space.asked.host_id == asked.host_id;
            return Some(match space.phase {
                _ if !same => Code::EINVAL,
                Phase::Joined => Code::EEXIST,
                Phase::Adding => Code::EINPROGRESS,
                Phase::Removing => Code::EAGAIN,
            });
        }
        self.table
            .values()
            .any(|space| space.asked.disk == asked.disk)
            .then_some(Code::EINVAL)
    }
}

impl Owners for Spaces {
    fn observed(&self, lockspace: &LockspaceName, host: HostId) -> Option<Observed> {
        let space = self.table.get(self.names.get(lockspace)?)?;
        let seen = space.hosts.as_ref()?.get(host);
        seen.last_check?;
        Some(Observed::from(&seen))
    }

    fn is_joined(&self, lockspace: &LockspaceName) -> bool {
        self.names
            .get(lockspace)
            .and_then(|id| self.table.get(id))
            .is_some_and(Space::is_healthy)
    }
}

impl Daemon {
    /// `ADD_LOCKSPACE`.
    pub(super) fn on_add(
        &mut self,
        id: ClientId,
        header: &Header,
        asked: Lockspace,
        io_timeout_s: u32,
        flags: AddFlags,
    ) {
        match self.add(asked, io_timeout_s) {
            Err(code) => self.reply(id, header, &Reply::code(code.0)),
            Ok(_) if flags.has(AddFlags::ASYNC) => self.reply(id, header, &Reply::code(0)),
            Ok(space) => {
                let to = self.defer(id, header, None);
                if let Some(space) = self.spaces.get_mut(space) {
                    space.adders.push(to);
                }
            }
        }
    }

    fn add(&mut self, asked: Lockspace, io_timeout_s: u32) -> Result<SpaceId, Code> {
        let name = LockspaceName::from_field(&asked.name).map_err(|_| Code::EINVAL)?;
        if asked.host_id == 0 || asked.disk.path.is_empty() {
            return Err(Code::EINVAL);
        }
        let io_timeout_s = match io_timeout_s {
            0 => self.options.io_timeout_s,
            given => u8::try_from(given).map_err(|_| Code::EINVAL)?,
        };
        if let Some(code) = self.spaces.conflict(&asked) {
            return Err(code);
        }
        if self.is_ending() {
            return Err(Code::ERROR);
        }
        let host_id = HostId::new(asked.host_id).map_err(|_| Code::ADDLS_INVALID_HOSTID)?;
        Ok(self.join(name, host_id, asked, io_timeout_s, false))
    }

    /// Begins to join a lockspace nothing stands in the way of.
    pub(super) fn join(
        &mut self,
        name: LockspaceName,
        host_id: HostId,
        asked: Lockspace,
        io_timeout_s: u8,
        persistent: bool,
    ) -> SpaceId {
        let id = SpaceId(self.spaces.next);
        self.spaces.next += 1;
        self.log.info(format_args!(
            "{id} lockspace {name}:{host_id}:{}:{} io_timeout {io_timeout_s}",
            asked.disk.path.as_bytes().escape_ascii(),
            asked.disk.offset
        ));
        let watchdog = &self.options.watchdog_socket;
        let join = Join {
            id,
            name,
            host_id,
            host_name: self.host_name,
            path: asked.disk.path.as_path().to_path_buf(),
            offset: asked.disk.offset,
            io_timeout_s,
            fire_timeout_s: self.options.fire_timeout_s,
            read_extend_s: self.options.renewal_read_extend_s,
            watchdog: self.options.use_watchdog.then(|| watchdog.clone()),
            persistent,
        };
        let asked = Lockspace { flags: 0, ..asked };
        let mut space = Space::new(id, name, host_id, asked);
        space.io_timeout_s = io_timeout_s;
        space.persistent = persistent;
        space.acquire_attempt_s = now().monotonic.seconds();
        self.spaces.insert(space);
        self.keeper.join(join);
        self.keeper_rings = true;
        id
    }

    /// `REM_LOCKSPACE`.
    pub(super) fn on_rem(
        &mut self,
        id: ClientId,
        header: &Header,
        asked: &Lockspace,
        flags: RemoveFlags,
    ) {
        let unused = flags.has(RemoveFlags::UNUSED);
        let found = match self.spaces.meant(asked) {
            None => Err(Code::ENOENT),
            Some(space) if space.phase == Phase::Removing => Err(Code::EINPROGRESS),
            Some(space) if space.indexing || space.persistent => Err(Code::EBUSY),
            Some(space) if unused && self.resources.is_used(&space.name) => Err(Code::EBUSY),
            Some(space) => Ok(space.id),
        };
        match found {
            Err(code) => self.reply(id, header, &Reply::code(code.0)),
            Ok(space) => {
                if flags.has(RemoveFlags::ASYNC) {
                    self.reply(id, header, &Reply::code(0));
                } else {
                    let to = self.defer(id, header, None);
                    if let Some(space) = self.spaces.get_mut(space) {
                        space.removers.push(to);
                    }
                }
                self.begin_killing(space, Reason::Removed);
            }
        }
    }

    /// `INQ_LOCKSPACE`.
    pub(super) fn on_inq(
        &mut self,
        id: ClientId,
        header: &Header,
        asked: &Lockspace,
        flags: InquireFlags,
    ) {
        let (space, code) = match self.spaces.meant(asked) {
            None => (None, Code::ENOENT),
            Some(space) if space.phase == Phase::Joined => (None, Code::OK),
            Some(space) => (Some(space.id), Code::EINPROGRESS),
        };
        match space.filter(|_| flags.has(InquireFlags::WAIT)) {
            None => self.reply(id, header, &Reply::code(code.0)),
            Some(space) => {
                let to = self.defer(id, header, None);
                if let Some(space) = self.spaces.get_mut(space) {
                    space.inquirers.push(to);
                }
            }
        }
    }

    pub(super) fn answer_all(&mut self, waiting: Vec<ReplyTo>, code: Code) {
        for to in waiting {
            self.answer(to, &Reply::code(code.0));
        }
    }

    /// Takes in what the keeper tells; whether it told anything.
    pub(super) fn pump_keeper(&mut self, at: Now) -> bool {
        if !std::mem::take(&mut self.keeper_rings) {
            return false;
        }
        let mut any = false;
        while let Some((id, event)) = self.keeper.next_event() {
            any = true;
            self.on_keeper(at, id, event);
        }
        any
    }

    fn on_keeper(&mut self, at: Now, id: SpaceId, event: Event) {
        let host_names = self.spaces.host_names.clone();
        let Some(space) = self.spaces.get_mut(id) else {
            if let Event::Area { buffer, .. } = event {
                self.keeper.recycle(buffer);
            }
            return;
        };
        match event {
            joined @ Event::Joined { .. } => self.on_joined(id, joined),
            Event::JoinFailed { code, reason } => {
                self.log.error(format_args!(
                    "{id} lockspace not joined: {}: {reason}",
                    code.0
                ));
                space.acquire_result = code;
                self.finish_space(id, code);
            }
            Event::Area {
                geometry,
                part,
                buffer,
                asked,
                read_at,
            } => {
                let view = viewpoint(&self.options, space, geometry);
                let changes = space
                    .hosts
                    .get_or_insert_with(|| Hosts::new(view, &host_names))
                    .observe(asked, read_at.boottime, part, &buffer);
                self.keeper.recycle(buffer);
                self.on_changes(id, &changes);
            }
            Event::Renewed(renewal) => {
                let history = usize::try_from(self.options.renewal_history_size);
                space.renewed(&renewal, history.unwrap_or(usize::MAX));
                let (name, expires) = (space.name, space.validate(Some(renewal.submitted)));
                if self.options.debug_renew {
                    self.log.debug(format_args!(
                        "{id} renewed {} read {} ms write {} ms",
                        renewal.timestamp_s, renewal.read_ms, renewal.write_ms
                    ));
                }
                self.tell(Input::SpaceRenewed(name, expires));
            }
            Event::RenewalFailed { code, attempts } => {
                space.renewal_failed(code, attempts, at.monotonic.seconds());
                self.log.error(format_args!(
                    "{id} renewal failed {} ({}), {attempts} attempts, last success {} s ago",
                    code.0,
                    code.text(),
                    since_s(space.last_success, at)
                ));
            }
            Event::Failing => self.log.warn(format_args!(
                "{id} not renewed for {} s, lost after {} s",
                since_s(space.last_success, at),
                timings::lost_s(space.io_timeout_s)
            )),
            Event::Lost { code, last_success } => {
                space.lost = Some(code);
                space.validate(None);
                if Space::is_corrupt(code) {
                    space.corrupt_result = code;
                }
                self.log.error(format_args!(
                    "{id} lockspace lost: {} ({}); ending its users",
                    code.0,
                    code.text()
                ));
                self.begin_killing(id, Reason::Lost { last_success });
            }
            Event::Left { code } => {
                self.left_badly |= code != Code::OK;
                self.finish_space(id, code);
            }
        }
    }

    fn on_joined(&mut self, id: SpaceId, event: Event) {
        let Event::Joined {
            geometry,
            generation,
            device,
            timestamp_s,
            submitted,
        } = event
        else {
            return;
        };
        let Some(space) = self.spaces.get_mut(id) else {
            return;
        };
        space.geometry = Some(geometry);
        space.generation = generation;
        space.acquire_result = Code::DONE;
        space.acquire_success_s = timestamp_s;
        space.renewal_success_s = timestamp_s;
        space.renewal_attempt_s = timestamp_s;
        space.last_success = Some(submitted);
        if space.phase != Phase::Adding {
            // It is being removed already.
            return;
        }
        space.phase = Phase::Joined;
        let (name, expires) = (space.name, space.validate(Some(submitted)));
        let joined = SpaceView {
            id,
            name,
            host_id: space.host_id,
            generation,
            geometry,
            io_timeout_s: space.io_timeout_s,
            fire_timeout_s: self.options.fire_timeout_s,
            offset: space.asked.disk.offset,
        };
        let adders = std::mem::take(&mut space.adders);
        let inquirers = std::mem::take(&mut space.inquirers);
        self.log.info(format_args!(
            "{id} lockspace joined, host id {} generation {generation}",
            joined.host_id
        ));
        self.set_request_size(id, &device);
        self.disks.add_space(id, device);
        self.tell(Input::SpaceJoined(joined));
        self.tell(Input::SpaceRenewed(name, expires));
        self.answer_all(adders, Code::OK);
        self.answer_all(inquirers, Code::OK);
    }

    /// Lets a block device read the area in as few requests as it can. The
    /// keeper has tried; without the privilege only the helper can.
    fn set_request_size(&mut self, id: SpaceId, device: &BlockDevice) {
        let told = self.keeper.status(id).and_then(|space| space.request_kib);
        let Some(space) = self.spaces.get_mut(id) else {
            return;
        };
        let wanted = match self.options.max_sectors {
            MaxSectors::Ignore => None,
            MaxSectors::Align => space.geometry.map(|geometry| geometry.align_size() / 1024),
            MaxSectors::Kib(kib) => Some(kib),
        };
        let Some(kib) = wanted.filter(|_| device.sector_size().is_some()) else {
            return;
        };
        space.request_kib = told.unwrap_or(kib);
        let Ok(stat) = rustix::fs::fstat(device) else {
            return;
        };
        if told.is_none() {
            self.order(&Order::MaxSectors {
                tag: Tag::Device(id).number(),
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
                kib,
            });
        }
    }

    fn on_changes(&mut self, id: SpaceId, changes: &Changes) {
        let Some(space) = self.spaces.get(id) else {
            return;
        };
        let name = space.name;
        for notice in &changes.notices {
            match *notice {
                Notice::Event {
                    from,
                    from_generation,
                    extras,
                } => self.deliver(id, from, from_generation, extras),
                Notice::Request { from } => {
                    self.log
                        .info(format_args!("{id} host {from} asks for a lease"));
                    self.tell(Input::Examine {
                        reply: None,
                        lockspace: *name.field(),
                        resource: None,
                    });
                }
            }
        }
        if changes.renewed > 0 {
            self.tell(Input::HostsChanged(name));
        }
    }

    /// The keeper has forgotten a lockspace: so do we.
    fn finish_space(&mut self, id: SpaceId, code: Code) {
        let Some(space) = self.spaces.remove(id) else {
            return;
        };
        for listener in space.listeners.values() {
            self.poller.forget(listener);
        }
        self.disks.remove_space(id);
        self.tell(Input::SpaceGone(space.name));
        self.log.info(format_args!("{id} lockspace ended"));
        let added = if code == Code::OK { Code::ERROR } else { code };
        self.answer_all(space.adders, added);
        self.answer_all(space.removers, Code::OK);
        self.answer_all(space.inquirers, Code::ENOENT);
    }

    /// Tells the leases that a lockspace ends.
    pub(super) fn tell_dying(&mut self, name: LockspaceName, lost: bool) {
        let ending = if lost { Ending::Lost } else { Ending::Leaving };
        self.tell(Input::SpaceDying(name, ending));
    }
}

/// Whence the hosts of a lockspace are looked at.
fn viewpoint(options: &Options, space: &Space, geometry: Geometry) -> Viewpoint {
    Viewpoint {
        lockspace: space.name,
        geometry,
        host_id: space.host_id,
        io_timeout_s: space.io_timeout_s,
        fire_timeout_s: options.fire_timeout_s,
        bitmap_s: bitmap_s(options, space),
    }
}

/// Seconds for which a bit we set stays set.
pub(super) fn bitmap_s(options: &Options, space: &Space) -> u64 {
    match options.bitmap_s {
        Some(seconds) => u64::from(seconds),
        None => timings::failing_s(space.io_timeout_s),
    }
}

fn since_s(last: Option<Monotonic>, at: Now) -> u64 {
    last.map_or(0, |last| at.boottime.ms_since(last) / 1000)
}
