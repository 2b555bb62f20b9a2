//! Work that the manager after this one shall know of: persisted tasks.

use control::storage::request::VolumeRequest;
use control::storage::{Answer, Failure, FailureKind};
use disk_format::vdsm::task::Recovery;
use disk_format::vdsm::uuid::{ImageId, PoolId, TaskId, VolumeId};

use super::PoolAuthority;
use crate::domain::Domain;
use crate::job::Result;
use crate::layout::Layout;
use crate::task::Store;
use crate::worker::work::{Place, Work};

/// Ended tasks that are kept with their results.
const TASKS_KEPT: usize = 50;

/// Whether the manager after this one shall know of the work.
pub(super) fn is_task(work: &Work) -> bool {
    let Work::Volume { request, .. } = work else {
        return matches!(work, Work::ExtendDomain { .. } | Work::Reduce { .. });
    };
    matches!(
        request,
        VolumeRequest::Create(_)
            | VolumeRequest::Delete { .. }
            | VolumeRequest::DeleteImage { .. }
            | VolumeRequest::Copy { .. }
            | VolumeRequest::Template { .. }
            | VolumeRequest::Snapshot { .. }
            | VolumeRequest::Merge { .. }
    )
}

/// Does work as a persisted task. Of what it leaves half-made the next manager
/// removes what nobody can see, finishes removals, and runs `undo`.
pub(super) fn tracked(
    store: &Store,
    authority: &PoolAuthority,
    work: &Work,
    undo: Option<Recovery>,
    run: impl FnOnce() -> Result<Answer>,
) -> Result<Answer> {
    let id = TaskId::from_random(random()?);
    let (name, undo) = (work.name().replace(' ', "-"), Vec::from_iter(undo));
    let task = match store.begin(authority, id, &name, work.name(), undo) {
        Ok(task) => task,
        Err(failure) if failure.kind == FailureKind::LeaseNotHeld => return Err(failure),
        Err(failure) => {
            // A full or broken task store keeps nobody from working.
            tracing::warn!(%failure, "task not kept");
            return run();
        }
    };
    let outcome = run();
    let result = outcome
        .as_ref()
        .map(|answer| serde_json::to_string(answer).unwrap_or_default())
        .map_err(Failure::clone);
    let kept = task
        .finish(&result)
        .and_then(|_| store.prune(authority, TASKS_KEPT));
    if let Err(failure) = kept {
        tracing::warn!(%failure, "result of a task not kept");
    }
    outcome
}

/// The name of our step that undoes a copy. Its function is the original's, which
/// removes the volume whatever it is; by this name we know that one which became
/// legal is whole, and stays.
pub(super) const COPY_ROLLBACK: &str = "copy rollback";

/// The volume that a copy makes: visible from the beginning, illegal to the end.
pub(super) struct Made<'a> {
    pub(super) place: &'a Place,
    image: ImageId,
    volume: VolumeId,
}

impl<'a> Made<'a> {
    /// By this work, if it is a copy that makes sense.
    pub(super) fn by(work: &'a Work) -> Option<Self> {
        let Work::Volume {
            target: Some(place),
            request:
                VolumeRequest::Copy { target: new, .. } | VolumeRequest::Template { target: new, .. },
            ..
        } = work
        else {
            return None;
        };
        Some(Self {
            place,
            image: new.image.as_ref()?.parse().ok()?,
            volume: new.volume.as_ref()?.parse().ok()?,
        })
    }

    /// What removes it again. Nothing when it is there already, or nobody can
    /// tell: what is there before the work begins is never the work's to remove.
    pub(super) fn rollback(
        &self,
        domain: &dyn Domain,
        layout: &Layout,
        pool: PoolId,
    ) -> Option<Recovery> {
        let Self { image, volume, .. } = self;
        match domain.volume(*volume) {
            Err(failure) if failure.kind == FailureKind::NotFound => {}
            Ok(_) | Err(_) => return None,
        }
        let (module, class) = if domain.kind().is_block() {
            ("blockVolume", "BlockVolume")
        } else {
            ("fileVolume", "FileVolume")
        };
        let repository = layout.pool(pool);
        let id = domain.id().to_string();
        let directory = repository.join(&id).join("images").join(image.to_string());
        Some(Recovery {
            name: COPY_ROLLBACK.to_owned(),
            module_name: module.to_owned(),
            object: class.to_owned(),
            function: "createVolumeRollback".to_owned(),
            params: vec![
                repository.display().to_string(),
                id,
                image.to_string(),
                volume.to_string(),
                directory.display().to_string(),
            ],
        })
    }
}

/// Random bytes of the kernel's.
fn random() -> Result<[u8; 16]> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::new(FailureKind::Failed, format!("random bytes: {error}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Unattached;
    use crate::file::{FileDomain, NewFileDomain};
    use crate::image::create::{CreateVolume, create};
    use crate::image::leases::NoLeases;
    use crate::job::Context;
    use control::storage::VolumeName;
    use control::storage::request::CopyTarget;
    use disk_format::vdsm::domain::{DomainClass, DomainType};
    use disk_format::vdsm::uuid::DomainId;
    use disk_format::vdsm::version::DomainVersion;

    const POOL: PoolId = PoolId::from_bytes([0x70; 16]);

    #[test]
    fn only_what_a_copy_itself_makes_is_taken_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::under(dir.path());
        let new = NewFileDomain {
            id: DomainId::from_random([1; 16]),
            version: DomainVersion::V5,
            kind: DomainType::LocalFs,
            class: DomainClass::Data,
            description: "d".to_owned(),
            remote_path: "/d".to_owned(),
            block_size: Some(512),
            hosts_max: 250,
        };
        let quiet = Context::quiet();
        let domain = FileDomain::create(&quiet, dir.path(), &new, &NoLeases).expect("made");
        let (image, old) = (
            ImageId::from_random([2; 16]),
            VolumeId::from_random([3; 16]),
        );
        let authority = Unattached {
            domain: new.id.to_string(),
        };
        let work = crate::image::Work {
            context: &quiet,
            domain: &domain,
            authority: &authority,
            leases: &NoLeases,
            layout: &layout,
            growth: crate::thin::policy(&control::config::Thin::default()),
        };
        let raw = CreateVolume {
            format: disk_format::vdsm::volume::VolumeFormat::Raw,
            ..CreateVolume::new(image, old, 1 << 20)
        };
        create(&work, &raw).expect("a volume");

        let place = Place {
            domain: new.id.to_string(),
            carrier: crate::worker::work::Carrier::File {
                mount: dir.path().to_owned(),
            },
        };
        let copy = |volume: VolumeId| Work::Volume {
            place: place.clone(),
            target: Some(place.clone()),
            request: VolumeRequest::Copy {
                source: VolumeName {
                    domain: new.id.to_string(),
                    image: image.to_string(),
                    volume: old.to_string(),
                },
                target: CopyTarget {
                    domain: new.id.to_string(),
                    image: Some(ImageId::from_random([4; 16]).to_string()),
                    volume: Some(volume.to_string()),
                    format: None,
                    preallocated: false,
                    bitmaps: false,
                    mib_per_s: None,
                },
            },
        };
        let undo = |volume| {
            let work = copy(volume);
            let made = Made::by(&work).expect("a copy makes something");
            made.rollback(&domain, &layout, POOL)
        };
        assert_eq!(undo(old), None, "it was there before");
        let new_volume = VolumeId::from_random([5; 16]);
        let step = undo(new_volume).expect("a step");
        assert_eq!(step.name, COPY_ROLLBACK);
        assert_eq!(step.function, "createVolumeRollback");
        assert_eq!(step.params[1], new.id.to_string());
        assert_eq!(step.params[3], new_volume.to_string());
        let other = Work::Rescan;
        assert!(Made::by(&other).is_none());
    }
}
