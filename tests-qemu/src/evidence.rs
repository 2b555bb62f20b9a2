//! Directories of scenarios, and what is kept and shown when one fails.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::line::tail;
use crate::lun::Lun;

/// Lines of each log shown when a scenario fails.
const TAIL_LINES: usize = 25;

/// The source tree: the workspace's top folder.
#[must_use]
pub fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// An empty directory for the scenario `name`.
pub fn directory(name: &str) -> Result<PathBuf> {
    let path = source().join("target/tests-qemu").join(name);
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Decodes every LUN in `directory` into a text file beside it, and answers
/// with where to look and the ends of the consoles.
#[must_use]
pub fn collect(directory: &Path) -> String {
    let mut text = format!("evidence: {}\n", directory.display());
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for file in files {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".lun") {
            let lun = Lun::open(&file);
            let decoded = lun.describe().unwrap_or_else(|error| format!("{error:#}"));
            // Evidence that cannot be written must not hide the failure itself.
            drop(fs::write(file.with_extension("lun.txt"), &decoded));
            text.push_str(&format!("--- {name}\n{decoded}"));
        } else if name.ends_with(".serial.log") {
            let log = fs::read(&file).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).replace('\r', "");
            text.push_str(&format!("--- end of {name}\n{}\n", tail(&log, TAIL_LINES)));
        }
    }
    text
}
