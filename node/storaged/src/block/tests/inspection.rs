//! What is made here, and what is done to it, has no findings when it is read
//! offline: by the format's own checker, from the disks alone.

use std::fs::File;
use std::os::unix::fs::FileExt;

use disk_format::vdsm::check::{self, BlockFacts, Report as Inspection};
use disk_format::vdsm::lvm::Device;
use disk_format::vdsm::lvm::label::{Area, newest, read_device};

use super::*;

fn read(path: &std::path::Path, area: Area) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = vec![0; usize::try_from(area.bytes).unwrap()];
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.read_exact_at(&mut bytes, area.offset)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn inspect(lab: &Lab) -> Inspection {
    let devices: Vec<(String, Device)> = lab
        .loops
        .paths()
        .into_iter()
        .map(|path| {
            let device = read_device(|area| read(&path, area)).unwrap();
            (path.display().to_string(), device)
        })
        .collect();
    let vg = newest(devices.iter().map(|(_, device)| device)).unwrap();
    let facts = BlockFacts::read(vg, &devices, |pv, area| {
        let (path, _) = devices
            .iter()
            .find(|(_, device)| device.label.uuid == pv)
            .unwrap();
        read(path.as_ref(), area)
    });
    check::block(&facts)
}

#[test]
fn a_domain_made_here_has_no_findings() {
    for version in [DomainVersion::V4, DomainVersion::V5] {
        let lab = Lab::new(&[12, 12]);
        let domain = lab.domain(version);
        assert_eq!(inspect(&lab).findings, [], "version {version}");
        let image = fresh(ImageId::from_random);
        let entry = volume(&domain, image, 1024);
        let report = inspect(&lab);
        // Making its lease is the lease daemon's part, and there is none here.
        let words: Vec<&str> = report
            .findings
            .iter()
            .map(|finding| finding.message.as_str())
            .collect();
        assert_eq!(words, ["its lease was never made: zeros"], "{version}");
        assert_eq!(report.volumes.len(), 1);
        assert_eq!(report.volumes[0].id, entry.id);
        assert_eq!(report.metadata.unwrap().id(), domain.id());
    }
}
