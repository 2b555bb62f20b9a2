//! What is wrong with a domain, in an operator's words.
//!
//! The caller reads what there is to read ([`BlockFacts`], [`FileFacts`]) and
//! gets a [`Report`]. What was not read is not judged: a missing area is `None`
//! here, not a finding. Nothing is repaired; the advice of a finding says what
//! would.

mod areas;
mod block;
mod file;
mod group;
mod volumes;

use std::collections::BTreeMap;
use std::fmt;

use super::domain::{DomainMetadata, Marker};
use super::error::FormatError;
use super::lv::SpecialLv;
use super::slot::SlotNumber;
use super::uuid::{DomainId, ImageId, LeaseId, VolumeId};
use super::volume::VolumeMetadata;
use super::xlease::{Index, lease_offset};
use crate::geometry::Geometry;

pub use block::block;
pub use file::file;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Grade {
    /// Worth knowing; nothing has to be done.
    Note,
    /// Something is left over, or will be wrong one day.
    Warning,
    /// Something is wrong.
    Error,
}

impl fmt::Display for Grade {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// What it is about: `volume <id>`, `xleases`, …
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty when there is nothing to say.
    pub advice: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}: {}", self.grade, self.subject, self.message)?;
        if !self.advice.is_empty() {
            write!(out, " ({})", self.advice)?;
        }
        Ok(())
    }
}

/// Findings while they are collected.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(
        &mut self,
        grade: Grade,
        subject: impl fmt::Display,
        message: impl fmt::Display,
        advice: &'static str,
    ) {
        let (subject, message) = (subject.to_string(), message.to_string());
        // An error names its record, which may be the subject.
        let message = message
            .strip_prefix(&format!("{subject}: "))
            .unwrap_or(&message)
            .to_owned();
        self.0.push(Finding {
            grade,
            subject,
            message,
            advice,
        });
    }

    fn error(
        &mut self,
        subject: impl fmt::Display,
        message: impl fmt::Display,
        advice: &'static str,
    ) {
        self.add(Grade::Error, subject, message, advice);
    }

    fn warning(
        &mut self,
        subject: impl fmt::Display,
        message: impl fmt::Display,
        advice: &'static str,
    ) {
        self.add(Grade::Warning, subject, message, advice);
    }

    fn note(
        &mut self,
        subject: impl fmt::Display,
        message: impl fmt::Display,
        advice: &'static str,
    ) {
        self.add(Grade::Note, subject, message, advice);
    }
}

/// A physical volume of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvFacts {
    /// LVM's id.
    pub uuid: String,
    /// Its device; `None` when no device has it.
    pub device: Option<String>,
    /// Extents.
    pub extents: u64,
    /// Metadata areas that are in use; `None` when not known.
    pub areas_used: Option<u64>,
}

/// A logical volume of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LvFacts {
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Where it starts: LVM's id of the physical volume, and the extent.
    pub start: Option<(String, u64)>,
}

/// What was read of a block domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockFacts {
    /// Name of the VG.
    pub name: String,
    /// LVM's id of the VG.
    pub uuid: String,
    /// Tags of the VG.
    pub tags: Vec<String>,
    /// Flags of the VG; `None` when not known.
    pub flags: Option<Vec<String>>,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Extents that no LV uses.
    pub free_extents: u64,
    /// Bytes of a metadata area, and how many of the half that one copy may
    /// use are free; `None` when not known.
    pub metadata_room: Option<(u64, u64)>,
    /// What is wrong with LVM's own metadata, as far as it was looked at.
    pub lvm_faults: Vec<String>,
    /// Its physical volumes.
    pub pvs: Vec<PvFacts>,
    /// Its logical volumes.
    pub lvs: Vec<LvFacts>,
    /// Metadata slots that were read: at least 512 bytes each, or why not.
    pub slots: BTreeMap<SlotNumber, Result<Vec<u8>, String>>,
    /// The other areas.
    pub areas: Areas,
}

/// Areas that block and file domains have in common; what was not read is
/// `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Areas {
    /// The index in `xleases`: at least its bytes, or why not.
    pub index: Option<Result<Vec<u8>, String>>,
    /// Size of the `xleases` volume in bytes.
    pub xleases_bytes: Option<u64>,
    /// The mailboxes of `inbox`: [`super::mailbox::AREA_BYTES`].
    pub inbox: Option<Result<Vec<u8>, String>>,
    /// The mailboxes of `outbox`.
    pub outbox: Option<Result<Vec<u8>, String>>,
    /// The first sector of `ids`.
    pub ids: Option<Result<Vec<u8>, String>>,
    /// The first sector of the `SDM` lease, at 1 × alignment of `leases`.
    pub sdm: Option<Result<Vec<u8>, String>>,
    /// The first sectors of other leases: of volumes, and external ones.
    pub leaders: Vec<LeaseLeader>,
}

/// The beginning of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseLeader {
    /// What it is the lease of: `volume <id>`, `external lease <id>`.
    pub subject: String,
    /// Name of its resource.
    pub resource: String,
    /// Its first sector, or why it cannot be read.
    pub sector: Result<Vec<u8>, String>,
}

impl LeaseLeader {
    /// Of the volume `id`.
    #[must_use]
    pub fn of_volume(id: VolumeId, sector: Result<Vec<u8>, String>) -> Self {
        Self {
            subject: format!("volume {id}"),
            resource: id.to_string(),
            sector,
        }
    }

    /// Of every lease in the `index` of the domain `id`; `read` gives the sector
    /// at an offset of `xleases`. What is wrong with the index is told elsewhere.
    pub fn of_index(
        index: Option<&Result<Vec<u8>, String>>,
        id: DomainId,
        geometry: Geometry,
        mut read: impl FnMut(u64) -> Result<Vec<u8>, String>,
    ) -> Vec<Self> {
        let Some(Ok(bytes)) = index else {
            return Vec::new();
        };
        let Ok(index) = Index::decode(bytes, &id) else {
            return Vec::new();
        };
        let leases = index.leases().map(|(record, lease)| Self {
            subject: format!("external lease {lease}"),
            resource: lease.to_string(),
            sector: read(lease_offset(geometry, record)),
        });
        leases.collect()
    }
}

/// How the leases of a domain lie; what VDSM makes if its metadata do not say.
#[must_use]
pub fn geometry(metadata: Option<&DomainMetadata>) -> Geometry {
    metadata
        .and_then(|metadata| {
            let sector = metadata.block_bytes().ok()?;
            Geometry::new(sector, metadata.alignment_bytes().ok()?).ok()
        })
        .unwrap_or(Geometry::Sector512Align1M)
}

/// A volume of a file domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVolume {
    /// Size of the data file in bytes; `None` when there is none.
    pub size_bytes: Option<u64>,
    /// Content of the `.meta` file, or why it cannot be read; `None` when there
    /// is none.
    pub meta: Option<Result<Vec<u8>, String>>,
    /// Whether there is a `.lease` file.
    pub lease: bool,
}

/// What was read of a file domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileFacts {
    /// Name of its directory.
    pub name: String,
    /// Content of `dom_md/metadata`, or why it cannot be read; `None` when
    /// there is none.
    pub metadata: Option<Result<Vec<u8>, String>>,
    /// Sizes in bytes of the special files in `dom_md`.
    pub special: BTreeMap<SpecialLv, u64>,
    /// Directories of `images` that are no volumes' (being deleted, or named
    /// in another way).
    pub other_directories: Vec<String>,
    /// Volumes, by the directory they are in.
    pub images: BTreeMap<ImageId, BTreeMap<VolumeId, FileVolume>>,
    /// Files in those directories that belong to no volume, with their
    /// directory.
    pub other_files: Vec<String>,
    /// The areas in the special files.
    pub areas: Areas,
}

/// A volume as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Its id.
    pub id: VolumeId,
    /// The image by its tags or its directory.
    pub image: ImageId,
    /// The parent by its tags; `None` on file domains.
    pub tagged_parent: Option<VolumeId>,
    /// Its slot; `None` on file domains.
    pub slot: Option<SlotNumber>,
    /// Size of LV or file in bytes.
    pub size_bytes: u64,
    /// Its metadata; `None` when they were not read.
    pub metadata: Option<Result<VolumeMetadata, FormatError>>,
}

/// What a domain is, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Name of the VG or the directory.
    pub name: String,
    /// What the VG's tags say it is; file domains with metadata are ready.
    pub marker: Marker,
    /// Its metadata.
    pub metadata: Option<DomainMetadata>,
    /// Its volumes, in the order of their ids.
    pub volumes: Vec<VolumeView>,
    /// External leases and where they are in `xleases`, in bytes.
    pub leases: Vec<(LeaseId, u64)>,
    /// The volume whose store of configurations is to be read.
    pub ovf_store: Option<VolumeId>,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    fn sorted(mut self, findings: Findings) -> Self {
        self.findings = findings.0;
        // Stable: of one grade, in the order of the domain's parts.
        self.findings
            .sort_by_key(|finding| std::cmp::Reverse(finding.grade));
        self
    }

    /// The worst grade there is.
    #[must_use]
    pub fn worst(&self) -> Option<Grade> {
        self.findings.iter().map(|finding| finding.grade).max()
    }
}

/// Whether so many of so many are more than can be left alone.
fn nearly_full(used: usize, all: usize) -> bool {
    used.saturating_mul(5) >= all.saturating_mul(4)
}
