//! A DHCPv4 client (RFC 2131) as a pure core: bytes and time in, bytes out.
//!
//! ```text
//!            carrier            offer               ack
//!   waiting ─────────▶ selecting ─────▶ requesting ─────▶ bound ◀──────┐
//!                        ▲  ▲               │ nak,          │ T1       │ ack
//!                        │  └───────────────┘ no answer     ▼          │
//!                        │      nak, lease over          renewing ─────┤
//!                        ├───────────────────────────────   │ T2       │
//!                        │                                  ▼          │
//!                        ├────────────────────────────── rebinding ────┤
//!                        │       nak                                   │
//!                        └────────────────────────────── rebooting ────┘
//!                                                    (carrier came back)
//! ```
//!
//! Invariants, each held by a test in `tests.rs`:
//! - a lease is in force in bound, renewing, rebinding and rebooting, and in no other state;
//! - nothing is sent without carrier;
//! - an answer that is not for our transaction and address changes nothing.

mod message;
pub mod packet;
#[cfg(test)]
pub(in crate::net) mod tests;

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use message::{Answer, AnswerKind, Question};

/// Milliseconds since the machine started, counting suspension (boot-time clock).
pub type Millis = u64;

/// First interval between transmissions. RFC 2131 suggests 4 s; the switch port
/// that is not forwarding yet is the usual reason for a loss while booting, so
/// the first repetitions come sooner.
const RETRY_MIN_MS: u64 = 1_000;
/// Largest interval between transmissions (RFC 2131 §4.1).
const RETRY_MAX_MS: u64 = 64_000;
/// Requests for an offer before starting over: 1 + 2 + 4 s.
const REQUESTS_MAX: u32 = 3;
/// Requests for a lease we had before it counts as unanswered.
const REBOOTS_MAX: u32 = 3;
/// Shortest interval between renewals (RFC 2131 §4.4.5).
const RENEW_MIN_MS: u64 = 60_000;

/// A route handed out with a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRoute {
    /// Destination network.
    pub destination: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Gateway; 0.0.0.0 is on the link.
    pub gateway: Ipv4Addr,
}

/// A lease, checked: the address is unicast, the prefix 1–32, times in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// The server that granted it.
    pub server: Ipv4Addr,
    /// Routes: option 121, or a default route from option 3.
    pub routes: Vec<LeaseRoute>,
    /// Name servers, at most 3.
    pub dns: Vec<Ipv4Addr>,
    /// Search domains, at most 6.
    pub search: Vec<String>,
    /// MTU in bytes, 576 or more.
    pub mtu: Option<u16>,
    /// Seconds of validity; `None` is for ever.
    pub valid_s: Option<u32>,
    /// Seconds until renewal (T1); absent with a lease for ever.
    pub renew_s: Option<u32>,
    /// Seconds until rebinding (T2); absent with a lease for ever.
    pub rebind_s: Option<u32>,
}

impl Lease {
    /// The gateway of the default route.
    #[must_use]
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.routes
            .iter()
            .find(|route| route.prefix == 0 && !route.gateway.is_unspecified())
            .map(|route| route.gateway)
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Hardware address of the link, which is the identity the server sees.
    pub mac: [u8; 6],
    /// Host name to tell the server.
    pub hostname: Option<String>,
    /// Address to ask for, if we had one before.
    pub hint: Option<Ipv4Addr>,
}

/// What may happen to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// The link has carrier, or has lost it. Repeating it is harmless.
    Carrier(bool),
    /// A DHCP message from UDP port 67.
    Message(&'a [u8]),
    /// A deadline may have passed. Early calls are harmless.
    Tick,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send from 0.0.0.0:68 to 255.255.255.255:67 on the link.
    Broadcast(Vec<u8>),
    /// Send from our address to the server's port 67.
    Unicast {
        /// Our address.
        from: Ipv4Addr,
        /// The server's.
        to: Ipv4Addr,
        /// The message.
        message: Vec<u8>,
    },
    /// The lease in force changed: configure it, or remove it.
    Lease(Option<Lease>),
}

/// Where the client stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Selecting,
    Requesting { offer: Lease, requests: u32 },
    Bound,
    Renewing,
    Rebinding,
    Rebooting { requests: u32 },
}

/// A lease and the moments that follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    lease: Lease,
    renew_at: Option<Millis>,
    rebind_at: Option<Millis>,
    ends_at: Option<Millis>,
}

/// The client.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    state: State,
    carrier: bool,
    held: Option<Held>,
    transaction: u32,
    /// When this exchange began, for the `secs` field.
    began: Millis,
    /// When the last request of this exchange was sent: a lease counts from there.
    asked: Millis,
    retry_at: Option<Millis>,
    retry_ms: u64,
    random: u64,
    effects: VecDeque<Effect>,
    /// What went wrong last, for the operator.
    complaint: Option<String>,
}

impl Client {
    /// A client that waits for carrier. `seed` decides transaction ids and jitter.
    #[must_use]
    pub fn new(identity: Identity, seed: u64) -> Self {
        Self {
            identity,
            state: State::Waiting,
            carrier: false,
            held: None,
            transaction: 0,
            began: 0,
            asked: 0,
            retry_at: None,
            retry_ms: RETRY_MIN_MS,
            random: seed | 1,
            effects: VecDeque::new(),
            complaint: None,
        }
    }

    /// The lease in force.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.held.as_ref().map(|held| &held.lease)
    }

    /// What the client is doing, in words, while it has no lease.
    #[must_use]
    pub fn waiting_for(&self) -> String {
        let doing = match &self.state {
            State::Waiting => "waiting for carrier before asking for an address".to_owned(),
            State::Selecting => "no DHCP server has offered an address yet".to_owned(),
            State::Requesting { offer, .. } => {
                format!(
                    "DHCP server {} offered {}, waiting for its acknowledgement",
                    offer.server, offer.address
                )
            }
            State::Bound | State::Renewing | State::Rebinding | State::Rebooting { .. } => {
                "address leased".to_owned()
            }
        };
        match &self.complaint {
            Some(complaint) => format!("{doing} ({complaint})"),
            None => doing,
        }
    }

    /// Takes one input. Never blocks; drain [`Client::next_effect`] afterwards.
    pub fn handle(&mut self, now: Millis, input: Input<'_>) {
        match input {
            Input::Carrier(carrier) => self.carrier(now, carrier),
            Input::Message(bytes) => self.message(now, bytes),
            Input::Tick => {}
        }
        self.tick(now);
    }

    /// The next thing to do, if any.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When to call [`Client::handle`] with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let ends = self.held.as_ref().and_then(|held| held.ends_at);
        let phase = self
            .held
            .as_ref()
            .filter(|_| self.carrier)
            .and_then(|held| match self.state {
                State::Bound => held.renew_at,
                State::Renewing => held.rebind_at,
                _ => None,
            });
        [ends, phase, self.retry_at].into_iter().flatten().min()
    }

    fn carrier(&mut self, now: Millis, carrier: bool) {
        if carrier == self.carrier {
            return;
        }
        self.carrier = carrier;
        if !carrier {
            // The lease stays in force: the cable may come back before it ends.
            self.retry_at = None;
            self.state = State::Waiting;
        } else if self.held.is_some() {
            // It may be another network: ask whether the address is still good.
            self.begin(now, State::Rebooting { requests: 0 });
        } else {
            self.begin(now, State::Selecting);
        }
    }

    /// Starts an exchange whose first message is due at once.
    fn begin(&mut self, now: Millis, state: State) {
        self.state = state;
        self.transaction = u32::try_from(self.random() >> 32).unwrap_or(1);
        self.began = now;
        self.retry_ms = RETRY_MIN_MS;
        self.retry_at = Some(now);
    }

    fn tick(&mut self, now: Millis) {
        let passed = |at: Option<Millis>| at.is_some_and(|at| at <= now);
        if self.held.as_ref().is_some_and(|held| passed(held.ends_at)) {
            self.complaint = Some("the lease ended without renewal".to_owned());
            self.drop_lease();
            if self.carrier {
                self.begin(now, State::Selecting);
            }
        }
        if self.carrier
            && let Some(held) = &self.held
        {
            let (renew, rebind) = (passed(held.renew_at), passed(held.rebind_at));
            match self.state {
                State::Bound | State::Renewing if rebind => self.begin(now, State::Rebinding),
                State::Bound if renew => self.begin(now, State::Renewing),
                _ => {}
            }
        }
        if passed(self.retry_at) {
            self.send(now);
        }
    }

    /// Sends the message of the current state and decides when to repeat it.
    fn send(&mut self, now: Millis) {
        let mut question = Question {
            mac: self.identity.mac,
            hostname: self.identity.hostname.as_deref(),
            transaction: self.transaction,
            seconds: u16::try_from((now - self.began) / 1000).unwrap_or(u16::MAX),
            request: true,
            own: None,
            wanted: None,
            server: None,
        };
        let held = self
            .held
            .as_ref()
            .map(|held| (held.lease.address, held.lease.server));
        match (&mut self.state, held) {
            (State::Waiting | State::Bound, _) => {
                self.retry_at = None;
                return;
            }
            (State::Selecting, _) => {
                (question.request, question.wanted) = (false, self.identity.hint);
                self.effects.push_back(Effect::Broadcast(question.encode()));
                self.retry_later(now);
            }
            (State::Requesting { requests, .. }, _) if *requests >= REQUESTS_MAX => {
                self.complaint = Some("the server did not acknowledge its offer".to_owned());
                self.begin(now, State::Selecting);
                self.send(now);
            }
            (State::Requesting { offer, requests }, _) => {
                *requests += 1;
                (question.wanted, question.server) = (Some(offer.address), Some(offer.server));
                self.effects.push_back(Effect::Broadcast(question.encode()));
                self.retry_later(now);
            }
            (State::Rebooting { requests }, Some((address, _))) if *requests < REBOOTS_MAX => {
                *requests += 1;
                question.wanted = Some(address);
                self.effects.push_back(Effect::Broadcast(question.encode()));
                self.retry_later(now);
            }
            (State::Rebooting { .. }, _) => {
                // Nobody objected: the lease may be used until its time (RFC 2131 §3.2).
                self.state = State::Bound;
                self.retry_at = None;
                self.tick(now);
            }
            (State::Renewing, Some((from, to))) => {
                question.own = Some(from);
                self.effects.push_back(Effect::Unicast {
                    from,
                    to,
                    message: question.encode(),
                });
                self.retry_at = self
                    .held
                    .as_ref()
                    .and_then(|held| halfway(now, held.rebind_at));
            }
            (State::Rebinding, Some((from, _))) => {
                question.own = Some(from);
                self.effects.push_back(Effect::Broadcast(question.encode()));
                self.retry_at = self
                    .held
                    .as_ref()
                    .and_then(|held| halfway(now, held.ends_at));
            }
            (State::Renewing | State::Rebinding, None) => self.begin(now, State::Selecting),
        }
        self.asked = now;
    }

    /// Doubles the interval, with a quarter of it as jitter either way, so that
    /// a hall of machines that lost power together does not ask in step.
    fn retry_later(&mut self, now: Millis) {
        let spread = self.retry_ms / 2;
        let jitter = self.random() % (spread + 1);
        self.retry_at = Some(now + self.retry_ms - spread / 2 + jitter);
        self.retry_ms = (self.retry_ms * 2).min(RETRY_MAX_MS);
    }

    fn message(&mut self, now: Millis, bytes: &[u8]) {
        let Some(answer) = Answer::decode(bytes, self.transaction, self.identity.mac) else {
            return;
        };
        let asking = matches!(
            self.state,
            State::Requesting { .. } | State::Renewing | State::Rebinding | State::Rebooting { .. }
        );
        match answer.kind {
            AnswerKind::Offer if self.state == State::Selecting => {
                if let Some(offer) = answer.lease {
                    self.state = State::Requesting { offer, requests: 0 };
                    self.retry_ms = RETRY_MIN_MS;
                    self.retry_at = Some(now);
                }
            }
            AnswerKind::Ack if asking => {
                if let Some(lease) = answer.lease {
                    self.bind(lease);
                }
            }
            AnswerKind::Nak if asking => {
                // Only the server asked may refuse an offer.
                if let (State::Requesting { offer, .. }, Some(server)) =
                    (&self.state, answer.server)
                    && offer.server != server
                {
                    return;
                }
                self.complaint = Some(format!(
                    "the server refused{}",
                    answer.text.map(|t| format!(": {t}")).unwrap_or_default()
                ));
                self.identity.hint = None;
                let refused_at_once = matches!(self.state, State::Requesting { .. });
                self.drop_lease();
                self.begin(now, State::Selecting);
                if refused_at_once {
                    // A server that offers and refuses in turn must not make us spin.
                    self.retry_later(now);
                }
            }
            AnswerKind::Offer | AnswerKind::Ack | AnswerKind::Nak => {}
        }
    }

    fn bind(&mut self, lease: Lease) {
        let after = |seconds: Option<u32>| seconds.map(|s| self.asked + u64::from(s) * 1000);
        let held = Held {
            renew_at: after(lease.renew_s),
            rebind_at: after(lease.rebind_s),
            ends_at: after(lease.valid_s),
            lease,
        };
        self.state = State::Bound;
        self.retry_at = None;
        self.complaint = None;
        self.identity.hint = Some(held.lease.address);
        let changed = self.held.as_ref().map(|held| &held.lease) != Some(&held.lease);
        if changed {
            self.effects
                .push_back(Effect::Lease(Some(held.lease.clone())));
        }
        self.held = Some(held);
    }

    fn drop_lease(&mut self) {
        if self.held.take().is_some() {
            self.effects.push_back(Effect::Lease(None));
        }
    }

    /// The next number of a xorshift generator (64 bits, period 2⁶⁴−1).
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

/// Half of the time that is left, a minute at least; nothing when that is later
/// than the end, where the next phase takes over.
fn halfway(now: Millis, end: Option<Millis>) -> Option<Millis> {
    let end = end?;
    let at = now + (end.saturating_sub(now) / 2).max(RENEW_MIN_MS);
    (at < end).then_some(at)
}
