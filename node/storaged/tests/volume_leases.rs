//! Volumes' leases at real lease daemons: made with the volume, held by one job at
//! a time, and what a lost lease means.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../sanlock-client/tests/support/mod.rs"]
mod support;

use control::storage::FailureKind;
use disk_format::vdsm::domain::{DomainClass, DomainType};
use disk_format::vdsm::uuid::{DomainId, ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{Allocation, Legality, VolumeFormat};
use storaged::authority::Unattached;
use storaged::domain::{Domain, Special};
use storaged::file::{FileDomain, NewFileDomain};
use storaged::image::Work;
use storaged::image::create::{CreateVolume, create};
use storaged::image::leases::{DaemonLeases, LeaseName, Leases};
use storaged::image::lvb::{JobBlock, JobStatus};
use storaged::image::operation::{Job, change_content};
use storaged::job::Context;
use storaged::layout::Layout;
use support::{Host, IO_TIMEOUT_S, Kind, disk_dir};

const DOMAIN: [u8; 16] = [3; 16];

fn volume(number: u8) -> VolumeId {
    VolumeId::from_random([number; 16])
}

#[test]
fn a_volume_has_a_lease_that_one_job_holds_at_a_time() {
    for kind in Kind::BOTH {
        let dir = disk_dir();
        let host = Host::start(kind, "one");
        let leases = DaemonLeases::new(host.client(), 250, IO_TIMEOUT_S);
        let others = DaemonLeases::new(host.client(), 250, IO_TIMEOUT_S);
        let context = Context::quiet();
        let layout = Layout::under(dir.path());
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let new = NewFileDomain {
            id: DomainId::from_random(DOMAIN),
            version: DomainVersion::V5,
            kind: DomainType::Nfs,
            class: DomainClass::Data,
            description: "test".into(),
            remote_path: "server.example:/export".into(),
            block_size: None,
            hosts_max: 250,
        };
        let domain = FileDomain::create(&context, &mount, &new, &leases).unwrap();
        let authority = Unattached {
            domain: domain.id().to_string(),
        };
        let work = Work {
            context: &context,
            domain: &domain,
            authority: &authority,
            leases: &leases,
            layout: &layout,
            growth: thin::Policy::DEFAULT,
        };
        let request = CreateVolume {
            format: VolumeFormat::Raw,
            allocation: Allocation::Sparse,
            ..CreateVolume::new(ImageId::from_random([1; 16]), volume(1), 1 << 20)
        };
        let entry = create(&work, &request).unwrap();
        let name = LeaseName::of_entry(&domain, &entry);
        // Nobody can hold a lease of a lockspace that this host has not joined.
        let early = leases.acquire(&name).unwrap_err();
        assert_eq!(early.kind, FailureKind::WrongState, "{kind:?}: {early}");
        let space = sanlock_client::lockspace(
            &domain.id().to_string(),
            1,
            &domain.special(Special::Ids),
            None,
        )
        .unwrap();
        host.join(&space);

        let job = Job {
            generation: Some(0),
            id: Some("0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8".into()),
            host: "hardware".into(),
        };
        change_content(&domain, &leases, entry.id, &job, |held, _| {
            let now = domain.volume_metadata(held)?;
            assert_eq!(now.legality, Legality::Illegal);
            let second = others.acquire(&name).unwrap_err();
            assert_eq!(second.kind, FailureKind::InUse, "{kind:?}: {second}");
            Ok(())
        })
        .unwrap();
        let now = domain.volume_metadata(&entry).unwrap();
        assert_eq!((now.legality, now.generation), (Legality::Legal, 1));
        // Given back; what the job said of itself is in it.
        let held = others.acquire(&name).unwrap();
        held.check().unwrap();
        let block = JobBlock::decode(&held.value().unwrap()).unwrap().unwrap();
        assert_eq!(block.job_status, JobStatus::Succeeded);
        assert_eq!(Some(block.job_id), job.id);
        drop(held);
        // Something else in its place is told apart from held.
        let bytes = std::fs::metadata(&name.location.path).unwrap().len();
        std::fs::write(
            &name.location.path,
            vec![0; usize::try_from(bytes).unwrap()],
        )
        .unwrap();
        let gone = leases.acquire(&name).unwrap_err();
        assert_eq!(gone.kind, FailureKind::Damaged, "{kind:?}: {gone}");
    }
}
