//! The edge: a thread of its own that carries [`Policy`]'s effects to the
//! kernel and the kernel's news to it.
//!
//! A thread, because a netlink request does its work inside the system call:
//! bringing up a card can load firmware for seconds, and PID 1 must not wait.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use control::config::Network;
use control::status::NetworkReport;
use linux::net::PacketSocket;
use rtnetlink::sys::SmolSocket;
use rtnetlink::{MulticastGroup, new_multicast_connection_with_socket};
use rustix::time::{ClockId, clock_gettime};
use smol::channel::{Receiver, Sender};
use smol::stream::StreamExt;
use smol::{Async, Timer};

use super::advertised::Listener;
use super::dhcp::{Millis, packet};
use super::kernel::Kernel;
use super::plan::Action;
use super::policy::{CHANGE_DEADLINE_MS, Effect, Input, Policy};
use super::resolv;

/// Stack of the network's thread.
const STACK_BYTES: usize = 512 * 1024;
/// Events kept for a slow reader; further ones are dropped, the report has the truth.
const EVENTS_MAX: usize = 16;
/// Pause before a lost netlink connection is opened again.
const RECONNECT_MS: u64 = 1_000;

/// How the network is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where name servers are written.
    pub resolv_conf: PathBuf,
    /// Milliseconds a changed set may take before the previous one is restored.
    pub change_deadline_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resolv_conf: "/run/holdfast/resolv.conf".into(),
            change_deadline_ms: CHANGE_DEADLINE_MS,
        }
    }
}

/// Something worth waking up for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The bridge has its address; milliseconds since the kernel started.
    AddressReady {
        /// When.
        at_ms: u64,
    },
    /// The report's state or reason changed.
    State {
        /// `NetworkReport::state`.
        state: String,
        /// `NetworkReport::reason`.
        reason: Option<String>,
    },
}

/// The management network's handle. Dropping it ends the thread and leaves the
/// network as it is.
#[derive(Debug)]
pub struct Manager {
    commands: Sender<Network>,
    events: Receiver<Event>,
    report: Arc<Mutex<NetworkReport>>,
}

impl Manager {
    /// Starts the network's thread in the caller's network namespace.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(options: Options) -> io::Result<Self> {
        // One place: only the newest set matters.
        let (commands, commands_in) = smol::channel::bounded(1);
        let (events_out, events) = smol::channel::bounded(EVENTS_MAX);
        let unconfigured = NetworkReport {
            state: "unconfigured".to_owned(),
            ..NetworkReport::default()
        };
        let report = Arc::new(Mutex::new(unconfigured));
        let seed = RandomState::new().hash_one(now_ms());
        let driver = Driver {
            policy: Policy::new(options.change_deadline_ms, seed),
            options,
            commands: commands_in,
            events: events_out,
            report: Arc::clone(&report),
            dhcp: None,
            advertised: None,
            renewal: None,
        };
        std::thread::Builder::new()
            .name("net".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || smol::block_on(driver.run()))?;
        Ok(Self {
            commands,
            events,
            report,
        })
    }

    /// Makes `network` the set in force. Returns at once; the set in force
    /// already is not touched.
    pub fn apply(&self, network: Network) {
        // Fails only when the thread has ended, which it does with this handle.
        drop(self.commands.force_send(network));
    }

    /// How the network stands. Never blocks for longer than a copy takes.
    #[must_use]
    pub fn report(&self) -> NetworkReport {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// News as they come, for one reader.
    #[must_use]
    pub fn events(&self) -> Receiver<Event> {
        self.events.clone()
    }
}

/// Milliseconds since the kernel started, by the boot-time clock.
pub(super) fn now_ms() -> Millis {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// The groups of kernel news the plan depends on.
pub(super) const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// What ended a wait.
enum Wake {
    Command(Network),
    /// The handle is gone.
    End,
    /// The kernel's links, addresses or routes changed.
    Changed,
    Dhcp,
    Advertised,
    Time,
    /// Netlink's connection ended.
    Lost,
}

struct Driver {
    policy: Policy,
    options: Options,
    commands: Receiver<Network>,
    events: Sender<Event>,
    report: Arc<Mutex<NetworkReport>>,
    /// Listening on the link with this index.
    dhcp: Option<(u32, Async<PacketSocket>)>,
    /// Where routers' name servers are told of; absent when that is not possible.
    advertised: Option<Async<Listener>>,
    /// Keeps the kernel from refusing the server's answer to a renewal.
    renewal: Option<UdpSocket>,
}

impl Driver {
    async fn run(mut self) {
        loop {
            match self.connected().await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "netlink connection lost, opening another"),
            }
            Timer::after(Duration::from_millis(RECONNECT_MS)).await;
        }
    }

    /// Runs over one netlink connection until the handle goes (`Ok`) or it breaks.
    async fn connected(&mut self) -> io::Result<()> {
        let (connection, handle, mut news) =
            new_multicast_connection_with_socket::<SmolSocket>(&GROUPS)?;
        let kernel = Kernel::new(handle);
        let lost = async {
            connection.await;
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        };
        let serve = async {
            self.hear_routers();
            raise_loopback(&kernel).await;
            // A batch that was under way when the last connection broke has ended.
            self.input(Input::Executed(Ok(())));
            self.observe(&kernel).await?;
            loop {
                self.effects(&kernel).await?;
                let news_or_lost = async {
                    match news.next().await {
                        Some(_) => Wake::Changed,
                        None => Wake::Lost,
                    }
                };
                match self.wait(news_or_lost).await {
                    Wake::Command(network) => {
                        let hostname = hostname();
                        self.input(Input::Apply { network, hostname });
                    }
                    Wake::End => return Ok(()),
                    Wake::Lost => return Err(io::Error::from(io::ErrorKind::BrokenPipe)),
                    Wake::Changed => {
                        // One look answers all the news there is.
                        while let Ok(_one) = news.try_recv() {}
                        self.observe(&kernel).await?;
                    }
                    Wake::Dhcp => self.receive_dhcp(),
                    Wake::Advertised => self.receive_advertised(),
                    Wake::Time => self.input(Input::Tick),
                }
            }
        };
        smol::future::or(lost, serve).await
    }

    async fn wait(&self, news: impl Future<Output = Wake>) -> Wake {
        let command = async {
            match self.commands.recv().await {
                Ok(network) => Wake::Command(network),
                Err(_) => Wake::End,
            }
        };
        let time = async {
            match self.policy.deadline() {
                Some(at) => Timer::after(Duration::from_millis(at.saturating_sub(now_ms()))).await,
                None => smol::future::pending().await,
            };
            Wake::Time
        };
        let dhcp = async {
            match &self.dhcp {
                Some((_, socket)) if socket.readable().await.is_ok() => Wake::Dhcp,
                _ => smol::future::pending().await,
            }
        };
        let advertised = async {
            match &self.advertised {
                Some(socket) if socket.readable().await.is_ok() => Wake::Advertised,
                _ => smol::future::pending().await,
            }
        };
        smol::future::or(
            smol::future::or(command, news),
            smol::future::or(dhcp, smol::future::or(advertised, time)),
        )
        .await
    }

    fn input(&mut self, input: Input<'_>) {
        self.policy.handle(now_ms(), input);
    }

    async fn observe(&mut self, kernel: &Kernel) -> io::Result<()> {
        let observed = kernel
            .observe()
            .await
            .map_err(|error| io::Error::other(chain(&error)))?;
        self.input(Input::Observed(observed));
        Ok(())
    }

    /// Carries out everything the policy wants now.
    async fn effects(&mut self, kernel: &Kernel) -> io::Result<()> {
        loop {
            self.listen();
            let Some(effect) = self.policy.next_effect() else {
                return Ok(());
            };
            match effect {
                Effect::Execute(actions) => {
                    for action in &actions {
                        tracing::info!(%action, "network step");
                    }
                    let outcome = kernel
                        .execute(&actions)
                        .await
                        .map_err(|error| chain(&error));
                    if let Err(why) = &outcome {
                        tracing::warn!(why, "network step failed");
                    }
                    self.input(Input::Executed(outcome));
                    self.observe(kernel).await?;
                }
                Effect::Broadcast { link, message } => {
                    let sent = match &self.dhcp {
                        Some((own, socket)) if *own == link => socket
                            .get_ref()
                            .broadcast(&packet::wrap(source(&message), &message)),
                        _ => Err(io::Error::from(io::ErrorKind::NotConnected)),
                    };
                    // The client repeats what was lost.
                    if let Err(error) = sent {
                        tracing::warn!(%error, "DHCP message not sent");
                    }
                }
                Effect::Unicast { from, to, message } => {
                    if let Err(error) = self.renew(from, to, &message) {
                        tracing::warn!(%error, "DHCP renewal not sent");
                    }
                }
                Effect::Probe {
                    link,
                    gateway,
                    fresh,
                } => {
                    if let Err(error) = kernel.probe(link, gateway, fresh).await {
                        tracing::debug!(%error, %gateway, "gateway not asked");
                    }
                }
                Effect::Look { link, gateway } => match kernel.reach(link, gateway).await {
                    Ok(reach) => self.input(Input::Gateway(gateway, reach)),
                    Err(error) => tracing::warn!(error = chain(&error), "gateway state not read"),
                },
                Effect::Resolv(text) => {
                    if let Err(error) = resolv::write(&self.options.resolv_conf, &text) {
                        tracing::error!(%error, path = %self.options.resolv_conf.display(), "name servers not written");
                    }
                }
                Effect::Publish(report) => self.publish(report),
                Effect::AddressReady => self.tell(Event::AddressReady { at_ms: now_ms() }),
            }
        }
    }

    /// Follows the DHCP client to the link it is on.
    fn listen(&mut self) {
        let wanted = self.policy.dhcp_link();
        if self.dhcp.as_ref().map(|(link, _)| *link) == wanted {
            return;
        }
        (self.dhcp, self.renewal) = (None, None);
        if let Some(link) = wanted {
            match PacketSocket::open(link, packet::CLIENT_PORT).and_then(Async::new_nonblocking) {
                Ok(socket) => self.dhcp = Some((link, socket)),
                Err(error) => tracing::warn!(%error, link, "no DHCP socket"),
            }
        }
    }

    fn hear_routers(&mut self) {
        match Listener::open().and_then(Async::new_nonblocking) {
            Ok(socket) => self.advertised = Some(socket),
            Err(error) => tracing::warn!(%error, "advertised name servers are not heard of"),
        }
    }

    fn receive_advertised(&mut self) {
        let Some(socket) = &self.advertised else {
            return;
        };
        match socket.get_ref().receive() {
            Ok(news) => {
                for one in &news {
                    self.policy.handle(now_ms(), Input::Advertised(one));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Lost ones are repeated by the router.
            Err(error) => tracing::debug!(%error, "advertised name servers"),
        }
    }

    fn receive_dhcp(&mut self) {
        let mut buffer = [0; 2048];
        // Bounded: whoever floods us gets his turn again after everybody else.
        for _ in 0..16 {
            let Some((_, socket)) = &self.dhcp else {
                return;
            };
            match socket.get_ref().receive(&mut buffer) {
                Ok(length) => {
                    if let Some(message) = buffer.get(..length).and_then(packet::unwrap) {
                        self.policy.handle(now_ms(), Input::Dhcp(message));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Said once when the link goes down; the socket stays good.
                    tracing::debug!(%error, "DHCP socket");
                    return;
                }
            }
        }
    }

    /// Sends a renewal from our address. The answer is read by the packet
    /// socket; this one stays open so that the kernel does not refuse it.
    fn renew(&mut self, from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        self.renewal = None;
        let socket = UdpSocket::bind((from, packet::CLIENT_PORT))?;
        socket.set_nonblocking(true)?;
        socket.send_to(message, (to, packet::SERVER_PORT))?;
        self.renewal = Some(socket);
        Ok(())
    }

    fn publish(&mut self, report: NetworkReport) {
        let mut current = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = (&current.state, &current.reason) != (&report.state, &report.reason);
        current.clone_from(&report);
        drop(current);
        if changed {
            tracing::info!(state = report.state, reason = report.reason, "network");
            self.tell(Event::State {
                state: report.state,
                reason: report.reason,
            });
        }
    }

    fn tell(&self, event: Event) {
        // Full: the reader is behind and will look at the report.
        drop(self.events.try_send(event));
    }
}

/// Brings the loopback interface up. No configuration speaks of it, and programs
/// take it for granted that a machine can talk to itself.
async fn raise_loopback(kernel: &Kernel) {
    let up = Action::Up {
        link: "lo".to_owned(),
    };
    if let Err(error) = kernel.execute(&[up]).await {
        tracing::warn!("loopback stays down: {error}");
    }
}

/// The source address of a broadcast: the message's own `ciaddr`.
pub(super) fn source(message: &[u8]) -> Ipv4Addr {
    match message.get(12..16) {
        Some(&[a, b, c, d]) => Ipv4Addr::new(a, b, c, d),
        _ => Ipv4Addr::UNSPECIFIED,
    }
}

/// The host name in force, unless it is the kernel's placeholder.
pub(super) fn hostname() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty() && name != "(none)" && name != "localhost").then_some(name)
}

/// An error and its sources in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
