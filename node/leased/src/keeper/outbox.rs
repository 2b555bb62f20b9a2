//! What the keeper thread tells the owner of its handle, without ever waiting
//! for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use super::handle::wake;
use super::opening::Outcome;
use super::space::Space;
use super::{Event, SpaceId};

/// Messages kept when nobody takes them; readings are dropped then, everything
/// else waits in its lockspace.
pub(super) const MESSAGES_MAX: usize = 1024;

/// From the keeper thread.
#[derive(Debug)]
pub(super) enum Message {
    Event(SpaceId, Event),
    /// To be taken apart where closing a device may take its time.
    Gone(Box<Space>),
    /// The same, of a lockspace that ended meanwhile.
    Unclaimed(Outcome),
}

#[derive(Debug)]
pub(super) struct Outbox {
    messages: SyncSender<Message>,
    ready: Arc<OwnedFd>,
    filled: bool,
}

impl Outbox {
    pub(super) fn new(messages: SyncSender<Message>, ready: Arc<OwnedFd>) -> Self {
        Self {
            messages,
            ready,
            filled: false,
        }
    }

    /// Leaves a message; gives it back when there is no room now.
    pub(super) fn put(&mut self, message: Message) -> Result<(), Message> {
        match self.messages.try_send(message) {
            Ok(()) => {
                self.filled = true;
                Ok(())
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => Err(message),
        }
    }

    /// Has the owner woken although nothing was left for it.
    pub(super) fn nudge(&mut self) {
        self.filled = true;
    }

    /// Wakes the owner if anything was left for it.
    pub(super) fn deliver(&mut self) {
        if std::mem::take(&mut self.filled) {
            wake(&self.ready);
        }
    }
}
