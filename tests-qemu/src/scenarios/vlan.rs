//! Two nodes joined by two cables. Each has a bond over both cards, VLAN 42 on
//! the bond, the bridge on the VLAN and a fixed address with the other as
//! gateway: each reaches its gateway only if every layer on both sides carries
//! traffic. Once with each mode in which both cables are used at a time; the
//! kernel itself must say that it runs that mode, and for LACP that both ends
//! have agreed.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Context;
use crate::document::Document;
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Plug, Spec};

/// Cables between the two.
const CABLES: usize = 2;
/// The breath between two looks at a bond.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Name in the configuration, and what the kernel prints of a bond that runs it.
const MODES: [(&str, &[&str]); 2] = [
    (
        "balance-xor",
        &["Bonding Mode: load balancing (xor)", "MII Status: up"],
    ),
    (
        "802.3ad",
        &[
            "Bonding Mode: IEEE 802.3ad Dynamic link aggregation",
            // The aggregator in use has both cards, so the other end agreed.
            "Number of ports: 2",
        ],
    ),
];

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    for (mode, signs) in MODES {
        // Socket paths are short; the scenario's directory may be deep.
        let cables = tempfile::Builder::new().prefix("holdfast-").tempdir()?;
        let nodes = [
            start(context, cables.path(), mode, 1, 2)?,
            start(context, cables.path(), mode, 2, 1)?,
        ];
        for (node, number) in nodes.iter().zip(1..) {
            reaches(node, number)?;
            node.wait_shell(0)?;
            runs(node, signs)?;
            context.say(&format!(
                "{} reaches its gateway over bridge, VLAN and {mode} bond",
                node.spec.name
            ));
        }
    }
    Ok(())
}

fn start(context: &Context<'_>, cables: &Path, mode: &str, number: u8, other: u8) -> Result<Node> {
    let members: Vec<String> = (0..CABLES)
        .map(|card| format!("{{ mac = \"{}\" }}", Spec::mac_of(number, card)))
        .collect();
    let mut document = Document::new(number);
    document.network = format!(
        "[network]\nvlan = 42\nmtu = 1400\n\n[network.bond]\nmode = \"{mode}\"\nmembers = [{}]\n\n\
         [network.ipv4]\nmethod = \"static\"\naddress = \"10.42.0.{number}/24\"\ngateway = \"10.42.0.{other}\"\n",
        members.join(", ")
    );
    let mut spec = Spec::new(context.debug, number)
        .with_config(document.text())
        .with_shell();
    let end = |number: u8, cable: usize| cables.join(format!("{number}-{cable}"));
    spec.nics = (0..CABLES)
        .map(|cable| Plug::Cable {
            here: end(number, cable),
            there: end(other, cable),
        })
        .collect();
    Node::start(spec, &context.directory)
}

/// Waits until the gateway answers over every layer, each with the right MTU.
fn reaches(node: &Node, number: u8) -> Result<()> {
    node.wait_status("gateway reached over the VLAN", BOOT_PATIENCE, |snapshot| {
        let network = &snapshot.network;
        network.gateway_reachable == Some(true)
            && network.addresses.contains(&format!("10.42.0.{number}/24"))
            && ["nic", "bond", "vlan", "bridge"].iter().all(|&kind| {
                network
                    .links
                    .iter()
                    .any(|link| link.kind == kind && link.mtu == 1400)
            })
    })?;
    Ok(())
}

/// Waits until the kernel's account of the bond has all of `signs`; LACP takes
/// its time to agree.
fn runs(node: &Node, signs: &[&str]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = node.qmp.event_count();
        let account = node.shell("cat /proc/net/bonding/bond0")?;
        let Some(sign) = signs.iter().find(|&&sign| !account.contains(sign)) else {
            return Ok(());
        };
        ensure!(
            Instant::now() < deadline,
            "{}: {sign:?} is not in the kernel's account of the bond:\n{account}",
            node.spec.name
        );
        node.qmp.rest(seen, LOOK_PAUSE);
    }
}
