//! An address before any configuration is known: DHCP on a bare card, enough
//! to fetch `holdfast.config=http://…`, undone before the real set is applied.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use linux::net::PacketSocket;
use rtnetlink::new_multicast_connection_with_socket;
use rtnetlink::sys::SmolSocket;
use smol::stream::{Stream, StreamExt};
use smol::{Async, Timer};

use super::dhcp::{Client, Effect, Identity, Input, Lease, Millis, packet};
use super::driver::{GROUPS, chain, hostname, now_ms, source};
use super::kernel::{Kernel, KernelError};
use super::observed::{Link, Mac, Observed};
use super::plan::{Action, Ipv6Key, lease_routes};
use super::resolv;

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Nobody answered in time.
    #[error("no address by DHCP within {waited_s} s on {tried}; cards found: {cards}")]
    NoAddress {
        /// Seconds waited.
        waited_s: u64,
        /// The cards that had carrier, or `no card`.
        tried: String,
        /// Every card.
        cards: String,
    },
    /// A step or a look failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// No netlink connection, or resolv.conf not written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A card with an address for the time being.
#[derive(Debug)]
pub struct Bootstrapped {
    /// The card's name.
    pub card: String,
    /// What the server said.
    pub lease: Lease,
    /// Cards brought up for nothing.
    idle: Vec<String>,
}

impl Bootstrapped {
    /// Removes the address and takes the cards down that were not needed. The
    /// leased card stays up: its link would have to be negotiated again. Blocks
    /// on the kernel: call it from a thread that may wait.
    ///
    /// # Errors
    /// [`BootstrapError::Kernel`] when a step fails.
    pub fn undo(self) -> Result<(), BootstrapError> {
        let address = Action::RemoveAddress {
            link: self.card,
            address: self.lease.address.into(),
            prefix: self.lease.prefix,
        };
        let down = self.idle.into_iter().map(|link| Action::Down { link });
        let actions: Vec<Action> = [address].into_iter().chain(down).collect();
        with_kernel(async |kernel, _| Ok(kernel.execute(&actions).await?))
    }
}

/// The card the firmware booted from: the MAC address in `BOOTIF=01-aa-bb-…`
/// of a kernel command line, as PXE loaders write it.
#[must_use]
pub fn boot_card(cmdline: &str) -> Option<[u8; 6]> {
    let value = cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix("BOOTIF="))?;
    let bytes: Option<Vec<u8>> = value
        .split(['-', ':'])
        .map(|part| {
            u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| part.len() == 2)
        })
        .collect();
    let bytes = bytes?;
    // Six bytes, behind the hardware type (1 is Ethernet) when there are seven.
    let mac: [u8; 6] = match bytes.as_slice() {
        [1, mac @ ..] if mac.len() == 6 => mac.try_into().ok()?,
        mac => mac.try_into().ok()?,
    };
    // No card has a group address: a byte was lost.
    (mac[0] & 1 == 0).then_some(mac)
}

/// Gets an address on the card with MAC address `wanted`, or on the first card
/// that gets one. Waits up to `patience_ms` for cards, carrier and an answer;
/// blocks all that time: call it from a thread of its own.
///
/// # Errors
/// [`BootstrapError`] names the cards tried and found.
pub fn bootstrap(
    wanted: Option<[u8; 6]>,
    resolv_conf: &Path,
    patience_ms: Millis,
) -> Result<Bootstrapped, BootstrapError> {
    let ends_at = now_ms() + patience_ms;
    with_kernel(async |kernel, news| {
        let mut search = Search {
            wanted,
            raised: Vec::new(),
            clients: BTreeMap::new(),
        };
        loop {
            let observed = kernel.observe().await?;
            search.follow(kernel, &observed).await?;
            if let Some((card, lease)) = search.drive(now_ms()) {
                let idle = search
                    .raised
                    .into_iter()
                    .filter(|name| *name != card)
                    .collect();
                configure(kernel, resolv_conf, &card, &lease).await?;
                return Ok(Bootstrapped { card, lease, idle });
            }
            if now_ms() >= ends_at {
                let tried: Vec<String> = search
                    .clients
                    .values()
                    .map(|asking| asking.card.clone())
                    .collect();
                let tried = if tried.is_empty() {
                    "no card".to_owned()
                } else {
                    tried.join(", ")
                };
                let cards = observed.cards_in_words();
                return Err(BootstrapError::NoAddress {
                    waited_s: patience_ms / 1000,
                    tried,
                    cards,
                });
            }
            search.wait(news, ends_at).await;
        }
    })
}

/// What tells that links, addresses or routes changed.
type News<'a> = &'a mut (dyn Stream<Item = ()> + Unpin);

/// Runs `work` over a netlink connection of its own, on this thread.
fn with_kernel<T>(
    work: impl AsyncFnOnce(&Kernel, News<'_>) -> Result<T, BootstrapError>,
) -> Result<T, BootstrapError> {
    smol::block_on(async {
        let (connection, handle, messages) =
            new_multicast_connection_with_socket::<SmolSocket>(&GROUPS)?;
        let kernel = Kernel::new(handle);
        let mut news = messages.map(|_| ());
        let lost = async {
            connection.await;
            Err(io::Error::from(io::ErrorKind::BrokenPipe).into())
        };
        smol::future::or(lost, work(&kernel, &mut news)).await
    })
}

/// A client on one card.
struct Asking {
    card: String,
    client: Client,
    socket: Async<PacketSocket>,
}

/// The search for a card that gets an address.
struct Search {
    wanted: Option<[u8; 6]>,
    /// Cards we brought up.
    raised: Vec<String>,
    /// By index of the link.
    clients: BTreeMap<u32, Asking>,
}

impl Search {
    /// Brings up cards that are down, and asks on those that have carrier.
    async fn follow(&mut self, kernel: &Kernel, observed: &Observed) -> Result<(), BootstrapError> {
        let candidate = |link: &&Link| {
            let own = link.permanent_mac.unwrap_or(link.mac);
            link.master.is_none() && self.wanted.is_none_or(|wanted| own == Mac(wanted))
        };
        let cards: Vec<&Link> = observed.cards().filter(candidate).collect();
        self.clients
            .retain(|index, _| cards.iter().any(|card| card.index == *index));
        for card in cards {
            if !card.up {
                // A card that is only asked on gets no IPv6 from whoever is out there.
                let quiet =
                    card.ipv6
                        .filter(|settings| settings.disable == 0)
                        .map(|_| Action::SetIpv6 {
                            link: card.name.clone(),
                            key: Ipv6Key::Disable,
                            value: 1,
                        });
                let actions: Vec<Action> = quiet
                    .into_iter()
                    .chain([Action::Up {
                        link: card.name.clone(),
                    }])
                    .collect();
                match kernel.execute(&actions).await {
                    Ok(()) => self.raised.push(card.name.clone()),
                    // A broken card must not keep the others from being asked.
                    Err(error) => tracing::warn!(
                        error = chain(&error),
                        card = card.name,
                        "card not brought up"
                    ),
                }
            }
            if card.carrier && !self.clients.contains_key(&card.index) {
                let socket = PacketSocket::open(card.index, packet::CLIENT_PORT)
                    .and_then(Async::new_nonblocking)?;
                let identity = Identity {
                    mac: card.mac.0,
                    hostname: hostname(),
                    hint: None,
                };
                let client = Client::new(identity, RandomState::new().hash_one(now_ms()));
                self.clients.insert(
                    card.index,
                    Asking {
                        card: card.name.clone(),
                        client,
                        socket,
                    },
                );
            }
            if let Some(asking) = self.clients.get_mut(&card.index) {
                asking.client.handle(now_ms(), Input::Carrier(card.carrier));
            }
        }
        Ok(())
    }

    /// Reads what arrived, sends what is due; returns the first lease.
    fn drive(&mut self, now: Millis) -> Option<(String, Lease)> {
        for asking in self.clients.values_mut() {
            let mut buffer = [0; 2048];
            while let Ok(length) = asking.socket.get_ref().receive(&mut buffer) {
                if let Some(message) = buffer.get(..length).and_then(packet::unwrap) {
                    asking.client.handle(now, Input::Message(message));
                }
            }
            asking.client.handle(now, Input::Tick);
            while let Some(effect) = asking.client.next_effect() {
                match effect {
                    Effect::Broadcast(message) => {
                        // The client repeats what was lost.
                        if let Err(error) = asking
                            .socket
                            .get_ref()
                            .broadcast(&packet::wrap(source(&message), &message))
                        {
                            tracing::warn!(%error, card = asking.card, "DHCP message not sent");
                        }
                    }
                    Effect::Lease(Some(lease)) => return Some((asking.card.clone(), lease)),
                    // Only a client that was bound before does these.
                    Effect::Lease(None) | Effect::Unicast { .. } => {}
                }
            }
        }
        None
    }

    /// Waits for news, a message, or the next deadline.
    async fn wait(&self, news: News<'_>, ends_at: Millis) {
        let next = self
            .clients
            .values()
            .filter_map(|asking| asking.client.deadline())
            .fold(ends_at, Millis::min);
        let time = async {
            Timer::after(Duration::from_millis(next.saturating_sub(now_ms()))).await;
        };
        let message = smol::future::poll_fn(|context| {
            let ready = self
                .clients
                .values()
                .any(|asking| asking.socket.poll_readable(context).is_ready());
            if ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
        let changed = async {
            news.next().await;
        };
        smol::future::or(smol::future::or(message, changed), time).await;
    }
}

/// Puts the lease on the bare card.
async fn configure(
    kernel: &Kernel,
    resolv_conf: &Path,
    card: &str,
    lease: &Lease,
) -> Result<(), BootstrapError> {
    let link = || card.to_owned();
    let address = Action::AddAddress {
        link: link(),
        address: lease.address.into(),
        prefix: lease.prefix,
    };
    let routes = lease_routes(lease)
        .into_iter()
        .map(|(destination, prefix, gateway)| Action::AddRoute {
            link: link(),
            destination,
            prefix,
            gateway,
        });
    let actions: Vec<Action> = [address].into_iter().chain(routes).collect();
    kernel.execute(&actions).await?;
    let servers: Vec<_> = lease.dns.iter().copied().map(Into::into).collect();
    resolv::write(resolv_conf, &resolv::text(&servers, &lease.search))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::boot_card;

    #[test]
    fn the_boot_card_is_read_as_loaders_write_it() {
        let mac = Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(boot_card("quiet BOOTIF=01-52-54-00-12-34-56 panic=10"), mac);
        assert_eq!(boot_card("BOOTIF=52:54:00:12:34:56"), mac);
        assert_eq!(boot_card("BOOTIF=01-52-54-00-12-34-56-78"), None);
        assert_eq!(
            boot_card("BOOTIF=20-52-54-00-12-34-56"),
            None,
            "not Ethernet"
        );
        assert_eq!(boot_card("BOOTIF=01-52-54-00-12-34"), None);
        assert_eq!(boot_card("BOOTIF= root=x"), None);
    }
}
