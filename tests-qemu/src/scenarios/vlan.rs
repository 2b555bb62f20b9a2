//! Two nodes joined by one cable. Each has a bond over its card, VLAN 42 on the
//! bond, the bridge on the VLAN and a fixed address with the other as gateway:
//! each reaches its gateway only if every layer on both sides carries traffic.

use anyhow::Result;

use super::Context;
use crate::document::Document;
use crate::node::{BOOT_PATIENCE, Node, Plug, Spec};

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    // Socket paths are short; the scenario's directory may be deep.
    let cables = tempfile::Builder::new().prefix("holdfast-").tempdir()?;
    let end = |number: u8| cables.path().join(number.to_string());
    let start = |number: u8, other: u8| {
        let mut document = Document::new(number);
        document.network = format!(
            "[network]\nvlan = 42\nmtu = 1400\n\n[network.bond]\nmode = \"balance-xor\"\nmembers = [{{ mac = \"{}\" }}]\n\n\
             [network.ipv4]\nmethod = \"static\"\naddress = \"10.42.0.{number}/24\"\ngateway = \"10.42.0.{other}\"\n",
            Spec::mac_of(number, 0)
        );
        let mut spec = Spec::new(context.release, number).with_config(document.text());
        spec.nics = vec![Plug::Cable {
            here: end(number),
            there: end(other),
        }];
        Node::start(spec, &context.directory)
    };
    let nodes = [start(1, 2)?, start(2, 1)?];
    for (node, number) in nodes.iter().zip(1..) {
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
        context.say(&format!(
            "{} reaches its gateway over bridge, VLAN and bond",
            node.spec.name
        ));
    }
    Ok(())
}
