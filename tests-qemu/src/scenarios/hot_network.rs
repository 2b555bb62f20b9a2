//! The bridge sits on a bond of two cards, of which the second is not there
//! yet. The node gets its address over the first, takes the second in when it
//! is plugged in, and survives the loss of the first one's cable.

use anyhow::Result;
use control::status::{LinkReport, Snapshot};

use super::Context;
use crate::document::Document;
use crate::node::{BOOT_PATIENCE, Node, PATIENCE, Plug, Spec};

pub(super) fn run(context: &Context<'_>) -> Result<()> {
    let mut document = Document::new(1);
    document.network = format!(
        "[network.bond]\nmode = \"active-backup\"\nmembers = [{{ mac = \"{}\" }}, {{ mac = \"{}\" }}]\n\n[network.ipv4]\nmethod = \"dhcp\"\n",
        Spec::mac_of(1, 0),
        Spec::mac_of(1, 1)
    );
    let mut spec = Spec::new(context.release, 1).with_config(document.text());
    spec.slots = 1;
    let node = Node::start(spec, &context.directory)?;
    let first = node.spec.mac(0);
    let address = node.spec.dhcp_address();
    node.wait_status("address over the first card", BOOT_PATIENCE, |snapshot| {
        has_address(snapshot, &address)
    })?;
    context.say("address over one card of two");

    node.plug_nic(1, 0, &Plug::Router)?;
    node.wait_status("the second card in the bond", PATIENCE, |snapshot| {
        members(snapshot).count() == 2 && members(snapshot).all(|link| link.carrier)
    })?;
    context.say("the second card joined the bond");

    node.set_link(0, false)?;
    node.wait_status(
        "bridge alive without the first cable",
        PATIENCE,
        |snapshot| {
            let lost = members(snapshot).any(|link| !link.carrier);
            lost && bridge_has_carrier(snapshot) && has_address(snapshot, &address)
        },
    )?;
    context.say("the first cable gone: the bridge lives on the second");

    node.set_link(1, false)?;
    node.wait_status("no carrier at all", PATIENCE, |snapshot| {
        !bridge_has_carrier(snapshot)
    })?;
    node.set_link(0, true)?;
    node.set_link(1, true)?;
    node.wait_status("everything back", PATIENCE, |snapshot| {
        members(snapshot).all(|link| link.carrier)
            && bridge_has_carrier(snapshot)
            && has_address(snapshot, &address)
            && snapshot.network.state == "ready"
            && snapshot.network.gateway_reachable != Some(false)
    })?;
    context.say(&format!(
        "both cables back: card {first} carries traffic again"
    ));
    Ok(())
}

fn members(snapshot: &Snapshot) -> impl Iterator<Item = &LinkReport> {
    snapshot
        .network
        .links
        .iter()
        .filter(|link| link.kind == "nic" && link.master.is_some())
}

fn bridge_has_carrier(snapshot: &Snapshot) -> bool {
    snapshot
        .network
        .links
        .iter()
        .any(|link| link.kind == "bridge" && link.carrier)
}

fn has_address(snapshot: &Snapshot, address: &str) -> bool {
    snapshot
        .network
        .addresses
        .iter()
        .any(|found| found.split('/').next() == Some(address))
}
