//! Persisted tasks: a directory of small files for each, in the `master` file
//! system of a pool.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::error::{FormatError, decimal};
use super::uuid::TaskId;
use super::volume::words;

/// Version of the files.
pub const METADATA_VERSION: u64 = 1;
/// Jobs, and recovery steps, of one task.
pub const STEPS_MAX: usize = 100;
/// Bytes of one file beyond which it is not read.
pub const FILE_BYTES_MAX: usize = 64 << 10;

const RECORD: &str = "task";
const ESCAPED: &str = "_eq_";

words! { TaskState, "task state", "unknown, init, preparing, blocked, acquiring, queued, running, finished, aborting, waitrecover, recovering, racquiring, raborting, recovered or failed", "Where a task is in its life.",
    Unknown = "unknown", "Not known.";
    Init = "init", "Made.";
    Preparing = "preparing", "Its jobs and recovery steps are put together.";
    Blocked = "blocked", "Waits for its locks.";
    Acquiring = "acquiring", "Takes its locks.";
    Queued = "queued", "Waits for a worker.";
    Running = "running", "At work.";
    Finished = "finished", "Done.";
    Aborting = "aborting", "Is being stopped.";
    WaitRecover = "waitrecover", "Waits to be undone.";
    Recovering = "recovering", "Is being undone.";
    ReAcquiring = "racquiring", "Takes its locks to be undone.";
    ReAborting = "raborting", "The undoing is being stopped.";
    Recovered = "recovered", "Undone.";
    Failed = "failed", "Could not be undone.";
}

impl TaskState {
    /// Whether nothing is left to do or to undo.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Finished | Self::Recovered | Self::Failed)
    }

    /// The word that managers are told.
    #[must_use]
    pub fn reduced(self) -> &'static str {
        match self {
            Self::Unknown | Self::Init => "init",
            Self::Preparing | Self::Blocked | Self::Acquiring | Self::Queued | Self::Running => {
                "running"
            }
            Self::Finished => "finished",
            Self::Aborting | Self::ReAborting => "aborting",
            Self::WaitRecover
            | Self::Recovering
            | Self::ReAcquiring
            | Self::Recovered
            | Self::Failed => "cleaning",
        }
    }
}

/// A job of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// What it is.
    pub name: String,
    /// For people only.
    pub runcmd: String,
}

/// A step that undoes what a task has done; the last one is run first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// What it is.
    pub name: String,
    /// The original's module.
    pub module_name: String,
    /// The original's class.
    pub object: String,
    /// The original's function.
    pub function: String,
    /// What it is called with.
    pub params: Vec<String>,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// 0: done.
    pub code: i64,
    /// In words.
    pub message: String,
    /// What it made, as text.
    pub result: String,
}

/// A task as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// What it does.
    pub name: String,
    /// `spm` for tasks of the SPM.
    pub tag: String,
    /// The directory all tasks are in.
    pub store: String,
    /// `none` or `auto`.
    pub recovery_policy: String,
    /// `none` or `auto`.
    pub persist_policy: String,
    /// `none`, `auto` or `manual`.
    pub clean_policy: String,
    /// `low`, `medium` or `high`.
    pub priority: String,
    /// Where it is.
    pub state: TaskState,
    /// Its jobs, in order.
    pub jobs: Vec<Job>,
    /// What undoes it, in the order in which it was pushed.
    pub recoveries: Vec<Recovery>,
    /// How it ended, when it has.
    pub outcome: Option<Outcome>,
}

/// Files of a task's directory: name to content.
pub type Files = BTreeMap<String, Vec<u8>>;

impl Task {
    /// The files to write in the task's directory.
    ///
    /// # Errors
    /// When a value would not come back, or there are too many steps.
    pub fn to_files(&self) -> Result<Files, FormatError> {
        let id = self.id;
        let mut files = Files::new();
        for (noun, found) in [
            ("jobs", self.jobs.len()),
            ("recoveries", self.recoveries.len()),
        ] {
            if found > STEPS_MAX {
                return Err(FormatError::TooLong {
                    noun: RECORD,
                    found,
                    largest: STEPS_MAX,
                    unit: noun,
                });
            }
        }
        let (jobs, recoveries) = (
            self.jobs.len().to_string(),
            self.recoveries.len().to_string(),
        );
        let id_text = id.to_string();
        let version = METADATA_VERSION.to_string();
        files.insert(
            format!("{id}.task"),
            emit(&[
                ("id", &id_text),
                ("name", &self.name),
                ("tag", &self.tag),
                ("store", &self.store),
                ("recoveryPolicy", &self.recovery_policy),
                ("persistPolicy", &self.persist_policy),
                ("cleanPolicy", &self.clean_policy),
                ("priority", &self.priority),
                ("state", self.state.word()),
                ("njobs", &jobs),
                ("nrecoveries", &recoveries),
                ("metadataVersion", &version),
            ])?,
        );
        for (number, job) in self.jobs.iter().enumerate() {
            files.insert(
                format!("{id}.job.{number}"),
                emit(&[("name", &job.name), ("runcmd", &job.runcmd)])?,
            );
        }
        for (number, step) in self.recoveries.iter().enumerate() {
            if let Some(bad) = step.params.iter().find(|param| param.contains(',')) {
                return Err(FormatError::value(
                    "task parameter",
                    bad,
                    "text without comma",
                ));
            }
            files.insert(
                format!("{id}.recover.{number}"),
                emit(&[
                    ("name", &step.name),
                    ("moduleName", &step.module_name),
                    ("object", &step.object),
                    ("function", &step.function),
                    ("params", &step.params.join(",")),
                ])?,
            );
        }
        if let Some(outcome) = &self.outcome {
            files.insert(
                format!("{id}.result"),
                emit(&[
                    ("code", &outcome.code.to_string()),
                    ("message", &outcome.message),
                    ("result", &outcome.result),
                ])?,
            );
        }
        Ok(files)
    }

    /// Reads the files of a task's directory. Files that are not of the task
    /// are passed over.
    ///
    /// # Errors
    /// When a file or field is missing or makes no sense.
    pub fn from_files(id: TaskId, files: &Files) -> Result<Self, FormatError> {
        let read = |name: String| -> Result<Fields, FormatError> {
            let content = files
                .get(&name)
                .ok_or_else(|| FormatError::syntax(RECORD, format!("file {name} is missing")))?;
            Fields::parse(content)
        };
        let task = read(format!("{id}.task"))?;
        let version = decimal("metadataVersion", task.get("metadataVersion")?)?;
        if version != METADATA_VERSION {
            return Err(FormatError::value(
                "version of the task's files",
                &version.to_string(),
                "1",
            ));
        }
        if task.get("id")?.parse() != Ok(id) {
            return Err(FormatError::syntax(
                RECORD,
                format!("the file of {id} is of {}", task.get("id")?),
            ));
        }
        let count = |key: &'static str| -> Result<usize, FormatError> {
            let text = task.get(key)?;
            usize::try_from(decimal(key, text)?)
                .ok()
                .filter(|&count| count <= STEPS_MAX)
                .ok_or_else(|| FormatError::value(key, text, "0 to 100"))
        };
        let mut jobs = Vec::new();
        for number in 0..count("njobs")? {
            let job = read(format!("{id}.job.{number}"))?;
            jobs.push(Job {
                name: job.text("name")?,
                runcmd: job.text("runcmd")?,
            });
        }
        let mut recoveries = Vec::new();
        for number in 0..count("nrecoveries")? {
            let step = read(format!("{id}.recover.{number}"))?;
            let params = step.get("params")?;
            recoveries.push(Recovery {
                name: step.text("name")?,
                module_name: step.text("moduleName")?,
                object: step.text("object")?,
                function: step.text("function")?,
                params: if params.is_empty() {
                    Vec::new()
                } else {
                    params.split(',').map(str::to_owned).collect()
                },
            });
        }
        let outcome = files
            .get(&format!("{id}.result"))
            .map(|content| -> Result<Outcome, FormatError> {
                let fields = Fields::parse(content)?;
                let code = fields.get("code")?;
                Ok(Outcome {
                    code: code
                        .parse()
                        .map_err(|_| FormatError::value("code of the task", code, "a number"))?,
                    message: fields.text("message")?,
                    result: fields.text("result")?,
                })
            })
            .transpose()?;
        Ok(Self {
            id,
            name: task.text("name")?,
            tag: task.text("tag")?,
            store: task.text("store")?,
            recovery_policy: task.text("recoveryPolicy")?,
            persist_policy: task.text("persistPolicy")?,
            clean_policy: task.text("cleanPolicy")?,
            priority: task.text("priority")?,
            state: task.get("state")?.parse()?,
            jobs,
            recoveries,
            outcome,
        })
    }
}

/// Which of a task's directories counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// `<id>`: whole.
    Current,
    /// `<id>.temp`: whole too, as `<id>` was moved away already.
    Temporary,
    /// `<id>.backup`: the state before.
    Backup,
}

impl Variant {
    /// The directory's name.
    #[must_use]
    pub fn directory(self, id: TaskId) -> String {
        match self {
            Self::Current => id.to_string(),
            Self::Temporary => format!("{id}.temp"),
            Self::Backup => format!("{id}.backup"),
        }
    }
}

/// The tasks of a directory listing, with the directory to load of each.
/// Other names are passed over.
pub fn choose<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeMap<TaskId, Variant> {
    let mut tasks = BTreeMap::new();
    for name in names {
        let (id, variant) = if let Some(id) = name.strip_suffix(".temp") {
            (id, Variant::Temporary)
        } else if let Some(id) = name.strip_suffix(".backup") {
            (id, Variant::Backup)
        } else {
            (name, Variant::Current)
        };
        if let Ok(id) = id.parse() {
            let best = tasks.entry(id).or_insert(variant);
            *best = variant.min(*best);
        }
    }
    tasks
}

fn emit(fields: &[(&str, &str)]) -> Result<Vec<u8>, FormatError> {
    let mut text = String::new();
    for (key, value) in fields {
        let bad = value.contains(ESCAPED)
            || value
                .chars()
                .any(|letter| letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}'))
            || value.trim() != *value;
        if bad {
            return Err(FormatError::value(
                "task field",
                value,
                "one line without \"_eq_\", not beginning or ending with a space",
            ));
        }
        text.push_str(&format!("{key} = {}\n", value.replace('=', ESCAPED)));
    }
    Ok(text.into_bytes())
}

struct Fields(BTreeMap<String, String>);

impl Fields {
    fn parse(content: &[u8]) -> Result<Self, FormatError> {
        if content.len() > FILE_BYTES_MAX {
            return Err(FormatError::TooLong {
                noun: "file of a task",
                found: content.len(),
                largest: FILE_BYTES_MAX,
                unit: "bytes",
            });
        }
        let text = std::str::from_utf8(content)
            .map_err(|error| FormatError::syntax(RECORD, format!("not UTF-8 text: {error}")))?;
        let mut fields = BTreeMap::new();
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                if line.trim().is_empty() {
                    continue;
                }
                let line: String = line.chars().take(80).collect();
                return Err(FormatError::syntax(
                    RECORD,
                    format!("line {line:?} has no \"=\""),
                ));
            };
            fields.insert(
                key.trim().replace(ESCAPED, "="),
                value.trim().replace(ESCAPED, "="),
            );
        }
        Ok(Self(fields))
    }

    fn get(&self, key: &'static str) -> Result<&str, FormatError> {
        self.0
            .get(key)
            .map(String::as_str)
            .ok_or(FormatError::Missing {
                record: RECORD,
                key,
            })
    }

    fn text(&self, key: &'static str) -> Result<String, FormatError> {
        self.get(key).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_directory_is_preferred_to_what_a_crash_left() {
        let id: TaskId = "0d1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8".parse().unwrap();
        let names = |list: &[Variant]| {
            let names: Vec<String> = list.iter().map(|variant| variant.directory(id)).collect();
            choose(names.iter().map(String::as_str).chain(["lost+found"]))
        };
        use Variant::{Backup, Current, Temporary};
        assert_eq!(names(&[Temporary, Current]).get(&id), Some(&Current));
        assert_eq!(names(&[Backup, Temporary]).get(&id), Some(&Temporary));
        assert_eq!(names(&[Backup]).get(&id), Some(&Backup));
        assert_eq!(names(&[]).len(), 0);
    }
}
