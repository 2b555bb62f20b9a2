//! How a volume's content is changed by whichever host has its lease.
//!
//! ```text
//! lease taken, generation as expected
//!   ─▶ ILLEGAL ─▶ work ─▶ LEGAL and generation + 1     success
//!              └▶ stays ILLEGAL, old generation        failure, crash
//! ```
//!
//! Each arrow is one write of the metadata. Whoever lost sight of a job reads the
//! generation and the legality and knows whether it ended.

use std::time::{SystemTime, UNIX_EPOCH};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::uuid::VolumeId;
use disk_format::vdsm::volume::Legality;

use super::leases::{HeldLease, LeaseName, Leases, UnderLease};
use super::lvb::{JobBlock, JobStatus};
use crate::authority::Authority;
use crate::domain::{Domain, VolumeEntry};
use crate::job::Result;

/// What is known of the job that changes a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Job {
    /// The generation the volume must have; any when absent.
    pub generation: Option<u16>,
    /// Its id, for who looks for it in the lease's value.
    pub id: Option<String>,
    /// Hardware id of this host.
    pub host: String,
}

/// Changes the content of a volume by `body`, which gets the right to change
/// volume metadata of this domain while the lease is held.
///
/// # Errors
///
/// `InUse` when the volume's lease is held by another; `WrongState` when the
/// generation is another; those of `body`: then the volume stays ILLEGAL.
pub fn change_content<T>(
    domain: &dyn Domain,
    leases: &dyn Leases,
    volume: VolumeId,
    job: &Job,
    body: impl FnOnce(&VolumeEntry, &dyn Authority) -> Result<T>,
) -> Result<T> {
    change(domain, leases, volume, job, true, body)
}

/// The same for what does not touch what the guest sees: the volume is LEGAL all
/// the time, and its generation tells that it was done.
///
/// # Errors
///
/// As [`change_content`]; the volume stays as it was.
pub fn change_beside<T>(
    domain: &dyn Domain,
    leases: &dyn Leases,
    volume: VolumeId,
    job: &Job,
    body: impl FnOnce(&VolumeEntry, &dyn Authority) -> Result<T>,
) -> Result<T> {
    change(domain, leases, volume, job, false, body)
}

fn change<T>(
    domain: &dyn Domain,
    leases: &dyn Leases,
    volume: VolumeId,
    job: &Job,
    content: bool,
    body: impl FnOnce(&VolumeEntry, &dyn Authority) -> Result<T>,
) -> Result<T> {
    let entry = domain.volume(volume)?;
    let held = leases.acquire(&LeaseName::of_entry(domain, &entry))?;
    let authority = UnderLease::new(domain.id(), held.as_ref());
    // Under the lease: nobody changes it between this and the next write.
    let mut metadata = domain.volume_metadata(&entry)?;
    if let Some(expected) = job.generation
        && metadata.generation != expected
    {
        return Err(Failure::new(
            FailureKind::WrongState,
            format!(
                "volume {volume}: generation {}; expected {expected}",
                metadata.generation
            ),
        ));
    }
    let mut report = Report::begin(held.as_ref(), job, metadata.generation);
    if content {
        metadata.legality = Legality::Illegal;
        domain.write_volume_metadata(&authority, &entry, &metadata)?;
    }
    let done = body(&entry, &authority).and_then(|answer| {
        // The work may have changed the metadata itself (capacity, parent).
        let mut metadata = domain.volume_metadata(&entry)?;
        if content {
            metadata.legality = Legality::Legal;
        }
        metadata.generation = metadata.next_generation();
        domain.write_volume_metadata(&authority, &entry, &metadata)?;
        Ok(answer)
    });
    report.end(if done.is_ok() {
        JobStatus::Succeeded
    } else {
        JobStatus::Failed
    });
    done
}

/// What to write about a volume without changing its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// The generation it must have; any when absent.
    pub expected: Option<u16>,
    /// Whether it may be used.
    pub legality: Option<Legality>,
    /// Free text, cut to 210 bytes.
    pub description: Option<String>,
    /// The generation it gets.
    pub generation: Option<u16>,
}

/// Changes a volume's metadata under its lease.
///
/// # Errors
///
/// As [`change_content`]; `BadRequest` for a value that cannot be stored.
pub fn update(
    domain: &dyn Domain,
    leases: &dyn Leases,
    volume: VolumeId,
    update: &Update,
) -> Result<()> {
    let entry = domain.volume(volume)?;
    let held = leases.acquire(&LeaseName::of_entry(domain, &entry))?;
    let authority = UnderLease::new(domain.id(), held.as_ref());
    let before = domain.volume_metadata(&entry)?;
    if let Some(expected) = update.expected
        && before.generation != expected
    {
        return Err(Failure::new(
            FailureKind::WrongState,
            format!(
                "volume {volume}: generation {}; expected {expected}",
                before.generation
            ),
        ));
    }
    let mut after = before.clone();
    if let Some(legality) = update.legality {
        after.legality = legality;
    }
    if let Some(generation) = update.generation {
        after.generation = generation;
    }
    if let Some(text) = &update.description {
        let cut = disk_format::vdsm::volume::cut_description(text);
        after.description = cut.trim_end().to_owned();
    }
    if after == before {
        return Ok(());
    }
    domain.write_volume_metadata(&authority, &entry, &after)
}

/// Makes sure that a lost job never succeeds: takes the lease it would need,
/// which only works when it is gone, and moves the generation on.
///
/// # Errors
///
/// `InUse` while the job holds the lease; `WrongState` when it has ended.
pub fn fence(
    domain: &dyn Domain,
    leases: &dyn Leases,
    volume: VolumeId,
    job: &Job,
    generation: u16,
) -> Result<()> {
    let entry = domain.volume(volume)?;
    let held = leases.acquire(&LeaseName::of_entry(domain, &entry))?;
    let authority = UnderLease::new(domain.id(), held.as_ref());
    let mut metadata = domain.volume_metadata(&entry)?;
    if job.generation.is_some_and(|g| g != metadata.generation) {
        return Err(Failure::new(
            FailureKind::WrongState,
            format!(
                "volume {volume}: generation {}; the job has ended",
                metadata.generation
            ),
        ));
    }
    let mut report = Report::begin(held.as_ref(), job, metadata.generation);
    metadata.generation = generation;
    domain.write_volume_metadata(&authority, &entry, &metadata)?;
    report.end(JobStatus::Fenced);
    Ok(())
}

/// The job's own report in the lease's value. Advice only: what counts are
/// generation and legality, so a failure to report is no failure of the job.
struct Report<'a> {
    held: &'a dyn HeldLease,
    block: Option<JobBlock>,
}

impl<'a> Report<'a> {
    fn begin(held: &'a dyn HeldLease, job: &Job, generation: u16) -> Self {
        let now = now_s();
        let block = job.id.as_ref().map(|id| JobBlock {
            kind: "JOB".into(),
            generation: u32::from(generation),
            job_id: id.clone(),
            job_status: JobStatus::Pending,
            created: now,
            modified: now,
            host_hardware_id: job.host.clone(),
        });
        let report = Self { held, block };
        report.write();
        report
    }

    fn end(&mut self, status: JobStatus) {
        if let Some(block) = &mut self.block {
            block.job_status = status;
            block.modified = now_s();
        }
        self.write();
    }

    fn write(&self) {
        let Some(block) = &self.block else {
            return;
        };
        let written = block.encode().and_then(|bytes| self.held.set_value(&bytes));
        if let Err(failure) = written {
            tracing::warn!(job = %block.job_id, %failure, "job not reported in its lease");
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs())
}
