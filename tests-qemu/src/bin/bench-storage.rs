//! `cargo bench-storage-node`: the storage layer's figures inside a node, beside
//! the original's.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use image::{Options, Profile};
use tests_qemu::bench_storage::{self, Scale};
use tests_qemu::screen::clock;
use tests_qemu::{evidence, tied, tools};

/// Measures extends a second, refreshes and a fast guest in one emulated node.
///
/// Nothing is asserted about the figures; the exit status is 0 whenever all could be measured.
#[derive(Debug, Parser)]
#[command(name = "cargo bench-storage-node")]
struct Arguments {
    /// A quarter of the samples: whether it works.
    #[arg(long)]
    quick: bool,
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
    let directory = evidence::directory("bench-storage")?;
    let began = Instant::now();
    let say = |text: &str| eprintln!("[{}] {text}", clock(began.elapsed()));
    let scale = if arguments.quick {
        Scale::Quick
    } else {
        Scale::Full
    };
    bench_storage::run(&node, &directory, scale, &say)
        .inspect_err(|_| eprintln!("{}", evidence::collect(&directory)))
}
