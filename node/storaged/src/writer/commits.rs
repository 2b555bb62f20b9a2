//! A manager per domain: the domain's own lease, only for commits.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};

use super::cluster::Cluster;
use super::held::Held;
use super::lock::LockPlace;
use crate::authority::Authority;
use crate::job::{Context, Result};

/// First pause while another host commits; grows to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(20);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(60);

/// The right to change one domain, taken with the first check after each rest.
#[derive(Debug)]
pub struct Commits {
    cluster: Cluster,
    held: Held,
    taken: Mutex<bool>,
    patience: Duration,
    context: Context,
}

impl Commits {
    /// For the domain at `place`, whose lockspace is joined. A lease that another
    /// host holds is waited for up to `patience`.
    ///
    /// # Errors
    /// No lease daemon.
    pub fn new(
        cluster: &Cluster,
        place: &LockPlace,
        patience: Duration,
        context: &Context,
    ) -> Result<Self> {
        let (held, taken) = if place.local {
            (Held::local(place)?, true)
        } else {
            let registered = cluster.register(place)?;
            let held = Held::registered(place.clone(), place.sdm()?, registered)?;
            (held, false)
        };
        Ok(Self {
            cluster: cluster.clone(),
            held,
            taken: Mutex::new(taken),
            patience,
            context: context.clone(),
        })
    }

    /// Gives the lease back, for good.
    ///
    /// # Errors
    /// The outcome is not known: only the end of this process gives it back.
    pub fn finish(self) -> Result<()> {
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken { self.held.release() } else { Ok(()) }
    }

    fn take(&self) -> Result<()> {
        let start = Instant::now();
        let mut pause = PAUSE;
        loop {
            let Err(error) = self.held.acquire(true, ATTEMPT) else {
                return Ok(());
            };
            let refusal = self.cluster.refused(self.held.place(), &error);
            if refusal.kind != FailureKind::InUse {
                return Err(refusal);
            }
            if start.elapsed() >= self.patience {
                return Err(refusal.while_doing(format_args!(
                    "no commit within {} s",
                    self.patience.as_secs()
                )));
            }
            self.context.go_on()?;
            std::thread::park_timeout(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Authority for Commits {
    fn check(&self, domain: &str) -> Result<()> {
        if domain != self.held.domain().to_string() {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!(
                    "domain {domain}: commits of domain {} only",
                    self.held.domain()
                ),
            ));
        }
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !*taken {
            self.take()?;
            *taken = true;
        }
        self.held.check()
    }

    fn registration(&self) -> Option<BorrowedFd<'_>> {
        Some(self.held.registration())
    }

    fn rest(&self, _domain: &str) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !*taken || self.held.place().local {
            return;
        }
        match self.held.let_go() {
            Ok(()) => *taken = false,
            // It stays taken: the next check asks, and the end of the process
            // gives it back at the latest.
            Err(failure) => tracing::warn!(%failure, "lease kept between commits"),
        }
    }
}
