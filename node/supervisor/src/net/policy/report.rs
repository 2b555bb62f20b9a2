//! The policy's state in the words of the status report.

use control::status::{LinkReport, NetworkReport};

use super::super::observed::{Kind, Origin};
use super::{Effect, Policy, Problem};

impl Policy {
    /// Publishes the report when it changed.
    pub(super) fn publish(&mut self) {
        let report = self.report();
        if report != self.published {
            self.published = report.clone();
            self.effects.push_back(Effect::Publish(report));
        }
    }

    fn report(&self) -> NetworkReport {
        let Some(target) = &self.target else {
            return NetworkReport {
                state: "unconfigured".to_owned(),
                ..NetworkReport::default()
            };
        };
        let (state, why) = match &self.problem {
            Some(Problem::Waiting(why)) => ("waiting-for-link", Some(why.clone())),
            Some(Problem::Failed(why)) => ("failed", Some(why.clone())),
            Some(Problem::Configuring(why)) => ("configuring", Some(why.clone())),
            Some(Problem::Unreachable(why)) => ("gateway-unreachable", Some(why.clone())),
            None if self.restored.is_some() => ("restored", None),
            None => ("ready", None),
        };
        let reasons: Vec<String> = [why, self.restored.clone(), self.missing.clone()]
            .into_iter()
            .flatten()
            .collect();
        let answered: Option<Vec<bool>> = self
            .gateways
            .iter()
            .map(|gateway| gateway.answered)
            .collect();
        let mut report = NetworkReport {
            state: state.to_owned(),
            bridge: Some(target.network.bridge.clone()),
            dns: self
                .name_servers(&target.network)
                .iter()
                .map(ToString::to_string)
                .collect(),
            gateway_reachable: answered
                .filter(|all| !all.is_empty())
                .map(|all| all.iter().all(|one| *one)),
            reason: (!reasons.is_empty()).then(|| reasons.join("; ")),
            address_at_ms: self.address_at,
            ..NetworkReport::default()
        };
        let Some(observed) = &self.observed else {
            return report;
        };
        if let Some(bridge) = observed.named(&target.network.bridge) {
            let on_bridge = observed
                .addresses
                .iter()
                .filter(|a| a.link == bridge.index && a.origin != Origin::Kernel);
            report.addresses = on_bridge
                .map(|a| format!("{}/{}", a.address, a.prefix))
                .collect();
            let default = observed
                .routes
                .iter()
                .filter(|r| r.link == bridge.index && r.prefix == 0);
            report.gateways = default
                .filter_map(|r| r.gateway)
                .map(|gateway| gateway.to_string())
                .collect();
        }
        report.links = self
            .chain
            .iter()
            .filter_map(|name| observed.named(name))
            .map(|link| LinkReport {
                name: link.name.clone(),
                kind: match link.kind {
                    Kind::Nic => "nic",
                    Kind::Bond { .. } => "bond",
                    Kind::Vlan { .. } => "vlan",
                    Kind::Bridge { .. } => "bridge",
                    Kind::Other => "other",
                }
                .to_owned(),
                mac: link.mac.to_string(),
                mtu: link.mtu,
                up: link.up,
                carrier: link.carrier,
                master: link
                    .master
                    .and_then(|m| observed.indexed(m))
                    .map(|m| m.name.clone()),
            })
            .collect();
        report
    }
}
