//! A configuration with five mistakes of different kinds. The node stays up,
//! its console names every mistake with its line, and the words are the ones
//! the checker gives on this machine. It still takes commands: the scenario
//! ends with `reboot`.

use anyhow::{Result, ensure};

use super::Context;
use crate::node::{Node, PATIENCE, Spec};

const BAD: &str = r#"version = 1
colour = "green"

[node]
hostname = "not a host name"

[network.nic]
mac = "52:54:00:77:01"

[network.ipv4]
method = "static"
gateway = "192.168.77.2"

[lockspace]
name = "demo"
path = "/dev/sda"
host_id = 4711
io_timeout = "ten"
"#;

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let expected: Vec<String> = match control::config::parse(BAD) {
        Ok(_) => anyhow::bail!("the checker on this machine finds nothing wrong"),
        Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
    };
    ensure!(
        expected.len() >= 5,
        "five mistakes were made, the checker on this machine finds {expected:?}"
    );
    let node = Node::start(
        Spec::new(context.release, 1).with_config(BAD.to_owned()),
        &context.directory,
    )?;
    node.wait_console()?;
    let snapshot = node.wait_status("the verdict on its configuration", PATIENCE, |snapshot| {
        !snapshot.config.mistakes.is_empty()
    })?;
    ensure!(
        snapshot.config.mistakes == expected,
        "the node and this machine judge one document differently:\n{:#?}\n{expected:#?}",
        snapshot.config.mistakes
    );
    ensure!(
        snapshot.lockspace.is_none(),
        "a node joined a lockspace from a configuration that is invalid"
    );
    for mistake in &expected {
        // The console breaks its lines at 80 columns.
        let wanted = words(mistake);
        let what = format!("{mistake:?} on the console");
        node.serial.wait(0, PATIENCE, &what, |text| {
            words(text).contains(&wanted).then_some(())
        })?;
    }
    context.say("stays up, every mistake is on its console");
    let first_event = node.qmp.event_count();
    node.order("reboot --yes")?;
    node.wait_reset(first_event, PATIENCE)?;
    context.say("reboots on command");
    Ok(())
}

/// A text with every stretch of white space made one space.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
