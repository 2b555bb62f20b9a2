//! One machine: the real cores, and around them what the storage daemon does,
//! in few lines.

use std::collections::{BTreeMap, VecDeque};

use mailbox::role::takeover::Takeover;
use mailbox::role::{Phase, Sdm, Spm, StepId};
use mailbox::{Batch, Committed, Host, Manager, RequestId, host, manager};

use super::lease::Membership;
use super::original::{OriginalHost, OriginalSpm};
use super::swarm::{Mode, Swarm};
use crate::random::Random;

/// One of a machine's cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Core {
    Host,
    Manager,
    Spm,
    Sdm(usize),
}

/// The process that changes metadata, and holds one lease. Its cores, and the
/// SPM's side of the mail, are gone with it.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) id: u64,
    /// The pool's role, if it is a writer of ours for that.
    pub(super) spm: Option<Box<Spm>>,
    /// A domain's own lease, if it is a writer of ours for that, or what a single
    /// change needs.
    pub(super) sdm: Option<Box<Sdm>>,
    /// It has been ordered to end.
    pub(super) dying: bool,
    /// Commits that wait for the one of their domain, by domain.
    pub(super) waiting: BTreeMap<usize, VecDeque<u64>>,
    /// Commits under way, by domain.
    pub(super) active: BTreeMap<usize, u64>,
}

/// The requester's side, of either kind.
#[derive(Debug)]
pub(super) enum AnyHost {
    Ours(Box<Host>),
    Original(Box<OriginalHost>),
}

/// The SPM's side, of either kind, and which one of this run it is.
#[derive(Debug)]
pub(super) enum AnyManager {
    Ours(u64, Box<Manager>),
    Original(u64, Box<OriginalSpm>),
}

impl AnyManager {
    pub(super) fn tenure(&self) -> u64 {
        match self {
            Self::Ours(tenure, _) | Self::Original(tenure, _) => *tenure,
        }
    }
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) original: bool,
    /// The storage daemon runs.
    pub(super) up: bool,
    /// Which start of the daemon this is.
    pub(super) life: u32,
    pub(super) member: Membership,
    pub(super) host: Option<AnyHost>,
    pub(super) manager: Option<AnyManager>,
    pub(super) takeover: Takeover,
    /// Index: lease.
    pub(super) writers: Vec<Option<Writer>>,
    pub(super) mounted: bool,
    /// The step that waits for the SPM's side to end.
    pub(super) stopping_mail: Option<StepId>,
    /// Changes of domains: the batch of each.
    pub(super) changes: BTreeMap<RequestId, (Batch, Option<Vec<Committed>>)>,
    /// When each core wants to be called.
    pub(super) wakes: BTreeMap<Core, u64>,
    /// A start of its own has not led to service yet.
    pub(super) trying: bool,
    /// Its takeover ended another's lease that had run out.
    pub(super) succeeded_dead: bool,
    /// It was told that its lease is lost.
    pub(super) told_lost: bool,
}

impl Machine {
    pub(super) fn new(index: usize, swarm: &Swarm) -> Self {
        let leases = match swarm.mode {
            // The master's, and that of a domain outside the pool.
            Mode::Spm => 1 + usize::from(swarm.singles.is_some()),
            Mode::Sdm => swarm.domains,
        };
        Self {
            original: swarm.originals[index],
            up: false,
            life: 0,
            member: Membership {
                renewed: Some(0),
                ..Membership::default()
            },
            host: None,
            manager: None,
            takeover: Takeover::new(host_id(index), swarm.automatic),
            writers: (0..leases).map(|_| None).collect(),
            mounted: false,
            stopping_mail: None,
            changes: BTreeMap::new(),
            wakes: BTreeMap::new(),
            trying: false,
            succeeded_dead: false,
            told_lost: false,
        }
    }

    /// The daemon starts.
    pub(super) fn start(&mut self, index: usize, swarm: &Swarm, random: &mut Random) {
        self.up = true;
        self.life += 1;
        self.takeover = Takeover::new(host_id(index), swarm.automatic);
        self.wakes.clear();
        self.changes.clear();
        self.stopping_mail = None;
        self.trying = false;
        self.told_lost = false;
        let host_id = host_id(index);
        match swarm.mode {
            Mode::Spm if self.original => {
                let host = OriginalHost::new(host_id, random.bits());
                self.host = Some(AnyHost::Original(Box::new(host)));
            }
            Mode::Spm => {
                let seed = random.bits();
                let host = Host::new(host::Config { host_id, seed });
                self.host = Some(AnyHost::Ours(Box::new(host)));
            }
            Mode::Sdm => {
                let manager = Manager::new(manager::Config {
                    mail: false,
                    ..manager::Config::default()
                });
                self.manager = Some(AnyManager::Ours(0, Box::new(manager)));
            }
        }
    }

    /// The daemon's memory is gone.
    pub(super) fn stop(&mut self) {
        self.up = false;
        self.life += 1;
        self.host = None;
        self.manager = None;
        self.wakes.clear();
    }

    /// The core of the pool's role, while its writer runs.
    pub(super) fn spm(&mut self) -> Option<&mut Spm> {
        let writer = self.writers.first_mut()?.as_mut()?;
        writer.spm.as_deref_mut().filter(|_| !writer.dying)
    }

    /// The core of a domain's own lease, while its writer runs.
    pub(super) fn sdm(&mut self, domain: usize) -> Option<&mut Sdm> {
        let writer = self.writers.get_mut(domain)?.as_mut()?;
        writer.sdm.as_deref_mut().filter(|_| !writer.dying)
    }

    /// Where the pool's role is on this machine.
    pub(super) fn phase(&mut self) -> Phase {
        self.spm().map_or(Phase::Free, |spm| spm.phase())
    }
}

pub(super) fn host_id(index: usize) -> u16 {
    u16::try_from(index + 1).unwrap_or(u16::MAX)
}
