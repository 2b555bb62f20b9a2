//! `cargo bench-boot`: our image and a plain Debian with systemd, one after the
//! other on the same emulated machine, and how they compare.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use image::{Options, Profile};
use serde::Serialize;
use tests_qemu::bench::{self, Figures};
use tests_qemu::screen::clock;
use tests_qemu::{evidence, tied, tools};

/// How much faster, and how much smaller, the node is to be than the reference.
const RATIO_AIM: f64 = 4.0;
/// Most the supervisor is to have resident, in KiB.
const SUPERVISOR_AIM_KIB: u64 = 6 << 10;
/// Most leased is to have resident, in KiB.
const LEASED_AIM_KIB: u64 = 8 << 10;

/// Daemons that Debian starts with its storage packages and the node does not start, so that a reader can leave them out.
const STORAGE_DAEMONS: [&str; 3] = ["blkmapd", "multipathd", "rpcbind"];

/// Measures the boot time and memory of a node and of a plain Debian with systemd.
///
/// An aim that is missed is printed as missed; the exit status is 0 whenever both could be measured.
#[derive(Debug, Parser)]
#[command(name = "cargo bench-boot")]
struct Arguments {
    /// Boots of each machine, taking turns; medians are printed.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Print everything measured as JSON instead of tables.
    #[arg(long)]
    json: bool,
}

/// Every run of both machines.
#[derive(Debug, Serialize)]
struct Runs {
    node: Vec<Figures>,
    reference: Vec<Figures>,
    /// Kernel and initrd of each, in KiB.
    node_boot_kib: u64,
    reference_boot_kib: u64,
}

fn main() -> ExitCode {
    tied::intercept();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benchmark failed: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    image::setup()?;
    tools::check()?;
    let node = image::build(&Options::new(Profile::Debug))?;
    let reference = image::reference(&Options::new(Profile::Debug))?;
    let size = |path: &std::path::Path| -> Result<u64> {
        let meta = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        Ok(meta.len() / 1024)
    };
    let mut runs = Runs {
        node: Vec::new(),
        reference: Vec::new(),
        node_boot_kib: size(&node.vmlinuz)? + size(&node.initrd)?,
        reference_boot_kib: size(&reference.vmlinuz)? + size(&reference.initrd)?,
    };
    let directory = evidence::directory("bench")?;
    let began = Instant::now();
    let say = |text: String| eprintln!("[{}] {text}", clock(began.elapsed()));
    let result = (|| -> Result<()> {
        for number in 1..=arguments.runs {
            say(format!("run {number} of {}: node", arguments.runs));
            runs.node.push(bench::measure_node(&node, &directory)?);
            say(format!("run {number} of {}: reference", arguments.runs));
            let figures = bench::measure_reference(&reference, &node, &directory)?;
            runs.reference.push(figures);
        }
        Ok(())
    })();
    result.inspect_err(|_| eprintln!("{}", evidence::collect(&directory)))?;
    say("done".to_owned());
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&runs)?);
    } else {
        print!("{}", report(&runs)?);
    }
    Ok(())
}

/// The tables.
fn report(runs: &Runs) -> Result<String> {
    let mut text = format!(
        "Boots of each: {}. Same kernel, emulated machine (1 processor), DHCP server.\n\n\
         {:34}{:>12}{:>12}{:>9}  aim\n",
        runs.node.len(),
        "",
        "node",
        "Debian",
        "ratio"
    );
    let mut row = |what: &str, (node, reference): (u64, u64), show: fn(u64) -> String, aim| {
        let ratio = ratio(reference, node);
        let verdict = if aim {
            verdict(ratio >= RATIO_AIM, &format!("at least {RATIO_AIM:.1}"))
        } else {
            String::new()
        };
        let line = format!(
            "{what:34}{:>12}{:>12}{ratio:>9.1}  {verdict}",
            show(node),
            show(reference)
        );
        text += &format!("{}\n", line.trim_end());
    };
    let both = |value: &dyn Fn(&Figures) -> u64| {
        (median(&runs.node, value), median(&runs.reference, value))
    };
    let boot = both(&|run| run.boot_ms);
    row("hand-over to bridge address", boot, seconds, true);
    let memory = both(&Figures::proportional_kib);
    row("memory of all processes (PSS)", memory, mebibytes, true);
    let alike = both(&|run| run.proportional_kib_without(&STORAGE_DAEMONS));
    let what = "  without Debian's storage daemons";
    row(what, alike, mebibytes, false);
    let kernel = both(&|run| run.kernel_ms);
    row("kernel start to hand-over", kernel, seconds, false);
    let all = both(&|run| run.kernel_ms + run.boot_ms);
    row("kernel start to bridge address", all, seconds, false);
    let used = both(&|run| run.used_kib);
    row("memory in use, kernel and all", used, mebibytes, false);
    let root = both(&|run| run.root_kib);
    row("root file system, as stored", root, mebibytes, false);
    let files = (runs.node_boot_kib, runs.reference_boot_kib);
    row("kernel and initrd, as stored", files, mebibytes, false);

    for (name, aim, value) in residents(runs)? {
        let limit = format!("under {}", mebibytes(aim));
        text += &format!(
            "{:34}{:>12}{:23}{}\n",
            format!("{name} resident (RSS)"),
            mebibytes(value),
            "",
            verdict(value < aim, &limit)
        );
    }
    for (title, runs) in [("node", &runs.node), ("Debian", &runs.reference)] {
        text += &format!(
            "\nProcesses of {title}, last run{:>17}{:>10}\n",
            "PSS", "RSS"
        );
        for process in runs.last().into_iter().flat_map(|run| &run.processes) {
            text += &format!(
                "{:>6}  {:30}{:>10}{:>10}\n",
                process.pid,
                process.name,
                mebibytes(process.proportional_kib),
                mebibytes(process.resident_kib)
            );
        }
    }
    Ok(text)
}

/// Name, aim and median of each process of the node that has a limit of its own.
fn residents(runs: &Runs) -> Result<[(&'static str, u64, u64); 2]> {
    let of = |what: &str, value: &dyn Fn(&Figures) -> Option<u64>| -> Result<u64> {
        let missing = runs.node.iter().any(|run| value(run).is_none());
        anyhow::ensure!(!missing, "{what}: not among the node's processes");
        Ok(median(&runs.node, &|run| value(run).unwrap_or_default()))
    };
    let supervisor = of("supervisor", &|run| run.resident_of_pid(1))?;
    let leased = of("leased", &|run| run.resident_of("leased"))?;
    Ok([
        ("supervisor", SUPERVISOR_AIM_KIB, supervisor),
        ("leased", LEASED_AIM_KIB, leased),
    ])
}

fn verdict(met: bool, aim: &str) -> String {
    format!("{aim}: {}", if met { "met" } else { "MISSED" })
}

/// The middle value; of an even number of runs, the larger of the two in the middle.
fn median(runs: &[Figures], value: &dyn Fn(&Figures) -> u64) -> u64 {
    let mut values: Vec<u64> = runs.iter().map(value).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn ratio(reference: u64, node: u64) -> f64 {
    reference as f64 / node as f64
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

fn mebibytes(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}
