//! Block domains made by the real `lvm` on loop devices.

mod creation;
mod extension;
mod half_made;
mod inspection;
mod luns;
mod upgrades;
mod volumes;

use std::sync::Arc;

use disk_format::Geometry;
use disk_format::vdsm::domain::{DomainClass, DomainType};
use disk_format::vdsm::volume::{
    Allocation, DiskType, Legality, VolumeFormat, VolumeMetadata, VolumeType,
};
use disk_format::{LockspaceName, NameField, delta, paxos};

use super::*;
use crate::authority::Unattached;
use crate::domain::{Domain, Draft, NewVolume};
use crate::image::leases::{HeldLease, LeaseName, Leases};
use crate::lvm::loops::{GIB, Loops};
use crate::xlease::Resources;

pub(crate) const MIB: u64 = 1 << 20;

/// Writes leases as the lease daemon would, to wherever they are.
#[derive(Debug, Default)]
pub(crate) struct DirectLeases;

impl DirectLeases {
    fn write_area(lease: &LeaseName, fill: impl FnOnce(Geometry, &mut [u8])) -> Result<()> {
        let align = u32::try_from(lease.alignment).unwrap();
        let geometry = Geometry::new(lease.block_size, align).unwrap();
        let mut area = vec![0; geometry.area_bytes()];
        fill(geometry, &mut area);
        let place = Piece {
            device: lease.location.path.clone(),
            start: lease.location.offset,
            length: lease.alignment,
        };
        Region::open(vec![place], Access::ReadWrite)?.write(0, &area)
    }
}

fn field(text: &str) -> NameField {
    NameField::from_bytes(text.as_bytes())
}

impl Leases for DirectLeases {
    fn create_lockspace(&self, area: &LeaseName) -> Result<()> {
        let name = LockspaceName::new(&area.lockspace.to_string()).unwrap();
        Self::write_area(area, |geometry, bytes| {
            delta::fill_initial(&name, geometry, 10, 0, true, bytes);
        })
    }

    fn create(&self, lease: &LeaseName) -> Result<()> {
        self.write(lease)
    }

    fn acquire<'a>(&'a self, lease: &LeaseName) -> Result<Box<dyn HeldLease + 'a>> {
        panic!("lease {} acquired in a test of records", lease.resource)
    }
}

impl Resources for DirectLeases {
    fn write(&self, lease: &LeaseName) -> Result<()> {
        let space = field(&lease.lockspace.to_string());
        Self::write_area(lease, |geometry, bytes| {
            let leader = paxos::initial(&space, &field(&lease.resource), geometry, 250);
            paxos::fill_initial(&leader, geometry, 0, bytes);
        })
    }

    fn clear(&self, lease: &LeaseName) -> Result<()> {
        let space = field(&lease.lockspace.to_string());
        Self::write_area(lease, |geometry, bytes| {
            let leader = paxos::cleared(&space, &NameField::EMPTY, geometry, 250, 1);
            paxos::fill_initial(&leader, geometry, 0, bytes);
        })
    }
}

/// Loop devices and the LVM that knows them.
pub(crate) struct Lab {
    pub(crate) loops: Loops,
    pub(crate) lvm: Arc<Lvm>,
}

impl Lab {
    pub(crate) fn new(gib: &[u64]) -> Self {
        let sizes: Vec<u64> = gib.iter().map(|gib| gib * GIB).collect();
        let loops = Loops::new(&sizes);
        let lvm = Arc::new(loops.lvm());
        Self { loops, lvm }
    }

    pub(crate) fn new_domain(&self, version: DomainVersion) -> NewBlockDomain {
        NewBlockDomain {
            id: fresh(DomainId::from_random),
            version,
            kind: DomainType::Iscsi,
            class: DomainClass::Data,
            description: "data one é".to_owned(),
            devices: self.loops.paths(),
            force: false,
        }
    }

    pub(crate) fn domain(&self, version: DomainVersion) -> BlockDomain {
        let new = self.new_domain(version);
        create(&self.lvm, &Context::quiet(), &DirectLeases, &new).unwrap()
    }
}

/// An id nobody else has.
pub(crate) fn fresh<T>(make: impl Fn([u8; 16]) -> T) -> T {
    let mut bytes = [0; 16];
    std::io::Read::read_exact(
        &mut std::fs::File::open("/dev/urandom").unwrap(),
        &mut bytes,
    )
    .unwrap();
    make(bytes)
}

pub(crate) fn authority(domain: &BlockDomain) -> Unattached {
    Unattached {
        domain: domain.id().to_string(),
    }
}

pub(crate) fn metadata(domain: &BlockDomain, image: ImageId, parent: VolumeId) -> VolumeMetadata {
    VolumeMetadata {
        domain: domain.id(),
        image,
        parent,
        capacity_bytes: 10 * GIB,
        ctime_s: 1_700_000_000,
        description: "{\"DiskAlias\":\"disk\"}".to_owned(),
        disk_type: DiskType::Data,
        format: VolumeFormat::Cow,
        generation: 0,
        legality: Legality::Legal,
        sequence: 1,
        volume_type: VolumeType::Leaf,
        allocation: Allocation::Sparse,
    }
}

pub(crate) fn draft(domain: &BlockDomain, image: ImageId, mib: u64) -> Draft {
    let new = NewVolume {
        id: fresh(VolumeId::from_random),
        image,
        size_bytes: mib * MIB,
    };
    let authority = authority(domain);
    domain
        .allocate(&Context::quiet(), &authority, &new)
        .unwrap()
}

pub(crate) fn volume(domain: &BlockDomain, image: ImageId, mib: u64) -> VolumeEntry {
    let draft = draft(domain, image, mib);
    let metadata = metadata(domain, image, VolumeId::BLANK);
    domain
        .publish(&authority(domain), &draft, &metadata)
        .unwrap()
}

pub(crate) fn report(lab: &Lab, report: crate::lvm::Report, name: &str) -> String {
    let scope = crate::lvm::Scope::All;
    lab.lvm
        .report(&Context::quiet(), scope, report, &[name])
        .unwrap()
}

use disk_format::vdsm::uuid::ImageId;
