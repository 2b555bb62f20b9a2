//! `cargo demo`: two nodes on one shared LUN, a power cut, a lost LUN, and
//! whether the protocol keeps its promises.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tests_qemu::kept::{self, KeptNode};
use tests_qemu::screen::{Screen, clock};
use tests_qemu::story::{self, Telling};
use tests_qemu::{evidence, tied, tools};

/// Boots two nodes in QEMU on one shared LUN and shows what they promise.
#[derive(Debug, Parser)]
#[command(name = "cargo demo")]
struct Arguments {
    /// Leave the cluster running at the end and print how to look inside.
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Connect this terminal to the nodectl console of a node left running.
    Attach {
        /// 1 or 2.
        node: u8,
    },
    /// End the cluster left running.
    Stop,
}

fn main() -> ExitCode {
    tied::intercept();
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let home = evidence::source().join("target/tests-qemu/demo");
    match arguments.command {
        Some(Action::Attach { node }) => return kept::attach(&home, node),
        Some(Action::Stop) => {
            let ended = kept::stop(&home)?;
            println!(
                "{}",
                if ended.is_empty() {
                    "nothing is running".to_owned()
                } else {
                    ended.join(", ") + " ended"
                }
            );
            return Ok(());
        }
        None => {}
    }
    let screen = Screen::new();
    for name in kept::stop(&home)? {
        screen.say(&format!("{name} of an earlier demo ended"));
    }
    screen.say("checking what this machine needs");
    image::setup()?;
    tools::check()?;
    screen.say("building the image");
    let began = Instant::now();
    let image = image::build(&image::Options::new(image::Profile::Release))?;
    screen.say(&format!("image ready after {}", clock(began.elapsed())));
    let directory = evidence::directory("demo")?;
    let result = show(&image, &directory, arguments.keep, &screen);
    screen.finish();
    result.inspect_err(|_| eprintln!("{}", evidence::collect(&directory)))
}

fn show(image: &image::Artifacts, directory: &Path, keep: bool, screen: &Screen) -> Result<()> {
    if keep {
        screen.say("a Ctrl-C from here on leaves machines running; `cargo demo stop` ends them");
    }
    let ending = story::tell(image, directory, Telling { outlive: keep }, screen)?;
    screen.finish();
    println!("\nWhat happened when");
    for moment in &ending.moments {
        println!("{:>6}  {}", clock(moment.at), moment.what);
        if let Some(promise) = &moment.promise {
            println!("        {promise}");
        }
    }
    println!(
        "\nEvery promise was kept. Consoles and the shared LUN: {}",
        directory.display()
    );
    if keep {
        let nodes: Vec<KeptNode> = ending.nodes.iter().map(|node| KeptNode::of(node)).collect();
        print_how_to_look_inside(directory, &nodes);
    }
    Ok(())
}

fn print_how_to_look_inside(directory: &Path, nodes: &[KeptNode]) {
    println!("\nThe cluster is left running:");
    for node in nodes {
        let console: PathBuf = node.sockets.join("console");
        println!(
            "  {}: process {}, nodectl console on {}",
            node.name,
            node.pid,
            console.display()
        );
    }
    println!(
        "  cargo demo attach 1    a nodectl prompt on node 1 (then: status, boot, log, net, lease list)"
    );
    println!("  cargo demo stop        ends it");
    println!(
        "  sanlock direct dump {}:0",
        directory.join("shared.lun").display()
    );
}
