//! A healthy domain to damage, and how findings are looked for.

use std::collections::BTreeMap;

use disk_format::vdsm::check::{self, BlockFacts, Grade, LvFacts, Report};
use disk_format::vdsm::domain::{Backing, NewDomain};
use disk_format::vdsm::lvm::{Device, Label, Vg};
use disk_format::vdsm::mailbox::{AREA_BYTES, Mailbox};
use disk_format::vdsm::{
    Allocation, DiskType, DomainClass, DomainId, DomainMetadata, DomainType, DomainVersion,
    ImageId, Legality, SlotFormat, SlotNumber, SpecialLv, VolumeFormat, VolumeId, VolumeMetadata,
    VolumeTags, VolumeType,
};
use disk_format::vdsm::{lvm, xlease};
use disk_format::{Geometry, HostBitmap, LockspaceName, ResourceName, delta, paxos};

pub(crate) const PV: &str = "7HE5Ra-73SW-KaCl-veh2-b9QY-A3gF-grpkaj";

pub(crate) fn domain() -> DomainId {
    "8adbc85e-e554-4ae0-b318-8a5465fe5fe1".parse().unwrap()
}

pub(crate) fn image(number: u8) -> ImageId {
    ImageId::from_bytes([number; 16])
}

pub(crate) fn volume(number: u8) -> VolumeId {
    VolumeId::from_bytes([number; 16])
}

pub(crate) fn volume_metadata(number: u8, parent: VolumeId) -> VolumeMetadata {
    VolumeMetadata {
        domain: domain(),
        image: image(1),
        parent,
        capacity_bytes: 10 << 30,
        ctime_s: 1,
        description: "x".to_owned(),
        disk_type: DiskType::Data,
        format: VolumeFormat::Cow,
        generation: 0,
        legality: Legality::Legal,
        sequence: u32::from(number),
        volume_type: VolumeType::Leaf,
        allocation: Allocation::Sparse,
    }
}

/// Has a base, volume 1, and a leaf, volume 2.
pub(crate) struct Block {
    pub(crate) facts: BlockFacts,
    pub(crate) metadata: DomainMetadata,
    pub(crate) volumes: BTreeMap<u8, VolumeMetadata>,
    pub(crate) index: xlease::Index,
    pub(crate) inbox: BTreeMap<usize, Mailbox>,
}

impl Block {
    pub(crate) fn healthy() -> Self {
        let path = format!(
            "{}/tests/golden/vdsm-lvm/vg-metadata-text.txt",
            env!("CARGO_MANIFEST_DIR")
        );
        let vg = Vg::parse(&std::fs::read(path).unwrap()).unwrap();
        let devices: Vec<(String, Device)> = vg
            .pvs
            .values()
            .enumerate()
            .map(|(number, pv)| {
                let area = |offset| lvm::label::Area {
                    offset,
                    bytes: 128 << 20,
                };
                let copy = |offset| lvm::Copy {
                    area: area(offset),
                    ignored: number > 0,
                    text_bytes: (number == 0).then_some(5534),
                    vg: Ok((number == 0).then(|| vg.clone())),
                };
                let label = Label {
                    uuid: pv.uuid.clone(),
                    device_bytes: 100 << 30,
                    data: vec![],
                    metadata: vec![area(4096), area(99 << 30)],
                };
                let copies = vec![copy(4096), copy(99 << 30)];
                (format!("/dev/mapper/{number}"), Device { label, copies })
            })
            .collect();
        let mut facts = BlockFacts::of_vg(&vg, &devices);
        facts
            .lvs
            .retain(|lv| SpecialLv::from_name(&lv.name).is_some());
        let mapping = facts
            .pvs
            .iter()
            .map(|pv| disk_format::vdsm::PvMapping {
                device: "36001405".to_owned(),
                uuid: pv.uuid.clone(),
                start: 0,
                extents: pv.extents,
                offset: 0,
            })
            .collect();
        let metadata = DomainMetadata::new(&NewDomain {
            id: domain(),
            version: DomainVersion::V5,
            kind: DomainType::Fcp,
            class: DomainClass::Data,
            description: "sample".to_owned(),
            backing: Backing::Block {
                vg_uuid: facts.uuid.clone(),
                pvs: mapping,
            },
            block_bytes: 512,
            alignment_bytes: 1 << 20,
        })
        .unwrap();
        let base = VolumeMetadata {
            volume_type: VolumeType::Internal,
            ..volume_metadata(1, VolumeId::BLANK)
        };
        Self {
            facts,
            metadata,
            volumes: BTreeMap::from([(1, base), (2, volume_metadata(2, volume(1)))]),
            index: xlease::Index::empty(&domain(), 1),
            inbox: BTreeMap::new(),
        }
    }

    /// The facts with everything put in.
    pub(crate) fn facts(&self) -> BlockFacts {
        let mut facts = self.facts.clone();
        if facts.tags.iter().any(|tag| tag.starts_with("RHAT")) {
            facts.tags.retain(|tag| !tag.starts_with("MDT_"));
            facts.tags.extend(self.metadata.to_vg_tags().unwrap());
        }
        for (number, metadata) in &self.volumes {
            let slot = SlotNumber(u32::from(*number));
            let tags = VolumeTags {
                slot,
                image: image(1),
                parent: metadata.parent,
            };
            facts.lvs.push(LvFacts {
                name: volume(*number).to_string(),
                tags: tags.encode().into(),
                size_bytes: 1 << 30,
                start: Some((PV.to_owned(), 100)),
            });
            let bytes = metadata.encode_slot(SlotFormat::V5).unwrap();
            facts.slots.entry(slot).or_insert(Ok(bytes.to_vec()));
        }
        facts
            .areas
            .index
            .get_or_insert(Ok(self.index.bytes().to_vec()));
        facts.areas.xleases_bytes.get_or_insert(1 << 30);
        let mut inbox = vec![0; AREA_BYTES];
        for (host, mailbox) in &self.inbox {
            inbox[host * 4096..][..4096].copy_from_slice(mailbox.bytes());
        }
        facts.areas.inbox.get_or_insert(Ok(inbox));
        facts.areas.outbox.get_or_insert(Ok(vec![0; AREA_BYTES]));
        let lockspace = LockspaceName::new(&domain().to_string()).unwrap();
        let geometry = Geometry::Sector512Align1M;
        let mut sector = vec![0; 512];
        let leader = delta::initial(&lockspace, geometry, 10);
        delta::encode_sector(&leader, &HostBitmap::EMPTY, &mut sector);
        facts.areas.ids.get_or_insert(Ok(sector));
        let name = ResourceName::new("SDM").unwrap();
        let leader = paxos::initial(lockspace.field(), name.field(), geometry, 2000);
        facts.areas.sdm.get_or_insert(Ok(leader.encode().to_vec()));
        facts
    }

    pub(crate) fn check(&self) -> Report {
        check::block(&self.facts())
    }

    pub(crate) fn lv(&mut self, name: &str, tags: &[&str]) {
        self.facts.lvs.push(LvFacts {
            name: name.to_owned(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            size_bytes: 1 << 30,
            start: None,
        });
    }
}

/// There is exactly this finding.
#[track_caller]
pub(crate) fn only(report: &Report, grade: Grade, words: &str) {
    let texts: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    let [finding] = report.findings.as_slice() else {
        panic!("expected {words:?} alone: {texts:#?}");
    };
    assert_eq!(finding.grade, grade, "{texts:?}");
    assert!(texts[0].contains(words), "expected {words:?}: {texts:?}");
}

/// There is this finding, perhaps with others that follow from it.
#[track_caller]
pub(crate) fn has(report: &Report, words: &str) {
    let texts: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert!(
        texts.iter().any(|text| text.contains(words)),
        "expected {words:?}: {texts:#?}"
    );
}
