//! `cargo verify`: everything a change has to pass, from formatting to machines
//! in QEMU, each step with its time, one closing line with the verdict.
#![forbid(unsafe_code)]

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use image::{Artifacts, Options, Profile};
use tests_qemu::scenarios::{self, Scenario};
use tests_qemu::screen::clock;
use tests_qemu::{evidence, suite, tied, tools};

/// Checks everything: formatting, lints, tests, images, scenarios in QEMU.
#[derive(Debug, Parser)]
#[command(name = "cargo verify")]
struct Arguments {
    /// Print the names of all steps and scenarios, and what each checks.
    #[arg(long)]
    list: bool,
    /// Run only this step or scenario (may be repeated); scenarios bring the images they need.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// The steps before the scenarios, in order, and what each checks.
const STEPS: &[(&str, &str)] = &[
    (
        "setup",
        "this machine has, or can install, everything the rest needs",
    ),
    ("format", "cargo fmt --check"),
    ("lints", "cargo clippy, warnings denied"),
    ("tests", "every test of the workspace"),
    ("images", "the release and the debug image build"),
    (
        "reproducible",
        "two builds of the release image give the same root",
    ),
];

/// What was counted so far.
#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    failed: u32,
    /// Name, time, whether it passed.
    lines: Vec<(String, Duration, bool)>,
}

impl Tally {
    fn note(&mut self, name: &str, took: Duration, ok: bool) {
        self.lines.push((name.to_owned(), took, ok));
        if ok {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }

    /// Runs one step and says how it went.
    fn step<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Option<T> {
        println!("=== {name}");
        let began = Instant::now();
        let result = work(self);
        let took = began.elapsed();
        self.note(name, took, result.is_ok());
        match result {
            Ok(value) => {
                println!("=== {name}: passed after {}", clock(took));
                Some(value)
            }
            Err(error) => {
                println!("=== {name}: FAILED after {}: {error:#}", clock(took));
                None
            }
        }
    }
}

fn main() -> ExitCode {
    tied::intercept();
    let arguments = Arguments::parse();
    if arguments.list {
        for (name, promise) in STEPS {
            println!("{name:14} {promise}");
        }
        for scenario in scenarios::ALL {
            println!("{:14} {}", scenario.name, scenario.promise);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.only.iter().find(|name| !known(name)) {
        eprintln!("{unknown}: no step or scenario of that name; --list shows them");
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let tally = verify(&arguments.only);
    println!("\nstep or scenario      took");
    for (name, took, ok) in &tally.lines {
        println!(
            "{name:20} {:>6}  {}",
            clock(*took),
            if *ok { "passed" } else { "FAILED" }
        );
    }
    println!("{:20} {:>6}", "all", clock(began.elapsed()));
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn known(name: &str) -> bool {
    STEPS.iter().any(|(step, _)| *step == name)
        || scenarios::ALL.iter().any(|scenario| scenario.name == name)
}

fn verify(only: &[String]) -> Tally {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|other| other == name);
    let chosen: Vec<Scenario> = scenarios::ALL
        .iter()
        .copied()
        .filter(|scenario| wanted(scenario.name))
        .collect();
    let mut tally = Tally::default();
    // Whatever else is wanted, it needs what the set-up installs.
    if tally.step("setup", |_| setup()).is_none() {
        return tally;
    }
    if wanted("format") {
        tally.step("format", |_| cargo(&["fmt", "--all", "--check"]));
    }
    if wanted("lints") {
        tally.step("lints", |_| {
            cargo(&[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ])
        });
    }
    if wanted("tests") {
        tally.step("tests", tests);
    }
    let images = if wanted("images") || !chosen.is_empty() {
        tally.step("images", |_| images())
    } else {
        None
    };
    if wanted("reproducible") {
        tally.step("reproducible", |_| {
            Ok(image::check_reproducible(&Options::new(Profile::Release)).map(drop)?)
        });
    }
    let Some((release, debug)) = &images else {
        for scenario in chosen {
            tally.note(scenario.name, Duration::ZERO, false);
        }
        return tally;
    };
    for outcome in scenarios::run(&chosen, release, debug) {
        tally.note(
            outcome.scenario.name,
            outcome.took,
            outcome.failure.is_none(),
        );
    }
    tally
}

fn setup() -> Result<()> {
    image::setup()?;
    tools::check()
}

fn images() -> Result<(Artifacts, Artifacts)> {
    Ok((
        image::build(&Options::new(Profile::Release))?,
        image::build(&Options::new(Profile::Debug))?,
    ))
}

/// Runs cargo in the source tree with its output shown.
fn cargo(arguments: &[&str]) -> Result<()> {
    let status = command(arguments).status().context("cargo")?;
    ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
    Ok(())
}

fn command(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(evidence::source())
        .stdin(Stdio::null());
    command
}

/// Runs every test of the workspace; each counts in the tally. Of programs
/// whose tests pass only the counts are printed.
fn tests(tally: &mut Tally) -> Result<()> {
    let mut broken = Vec::new();
    suite::run(suite::build(command(&[]))?, |outcome| {
        let (passed, failed) = outcome.counts;
        println!(
            "{:32} {:>6}  {passed:>4} passed, {failed} failed",
            outcome.name,
            clock(outcome.took)
        );
        tally.passed += passed;
        tally.failed += failed;
        if failed > 0 {
            println!("{}", outcome.output);
            broken.push(outcome.name);
        }
    });
    ensure!(broken.is_empty(), "tests failed in {}", broken.join(", "));
    cargo(&["test", "--quiet", "--workspace", "--doc"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_scenario_has_the_name_of_a_step() {
        assert!(
            scenarios::ALL
                .iter()
                .all(|scenario| STEPS.iter().all(|(step, _)| *step != scenario.name))
        );
    }
}
