//! The SPM's side alone.

use disk_format::vdsm::mailbox::{EventBlock, Mailbox, Message};
use mailbox::{
    Committed, Effect, IoOutcome, Manager, Monotonic, Note, Outcome, RequestId, Volume, manager,
    timings,
};

use crate::disk::{Disk, MS};
use crate::pair::{MAILBOXES, Pair, extend};

fn post(disk: &mut Disk, host: usize, slot: usize, message: &Message) {
    let place = &mut disk.inbox[host * 4096..(host + 1) * 4096];
    let mut mailbox = Mailbox::from_bytes(place).expect("a mailbox");
    mailbox.put(slot, message);
    mailbox.seal();
    place.copy_from_slice(mailbox.bytes());
}

fn event(disk: &mut Disk, id: u8) {
    let block = EventBlock { id: [id; 16] }.encode();
    disk.inbox[..4096].copy_from_slice(&block);
}

fn answer(disk: &Disk, host: usize, slot: usize) -> Message {
    let place = &disk.outbox[host * 4096..(host + 1) * 4096];
    Mailbox::from_bytes(place).expect("a mailbox").message(slot)
}

#[test]
fn an_event_is_answered_at_once_even_when_idle() {
    let mut pair = Pair::new(0);
    pair.run(30_000);
    post(&mut pair.disk, 9, 5, &Message::Extend(extend(1, 10)));
    event(&mut pair.disk, 1);
    pair.run(timings::EVENT_IDLE_MS + 40);
    assert_eq!(answer(&pair.disk, 9, 5), Message::Extend(extend(1, 10)));
}

#[test]
fn a_host_without_events_is_found_and_then_served_every_two_seconds() {
    let mut pair = Pair::new(0);
    pair.run(30_000);
    post(&mut pair.disk, 200, 0, &Message::Extend(extend(1, 10)));
    let found = pair.until(30_000, |pair| !pair.commits.is_empty());
    assert!(found, "by the partial readings");
    pair.run(60_000);
    post(&mut pair.disk, 200, 1, &Message::Extend(extend(1, 20)));
    pair.run(2_100);
    assert_eq!(pair.commits.len(), 2, "now all mail is read every 2 s");
}

#[test]
fn what_a_host_takes_back_is_not_answered() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    pair.commit_ms = 1_000;
    post(&mut pair.disk, 9, 5, &Message::Extend(extend(1, 10)));
    event(&mut pair.disk, 1);
    pair.run(timings::EVENT_IDLE_MS + 100);
    pair.disk.inbox[9 * 4096..10 * 4096].fill(0);
    event(&mut pair.disk, 2);
    pair.run(3_000);
    assert_eq!(pair.commits.len(), 1);
    assert_eq!(answer(&pair.disk, 9, 5), Message::Empty);
}

#[test]
fn clean_is_answered_with_clean_whoever_asks() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    post(&mut pair.disk, 9, 62, &Message::Clean);
    event(&mut pair.disk, 1);
    pair.run(timings::EVENT_IDLE_MS + 100);
    assert_eq!(answer(&pair.disk, 9, 62), Message::Clean);
}

#[test]
fn an_unacknowledged_answer_is_written_again() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    post(&mut pair.disk, 9, 5, &Message::Extend(extend(1, 10)));
    event(&mut pair.disk, 1);
    pair.run(1_000);
    // A late write of the SPM before has landed on top.
    pair.disk.outbox[9 * 4096..10 * 4096].fill(0);
    pair.run(2_000);
    assert_eq!(answer(&pair.disk, 9, 5), Message::Extend(extend(1, 10)));
}

#[test]
fn garbage_is_told_once_and_never_obeyed() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    for (slot, noise) in [b'1', b'2', 0xff, 1].into_iter().enumerate() {
        let mut bytes = [noise; 64];
        bytes[63] = 7;
        post(&mut pair.disk, 9, slot, &Message::Unknown(bytes));
    }
    event(&mut pair.disk, 1);
    pair.run(30_000);
    assert!(pair.commits.is_empty());
    let told = pair
        .notes
        .iter()
        .filter(|note| matches!(note, Note::NotUnderstood { .. }));
    assert_eq!(told.count(), 1);
}

#[test]
fn a_request_for_nothing_is_refused_without_a_commit() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    post(&mut pair.disk, 9, 0, &Message::Extend(extend(1, 0)));
    event(&mut pair.disk, 1);
    pair.run(500);
    assert!(pair.commits.is_empty());
    assert_eq!(answer(&pair.disk, 9, 0), Message::Extend(extend(1, 0)));
}

#[test]
fn the_outbox_is_zeroed_before_anything_is_read() {
    let mut manager = Manager::new(manager::Config::default());
    let mut now = 0;
    for _ in 0..5 {
        manager.handle(Monotonic(now), manager::Input::Tick);
        let effect = manager.next_effect().expect("a write");
        let Effect::Write {
            io,
            volume,
            offset,
            bytes,
        } = effect
        else {
            panic!("{effect:?}");
        };
        assert_eq!((volume, offset), (Volume::Outbox, 0));
        assert_eq!(bytes, vec![0; usize::from(MAILBOXES) * 4096]);
        assert_eq!(manager.next_effect(), None);
        manager.handle(Monotonic(now), manager::Input::Io(io, IoOutcome::Unknown));
        assert!(!manager.is_running());
        now = manager.deadline().expect("again").0;
    }
}

#[test]
fn after_the_loss_of_the_lease_nothing_happens() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    let request = pair.ask_locally(extend(3, 10), false);
    post(&mut pair.disk, 9, 0, &Message::Extend(extend(1, 10)));
    event(&mut pair.disk, 1);
    pair.run(20);
    let batch = pair.commits[0].id;
    let now = Monotonic(pair.now);
    let manager = pair.manager.as_mut().expect("an SPM");
    manager.handle(now, manager::Input::LeaseLost);
    let mut effects = Vec::new();
    manager.handle(now, manager::Input::Committed(batch, &[Committed::Done]));
    let late = Monotonic(pair.now + 100_000 * MS);
    manager.handle(late, manager::Input::Tick);
    let local = manager::Input::LocalExtend {
        request: RequestId(77),
        extend: extend(1, 10),
        urgent: true,
    };
    manager.handle(late, local);
    while let Some(effect) = manager.next_effect() {
        effects.push(effect);
    }
    let stopped = |request| Effect::Completed {
        request,
        outcome: Outcome::Stopped,
    };
    assert_eq!(
        effects,
        [
            stopped(RequestId(request)),
            Effect::Stopped,
            stopped(RequestId(77))
        ]
    );
    assert_eq!(manager.deadline(), None);
}

#[test]
fn stopping_answers_for_the_commit_under_way_and_begins_no_other() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    pair.commit_ms = 500;
    let first = pair.ask_locally(extend(1, 10), false);
    let second = pair.ask_locally(extend(2, 10), false);
    let now = Monotonic(pair.now);
    let manager = pair.manager.as_mut().expect("an SPM");
    manager.handle(now, manager::Input::Stop);
    pair.run(1_000);
    assert_eq!(pair.outcome(first), Some(Outcome::Done));
    assert_eq!(pair.outcome(second), Some(Outcome::Stopped));
    assert_eq!(pair.commits.len(), 1);
    assert_eq!(pair.manager.as_ref().and_then(Manager::deadline), None);
}

#[test]
fn without_mail_there_is_no_input_or_output() {
    let mut pair = Pair::new(0);
    pair.manager = Some(Manager::new(manager::Config {
        mail: false,
        ..manager::Config::default()
    }));
    pair.run(5_000);
    let request = pair.ask_locally(extend(1, 10), false);
    pair.run(5_000);
    assert_eq!(pair.outcome(request), Some(Outcome::Done));
    assert!(pair.disk.reads.is_empty() && pair.disk.writes.is_empty());
}
