//! Changes of the index, as steps in the order in which they have to be done.

use std::collections::{BTreeMap, BTreeSet};

use super::{Index, Record, index_offset, lease_offset, records_in};
use crate::geometry::Geometry;
use crate::vdsm::uuid::{DomainId, LeaseId};

/// Why a change of the index is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XleaseError {
    /// There is such a lease.
    #[error("lease {0} exists")]
    Exists(LeaseId),
    /// There is no such lease.
    #[error("lease {0}: there is no such lease")]
    NotFound(LeaseId),
    /// All records that fit in the volume are used.
    #[error(
        "index of external leases is full: all {0} records that the volume has room for are used"
    )]
    Full(usize),
    /// Its last writer stopped half-way.
    #[error("index of external leases is in update state: rebuild it before using it")]
    Updating,
}

/// Where a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Number of its record.
    pub record: usize,
    /// Where its resource is in the `xleases` volume, in bytes.
    pub offset: u64,
}

/// One step of a change. When one fails, those after it must not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write these whole blocks of the `xleases` volume with one direct write.
    WriteIndex {
        /// Where, in bytes from the start of the volume.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Have the lease daemon write a free resource.
    WriteResource {
        /// Where, in bytes from the start of the volume.
        offset: u64,
        /// Its name.
        lease: LeaseId,
    },
    /// Have the lease daemon clear the resource that is there (empty name).
    ClearResource {
        /// Where, in bytes from the start of the volume.
        offset: u64,
        /// Whether failing does no harm: the record is free already.
        may_fail: bool,
    },
}

impl Index {
    /// Finds a lease.
    ///
    /// # Errors
    /// When there is none of this id, or the index is in update state.
    pub fn lookup(&self, lease: &LeaseId, geometry: Geometry) -> Result<Location, XleaseError> {
        self.usable()?;
        self.leases()
            .find(|(_, id)| id == lease)
            .map(|(record, _)| Location {
                record,
                offset: lease_offset(geometry, record),
            })
            .ok_or(XleaseError::NotFound(*lease))
    }

    /// Adds a lease: in the record an old version left half-made for it, or in
    /// the first free one. The index here becomes what it is after the steps.
    ///
    /// # Errors
    /// When it exists, nothing is free in a volume of that size, or the index
    /// is in update state.
    pub fn add(
        &mut self,
        lease: &LeaseId,
        geometry: Geometry,
        volume_bytes: u64,
    ) -> Result<(Location, Vec<Step>), XleaseError> {
        self.usable()?;
        let room = records_in(geometry, volume_bytes);
        let mut free = None;
        let mut half_made = None;
        for (number, record) in self.records().enumerate() {
            match record {
                Record::Lease { id, updating, .. } if id == *lease => {
                    if !updating {
                        return Err(XleaseError::Exists(*lease));
                    }
                    half_made.get_or_insert(number);
                }
                Record::Free if number < room => {
                    free.get_or_insert(number);
                }
                Record::Free | Record::Lease { .. } | Record::Corrupt(_) => {}
            }
        }
        let record = half_made
            .filter(|&number| number < room)
            .or(free)
            .ok_or(XleaseError::Full(room))?;
        let offset = lease_offset(geometry, record);
        self.set(
            record,
            &Record::Lease {
                id: *lease,
                offset,
                updating: false,
            },
        );
        let steps = vec![
            Step::WriteResource {
                offset,
                lease: *lease,
            },
            self.write_record(record, geometry),
        ];
        Ok((Location { record, offset }, steps))
    }

    /// Removes a lease. The index here becomes what it is after the steps.
    ///
    /// # Errors
    /// When there is none of this id, or the index is in update state.
    pub fn remove(
        &mut self,
        lease: &LeaseId,
        geometry: Geometry,
    ) -> Result<Vec<Step>, XleaseError> {
        self.usable()?;
        // Half-made ones can be removed too.
        let record = self
            .records()
            .position(|record| matches!(record, Record::Lease { id, .. } if id == *lease))
            .ok_or(XleaseError::NotFound(*lease))?;
        self.set(record, &Record::Free);
        Ok(vec![
            self.write_record(record, geometry),
            Step::ClearResource {
                offset: lease_offset(geometry, record),
                may_fail: true,
            },
        ])
    }

    /// Makes an index without leases.
    #[must_use]
    pub fn format(domain: &DomainId, mtime_s: u64, geometry: Geometry) -> (Self, Vec<Step>) {
        let mut index = Self::empty(domain, mtime_s);
        let steps = index.write_all(mtime_s, geometry);
        (index, steps)
    }

    /// Makes index and resources agree again. The index is the truth where it
    /// makes sense; `found` is what the lease daemon says of the resources of
    /// the records: the name, for those that have one. A name that is no
    /// lease's counts as [`LeaseId::BLANK`].
    #[must_use]
    pub fn rebuild(
        &mut self,
        found: &BTreeMap<usize, LeaseId>,
        mtime_s: u64,
        geometry: Geometry,
        volume_bytes: u64,
    ) -> Vec<Step> {
        let room = records_in(geometry, volume_bytes);
        let records: Vec<Record> = self.records().collect();
        let mut named: BTreeSet<LeaseId> = records
            .iter()
            .take(room)
            .filter_map(|record| match record {
                Record::Lease { id, .. } => Some(*id),
                Record::Free | Record::Corrupt(_) => None,
            })
            .collect();
        let mut seen = BTreeSet::new();
        let mut steps = Vec::new();
        for (number, record) in records.into_iter().enumerate() {
            let offset = lease_offset(geometry, number);
            let resource = found.get(&number).filter(|_| number < room);
            let lease = match record {
                _ if number >= room => None,
                // What an old version left half-made stays when it was made.
                Record::Lease { id, updating, .. } => {
                    (seen.insert(id) && (!updating || resource == Some(&id))).then_some(id)
                }
                Record::Corrupt(_) => resource
                    .copied()
                    .filter(|id| !id.is_blank() && named.insert(*id) && seen.insert(*id)),
                Record::Free => None,
            };
            match (lease, resource) {
                (Some(lease), resource) if resource != Some(&lease) => {
                    steps.push(Step::WriteResource { offset, lease });
                }
                (None, Some(_)) => steps.push(Step::ClearResource {
                    offset,
                    may_fail: false,
                }),
                (Some(_) | None, _) => {}
            }
            let record = lease.map_or(Record::Free, |id| Record::Lease {
                id,
                offset,
                updating: false,
            });
            self.set(number, &record);
        }
        steps.extend(self.write_all(mtime_s, geometry));
        steps
    }

    fn usable(&self) -> Result<(), XleaseError> {
        if self.is_updating() {
            Err(XleaseError::Updating)
        } else {
            Ok(())
        }
    }

    /// The whole index in update state, then its first block in normal state.
    fn write_all(&mut self, mtime_s: u64, geometry: Geometry) -> Vec<Step> {
        self.set_metadata(mtime_s, true);
        let all = Step::WriteIndex {
            offset: index_offset(geometry),
            bytes: self.bytes().to_vec(),
        };
        self.set_metadata(mtime_s, false);
        vec![all, self.write_block(0, geometry)]
    }

    fn write_record(&self, record: usize, geometry: Geometry) -> Step {
        let place = super::METADATA_BYTES + record * super::RECORD_BYTES;
        self.write_block(place / geometry.sector_bytes(), geometry)
    }

    fn write_block(&self, block: usize, geometry: Geometry) -> Step {
        let size = geometry.sector_bytes();
        let start = block * size;
        Step::WriteIndex {
            offset: index_offset(geometry) + u64::try_from(start).unwrap_or(u64::MAX),
            bytes: self
                .bytes()
                .get(start..start + size)
                .unwrap_or_default()
                .to_vec(),
        }
    }
}
