//! Asking the gateways: probe, look until the kernel knows, ask again later.

use std::net::IpAddr;

use control::config::{Ipv4, Ipv6};

use super::{Effect, Policy, Problem};
use crate::net::dhcp::{self, Millis};
use crate::net::kernel::Reach;
use crate::net::observed::{Address, Origin};

/// First look at the neighbour cache after a probe; doubled from look to look.
const LOOK_MIN_MS: u64 = 2;
/// Longest time between looks.
const LOOK_MAX_MS: u64 = 200;
/// The kernel gives up a new neighbour after 3 requests, 1 s apart…
const ANSWER_FRESH_MS: u64 = 4_000;
/// …and doubts an old one for 5 s before it asks.
const ANSWER_KNOWN_MS: u64 = 12_000;
/// Pause before a silent gateway is asked again.
const SILENT_PAUSE_MS: u64 = 1_000;
/// How often a gateway that answered is asked again.
const CHECK_MS: u64 = 30_000;

/// A gateway and what we know of it.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) address: IpAddr,
    pub(super) answered: Option<bool>,
    /// Since when we wait for the kernel's word, and how often we look.
    asked: Option<(Millis, u64)>,
    /// Next probe or look.
    pub(super) next: Millis,
}

impl Policy {
    fn wanted_gateways(&self) -> Vec<IpAddr> {
        let Some(target) = &self.target else {
            return Vec::new();
        };
        let v4 = match &target.network.ipv4 {
            Ipv4::Static { gateway, .. } => *gateway,
            Ipv4::Dhcp => self
                .dhcp
                .as_ref()
                .and_then(|dhcp| dhcp.client.lease())
                .and_then(dhcp::Lease::gateway),
            Ipv4::None => None,
        };
        let v6 = match &target.network.ipv6 {
            Ipv6::Static { gateway, .. } => *gateway,
            Ipv6::None | Ipv6::Slaac => None,
        };
        v4.map(IpAddr::V4)
            .into_iter()
            .chain(v6.map(IpAddr::V6))
            .collect()
    }

    /// Probes and looks whose time has come.
    pub(super) fn ask_gateways(&mut self, now: Millis) {
        let wanted = self.wanted_gateways();
        self.gateways
            .retain(|gateway| wanted.contains(&gateway.address));
        for address in wanted {
            if !self
                .gateways
                .iter()
                .any(|gateway| gateway.address == address)
            {
                self.gateways.push(Gateway {
                    address,
                    answered: None,
                    asked: None,
                    next: now,
                });
            }
        }
        let Some(bridge) = self.bridge() else { return };
        let link = bridge.index;
        // Before duplicate address detection has ended, nobody can be asked.
        let tentative = self.observed.as_ref().is_some_and(|observed| {
            observed
                .addresses
                .iter()
                .any(|a| a.link == link && a.tentative)
        });
        for gateway in &mut self.gateways {
            if gateway.next > now {
                continue;
            }
            if gateway.address.is_ipv6() && tentative {
                gateway.next = now + LOOK_MAX_MS;
                continue;
            }
            let address = gateway.address;
            match gateway.asked {
                None => {
                    let fresh = gateway.answered != Some(true);
                    self.effects.push_back(Effect::Probe {
                        link,
                        gateway: address,
                        fresh,
                    });
                    gateway.asked = Some((now, LOOK_MIN_MS));
                    gateway.next = now + LOOK_MIN_MS;
                }
                Some((since, interval)) => {
                    self.effects.push_back(Effect::Look {
                        link,
                        gateway: address,
                    });
                    let interval = (interval * 2).min(LOOK_MAX_MS);
                    gateway.asked = Some((since, interval));
                    gateway.next = now + interval;
                }
            }
        }
    }

    pub(super) fn gateway_said(&mut self, now: Millis, address: IpAddr, reach: Reach) {
        let Some(gateway) = self
            .gateways
            .iter_mut()
            .find(|gateway| gateway.address == address)
        else {
            return;
        };
        let Some((since, _)) = gateway.asked else {
            return;
        };
        let patience = if gateway.answered == Some(true) {
            ANSWER_KNOWN_MS
        } else {
            ANSWER_FRESH_MS
        };
        let (answered, pause) = match reach {
            Reach::Answered => (true, CHECK_MS),
            Reach::Silent => (false, SILENT_PAUSE_MS),
            Reach::Pending if now >= since + patience => (false, SILENT_PAUSE_MS),
            Reach::Pending => return,
        };
        gateway.answered = Some(answered);
        gateway.asked = None;
        gateway.next = now + pause;
    }

    pub(super) fn gateway_problem(&self) -> Option<Problem> {
        let silent: Vec<String> = self
            .gateways
            .iter()
            .filter(|g| g.answered == Some(false))
            .map(|g| g.address.to_string())
            .collect();
        if !silent.is_empty() {
            return Some(Problem::Unreachable(format!(
                "gateway {} does not answer",
                silent.join(" and ")
            )));
        }
        let pending = self
            .gateways
            .iter()
            .find(|gateway| gateway.answered.is_none())?;
        Some(Problem::Configuring(format!(
            "waiting for gateway {} to answer",
            pending.address
        )))
    }

    /// A set is not known to work before its own addresses are known to be free.
    pub(super) fn detecting(&self) -> Option<Problem> {
        let bridge = self.bridge()?.index;
        let mut addresses = self.observed.as_ref()?.addresses.iter();
        let own = |a: &&Address| a.link == bridge && a.tentative && a.origin == Origin::Program;
        addresses.find(own).map(|address| {
            Problem::Configuring(format!(
                "making sure that no other machine has address {}",
                address.address
            ))
        })
    }
}
