//! Two hosts, a few clients, and a disk that is slow, forgetful about what it
//! has done, and now and then broken; lockspaces are lost and joined again;
//! from one seed each.
//!
//! Always: one answer for every command; never two holders of which one is
//! exclusive. In the end, when the disk works again and every client has
//! ended: nothing held, nothing under way, nothing waited for, a free disk.

use std::collections::BTreeSet;
use std::rc::Rc;

use disk_format::Geometry;
use lease::code::Code;
use sanlock_wire::{AcquireFlags, Release};

use super::super::{Ending, Input, Patience, ReplyTo};
use super::rig::{Node, S, lockspace, process};

const RESOURCES: u64 = 3;
const CLIENTS: u64 = 4;
const STEPS: u32 = 400;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[derive(Default)]
struct Seen {
    acquired: u32,
    contended: u32,
    converted: u32,
    timed_out: u32,
    shared: u32,
    stuck: u32,
    lives: u64,
}

struct World {
    nodes: Vec<Node>,
    dice: Dice,
    asked: Vec<(usize, ReplyTo)>,
    /// Clients with a command under way, as the server has only one each.
    busy: BTreeSet<(usize, u64)>,
    waiting: Vec<(usize, u64, ReplyTo)>,
    next_client: u64,
    clients: Vec<Vec<u64>>,
    /// Generation of each host's delta lease, and whether it is lost.
    lives: [(u64, bool); 2],
}

impl World {
    fn new(seed: u64) -> Self {
        let first = Node::new(1, Geometry::Sector512Align1M, Rc::default());
        for index in 1..=RESOURCES {
            first.init(index);
        }
        let second = first.peer(2);
        let mut world = Self {
            nodes: vec![first, second],
            dice: Dice(seed),
            asked: Vec::new(),
            busy: BTreeSet::new(),
            waiting: Vec::new(),
            next_client: CLIENTS + 1,
            clients: vec![(1..=CLIENTS).collect(); 2],
            lives: [(1, false); 2],
        };
        for node in &mut world.nodes {
            node.hold = Some(|_| true);
        }
        world.look();
        world
    }

    /// Both hosts are alive and see each other so.
    fn look(&mut self) {
        for (index, other) in [(0, 2), (1, 1)] {
            let (generation, _) = self.lives[1 - index];
            let node = &mut self.nodes[index];
            let now = node.now;
            node.delta(other, generation, now / S);
            node.see(other, generation, now / S, now);
        }
    }

    /// A host loses its lockspace: its clients are killed.
    fn lose(&mut self, host: usize) {
        if std::mem::replace(&mut self.lives[host].1, true) {
            return;
        }
        self.nodes[host].dying(Ending::Lost);
        for client in self.clients[host].clone() {
            self.nodes[host].gone(client);
        }
        let first = self.next_client;
        self.next_client += CLIENTS;
        self.clients[host] = (first..self.next_client).collect();
    }

    /// It comes back in its next generation, once nothing of the last one is
    /// on its way to the disk.
    fn come_back(&mut self, host: usize) {
        let node = &mut self.nodes[host];
        if !self.lives[host].1 || !node.held.is_empty() {
            return;
        }
        assert!(!node.leases.is_busy(&lockspace()));
        node.input(Input::SpaceGone(lockspace()));
        let (generation, lost) = &mut self.lives[host];
        *generation += 1;
        *lost = false;
        node.join(*generation);
        self.look();
    }

    fn names(&mut self) -> Vec<String> {
        let count = 1 + self.dice.roll(3);
        (0..count)
            .map(|_| {
                let shared = if self.dice.roll(2) == 0 { ":SH" } else { "" };
                format!("R{}{shared}", 1 + self.dice.roll(RESOURCES))
            })
            .collect()
    }

    fn command(&mut self, host: usize) {
        let slot = usize::try_from(self.dice.roll(CLIENTS)).unwrap();
        let client = self.clients[host][slot];
        if self.busy.contains(&(host, client)) {
            return;
        }
        let names = self.names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let kind = self.dice.roll(10);
        let now = self.nodes[host].now;
        let patience = (self.dice.roll(3) == 0).then(|| Patience {
            until: Some(lease::Monotonic(now + self.dice.roll(30) * S)),
        });
        let node = &mut self.nodes[host];
        let reply = match kind {
            0..5 => node.acquire_as(process(client), &names, AcquireFlags::NONE, patience),
            5..7 => node.release(client, &names[..1]),
            7 => node.release_what(client, &Release::All),
            _ => {
                // The first lease it has, to the other mode.
                let held = node.inquire(client);
                let first = held.split(' ').next().unwrap_or_default();
                let name = first.split(':').nth(1).unwrap_or("R1");
                let mode = if first.ends_with("SH") { "" } else { ":SH" };
                node.convert(client, &format!("{name}{mode}"))
            }
        };
        self.asked.push((host, reply));
        self.busy.insert((host, client));
        self.waiting.push((host, client, reply));
    }

    fn step(&mut self) {
        let host = usize::try_from(self.dice.roll(2)).unwrap();
        let flights = u64::try_from(self.nodes[host].held.len()).unwrap();
        match self.dice.roll(20) {
            0..5 => self.command(host),
            5..17 if flights > 0 => {
                let index = usize::try_from(self.dice.roll(flights)).unwrap();
                self.nodes[host].land(index);
            }
            17 if flights > 0 && self.dice.roll(4) == 0 => {
                let index = usize::try_from(self.dice.roll(flights)).unwrap();
                let happened = self.dice.roll(2) == 0;
                self.nodes[host].fail(index, happened);
            }
            18 if self.dice.roll(4) == 0 => {
                let slot = usize::try_from(self.dice.roll(CLIENTS)).unwrap();
                let client = std::mem::replace(&mut self.clients[host][slot], self.next_client);
                self.next_client += 1;
                self.nodes[host].gone(client);
            }
            19 if self.dice.roll(20) == 0 => self.lose(host),
            19 => {
                self.come_back(host);
                let seconds = self.dice.roll(3);
                for node in &mut self.nodes {
                    node.pass(seconds);
                }
                self.look();
            }
            _ => {}
        }
        let nodes = &self.nodes;
        let busy = &mut self.busy;
        self.waiting.retain(|&(host, client, reply)| {
            let answered = nodes[host].answer(reply).is_some();
            if answered {
                busy.remove(&(host, client));
            }
            !answered
        });
        self.check();
    }

    fn check(&self) {
        for index in 1..=RESOURCES {
            let name = format!("R{index}");
            let mut exclusive = 0;
            let mut holders = 0;
            for node in &self.nodes {
                for one in node.leases.status() {
                    if one.resource.to_string() == name && one.list == super::super::ListKind::Held
                    {
                        holders += 1;
                        exclusive += u32::from(!one.shared && !one.converting);
                    }
                }
            }
            assert!(
                exclusive == 0 || holders == 1,
                "{name} has {holders} holders, {exclusive} of them exclusive"
            );
        }
    }

    /// The disk works again, everybody ends.
    fn finish(&mut self, seen: &mut Seen) {
        for host in 0..2 {
            for client in self.clients[host].clone() {
                self.nodes[host].gone(client);
            }
        }
        for _ in 0..60 {
            for node in &mut self.nodes {
                node.land_all();
                node.pass(1);
            }
            self.come_back(0);
            self.come_back(1);
            self.look();
        }
        for &(host, reply) in &self.asked {
            assert!(self.nodes[host].answer(reply).is_some(), "no answer");
        }
        for node in &self.nodes {
            assert_eq!(node.lists(), [""; 0]);
            assert!(!node.leases.is_busy(&lockspace()));
            assert!(!node.leases.is_used(&lockspace()));
            assert_eq!(node.leases.holders(&lockspace()).count(), 0);
            assert_eq!(node.leases.deadline(), None);
            assert_eq!(node.leases.in_flight(), 0);
            assert!(node.leases.is_empty(), "{:?}", node.leases);
        }
        // Every lease can be had again, by each host: its own leftovers it clears
        // itself, and it may have to finish a ballot the other one broke off.
        for host in [0, 1, 0, 1] {
            let node = &mut self.nodes[host];
            for index in 1..=RESOURCES {
                let name = format!("R{index}");
                let mut got = node.acquire(999, &[&name]);
                for _ in 0..2 {
                    node.pass(5);
                    if node.answer(got) == Some(Code::ACQUIRE_OTHER) {
                        got = node.acquire(999, &[&name]);
                    }
                }
                seen.stuck += u32::from(node.answer(got) != Some(Code::OK));
                node.gone(999);
                node.pass(5);
            }
        }
        seen.lives += self
            .lives
            .iter()
            .map(|(generation, _)| generation)
            .sum::<u64>();
        for node in &self.nodes {
            let numbers = node.leases.metrics();
            seen.acquired += u32::try_from(numbers.acquires.count).unwrap();
            seen.contended += u32::try_from(numbers.contended).unwrap();
            seen.converted += u32::try_from(numbers.conversions.count).unwrap();
            seen.timed_out += u32::try_from(numbers.timed_out).unwrap();
            seen.shared += u32::try_from(numbers.joined).unwrap();
        }
    }
}

#[test]
fn whatever_the_disk_does_everybody_is_answered_and_nothing_is_left() {
    let mut seen = Seen::default();
    for seed in 0..80 {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.finish(&mut seen);
    }
    assert_eq!(
        seen.stuck, 0,
        "leases that nobody has and somebody cannot get"
    );
    // A run in which nothing happened would prove nothing.
    assert!(seen.acquired > 1000, "{}", seen.acquired);
    assert!(seen.contended > 50, "{}", seen.contended);
    assert!(seen.converted > 20, "{}", seen.converted);
    assert!(seen.timed_out > 20, "{}", seen.timed_out);
    assert!(seen.shared > 20, "{}", seen.shared);
    assert!(seen.lives > 2 * 80 + 20, "{}", seen.lives);
}
