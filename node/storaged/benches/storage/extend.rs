//! Extends a second while 249 hosts want one at once: an `lvextend` for each
//! request against one commit for all that are pending, with the real `lvm` on a
//! loop device, at several numbers of volumes.
//!
//! CPU is that of the lvm processes; wall time includes what this process reads,
//! plans and compares.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
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

use crate::table::{Line, Unit};
use crate::{Scale, children_s};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Hosts that ask at once.
const PENDING: usize = 249;

/// Extents of each segment of the volumes that are there already.
const EXTENTS: u64 = 2;

/// The section.
pub(crate) fn run(scale: Scale) -> Result<()> {
    let counts: &[usize] = match scale {
        Scale::Full => &[50, 350, 1300],
        Scale::Quick => &[50],
    };
    counts.iter().try_for_each(|count| measure(*count))
}

fn measure(count: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    fs::File::create(&disk)?.set_len(4096 * GIB)?;
    let device = LoopDevice::attach(
        &disk,
        &Options {
            block_size: 512,
            read_only: false,
            direct_io: true,
            auto_clear: true,
        },
    )?;
    let paths = vec![device.path().to_path_buf()];
    let env = LvmEnv::metadata_only(Layout::under(folder.path()), paths.clone());
    let lvm = Arc::new(Lvm::new(env));
    let id = DomainId::from_random(random()?);
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
    )?;
    let volumes = fill(&domain, folder.path(), count)?;
    let group = domain.group()?;
    let mib = |step: u64| (4 * EXTENTS + 20 * step) * 128;

    let samples = if count > 1000 { 5 } else { 20 };
    let cpu = children_s()?;
    let start = Instant::now();
    for volume in volumes.iter().take(samples) {
        let change = Change::ExtendVolume {
            name: &volume.to_string(),
            mib: mib(1),
            map: false,
        };
        lvm.change(&context, &authority, &id.to_string(), &change)?;
    }
    let one = start.elapsed().as_secs_f64() / samples as f64;
    let one_cpu = (children_s()? - cpu) / samples as f64;

    // As many as there are, round robin where there are fewer volumes.
    let requests: Vec<(VolumeId, u64)> = (0..PENDING)
        .map(|n| {
            let round = u64::try_from(n / volumes.len())?;
            Ok((volumes[n % volumes.len()], mib(2 + round) * MIB))
        })
        .collect::<Result<_>>()?;
    let cpu = children_s()?;
    let start = Instant::now();
    let answers = domain.extend_many(&context, &authority, &requests)?;
    let batch = start.elapsed().as_secs_f64();
    let batch_cpu = children_s()? - cpu;
    ensure!(
        answers.iter().all(std::result::Result::is_ok),
        "an extend was refused"
    );
    let seqno = group.seqno + u64::try_from(samples)? + 1;
    ensure!(domain.group()?.seqno == seqno, "more than one commit");
    lvm.check(&context, &id.to_string())?;

    let line = |what: &str, unit, vdsm, ours, aim| {
        Line {
            section: "extend",
            what: &format!("{what}, {count} volumes"),
            unit,
            vdsm,
            ours,
            aim,
        }
        .print();
    };
    let pending = PENDING as f64;
    let (each, each_cpu) = (batch / pending, batch_cpu / pending);
    line(
        "extends a second, 249 pending",
        Unit::PerSecond,
        Some(1.0 / one),
        1.0 / each,
        "20 x",
    );
    line(
        "CPU of lvm an extend",
        Unit::Microseconds,
        Some(one_cpu * 1e6),
        each_cpu * 1e6,
        "",
    );
    line(
        "the commit of all",
        Unit::Milliseconds,
        None,
        batch * 1e3,
        "",
    );
    Ok(())
}

/// Puts `count` volumes of four segments each in the domain, in one commit.
fn fill(domain: &BlockDomain, folder: &Path, count: usize) -> Result<Vec<VolumeId>> {
    let group = domain.group()?;
    let next = group.total_extents() - group.free_extents();
    let mut sections = String::new();
    let mut volumes = Vec::new();
    let total = u64::try_from(count)?;
    for number in 0..total {
        let id = VolumeId::from_random(random()?);
        write!(
            sections,
            "\n{id} {{\nid = \"{}\"\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []\n\
             tags = [\"IU_{id}\", \"MD_{}\", \"PU_{}\"]\ncreation_time = 1700000000\n\
             creation_host = \"bench\"\nsegment_count = 4\n",
            lvm_id()?,
            number + 1,
            VolumeId::BLANK
        )?;
        for segment in 0..4 {
            // Not next to each other: LVM would join them.
            let first = next + (segment * total + number) * (EXTENTS + 1);
            write!(
                sections,
                "\nsegment{} {{\nstart_extent = {}\nextent_count = {EXTENTS}\n\
                 type = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv0\", {first}\n]\n}}\n",
                segment + 1,
                segment * EXTENTS
            )?;
        }
        sections.push_str("}\n");
        volumes.push(id);
    }
    let end = group
        .text
        .find("\nlogical_volumes {")
        .context("no volumes in the metadata")?
        + "\nlogical_volumes {".len();
    let mut text = group.text[..end].to_owned();
    text.push_str(&sections);
    text.push_str(&group.text[end..]);
    let file = folder.join("filled");
    fs::write(&file, text)?;
    let authority = Unattached {
        domain: group.name.clone(),
    };
    let change = Change::Restore { file: &file };
    domain
        .lvm()
        .change(&Context::quiet(), &authority, &group.name, &change)?;
    Ok(volumes)
}

fn random() -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut source = fs::File::open("/dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes)?;
    Ok(bytes)
}

/// An id as LVM makes them.
fn lvm_id() -> Result<String> {
    let letters: Vec<char> = random()?
        .into_iter()
        .chain(random()?)
        .map(|byte| char::from(b'a' + byte % 26))
        .collect();
    let mut text = String::new();
    for (place, letter) in letters.into_iter().enumerate() {
        if matches!(place, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(letter);
    }
    Ok(text)
}
