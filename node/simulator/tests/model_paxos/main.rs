//! Every interleaving of a few hosts on one resource: the real cores, walked
//! through by stateright.
//!
//! A host is a core and its requests. A request takes effect and is told in
//! two steps, at any time; a write may be told as failed whether it took
//! effect or not, as often as the model allows. Time is each host's own: it
//! only moves when a host has nothing else to do, to its next deadline, so no
//! two hosts' clocks agree on anything. A host may die at any moment, with
//! what it had in flight; from then on the others see it dead.
#![allow(missing_docs, reason = "tests")]

#[path = "../walk/explore.rs"]
mod explore;
mod world;

use explore::{SOUND, explore};
use lease::resource::Input;
use stateright::{Model, Property};
use world::{Action, Op, Paxos, Wish, World};

impl Model for Paxos {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.initial()]
    }

    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        for (index, host) in state.hosts.iter().enumerate() {
            if !host.alive {
                continue;
            }
            for (number, flight) in host.flights.iter().enumerate() {
                actions.push(if flight.is_over() {
                    Action::Tell(index, number)
                } else {
                    Action::Effect(index, number)
                });
                // Only of a write is it of interest whether it took effect.
                if state.failures_left > 0 && flight.is_write() {
                    actions.push(Action::Fail(index, number));
                }
            }
            let idle = host.flights.is_empty();
            match host.op.look() {
                None => {
                    if host.wish < self.wishes[index].len() {
                        actions.push(Action::Next(index));
                    }
                }
                Some(op) => {
                    if idle && op.deadline().is_some() {
                        actions.push(Action::Wait(index));
                    }
                }
            }
            if state.deaths_left > 0 {
                actions.push(Action::Die(index));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut state = last.clone();
        match action {
            Action::Effect(index, number) => state.effect(index, number),
            Action::Tell(index, number) => state.tell(index, number, false),
            Action::Fail(index, number) => {
                state.failures_left -= 1;
                state.tell(index, number, true);
            }
            Action::Wait(index) => {
                let due = state.hosts[index].op.look()?.deadline()?;
                let host = &mut state.hosts[index];
                host.now = host.now.max(due.0);
                state.input(index, Input::Tick);
            }
            Action::Next(index) => {
                let wish = *self.wishes[index].get(state.hosts[index].wish)?;
                state.next(index, wish);
            }
            Action::Die(index) => {
                state.deaths_left -= 1;
                let host = &mut state.hosts[index];
                host.alive = false;
                host.op = Op::None;
                host.flights.clear();
                host.held = None;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SOUND, |_, state: &World| state.broken.is_none()),
            Property::sometimes("what is wanted is possible", |model: &Self, state| {
                (model.goal)(state)
            }),
        ]
    }

    fn within_boundary(&self, state: &World) -> bool {
        state.hosts.iter().all(|host| host.ios <= self.ios_max)
    }
}

use Wish::{Exclusive, GiveBack, Shared};

#[test]
fn two_hosts_take_turns() {
    let model = Paxos {
        wishes: vec![vec![Exclusive, GiveBack], vec![Exclusive, GiveBack]],
        failures: 0,
        deaths: 0,
        ios_max: 12,
        goal: |state| state.granted.len() == 2,
    };
    explore(model, 28_561);
}

#[test]
fn two_hosts_contend_and_a_write_is_in_doubt() {
    let model = Paxos {
        wishes: vec![vec![Exclusive], vec![Exclusive]],
        failures: 1,
        deaths: 0,
        ios_max: 12,
        goal: |state| state.failures_left == 0 && state.granted.len() == 1,
    };
    explore(model, 86_593);
}

#[test]
fn a_host_takes_over_from_a_dead_one() {
    let model = Paxos {
        wishes: vec![vec![Exclusive], vec![Exclusive]],
        failures: 0,
        deaths: 1,
        ios_max: 16,
        goal: |state| state.deaths_left == 0 && state.granted.len() == 2,
    };
    explore(model, 172_257);
}

#[test]
fn a_shared_holder_keeps_an_exclusive_one_out() {
    let model = Paxos {
        wishes: vec![vec![Shared, GiveBack], vec![Exclusive]],
        failures: 0,
        deaths: 0,
        ios_max: 14,
        goal: |state| state.hosts[0].wish == 2 && state.granted.len() == 1,
    };
    explore(model, 64_356);
}

#[test]
fn two_hosts_share() {
    let model = Paxos {
        wishes: vec![vec![Shared], vec![Shared]],
        failures: 0,
        deaths: 0,
        ios_max: 16,
        goal: |state| state.hosts.iter().all(|host| host.held.is_some()),
    };
    explore(model, 290_998);
}

#[test]
fn three_hosts_contend() {
    let model = Paxos {
        wishes: vec![vec![Exclusive], vec![Exclusive], vec![Exclusive]],
        failures: 0,
        deaths: 0,
        ios_max: 7,
        goal: |state| state.granted.len() == 1,
    };
    explore(model, 633_706);
}
