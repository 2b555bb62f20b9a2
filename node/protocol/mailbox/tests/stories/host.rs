//! The requester's side alone, with faults.

use disk_format::vdsm::mailbox::{Mailbox, Message};
use mailbox::{Effect, Host, IoId, IoOutcome, Monotonic, Note, Outcome, RequestId, Volume, host};

use crate::disk::MS;
use crate::pair::extend;

const EIO: i32 = 5;

/// A host, and what it is waiting for.
struct Bench {
    host: Host,
    now: u64,
    reads: Vec<IoId>,
    writes: Vec<(IoId, u64, Vec<u8>)>,
    answers: Vec<(u64, Outcome)>,
    stopped: bool,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            host: Host::new(host::Config {
                host_id: 7,
                seed: 0,
            }),
            now: 0,
            reads: Vec::new(),
            writes: Vec::new(),
            answers: Vec::new(),
            stopped: false,
        };
        bench.tell(host::Input::Tick);
        bench
    }

    /// Baseline read, mailbox cleared.
    fn running() -> Self {
        let mut bench = Self::new();
        bench.read(&Mailbox::new());
        bench.written();
        assert!(bench.host.is_running());
        bench
    }

    fn tell(&mut self, input: host::Input<'_>) {
        self.host.handle(Monotonic(self.now), input);
        while let Some(effect) = self.host.next_effect() {
            match effect {
                Effect::Read { io, volume, .. } => {
                    assert_eq!(volume, Volume::Outbox);
                    self.reads.push(io);
                }
                Effect::Write {
                    io, offset, bytes, ..
                } => self.writes.push((io, offset, bytes)),
                Effect::Completed { request, outcome } => self.answers.push((request.0, outcome)),
                Effect::Stopped => self.stopped = true,
                Effect::Extend(_) => panic!("a host extends nothing"),
            }
        }
    }

    fn read(&mut self, outbox: &Mailbox) {
        let io = self.reads.remove(0);
        self.tell(host::Input::Io(io, IoOutcome::Read(outbox.bytes())));
    }

    fn read_fails(&mut self) {
        let io = self.reads.remove(0);
        self.tell(host::Input::Io(io, IoOutcome::Failed(EIO)));
    }

    /// Lets the next write succeed; returns where it was and what it held.
    fn written(&mut self) -> (u64, Vec<u8>) {
        let (io, offset, bytes) = self.writes.remove(0);
        self.tell(host::Input::Io(io, IoOutcome::Written));
        (offset, bytes)
    }

    fn pass(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while let Some(due) = self.host.deadline()
            && due.0 <= end
        {
            self.now = self.now.max(due.0);
            let before = (self.reads.len(), self.writes.len());
            self.tell(host::Input::Tick);
            if self.host.deadline() == Some(due) && before == (self.reads.len(), self.writes.len())
            {
                panic!("nothing happens at {due}");
            }
        }
        self.now = end;
        self.tell(host::Input::Tick);
    }

    fn ask(&mut self, number: u64, size_mib: u32) {
        self.tell(host::Input::Extend(RequestId(number), extend(1, size_mib)));
    }

    /// Asks, and lets the request and its event be written.
    fn sent(number: u64, size_mib: u32) -> Self {
        let mut bench = Self::running();
        bench.ask(number, size_mib);
        bench.pass(0);
        bench.read(&Mailbox::new());
        let (offset, bytes) = bench.written();
        assert_eq!(offset, 7 * 4096);
        let mailbox = Mailbox::from_bytes(&bytes).expect("a mailbox");
        assert_eq!(mailbox.message(0), Message::Extend(extend(1, size_mib)));
        assert_eq!(bench.written().0, 0, "then the event");
        bench
    }

    /// The outbox with one message in slot 0.
    fn reply(&mut self, message: &Message) {
        let mut outbox = Mailbox::new();
        outbox.put(0, message);
        self.pass(20);
        self.read(&outbox);
    }

    fn notes(&mut self) -> Vec<Note> {
        std::iter::from_fn(|| self.host.next_note()).collect()
    }
}

#[test]
fn nothing_is_written_before_the_baseline_is_read() {
    let mut bench = Bench::new();
    bench.ask(1, 10);
    for _ in 0..3 {
        bench.read_fails();
        assert!(bench.reads.is_empty(), "not at once again");
        bench.pass(1_999);
        assert!(bench.reads.is_empty());
        bench.pass(1);
    }
    assert!(bench.writes.is_empty());
    bench.read(&Mailbox::new());
    let (offset, bytes) = bench.written();
    assert_eq!((offset, bytes), (7 * 4096, vec![0; 4096]));
}

#[test]
fn an_answer_from_before_is_not_an_answer() {
    let mut outbox = Mailbox::new();
    for slot in 0..63 {
        outbox.put(slot, &Message::Extend(extend(1, 10)));
    }
    let mut bench = Bench::new();
    bench.read(&outbox);
    bench.written();
    bench.ask(1, 20);
    bench.pass(0);
    bench.read(&outbox);
    bench.written();
    bench.written();
    for _ in 0..10 {
        bench.pass(20);
        bench.read(&outbox);
    }
    assert!(bench.answers.is_empty());
}

#[test]
fn a_request_avoids_the_slot_of_an_old_answer_about_its_volume() {
    let mut outbox = Mailbox::new();
    outbox.put(0, &Message::Extend(extend(1, 10)));
    let mut bench = Bench::new();
    bench.read(&outbox);
    bench.written();
    bench.ask(1, 10);
    bench.pass(0);
    bench.read(&outbox);
    let (_, bytes) = bench.written();
    let mailbox = Mailbox::from_bytes(&bytes).expect("a mailbox");
    assert_eq!(mailbox.message(1), Message::Extend(extend(1, 10)));
}

#[test]
fn only_the_very_answer_counts() {
    for wrong in [
        Message::Extend(extend(2, 10)),
        Message::Extend(extend(1, 11)),
        Message::Clean,
        Message::Unknown([b'1'; 64]),
    ] {
        let mut bench = Bench::sent(1, 10);
        bench.reply(&wrong);
        assert!(bench.answers.is_empty(), "{wrong:?}");
        assert!(bench.writes.is_empty(), "{wrong:?} is not acknowledged");
        bench.reply(&Message::Extend(extend(1, 10)));
        assert_eq!(bench.answers, [(1, Outcome::Done)]);
    }
}

#[test]
fn an_answer_is_acknowledged_and_the_slot_zeroed_without_an_event() {
    let mut bench = Bench::sent(1, 10);
    bench.reply(&Message::Extend(extend(1, 10)));
    let (offset, bytes) = bench.written();
    assert_eq!((offset, &bytes[..64]), (7 * 4096, &[1; 64][..]));
    assert_eq!(bench.written().0, 0, "an event");
    bench.reply(&Message::Clean);
    let (offset, bytes) = bench.written();
    assert_eq!((offset, bytes), (7 * 4096, vec![0; 4096]));
    assert!(bench.writes.is_empty(), "no event");
    bench.pass(10_000);
    assert!(bench.reads.is_empty(), "and no more reads");
    assert_eq!(bench.host.deadline(), None);
}

#[test]
fn a_refused_or_too_small_answer_is_retried_in_another_slot() {
    for size_mib in [0, 9] {
        let mut bench = Bench::sent(1, 10);
        bench.reply(&Message::Extend(extend(1, size_mib)));
        assert!(bench.answers.is_empty());
        assert_eq!(bench.written().0, 7 * 4096);
        assert_eq!(bench.written().0, 0);
        let mut outbox = Mailbox::new();
        outbox.put(0, &Message::Extend(extend(1, size_mib)));
        for _ in 0..6 {
            bench.pass(20);
            if !bench.reads.is_empty() {
                bench.read(&outbox);
            }
        }
        let (_, bytes) = bench.written();
        let mailbox = Mailbox::from_bytes(&bytes).expect("a mailbox");
        assert_eq!(mailbox.message(0), Message::Clean);
        assert_eq!(mailbox.message(1), Message::Extend(extend(1, 10)));
    }
}

#[test]
fn equal_requests_are_one_and_every_caller_is_answered() {
    let mut bench = Bench::sent(1, 10);
    bench.ask(2, 10);
    bench.ask(3, 10);
    assert_eq!(bench.host.outstanding(), 1);
    bench.reply(&Message::Extend(extend(1, 10)));
    assert_eq!(
        bench.answers,
        [(1, Outcome::Done), (2, Outcome::Done), (3, Outcome::Done)]
    );
}

#[test]
fn too_many_requests_are_refused_at_once() {
    let mut bench = Bench::running();
    let most = u64::try_from(mailbox::timings::JOBS_MAX).expect("a number");
    for number in 0..most + 1 {
        bench.ask(number, u32::try_from(number).expect("a size") + 1);
    }
    assert_eq!(bench.answers, [(most, Outcome::Full)]);
}

#[test]
fn a_request_nobody_answers_moves_to_another_slot() {
    let mut bench = Bench::sent(1, 10);
    for _ in 0..(mailbox::timings::RESEND_MS / 20 + 2) {
        bench.pass(20);
        if !bench.reads.is_empty() {
            bench.read(&Mailbox::new());
        }
    }
    let (_, bytes) = bench.written();
    let mailbox = Mailbox::from_bytes(&bytes).expect("a mailbox");
    assert_eq!(mailbox.message(0), Message::Empty);
    assert_eq!(mailbox.message(1), Message::Extend(extend(1, 10)));
    assert_eq!(bench.written().0, 0, "and the SPM is told");
    let notes = bench.notes();
    assert!(
        notes
            .iter()
            .any(|note| matches!(note, Note::SentAgain { .. }))
    );
}

#[test]
fn an_acknowledgement_nobody_answers_is_not_waited_for_for_ever() {
    let mut bench = Bench::sent(1, 10);
    bench.reply(&Message::Extend(extend(1, 10)));
    bench.written();
    bench.written();
    for _ in 0..600 {
        bench.pass(20);
        if !bench.reads.is_empty() {
            let mut outbox = Mailbox::new();
            outbox.put(0, &Message::Extend(extend(1, 10)));
            bench.read(&outbox);
        }
    }
    assert_eq!(bench.written().1, vec![0; 4096]);
    assert_eq!(bench.host.deadline(), None);
}

#[test]
fn a_write_whose_outcome_is_unknown_is_done_again_and_again() {
    let mut bench = Bench::running();
    bench.ask(1, 10);
    bench.pass(0);
    bench.read(&Mailbox::new());
    let (io, _, bytes) = bench.writes.remove(0);
    bench.tell(host::Input::Io(io, IoOutcome::Unknown));
    bench.pass(100);
    assert_eq!(bench.written().1, bytes, "at once");
    assert_eq!(bench.written().0, 0);
    bench.pass(2_000);
    assert_eq!(
        bench.written().1,
        bytes,
        "and later, in case it landed on top"
    );
}

#[test]
fn a_write_without_any_outcome_is_given_up() {
    let mut bench = Bench::running();
    bench.ask(1, 10);
    bench.pass(0);
    bench.read(&Mailbox::new());
    let (late, _, _) = bench.writes.remove(0);
    bench.pass(mailbox::timings::IO_LIMIT_MS + 200);
    assert_eq!(bench.writes.len(), 1, "written again");
    bench.written();
    while !bench.writes.is_empty() {
        bench.written();
    }
    // It has landed after all, on top of the newer one.
    bench.tell(host::Input::Io(late, IoOutcome::Written));
    assert_eq!(bench.writes.len(), 1, "and again");
}

#[test]
fn failing_reads_are_tried_less_and_less() {
    let mut bench = Bench::sent(1, 10);
    let mut tries = 0;
    for _ in 0..3_000 {
        bench.pass(10);
        if !bench.reads.is_empty() {
            bench.read_fails();
            tries += 1;
        }
    }
    assert!((8..=14).contains(&tries), "{tries} tries in 30 s");
    let notes = bench.notes();
    let told = notes
        .iter()
        .filter(|note| matches!(note, Note::IoFailing { .. }));
    assert_eq!(told.count(), 1);
}

#[test]
fn stopping_answers_everybody_and_clears_the_mailbox() {
    let mut bench = Bench::sent(1, 10);
    bench.ask(2, 20);
    bench.tell(host::Input::Stop);
    assert_eq!(
        bench.answers,
        [(1, Outcome::Stopped), (2, Outcome::Stopped)]
    );
    while !bench.writes.is_empty() && !bench.stopped {
        let (offset, bytes) = bench.written();
        assert!(bench.stopped || offset == 7 * 4096);
        assert!(!bench.stopped || bytes.iter().all(|byte| *byte == 0));
    }
    assert!(bench.stopped);
    bench.ask(3, 10);
    assert_eq!(bench.answers.last(), Some(&(3, Outcome::Stopped)));
}
