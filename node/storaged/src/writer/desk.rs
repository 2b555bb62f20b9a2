//! Commits of the mail: apart from the role, which is busy while it changes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use control::storage::FailureKind;
use disk_format::vdsm::uuid::{DomainId, VolumeId};
use mailbox::{Batch, Committed};

use super::PoolAuthority;
use crate::command::left_writing;
use crate::domain::Domain;
use crate::job::Context;
use crate::mail::{MailPlace, ManagerMail};
use crate::pool::Manager;

/// Bytes of a MiB.
pub(super) const MIB: u64 = 1 << 20;

/// What a commit needs.
pub(super) struct Desk {
    state: Mutex<Known>,
    /// Opens a block domain of the pool that was connected after the role was taken.
    adopt: Adopt,
    /// Volumes made larger since the role was taken.
    extended: AtomicU64,
    told: Told,
}

/// The right to commit, and the domains it covers.
type Known = (PoolAuthority, BTreeMap<DomainId, Arc<dyn Domain>>);

/// Takes how many volumes the role has made larger so far.
pub(super) type Told = Box<dyn Fn(u64) + Send + Sync>;

/// Opens a domain that mail is about, if it is one of the pool.
pub(super) type Adopt = Box<dyn Fn(DomainId) -> Option<Arc<dyn Domain>> + Send + Sync>;

impl Desk {
    /// Of a manager as it is now. `told` is called after each commit.
    pub(super) fn of(manager: &Manager, adopt: Adopt, told: Told) -> Arc<Self> {
        let desk = Arc::new(Self {
            state: Mutex::new((manager.authority().clone(), BTreeMap::new())),
            adopt,
            extended: AtomicU64::new(0),
            told,
        });
        desk.fill(manager);
        desk
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings it up to the manager's domains and authority.
    pub(super) fn fill(&self, manager: &Manager) {
        let domains = std::iter::once(manager.master())
            .chain(manager.others())
            .map(|domain| (domain.id(), Arc::clone(domain)))
            .collect();
        *self.lock() = (manager.authority().clone(), domains);
    }

    /// Volumes made larger since the role was taken.
    pub(super) fn extended(&self) -> u64 {
        self.extended.load(Ordering::Relaxed)
    }

    fn count(&self, more: u64) {
        if more > 0 {
            let before = self.extended.fetch_add(more, Ordering::Relaxed);
            (self.told)(before.saturating_add(more));
        }
    }

    /// A domain that nobody told the manager of.
    fn take_in(&self, id: DomainId) -> Option<Arc<dyn Domain>> {
        let domain = (self.adopt)(id)?;
        let mut state = self.lock();
        state.0.add(id);
        state.1.insert(id, Arc::clone(&domain));
        Some(domain)
    }

    /// One commit for all volumes of a batch.
    fn commit(&self, batch: &Batch) -> Vec<Committed> {
        let (authority, domain) = {
            let state = self.lock();
            (state.0.clone(), state.1.get(&batch.domain).map(Arc::clone))
        };
        let Some(domain) = domain.or_else(|| self.take_in(batch.domain)) else {
            tracing::warn!(domain = %batch.domain, "mail for a domain that is not in the pool");
            return vec![Committed::Refused; batch.extends.len()];
        };
        let requests: Vec<(VolumeId, u64)> = batch
            .extends
            .iter()
            .map(|extend| (extend.volume, u64::from(extend.size_mib) * MIB))
            .collect();
        let before = left_writing();
        match domain.extend_many(&Context::quiet(), &authority, &requests) {
            Ok(results) => results
                .into_iter()
                .zip(&requests)
                .map(|(result, (volume, _))| match result {
                    Ok(_) => Committed::Done,
                    Err(failure) if is_sure(failure.kind) => {
                        tracing::warn!(%volume, %failure, "volume not extended");
                        Committed::Refused
                    }
                    Err(failure) => {
                        tracing::warn!(%volume, %failure, "volume extended or not");
                        Committed::Unknown
                    }
                })
                .collect(),
            Err(failure) if left_writing() > before => {
                // What hangs in the kernel may still write. It keeps the lease, by
                // the connection it inherited, and nobody may write beside it.
                tracing::error!(domain = %batch.domain, %failure, "a commit hangs");
                authority.hangs();
                Vec::new()
            }
            Err(failure) => {
                tracing::warn!(domain = %batch.domain, %failure, "commit failed");
                let each = if is_sure(failure.kind) {
                    Committed::Refused
                } else {
                    Committed::Unknown
                };
                vec![each; requests.len()]
            }
        }
    }
}

/// Whether a failure proves that nothing was done.
fn is_sure(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::NoSpace
            | FailureKind::NotFound
            | FailureKind::WrongState
            | FailureKind::BadRequest
            | FailureKind::LeaseNotHeld
    )
}

/// The mail of a manager, on its present master.
pub(super) fn mail(manager: &Manager, desk: &Arc<Desk>) -> std::io::Result<ManagerMail> {
    let place = manager
        .has_mail()
        .then(|| MailPlace::of(manager.master().as_ref()));
    let desk: Weak<Desk> = Arc::downgrade(desk);
    let counter = Weak::clone(&desk);
    ManagerMail::start(
        place.as_ref(),
        Arc::new(move |batch| match desk.upgrade() {
            Some(desk) => desk.commit(batch),
            None => Vec::new(),
        }),
        Arc::new(move |more| {
            if let Some(desk) = counter.upgrade() {
                desk.count(more);
            }
        }),
    )
}
