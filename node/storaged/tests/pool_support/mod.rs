//! File domains on a disk of the build machine, and hosts with lease daemons of
//! their own that share them.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    missing_debug_implementations,
    reason = "each test file uses its part"
)]

#[path = "../../../sanlock-client/tests/support/mod.rs"]
pub mod daemons;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use disk_format::vdsm::domain::{DomainClass, DomainMetadata, DomainType};
use disk_format::vdsm::uuid::{DomainId, PoolId};
use disk_format::vdsm::version::DomainVersion;
use storaged::domain::Domain;
use storaged::file::{FileDomain, NewFileDomain};
use storaged::image::leases::DaemonLeases;
use storaged::job::Context;
use storaged::pool::{Manager, NewPool, OnLost, Start, StartError, create};
use storaged::writer::Cluster;

pub use daemons::{DEADLINE, Host, IO_TIMEOUT_S, Kind, disk_dir, until};

pub const POOL: PoolId = PoolId::from_bytes([0x70; 16]);

/// The storage: a few mounts with one file domain each.
pub struct Storage {
    dir: tempfile::TempDir,
    pub domains: Vec<DomainId>,
}

impl Storage {
    /// With so many data domains, made through `host`.
    pub fn new(host: &Host, count: u8) -> Self {
        let mut storage = Self {
            dir: disk_dir(),
            domains: Vec::new(),
        };
        for number in 1..=count {
            storage.make(host, number, DomainClass::Data, DomainVersion::V5);
        }
        storage
    }

    pub fn make(
        &mut self,
        host: &Host,
        number: u8,
        class: DomainClass,
        version: DomainVersion,
    ) -> DomainId {
        let id = DomainId::from_random([number; 16]);
        let mount = self.mount(number);
        std::fs::create_dir_all(&mount).expect("a mount");
        let new = NewFileDomain {
            id,
            version,
            kind: DomainType::PosixFs,
            class,
            description: format!("domain {number}"),
            remote_path: format!("server:/export/{number}"),
            block_size: Some(512),
            hosts_max: 250,
        };
        let leases = DaemonLeases::new(host.client(), 250, IO_TIMEOUT_S);
        FileDomain::create(&Context::quiet(), &mount, &new, &leases).expect("a domain");
        self.domains.push(id);
        id
    }

    fn mount(&self, number: u8) -> PathBuf {
        self.dir.path().join(format!("mount{number}"))
    }

    pub fn root(&self, index: usize) -> PathBuf {
        let id = self.domains[index];
        self.mount(u8::try_from(index + 1).expect("few"))
            .join(id.to_string())
    }

    /// Opened anew, as another process would.
    pub fn open(&self, index: usize) -> Arc<dyn Domain> {
        Arc::new(FileDomain::open(&self.root(index)).expect("opens"))
    }

    pub fn all(&self) -> Vec<Arc<dyn Domain>> {
        (0..self.domains.len())
            .map(|index| self.open(index))
            .collect()
    }

    pub fn metadata(&self) -> Vec<DomainMetadata> {
        self.all()
            .iter()
            .map(|domain| domain.metadata().expect("metadata"))
            .collect()
    }

    /// A pool of all domains so far, made by `host`.
    pub fn pool(&self, host: &Host, host_id: u16) {
        let new = NewPool {
            id: POOL,
            name: "a pool".to_owned(),
            master_version: 1,
        };
        create(
            &Context::quiet(),
            &cluster(host, host_id),
            &new,
            &self.all(),
        )
        .expect("a pool");
    }

    /// Takes the role for `host`, with domain `master` as the master.
    pub fn start(&self, host: &Host, host_id: u16, master: usize) -> Result<Manager, StartError> {
        self.start_with(host, host_id, master, Arc::new(|_: &str| {}))
    }

    pub fn start_with(
        &self,
        host: &Host,
        host_id: u16,
        master: usize,
        on_lost: OnLost,
    ) -> Result<Manager, StartError> {
        let others = (0..self.domains.len())
            .filter(|index| *index != master)
            .map(|index| self.open(index))
            .collect();
        Manager::start(
            &Context::quiet(),
            Start {
                cluster: cluster(host, host_id),
                pool: POOL,
                master: self.open(master),
                others,
                expected_version: None,
                upgrade: None,
                on_lost,
            },
        )
    }

    pub fn index(&self, id: DomainId) -> usize {
        self.domains
            .iter()
            .position(|found| *found == id)
            .expect("one of ours")
    }
}

pub fn cluster(host: &Host, host_id: u16) -> Cluster {
    Cluster::new(&host.socket(), host_id, IO_TIMEOUT_S).expect("a host id")
}

/// What was told of a lost lease.
#[derive(Clone, Default)]
pub struct Losses(Arc<Mutex<Vec<String>>>);

impl Losses {
    pub fn handler(&self) -> OnLost {
        let mine = self.clone();
        Arc::new(move |why: &str| mine.0.lock().expect("losses").push(why.to_owned()))
    }

    pub fn first(&self) -> Option<String> {
        self.0.lock().expect("losses").first().cloned()
    }
}
