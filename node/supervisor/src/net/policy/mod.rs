//! The management network's decisions, as a pure core around [`plan`] and the
//! DHCP client: what to do to the kernel, when to ask the gateway, when to go
//! back to the previous set.
//!
//! ```text
//!  unconfigured ─apply─▶ configuring ──▶ ready ◀──────────┐
//!                         │  ▲   │                        │ gateway answers
//!             card missing│  │   │ gateway silent         │
//!                         ▼  │   ▼                        │
//!             waiting-for-link   gateway-unreachable ─────┘
//!
//!  a changed set that is not ready in time ──▶ the previous set: restored
//! ```
//!
//! Invariants, each held by a test in `policy/tests.rs`:
//! - only a set that was ready is ever restored, and only over a set that was applied after it;
//! - applying the set in force does nothing at all;
//! - at most one batch of steps is under way, and a batch that does not take is
//!   repeated ever more slowly.

mod gateway;
mod report;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use control::config::{Ipv4, Ipv6, Network};
use control::status::NetworkReport;
use gateway::Gateway;

use super::advertised::{Advertisement, NameServers};
use super::dhcp::{self, Millis};
use super::kernel::Reach;
use super::observed::{Link, Observed, Origin};
use super::plan::{Action, Planned, plan};
use super::resolv;

/// How long a changed set may take to become ready before the previous one is
/// restored: spanning tree on a switch alone can take 30 s.
pub const CHANGE_DEADLINE_MS: u64 = 60_000;
/// Batches of steps in a row that may fail to lead to an empty plan.
const ROUNDS_MAX: u32 = 6;
/// Pause after a batch failed, doubled up to the maximum.
const PAUSE_MIN_MS: u64 = 500;
/// Longest pause between batches.
const PAUSE_MAX_MS: u64 = 30_000;
/// What may happen.
#[derive(Debug)]
pub enum Input<'a> {
    /// The operator's set, and the host name to tell a DHCP server.
    Apply {
        /// The set.
        network: Network,
        /// Host name for DHCP.
        hostname: Option<String>,
    },
    /// What the kernel has now.
    Observed(Observed),
    /// A batch of steps ended; `Observed` follows.
    Executed(Result<(), String>),
    /// A DHCP message arrived.
    Dhcp(&'a [u8]),
    /// A router advertised name servers.
    Advertised(&'a Advertisement),
    /// The neighbour cache's word on a gateway asked for with [`Effect::Look`].
    Gateway(IpAddr, Reach),
    /// A deadline may have passed. Early calls are harmless.
    Tick,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Take these steps, then say `Executed` and `Observed`.
    Execute(Vec<Action>),
    /// Send a DHCP message to everybody on the link.
    Broadcast {
        /// Index of the link.
        link: u32,
        /// The message.
        message: Vec<u8>,
    },
    /// Send a DHCP message to a server.
    Unicast {
        /// Our address.
        from: Ipv4Addr,
        /// The server's.
        to: Ipv4Addr,
        /// The message.
        message: Vec<u8>,
    },
    /// Make the kernel ask for a gateway.
    Probe {
        /// Index of the link.
        link: u32,
        /// The gateway.
        gateway: IpAddr,
        /// Forget what is known of it first.
        fresh: bool,
    },
    /// Say what the kernel knows of a gateway.
    Look {
        /// Index of the link.
        link: u32,
        /// The gateway.
        gateway: IpAddr,
    },
    /// Write this to resolv.conf.
    Resolv(String),
    /// The report changed.
    Publish(NetworkReport),
    /// The bridge has its address, for the first time.
    AddressReady,
}

/// The set we work towards.
#[derive(Debug, Clone)]
struct Target {
    network: Network,
    hostname: Option<String>,
    /// When to go back to the previous set.
    deadline: Option<Millis>,
}

/// The DHCP client of the current bridge.
#[derive(Debug)]
struct Dhcp {
    client: dhcp::Client,
    mac: [u8; 6],
}

/// What stands between us and a ready network.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    Waiting(String),
    Failed(String),
    Configuring(String),
    Unreachable(String),
}

/// The core.
#[derive(Debug)]
pub struct Policy {
    change_deadline_ms: u64,
    seed: u64,
    target: Option<Target>,
    previous: Option<Target>,
    restored: Option<String>,
    observed: Option<Observed>,
    chain: Vec<String>,
    missing: Option<String>,
    /// A batch is under way, up to the first look at the kernel after it…
    executing: bool,
    /// …of which the steps are taken.
    executed: bool,
    rounds: u32,
    pause_ms: u64,
    retry_at: Option<Millis>,
    failure: Option<String>,
    dhcp: Option<Dhcp>,
    hint: Option<Ipv4Addr>,
    gateways: Vec<Gateway>,
    problem: Option<Problem>,
    address_at: Option<Millis>,
    advertised: NameServers,
    resolv: Option<String>,
    published: NetworkReport,
    effects: VecDeque<Effect>,
}

impl Policy {
    /// A policy without a set. `seed` feeds the DHCP client's randomness.
    #[must_use]
    pub fn new(change_deadline_ms: u64, seed: u64) -> Self {
        Self {
            change_deadline_ms,
            seed,
            target: None,
            previous: None,
            restored: None,
            observed: None,
            chain: Vec::new(),
            missing: None,
            executing: false,
            executed: false,
            rounds: 0,
            pause_ms: PAUSE_MIN_MS,
            retry_at: None,
            failure: None,
            dhcp: None,
            hint: None,
            gateways: Vec::new(),
            problem: None,
            address_at: None,
            advertised: NameServers::default(),
            resolv: None,
            published: NetworkReport::default(),
            effects: VecDeque::new(),
        }
    }

    /// Takes one input. Never blocks; drain [`Policy::next_effect`] afterwards.
    pub fn handle(&mut self, now: Millis, input: Input<'_>) {
        match input {
            Input::Apply { network, hostname } => self.apply(now, network, hostname),
            Input::Observed(observed) => {
                self.observed = Some(observed);
                self.executing = self.executing && !self.executed;
            }
            Input::Executed(outcome) => self.executed(now, outcome),
            Input::Dhcp(message) => {
                if let Some(dhcp) = &mut self.dhcp {
                    dhcp.client.handle(now, dhcp::Input::Message(message));
                }
            }
            Input::Advertised(news) => self.advertised.hear(now, news),
            Input::Gateway(address, reach) => self.gateway_said(now, address, reach),
            Input::Tick => {}
        }
        self.settle(now);
        let late = self
            .target
            .as_ref()
            .and_then(|target| target.deadline)
            .is_some_and(|at| at <= now);
        if late {
            self.restore();
            self.settle(now);
        }
        self.publish();
    }

    /// The next thing to do, if any.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Policy::handle`] with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let change = self.target.as_ref().and_then(|target| target.deadline);
        let dhcp = self.dhcp.as_ref().and_then(|dhcp| dhcp.client.deadline());
        let gateways = self.gateways.iter().map(|gateway| gateway.next).min();
        let servers = self.advertised.deadline();
        // While a batch runs, only its end matters.
        let retry = self.retry_at.filter(|_| !self.executing);
        [change, dhcp, gateways, retry, servers]
            .into_iter()
            .flatten()
            .min()
    }

    /// Index of the link to listen on for DHCP, while a client runs.
    #[must_use]
    pub fn dhcp_link(&self) -> Option<u32> {
        self.dhcp
            .as_ref()
            .and(self.bridge())
            .map(|bridge| bridge.index)
    }

    fn bridge(&self) -> Option<&Link> {
        let target = self.target.as_ref()?;
        self.observed.as_ref()?.named(&target.network.bridge)
    }

    /// Whether frames get from the bridge to the wire. A guest's tap alone
    /// gives the bridge carrier, so the link below it is asked, too.
    fn carries(&self, bridge: &Link) -> bool {
        let mut below = self.chain.iter().rev().filter(|name| **name != bridge.name);
        let uplink = below
            .next()
            .and_then(|name| self.observed.as_ref()?.named(name));
        bridge.up && bridge.carrier && uplink.is_some_and(|uplink| uplink.carrier)
    }

    fn apply(&mut self, now: Millis, network: Network, hostname: Option<String>) {
        if let Some(target) = &self.target
            && target.network == network
            && target.hostname == hostname
        {
            // The operator agrees with what was restored.
            self.restored = None;
            return;
        }
        let deadline = self
            .previous
            .as_ref()
            .map(|_| now + self.change_deadline_ms);
        self.restored = None;
        self.aim(Target {
            network,
            hostname,
            deadline,
        });
    }

    /// Makes `target` the set to work towards.
    fn aim(&mut self, target: Target) {
        let same_path = self.target.as_ref().is_some_and(|old| {
            let (old_name, new_name) = (&old.hostname, &target.hostname);
            let (old, new) = (&old.network, &target.network);
            (&old.bridge, &old.uplink, old.vlan, old_name)
                == (&new.bridge, &new.uplink, new.vlan, new_name)
        });
        if !same_path || target.network.ipv4 != Ipv4::Dhcp {
            self.stop_dhcp();
        }
        self.target = Some(target);
        self.gateways.clear();
        (self.rounds, self.pause_ms, self.retry_at, self.failure) = (0, PAUSE_MIN_MS, None, None);
        self.problem = Some(Problem::Configuring("links are being set up".to_owned()));
    }

    /// Forgets the lease but remembers its address for the next client.
    fn stop_dhcp(&mut self) {
        if let Some(dhcp) = self.dhcp.take() {
            self.hint = dhcp.client.lease().map(|lease| lease.address).or(self.hint);
        }
    }

    /// Goes back to the last set that was ready.
    fn restore(&mut self) {
        let Some(previous) = self.previous.clone() else {
            return;
        };
        let why = match &self.problem {
            Some(
                Problem::Waiting(why)
                | Problem::Failed(why)
                | Problem::Configuring(why)
                | Problem::Unreachable(why),
            ) => why.clone(),
            None => "it did not become ready".to_owned(),
        };
        let waited_s = self.change_deadline_ms / 1000;
        self.aim(Target {
            deadline: None,
            ..previous
        });
        self.restored = Some(format!(
            "the previous set is back: the new one was not ready within {waited_s} s: {why}"
        ));
    }

    fn executed(&mut self, now: Millis, outcome: Result<(), String>) {
        self.executed = true;
        if let Err(why) = outcome {
            self.failure = Some(why);
            self.pause(now);
        }
    }

    fn pause(&mut self, now: Millis) {
        self.retry_at = Some(now + self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MAX_MS);
        self.rounds = 0;
    }

    /// Restores the invariants after an input.
    fn settle(&mut self, now: Millis) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
        self.advertised.forget(now);
        if self.executing || self.observed.is_none() || self.target.is_none() {
            return;
        }
        // A lease won or lost in the first pass changes the plan of the second.
        for _ in 0..3 {
            let settled = self.plan(now);
            if !self.run_dhcp(now) || self.executing {
                if settled {
                    self.judge(now);
                } else {
                    // What was known of a gateway was known of other links.
                    self.gateways.clear();
                }
                return;
            }
        }
    }

    /// Plans and orders steps; true when there was nothing to do.
    fn plan(&mut self, now: Millis) -> bool {
        let (Some(target), Some(observed)) = (&self.target, &self.observed) else {
            return false;
        };
        let lease = self.dhcp.as_ref().and_then(|dhcp| dhcp.client.lease());
        match plan(&target.network, lease, observed) {
            Err(error) => {
                self.problem = Some(Problem::Failed(error.to_string()));
                false
            }
            Ok(Planned::Waiting(reason)) => {
                self.problem = Some(Problem::Waiting(reason));
                false
            }
            Ok(Planned::Steps(steps)) => {
                (self.chain, self.missing) = (steps.chain, steps.missing);
                if steps.actions.is_empty() {
                    (self.rounds, self.pause_ms, self.retry_at, self.failure) =
                        (0, PAUSE_MIN_MS, None, None);
                    return true;
                }
                self.order(now, steps.actions);
                false
            }
        }
    }

    fn order(&mut self, now: Millis, actions: Vec<Action>) {
        if self.retry_at.is_some() {
            if let Some(failure) = &self.failure {
                self.problem = Some(Problem::Failed(failure.clone()));
            }
            return;
        }
        if self.rounds >= ROUNDS_MAX {
            let first = actions.first().map(ToString::to_string).unwrap_or_default();
            let why = format!("the kernel did not keep \"{first}\" in {ROUNDS_MAX} attempts");
            self.failure = Some(why.clone());
            self.problem = Some(Problem::Failed(why));
            self.pause(now);
            return;
        }
        self.rounds += 1;
        (self.executing, self.executed) = (true, false);
        if self.failure.is_none() {
            self.problem = Some(Problem::Configuring("links are being set up".to_owned()));
        }
        self.effects.push_back(Effect::Execute(actions));
    }

    /// Starts, stops and drives the DHCP client; true when the lease changed.
    fn run_dhcp(&mut self, now: Millis) -> bool {
        let Some(target) = &self.target else {
            return false;
        };
        let bridge = self
            .bridge()
            .map(|bridge| (bridge.index, bridge.mac.0, self.carries(bridge)));
        let (true, Some((link, mac, carrier))) = (target.network.ipv4 == Ipv4::Dhcp, bridge) else {
            let had = self
                .dhcp
                .as_ref()
                .is_some_and(|dhcp| dhcp.client.lease().is_some());
            self.stop_dhcp();
            return had;
        };
        let mut changed = false;
        if self.dhcp.as_ref().is_some_and(|dhcp| dhcp.mac != mac) {
            // Another card, another client in the server's eyes.
            changed = self
                .dhcp
                .as_ref()
                .is_some_and(|dhcp| dhcp.client.lease().is_some());
            self.dhcp = None;
            self.hint = None;
        }
        if self.dhcp.is_none() {
            if self.executing {
                return changed;
            }
            self.seed = self
                .seed
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(1);
            let identity = dhcp::Identity {
                mac,
                hostname: target.hostname.clone(),
                hint: self.hint,
            };
            self.dhcp = Some(Dhcp {
                client: dhcp::Client::new(identity, self.seed),
                mac,
            });
        }
        let Some(dhcp) = &mut self.dhcp else {
            return changed;
        };
        dhcp.client.handle(now, dhcp::Input::Carrier(carrier));
        while let Some(effect) = dhcp.client.next_effect() {
            match effect {
                dhcp::Effect::Broadcast(message) => {
                    self.effects.push_back(Effect::Broadcast { link, message })
                }
                dhcp::Effect::Unicast { from, to, message } => {
                    self.effects
                        .push_back(Effect::Unicast { from, to, message });
                }
                dhcp::Effect::Lease(_) => changed = true,
            }
        }
        changed
    }

    /// With links and addresses as planned: is it ready?
    fn judge(&mut self, now: Millis) {
        let Some(target) = self.target.clone() else {
            return;
        };
        self.write_resolv(&target.network);
        self.problem = self.address_problem(&target.network);
        if self.problem.is_none() {
            if self.address_at.is_none() {
                self.address_at = Some(now);
                self.effects.push_back(Effect::AddressReady);
            }
            self.ask_gateways(now);
            self.problem = self.gateway_problem().or_else(|| self.detecting());
        } else {
            self.gateways.clear();
        }
        if self.problem.is_none() {
            if let Some(target) = &mut self.target {
                target.deadline = None;
            }
            self.previous = self.target.clone();
        }
    }

    fn address_problem(&self, network: &Network) -> Option<Problem> {
        let bridge = self.bridge()?;
        if !self.carries(bridge) {
            let below: Vec<&str> = self
                .chain
                .iter()
                .map(String::as_str)
                .filter(|name| *name != network.bridge)
                .collect();
            return Some(Problem::Waiting(format!(
                "no carrier on {} (over {})",
                network.bridge,
                below.join(", ")
            )));
        }
        let duplicate = self.observed.as_ref().and_then(|observed| {
            let on_bridge = |a: &&super::observed::Address| a.link == bridge.index && a.duplicate;
            observed.addresses.iter().find(on_bridge)
        });
        if let Some(duplicate) = duplicate {
            return Some(Problem::Failed(format!(
                "another machine on this network has address {}: configure another, or take it off that machine",
                duplicate.address
            )));
        }
        let on_bridge = |v4: bool| {
            self.observed.as_ref().is_some_and(|observed| {
                let there = |a: &&super::observed::Address| {
                    a.link == bridge.index
                        && a.address.is_ipv4() == v4
                        && a.origin != Origin::Kernel
                };
                observed.addresses.iter().any(|a| there(&a))
            })
        };
        match (&network.ipv4, &network.ipv6) {
            (Ipv4::Dhcp, _) if !on_bridge(true) => {
                let what = self.dhcp.as_ref().map(|dhcp| dhcp.client.waiting_for());
                Some(Problem::Configuring(what.unwrap_or_default()))
            }
            // With IPv4 there, router advertisements may come when they like.
            (Ipv4::None, Ipv6::Slaac) if !on_bridge(false) => Some(Problem::Configuring(
                "no router has advertised an IPv6 prefix yet".to_owned(),
            )),
            _ => None,
        }
    }

    /// The name servers in force.
    fn name_servers(&self, network: &Network) -> Vec<IpAddr> {
        let lease = self.dhcp.as_ref().and_then(|dhcp| dhcp.client.lease());
        let bridge = self.bridge().map(|bridge| bridge.index);
        let asked = bridge.filter(|_| network.ipv6 == Ipv6::Slaac);
        let advertised = asked.into_iter().flat_map(|link| self.advertised.on(link));
        resolv::servers(network, lease, advertised)
    }

    fn write_resolv(&mut self, network: &Network) {
        let lease = self.dhcp.as_ref().and_then(|dhcp| dhcp.client.lease());
        let text = resolv::text(&self.name_servers(network), &resolv::search(network, lease));
        if self.resolv.as_ref() != Some(&text) {
            self.resolv = Some(text.clone());
            self.effects.push_back(Effect::Resolv(text));
        }
    }
}
