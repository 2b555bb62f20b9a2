//! All connections: accepting, turns, deadlines, registered processes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::net::UnixListener;

use lease::Monotonic;
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::client::Client;
use super::poller::Poller;
use crate::resources::ClientId;

/// Descriptors that are not for clients: devices, rings, watchdog, log.
const RESERVED: u64 = 256;
/// Never fewer than the original.
const CLIENTS_MIN: u64 = 1024;
/// Connections accepted at a time.
const ACCEPT_MAX: usize = 64;
/// Seconds without a word after which a connection may have to go.
const IDLE_S: u64 = 5;
/// Connections looked at to find one that may go.
const IDLE_SEARCH_MAX: usize = 4096;
/// How long the rest of a message, or room for a reply, may take to come.
/// Clients that are registered may take for ever: closing one gives its
/// leases away.
pub(crate) const PATIENCE_S: u64 = 30;

/// What accepting came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// Everybody who was waiting.
    All,
    /// More are waiting.
    Some,
    /// No descriptors: try later.
    Exhausted,
}

/// The table. Numbers are never used twice, so what is late for one
/// connection cannot reach another.
#[derive(Debug)]
pub(crate) struct Clients {
    table: BTreeMap<ClientId, Client>,
    /// Registered connections by process; the youngest counts.
    processes: BTreeMap<i32, Vec<ClientId>>,
    deadlines: BTreeSet<(Monotonic, ClientId)>,
    turns: VecDeque<ClientId>,
    next: u64,
    limit: usize,
    refused: u64,
}

impl Clients {
    pub(crate) fn new() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = files.map_or(u64::from(u32::MAX), |files| {
            files.saturating_sub(RESERVED).max(CLIENTS_MIN)
        });
        Self {
            table: BTreeMap::new(),
            processes: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            turns: VecDeque::new(),
            next: 1,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            refused: 0,
        }
    }

    /// Accepts who is waiting. At the limit the one goes that has been idle
    /// for longest, or else the new one; both are counted.
    pub(crate) fn accept(
        &mut self,
        listener: &UnixListener,
        poller: &Poller,
        now: Monotonic,
    ) -> Accepted {
        for _ in 0..ACCEPT_MAX {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match rustix::net::accept_with(listener, flags) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return Accepted::All,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return Accepted::Exhausted;
                }
                // One that gave up while it waited.
                Err(_) => continue,
            };
            if self.table.len() >= self.limit {
                self.refused += 1;
                match self.idle(now) {
                    Some(idle) => self.remove(idle, poller),
                    None => continue,
                };
            }
            let pid = rustix::net::sockopt::socket_peercred(&socket)
                .map_or(-1, |peer| peer.pid.as_raw_nonzero().get());
            let number = self.next;
            self.next += 1;
            if poller.watch_client(&socket, number).is_err() {
                self.refused += 1;
                continue;
            }
            self.table
                .insert(ClientId(number), Client::new(socket, pid));
        }
        Accepted::Some
    }

    /// An old connection that nothing depends on and that has said nothing
    /// for a while.
    fn idle(&self, now: Monotonic) -> Option<ClientId> {
        self.table
            .iter()
            .take(IDLE_SEARCH_MAX)
            .find(|(_, client)| client.is_idle() && client.heard.plus_s(IDLE_S) <= now)
            .map(|(id, _)| *id)
    }

    /// Connections refused since this was last asked, and the limit.
    pub(crate) fn take_refused(&mut self) -> (u64, usize) {
        (std::mem::take(&mut self.refused), self.limit)
    }

    pub(crate) fn get(&self, id: ClientId) -> Option<&Client> {
        self.table.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ClientId) -> Option<&mut Client> {
        self.table.get_mut(&id)
    }

    /// Takes a connection out for a moment; give it back at once.
    pub(crate) fn lend(&mut self, id: ClientId) -> Option<Client> {
        self.table.remove(&id)
    }

    /// Takes a lent connection back.
    pub(crate) fn give_back(&mut self, id: ClientId, client: Client) {
        self.table.insert(id, client);
    }

    /// The first connection whose number is higher.
    pub(crate) fn after(&self, id: ClientId) -> Option<(ClientId, &Client)> {
        self.table
            .range(ClientId(id.0 + 1)..)
            .next()
            .map(|(id, client)| (*id, client))
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Takes a connection out of the table.
    pub(crate) fn remove(&mut self, id: ClientId, poller: &Poller) -> Option<Client> {
        let client = self.table.remove(&id)?;
        poller.forget(&client);
        if let Some(deadline) = client.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        if let Some(owners) = self.processes.get_mut(&client.pid) {
            owners.retain(|owner| *owner != id);
            if owners.is_empty() {
                self.processes.remove(&client.pid);
            }
        }
        Some(client)
    }

    /// Makes a connection stand for its process.
    pub(crate) fn register(&mut self, id: ClientId, start_time: u64) {
        let Some(client) = self.table.get_mut(&id) else {
            return;
        };
        if !client.registered {
            client.registered = true;
            client.start_time = start_time;
            self.processes.entry(client.pid).or_default().push(id);
        }
        self.settle(id, Monotonic(0));
    }

    /// The registered connection of a process.
    pub(crate) fn of_process(&self, pid: i32) -> Option<ClientId> {
        self.processes.get(&pid)?.first().copied()
    }

    /// Gives a connection a turn in the loop.
    pub(crate) fn queue(&mut self, id: ClientId) {
        if let Some(client) = self.table.get_mut(&id)
            && !client.queued
        {
            client.queued = true;
            self.turns.push_back(id);
        }
    }

    /// Whose turn it is.
    pub(crate) fn next_turn(&mut self) -> Option<ClientId> {
        let id = self.turns.pop_front()?;
        if let Some(client) = self.table.get_mut(&id) {
            client.queued = false;
        }
        Some(id)
    }

    /// How many wait for their turn.
    pub(crate) fn turns(&self) -> usize {
        self.turns.len()
    }

    /// Sets or clears a connection's deadline, as what is under way on it
    /// demands.
    pub(crate) fn settle(&mut self, id: ClientId, now: Monotonic) {
        let Some(client) = self.table.get_mut(&id) else {
            return;
        };
        let stuck = client.is_stuck() && !client.registered;
        let moved = std::mem::take(&mut client.moved);
        let wanted = match client.deadline {
            _ if !stuck => None,
            Some(deadline) if !moved => Some(deadline),
            _ => Some(now.plus_s(PATIENCE_S)),
        };
        if wanted != client.deadline {
            if let Some(former) = client.deadline {
                self.deadlines.remove(&(former, id));
            }
            if let Some(wanted) = wanted {
                self.deadlines.insert((wanted, id));
            }
            client.deadline = wanted;
        }
    }

    /// The earliest deadline.
    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A connection whose deadline has passed.
    pub(crate) fn overdue(&self, now: Monotonic) -> Option<ClientId> {
        self.deadlines
            .first()
            .filter(|(deadline, _)| *deadline <= now)
            .map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use sanlock_wire::{Command, Header};

    use super::*;
    use crate::daemon::client::{Flushed, Got};

    struct World {
        _dir: tempfile::TempDir,
        listener: UnixListener,
        poller: Poller,
        clients: Clients,
        now: Monotonic,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("socket")).expect("a socket");
        listener.set_nonblocking(true).expect("set");
        World {
            _dir: dir,
            listener,
            poller: Poller::new().expect("epoll"),
            clients: Clients::new(),
            now: at(0),
        }
    }

    impl World {
        fn connect(&mut self) -> (UnixStream, ClientId) {
            let stream = UnixStream::connect(
                self.listener
                    .local_addr()
                    .expect("an address")
                    .as_pathname()
                    .expect("a path"),
            );
            let accepted = self.clients.accept(&self.listener, &self.poller, self.now);
            assert_eq!(accepted, Accepted::All);
            (stream.expect("connects"), ClientId(self.clients.next - 1))
        }

        fn read(&mut self, id: ClientId) {
            let client = self.clients.get_mut(id).expect("there");
            assert_eq!(client.read(), Got::Bytes);
            assert_eq!(client.next_message(), None);
        }
    }

    const fn at(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000_000)
    }

    #[test]
    fn half_a_message_has_a_deadline_unless_leases_depend_on_the_connection() {
        let mut world = world();
        let half = &Header::request(Command::Version).encode()[..10];
        let (mut stranger, first) = world.connect();
        let (mut process, second) = world.connect();
        world.clients.register(second, 0);
        for (stream, id) in [(&mut stranger, first), (&mut process, second)] {
            stream.write_all(half).expect("sent");
            world.read(id);
            world.clients.settle(id, at(5));
        }
        assert_eq!(world.clients.deadline(), Some(at(5 + PATIENCE_S)));
        // Another byte is no reason to wait longer.
        stranger.write_all(&[0]).expect("sent");
        world.read(first);
        world.clients.settle(first, at(20));
        assert_eq!(world.clients.overdue(at(4 + PATIENCE_S)), None);
        assert_eq!(world.clients.overdue(at(5 + PATIENCE_S)), Some(first));
        world.clients.remove(first, &world.poller);
        assert_eq!(world.clients.deadline(), None, "the process has for ever");
    }

    #[test]
    fn a_reply_has_a_deadline_from_when_part_of_it_was_taken_last() {
        let mut world = world();
        let (mut stream, id) = world.connect();
        let client = world.clients.get_mut(id).expect("there");
        client.out().extend(vec![0; 4 << 20]);
        while client.flush(|_, _| false) == Flushed::Some && client.writable {}
        world.clients.settle(id, at(1));
        world.clients.settle(id, at(10));
        assert_eq!(world.clients.deadline(), Some(at(1 + PATIENCE_S)));
        std::io::Read::read_exact(&mut stream, &mut [0; 1 << 16]).expect("bytes");
        let client = world.clients.get_mut(id).expect("there");
        client.writable = true;
        client.flush(|_, _| false);
        world.clients.settle(id, at(20));
        assert_eq!(world.clients.deadline(), Some(at(20 + PATIENCE_S)));
    }

    #[test]
    fn when_all_places_are_taken_the_longest_idle_connection_goes() {
        let mut world = world();
        world.clients.limit = 3;
        let (_process_end, process) = world.connect();
        world.clients.register(process, 0);
        let (_idle_end, idle) = world.connect();
        let (_other_end, other) = world.connect();
        let there = |world: &World, id| world.clients.get(id).is_some();
        world.now = at(IDLE_S - 1);
        let (_refused_end, _) = world.connect();
        assert_eq!(world.clients.take_refused(), (1, 3));
        assert!(there(&world, idle) && there(&world, other));
        world.now = at(IDLE_S);
        let (_new_end, new) = world.connect();
        assert!(there(&world, new) && there(&world, process) && there(&world, other));
        assert!(!there(&world, idle));
    }

    #[test]
    fn the_oldest_registration_stands_for_a_process() {
        let mut world = world();
        let own = i32::try_from(std::process::id()).expect("a pid");
        let (_first_end, first) = world.connect();
        let (_second_end, second) = world.connect();
        assert_eq!(world.clients.of_process(own), None);
        world.clients.register(second, 0);
        world.clients.register(first, 0);
        assert_eq!(world.clients.of_process(own), Some(second));
        world.clients.remove(second, &world.poller);
        assert_eq!(world.clients.of_process(own), Some(first));
        world.clients.remove(first, &world.poller);
        assert_eq!(world.clients.of_process(own), None);
    }
}
