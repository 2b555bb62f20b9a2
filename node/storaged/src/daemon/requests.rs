//! What each request needs: who does it, within what time, as a task or not.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use control::storage::connection::Connection;
use control::storage::report::StorageReport;
use control::storage::request::{
    DomainRequest, LeaseRequest, NewDomain, NewPlace, PoolRequest, VolumeRequest,
};
use control::storage::{Answer, Failure, FailureKind, Reply, Request};
use disk_format::vdsm::uuid::{DomainId, ImageId, LeaseId, PoolId, VolumeId};

use super::Daemon;
use super::connections::{self, CONNECT_DEADLINE};
use super::pool::Wanted;
use super::socket::done;
use super::tasks::{After, nothing};
use super::workers::Key;
use crate::job::Result;
use crate::worker::work::{Place, PoolContext, Work};

/// Reading a domain.
const READ_DEADLINE: Duration = Duration::from_secs(60);
/// Looking for LUNs: rescans wait for udev and multipathd.
const SCAN_DEADLINE: Duration = Duration::from_secs(90);
/// A change of metadata that is short.
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);
/// Longest text people may give.
const TEXT_BYTES_MAX: usize = 1024;
/// Most LUNs of one request.
const LUNS_MAX: usize = 64;

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
            connections: self
                .connections
                .borrow()
                .values()
                .map(connections::Kept::report)
                .collect(),
            domains: self.domain_reports(),
            spm: pool.as_ref().map(|_| self.role.borrow().report()),
            pool,
            tasks_running: self.tasks.running(),
            workers,
            leftovers,
            watches: Vec::new(),
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
            .borrow()
            .values()
            .any(|kept| kept.connection.is_block());
        if block {
            if let Err(failure) = self.scan(Work::Rescan).await {
                failures.push(failure.message);
            }
            if let Err(failure) = self.find_block(None).await {
                failures.push(failure.message);
            }
        }
        let ids: Vec<String> = {
            let connections = self.connections.borrow();
            connections
                .iter()
                .filter(|(_, kept)| !kept.connection.is_block() && kept.path.is_some())
                .map(|(id, _)| id.clone())
                .collect()
        };
        for id in ids {
            self.find_on(&id).await;
        }
        self.changed();
        if failures.is_empty() {
            let count = self.domains.borrow().len();
            return Ok(done(format!(
                "looked everywhere: {count} domains are known"
            )));
        }
        Err(Failure::new(FailureKind::Failed, failures.join("; ")))
    }

    async fn answer_domain(self: &Rc<Self>, request: DomainRequest) -> Result<Reply> {
        match request {
            DomainRequest::Create(new) => self.create_domain(new),
            DomainRequest::List => Ok(reply(Answer::Domains(self.domain_reports()))),
            DomainRequest::Show { domain } => {
                let place = self.place(&domain)?;
                let key = Key::Domain(place.domain.clone());
                let work = Work::Look {
                    place: place.clone(),
                };
                let answer = self.workers.work(&key, work, READ_DEADLINE).await?;
                let Answer::Domain(mut seen) = answer else {
                    return Ok(reply(answer));
                };
                self.place_state(&mut seen);
                if let Some(known) = self.domains.borrow().get(&place.domain) {
                    let watched = known.report();
                    seen.connection = seen.connection.or(watched.connection);
                    seen.host_id = watched.host_id;
                    seen.last_check_age_ms = watched.last_check_age_ms;
                    seen.read_delay_us = seen.read_delay_us.or(watched.read_delay_us);
                    seen.valid = seen.valid.or(watched.valid);
                }
                Ok(reply(Answer::Domain(seen)))
            }
            DomainRequest::Attach { domain } => {
                let place = self.place(&domain)?;
                let pool = self.pool_context()?;
                let key = self.writer(&pool.master)?;
                let work = Work::Attach {
                    pool,
                    place: place.clone(),
                };
                Ok(self.change_domain("attach domain", &place, key, work))
            }
            DomainRequest::Detach { domain, force } => {
                let place = self.place(&domain)?;
                let (pool, key) = self.pool_and_writer(&place, force)?;
                let work = Work::Detach {
                    pool,
                    place: place.clone(),
                    force,
                };
                Ok(self.change_domain("detach domain", &place, key, work))
            }
            DomainRequest::Activate { domain } => self.set_status(&domain, true),
            DomainRequest::Deactivate { domain } => self.set_status(&domain, false),
            DomainRequest::MigrateMaster { domain } => {
                let target = self.place(&domain)?;
                let pool = self.pool_context()?;
                let key = self.writer(&pool.master)?;
                let work = Work::MigrateMaster {
                    pool,
                    target: target.clone(),
                };
                Ok(self.change_domain("migrate master", &target, key, work))
            }
            DomainRequest::Reconstruct { domain } => self.reconstruct(&domain),
            DomainRequest::Upgrade { domain, version } => {
                let place = self.place(&domain)?;
                let key = self.writer(&place)?;
                let work = Work::Upgrade {
                    place: place.clone(),
                    version,
                };
                Ok(self.change_domain("upgrade domain", &place, key, work))
            }
            DomainRequest::Extend {
                domain,
                luns,
                force,
            } => {
                check_luns(&luns)?;
                let place = self.place(&domain)?;
                let key = self.writer(&place)?;
                let work = Work::ExtendDomain {
                    place: place.clone(),
                    luns,
                    force,
                };
                Ok(self.change_domain("extend domain", &place, key, work))
            }
            DomainRequest::Grow { domain, lun } => {
                let place = self.place(&domain)?;
                let key = self.writer(&place)?;
                let work = Work::Grow {
                    place: place.clone(),
                    lun,
                };
                Ok(self.change_domain("grow domain", &place, key, work))
            }
            DomainRequest::Reduce { domain, lun } => {
                let place = self.place(&domain)?;
                let key = self.writer(&place)?;
                let work = Work::Reduce {
                    place: place.clone(),
                    lun,
                };
                Ok(self.change_domain("reduce domain", &place, key, work))
            }
            DomainRequest::Remove { domain } => self.remove_domain(&domain),
        }
    }

    fn set_status(self: &Rc<Self>, domain: &str, active: bool) -> Result<Reply> {
        let place = self.place(domain)?;
        let pool = self.pool_context()?;
        let key = self.writer(&pool.master)?;
        let what = if active {
            "activate domain"
        } else {
            "deactivate domain"
        };
        let work = Work::SetStatus {
            pool,
            place: place.clone(),
            active,
        };
        Ok(self.change_domain(what, &place, key, work))
    }

    fn pool_and_writer(&self, place: &Place, force: bool) -> Result<(PoolContext, Key)> {
        match self.pool_context() {
            Ok(pool) => {
                let key = self.writer(&pool.master)?;
                Ok((pool, key))
            }
            // Without the pool nobody holds a role: the domain's own lease is taken.
            Err(_) if force => {
                let pool = self
                    .domains
                    .borrow()
                    .get(&place.domain)
                    .and_then(|known| known.report.pool.clone());
                let config = self.config.borrow();
                let context = PoolContext {
                    pool: pool.unwrap_or_default(),
                    name: String::new(),
                    host_id: config.host_id.max(1),
                    master: place.clone(),
                    master_version: None,
                    manager: config.manager,
                    domains: vec![place.clone()],
                };
                Ok((context, Key::Writer(Some(place.domain.clone()))))
            }
            Err(failure) => Err(failure),
        }
    }

    /// A change after which the pool and the domain are read again.
    fn change_domain(self: &Rc<Self>, what: &str, place: &Place, key: Key, work: Work) -> Reply {
        let after = after_change(place.domain.clone());
        self.start_task(what, Some(place.domain.clone()), Some(key), work, after)
    }

    /// Reads a domain and the pool again.
    async fn look_again(self: &Rc<Self>, domain: &str) {
        let connection = {
            let domains = self.domains.borrow();
            domains
                .get(domain)
                .and_then(|known| known.report.connection.clone())
        };
        match connection {
            Some(id) => self.find_on(&id).await,
            None => {
                if let Err(failure) = self.find_block(None).await {
                    tracing::warn!("looking for domains: {failure}");
                }
            }
        }
        if self.pool.borrow().is_some()
            && let Err(failure) = self.refresh_pool().await
        {
            tracing::warn!("pool: {failure}");
        }
    }

    fn create_domain(self: &Rc<Self>, mut new: NewDomain) -> Result<Reply> {
        check_text("name", &new.name)?;
        if new.name.is_empty() {
            return Err(bad("name: is empty"));
        }
        let id = match &new.id {
            Some(id) => id
                .parse::<DomainId>()
                .map_err(|_| not_uuid("domain", id))?
                .to_string(),
            None => super::random_uuid()?,
        };
        if self.domains.borrow().contains_key(&id) {
            return Err(Failure::new(
                FailureKind::Exists,
                format!("domain {id}: exists already"),
            ));
        }
        new.id = Some(id.clone());
        let (mount, local, connection) = match &new.place {
            NewPlace::Block { luns } => {
                check_luns(luns)?;
                let connections = self.connections.borrow();
                let iscsi = connections
                    .values()
                    .map(|kept| &kept.connection)
                    .find(|connection| matches!(connection, Connection::Iscsi { .. }));
                (None, false, iscsi.cloned())
            }
            NewPlace::File { connection } => {
                let connections = self.connections.borrow();
                let kept = connections
                    .get(connection)
                    .ok_or_else(|| connections::unknown(connection))?;
                let path = kept.path.clone().ok_or_else(|| {
                    Failure::new(
                        FailureKind::WrongState,
                        format!(
                            "{connection}: {} ({}); a domain of files needs one that is mounted",
                            kept.state,
                            kept.reason.as_deref().unwrap_or("it has no directory")
                        ),
                    )
                })?;
                let local = matches!(kept.connection, Connection::Local { .. });
                (Some(path), local, Some(kept.connection.clone()))
            }
        };
        let found_on = connection.as_ref().map(Connection::id);
        let work = Work::Create {
            new,
            mount,
            local,
            connection,
        };
        let after: After = Box::new(move |daemon, _| {
            Box::pin(async move {
                if let Some(id) = found_on {
                    daemon.find_on(&id).await;
                }
            })
        });
        Ok(self.start_task("create domain", Some(id), None, work, after))
    }

    fn remove_domain(self: &Rc<Self>, domain: &str) -> Result<Reply> {
        let place = self.place(domain)?;
        let used = {
            let domains = self.domains.borrow();
            domains
                .get(&place.domain)
                .and_then(|known| known.report.pool.clone())
        };
        if let Some(pool) = used {
            return Err(Failure::new(
                FailureKind::InUse,
                format!(
                    "domain {}: attached to pool {pool}; detach it first",
                    place.domain
                ),
            ));
        }
        let work = Work::RemoveDomain {
            place: place.clone(),
        };
        let id = place.domain.clone();
        let after: After = Box::new(move |daemon, outcome| {
            if outcome.is_ok() {
                daemon.domains.borrow_mut().remove(&id);
            }
            nothing()
        });
        Ok(self.start_task("remove domain", Some(place.domain), None, work, after))
    }

    fn reconstruct(self: &Rc<Self>, domain: &str) -> Result<Reply> {
        let place = self.place(domain)?;
        if self.role.borrow().here {
            return Err(Failure::new(
                FailureKind::WrongState,
                "this host is the pool's manager: `domain migrate-master` while the old master can be read, else `spm stop` first",
            ));
        }
        let wanted = self.wanted.borrow().clone().ok_or_else(|| {
            Failure::new(
                FailureKind::WrongState,
                "this host is in no pool: its configuration must name the pool whose master is to be made anew",
            )
        })?;
        let config_manager = self.config.borrow().manager;
        let domains = {
            let domains = self.domains.borrow();
            domains
                .values()
                .filter(|known| known.report.pool.as_deref() == Some(&wanted.pool))
                .map(|known| known.place.clone())
                .collect()
        };
        let pool = PoolContext {
            pool: wanted.pool.clone(),
            name: String::new(),
            host_id: wanted.host_id,
            master: place.clone(),
            master_version: None,
            manager: config_manager,
            domains,
        };
        let id = place.domain.clone();
        let after: After = Box::new(move |daemon, outcome| {
            if outcome.is_ok() {
                *daemon.pool.borrow_mut() = None;
                if let Some(wanted) = daemon.wanted.borrow_mut().as_mut() {
                    wanted.master = wanted.master.as_ref().map(|_| id.clone());
                }
            }
            Box::pin(async move { daemon.look_again(&id).await })
        });
        let key = Key::Writer(Some(place.domain.clone()));
        Ok(self.start_task(
            "reconstruct master",
            Some(place.domain),
            Some(key),
            Work::Reconstruct { pool },
            after,
        ))
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
            | VolumeRequest::Merge { volume }
            | VolumeRequest::Set { volume, .. }
            | VolumeRequest::LeaseShow { volume } => (volume.domain.clone(), None),
            VolumeRequest::Copy { source, target } | VolumeRequest::Template { source, target } => {
                (source.domain.clone(), Some(target.domain.clone()))
            }
            VolumeRequest::Watch { .. } | VolumeRequest::Unwatch { .. } => {
                return Err(Failure::new(
                    FailureKind::Unsupported,
                    "watching drives: not in this version",
                ));
            }
        };
        let place = self.place(&name)?;
        let target = target.map(|name| self.place(&name)).transpose()?;
        let reads = matches!(
            request,
            VolumeRequest::List { .. }
                | VolumeRequest::Show { .. }
                | VolumeRequest::Prepare { .. }
                | VolumeRequest::Teardown { .. }
                | VolumeRequest::LeaseShow { .. }
        );
        let long = !reads
            && !matches!(
                request,
                VolumeRequest::Extend { .. } | VolumeRequest::Set { .. }
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
            None => super::random_uuid()?,
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

fn after_change(domain: String) -> After {
    Box::new(move |daemon, _| Box::pin(async move { daemon.look_again(&domain).await }))
}

fn reply(answer: Answer) -> Reply {
    Reply::Answer(Box::new(answer))
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::BadRequest, message)
}

fn not_uuid(what: &str, text: &str) -> Failure {
    let shown: String = text.chars().take(60).collect();
    bad(format!(
        "{what} {shown:?}: must be a UUID in lower case, 8-4-4-4-12 digits"
    ))
}

fn check_text(what: &str, text: &str) -> Result<()> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(bad(format!(
            "{what}: {} bytes, longest allowed is {TEXT_BYTES_MAX}",
            text.len()
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(bad(format!("{what}: has control characters")));
    }
    Ok(())
}

fn check_luns(luns: &[String]) -> Result<()> {
    if luns.is_empty() || luns.len() > LUNS_MAX {
        return Err(bad(format!("{} LUNs: must be 1 to {LUNS_MAX}", luns.len())));
    }
    for lun in luns {
        check_text("LUN", lun)?;
        if lun.is_empty() || lun.starts_with('-') {
            return Err(bad(format!("LUN {lun:?}: a map name or a path is needed")));
        }
    }
    Ok(())
}

/// Refuses what cannot be right, and makes ids that were left out, so that a
/// task that is repeated after a crash means the same volume.
fn check_volume_request(request: &mut VolumeRequest) -> Result<()> {
    let image = |id: &str| {
        id.parse::<ImageId>()
            .map(drop)
            .map_err(|_| not_uuid("image", id))
    };
    let volume = |id: &str| {
        id.parse::<VolumeId>()
            .map(drop)
            .map_err(|_| not_uuid("volume", id))
    };
    let make = |id: &mut Option<String>| -> Result<()> {
        if id.is_none() {
            *id = Some(super::random_uuid()?);
        }
        Ok(())
    };
    match request {
        VolumeRequest::Create(new) => {
            make(&mut new.image)?;
            make(&mut new.volume)?;
            check_text("description", &new.description)?;
            for id in [&new.image, &new.parent_image].into_iter().flatten() {
                image(id)?;
            }
            for id in [&new.volume, &new.parent].into_iter().flatten() {
                volume(id)?;
            }
            if new.parent.is_none() && new.capacity_bytes == 0 {
                return Err(bad(
                    "capacity: 0 bytes; a volume without a parent needs one",
                ));
            }
        }
        VolumeRequest::List { image: of, .. } => {
            if let Some(of) = of {
                image(of)?;
            }
        }
        VolumeRequest::DeleteImage { image: of, .. }
        | VolumeRequest::Teardown { image: of, .. } => {
            image(of)?;
        }
        VolumeRequest::Prepare {
            image: of, leaf, ..
        } => {
            image(of)?;
            if let Some(leaf) = leaf {
                volume(leaf)?;
            }
        }
        VolumeRequest::Snapshot {
            image: of,
            volume: new,
            ..
        } => {
            image(of)?;
            make(new)?;
            if let Some(new) = new {
                volume(new)?;
            }
        }
        VolumeRequest::Copy { source, target } | VolumeRequest::Template { source, target } => {
            image(&source.image)?;
            volume(&source.volume)?;
            make(&mut target.image)?;
            make(&mut target.volume)?;
            for id in target.image.iter() {
                image(id)?;
            }
            for id in target.volume.iter() {
                volume(id)?;
            }
        }
        VolumeRequest::Set {
            volume: name,
            description,
            ..
        } => {
            image(&name.image)?;
            volume(&name.volume)?;
            if let Some(description) = description {
                check_text("description", description)?;
            }
        }
        VolumeRequest::Extend {
            volume: name,
            capacity_bytes,
            size_bytes,
        } => {
            image(&name.image)?;
            volume(&name.volume)?;
            if capacity_bytes.is_none() && size_bytes.is_none() {
                return Err(bad("extend: neither a capacity nor a size is given"));
            }
        }
        VolumeRequest::Show { volume: name }
        | VolumeRequest::Shrink { volume: name }
        | VolumeRequest::Delete { volume: name, .. }
        | VolumeRequest::Merge { volume: name }
        | VolumeRequest::LeaseShow { volume: name } => {
            image(&name.image)?;
            volume(&name.volume)?;
        }
        VolumeRequest::Watch { qmp, drives } => {
            check_text("QMP socket", qmp)?;
            if drives.is_empty() || drives.len() > 128 {
                return Err(bad(format!("{} drives: must be 1 to 128", drives.len())));
            }
            for drive in drives {
                image(&drive.volume.image)?;
                volume(&drive.volume.volume)?;
            }
        }
        VolumeRequest::Unwatch { qmp } => check_text("QMP socket", qmp)?,
    }
    Ok(())
}

/// VmRSS of this process.
fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string(PathBuf::from("/proc/self/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}
