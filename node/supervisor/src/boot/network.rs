//! The network's phase, and the drivers it needs without waiting for udevd.

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use control::config::Uplink;
use control::status::NetworkReport;

use super::sequence::Outcome;
use super::steps::{Context, load_modules};
use crate::init::Event;

/// How often the network is looked at while it comes up.
const NETWORK_POLL: Duration = Duration::from_millis(500);
/// The same once it has failed.
const NETWORK_WATCH: Duration = Duration::from_secs(5);

/// Applies the configuration's network and follows it until it is ready.
pub(super) async fn run(context: &Rc<Context>) -> Outcome {
    let wanted = context
        .facts
        .borrow()
        .loaded
        .as_ref()
        .and_then(|loaded| loaded.config.as_ref()?.network.clone());
    let Some(wanted) = wanted else {
        return Outcome::Skipped("the configuration has no network section".to_owned());
    };
    let mut modules = Vec::new();
    if matches!(wanted.uplink, Uplink::Bond { .. }) {
        modules.push("bonding");
    }
    if wanted.vlan.is_some() {
        modules.push("8021q");
    }
    load_modules(context, &modules).await;
    let bridge = wanted.bridge.clone();
    if let Err(error) = context.apply_network(wanted) {
        return Outcome::Failed(format!("network: {error}"));
    }
    let Some(manager) = context.network() else {
        return Outcome::Failed("network: it was stopped".to_owned());
    };
    let events = manager.events();
    let mut failure = None;
    loop {
        match outcome_of(&manager.report(), &bridge) {
            Some(Outcome::Done) => return Outcome::Done,
            // Told once and watched further: a gateway or a server may come back.
            Some(outcome) if failure.as_ref() != Some(&outcome) => {
                let told = Event::Booted("network", outcome.clone());
                if context.events.send(told).await.is_err() {
                    return outcome;
                }
                failure = Some(outcome);
            }
            _ => {}
        }
        // Events wake this up; the timer is for one that was dropped.
        let pause = if failure.is_some() {
            NETWORK_WATCH
        } else {
            NETWORK_POLL
        };
        let again = async {
            smol::Timer::after(pause).await;
            true
        };
        if !smol::future::or(async { events.recv().await.is_ok() }, again).await {
            return Outcome::Failed("network: its thread ended".to_owned());
        }
    }
}

/// What `report` means for the phase that wants `bridge`; nothing while it is
/// under way.
fn outcome_of(report: &NetworkReport, bridge: &str) -> Option<Outcome> {
    let ours = report.bridge.as_deref() == Some(bridge);
    let why = || {
        let reason = report.reason.clone();
        Outcome::Failed(reason.unwrap_or_else(|| format!("network: {}", report.state)))
    };
    match report.state.as_str() {
        "ready" if ours => Some(Outcome::Done),
        "restored" | "gateway-unreachable" if ours => Some(why()),
        "failed" => Some(why()),
        _ => None,
    }
}

/// What the network functions on PCI ask for.
pub(super) fn modaliases(devices: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(devices) else {
        return Vec::new();
    };
    let read = |path: PathBuf| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let mut wanted = std::collections::BTreeSet::new();
    for entry in entries.flatten() {
        // Class 02xxxx is "network controller".
        if read(entry.path().join("class")).starts_with("0x02") {
            wanted.insert(read(entry.path().join("modalias")));
            if read(entry.path().join("vendor")) == "0x1af4" {
                // A virtio card is a device behind the PCI function.
                wanted.insert("virtio_net".to_owned());
            }
        }
    }
    wanted
        .into_iter()
        .filter(|alias| !alias.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_phase_ends_well_only_with_the_bridge_it_wants() {
        let report = |state: &str, bridge: &str| NetworkReport {
            state: state.to_owned(),
            bridge: Some(bridge.to_owned()),
            ..NetworkReport::default()
        };
        let outcome = |state, bridge| outcome_of(&report(state, bridge), "ovirtmgmt");
        assert_eq!(outcome("ready", "ovirtmgmt"), Some(Outcome::Done));
        assert_eq!(outcome("ready", "the-one-before"), None);
        for state in ["waiting-for-link", "configuring", "unconfigured"] {
            assert_eq!(outcome(state, "ovirtmgmt"), None, "{state}");
        }
        for state in ["restored", "gateway-unreachable", "failed"] {
            let expected = Some(Outcome::Failed(format!("network: {state}")));
            assert_eq!(outcome(state, "ovirtmgmt"), expected);
        }
    }

    #[test]
    fn network_functions_on_pci_are_found_and_virtio_names_both_its_drivers() {
        let devices = std::env::temp_dir().join(format!("holdfast-pci-net-{}", std::process::id()));
        let functions = [
            ("a", "0x020000", "0x8086", "pci:v00008086d000010D3"),
            ("b", "0x010000", "0x1af4", "pci:disk"),
            ("c", "0x020000", "0x1af4", "pci:v00001AF4"),
        ];
        for (slot, class, vendor, modalias) in functions {
            fs::create_dir_all(devices.join(slot)).unwrap();
            for (file, text) in [("class", class), ("vendor", vendor), ("modalias", modalias)] {
                fs::write(devices.join(slot).join(file), format!("{text}\n")).unwrap();
            }
        }
        assert_eq!(
            modaliases(&devices),
            ["pci:v00001AF4", "pci:v00008086d000010D3", "virtio_net"]
        );
        fs::remove_dir_all(&devices).unwrap();
    }
}
