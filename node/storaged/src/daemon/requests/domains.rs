//! Requests about domains.

use std::rc::Rc;

use control::storage::connection::Connection;
use control::storage::request::{DomainRequest, NewDomain, NewPlace};
use control::storage::{Answer, Failure, FailureKind, Reply};
use disk_format::vdsm::uuid::DomainId;

use super::checks::{bad, check_lun, check_luns, check_shape, check_text, not_uuid};
use super::{READ_DEADLINE, reply};
use crate::daemon::tasks::{After, nothing};
use crate::daemon::workers::Key;
use crate::daemon::{Daemon, connections};
use crate::job::Result;
use crate::worker::work::{Place, PoolContext, Work};

impl Daemon {
    pub(super) async fn answer_domain(self: &Rc<Self>, request: DomainRequest) -> Result<Reply> {
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
                    seen.stats = watched.stats;
                }
                self.paths.tell_domain(&mut seen);
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
                check_lun(&lun)?;
                let place = self.place(&domain)?;
                let key = self.writer(&place)?;
                let work = Work::Grow {
                    place: place.clone(),
                    lun,
                };
                Ok(self.change_domain("grow domain", &place, key, work))
            }
            DomainRequest::Reduce { domain, lun } => {
                check_lun(&lun)?;
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

    /// Converts the pool's active domains that are older, the master first.
    pub(super) fn upgrade_pool(self: &Rc<Self>, version: u8) -> Result<Reply> {
        if !matches!(version, 4 | 5) {
            return Err(bad(format!(
                "domain version {version}: allowed are 4 and 5"
            )));
        }
        let pool = self.pool_context()?;
        let key = self.writer(&pool.master)?;
        let master = pool.master.domain.clone();
        let places: Vec<Place> = {
            let domains = self.domains.borrow();
            let older = |place: &&Place| {
                domains.get(&place.domain).is_some_and(|known| {
                    let report = &known.report;
                    report.state == "active" && report.class == "data" && report.version < version
                })
            };
            let (mut first, mut others): (Vec<Place>, Vec<Place>) = pool
                .domains
                .iter()
                .filter(older)
                .cloned()
                .partition(|place| place.domain == master);
            first.append(&mut others);
            first
        };
        if places.is_empty() {
            return Ok(reply(Answer::Done {
                message: format!("every active domain of the pool has version {version} or newer"),
            }));
        }
        let work = Work::UpgradePool { places, version };
        Ok(self.start_task(
            "upgrade pool",
            Some(master.clone()),
            Some(key),
            work,
            Box::new(move |daemon, _| {
                Box::pin(async move {
                    daemon.find_everywhere().await;
                    daemon.look_again(&master).await;
                })
            }),
        ))
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
    pub(super) async fn look_again(self: &Rc<Self>, domain: &str) {
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
        check_shape(&new)?;
        let id = match &new.id {
            Some(id) => id
                .parse::<DomainId>()
                .map_err(|_| not_uuid("domain", id))?
                .to_string(),
            None => crate::random::uuid()?,
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
                (None, false, None)
            }
            NewPlace::File { connection: id } => {
                let kept = self.connections.kept();
                let (Some(connection), Some(report)) = (kept.connection(id), kept.report(id))
                else {
                    return Err(connections::unknown(id));
                };
                let path = kept.path(id).ok_or_else(|| {
                    Failure::new(
                        FailureKind::WrongState,
                        format!(
                            "{id}: {} ({}); a domain of files needs one that is mounted",
                            report.state,
                            report.reason.as_deref().unwrap_or("it has no directory")
                        ),
                    )
                })?;
                let local = matches!(connection, Connection::Local { .. });
                (Some(path.to_owned()), local, Some(connection.clone()))
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
                } else if let Err(failure) = daemon.find_block(None).await {
                    tracing::warn!("looking for domains: {failure}");
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
}

fn after_change(domain: String) -> After {
    Box::new(move |daemon, _| Box::pin(async move { daemon.look_again(&domain).await }))
}
