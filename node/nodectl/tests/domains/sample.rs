//! Parts of a domain.

use std::path::Path;

use disk_format::vdsm::{
    Allocation, DiskType, Legality, VolumeFormat, VolumeId, VolumeMetadata, VolumeType,
};
use disk_format::{Geometry, HostBitmap, LockspaceName, ResourceName, delta, paxos};

pub(crate) const DOMAIN: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";
pub(crate) const VOLUME: &str = "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f";
pub(crate) const IMAGE: &str = "6b055e16-337d-4cbe-9af9-d75f00f910c1";

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A sample of the format's crate.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../protocol/disk-format/tests/golden")
        .join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// First sectors of `ids`, and of the `SDM` lease.
pub(crate) fn leases() -> (Vec<u8>, Vec<u8>) {
    let lockspace = LockspaceName::new(DOMAIN).expect("a name");
    let geometry = Geometry::Sector512Align1M;
    let mut sector = vec![0; 512];
    let leader = delta::initial(&lockspace, geometry, 10);
    delta::encode_sector(&leader, &HostBitmap::EMPTY, &mut sector);
    (sector, lease("SDM"))
}

/// The first sector of a free lease of the domain's lockspace.
pub(crate) fn lease(resource: &str) -> Vec<u8> {
    let lockspace = LockspaceName::new(DOMAIN).expect("a name");
    let name = ResourceName::new(resource).expect("a name");
    let geometry = Geometry::Sector512Align1M;
    let leader = paxos::initial(lockspace.field(), name.field(), geometry, 2000);
    let mut sector = leader.encode().to_vec();
    sector.resize(512, 0);
    sector
}

/// Metadata of a leaf.
pub(crate) fn volume(parent: VolumeId) -> VolumeMetadata {
    VolumeMetadata {
        domain: DOMAIN.parse().expect("an id"),
        image: IMAGE.parse().expect("an id"),
        parent,
        capacity_bytes: 10 << 30,
        ctime_s: 1,
        description: "sample".to_owned(),
        disk_type: DiskType::Data,
        format: VolumeFormat::Cow,
        generation: 0,
        legality: Legality::Legal,
        sequence: 1,
        volume_type: VolumeType::Leaf,
        allocation: Allocation::Sparse,
    }
}
