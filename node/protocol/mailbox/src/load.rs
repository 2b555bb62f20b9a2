//! A made-up load, for measuring the SPM's side: the clock is the caller's.

use disk_format::vdsm::mailbox::{Extend, MAILBOX_BYTES, Mailbox, Message};
use disk_format::vdsm::{DomainId, VolumeId};
use lease::Monotonic;

use crate::manager::{Config, Input, Manager};
use crate::seam::{Committed, Effect, IoOutcome};
use crate::timings;

/// An SPM with a full set of hosts, whose I/O succeeds at once.
#[derive(Debug)]
pub struct Load {
    manager: Manager,
    inbox: Vec<u8>,
    now: Monotonic,
    /// Mailboxes read so far.
    pub mailboxes: u64,
    /// Extends committed so far.
    pub extends: u64,
    /// Commits so far.
    pub commits: u64,
}

impl Load {
    /// An SPM for host ids below `mailboxes`, with nothing in the inbox.
    #[must_use]
    pub fn new(mailboxes: u16) -> Self {
        let config = Config {
            mailboxes,
            ..Config::default()
        };
        let mut load = Self {
            manager: Manager::new(config),
            inbox: vec![0; usize::from(mailboxes) * MAILBOX_BYTES],
            now: Monotonic(0),
            mailboxes: 0,
            extends: 0,
            commits: 0,
        };
        load.scan();
        load
    }

    /// Puts a request of every host from 1 to `hosts` in its mailbox, each for
    /// another volume of one domain; another size makes them new requests.
    pub fn ask(&mut self, hosts: u16, size_mib: u32) {
        for host in 1..=hosts {
            let mut id = [0xd0; 16];
            id[..2].copy_from_slice(&host.to_be_bytes());
            let request = Extend {
                domain: DomainId::from_bytes([0xdd; 16]),
                volume: VolumeId::from_bytes(id),
                size_mib,
            };
            let mut mailbox = Mailbox::new();
            mailbox.put(0, &Message::Extend(request));
            mailbox.seal();
            let first = usize::from(host) * MAILBOX_BYTES;
            if let Some(place) = self.inbox.get_mut(first..first + MAILBOX_BYTES) {
                place.copy_from_slice(mailbox.bytes());
            }
        }
    }

    /// Lets the time of one scan pass, and everything that follows from it
    /// happen.
    pub fn scan(&mut self) {
        self.now = self.now.plus_ms(timings::SCAN_MS);
        self.manager.handle(self.now, Input::Tick);
        while let Some(effect) = self.manager.next_effect() {
            match effect {
                Effect::Read {
                    io, offset, length, ..
                } => {
                    let first = usize::try_from(offset).unwrap_or(0);
                    self.mailboxes += u64::try_from(length / MAILBOX_BYTES).unwrap_or(0);
                    let bytes = &self.inbox[first..first + length];
                    let outcome = IoOutcome::Read(bytes);
                    self.manager.handle(self.now, Input::Io(io, outcome));
                }
                Effect::Write { io, .. } => {
                    let outcome = IoOutcome::Written;
                    self.manager.handle(self.now, Input::Io(io, outcome));
                }
                Effect::Extend(batch) => {
                    self.commits += 1;
                    self.extends += u64::try_from(batch.extends.len()).unwrap_or(0);
                    let results = vec![Committed::Done; batch.extends.len()];
                    let input = Input::Committed(batch.id, &results);
                    self.manager.handle(self.now, input);
                }
                Effect::Completed { .. } | Effect::Stopped => {}
            }
        }
        while self.manager.next_note().is_some() {}
    }
}
