//! What a worker knows of its host: domains it has opened, LVM, the lease daemon.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::DomainId;
use sanlock_client::Client;

use super::work::{Carrier, Place, Settings};
use crate::authority::Authority;
use crate::block::BlockDomain;
use crate::connect::Places;
use crate::domain::Domain;
use crate::file::FileDomain;
use crate::image;
use crate::image::leases::{DaemonLeases, Leases, NoLeases};
use crate::job::{Context, Result};
use crate::lvm::{Lvm, LvmEnv};
use crate::writer::Cluster;

/// A domain that is open in this process. Everybody in it uses the same object:
/// slots are set aside in it before they are written.
#[derive(Debug, Clone)]
pub enum Opened {
    /// A volume group.
    Block(Arc<BlockDomain>),
    /// A directory.
    File(Arc<FileDomain>),
}

impl Opened {
    /// What both have in common.
    #[must_use]
    pub fn domain(&self) -> Arc<dyn Domain> {
        match self {
            Self::Block(domain) => Arc::clone(domain) as Arc<dyn Domain>,
            Self::File(domain) => Arc::clone(domain) as Arc<dyn Domain>,
        }
    }
}

/// This host as a worker knows it.
#[derive(Debug)]
pub struct Host {
    /// What the daemon said.
    pub settings: Settings,
    /// Runs LVM.
    pub lvm: Arc<Lvm>,
    opened: Mutex<HashMap<Place, Opened>>,
}

impl Host {
    /// With nothing open.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let layout = settings.layout.clone();
        let env = if settings.devices.is_empty() {
            LvmEnv::node(layout)
        } else {
            LvmEnv::metadata_only(layout, settings.devices.clone())
        };
        Self {
            settings,
            lvm: Arc::new(Lvm::new(env)),
            opened: Mutex::default(),
        }
    }

    /// Opens a domain, or finds it open.
    ///
    /// # Errors
    /// It is not there, not a domain, or cannot be read.
    pub fn open(&self, place: &Place, context: &Context) -> Result<Opened> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = opened.get(place) {
            return Ok(found.clone());
        }
        drop(opened);
        let id = domain_id(&place.domain)?;
        let found = match &place.carrier {
            Carrier::Block => Opened::Block(Arc::new(BlockDomain::open(&self.lvm, context, id)?)),
            Carrier::File { mount } | Carrier::Local { mount } => {
                let domain = FileDomain::open(&mount.join(&place.domain))?;
                if domain.id() != id {
                    return Err(Failure::new(
                        FailureKind::Damaged,
                        format!(
                            "domain {id}: its directory has the metadata of domain {}",
                            domain.id()
                        ),
                    ));
                }
                Opened::File(Arc::new(domain))
            }
        };
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster: there must be one object only.
        Ok(opened.entry(place.clone()).or_insert(found).clone())
    }

    /// Has a domain opened anew by whoever needs it next.
    pub fn forget(&self, place: &Place) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.remove(place);
    }

    /// The lease daemon.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.settings.layout.sanlock.clone())
    }

    /// Leases of volumes: those of the lease daemon, or none on a local domain.
    #[must_use]
    pub fn leases(&self, carrier: &Carrier) -> Box<dyn Leases> {
        if matches!(carrier, Carrier::Local { .. }) {
            return Box::new(NoLeases);
        }
        // 0: as many hosts as fit, as VDSM has it.
        Box::new(DaemonLeases::new(
            self.client(),
            0,
            self.settings.io_timeout_s,
        ))
    }

    /// What changing volumes of a domain needs; `leases` are those of its
    /// carrier.
    ///
    /// # Errors
    /// `LeaseNotHeld` without an authority: only the writer has one.
    pub(super) fn image_work<'a>(
        &'a self,
        context: &'a Context,
        domain: &'a dyn Domain,
        authority: Option<&'a dyn Authority>,
        leases: &'a dyn Leases,
    ) -> Result<image::Work<'a>> {
        let authority = authority.ok_or_else(|| {
            Failure::new(
                FailureKind::LeaseNotHeld,
                "volumes are changed by the writer only",
            )
        })?;
        Ok(image::Work {
            context,
            domain,
            authority,
            leases,
            layout: &self.settings.layout,
            growth: crate::thin::policy(&self.settings.thin),
        })
    }

    /// This host in the cluster.
    ///
    /// # Errors
    /// The host has no number.
    pub fn cluster(&self) -> Result<Cluster> {
        Cluster::new(
            &self.settings.layout.sanlock,
            self.settings.host_id,
            self.settings.io_timeout_s,
        )
    }

    /// Where connections meet the host.
    #[must_use]
    pub fn places(&self) -> Places {
        places(self.settings.root.as_deref())
    }
}

/// Where connections meet the host: a node's places, or all below `root`.
#[must_use]
pub fn places(root: Option<&Path>) -> Places {
    let Some(root) = root else {
        return Places::default();
    };
    Places {
        // As the layout has it.
        mounts: crate::layout::Layout::under(root).mounts(),
        ..Places::under(root)
    }
}

pub(super) fn domain_id(text: &str) -> Result<DomainId> {
    text.parse()
        .map_err(|error| Failure::new(FailureKind::BadRequest, format!("{error}")))
}
