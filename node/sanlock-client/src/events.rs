//! Events that hosts of a lockspace send each other by their renewals.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use sanlock_wire::{EventFlags, HostEvent, Lockspace, Request};

use crate::client::{Client, checked};
use crate::error::Error;

impl Client {
    /// Sends an event to another host: it stands in our next renewals and is read
    /// with the renewals of the other, so it takes about two renewals (4 ×
    /// io_timeout) at most. One that is still on its way is replaced.
    ///
    /// # Errors
    /// A refusal ([`crate::Code::ENOENT`] when the lockspace is not joined) or no
    /// answer.
    pub fn set_event(
        &self,
        lockspace: &Lockspace,
        event: HostEvent,
        deadline: Duration,
    ) -> Result<(), Error> {
        let request = Request::SetEvent {
            lockspace: lockspace.clone(),
            event,
            flags: EventFlags::CUR_GENERATION.with_if(EventFlags::REPLACE_EVENT, true),
        };
        checked(&request, |request| self.call(request, deadline)).map(drop)
    }

    /// A socket from which the events for this host are read, each a message of
    /// [`sanlock_wire::EventMessage::BYTES`]. It ends with the lockspace.
    ///
    /// # Errors
    /// A refusal ([`crate::Code::ENOENT`] when the lockspace is not joined) or no
    /// answer.
    pub fn events(&self, lockspace: &Lockspace, deadline: Duration) -> Result<UnixStream, Error> {
        let request = Request::RegEvent {
            lockspace: lockspace.clone(),
        };
        let mut connection = self.connect(deadline)?;
        checked(&request, |request| connection.call(request, deadline))?;
        Ok(connection.into_socket())
    }
}
