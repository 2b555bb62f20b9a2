//! The daemon that answers sanlock's socket (spec §6): one loop, driven by
//! events, in which nothing waits.
//!
//! What it is: sockets, clients, lockspaces and their users, killing, events,
//! and the edges around [`crate::resources`]. What it is not: no record of a
//! disk is understood here.
//!
//! ```text
//!   clients ──▶ Client (framing, back-pressure) ──▶ dispatch ─┬─▶ spaces ──▶ keeper
//!      ▲                                                      ├─▶ resources ──▶ disks (ring)
//!      └────────── replies, streams ◀──────────────────────── ├─▶ jobs: storage commands, opening
//!                                                             └─▶ helper: signals, killpath
//! ```
//!
//! Invariants: nothing in the loop waits but the poller; whatever one client
//! does or does not do, the others are served; the registration of a process
//! ends with the last duplicate of its socket and with nothing else; a reply
//! is written once, to the connection that asked.
//! Tested in `tests/daemon*.rs`.

mod accounts;
mod client;
mod clients;
mod disks;
mod dispatch;
mod events;
pub mod helper;
mod jobs;
mod killing;
mod leases;
mod lifecycle;
mod log;
mod metrics;
mod node;
mod options;
mod poller;
mod space;
mod spaces;
mod startup;
mod status;
mod storing;
mod stream;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use disk_format::HostName;
use lease::{Monotonic, Now};
use linux::process::{Notice, Signals};
use sanlock_wire::{Header, Reply};

use self::client::{Flushed, Got};
use self::clients::{Accepted, Clients};
use self::disks::Disks;
use self::helper::Helper;
use self::jobs::Jobs;
use self::lifecycle::Shutdown;
use self::log::{Limit, Log};
use self::poller::{Poller, Ready, Source};
use self::spaces::Spaces;
use self::storing::Stored;
use crate::keeper::Keeper;
use crate::resources::{ClientId, ReplyTo, Resources, Settings};
use crate::status_socket::StatusSocket;

pub use options::{Configured, KILL_GRACE_DEFAULT_S, MaxSectors, Node, Options};
pub use startup::DaemonError;

/// Messages of one client handled before the next has its turn.
const MESSAGES_MAX: usize = 16;
/// Clients served before the loop looks at everything else again.
const TURNS_MAX: usize = 256;
/// Rounds of turns and what follows from them before the loop looks at the
/// kernel again.
const ROUNDS_MAX: usize = 8;
/// How long accepting pauses when there are no descriptors left.
const ACCEPT_PAUSE_MS: u64 = 100;

/// Runs the daemon until it is told to end.
///
/// # Errors
/// See [`DaemonError`]; nothing is held then.
pub fn run(options: Options) -> Result<ExitCode, DaemonError> {
    match startup::background(&options)? {
        startup::Role::Caller(code) => return Ok(code),
        startup::Role::Daemon => {}
    }
    if options.node.is_none() {
        // Only how it is listed.
        rustix::thread::set_name(c"sanlock").ok();
    }
    let mut daemon = Daemon::start(options)?;
    let code = daemon.serve()?;
    // What is left to say in the log is said.
    daemon.keeper.end();
    daemon.log.finish();
    Ok(code)
}

/// A command that is answered later.
#[derive(Debug)]
struct Pending {
    /// The connection that asked.
    client: ClientId,
    header: Header,
    /// The registration it acts on.
    target: Option<ClientId>,
}

/// What came of work beside the loop.
#[derive(Debug)]
enum Outcome {
    Found(disks::Found),
    Stored(ReplyTo, Stored),
}

/// Everything the loop owns.
#[derive(Debug)]
struct Daemon {
    options: Options,
    account: accounts::Account,
    host_name: HostName,
    log: Log,
    poller: Poller,
    /// sanlock's socket.
    listener: Option<UnixListener>,
    signals: Signals,
    /// Held open: closing it gives the lock of the pid file back.
    _pid_file: Option<OwnedFd>,
    status_socket: Option<StatusSocket>,
    /// Somebody wants to know the status.
    status_rings: bool,
    helper: Option<Helper>,
    clients: Clients,
    pending: BTreeMap<ReplyTo, Pending>,
    next_reply: u64,
    keeper: Keeper,
    /// The keeper has something to tell.
    keeper_rings: bool,
    spaces: Spaces,
    resources: Resources,
    disks: Disks,
    jobs: Jobs<Outcome>,
    /// Connections with large replies to take, oldest first.
    streams: Vec<ClientId>,
    shutdown: Option<Shutdown>,
    /// A lockspace that was lost has been left.
    left_badly: bool,
    accept_paused: Option<Monotonic>,
    started: Monotonic,
    /// Messages answered.
    requests: u64,
    /// Messages not understood, connections refused or closed for what they
    /// sent.
    refused: u64,
    /// Of lines about messages not understood.
    rubbish: Limit,
    /// Of lines about connections refused.
    crowd: Limit,
    /// Of lines about leases.
    chatter: Limit,
}

/// Both clocks.
fn now() -> Now {
    Now {
        monotonic: Monotonic(linux::clock::monotonic_ns()),
        boottime: Monotonic(linux::clock::boottime_ns()),
    }
}

impl Daemon {
    fn start(options: Options) -> Result<Self, DaemonError> {
        let kernel = |what| move |error| DaemonError::Kernel(what, error);
        let account = accounts::find(options.user.as_deref(), options.group.as_deref())
            .map_err(kernel("account"))?;
        let leases = options.serves_leases();
        let pid_file = if leases {
            startup::run_dir(&options, &account)?;
            Some(startup::pid_file(&options.run_dir)?)
        } else {
            None
        };
        // Everything that follows inherits the blocked signals, except for
        // programs that are started.
        let signals = Signals::open().map_err(kernel("signals"))?;
        let (helper, listener) = if leases {
            let helper = Helper::start(options.is_quiet()).map_err(kernel("helper process"))?;
            let listener = startup::listen(&options.run_dir, &account)?;
            (Some(helper), Some(listener))
        } else {
            (None, None)
        };
        let status_socket = match &options.node {
            None => None,
            Some(node) => Some(startup::status_socket(&node.status_socket)?),
        };
        startup::raise_limits(&options);
        let log = Log::open(&options);
        // With the privilege to, what there is by now; what comes later may be
        // within the limit.
        let early = startup::lock_memory(options.mlock_level.min(1));
        startup::drop_privileges(&options, &account)?;
        log.start().map_err(kernel("log thread"))?;
        log.take_traces();
        let locked = startup::lock_memory(options.mlock_level).or(early);
        let keeper = spaces::start_keeper(&options).map_err(kernel("keeper"))?;
        let disks = Disks::new().map_err(kernel("ring"))?;
        let jobs = Jobs::new().map_err(kernel("eventfd"))?;
        let poller = Poller::new().map_err(kernel("epoll"))?;
        let watched = [
            (listener.as_ref().map(AsFd::as_fd), Source::LISTENER),
            (Some(signals.as_fd()), Source::SIGNALS),
            (helper.as_ref().map(AsFd::as_fd), Source::HELPER),
            (Some(keeper.as_fd()), Source::KEEPER),
            (Some(disks.as_fd()), Source::RING),
            (Some(jobs.as_fd()), Source::JOBS),
            (status_socket.as_ref().map(AsFd::as_fd), Source::STATUS),
        ];
        for (fd, source) in watched {
            if let Some(fd) = fd {
                poller.watch(fd, source).map_err(kernel("epoll"))?;
            }
        }
        let host_name = match options.host_name {
            Some(name) => name,
            None => startup::random_host_name().map_err(kernel("host name"))?,
        };
        let settings = Settings {
            shared_retries: options.sh_retries,
            unsafe_lvb: options.unsafe_lvb,
            seed: startup::seed(),
        };
        let mut daemon = Self {
            clients: Clients::new(),
            spaces: Spaces::new(),
            resources: Resources::new(settings),
            options,
            account,
            host_name,
            log,
            poller,
            listener,
            signals,
            _pid_file: pid_file,
            helper,
            status_socket,
            status_rings: false,
            pending: BTreeMap::new(),
            next_reply: 1,
            keeper,
            keeper_rings: false,
            disks,
            jobs,
            streams: Vec::new(),
            shutdown: None,
            left_badly: false,
            accept_paused: None,
            started: now().boottime,
            requests: 0,
            refused: 0,
            rubbish: Limit::new(10),
            crowd: Limit::new(10),
            chatter: Limit::new(100),
        };
        daemon.announce(locked);
        daemon.join_configured()?;
        startup::ready(&daemon.options, &daemon.log);
        Ok(daemon)
    }

    fn announce(&self, locked: std::io::Result<()>) {
        self.log.info(format_args!(
            "sanlock daemon started {} host {}",
            status::VERSION,
            self.host_name
        ));
        if let Err(error) = locked {
            self.log.warn(format_args!(
                "mlockall failed: {error}; a renewal may wait for the swap device"
            ));
        }
        for warning in &self.options.warnings {
            self.log.warn(format_args!("{warning}"));
        }
    }

    /// The loop.
    fn serve(&mut self) -> Result<ExitCode, DaemonError> {
        loop {
            let deadline = self.deadline();
            let busy = self.clients.turns() > 0 || self.disks.is_busy();
            self.poller
                .wait(deadline, busy)
                .map_err(|error| DaemonError::Kernel("epoll", error))?;
            let at = now();
            for ready in self.poller.ready() {
                self.notice(at, ready);
            }
            self.tick(at);
            for _ in 0..ROUNDS_MAX {
                self.turns();
                self.pump(at);
                if self.clients.turns() == 0 && !self.disks.is_busy() {
                    break;
                }
            }
            if let Some(code) = self.ended() {
                return Ok(code);
            }
        }
    }

    /// When something is due without anything happening.
    fn deadline(&self) -> Option<Monotonic> {
        [
            self.clients.deadline(),
            self.resources.deadline(),
            self.spaces.deadline(),
            self.disks.deadline(),
            self.jobs.deadline(),
            self.status_socket.as_ref().and_then(StatusSocket::deadline),
            self.accept_paused,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn notice(&mut self, at: Now, ready: Ready) {
        match ready.source {
            Source::TIMER => self.poller.quiet(),
            Source::LISTENER => self.accept(at.boottime),
            Source::SIGNALS => self.on_signals(),
            Source::HELPER => self.on_helper(),
            Source::KEEPER => self.keeper_rings = true,
            Source::JOBS => self.jobs.quiet(),
            // Looked at in every turn anyway.
            Source::RING => {}
            Source::STATUS => self.status_rings = true,
            Source(number) if number >= Source::LISTENERS => {
                self.on_listener(number - Source::LISTENERS);
            }
            Source(number) => {
                let id = ClientId(number - Source::CLIENTS);
                let Some(client) = self.clients.get_mut(id) else {
                    return;
                };
                client.readable |= ready.readable;
                client.writable |= ready.writable;
                client.dead |= ready.gone;
                self.clients.queue(id);
            }
        }
    }

    fn accept(&mut self, at: Monotonic) {
        let Some(listener) = &self.listener else {
            return;
        };
        match self.clients.accept(listener, &self.poller, at) {
            Accepted::All | Accepted::Some => {}
            Accepted::Exhausted => {
                // The listener stays readable, which would keep the loop busy.
                self.poller.forget(listener);
                self.accept_paused = Some(at.plus_ms(ACCEPT_PAUSE_MS));
                self.log.error(format_args!(
                    "no descriptors for another connection; {} are open",
                    self.clients.len()
                ));
            }
        }
        let (refused, limit) = self.clients.take_refused();
        if refused > 0 {
            self.refused += refused;
            if self.crowd.allows(at).is_some() {
                self.log.error(format_args!(
                    "{refused} connections refused, or idle ones closed for them: {} are open, the limit is {limit}",
                    self.clients.len()
                ));
            }
        }
    }

    fn on_signals(&mut self) {
        while let Ok(notice) = self.signals.receive() {
            match notice {
                // The helper's death shows on its socket.
                Notice::Child => {}
                Notice::CtrlAltDel | Notice::Terminate | Notice::Other(_) => self.on_terminate(),
            }
        }
    }

    /// Everything that is due.
    fn tick(&mut self, at: Now) {
        while let Some(id) = self.clients.overdue(at.boottime) {
            if let Some(client) = self.clients.get(id) {
                self.log.warn(format_args!(
                    "{client} closed: part of a message or reply for {} seconds",
                    clients::PATIENCE_S
                ));
            }
            self.refused += 1;
            self.close(id);
        }
        if self.accept_paused.is_some_and(|until| until <= at.boottime) {
            self.accept_paused = None;
            let watched = self
                .listener
                .as_ref()
                .map(|listener| self.poller.watch(listener, Source::LISTENER));
            if matches!(watched, Some(Err(_))) {
                self.accept_paused = Some(at.boottime.plus_ms(ACCEPT_PAUSE_MS));
            }
        }
        self.serve_status(at.boottime);
        self.disks.tick(at.boottime);
        self.jobs.tick(at.boottime);
        if self
            .resources
            .deadline()
            .is_some_and(|due| due <= at.boottime)
        {
            self.tell(crate::resources::Input::Tick);
        }
        if self.spaces.deadline().is_some_and(|due| due <= at.boottime) {
            self.spaces_tick(at);
        }
    }

    /// Gives clients their turns.
    fn turns(&mut self) {
        for _ in 0..self.clients.turns().min(TURNS_MAX) {
            let Some(id) = self.clients.next_turn() else {
                return;
            };
            self.turn(id);
        }
    }

    /// One client's turn: sends what waits, then reads and answers messages
    /// until one of them takes longer, there are none, or others must have
    /// their turn.
    fn turn(&mut self, id: ClientId) {
        if !self.send(id) {
            return;
        }
        for _ in 0..MESSAGES_MAX {
            let Some(client) = self.clients.get_mut(id) else {
                return;
            };
            if client.busy.is_some() {
                if client.dead {
                    self.close(id);
                    return;
                }
                break;
            }
            // Answers must be taken before more is asked.
            if !client.is_flushed() || client.close_after {
                break;
            }
            if let Some(message) = client.next_message() {
                self.on_message(id, message);
                if !self.send(id) {
                    return;
                }
                continue;
            }
            let refused = self.refuse_early(id);
            if !self.send(id) {
                return;
            }
            if refused {
                continue;
            }
            let Some(client) = self.clients.get_mut(id) else {
                return;
            };
            if !client.readable {
                break;
            }
            match client.read() {
                Got::Bytes => client.heard = now().boottime,
                Got::Nothing => break,
                Got::End => {
                    if let Some(message) = client.unfinished() {
                        self.on_message(id, message);
                        self.send(id);
                    }
                    self.close(id);
                    return;
                }
            }
        }
        let Some(client) = self.clients.get(id) else {
            return;
        };
        let more = client.busy.is_none() && client.is_flushed() && client.readable;
        let unsent = !client.is_flushed() && client.writable;
        if more || unsent {
            self.clients.queue(id);
        }
        self.clients.settle(id, now().boottime);
    }

    /// Sends what a client's socket takes. `false`: the client is no more.
    fn send(&mut self, id: ClientId) -> bool {
        let Some(client) = self.clients.get_mut(id) else {
            return false;
        };
        let (flushed, closing) = if client.stream.is_none() {
            (client.flush(|_, _| false), client.close_after)
        } else {
            // A stream is made of everything there is.
            let Some(mut client) = self.clients.lend(id) else {
                return false;
            };
            let flushed = client.flush(|stream, out| self.refill(id, stream, out));
            let closing = client.close_after;
            self.clients.give_back(id, client);
            (flushed, closing)
        };
        let finished = flushed == Flushed::All && closing;
        if finished || flushed == Flushed::Broken {
            self.close(id);
            return false;
        }
        true
    }

    /// Ends a connection, and with it the registration it may be.
    fn close(&mut self, id: ClientId) {
        let Some(client) = self.clients.remove(id, &self.poller) else {
            return;
        };
        if client.registered {
            if self.options.debug_clients {
                self.log.debug(format_args!("{client} ended"));
            }
            self.tell(crate::resources::Input::ClientGone(id));
        }
    }

    /// Notes that a command will be answered later.
    fn defer(&mut self, id: ClientId, header: &Header, target: Option<ClientId>) -> ReplyTo {
        let to = ReplyTo(self.next_reply);
        self.next_reply += 1;
        if let Some(client) = self.clients.get_mut(id) {
            client.busy = header.command();
        }
        if let Some(target) = target.and_then(|target| self.clients.get_mut(target)) {
            target.acted_on = true;
        }
        self.pending.insert(
            to,
            Pending {
                client: id,
                header: *header,
                target,
            },
        );
        to
    }

    /// Answers a deferred command.
    fn answer(&mut self, to: ReplyTo, reply: &Reply) {
        let Some(pending) = self.pending.remove(&to) else {
            return;
        };
        if let Some(target) = pending
            .target
            .and_then(|target| self.clients.get_mut(target))
        {
            target.acted_on = false;
        }
        if let Some(client) = self.clients.get_mut(pending.client) {
            client.busy = None;
            self.reply(pending.client, &pending.header, reply);
            self.clients.queue(pending.client);
        }
    }

    /// Answers a connection.
    fn reply(&mut self, id: ClientId, header: &Header, reply: &Reply) {
        if let Some(client) = self.clients.get_mut(id) {
            client.out().extend(reply.encode(header));
        }
    }
}
