//! Hosts and an SPM of ours.

use disk_format::vdsm::mailbox::{MAILBOX_BYTES, Mailbox, Message};
use mailbox::{Committed, Manager, Outcome, Volume, manager, timings};

use crate::disk::MS;
use crate::pair::{Pair, extend};

#[test]
fn a_request_is_done_within_fifty_ms_and_a_commit_while_something_goes_on() {
    let mut pair = Pair::new(1);
    pair.run(5_000);
    let first = pair.ask(0, extend(1, 10));
    assert!(pair.until(1_000, |pair| pair.outcome(first).is_some()));
    let asked = pair.now;
    let second = pair.ask(0, extend(1, 20));
    assert!(pair.until(1_000, |pair| pair.outcome(second).is_some()));
    assert_eq!(pair.outcome(second), Some(Outcome::Done));
    let took_ms = (pair.now - asked) / MS;
    assert!(took_ms <= 30 + 50, "{took_ms} ms");
    assert_eq!(pair.sizes.values().copied().collect::<Vec<_>>(), [20]);
}

#[test]
fn requests_that_are_pending_together_are_one_commit() {
    let mut pair = Pair::new(249);
    pair.run(5_000);
    pair.commit_ms = 500;
    let first = pair.ask(0, extend(0, 10));
    pair.run(timings::EVENT_IDLE_MS + 100);
    let others: Vec<u64> = (1..249)
        .map(|host| pair.ask(host, extend(u8::try_from(host).expect("a byte"), 10)))
        .collect();
    assert!(pair.until(5_000, |pair| pair.answers.len() == 249));
    assert_eq!(pair.outcome(first), Some(Outcome::Done));
    assert!(
        others
            .iter()
            .all(|one| pair.outcome(*one) == Some(Outcome::Done))
    );
    let sizes: Vec<usize> = pair
        .commits
        .iter()
        .map(|batch| batch.extends.len())
        .collect();
    assert_eq!(sizes, [1, 248]);
}

#[test]
fn two_domains_do_not_wait_for_each_other() {
    let mut pair = Pair::new(2);
    pair.run(5_000);
    pair.commit_ms = 300;
    let other = mailbox::Extend {
        domain: disk_format::vdsm::DomainId::from_bytes([0xee; 16]),
        ..extend(2, 10)
    };
    let (one, two) = (pair.ask(0, extend(1, 10)), pair.ask(1, other));
    assert!(pair.until(600, |pair| pair.answers.len() == 2));
    assert_eq!(pair.outcome(one), pair.outcome(two));
    assert_eq!(pair.commits.len(), 2);
}

#[test]
fn a_slot_is_used_again_only_after_the_handshake() {
    let mut pair = Pair::new(1);
    pair.run(5_000);
    for turn in 0..200 {
        let request = pair.ask(0, extend(1, 10 + turn));
        assert!(
            pair.until(2_000, |pair| pair.outcome(request).is_some()),
            "turn {turn}"
        );
        assert_eq!(pair.outcome(request), Some(Outcome::Done));
    }
    pair.run(20_000);
    let own = &pair.disk.inbox[MAILBOX_BYTES..2 * MAILBOX_BYTES];
    assert!(
        own.iter().all(|byte| *byte == 0),
        "the mailbox is empty in the end"
    );
}

#[test]
fn more_requests_than_slots_all_get_their_answers() {
    let mut pair = Pair::new(1);
    pair.run(5_000);
    let requests: Vec<u64> = (0..200).map(|n| pair.ask(0, extend(n, 10))).collect();
    assert!(pair.until(20_000, |pair| pair.answers.len() == 200));
    assert!(
        requests
            .iter()
            .all(|one| pair.outcome(*one) == Some(Outcome::Done))
    );
}

#[test]
fn a_new_manager_answers_what_the_old_one_left() {
    let mut pair = Pair::new(2);
    pair.run(5_000);
    pair.manager = None;
    let requests = [pair.ask(0, extend(1, 10)), pair.ask(1, extend(2, 10))];
    pair.run(140_000);
    assert!(pair.answers.is_empty());
    pair.manager = Some(Manager::new(manager::Config::default()));
    assert!(pair.until(3_000, |pair| pair.answers.len() == 2));
    assert!(
        requests
            .iter()
            .all(|one| pair.outcome(*one) == Some(Outcome::Done))
    );
}

#[test]
fn without_a_manager_everybody_is_told_so_in_the_end() {
    let mut pair = Pair::new(1);
    pair.manager = None;
    let request = pair.ask(0, extend(1, 10));
    assert!(!pair.until(timings::GIVE_UP_MS - 1, |pair| { !pair.answers.is_empty() }));
    pair.run(10);
    assert_eq!(pair.outcome(request), Some(Outcome::Unanswered));
    pair.run(10_000);
    let own = &pair.disk.inbox[MAILBOX_BYTES..2 * MAILBOX_BYTES];
    assert!(
        own.iter().all(|byte| *byte == 0),
        "the request is taken back"
    );
}

#[test]
fn a_refused_request_is_tried_again_and_then_reported() {
    let mut pair = Pair::new(1);
    pair.run(5_000);
    pair.results = vec![Committed::Refused, Committed::Refused];
    let request = pair.ask(0, extend(1, 10));
    assert!(pair.until(5_000, |pair| !pair.answers.is_empty()));
    assert_eq!(pair.outcome(request), Some(Outcome::Done), "the third try");
    pair.results = vec![Committed::Refused; 3];
    let request = pair.ask(0, extend(1, 20));
    let asked = pair.now;
    assert!(pair.until(5_000, |pair| pair.outcome(request).is_some()));
    assert_eq!(pair.outcome(request), Some(Outcome::Refused));
    assert!(pair.now - asked < 2_000 * MS, "at once, with short pauses");
}

#[test]
fn an_unknown_commit_is_done_again_and_not_reported_before() {
    let mut pair = Pair::new(1);
    pair.run(5_000);
    pair.results = vec![Committed::Unknown, Committed::Unknown];
    let request = pair.ask(0, extend(1, 10));
    assert!(pair.until(10_000, |pair| !pair.answers.is_empty()));
    assert_eq!(pair.outcome(request), Some(Outcome::Done));
    assert_eq!(pair.commits.len(), 3);
}

#[test]
fn a_refusal_of_much_does_not_refuse_less() {
    let mut pair = Pair::new(2);
    pair.run(5_000);
    pair.commit_ms = 200;
    pair.ask(0, extend(9, 1));
    pair.run(150);
    let (much, less) = (pair.ask(0, extend(1, 1000)), pair.ask(1, extend(1, 10)));
    pair.results = vec![
        Committed::Done,
        Committed::Refused,
        Committed::Done,
        Committed::Refused,
        Committed::Refused,
    ];
    assert!(pair.until(10_000, |pair| pair.answers.len() == 3));
    assert_eq!(pair.outcome(much), Some(Outcome::Refused));
    assert_eq!(pair.outcome(less), Some(Outcome::Done));
}

#[test]
fn local_requests_need_no_mail() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    let writes = pair.disk.writes.len();
    let request = pair.ask_locally(extend(1, 10), false);
    assert!(pair.until(31, |pair| !pair.answers.is_empty()));
    assert_eq!(pair.outcome(request), Some(Outcome::Done));
    assert_eq!(pair.disk.writes.len(), writes);
}

#[test]
fn urgent_requests_go_first() {
    let mut pair = Pair::new(0);
    pair.run(5_000);
    pair.commit_ms = 100;
    pair.ask_locally(extend(255, 10), false);
    for volume in 0..200 {
        pair.ask_locally(extend(volume, 10), false);
    }
    pair.ask_locally(extend(254, 10), true);
    pair.run(150);
    assert!(pair.commits[1].urgent);
    assert_eq!(pair.commits[1].extends[0], extend(254, 10));
}

#[test]
fn an_idle_pool_costs_little() {
    let mut pair = Pair::new(3);
    pair.run(10_000);
    let request = pair.ask(0, extend(1, 10));
    pair.run(30_000);
    assert_eq!(pair.outcome(request), Some(Outcome::Done));
    pair.disk.reads.clear();
    pair.disk.writes.clear();
    pair.run(100_000);
    let bytes: usize = pair.disk.reads.iter().map(|(.., length)| length).sum();
    assert!(bytes < 100 * 100 * 1024, "{bytes} bytes in 100 s");
    assert!(
        pair.disk
            .reads
            .iter()
            .all(|(volume, ..)| *volume == Volume::Inbox)
    );
    assert!(pair.disk.writes.is_empty());
}

#[test]
fn answers_carry_a_checksum_if_they_shall() {
    let mut pair = Pair::new(1);
    pair.manager = Some(Manager::new(manager::Config {
        checksum: true,
        ..manager::Config::default()
    }));
    pair.run(5_000);
    let request = pair.ask(0, extend(1, 10));
    assert!(pair.until(1_000, |pair| !pair.answers.is_empty()));
    assert_eq!(pair.outcome(request), Some(Outcome::Done));
    pair.run(200);
    let outbox = Mailbox::from_bytes(&pair.disk.outbox[4096..8192]).expect("a mailbox");
    assert_eq!(outbox.verify(), disk_format::vdsm::mailbox::Seal::Good);
    assert_eq!(outbox.message(0), Message::Clean);
}
