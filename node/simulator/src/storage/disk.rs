//! Inbox and outbox, and the metadata of each domain.
//!
//! The fault model of the mailbox volumes: a read or write may take long, fail,
//! fail and be done all the same, be given up and be done much later (even on
//! top of later ones, even after the process that asked for it is dead), be
//! called done and never be done, or be done in two parts, split between
//! sectors of 512 bytes.
//!
//! A domain's metadata is one document. Whoever changes it reads all of it and
//! writes all of it: of two writers at once one is lost.

use std::collections::BTreeMap;

use disk_format::vdsm::VolumeId;
use mailbox::Volume;

/// Bytes of a sector: what is written at once.
pub(super) const SECTOR: usize = 512;

/// Volumes' sizes, MiB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) sequence: u64,
    pub(super) sizes: BTreeMap<VolumeId, u32>,
}

/// What the hosts share.
#[derive(Debug)]
pub(super) struct Disk {
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Index: domain.
    pub(super) metadata: Vec<Metadata>,
}

impl Disk {
    pub(super) fn new(mailboxes: u16, domains: usize) -> Self {
        let bytes = usize::from(mailboxes) * 4096;
        Self {
            inbox: vec![0; bytes],
            outbox: vec![0; bytes],
            metadata: vec![Metadata::default(); domains],
        }
    }

    pub(super) fn read(&self, volume: Volume, offset: usize, length: usize) -> Vec<u8> {
        let bytes = match volume {
            Volume::Inbox => &self.inbox,
            Volume::Outbox => &self.outbox,
        };
        bytes[offset..offset + length].to_vec()
    }

    pub(super) fn write(&mut self, volume: Volume, offset: usize, bytes: &[u8]) {
        let place = match volume {
            Volume::Inbox => &mut self.inbox,
            Volume::Outbox => &mut self.outbox,
        };
        place[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn size(&self, domain: usize, volume: VolumeId) -> u32 {
        let sizes = self.metadata.get(domain).map(|metadata| &metadata.sizes);
        sizes
            .and_then(|sizes| sizes.get(&volume))
            .copied()
            .unwrap_or(0)
    }
}
