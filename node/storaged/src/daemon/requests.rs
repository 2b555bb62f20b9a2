//! What each request needs: who does it, within what time, as a task or not.

pub(super) mod checks;
mod domains;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use control::storage::connection::Connection;
use control::storage::ovf::OvfRequest;
use control::storage::report::StorageReport;
use control::storage::request::{LeaseRequest, PoolRequest, VolumeRequest};
use control::storage::{Answer, Failure, FailureKind, Reply, Request};
use disk_format::vdsm::uuid::{LeaseId, PoolId};

use self::checks::{bad, check_text, check_volume_request, not_uuid};
use super::Daemon;
use super::connections::CONNECT_DEADLINE;
use super::pool::Wanted;
use super::socket::done;
use super::tasks::{After, nothing};
use super::workers::Key;
use crate::job::Result;
use crate::worker::work::{Carrier, Place, PoolContext, Work};

/// Reading a domain.
const READ_DEADLINE: Duration = Duration::from_secs(60);
/// Looking for LUNs: rescans wait for udev and multipathd.
const SCAN_DEADLINE: Duration = Duration::from_secs(90);
/// A change of metadata that is short.
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);

impl Daemon {
    /// Answers a request.
    pub(crate) async fn answer(self: &Rc<Self>, request: Request) -> Reply {
        let outcome = match request {
            Request::Status => Ok(Reply::Answer(Box::new(Answer::Status(self.status())))),
            Request::Luns { rescan } => self.scan(Work::Luns { rescan }).await.map(reply),
            Request::Discover { connection } => self.discover(connection).await.map(reply),
            Request::Connect { connection } => self.connect(&connection).await.map(reply),
            Request::Disconnect { connection } => self.disconnect(&connection).await.map(reply),
            Request::Rescan => self.rescan().await.map(reply),
            Request::Domain(request) => self.answer_domain(request).await,
            Request::Volume(request) => self.answer_volume(request).await,
            Request::Lease(request) => self.answer_lease(request).await.map(reply),
            Request::Ovf(request) => self.answer_ovf(request).await.map(reply),
            Request::Pool(request) => self.answer_pool(request).await,
            Request::Spm(request) => Ok(self.answer_spm(request).await),
            Request::Task(request) => self.tasks.answer(request).await.map(reply),
        };
        outcome.unwrap_or_else(Reply::Failure)
    }

    fn status(&self) -> StorageReport {
        let (workers, leftovers) = self.workers.reports();
        let wanted = self.wanted.borrow();
        let pool = match (self.pool.borrow().as_ref(), wanted.as_ref()) {
            (Some(pool), _) => Some(pool.report.clone()),
            (None, Some(wanted)) => Some(control::storage::report::PoolReport {
                id: wanted.pool.clone(),
                host_id: wanted.host_id,
                master: wanted.master.clone(),
                state: "connecting".to_owned(),
                reason: self.pool_reason.borrow().clone(),
                ..Default::default()
            }),
            (None, None) => None,
        };
        StorageReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_ms: super::ms(self.started.elapsed()),
            resident_kib: resident_kib(),
            connections: self.connection_reports(),
            paths_reason: self.paths.reason(),
            domains: self.domain_reports(),
            spm: pool.as_ref().map(|_| self.role.borrow().report()),
            pool,
            tasks_running: self.tasks.running(),
            workers,
            leftovers,
            watches: self
                .watches
                .borrow()
                .values()
                .map(super::watches::Watched::report)
                .collect(),
        }
    }

    async fn scan(self: &Rc<Self>, work: Work) -> Result<Answer> {
        self.workers.work(&Key::Scan, work, SCAN_DEADLINE).await
    }

    async fn discover(self: &Rc<Self>, connection: Connection) -> Result<Answer> {
        let key = Key::Connection(format!("discover {}", connection.target()));
        let work = Work::Discover { connection };
        let outcome = self.workers.work(&key, work, CONNECT_DEADLINE).await;
        self.workers.stop(&key, false);
        outcome
    }

    async fn rescan(self: &Rc<Self>) -> Result<Answer> {
        // One dead file server must not keep the LUNs from being found.
        let mut failures = Vec::new();
        let block = self
            .connections
            .kept()
            .connections()
            .any(|(_, connection)| connection.is_block());
        if block {
            if let Err(failure) = self.scan(Work::Rescan).await {
                failures.push(failure.message);
            }
            if let Err(failure) = self.find_block(None).await {
                failures.push(failure.message);
            }
        }
        self.find_files().await;
        self.changed();
        if failures.is_empty() {
            let count = self.domains.borrow().len();
            return Ok(done(format!(
                "looked everywhere: {count} domains are known"
            )));
        }
        Err(Failure::new(FailureKind::Failed, failures.join("; ")))
    }

    /// Looks for domains on every file system that is connected.
    async fn find_files(self: &Rc<Self>) {
        let ids: Vec<String> = {
            let kept = self.connections.kept();
            kept.connections()
                .filter(|(id, _)| kept.path(id).is_some())
                .map(|(id, _)| id.to_owned())
                .collect()
        };
        for id in ids {
            self.find_on(&id).await;
        }
    }

    /// Looks for domains on all that is connected.
    pub(crate) async fn find_everywhere(self: &Rc<Self>) {
        self.find_files().await;
        let block = self
            .connections
            .kept()
            .connections()
            .any(|(_, connection)| connection.is_block());
        if block && let Err(failure) = self.find_block(None).await {
            tracing::warn!("looking for domains: {failure}");
        }
    }

    async fn answer_volume(self: &Rc<Self>, mut request: VolumeRequest) -> Result<Reply> {
        check_volume_request(&mut request)?;
        let (name, target) = match &request {
            VolumeRequest::Create(new) => (new.domain.clone(), None),
            VolumeRequest::List { domain, .. }
            | VolumeRequest::DeleteImage { domain, .. }
            | VolumeRequest::Prepare { domain, .. }
            | VolumeRequest::Teardown { domain, .. }
            | VolumeRequest::Snapshot { domain, .. } => (domain.clone(), None),
            VolumeRequest::Show { volume }
            | VolumeRequest::Extend { volume, .. }
            | VolumeRequest::Shrink { volume }
            | VolumeRequest::Delete { volume, .. }
            | VolumeRequest::Merge { volume, .. }
            | VolumeRequest::Bitmaps { volume }
            | VolumeRequest::Bitmap { volume, .. }
            | VolumeRequest::Refresh { volume }
            | VolumeRequest::Set { volume, .. }
            | VolumeRequest::LeaseShow { volume } => (volume.domain.clone(), None),
            VolumeRequest::Copy { source, target } | VolumeRequest::Template { source, target } => {
                (source.domain.clone(), Some(target.domain.clone()))
            }
            VolumeRequest::Watch { qmp, drives } => {
                return self.watch_guest(qmp, drives.clone()).map(reply);
            }
            VolumeRequest::Unwatch { qmp } => return self.unwatch_guest(qmp).map(reply),
            VolumeRequest::Guest { qmp, change } => {
                return self.tell_of_guest(qmp, change.clone()).map(reply);
            }
        };
        // Only more room, on LUNs: any host of the pool may ask for that.
        if let VolumeRequest::Extend {
            volume,
            capacity_bytes: None,
            size_bytes: Some(size),
        } = &request
            && self.place(&name)?.carrier == Carrier::Block
        {
            return self.extend(volume, *size).await.map(reply);
        }
        let place = self.place(&name)?;
        let target = target.map(|name| self.place(&name)).transpose()?;
        let reads = matches!(
            request,
            VolumeRequest::List { .. }
                | VolumeRequest::Show { .. }
                | VolumeRequest::Prepare { .. }
                | VolumeRequest::Teardown { .. }
                | VolumeRequest::LeaseShow { .. }
                | VolumeRequest::Bitmaps { .. }
                | VolumeRequest::Refresh { .. }
        );
        let long = !reads
            && !matches!(
                request,
                VolumeRequest::Extend { .. }
                    | VolumeRequest::Set { .. }
                    | VolumeRequest::Bitmap { .. }
            );
        let key = if reads {
            Key::Domain(place.domain.clone())
        } else {
            // A copy changes the target's metadata.
            self.writer(target.as_ref().unwrap_or(&place))?
        };
        let work = Work::Volume {
            place: place.clone(),
            target,
            request,
        };
        if long {
            let what = work.name();
            let after: After = Box::new(|_, _| nothing());
            return Ok(self.start_task(what, Some(place.domain), Some(key), work, after));
        }
        let deadline = if reads {
            READ_DEADLINE
        } else {
            CHANGE_DEADLINE
        };
        self.workers.work(&key, work, deadline).await.map(reply)
    }

    async fn answer_lease(self: &Rc<Self>, request: LeaseRequest) -> Result<Answer> {
        let (domain, lease, reads) = match &request {
            LeaseRequest::Add { domain, lease } | LeaseRequest::Remove { domain, lease } => {
                (domain, Some(lease), false)
            }
            LeaseRequest::Show { domain, lease } => (domain, Some(lease), true),
            LeaseRequest::List { domain } => (domain, None, true),
            LeaseRequest::Rebuild { domain } => (domain, None, false),
        };
        if let Some(lease) = lease {
            lease
                .parse::<LeaseId>()
                .map_err(|_| not_uuid("lease", lease))?;
        }
        let place = self.place(domain)?;
        let key = if reads {
            Key::Domain(place.domain.clone())
        } else {
            self.writer(&place)?
        };
        let work = Work::Lease { place, request };
        let deadline = if reads {
            READ_DEADLINE
        } else {
            CHANGE_DEADLINE
        };
        self.workers.work(&key, work, deadline).await
    }

    async fn answer_ovf(self: &Rc<Self>, request: OvfRequest) -> Result<Answer> {
        let (domain, guest) = request.names();
        if let Some(guest) = guest {
            // Only looks at the form: every UUID is written alike.
            guest
                .parse::<LeaseId>()
                .map_err(|_| not_uuid("guest", guest))?;
        }
        let place = self.place(domain)?;
        let (key, deadline) = if request.is_reading() {
            (Key::Domain(place.domain.clone()), READ_DEADLINE)
        } else {
            (self.writer(&place)?, CHANGE_DEADLINE)
        };
        let work = Work::Ovf { place, request };
        self.workers.work(&key, work, deadline).await
    }

    async fn answer_pool(self: &Rc<Self>, request: PoolRequest) -> Result<Reply> {
        match request {
            PoolRequest::Create {
                pool,
                name,
                domains,
            } => self.create_pool(pool, name, &domains),
            PoolRequest::Connect {
                pool,
                host_id,
                master,
            } => {
                pool.parse::<PoolId>()
                    .map_err(|_| not_uuid("pool", &pool))?;
                if !(1..=250).contains(&host_id) {
                    return Err(bad(format!("host id {host_id}: must be 1 to 250")));
                }
                if let Some(present) = self.wanted.borrow().as_ref()
                    && self.pool.borrow().is_some()
                    && (present.pool != pool || present.host_id != host_id)
                {
                    return Err(Failure::new(
                        FailureKind::InUse,
                        format!(
                            "this host is in pool {} as host {}; disconnect that first",
                            present.pool, present.host_id
                        ),
                    ));
                }
                let wanted = Wanted {
                    pool,
                    host_id,
                    master,
                };
                self.workers.set_host_id(host_id);
                let report = self.connect_pool(&wanted).await?;
                *self.wanted.borrow_mut() = Some(wanted);
                self.remember();
                self.changed();
                Ok(reply(Answer::Pool(report)))
            }
            PoolRequest::Disconnect => self.disconnect_pool().await.map(reply),
            PoolRequest::Show => match self.status().pool {
                Some(report) => Ok(reply(Answer::Pool(report))),
                None => Err(Failure::new(
                    FailureKind::NotFound,
                    "this host is in no pool; `nodectl pool connect` or the configuration puts it into one",
                )),
            },
            PoolRequest::Upgrade { version } => self.upgrade_pool(version),
            PoolRequest::Refresh => {
                let report = self.refresh_pool().await?;
                Ok(reply(Answer::Pool(report)))
            }
        }
    }

    fn create_pool(
        self: &Rc<Self>,
        pool: Option<String>,
        name: String,
        domains: &[String],
    ) -> Result<Reply> {
        check_text("name", &name)?;
        let pool = match pool {
            Some(pool) => pool
                .parse::<PoolId>()
                .map_err(|_| not_uuid("pool", &pool))?
                .to_string(),
            None => crate::random::uuid()?,
        };
        let places = domains
            .iter()
            .map(|domain| self.place(domain))
            .collect::<Result<Vec<Place>>>()?;
        let Some(master) = places.first().cloned() else {
            return Err(bad("a pool needs a domain, which becomes its master"));
        };
        {
            let domains = self.domains.borrow();
            for place in &places {
                let of = domains
                    .get(&place.domain)
                    .and_then(|known| known.report.pool.clone());
                if let Some(of) = of {
                    return Err(Failure::new(
                        FailureKind::InUse,
                        format!("domain {}: attached to pool {of}", place.domain),
                    ));
                }
            }
        }
        let config = self.config.borrow();
        let context = PoolContext {
            pool,
            name,
            // VDSM's temporary id for a pool that nobody is in yet.
            host_id: 250,
            master: master.clone(),
            master_version: Some(1),
            manager: config.manager,
            domains: places,
        };
        let ids: Vec<String> = context
            .domains
            .iter()
            .map(|place| place.domain.clone())
            .collect();
        let after: After = Box::new(move |daemon, _| {
            Box::pin(async move {
                for id in ids {
                    daemon.look_again(&id).await;
                }
            })
        });
        // A process of its own that registers at the lease daemon, as a writer does.
        let key = Key::Writer(Some(master.domain.clone()));
        Ok(self.start_task(
            "create pool",
            Some(master.domain),
            Some(key),
            Work::CreatePool { pool: context },
            after,
        ))
    }
}

fn reply(answer: Answer) -> Reply {
    Reply::Answer(Box::new(answer))
}

/// VmRSS of this process.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string(PathBuf::from("/proc/self/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
