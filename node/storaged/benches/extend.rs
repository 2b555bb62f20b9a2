//! Extends per second: one `lvextend` a request against one commit for all that
//! are pending, with the real `lvm` on loop devices, at several numbers of
//! volumes. Run as root: `cargo bench -p storaged --bench extend`.
//!
//! CPU seconds are those of the lvm processes; wall time includes what this
//! process reads, plans and compares.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a measurement ends at the first thing that does not work"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use disk_format::vdsm::domain::{DomainClass, DomainType};
use disk_format::vdsm::uuid::{DomainId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use linux::loop_device::{LoopDevice, Options};
use storaged::authority::Unattached;
use storaged::block::{BlockDomain, NewBlockDomain, create};
use storaged::image::leases::NoLeases;
use storaged::job::Context;
use storaged::layout::Layout;
use storaged::lvm::{Change, Lvm, LvmEnv};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Hosts that ask at once.
const PENDING: usize = 249;

/// Extents of each segment of the volumes that are there already.
const EXTENTS: u64 = 2;

fn main() {
    println!("volumes\ttext KiB\tone by one\tCPU each\tbatch of {PENDING}\tCPU\tratio");
    for count in [50, 350, 1300] {
        measure(count);
    }
}

fn measure(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::File::create(&disk)
        .unwrap()
        .set_len(4096 * GIB)
        .unwrap();
    let device = LoopDevice::attach(
        &disk,
        &Options {
            block_size: 512,
            read_only: false,
            direct_io: true,
            auto_clear: true,
        },
    )
    .unwrap();
    let paths = vec![device.path().to_path_buf()];
    let env = LvmEnv::metadata_only(Layout::under(folder.path()), paths.clone());
    let lvm = Arc::new(Lvm::new(env));
    let id = DomainId::from_random(random());
    let authority = Unattached {
        domain: id.to_string(),
    };
    let context = Context::quiet();
    let domain = create(
        &lvm,
        &context,
        &NoLeases,
        &NewBlockDomain {
            id,
            version: DomainVersion::V5,
            kind: DomainType::Iscsi,
            class: DomainClass::Data,
            description: "measured".to_owned(),
            devices: paths,
            force: false,
        },
    )
    .unwrap();
    let volumes = fill(&domain, folder.path(), count);
    let group = domain.group().unwrap();
    let mib = |step: u64| (4 * EXTENTS + 20 * step) * 128;

    let samples = if count > 1000 { 5 } else { 20 };
    let cpu = children_s();
    let start = Instant::now();
    for volume in volumes.iter().take(samples) {
        let change = Change::ExtendVolume {
            name: &volume.to_string(),
            mib: mib(1),
            map: false,
        };
        lvm.change(&context, &authority, &id.to_string(), &change)
            .unwrap();
    }
    let one = start.elapsed().as_secs_f64() / samples as f64;
    let one_cpu = (children_s() - cpu) / samples as f64;

    // As many as there are, round robin where there are fewer volumes.
    let requests: Vec<(VolumeId, u64)> = (0..PENDING)
        .map(|n| {
            let round = u64::try_from(n / volumes.len()).unwrap();
            (volumes[n % volumes.len()], mib(2 + round) * MIB)
        })
        .collect();
    let cpu = children_s();
    let start = Instant::now();
    let answers = domain.extend_many(&context, &authority, &requests).unwrap();
    let batch = start.elapsed().as_secs_f64();
    let batch_cpu = children_s() - cpu;
    assert!(answers.iter().all(Result::is_ok));
    let seqno = group.seqno + u64::try_from(samples).unwrap() + 1;
    assert_eq!(domain.group().unwrap().seqno, seqno);
    lvm.check(&context, &id.to_string()).unwrap();

    let each = batch / PENDING as f64;
    println!(
        "{count}\t{}\t{:.1} /s\t{one_cpu:.3} s\t{:.1} /s ({batch:.2} s)\t{batch_cpu:.3} s\t{:.0}",
        group.text.len() >> 10,
        1.0 / one,
        1.0 / each,
        one / each,
    );
}

/// Puts `count` volumes of four segments each in the domain, in one commit.
fn fill(domain: &BlockDomain, folder: &Path, count: usize) -> Vec<VolumeId> {
    let group = domain.group().unwrap();
    let next = group.total_extents() - group.free_extents();
    let mut sections = String::new();
    let mut volumes = Vec::new();
    let total = u64::try_from(count).unwrap();
    for number in 0..total {
        let id = VolumeId::from_random(random());
        write!(
            sections,
            "\n{id} {{\nid = \"{}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []\n\
             tags = [\"IU_{id}\", \"MD_{}\", \"PU_{}\"]\ncreation_time = 1700000000\n\
             creation_host = \"bench\"\nsegment_count = 4\n",
            lvm_id(),
            number + 1,
            VolumeId::BLANK
        )
        .unwrap();
        for segment in 0..4 {
            // Not next to each other: LVM would join them.
            let first = next + (segment * total + number) * (EXTENTS + 1);
            write!(
                sections,
                "\nsegment{} {{\nstart_extent = {}\nextent_count = {EXTENTS}\n\
                 type = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv0\", {first}\n]\n}}\n",
                segment + 1,
                segment * EXTENTS
            )
            .unwrap();
        }
        sections.push_str("}\n");
        volumes.push(id);
    }
    let end = group.text.find("\nlogical_volumes {").unwrap() + "\nlogical_volumes {".len();
    let mut text = group.text[..end].to_owned();
    text.push_str(&sections);
    text.push_str(&group.text[end..]);
    let file = folder.join("filled");
    fs::write(&file, text).unwrap();
    let authority = Unattached {
        domain: group.name.clone(),
    };
    let change = Change::Restore { file: &file };
    domain
        .lvm()
        .change(&Context::quiet(), &authority, &group.name, &change)
        .unwrap();
    volumes
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    let mut source = fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut source, &mut bytes).unwrap();
    bytes
}

/// An id as LVM makes them.
fn lvm_id() -> String {
    let letters: Vec<char> = random()
        .into_iter()
        .chain(random())
        .map(|byte| char::from(b'a' + byte % 26))
        .collect();
    let mut text = String::new();
    for (place, letter) in letters.into_iter().enumerate() {
        if matches!(place, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(letter);
    }
    text
}

/// CPU seconds of children that have ended.
fn children_s() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    // cutime and cstime, in hundredths.
    let ticks: f64 = fields[13..15]
        .iter()
        .map(|f| f.parse::<f64>().unwrap())
        .sum();
    ticks / 100.0
}
