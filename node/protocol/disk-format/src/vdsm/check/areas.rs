//! Leases, index and mail.

use std::collections::{BTreeMap, BTreeSet};

use super::{Areas, Findings, LeaseLeader, nearly_full};
use crate::content::Content;
use crate::delta;
use crate::geometry::Geometry;
use crate::id::HostId;
use crate::paxos;
use crate::vdsm::domain::{DomainMetadata, DomainRole};
use crate::vdsm::error::FormatError;
use crate::vdsm::mailbox::{EventBlock, MAILBOX_BYTES, Mailbox, Message, Seal};
use crate::vdsm::uuid::{DomainId, LeaseId, VolumeId};
use crate::vdsm::xlease::{Index, Record, lease_offset, records_in};

/// What is known of the domain that the areas are of.
pub(super) struct Context<'a> {
    pub(super) id: DomainId,
    pub(super) metadata: Option<&'a DomainMetadata>,
    pub(super) volumes: &'a BTreeSet<VolumeId>,
}

impl Context<'_> {
    fn geometry(&self) -> Geometry {
        super::geometry(self.metadata)
    }
}

/// Judges all areas that were read; gives the external leases.
pub(super) fn check(
    areas: &Areas,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Vec<(LeaseId, u64)> {
    if let Some(bytes) = read(areas.ids.as_ref(), "ids", findings) {
        ids(bytes, context, findings);
    }
    if let Some(bytes) = read(areas.sdm.as_ref(), "leases", findings) {
        sdm(bytes, context, findings);
    }
    for leader in &areas.leaders {
        lease(leader, context, findings);
    }
    let leases = match read(areas.index.as_ref(), "xleases", findings) {
        Some(bytes) => index(bytes, areas.xleases_bytes, context, findings),
        None => Vec::new(),
    };
    if let Some(bytes) = read(areas.inbox.as_ref(), "inbox", findings) {
        mail("inbox", bytes, context, findings);
    }
    if let Some(bytes) = read(areas.outbox.as_ref(), "outbox", findings) {
        mail("outbox", bytes, context, findings);
    }
    leases
}

fn read<'a>(
    area: Option<&'a Result<Vec<u8>, String>>,
    name: &str,
    findings: &mut Findings,
) -> Option<&'a [u8]> {
    match area? {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            findings.error(name, format!("cannot be read: {error}"), "");
            None
        }
    }
}

fn ids(bytes: &[u8], context: &Context<'_>, findings: &mut Findings) {
    let own = context.id.to_string();
    let Some(leader) = delta::leader(bytes).filter(|leader| leader.magic == delta::MAGIC) else {
        let found = Content::of(bytes);
        findings.error(
            "ids",
            format!("no host leases there: {found}"),
            "no host can use the domain; with every host away from it, initialise the lockspace",
        );
        return;
    };
    if leader.space_name.bytes() != own.as_bytes() {
        findings.error(
            "ids",
            format!("host leases are of lockspace \"{}\"", leader.space_name),
            "the domain was copied or renamed; do not attach it",
        );
    } else if let Err(error) = delta::verify_checksum(&leader) {
        findings.error("ids", format!("record of host 1: {error}"), "");
    }
}

fn sdm(bytes: &[u8], context: &Context<'_>, findings: &mut Findings) {
    if let Err(wrong) = leader(bytes, "SDM", context) {
        let advice = match wrong {
            Wrong::NeverMade(_) => "nobody can change the domain; initialise the lease",
            Wrong::OfOthers(_) => "the domain was copied or renamed; do not attach it",
            Wrong::Broken(_) => "",
        };
        findings.error("leases", wrong.message("lease SDM"), advice);
    }
}

/// A lease that is not the one which should be there.
enum Wrong {
    NeverMade(Content),
    OfOthers(String),
    Broken(String),
}

impl Wrong {
    fn message(&self, name: &str) -> String {
        match self {
            Self::NeverMade(found) => format!("{name} was never made: {found}"),
            Self::OfOthers(found) => format!("in the place of {name} is {found}"),
            Self::Broken(error) => format!("{name}: {error}"),
        }
    }
}

/// Judges the first sector of a lease of the domain's lockspace.
fn leader(bytes: &[u8], resource: &str, context: &Context<'_>) -> Result<(), Wrong> {
    let own = context.id.to_string();
    let leader = paxos::leader(bytes).map_err(|error| Wrong::Broken(error.to_string()))?;
    if leader.magic != paxos::MAGIC {
        return Err(Wrong::NeverMade(Content::of(bytes)));
    }
    let right = leader.space_name.bytes() == own.as_bytes()
        && leader.resource_name.bytes() == resource.as_bytes();
    if !right {
        return Err(Wrong::OfOthers(format!(
            "\"{}\" of lockspace \"{}\"",
            leader.resource_name, leader.space_name
        )));
    }
    if leader.computed_checksum() != leader.checksum {
        return Err(Wrong::Broken("its checksum is wrong".to_owned()));
    }
    Ok(())
}

/// The lease of a volume, or an external one.
fn lease(found: &LeaseLeader, context: &Context<'_>, findings: &mut Findings) {
    let subject = found.subject.as_str();
    match &found.sector {
        Err(error) => findings.error(subject, format!("its lease cannot be read: {error}"), ""),
        Ok(bytes) => {
            if let Err(wrong) = leader(bytes, &found.resource, context) {
                findings.error(
                    subject,
                    wrong.message("its lease"),
                    "no host can lock it; with nobody using it, make the lease anew",
                );
            }
        }
    }
}

fn index(
    bytes: &[u8],
    volume_bytes: Option<u64>,
    context: &Context<'_>,
    findings: &mut Findings,
) -> Vec<(LeaseId, u64)> {
    const REBUILD: &str = "rebuild the index";
    let index = match Index::decode(bytes, &context.id) {
        Ok(index) => index,
        Err(error @ FormatError::Empty { .. }) => {
            findings.error("xleases", error, "format the index");
            return Vec::new();
        }
        Err(error) => {
            findings.error("xleases", error, "format the index; its leases are lost");
            return Vec::new();
        }
    };
    if index.is_updating() {
        findings.error("xleases", FormatError::Updating, REBUILD);
    }
    let geometry = context.geometry();
    let room = volume_bytes.map_or(usize::MAX, |bytes| records_in(geometry, bytes));
    // Files grow as leases are added: their size is no limit.
    let limit = context
        .metadata
        .filter(|metadata| metadata.is_block())
        .map_or(super::super::xlease::RECORDS, |_| {
            room.min(super::super::xlease::RECORDS)
        });
    let mut seen = BTreeMap::new();
    let mut used = 0_usize;
    let mut corrupt = Vec::new();
    for (number, record) in index.records().enumerate() {
        match record {
            Record::Free => continue,
            Record::Corrupt(_) => corrupt.push(number),
            Record::Lease {
                id,
                offset,
                updating,
            } => {
                if updating {
                    findings.warning(
                        "xleases",
                        format!("lease {id} in record {number} is half-made or half-removed"),
                        REBUILD,
                    );
                } else if let Some(first) = seen.insert(id, number) {
                    findings.error(
                        "xleases",
                        format!("lease {id} is in records {first} and {number}"),
                        REBUILD,
                    );
                }
                if number >= room {
                    findings.error(
                        "xleases",
                        format!("lease {id} in record {number} lies behind the end of the volume"),
                        REBUILD,
                    );
                } else if offset != lease_offset(geometry, number) {
                    findings.note(
                        "xleases",
                        format!(
                            "record {number} says that its lease is at {offset}, it is at {}",
                            lease_offset(geometry, number)
                        ),
                        "",
                    );
                }
            }
        }
        used += 1;
    }
    if let Some(first) = corrupt.first() {
        findings.error(
            "xleases",
            format!(
                "{} records make no sense, the first is record {first}",
                corrupt.len()
            ),
            REBUILD,
        );
    }
    if nearly_full(used, limit) {
        findings.warning(
            "xleases",
            format!("{used} of {limit} external leases are used"),
            "",
        );
    }
    index
        .leases()
        .map(|(record, id)| (id, lease_offset(geometry, record)))
        .collect()
}

fn mail(name: &'static str, bytes: &[u8], context: &Context<'_>, findings: &mut Findings) {
    let inbox = name == "inbox";
    let mut waiting = 0_usize;
    for (number, block) in bytes.chunks(MAILBOX_BYTES).enumerate() {
        let Ok(mailbox) = Mailbox::from_bytes(block) else {
            findings.error(name, format!("{} bytes: it is cut off", bytes.len()), "");
            break;
        };
        let host = u64::try_from(number)
            .ok()
            .and_then(|id| HostId::new(id).ok());
        let Some(host) = host else {
            let blank = block.iter().all(|&byte| byte == 0);
            if inbox && !blank && EventBlock::decode(block).is_none() {
                findings.warning(
                    name,
                    "garbage in the event block",
                    "the next event overwrites it",
                );
            }
            continue;
        };
        let seal = if inbox { mailbox.verify() } else { Seal::Good };
        let fault = match seal {
            Seal::Good | Seal::Blank => None,
            Seal::None => Some("it has mail and no checksum".to_owned()),
            Seal::Wrong { found, computed } => Some(format!(
                "checksum {found:#010x}, the content gives {computed:#010x}"
            )),
        };
        if let Some(fault) = fault {
            findings.warning(
                name,
                format!("mailbox of host {host}: {fault}"),
                "it is ignored until the host writes it anew",
            );
            continue;
        }
        for (slot, message) in mailbox.messages() {
            match message {
                Message::Empty | Message::Clean => {}
                Message::Extend(extend) => {
                    waiting += 1;
                    let strange =
                        extend.domain == context.id && !context.volumes.contains(&extend.volume);
                    if strange {
                        findings.note(
                            name,
                            format!(
                                "host {host}, slot {slot}: volume {} is not in the domain",
                                extend.volume
                            ),
                            "",
                        );
                    }
                }
                Message::Unknown(_) => findings.warning(
                    name,
                    format!("host {host}, slot {slot}: garbage"),
                    "it is ignored; a restart of that host's storage clears it",
                ),
            }
        }
    }
    let regular = context
        .metadata
        .is_some_and(|metadata| metadata.role() == DomainRole::Regular);
    if regular && waiting > 0 {
        findings.note(
            name,
            format!("{waiting} messages in a domain that is no master: left from before"),
            "",
        );
    }
}
