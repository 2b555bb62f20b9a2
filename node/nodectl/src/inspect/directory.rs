//! File domains: a directory with `dom_md` and `images`, read with any daemon
//! away and past the page cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use control::storage::inspection::TaskInspection;
use disk_format::vdsm::check::{self, Areas, FileFacts, FileVolume, Finding, Grade, LeaseLeader};
use disk_format::vdsm::domain::{self, DomainMetadata, DomainType};
use disk_format::vdsm::task::{self, Task};
use disk_format::vdsm::volume::META_BYTES_MAX;
use disk_format::vdsm::{DomainId, ImageId, SpecialLv, TaskId, VolumeId, mailbox, xlease};

use super::domain::Found;
use crate::disk::Disk;

/// Entries of one directory that are looked at.
const ENTRIES_MAX: usize = 20_000;
/// Files of a task: two of its own, and one for each step.
const TASK_FILES_MAX: usize = 2 + 2 * task::STEPS_MAX;

/// The domain that a directory is, or those that are in it.
pub(super) fn find(path: &Path) -> Result<Vec<Found>> {
    if path.join("dom_md").is_dir() {
        return Ok(vec![inspect(path)?]);
    }
    let mut found = Vec::new();
    for name in names(path)? {
        let inside = path.join(&name);
        if name.parse::<DomainId>().is_ok() && inside.join("dom_md").is_dir() {
            found.push(inspect(&inside)?);
        }
    }
    Ok(found)
}

/// The names in a directory, sorted.
fn names(path: &Path) -> Result<Vec<String>> {
    let context = || path.display().to_string();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).with_context(context)? {
        let entry = entry.with_context(context)?;
        if names.len() >= ENTRIES_MAX {
            anyhow::bail!("{}: more than {ENTRIES_MAX} entries", context());
        }
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn inspect(path: &Path) -> Result<Found> {
    let path = path
        .canonicalize()
        .with_context(|| path.display().to_string())?;
    let metadata = content(&path.join("dom_md/metadata"), domain::FILE_BYTES_MAX);
    let known = metadata
        .as_ref()
        .and_then(|read| DomainMetadata::from_lines(read.as_ref().ok()?).ok());
    let mut facts = FileFacts {
        name: path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default(),
        metadata,
        ..FileFacts::default()
    };
    for special in SpecialLv::ALL {
        if let Ok(about) = path.join("dom_md").join(special.name()).metadata() {
            facts.special.insert(special, about.len());
        }
    }
    facts.areas = areas(&path, known.as_ref());
    let mut faults = Vec::new();
    images(&path.join("images"), &mut facts, &mut faults);
    if let Some(metadata) = known
        .as_ref()
        .filter(|metadata| metadata.kind() != DomainType::LocalFs)
    {
        facts.areas.leaders = leaders(&path, metadata, &facts);
    }
    let mut report = check::file(&facts);
    let tasks = tasks(&path.join("master/tasks"), &mut report.findings);
    report.findings.extend(faults);
    report
        .findings
        .sort_by_key(|finding| std::cmp::Reverse(finding.grade));
    Ok(Found {
        places: vec![path.display().to_string()],
        report,
        group: None,
        tasks,
    })
}

/// A small file; `None` when it is not there.
fn content(path: &Path, longest: usize) -> Option<Result<Vec<u8>, String>> {
    path.symlink_metadata().ok()?;
    // One byte more than allowed, so that too long a file is seen as such.
    Some(read(path, 0, longest + 1))
}

fn read(path: &Path, offset: u64, length: usize) -> Result<Vec<u8>, String> {
    Disk::open(path)
        .and_then(|disk| disk.read(offset, length))
        .map_err(|error| format!("{error:#}"))
}

/// What there is to judge of the special files: those of a domain that never
/// was a master are short or empty.
fn areas(path: &Path, metadata: Option<&DomainMetadata>) -> Areas {
    let align = metadata
        .and_then(|metadata| metadata.alignment_bytes().ok())
        .map_or(1 << 20, u64::from);
    let file = |special: SpecialLv| path.join("dom_md").join(special.name());
    let area = |special: SpecialLv, offset: u64, length: usize| {
        file(special)
            .exists()
            .then(|| read(&file(special), offset, length))
    };
    let mail = |special: SpecialLv| {
        area(special, 0, mailbox::AREA_BYTES).filter(|read| match read {
            Ok(bytes) => !bytes.is_empty(),
            Err(_) => true,
        })
    };
    Areas {
        index: area(SpecialLv::Xleases, align, xlease::INDEX_BYTES),
        xleases_bytes: None,
        inbox: mail(SpecialLv::Inbox),
        outbox: mail(SpecialLv::Outbox),
        ids: area(SpecialLv::Ids, 0, 4096),
        sdm: area(SpecialLv::Leases, align, 4096),
        leaders: Vec::new(),
    }
}

/// The leases of volumes, and the external ones.
fn leaders(path: &Path, metadata: &DomainMetadata, facts: &FileFacts) -> Vec<LeaseLeader> {
    let mut leaders = Vec::new();
    let mut seen = BTreeSet::new();
    for (image, volumes) in &facts.images {
        let directory = path.join("images").join(image.to_string());
        for (id, volume) in volumes.iter().filter(|(_, volume)| volume.lease) {
            let file = directory.join(format!("{id}.lease"));
            // A template's are links to those of its own image.
            if volume.meta.is_some() && seen.insert(*id) {
                leaders.push(LeaseLeader::of_volume(*id, read(&file, 0, 4096)));
            }
        }
    }
    let file = path.join("dom_md").join(SpecialLv::Xleases.name());
    leaders.extend(LeaseLeader::of_index(
        facts.areas.index.as_ref(),
        metadata.id(),
        check::geometry(Some(metadata)),
        |offset| read(&file, offset, 4096),
    ));
    leaders
}

fn fault(subject: &Path, message: String) -> Finding {
    Finding {
        grade: Grade::Error,
        subject: subject.display().to_string(),
        message,
        advice: "",
    }
}

fn images(path: &Path, facts: &mut FileFacts, faults: &mut Vec<Finding>) {
    let listed = match names(path) {
        Ok(listed) => listed,
        Err(error) => {
            faults.push(fault(path, format!("cannot be listed: {error:#}")));
            return;
        }
    };
    for name in listed {
        let Ok(image) = name.parse::<ImageId>() else {
            facts.other_directories.push(name);
            continue;
        };
        if image == ImageId::ISO_IMAGE {
            continue;
        }
        let inside = path.join(&name);
        match names(&inside) {
            Ok(files) => {
                let volumes = volumes(&inside, &files, &mut facts.other_files);
                facts.images.insert(image, volumes);
            }
            Err(error) => faults.push(fault(&inside, format!("cannot be listed: {error:#}"))),
        }
    }
}

fn volumes(
    directory: &Path,
    files: &[String],
    others: &mut Vec<String>,
) -> BTreeMap<VolumeId, FileVolume> {
    let mut volumes: BTreeMap<VolumeId, FileVolume> = BTreeMap::new();
    for name in files {
        let (stem, suffix) = name.split_once('.').unwrap_or((name, ""));
        let (Ok(id), "" | "meta" | "lease") = (stem.parse(), suffix) else {
            let image = directory.file_name().unwrap_or_default().to_string_lossy();
            others.push(format!("{image}/{name}"));
            continue;
        };
        let path = directory.join(name);
        let volume = volumes.entry(id).or_insert(FileVolume {
            size_bytes: None,
            meta: None,
            lease: false,
        });
        match suffix {
            "meta" => volume.meta = content(&path, META_BYTES_MAX),
            "lease" => volume.lease = true,
            _ => volume.size_bytes = path.metadata().ok().map(|about| about.len()),
        }
    }
    volumes
}

/// Tasks that are not over; what cannot be read is told.
fn tasks(path: &Path, findings: &mut Vec<Finding>) -> Vec<TaskInspection> {
    let Ok(listed) = names(path) else {
        return Vec::new();
    };
    let mut tasks = Vec::new();
    for (id, variant) in task::choose(listed.iter().map(String::as_str)) {
        match load(id, &path.join(variant.directory(id))) {
            Ok(task) if task.state.is_over() => {}
            Ok(task) => tasks.push(TaskInspection {
                id: id.to_string(),
                name: task.name,
                state: task.state.to_string(),
            }),
            Err(error) => findings.push(Finding {
                grade: Grade::Warning,
                subject: format!("task {id}"),
                message: format!("{error:#}"),
                advice: "it cannot be recovered; look at the volumes it worked on",
            }),
        }
    }
    tasks
}

fn load(id: TaskId, directory: &Path) -> Result<Task> {
    let mut files = task::Files::new();
    let names = names(directory)?;
    if names.len() > TASK_FILES_MAX {
        anyhow::bail!(
            "{}: {} files, a task has at most {TASK_FILES_MAX}",
            directory.display(),
            names.len()
        );
    }
    for name in names {
        let bytes = read(&directory.join(&name), 0, task::FILE_BYTES_MAX + 1)
            .map_err(anyhow::Error::msg)?;
        files.insert(name, bytes);
    }
    Ok(Task::from_files(id, &files)?)
}
