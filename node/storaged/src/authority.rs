//! The right to change a domain's metadata.
//!
//! LVM has no lock of its own across hosts here, so a second writer means two
//! volumes on one extent (VDSM storage specification §1.9). Every function that
//! changes what other hosts read takes an [`Authority`] and asks it immediately
//! before each change.

use std::os::fd::BorrowedFd;

use control::storage::{Failure, FailureKind};

/// Proof that this process may change the metadata of a domain.
pub trait Authority {
    /// Succeeds while the lease that guards the metadata of `domain` (its UUID
    /// as text) is proved held by this process.
    ///
    /// # Errors
    ///
    /// [`FailureKind::LeaseNotHeld`] when it is not, or cannot be told.
    fn check(&self, domain: &str) -> Result<(), Failure>;

    /// The connection that registered this process at the lease daemon. Every
    /// child that writes inherits it: the daemon sees the holder as gone, and the
    /// lease as free, only when the last of them is.
    fn registration(&self) -> Option<BorrowedFd<'_>>;

    /// Told before long work that changes no metadata (copying, wiping): where
    /// the lease is only taken for commits, it is given back until the next
    /// [`Authority::check`]. No child that writes metadata may be running.
    fn rest(&self, domain: &str) {
        let _: &str = domain;
    }
}

/// For a domain that no pool has yet: nobody else may know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unattached {
    /// The domain being made, or taken to pieces, by this process alone.
    pub domain: String,
}

impl Authority for Unattached {
    fn check(&self, domain: &str) -> Result<(), Failure> {
        if domain == self.domain {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::LeaseNotHeld,
            format!(
                "domain {domain}: no lease for it, only domain {} is being made",
                self.domain
            ),
        ))
    }

    fn registration(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
