//! The tests of the workspace, several programs of them side by side: most of
//! their time is waiting for what the protocols say must be waited for, and
//! `cargo test` runs one program after the other.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::line::lock;

/// Test programs at once. More would starve the original daemons that some of them
/// run, which then forget commands.
const AT_ONCE: usize = 2;

/// A test program that is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Package and target, as `leased clients`.
    pub name: String,
    /// What to run.
    path: PathBuf,
    /// The package's directory, in which cargo runs it.
    folder: PathBuf,
}

/// How a test program went.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// Tests that passed, and that failed; at least one failed if the program did.
    pub counts: (u32, u32),
    /// All it printed.
    pub output: String,
}

/// What cargo says of a thing it built, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// Builds every test program by `cargo` (a command of cargo without arguments).
///
/// # Errors
/// When cargo does not start or fails, or says what is not understood.
pub fn build(mut cargo: Command) -> Result<Vec<Program>> {
    cargo.args([
        "test",
        "--workspace",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    let built = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo")?;
    ensure!(
        built.status.success(),
        "building the tests: {}",
        built.status
    );
    let told = String::from_utf8(built.stdout).context("cargo's messages")?;
    let mut programs = Vec::new();
    for line in told.lines() {
        programs.extend(program(line)?);
    }
    ensure!(!programs.is_empty(), "cargo built no test program");
    Ok(programs)
}

/// The test program that a message of cargo is about.
fn program(line: &str) -> Result<Option<Program>> {
    let message: Message =
        serde_json::from_str(line).with_context(|| format!("cargo's message {line}"))?;
    let (Some(path), Some(target), Some(manifest), true) = (
        message.executable,
        message.target,
        message.manifest_path,
        message.reason == "compiler-artifact" && message.profile.is_some_and(|it| it.test),
    ) else {
        return Ok(None);
    };
    let folder = manifest
        .parent()
        .with_context(|| format!("{}: no directory", manifest.display()))?
        .to_owned();
    let package = folder.file_name().unwrap_or_default().to_string_lossy();
    Ok(Some(Program {
        name: format!("{package} {}", target.name),
        path,
        folder,
    }))
}

/// Runs `programs`, [`AT_ONCE`] side by side, and hands each outcome to `done`
/// when it is there.
pub fn run(programs: Vec<Program>, mut done: impl FnMut(Outcome)) {
    let queue = Mutex::new(VecDeque::from(programs));
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (queue, tell) = (&queue, tell.clone());
            scope.spawn(move || {
                loop {
                    let next = lock(queue).pop_front();
                    let Some(program) = next else { return };
                    if tell.send(run_one(&program)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        told.into_iter().for_each(&mut done);
    });
}

fn run_one(program: &Program) -> Outcome {
    let began = Instant::now();
    let ended = Command::new(&program.path)
        .current_dir(&program.folder)
        .env("CARGO_MANIFEST_DIR", &program.folder)
        .stdin(Stdio::null())
        .output();
    let (success, output) = match ended {
        Ok(ended) => {
            let mut text = String::from_utf8_lossy(&ended.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&ended.stderr));
            (ended.status.success(), text)
        }
        Err(error) => (false, format!("{}: {error}\n", program.path.display())),
    };
    Outcome {
        name: program.name.clone(),
        took: began.elapsed(),
        counts: counts(&output, success),
        output,
    }
}

/// Passed and failed in what test programs printed; one that failed without a
/// failed test (it crashed, say) counts as one.
#[must_use]
pub fn counts(output: &str, success: bool) -> (u32, u32) {
    let (passed, failed) = output
        .lines()
        .filter_map(result_line)
        .fold((0, 0), |sum, line| (sum.0 + line.0, sum.1 + line.1));
    (passed, if success { failed } else { failed.max(1) })
}

/// Passed and failed of a line like `test result: ok. 12 passed; 0 failed; …`.
fn result_line(line: &str) -> Option<(u32, u32)> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |word: &str| {
        let part = counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word))?;
        part.trim().parse().ok()
    };
    Some((count("passed")?, count("failed")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_closing_lines() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.04s";
        assert_eq!(result_line(line), Some((12, 3)));
        assert_eq!(result_line("test line::tests::a ... ok"), None);
        assert_eq!(counts(&format!("{line}\n{line}\n"), false), (24, 6));
    }

    #[test]
    fn a_program_that_crashes_has_failed() {
        assert_eq!(counts("running 3 tests\n", false), (0, 1));
        assert_eq!(counts("", true), (0, 0));
    }

    #[test]
    fn test_programs_are_found_among_cargos_messages() {
        let test = r#"{"reason":"compiler-artifact","package_id":"x","manifest_path":"/s/node/leased/Cargo.toml","target":{"kind":["test"],"name":"clients"},"profile":{"test":true},"executable":"/t/clients-1"}"#;
        let found = program(test).unwrap().expect("a test program");
        assert_eq!(found.name, "leased clients");
        assert_eq!(found.folder, PathBuf::from("/s/node/leased"));
        let binary = test.replace(r#""test":true"#, r#""test":false"#);
        assert_eq!(program(&binary).unwrap(), None);
        let end = r#"{"reason":"build-finished","success":true}"#;
        assert_eq!(program(end).unwrap(), None);
        program("warning: no JSON").unwrap_err();
    }

    #[test]
    fn every_program_is_run_and_a_missing_one_fails() {
        let program = |name: &str, path: &str| Program {
            name: name.to_owned(),
            path: path.into(),
            folder: "/".into(),
        };
        let mut programs: Vec<Program> = (0..7)
            .map(|number| program(&number.to_string(), "/bin/true"))
            .collect();
        programs.push(program("missing", "/nowhere/at/all"));
        programs.push(program("fails", "/bin/false"));
        let mut outcomes = Vec::new();
        run(programs, |outcome| outcomes.push(outcome));
        assert_eq!(outcomes.len(), 9);
        let failed: Vec<&str> = outcomes
            .iter()
            .filter(|outcome| outcome.counts.1 > 0)
            .map(|outcome| outcome.name.as_str())
            .collect();
        assert_eq!(failed.len(), 2);
        assert!(failed.contains(&"missing") && failed.contains(&"fails"));
    }
}
