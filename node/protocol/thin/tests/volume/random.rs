//! Looks for a counter-example: random guests, delays and faults, then the faults
//! end and everything must be well again.

use proptest::prelude::*;
use thin::size::{self, GIB, MIB};
use thin::{
    Config, Drive, Effect, ExtendOutcome, GuestInput, Input, Monotonic, RefreshOutcome, Sample,
    State, Target, ThresholdOutcome, Ticket,
};

use crate::world::{DRIVE, Delays, Run, World};

/// What happens next in a world.
#[derive(Debug, Clone)]
enum Event {
    Write { ms: u64, mib_per_s: u64 },
    Idle(u64),
    Lose(usize),
    Refuse(usize),
    SilentRefusals(u32),
    Eio,
    ByHand,
    Cont,
    Reconnect,
    Pool(u64),
    Replicate(bool),
    Resize(u64),
    ForgetThreshold,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..4000u64, 1..6000u64).prop_map(|(ms, mib_per_s)| Event::Write { ms, mib_per_s }),
        3 => (1..5000u64).prop_map(Event::Idle),
        1 => (1..4usize).prop_map(Event::Lose),
        1 => (1..4usize).prop_map(Event::Refuse),
        1 => (1..4u32).prop_map(Event::SilentRefusals),
        1 => Just(Event::Eio),
        1 => Just(Event::ByHand),
        2 => Just(Event::Cont),
        1 => Just(Event::Reconnect),
        1 => (0..20u64).prop_map(|gib| Event::Pool(gib * GIB)),
        1 => any::<bool>().prop_map(Event::Replicate),
        1 => (1..30u64).prop_map(Event::Resize),
        1 => Just(Event::ForgetThreshold),
    ]
}

fn apply(world: &mut World, event: &Event) {
    match *event {
        Event::Write { ms, mib_per_s } => world.run_for(ms, |_| mib_per_s * MIB),
        Event::Idle(ms) => world.idle_for(ms),
        Event::Lose(times) => world.answers.extend(vec![None; times]),
        Event::Refuse(times) => {
            world
                .answers
                .extend(vec![Some(ExtendOutcome::Refused); times]);
        }
        Event::SilentRefusals(times) => world.silent_refusals = times,
        Event::Eio if world.run == Run::Running => world.stop(Run::Eio),
        Event::ByHand if world.run == Run::Running => world.stop(Run::ByHand),
        Event::Eio | Event::ByHand => {}
        Event::Cont => world.cont(),
        Event::Reconnect => world.tell(GuestInput::Connected),
        Event::Pool(bytes) => world.pool = bytes,
        Event::Replicate(on) => {
            world.tell(GuestInput::Drive(DRIVE, Input::Replicating(on)));
        }
        Event::Resize(gib) => {
            world.capacity += gib * GIB;
            world.tell(GuestInput::Drive(DRIVE, Input::Resized));
        }
        Event::ForgetThreshold => {
            world.threshold = None;
            world.tell(GuestInput::Drive(DRIVE, Input::Moved));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The world itself asserts that nobody is continued who stands still for
    /// another reason, and that no threshold is above what is mapped.
    #[test]
    fn whatever_happens_a_healed_world_has_a_running_guest_with_room(
        events in prop::collection::vec(event(), 1..25),
        predict in any::<bool>(),
        extend_ms in 1..3000u64,
        refresh_ms in 1..800u64,
    ) {
        let config = Config { predict, ..Config::default() };
        let mut world = World::new(config, 40 * GIB, 2560 * MIB);
        world.delays = Delays { extend_ms, refresh_ms, ..Delays::UPSTREAM };
        let mut before = 0;
        for event in &events {
            apply(&mut world, event);
            let maximum = size::maximum_bytes(world.capacity);
            for (_, to) in &world.asked[before..] {
                prop_assert!(*to <= maximum && to % MIB == 0);
            }
            before = world.asked.len();
        }
        world.answers.clear();
        world.silent_refusals = 0;
        world.pool = u64::MAX;
        if matches!(world.run, Run::Eio | Run::ByHand) {
            world.cont();
        }
        world.idle_for(90_000);
        prop_assert_eq!(world.run, Run::Running);
        let status = world.status();
        match status.state {
            State::Set => {
                prop_assert!(world.threshold.is_some());
                prop_assert!(!size::needs_extend(
                    world.mapped,
                    world.written,
                    config.policy.free_limit_bytes(false),
                ));
            }
            State::Disabled => {
                prop_assert!(world.mapped >= size::maximum_bytes(world.capacity));
            }
            State::Unset | State::Exceeded => prop_assert!(false, "{:?}", status),
        }
        // And it can be filled slowly without one more pause: the slowest round
        // trip, of a replica and then the source, is below 8 s.
        let pauses = world.pauses;
        world.run_for(100_000, |_| 250 * MIB);
        prop_assert_eq!(world.pauses, pauses);
    }

    /// Any inputs in any order, with any tickets: no panic, absolute requests that
    /// never shrink what there is, one step at a time.
    #[test]
    fn any_input_is_survived(
        inputs in prop::collection::vec((0..15u8, any::<u8>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..200),
    ) {
        let mut drive = Drive::new(Config::default());
        let mut now = Monotonic(0);
        let mut last_ticket = Ticket(0);
        for (what, step, a, b, c) in inputs {
            now = now.plus_ms(u64::from(step) * 20);
            let ticket = if step % 3 == 0 { Ticket(a) } else { last_ticket };
            let input = match what {
                0 => Input::Tick,
                1 => Input::Threshold,
                2 => Input::NoSpace,
                3..=6 => Input::Sampled {
                    ticket,
                    sample: (step % 7 != 0).then_some(Sample {
                        capacity_bytes: a >> (step % 60),
                        allocation_bytes: b >> (step % 50),
                        physical_bytes: c >> (step % 40),
                        written_bytes: (step % 2 == 0).then_some(a),
                    }),
                },
                7 => Input::Extended {
                    ticket,
                    outcome: if step % 2 == 0 { ExtendOutcome::Done } else { ExtendOutcome::Refused },
                },
                8 => Input::Refreshed {
                    ticket,
                    outcome: match step % 3 {
                        0 => RefreshOutcome::Failed,
                        1 => RefreshOutcome::Impossible,
                        _ => RefreshOutcome::Done { size_bytes: b },
                    },
                },
                9 => Input::ThresholdSet {
                    ticket,
                    outcome: match step % 3 {
                        0 => ThresholdOutcome::Failed,
                        1 => ThresholdOutcome::Unsupported,
                        _ => ThresholdOutcome::Set,
                    },
                },
                10 => Input::Resized,
                11 => Input::Moved,
                12 => Input::Replicating(step % 2 == 0),
                13 => Input::Migrating(step % 2 == 0),
                _ => Input::Running,
            };
            drive.handle(now, input);
            let mut outstanding = 0;
            while let Some(effect) = drive.next_effect() {
                match effect {
                    Effect::QueryStats { ticket } | Effect::Refresh { ticket, .. } => {
                        outstanding += 1;
                        last_ticket = ticket;
                    }
                    Effect::Extend { ticket, to_bytes, target } => {
                        outstanding += 1;
                        last_ticket = ticket;
                        let status = drive.status();
                        prop_assert_eq!(to_bytes % MIB, 0);
                        prop_assert!(to_bytes <= size::maximum_bytes(status.capacity_bytes));
                        if target == Target::Source && status.attempts == 0 {
                            prop_assert!(to_bytes > status.physical_bytes);
                        }
                    }
                    Effect::SetThreshold { ticket, at_bytes } => {
                        outstanding += 1;
                        last_ticket = ticket;
                        prop_assert!(at_bytes > 0);
                    }
                    Effect::Resume | Effect::Pause { .. } | Effect::Tell(_) => {}
                }
            }
            prop_assert!(outstanding <= 1, "{outstanding} steps at once");
        }
    }
}
