//! Making a block domain (§1.1, §1.2), in the original's order.
//!
//! The steps are told through the [`Context`]; between two of them the work may
//! be cancelled. Whatever an end in the middle leaves carries the marker of a
//! domain that is not ready: no reader takes it for one, and
//! [`super::remove`] clears it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control::storage::{Failure, FailureKind};
use disk_format::Geometry;
use disk_format::vdsm::domain::{
    Backing, DomainClass, DomainMetadata, DomainType, NewDomain, TAG_READY, TAG_UNREADY,
};
use disk_format::vdsm::lv::SpecialLv;
use disk_format::vdsm::mailbox;
use disk_format::vdsm::uuid::DomainId;
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::xlease;
use linux::disk::Access;

use super::group::Group;
use super::{BlockDomain, Reach, location, reach, reader, region, unstorable, vg};
use crate::authority::Unattached;
use crate::command::Run;
use crate::image::leases::{LeaseName, Leases};
use crate::job::{Context, Result};
use crate::lvm::{Change, Lvm, Mapping};
use crate::xlease::write_index;

/// Bytes of `metadata` that are zeroed: as far as slots of version 5 reach that
/// have a lease.
const METADATA_ZEROED: u64 = 17 << 20;

/// How long making the master's file system may take.
const MKFS_TIMEOUT: Duration = Duration::from_secs(300);

/// What a new block domain is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBlockDomain {
    /// Its id, which nothing has yet.
    pub id: DomainId,
    /// 3, 4 or 5.
    pub version: DomainVersion,
    /// `Iscsi` or `Fcp`.
    pub kind: DomainType,
    /// Data or Backup.
    pub class: DomainClass,
    /// At most 50 characters.
    pub description: String,
    /// Its LUNs; the first has the metadata.
    pub devices: Vec<PathBuf>,
    /// Overwrite what is on them.
    pub force: bool,
}

/// Makes a domain in no pool.
///
/// # Errors
/// What the checks refuse (nothing was written then); what LVM or the lease
/// daemon say.
pub fn create(
    lvm: &Arc<Lvm>,
    context: &Context,
    leases: &dyn Leases,
    new: &NewBlockDomain,
) -> Result<BlockDomain> {
    check(new)?;
    let maker = Maker {
        lvm,
        context,
        authority: Unattached {
            domain: new.id.to_string(),
        },
        new,
    };
    maker.make(leases).map_err(|failure| {
        failure.while_doing(format_args!(
            "creating domain {} (what was made so far is marked not ready)",
            new.id
        ))
    })?;
    BlockDomain::open(lvm, context, new.id)
}

fn check(new: &NewBlockDomain) -> Result<()> {
    let wrong = |what: String| Err(Failure::new(FailureKind::BadRequest, what));
    if new.id.is_blank() {
        return wrong("domain id: blank".to_owned());
    }
    if !matches!(
        new.version,
        DomainVersion::V3 | DomainVersion::V4 | DomainVersion::V5
    ) {
        return wrong(format!(
            "domain version {}: allowed are 3 to 5",
            new.version
        ));
    }
    if !new.kind.is_block() {
        return wrong(format!(
            "domain type {}: allowed are ISCSI and FCP",
            new.kind
        ));
    }
    if new.class == DomainClass::Iso {
        return wrong("ISO domains are made of files".to_owned());
    }
    // Everything else that could not be stored is found before a LUN is touched.
    let sample = metadata(
        new,
        "",
        vec![disk_format::vdsm::domain::PvMapping {
            device: "sample".to_owned(),
            uuid: "sample".to_owned(),
            start: 0,
            extents: 0,
            offset: 0,
        }],
    )?;
    sample
        .to_vg_tags()
        .map(drop)
        .map_err(|error| unstorable(&new.id.to_string(), &error))
}

fn metadata(
    new: &NewBlockDomain,
    vg_uuid: &str,
    pvs: Vec<disk_format::vdsm::domain::PvMapping>,
) -> Result<DomainMetadata> {
    DomainMetadata::new(&NewDomain {
        id: new.id,
        version: new.version,
        kind: new.kind,
        class: new.class,
        description: new.description.clone(),
        backing: Backing::Block {
            vg_uuid: vg_uuid.to_owned(),
            pvs,
        },
        block_bytes: 512,
        alignment_bytes: 1 << 20,
    })
    .map_err(|error| unstorable(&new.id.to_string(), &error))
}

struct Maker<'a> {
    lvm: &'a Arc<Lvm>,
    context: &'a Context,
    authority: Unattached,
    new: &'a NewBlockDomain,
}

impl Maker<'_> {
    fn name(&self) -> &str {
        &self.authority.domain
    }

    fn step(&self, number: u64, what: &str) -> Result<()> {
        self.context.tell(number, 9, what);
        self.context.go_on()
    }

    fn make(&self, leases: &dyn Leases) -> Result<()> {
        self.step(0, "volume group")?;
        vg::create(
            self.lvm,
            self.context,
            &self.authority,
            &self.new.devices,
            self.new.force,
        )?;
        self.step(1, "check")?;
        let group = self.group()?;
        let only_unready = group.tags.iter().map(String::as_str).eq([TAG_UNREADY]);
        if !only_unready || !group.volumes.is_empty() {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("volume group {}: not as it was just made", self.name()),
            ));
        }
        self.step(2, "metadata volume")?;
        let first = group.metadata_device().and_then(|pv| pv.device.clone());
        self.create_special(SpecialLv::Metadata, first.as_ref())?;
        let mapping = vg::mapping(&*self.group()?)?;
        for special in SpecialLv::ALL.into_iter().skip(1) {
            if special.is_in(self.new.version) {
                self.step(3, special.name())?;
                self.create_special(special, None)?;
            }
        }
        self.step(4, "index of external leases")?;
        let group = self.group()?;
        if self.new.version.has_external_leases() {
            let region = self.region(&group, SpecialLv::Xleases)?;
            let (_, steps) =
                xlease::Index::format(&self.new.id, now_s(), Geometry::Sector512Align1M);
            for step in &steps {
                write_index(&region, step)?;
            }
        }
        self.step(5, "master file system")?;
        self.make_file_system(&group)?;
        self.step(6, "zero")?;
        let mail = u64::try_from(mailbox::AREA_BYTES).unwrap_or(0);
        for (special, bytes) in [
            (SpecialLv::Metadata, METADATA_ZEROED),
            (SpecialLv::Inbox, mail),
            (SpecialLv::Outbox, mail),
        ] {
            self.region(&group, special)?.zero(self.context, 0, bytes)?;
        }
        self.step(7, "domain metadata")?;
        let metadata = metadata(self.new, &group.uuid, mapping)?;
        let tags = metadata
            .to_vg_tags()
            .map_err(|error| unstorable(self.name(), &error))?;
        let tags: Vec<String> = tags.into_iter().collect();
        self.change(&Change::TagGroup {
            delete: &[],
            add: &tags,
        })?;
        self.step(8, "ready")?;
        self.change(&Change::TagGroup {
            delete: &[TAG_UNREADY.to_owned()],
            add: &[TAG_READY.to_owned()],
        })?;
        self.step(9, "leases")?;
        create_leases(self.lvm, &group, leases, self.new.id)
    }

    fn group(&self) -> Result<Arc<Group>> {
        reader::read(self.lvm, self.name())
    }

    fn change(&self, change: &Change<'_>) -> Result<()> {
        self.lvm
            .change(self.context, &self.authority, self.name(), change)
            .map(drop)
    }

    fn create_special(&self, special: SpecialLv, device: Option<&PathBuf>) -> Result<()> {
        self.change(&Change::CreateVolume {
            name: special.name(),
            mib: special.requested_bytes(1 << 20) >> 20,
            tags: &[],
            device,
        })
    }

    fn region(&self, group: &Group, special: SpecialLv) -> Result<region::Region> {
        let pieces = region::pieces(reach(self.lvm), self.lvm.layout(), group, special.name())?;
        region::Region::open(pieces, Access::ReadWrite)
    }

    /// ext3 on `master`, which is deactivated afterwards.
    fn make_file_system(&self, group: &Group) -> Result<()> {
        let name = SpecialLv::Master.name();
        let pieces = region::pieces(reach(self.lvm), self.lvm.layout(), group, name)?;
        let [piece] = pieces.as_slice() else {
            return Err(Failure::new(
                FailureKind::Unsupported,
                format!("domain {}: {name} lies in several pieces", self.name()),
            ));
        };
        let mut extended = "nodiscard".to_owned();
        if piece.start > 0 {
            extended.push_str(&format!(",offset={}", piece.start));
        }
        Run::new("mke2fs")
            .args(["-t", "ext3", "-q", "-j", "-F", "-E", &extended])
            .arg(&piece.device)
            .arg(format!("{}k", piece.length >> 10))
            .within(MKFS_TIMEOUT)
            .succeed(self.context)?;
        if reach(self.lvm) == Reach::Mapped {
            self.lvm
                .map(self.context, Mapping::Deactivate, self.name(), &[name])?;
        }
        Ok(())
    }
}

/// Writes the lockspace and the `SDM` lease of a domain.
///
/// # Errors
/// What the lease daemon says.
pub(super) fn create_leases(
    lvm: &Lvm,
    group: &Group,
    leases: &dyn Leases,
    id: DomainId,
) -> Result<()> {
    let name = |special: SpecialLv, resource: &str, offset| -> Result<LeaseName> {
        Ok(LeaseName {
            lockspace: id,
            resource: resource.to_owned(),
            location: location(lvm, group, special.name(), offset)?,
            block_size: 512,
            alignment: 1 << 20,
        })
    };
    leases.create_lockspace(&name(SpecialLv::Ids, "", 0)?)?;
    leases.create(&name(SpecialLv::Leases, "SDM", 1 << 20)?)
}

/// Seconds since 1970.
pub(super) fn now_s() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
