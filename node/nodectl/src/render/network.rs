use control::status::NetworkReport;

use crate::text::{Table, duration, field};

/// The management network: its state in words, then its links.
pub(crate) fn network(report: &NetworkReport) -> String {
    let mut out = String::new();
    field(&mut out, "network", &summary(report));
    if !report.dns.is_empty() {
        field(&mut out, "dns", &report.dns.join(" "));
    }
    if let Some(ms) = report.address_at_ms {
        field(
            &mut out,
            "address",
            &format!("{} after the kernel started", duration(ms)),
        );
    }
    if !report.links.is_empty() {
        out.push('\n');
        let mut table = Table::new(
            0,
            &[3],
            &["link", "kind", "mac", "mtu", "state", "carrier", "below"],
        );
        for link in &report.links {
            table.row([
                link.name.clone(),
                link.kind.clone(),
                link.mac.clone(),
                link.mtu.to_string(),
                if link.up { "up" } else { "down" }.to_owned(),
                if link.carrier { "yes" } else { "no" }.to_owned(),
                link.master.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table.draw(&mut out, "");
    }
    out
}

/// One sentence: state, bridge, addresses, gateway, why.
pub(super) fn summary(report: &NetworkReport) -> String {
    let mut words = vec![if report.state.is_empty() {
        "not known".to_owned()
    } else {
        report.state.clone()
    }];
    if let Some(bridge) = &report.bridge {
        let addresses = if report.addresses.is_empty() {
            "no address".to_owned()
        } else {
            report.addresses.join(" ")
        };
        words.push(format!("{bridge} {addresses}"));
    }
    if !report.gateways.is_empty() {
        let answers = match report.gateway_reachable {
            Some(true) => " (answers)",
            Some(false) => " (does not answer)",
            None => "",
        };
        words.push(format!("gateway {}{answers}", report.gateways.join(" ")));
    }
    if let Some(reason) = &report.reason {
        words.push(reason.clone());
    }
    words.join(", ")
}
