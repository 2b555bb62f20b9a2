//! The plan's steps and the plan's view of the kernel, over rtnetlink.
//!
//! No decisions here: what is there is told as it is, and a step is done or its
//! error is returned. A step that is already done counts as done.

mod decode;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::pin::pin;

use control::config::BondMode;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{self as nl, LinkAttribute};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkBond, LinkBridge, LinkUnspec, LinkVlan, RouteMessageBuilder};
use smol::stream::StreamExt;

use super::observed::Observed;
use super::plan::{Action, MIIMON_MS};

/// Alias of the links we create.
const OUR_ALIAS: &str = "holdfast";

/// Why a step or a look failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A step of the plan failed.
    #[error("step \"{action}\"")]
    Step {
        /// The step in words.
        action: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Links, addresses or routes could not be listed.
    #[error("listing {what}")]
    List {
        /// `links`, `addresses`, `routes` or `neighbours`.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What the neighbour cache says of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It answered.
    Answered,
    /// It did not answer any request.
    Silent,
    /// Not decided yet.
    Pending,
}

/// The kernel, behind an rtnetlink connection that somebody drives.
#[derive(Debug, Clone)]
pub struct Kernel {
    handle: Handle,
    sys: PathBuf,
    proc: PathBuf,
}

impl Kernel {
    /// The kernel behind `handle`, with sysfs at `/sys` and procfs at `/proc`.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            sys: "/sys".into(),
            proc: "/proc".into(),
        }
    }

    /// Links, addresses and routes as they are now.
    ///
    /// # Errors
    /// [`KernelError::List`] when the kernel does not answer.
    pub async fn observe(&self) -> Result<Observed, KernelError> {
        let list = |what| {
            move |error| KernelError::List {
                what,
                source: io_error(error),
            }
        };
        let mut observed = Observed::default();
        let mut links = pin!(self.handle.link().get().execute());
        while let Some(message) = links.next().await {
            observed
                .links
                .push(decode::link(message.map_err(list("links"))?, &self.sys));
        }
        observed.links.sort_by_key(|link| link.index);
        let mut addresses = pin!(self.handle.address().get().execute());
        while let Some(message) = addresses.next().await {
            observed
                .addresses
                .extend(decode::address(&message.map_err(list("addresses"))?));
        }
        for any in [
            RouteMessageBuilder::<Ipv4Addr>::new().build(),
            RouteMessageBuilder::<Ipv6Addr>::new().build(),
        ] {
            let mut routes = pin!(self.handle.route().get(any).execute());
            while let Some(message) = routes.next().await {
                observed
                    .routes
                    .extend(decode::route(&message.map_err(list("routes"))?));
            }
        }
        Ok(observed)
    }

    /// Takes `actions` in order, up to the first that fails or meets a link it
    /// did not expect: observe and plan again after every call.
    ///
    /// # Errors
    /// [`KernelError::Step`] names the step that failed.
    pub async fn execute(&self, actions: &[Action]) -> Result<(), KernelError> {
        let mut known = BTreeMap::new();
        for action in actions {
            match self.step(action, &mut known).await {
                Ok(()) => {}
                // Loading a driver may bring a link of the same name along (bonding
                // does). The steps that follow were planned without it: plan anew.
                Err(error) if creates(action) && error.raw_os_error() == Some(ERRNO_EXIST) => {
                    return Ok(());
                }
                Err(source) => {
                    return Err(KernelError::Step {
                        action: action.to_string(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// Makes the kernel ask for `address` on the link: anew (`fresh`), or only
    /// if what it knows is old.
    ///
    /// # Errors
    /// The kernel's: link gone or down.
    pub async fn probe(&self, link: u32, address: IpAddr, fresh: bool) -> io::Result<()> {
        if fresh {
            let mut stale = self.handle.neighbours().add(link, address);
            let message = stale.message_mut().clone();
            // There may be none to forget.
            ignore(
                self.handle.neighbours().del(message).execute().await,
                &[ERRNO_NOENT],
            )?;
        }
        let ask = self.handle.neighbours().add(link, address);
        ask.state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(io_error)
    }

    /// What the kernel knows of `address` on the link.
    ///
    /// # Errors
    /// [`KernelError::List`] when the kernel does not answer.
    pub async fn reach(&self, link: u32, address: IpAddr) -> Result<Reach, KernelError> {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let wanted = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        let mut reach = Reach::Pending;
        let mut entries = pin!(
            self.handle
                .neighbours()
                .get()
                .set_address_family(family)
                .execute()
        );
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(|error| KernelError::List {
                what: "neighbours",
                source: io_error(error),
            })?;
            let about = |a: &NeighbourAttribute| matches!(a, NeighbourAttribute::Destination(to) if *to == wanted);
            if entry.header.ifindex == link && entry.attributes.iter().any(about) {
                reach = match entry.header.state {
                    NeighbourState::Reachable
                    | NeighbourState::Permanent
                    | NeighbourState::Noarp => Reach::Answered,
                    NeighbourState::Failed => Reach::Silent,
                    _ => Reach::Pending,
                };
            }
        }
        Ok(reach)
    }

    async fn step(&self, action: &Action, known: &mut BTreeMap<String, u32>) -> io::Result<()> {
        let links = self.handle.link();
        match action {
            Action::Delete { link } => {
                let index = self.index(link, known).await?;
                known.remove(link);
                links.del(index).execute().await.map_err(io_error)
            }
            Action::CreateBond { link, mode, mac } => {
                let bond = LinkBond::new(link)
                    .down()
                    .mode(kernel_mode(*mode))
                    .miimon(MIIMON_MS);
                let bond = if *mode == BondMode::ActiveBackup {
                    bond
                } else {
                    bond.xmit_hash_policy(nl::BondXmitHashPolicy::Layer23)
                };
                let message = bond.address(mac.0.to_vec()).build();
                links.add(message).execute().await.map_err(io_error)?;
                self.mark(link, known).await
            }
            Action::CreateVlan { link, lower, id } => {
                let lower = self.index(lower, known).await?;
                let message = LinkVlan::new(link, lower, *id).down().build();
                links.add(message).execute().await.map_err(io_error)?;
                self.mark(link, known).await
            }
            Action::CreateBridge { link, mac } => {
                let bridge = LinkBridge::new(link)
                    .down()
                    .forward_delay(0)
                    .stp_state(nl::BridgeStpState::Disabled);
                links
                    .add(bridge.address(mac.0.to_vec()).build())
                    .execute()
                    .await
                    .map_err(io_error)?;
                self.mark(link, known).await
            }
            Action::AdjustBridge { link } => {
                let index = self.index(link, known).await?;
                let bridge = LinkBridge::new(link)
                    .stp_state(nl::BridgeStpState::Disabled)
                    .forward_delay(0);
                let mut message = bridge
                    .set_header(nl::LinkHeader::default())
                    .index(index)
                    .build();
                message
                    .attributes
                    .retain(|a| !matches!(a, LinkAttribute::IfName(_)));
                links
                    .change(message)
                    .set_flags(FLAGS_CHANGE)
                    .execute()
                    .await
                    .map_err(io_error)
            }
            Action::SetMac { link, mac } => {
                let message = LinkUnspec::new_with_index(self.index(link, known).await?)
                    .address(mac.0.to_vec());
                links.set(message.build()).execute().await.map_err(io_error)
            }
            Action::SetMtu { link, mtu } => {
                let message = LinkUnspec::new_with_index(self.index(link, known).await?).mtu(*mtu);
                links.set(message.build()).execute().await.map_err(io_error)
            }
            Action::Attach { link, master } => {
                let master = self.index(master, known).await?;
                let message =
                    LinkUnspec::new_with_index(self.index(link, known).await?).controller(master);
                links.set(message.build()).execute().await.map_err(io_error)
            }
            Action::Detach { link } => {
                let message =
                    LinkUnspec::new_with_index(self.index(link, known).await?).nocontroller();
                links.set(message.build()).execute().await.map_err(io_error)
            }
            Action::Up { link } => {
                let message = LinkUnspec::new_with_index(self.index(link, known).await?).up();
                links.set(message.build()).execute().await.map_err(io_error)
            }
            Action::Down { link } => {
                let message = LinkUnspec::new_with_index(self.index(link, known).await?).down();
                links.set(message.build()).execute().await.map_err(io_error)
            }
            Action::SetIpv6 { link, key, value } => {
                let path = self
                    .proc
                    .join("sys/net/ipv6/conf")
                    .join(link)
                    .join(key.name());
                std::fs::write(path, value.to_string())
            }
            Action::AddAddress {
                link,
                address,
                prefix,
            } => {
                let index = self.index(link, known).await?;
                ignore(
                    self.handle
                        .address()
                        .add(index, *address, *prefix)
                        .execute()
                        .await,
                    &[ERRNO_EXIST],
                )
            }
            Action::RemoveAddress {
                link,
                address,
                prefix,
            } => {
                let index = self.index(link, known).await?;
                let mut like = self.handle.address().add(index, *address, *prefix);
                let mut message = like.message_mut().clone();
                message
                    .attributes
                    .retain(|a| !matches!(a, AddressAttribute::Broadcast(_)));
                ignore(
                    self.handle.address().del(message).execute().await,
                    &[ERRNO_ADDRNOTAVAIL],
                )
            }
            Action::AddRoute {
                link,
                destination,
                prefix,
                gateway,
            } => {
                let message = route_message(
                    self.index(link, known).await?,
                    *destination,
                    *prefix,
                    *gateway,
                )?;
                ignore(
                    self.handle.route().add(message).execute().await,
                    &[ERRNO_EXIST],
                )
            }
            Action::RemoveRoute {
                link,
                destination,
                prefix,
                gateway,
            } => {
                let mut message = route_message(
                    self.index(link, known).await?,
                    *destination,
                    *prefix,
                    *gateway,
                )?;
                // Whoever set it, with whatever scope.
                message.header.protocol = RouteProtocol::Unspec;
                message.header.scope = RouteScope::NoWhere;
                ignore(
                    self.handle.route().del(message).execute().await,
                    &[ERRNO_SRCH],
                )
            }
        }
    }

    /// Index of the link called `name`.
    async fn index(&self, name: &str, known: &mut BTreeMap<String, u32>) -> io::Result<u32> {
        if let Some(index) = known.get(name) {
            return Ok(*index);
        }
        let mut found = pin!(
            self.handle
                .link()
                .get()
                .match_name(name.to_owned())
                .execute()
        );
        match found.next().await {
            Some(Ok(message)) => {
                known.insert(name.to_owned(), message.header.index);
                Ok(message.header.index)
            }
            Some(Err(error)) => Err(io_error(error)),
            None => Err(io::Error::from_raw_os_error(ERRNO_NODEV)),
        }
    }

    /// Marks a link as ours. Not possible in the request that creates it.
    async fn mark(&self, name: &str, known: &mut BTreeMap<String, u32>) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(self.index(name, known).await?)
            .alias(OUR_ALIAS)
            .build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(io_error)
    }
}

const ERRNO_NOENT: i32 = 2;
const ERRNO_SRCH: i32 = 3;
const ERRNO_EXIST: i32 = 17;
const ERRNO_NODEV: i32 = 19;
const ERRNO_ADDRNOTAVAIL: i32 = 99;

/// A request to change a link that is there, acknowledged.
const FLAGS_CHANGE: u16 = rtnetlink::packet_core::NLM_F_REQUEST | rtnetlink::packet_core::NLM_F_ACK;

/// Whether a step makes a new link.
fn creates(action: &Action) -> bool {
    matches!(
        action,
        Action::CreateBond { .. } | Action::CreateVlan { .. } | Action::CreateBridge { .. }
    )
}

/// The kernel's error number, or what the library says.
fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// Turns errors that mean "already so" into success.
fn ignore(outcome: Result<(), rtnetlink::Error>, errnos: &[i32]) -> io::Result<()> {
    match outcome.map_err(io_error) {
        Err(error)
            if error
                .raw_os_error()
                .is_some_and(|errno| errnos.contains(&errno)) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn kernel_mode(mode: BondMode) -> nl::BondMode {
    match mode {
        BondMode::ActiveBackup => nl::BondMode::ActiveBackup,
        BondMode::BalanceXor => nl::BondMode::BalanceXor,
        BondMode::Lacp => nl::BondMode::Ieee8023Ad,
    }
}

fn route_message(
    link: u32,
    destination: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
) -> io::Result<RouteMessage> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination, prefix)
        .map_err(|error| io::Error::other(error.to_string()))?
        .output_interface(link);
    match gateway {
        Some(gateway) => {
            builder = builder
                .gateway(gateway)
                .map_err(|error| io::Error::other(error.to_string()))?
        }
        None if destination.is_ipv4() => builder = builder.scope(RouteScope::Link),
        None => {}
    }
    Ok(builder.build())
}
