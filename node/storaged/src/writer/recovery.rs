//! What the manager before left: half-made volumes, removals that were begun,
//! tasks that had not ended.

mod account;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::task::{Recovery, Task};
use disk_format::vdsm::uuid::{DomainId, VolumeId};
use disk_format::vdsm::volume::Legality;
use sanlock_client::Client;

pub(super) use account::Account;
use account::Sum;

use super::PoolAuthority;
use super::tracking::COPY_ROLLBACK;
use crate::domain::{Domain, DomainKind, EntryState, VolumeEntry};
use crate::image::leases::{DaemonLeases, LeaseName, Leases, NoLeases};
use crate::image::wipe::{Disposal, resume_wipes};
use crate::image::{self, borrow, delete};
use crate::job::{Context, Result};
use crate::layout::Layout;
use crate::pool::{BESIDE, Manager, each};
use crate::task::{Recovered, Store, recover};
use crate::worker::work::Settings;

/// Hosts that new leases have room for.
const HOSTS_MAX: u32 = 250;

/// Removes what is half-made in every domain of the pool. Only while nothing is
/// being made.
pub(super) fn remove_half_made(manager: &Manager) {
    let authority = manager.authority().clone();
    // A list that comes late may hold what is being made by then.
    let late = Arc::<AtomicBool>::default();
    let too_late = Arc::clone(&late);
    each(all(manager), BESIDE, move |domain| {
        let removed = domain.volumes().and_then(|volumes| {
            if too_late.load(Ordering::SeqCst) {
                return Err(Failure::new(FailureKind::Timeout, "listed too late"));
            }
            volumes
                .into_iter()
                .filter(|entry| entry.state == EntryState::HalfMade)
                .try_for_each(|entry| {
                    tracing::info!(domain = %domain.id(), volume = %entry.id, "half-made volume");
                    domain.remove(&authority, &entry)
                })
        });
        if let Err(failure) = removed {
            tracing::warn!(domain = %domain.id(), %failure, "half-made volumes left");
        }
    });
    late.store(true, Ordering::SeqCst);
}

fn all(manager: &Manager) -> Vec<Arc<dyn Domain>> {
    std::iter::once(manager.master())
        .chain(manager.others())
        .map(Arc::clone)
        .collect()
}

/// The rest, beside the manager's work.
pub(super) struct Cleaning {
    account: Arc<Account>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaning {
    /// Begins; without a thread for it the next manager does it.
    pub(super) fn start(
        manager: &Manager,
        settings: &Settings,
        account: Arc<Account>,
    ) -> Option<Self> {
        let files = manager.files()?;
        let room = Room {
            store: Store::new(files.tasks(), manager.master().id().to_string()),
            authority: manager.authority().clone(),
            domains: all(manager),
            layout: settings.layout.clone(),
            io_timeout_s: settings.io_timeout_s,
            growth: crate::thin::policy(&settings.thin),
            disposal: Disposal::of(&settings.giving_back),
        };
        let mine = Arc::clone(&account);
        let thread = std::thread::Builder::new()
            .name("recovery".to_owned())
            .spawn(move || mine.close(room.clean(&mine)))
            .ok();
        Some(Self { account, thread })
    }

    /// Ends it between two steps; returns when it has.
    pub(super) fn end(mut self) {
        self.account.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Dropped without an end, as at a crash: it ends by itself.
impl Drop for Cleaning {
    fn drop(&mut self) {
        self.account.cancel();
    }
}

struct Room {
    store: Store,
    authority: PoolAuthority,
    domains: Vec<Arc<dyn Domain>>,
    layout: Layout,
    io_timeout_s: u32,
    growth: thin::Policy,
    disposal: Disposal,
}

impl Room {
    fn clean(&self, account: &Arc<Account>) -> Result<String> {
        let mut sum = Sum::default();
        let context = account.context("");
        let mut undo = |_: &Task, step: &Recovery| self.undo(&context, step);
        match recover(&context, &self.store, &self.authority, &mut undo) {
            Ok(tasks) => {
                for task in tasks {
                    match task {
                        Recovered::Kept(_) => {}
                        Recovered::Undone(id) => {
                            tracing::info!(task = %id, "task undone");
                            sum.undone += 1;
                        }
                        Recovered::Failed(id, failure) => {
                            tracing::warn!(task = %id, %failure, "task not undone");
                            sum.left.push(format!("task {id}: {failure}"));
                        }
                    }
                }
            }
            Err(failure) if failure.kind == FailureKind::Cancelled => return Err(failure),
            Err(failure) => {
                tracing::warn!(%failure, "tasks not recovered");
                sum.left.push(format!("tasks: {failure}"));
            }
        }
        for domain in &self.domains {
            let context = account.context(&format!(", domain {}", domain.id()));
            let done = self.on(&context, domain.as_ref(), |work| {
                borrow::let_go_of_left(work.domain, work.layout)?;
                let collected = resume_wipes(work, self.disposal)?;
                Ok((collected, domain.sweep(&self.authority)?))
            });
            match done {
                Ok((collected, swept)) => sum.add(&collected, swept),
                Err(failure) if failure.kind == FailureKind::Cancelled => return Err(failure),
                Err(failure) => {
                    tracing::warn!(domain = %domain.id(), %failure, "removals not finished");
                    sum.left.push(format!("domain {}: {failure}", domain.id()));
                }
            }
            if !sum.is_empty() {
                account.begin();
            }
        }
        sum.words()
    }

    fn on<T>(
        &self,
        context: &Context,
        domain: &dyn Domain,
        run: impl FnOnce(&image::Work<'_>) -> Result<T>,
    ) -> Result<T> {
        let leases: Box<dyn Leases> = if domain.kind() == DomainKind::Local {
            Box::new(NoLeases)
        } else {
            let client = Client::new(&self.layout.sanlock);
            Box::new(DaemonLeases::new(client, HOSTS_MAX, self.io_timeout_s))
        };
        run(&image::Work {
            context,
            domain,
            authority: &self.authority,
            leases: leases.as_ref(),
            layout: &self.layout,
            growth: self.growth,
        })
    }

    /// Undoes one step of a task: of ours, or of the original's where it is known.
    fn undo(&self, context: &Context, step: &Recovery) -> Result<()> {
        match step.function.as_str() {
            // Half-made volumes went before this manager began.
            "startCreateVolumeRollback" | "halfbakedVolumeRollback" => Ok(()),
            "createVolumeRollback" => self.remove_volume(context, step),
            other => Err(Failure::new(
                FailureKind::Unsupported,
                format!("recovery step {other}: not known here, left to a manager that knows it"),
            )),
        }
    }

    /// Removes the volume that a task had made: repository, domain, image,
    /// volume, directory.
    fn remove_volume(&self, context: &Context, step: &Recovery) -> Result<()> {
        let param = |index: usize| step.params.get(index).map_or("", String::as_str);
        let bad = |error: &dyn std::fmt::Display| {
            Failure::new(FailureKind::Damaged, format!("recovery step: {error}"))
        };
        let id: DomainId = param(1).parse().map_err(|error| bad(&error))?;
        let volume: VolumeId = param(3).parse().map_err(|error| bad(&error))?;
        let found = self.domains.iter().find(|domain| domain.id() == id);
        let domain = found.ok_or_else(|| {
            Failure::new(
                FailureKind::NotFound,
                format!("domain {id}: not connected, its task is left"),
            )
        })?;
        let entry = match domain.volume(volume) {
            Err(failure) if failure.kind == FailureKind::NotFound => return Ok(()),
            other => other?,
        };
        self.on(context, domain.as_ref(), |work| {
            if step.name == COPY_ROLLBACK && !release_copy(work, &entry)? {
                return Ok(());
            }
            delete::delete_volume(work, volume, self.disposal)
        })
    }
}

/// Lets go of the target of a copy that did not end, so that it can be removed;
/// false when it is legal, and so whole.
fn release_copy(work: &image::Work<'_>, entry: &VolumeEntry) -> Result<bool> {
    match work.domain.volume_metadata(entry) {
        Ok(metadata) if metadata.legality == Legality::Legal => return Ok(false),
        Ok(_) => {}
        // Nobody could have used it.
        Err(failure) if failure.kind == FailureKind::Damaged => {}
        Err(failure) => return Err(failure),
    }
    // Whoever may still write into it, on whatever host, holds its lease.
    let lease = LeaseName::of_entry(work.domain, entry);
    match work.leases.acquire(&lease) {
        Ok(held) => drop(held),
        // It has none yet, so nobody has begun to write.
        Err(failure) if failure.kind == FailureKind::Damaged => {}
        Err(failure) => return Err(failure),
    }
    // Prepared by the copy itself, if at all: a guest gets no image that is illegal.
    borrow::let_go_of_left(work.domain, work.layout)?;
    Ok(true)
}
