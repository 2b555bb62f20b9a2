//! Which descriptor an operation gets, and when descriptors are closed.

use std::sync::Arc;

use lease::Monotonic;
use rustix::io::Errno;

use super::errand::{Errand, Found, Opened, identity_at};
use super::{Disks, DoneAs, Lane, LaneId};
use crate::resources::OperationId;

/// How long a descriptor nobody uses stays open. Short, because an open
/// descriptor keeps a logical volume from being removed.
pub(super) const IDLE_S: u64 = 1;
/// How old an answer to what a path names may be where asking takes a thread
/// and the file is in use all the time.
const COMPARED_S: u64 = 1;
/// The descriptor that a path's next operation will use.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) lane: u64,
    pub(super) opened: Option<Opened>,
    /// An errand is under way; operations wait for it.
    pub(super) away: bool,
    /// When the path was last asked about.
    compared: Monotonic,
    /// The path names something else by now.
    stale: bool,
    /// Operations that use the lane.
    pub(super) users: usize,
    idle_since: Option<Monotonic>,
}

impl Disks {
    /// The lane an operation uses for a path.
    pub(super) fn pin(&mut self, operation: OperationId, path: &[u8], now: Monotonic) -> u64 {
        let path = match self.paths.get_key_value(path) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(path),
        };
        let pin = (operation, Arc::clone(&path));
        if let Some(&lane) = self.pins.get(&pin) {
            return lane;
        }
        let lane = self.begin(&path, now);
        self.pins.insert(pin, lane);
        lane
    }

    /// An operation begins: what the path names now is what it gets.
    fn begin(&mut self, path: &Arc<[u8]>, now: Monotonic) -> u64 {
        let Some(current) = self.paths.get_mut(path).filter(|current| !current.stale) else {
            return self.replace(path, now);
        };
        let in_use = current.users > 0;
        let errand = match &current.opened {
            _ if current.away => None,
            Some(opened) if opened.local => {
                if identity_at(path) != Some(opened.identity) {
                    return self.replace(path, now);
                }
                None
            }
            // Asking a server takes as long as the server likes.
            Some(_) if in_use && current.compared.plus_s(COMPARED_S) > now => None,
            Some(opened) => Some(Errand::Compare(Arc::clone(path), opened.identity)),
            None => Some(Errand::Open(Arc::clone(path))),
        };
        if let Some(errand) = errand {
            current.away = true;
            current.compared = now;
            if !in_use && let Some(lane) = self.lanes.get_mut(&LaneId::File(current.lane)) {
                // Nothing begins before the answer.
                lane.device = None;
            }
            self.errands.push_back(errand);
        }
        current.users += 1;
        current.idle_since = None;
        current.lane
    }

    /// A new descriptor for what the path names from now on. Operations under
    /// way keep the old one.
    fn replace(&mut self, path: &Arc<[u8]>, now: Monotonic) -> u64 {
        let lane = self.next_number;
        self.next_number += 1;
        self.lanes.insert(LaneId::File(lane), Lane::new(None));
        let current = Current {
            lane,
            opened: None,
            away: true,
            compared: now,
            stale: false,
            users: 1,
            idle_since: None,
        };
        if let Some(former) = self.paths.insert(Arc::clone(path), current)
            && former.users == 0
        {
            self.retire(LaneId::File(former.lane));
        }
        self.errands.push_back(Errand::Open(Arc::clone(path)));
        lane
    }

    /// An operation has ended: it submits nothing any more.
    pub(crate) fn ended(&mut self, operation: OperationId, now: Monotonic) {
        let first = (operation, Arc::from([].as_slice()));
        while let Some(((owner, path), lane)) = self
            .pins
            .range(first.clone()..)
            .next()
            .map(|(pin, lane)| (pin.clone(), *lane))
        {
            if owner != operation {
                return;
            }
            self.pins.remove(&(owner, Arc::clone(&path)));
            match self.paths.get_mut(&path) {
                Some(current) if current.lane == lane => {
                    current.users -= 1;
                    if current.users == 0 {
                        current.idle_since = Some(now);
                    }
                }
                _ => {
                    // Replaced meanwhile; others may still use it.
                    if !self.pins.values().any(|other| *other == lane) {
                        self.retire(LaneId::File(lane));
                    }
                }
            }
        }
    }

    /// When descriptors that are idle now are to be closed.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.paths
            .values()
            .filter_map(|current| current.idle_since)
            .min()
            .map(|since| since.plus_s(IDLE_S))
    }

    /// Closes what has been idle for long enough.
    pub(crate) fn tick(&mut self, now: Monotonic) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.close_idle(Some(now));
            if self.paths.is_empty() {
                self.spare = Vec::new();
                self.spare_bytes = 0;
            }
        }
    }

    /// Closes idle descriptors: those idle for long at `now`, or all.
    pub(super) fn close_idle(&mut self, now: Option<Monotonic>) {
        let idle: Vec<(Arc<[u8]>, u64)> = self
            .paths
            .iter()
            .filter(|(_, current)| {
                current
                    .idle_since
                    .is_some_and(|since| now.is_none_or(|now| since.plus_s(IDLE_S) <= now))
            })
            .map(|(path, current)| (Arc::clone(path), current.lane))
            .collect();
        for (path, lane) in idle {
            self.paths.remove(&path);
            self.retire(LaneId::File(lane));
        }
    }

    /// Forgets a descriptor; requests in the kernel's hands keep it open.
    pub(super) fn retire(&mut self, lane: LaneId) {
        self.held_back.remove(&lane);
        if let Some(gone) = self.lanes.remove(&lane) {
            for (token, _) in gone.waiting {
                self.finish(token, DoneAs::NotStarted);
            }
        }
    }

    /// Something to do elsewhere; its outcome goes to [`Self::found`].
    pub(crate) fn next_errand(&mut self) -> Option<Errand> {
        self.errands.pop_front()
    }

    /// An errand could not even be begun.
    pub(crate) fn refused(&mut self, errand: &Errand) {
        let busy = Err(Errno::BUSY.raw_os_error());
        self.found(Found::Opened(Arc::clone(errand.path()), busy));
    }

    /// Takes the outcome of an errand.
    pub(crate) fn found(&mut self, found: Found) {
        let (Found::Opened(path, _) | Found::Compared(path, _)) = &found;
        let path = Arc::clone(path);
        let Some(current) = self.paths.get_mut(&path) else {
            return;
        };
        current.away = false;
        let lane = LaneId::File(current.lane);
        match found {
            Found::Opened(_, Ok(opened)) => {
                let device = Arc::clone(&opened.device);
                current.opened = Some(opened);
                if let Some(queue) = self.lanes.get_mut(&lane) {
                    queue.device = Some(device);
                }
                self.advance(lane);
            }
            Found::Opened(_, Err(error)) => {
                // Operations under way may ask again, and get the same answer
                // until a new one begins.
                current.opened = None;
                if let Some(queue) = self.lanes.get_mut(&lane) {
                    for (token, _) in std::mem::take(&mut queue.waiting) {
                        self.finish(token, DoneAs::Failed(error));
                    }
                }
            }
            Found::Compared(_, true) => {
                if let (Some(queue), Some(opened)) = (self.lanes.get_mut(&lane), &current.opened) {
                    queue.device = Some(Arc::clone(&opened.device));
                }
                self.advance(lane);
            }
            Found::Compared(_, false) if self.has_device(lane) => {
                // Operations under way keep it; the next one gets another.
                if let Some(current) = self.paths.get_mut(&path) {
                    current.stale = true;
                }
            }
            Found::Compared(_, false) => {
                let Some(current) = self.paths.get_mut(&path) else {
                    return;
                };
                // Nobody has used the old one since it was last idle.
                current.opened = None;
                current.away = true;
                self.errands.push_back(Errand::Open(path));
            }
        }
    }

    fn has_device(&self, lane: LaneId) -> bool {
        self.lanes
            .get(&lane)
            .is_some_and(|lane| lane.device.is_some())
    }

    /// A lane without descriptor has something waiting: open its path, unless
    /// that is under way.
    pub(super) fn reopen(&mut self, lane: LaneId) {
        let LaneId::File(number) = lane else { return };
        let path = self
            .paths
            .iter_mut()
            .find(|(_, current)| current.lane == number && !current.away);
        if let Some((path, current)) = path {
            current.away = true;
            self.errands.push_back(Errand::Open(Arc::clone(path)));
        }
    }
}
