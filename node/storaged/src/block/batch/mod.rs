//! Making many volumes larger in one LVM commit.
//!
//! `lvextend` takes one volume, and each run of it reads, writes and commits the
//! whole metadata of the group. With hundreds of requests pending that is
//! hundreds of commits of a text of a megabyte. `vgcfgrestore` commits a text as
//! a whole, through the same code as every other LVM command: the text is put
//! behind the current one in the ring, the header is switched over to it, and
//! the current one stays as it is. So the new segments of all requests are put
//! in the current text and committed at once:
//!
//! 1. the group is locked against this host's other commands; other hosts do not
//!    write, that is what the authority proves;
//! 2. the current text is read from the disk;
//! 3. free extents are given to the requests (`plan`), and the text is edited
//!    (`edit`), nothing else of it changing;
//! 4. the edited text is parsed anew, by another parser, and must be the old
//!    group with exactly the planned extents more, none of them shared;
//! 5. `vgcfgrestore` commits it;
//! 6. the text is read again: its number must be the old one plus one, and its
//!    content what was planned. This decides, not the exit status.
//!
//! Where the group has anything but linear volumes, or a device is missing, or
//! only one volume grows, `lvextend` does it as ever. Neither way touches this
//! host's mappings.

mod edit;
mod plan;

use std::collections::BTreeMap;
use std::fs;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::lvm::text::Vg;
use disk_format::vdsm::uuid::VolumeId;

use self::edit::Growth;
use self::plan::{Answer, Extents, Piece};
use super::{BlockDomain, Group};
use crate::authority::Authority;
use crate::domain::EntryState;
use crate::job::{Context, Result};
use crate::lvm::{Change, GroupLock};

/// Growing volumes from which on one commit for all is made.
const TOGETHER_MIN: usize = 2;

impl BlockDomain {
    /// Makes each volume at least so many bytes large, all in one commit. One
    /// that finds no room does not keep the others from growing. Returns the size
    /// of each, in the order asked for.
    ///
    /// # Errors
    /// When nothing can be said of any: authority, I/O. Per volume: `NotFound`,
    /// `WrongState`, `NoSpace`.
    pub fn extend_many(
        &self,
        context: &Context,
        authority: &dyn Authority,
        requests: &[(VolumeId, u64)],
    ) -> Result<Vec<Result<u64>>> {
        let lock = self.lvm.lock_group(&self.name)?;
        let group = self.group()?;
        let wanted: Vec<(String, u64)> = requests
            .iter()
            .map(|&(id, bytes)| (id.to_string(), group.extents_for(bytes)))
            .collect();
        let grows = |(name, extents): &&(String, u64)| {
            group.volume(name).is_some_and(|v| v.extents() < *extents)
        };
        let together = wanted.iter().filter(grows).count() >= TOGETHER_MIN;
        let planned = together
            .then(|| plan(&group, &wanted))
            .transpose()
            .unwrap_or_else(|reason| {
                tracing::info!(domain = self.name, reason, "volumes extended one by one");
                None
            });
        match planned {
            Some(planned) => self.commit(context, authority, &lock, &group, &planned)?,
            None => {
                for (name, extents) in &wanted {
                    self.extend_one(context, authority, &lock, name, *extents)?;
                }
            }
        }
        let group = self.group()?;
        Ok(requests
            .iter()
            .zip(&wanted)
            .map(|(&(id, _), (name, extents))| self.outcome(&group, id, name, *extents))
            .collect())
    }

    /// What became of one request, by what the group is now.
    fn outcome(&self, group: &Group, id: VolumeId, name: &str, extents: u64) -> Result<u64> {
        let entry = self.entry_of(group, id).ok_or_else(|| self.missing(id))?;
        if entry.state != EntryState::Live && entry.state != EntryState::HalfMade {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!("volume {id} of domain {}: marked for removal", self.name),
            ));
        }
        let has = entry.size_bytes / group.extent_bytes.max(1);
        if has >= extents {
            return Ok(entry.size_bytes);
        }
        let free = group.free_extents();
        if extents - has > free {
            return Err(self.no_space(name, extents - has, free));
        }
        // LVM keeps it as it is for as long; the others grow.
        if group
            .volume(name)
            .is_some_and(|volume| group.is_moving(volume))
        {
            return Err(Failure::new(
                FailureKind::WrongState,
                format!(
                    "volume {id} of domain {}: its extents are being moved to another LUN",
                    self.name
                ),
            ));
        }
        Err(Failure::new(
            FailureKind::Failed,
            format!("volume {id} of domain {}: was not extended", self.name),
        ))
    }

    /// One volume by `lvextend`. A refusal for want of room, or of the volume, is
    /// told by [`Self::outcome`]; everything else ends the whole.
    fn extend_one(
        &self,
        context: &Context,
        authority: &dyn Authority,
        lock: &GroupLock,
        name: &str,
        extents: u64,
    ) -> Result<()> {
        let group = self.group()?;
        let Some(volume) = group.volume(name) else {
            return Ok(());
        };
        let has = volume.extents();
        if has >= extents || extents - has > group.free_extents() || group.is_moving(volume) {
            return Ok(());
        }
        let change = Change::ExtendVolume {
            name,
            mib: (extents * group.extent_bytes) >> 20,
            map: false,
        };
        let said = self.lvm.change_locked(context, authority, lock, &change);
        let now = self.group()?;
        let done = now.volume(name).is_some_and(|v| v.extents() >= extents);
        match said {
            Err(failure) if !done && failure.kind != FailureKind::NoSpace => Err(failure),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Commits a plan, or finds out that it was not committed.
    fn commit(
        &self,
        context: &Context,
        authority: &dyn Authority,
        lock: &GroupLock,
        group: &Group,
        planned: &Planned,
    ) -> Result<()> {
        let folder = self.lvm.layout().lvm.join("commit");
        let file = folder.join(format!("{}-{}.extend", self.name, group.seqno));
        {
            // lvm commits what stands there: nobody but root may write it.
            let _own = crate::identity::own();
            fs::write(&file, &planned.text).map_err(|error| {
                Failure::new(FailureKind::Io, format!("{}: {error}", file.display()))
            })?;
        }
        let said =
            self.lvm
                .change_locked(context, authority, lock, &Change::Restore { file: &file });
        let now = self.group();
        if let Err(error) = fs::remove_file(&file) {
            tracing::debug!(file = %file.display(), %error, "not removed");
        }
        let now = now?;
        if now.seqno == group.seqno {
            // Nothing happened.
            return Err(match said {
                Err(failure) => failure,
                Ok(_) => Failure::new(
                    FailureKind::Failed,
                    format!("domain {}: lvm succeeded and committed nothing", self.name),
                ),
            });
        }
        let same = extents(&now).is_ok_and(|extents| extents == planned.extents);
        if now.seqno != group.seqno + 1 || !same || now.tags != group.tags {
            return Err(Failure::new(
                FailureKind::Damaged,
                format!(
                    "domain {}: metadata {} are not what was committed after {}: \
                     another host writes this domain; stop it and compare",
                    self.name, now.seqno, group.seqno
                ),
            ));
        }
        Ok(())
    }
}

/// A text ready to be committed.
struct Planned {
    text: String,
    extents: Extents,
}

/// Plans the growth, or says why it has to be done one by one.
fn plan(group: &Group, wanted: &[(String, u64)]) -> std::result::Result<Planned, String> {
    if group.is_partial() {
        return Err("a LUN is missing".to_owned());
    }
    let before = extents(group)?;
    before.check()?;
    let mut after = before.clone();
    // Devices that are closed to new extents stay in what is compared.
    after.devices.retain(|name, _| {
        group
            .physical(name)
            .is_some_and(|physical| physical.allocatable)
    });
    let requests: Vec<(&str, u64)> = wanted
        .iter()
        .filter(|(name, _)| group.volume(name).is_some_and(may_grow))
        .map(|(name, extents)| (name.as_str(), *extents))
        .collect();
    let answers = after.grow(&requests);
    after.devices = before.devices.clone();
    after.check()?;
    let mut growths: BTreeMap<&str, Vec<Piece>> = BTreeMap::new();
    for ((name, _), answer) in requests.iter().zip(answers) {
        if let Answer::Grows(pieces) = answer {
            growths.entry(name).or_default().extend(pieces);
        }
    }
    if growths.is_empty() {
        return Err("nothing can grow".to_owned());
    }
    let growths: Vec<Growth> = growths
        .into_iter()
        .map(|(name, pieces)| Growth {
            name: name.to_owned(),
            pieces: joined(pieces),
        })
        .collect();
    let text = edit::grow(&group.text, &group.name, &growths).map_err(|why| why.0)?;
    verify(group, &text, &after)?;
    Ok(Planned {
        text,
        extents: after,
    })
}

/// Volumes of images; the special ones have their size for ever.
fn may_grow(volume: &super::Logical) -> bool {
    use disk_format::vdsm::lv::LvState;
    matches!(
        volume.state(),
        LvState::Volume { .. } | LvState::Initializing { .. }
    )
}

/// Pieces that follow each other made one, when a volume was asked for twice.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut all: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match all.last_mut() {
            Some(last) if last.device == piece.device && last.first + last.count == piece.first => {
                last.count += piece.count;
            }
            _ => all.push(piece),
        }
    }
    all
}

/// Proves that the edited text is the old group with the planned extents.
fn verify(group: &Group, text: &str, planned: &Extents) -> std::result::Result<(), String> {
    let parse = |text: &str| Vg::parse(text.as_bytes()).map_err(|error| error.to_string());
    let old = parse(&group.text)?;
    let mut new = parse(text)?;
    let mut found = Extents {
        devices: new
            .pvs
            .iter()
            .map(|(name, pv)| (name.clone(), pv.pe_count))
            .collect(),
        ..Extents::default()
    };
    for (name, volume) in &mut new.lvs {
        let mut pieces: Vec<Piece> = Vec::new();
        for segment in &volume.segments {
            let stripe = segment.linear().ok_or("a segment is not linear")?;
            pieces.push(Piece {
                device: stripe.pv.clone(),
                first: stripe.extent,
                count: segment.count,
            });
        }
        found.volumes.insert(name.clone(), joined(pieces));
        let before = old.lvs.get(name).ok_or("a volume appeared")?;
        if volume.extents() < before.extents() {
            return Err(format!("volume {name} would shrink"));
        }
        // What is left must be equal to the old one.
        volume.segments.clone_from(&before.segments);
    }
    if new != old {
        return Err("something else than segments would change".to_owned());
    }
    if found != *planned {
        return Err("the text has other extents than planned".to_owned());
    }
    Ok(())
}

/// The extents of a group that has linear volumes only.
fn extents(group: &Group) -> std::result::Result<Extents, String> {
    let mut extents = Extents::default();
    for device in &group.devices {
        extents.devices.insert(device.name.clone(), device.extents);
    }
    for volume in &group.volumes {
        let mut pieces = Vec::with_capacity(volume.segments.len());
        for segment in &volume.segments {
            let (device, first) = segment
                .linear
                .clone()
                .ok_or_else(|| format!("volume {} is not linear", volume.name))?;
            pieces.push(Piece {
                device,
                first,
                count: segment.count,
            });
        }
        extents.volumes.insert(volume.name.clone(), joined(pieces));
    }
    Ok(extents)
}
