//! Saving and loading.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::task::{
    FILE_BYTES_MAX, Files, Job, Outcome, Recovery, STEPS_MAX, Task, TaskState, Variant, choose,
};
use disk_format::vdsm::uuid::TaskId;

use crate::authority::Authority;
use crate::job::Result;

/// Files of one task that are read; more is no task.
const FILES_MAX: usize = 2 * STEPS_MAX + 2;

/// The directory of all tasks of a manager.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// The master, for the authority.
    domain: String,
    /// One change of the directory at a time.
    gate: Mutex<()>,
}

impl Store {
    /// Tasks in `dir`, which belongs to the domain `domain`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, domain: impl Into<String>) -> Self {
        Self {
            dir: dir.into(),
            domain: domain.into(),
            gate: Mutex::new(()),
        }
    }

    /// Writes a task, atomically: a reader, and whoever comes after a crash,
    /// finds the old one or the new one.
    ///
    /// # Errors
    /// A value that does not come back; authority; I/O.
    pub fn save(&self, authority: &dyn Authority, task: &Task) -> Result<()> {
        let files = task.to_files().map_err(|error| {
            Failure::new(
                FailureKind::BadRequest,
                format!("task {}: {error}", task.id),
            )
        })?;
        let _gate = self
            .gate
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let [current, temporary, backup] = [Variant::Current, Variant::Temporary, Variant::Backup]
            .map(|variant| self.dir.join(variant.directory(task.id)));
        authority.check(&self.domain)?;
        // With `current` there a `.temp` may be incomplete; without it, it is the
        // task, and moves to its place first.
        if current.exists() {
            remove(&temporary)?;
            remove(&backup)?;
        } else if temporary.exists() {
            rename(&temporary, &current)?;
            remove(&backup)?;
        } else if backup.exists() {
            rename(&backup, &current)?;
        }
        fs::create_dir(&temporary).map_err(|error| failed(&temporary, &error))?;
        for (name, content) in &files {
            let path = temporary.join(name);
            File::create(&path)
                .and_then(|mut file| {
                    file.write_all(content)?;
                    file.sync_all()
                })
                .map_err(|error| failed(&path, &error))?;
        }
        sync(&temporary)?;
        authority.check(&self.domain)?;
        if current.exists() {
            rename(&current, &backup)?;
        }
        rename(&temporary, &current)?;
        remove(&backup)?;
        sync(&self.dir)
    }

    /// Loads every task; those that make no sense come as failures.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn load(&self) -> Result<BTreeMap<TaskId, Result<Task>>> {
        let mut names = Vec::new();
        let listed = match fs::read_dir(&self.dir) {
            Ok(listed) => listed,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(failed(&self.dir, &error)),
        };
        for entry in listed {
            let entry = entry.map_err(|error| failed(&self.dir, &error))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(choose(names.iter().map(String::as_str))
            .into_iter()
            .map(|(id, variant)| (id, self.read(id, variant)))
            .collect())
    }

    fn read(&self, id: TaskId, variant: Variant) -> Result<Task> {
        let dir = self.dir.join(variant.directory(id));
        let mut files = Files::new();
        for entry in fs::read_dir(&dir).map_err(|error| failed(&dir, &error))? {
            let entry = entry.map_err(|error| failed(&dir, &error))?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if files.len() >= FILES_MAX {
                return Err(Failure::new(
                    FailureKind::Damaged,
                    format!("{}: more than {FILES_MAX} files", dir.display()),
                ));
            }
            let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
            let mut content = Vec::new();
            File::open(&path)
                .and_then(|file| file.take(limit + 1).read_to_end(&mut content))
                .map_err(|error| failed(&path, &error))?;
            files.insert(name, content);
        }
        Task::from_files(id, &files)
            .map_err(|error| Failure::new(FailureKind::Damaged, format!("task {id}: {error}")))
    }

    /// Forgets a task.
    ///
    /// # Errors
    /// Authority; I/O.
    pub fn remove(&self, authority: &dyn Authority, id: TaskId) -> Result<()> {
        let _gate = self
            .gate
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        authority.check(&self.domain)?;
        // The order of loading: what would be taken instead goes first.
        for variant in [Variant::Backup, Variant::Temporary, Variant::Current] {
            remove(&self.dir.join(variant.directory(id)))?;
        }
        sync(&self.dir)
    }

    /// Forgets ended tasks but the newest `keep`.
    ///
    /// # Errors
    /// Authority; I/O.
    pub fn prune(&self, authority: &dyn Authority, keep: usize) -> Result<()> {
        let mut ended: Vec<_> = self
            .load()?
            .into_values()
            .filter_map(|task| task.ok().filter(|task| task.state.is_over()))
            .map(|task| {
                let changed = fs::metadata(self.dir.join(task.id.to_string()))
                    .and_then(|found| found.modified())
                    .ok();
                (changed, task.id)
            })
            .collect();
        ended.sort_unstable();
        let surplus = ended.len().saturating_sub(keep);
        for (_, id) in ended.into_iter().take(surplus) {
            self.remove(authority, id)?;
        }
        Ok(())
    }

    /// Begins a task. Should it not finish, whoever is the manager next runs
    /// `undo`, the last one first; they are on disk when this returns.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn begin<'a>(
        &'a self,
        authority: &'a dyn Authority,
        id: TaskId,
        name: &str,
        what: &str,
        undo: Vec<Recovery>,
    ) -> Result<Tracked<'a>> {
        let task = Task {
            id,
            name: name.to_owned(),
            tag: "spm".to_owned(),
            store: self.dir.display().to_string(),
            recovery_policy: "auto".to_owned(),
            persist_policy: "auto".to_owned(),
            clean_policy: "manual".to_owned(),
            priority: "low".to_owned(),
            state: TaskState::Running,
            jobs: vec![Job {
                name: name.to_owned(),
                runcmd: plain(what),
            }],
            recoveries: undo,
            outcome: None,
        };
        self.save(authority, &task)?;
        Ok(Tracked {
            store: self,
            authority,
            task,
        })
    }
}

/// A task under way. Dropping it unfinished leaves it to be recovered.
#[derive(Debug)]
pub struct Tracked<'a> {
    store: &'a Store,
    authority: &'a dyn Authority,
    task: Task,
}

impl std::fmt::Debug for dyn Authority + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Tracked<'_> {
    /// Which.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.task.id
    }

    /// Keeps how it ended. A task that failed has been undone by its caller.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub fn finish(mut self, outcome: &std::result::Result<String, Failure>) -> Result<TaskId> {
        self.task.state = TaskState::Finished;
        self.task.recoveries.clear();
        self.task.outcome = Some(match outcome {
            Ok(result) => Outcome {
                code: 0,
                message: "1 jobs completed successfully".to_owned(),
                result: plain(result),
            },
            Err(failure) => Outcome {
                code: code(failure.kind),
                message: plain(&failure.message),
                result: String::new(),
            },
        });
        self.store.save(self.authority, &self.task)?;
        Ok(self.task.id)
    }
}

/// Managers' code of a failure; general for what has none of its own.
fn code(kind: FailureKind) -> i64 {
    match kind {
        FailureKind::NoSpace => 507,
        FailureKind::NotFound => 201,
        FailureKind::Exists => 205,
        FailureKind::Cancelled => 443,
        _ => 200,
    }
}

/// Text that comes back from a field.
fn plain(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(4000)
        .collect();
    line.replace("_eq_", "_eq").trim().to_owned()
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| failed(to, &error))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, &error)),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| failed(dir, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FailureKind::NoSpace,
        _ => FailureKind::Io,
    };
    Failure::new(kind, format!("{}: {error}", path.display()))
}
