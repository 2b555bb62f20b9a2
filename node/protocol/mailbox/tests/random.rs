//! Arbitrary mail, arbitrary outcomes, in arbitrary order: no panic, every
//! request answered at most once, and nothing out of place. What they do
//! together, with honest disks and dishonest ones, is the simulator's part.

use std::collections::BTreeMap;

use disk_format::vdsm::mailbox::{Extend, MAILBOX_BYTES, Mailbox, Message};
use disk_format::vdsm::{DomainId, VolumeId};
use mailbox::{
    Committed, Effect, Host, IoOutcome, Manager, Monotonic, Outcome, RequestId, Volume, host,
    manager,
};
use proptest::prelude::*;

const MAILBOXES: u16 = 4;

fn extend() -> impl Strategy<Value = Extend> {
    (0..2_u8, 0..3_u8, 0..4_u32).prop_map(|(domain, volume, size_mib)| Extend {
        domain: DomainId::from_bytes([domain; 16]),
        volume: VolumeId::from_bytes([volume; 16]),
        size_mib,
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        3 => extend().prop_map(Message::Extend),
        2 => Just(Message::Clean),
        2 => Just(Message::Empty),
        1 => any::<[u8; 32]>().prop_map(|half| {
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(&half);
            Message::decode(&bytes)
        }),
    ]
}

/// A mailbox: a few slots, its checksum right, missing or wrong.
fn mailbox() -> impl Strategy<Value = Vec<u8>> {
    let slots = proptest::collection::vec((0..63_usize, message()), 0..6);
    (slots, 0..4_u8).prop_map(|(slots, checksum)| {
        let mut mailbox = Mailbox::new();
        for (slot, message) in slots {
            mailbox.put(slot, &message);
        }
        if checksum > 0 {
            mailbox.seal();
        }
        let mut bytes = mailbox.bytes().to_vec();
        if checksum == 3 {
            bytes[4092] ^= 1;
        }
        bytes
    })
}

#[derive(Debug, Clone)]
enum Act {
    Pass(u64),
    Ask(Extend),
    /// The oldest read or write ends: well, failed, unknown, wrong length.
    End(u8),
    Commit(Vec<Committed>),
    Post(usize, Vec<u8>),
    Finish(bool),
}

fn act() -> impl Strategy<Value = Act> {
    let committed = prop_oneof![
        Just(Committed::Done),
        Just(Committed::Refused),
        Just(Committed::Unknown)
    ];
    prop_oneof![
        6 => (0..3_000_u64).prop_map(Act::Pass),
        4 => extend().prop_map(Act::Ask),
        12 => (0..16_u8).prop_map(Act::End),
        4 => proptest::collection::vec(committed, 0..4).prop_map(Act::Commit),
        3 => (0..usize::from(MAILBOXES), mailbox()).prop_map(|(host, bytes)| Act::Post(host, bytes)),
        1 => any::<bool>().prop_map(Act::Finish),
    ]
}

fn outcome(kind: u8, bytes: &[u8], write: bool) -> IoOutcome<'_> {
    match kind {
        0 => IoOutcome::Failed(5),
        1 => IoOutcome::Unknown,
        2 => IoOutcome::Read(&bytes[..bytes.len() / 2]),
        3 => IoOutcome::Written,
        _ if write => IoOutcome::Written,
        _ => IoOutcome::Read(bytes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_host_bears_everything(acts in proptest::collection::vec(act(), 1..150)) {
        let mut host = Host::new(host::Config { host_id: 2, seed: 5 });
        let mut outbox = vec![0; usize::from(MAILBOXES) * MAILBOX_BYTES];
        let (mut now, mut asked) = (0, 0);
        let mut answers: BTreeMap<u64, Outcome> = BTreeMap::new();
        let mut flying = Vec::new();
        for act in acts {
            let time = Monotonic(now);
            match act {
                Act::Pass(ms) => {
                    now += ms * 1_000_000;
                    host.handle(Monotonic(now), host::Input::Tick);
                }
                Act::Ask(extend) => {
                    asked += 1;
                    host.handle(time, host::Input::Extend(RequestId(asked), extend));
                }
                Act::End(kind) if !flying.is_empty() => {
                    let (io, write) = flying.remove(0);
                    let own = &outbox[2 * MAILBOX_BYTES..3 * MAILBOX_BYTES];
                    host.handle(time, host::Input::Io(io, outcome(kind, own, write)));
                }
                Act::Post(host, bytes) => {
                    outbox[host * MAILBOX_BYTES..][..MAILBOX_BYTES].copy_from_slice(&bytes);
                }
                Act::Finish(true) => host.handle(time, host::Input::Stop),
                Act::End(_) | Act::Commit(_) | Act::Finish(false) => {}
            }
            while let Some(effect) = host.next_effect() {
                match effect {
                    Effect::Read { io, volume, offset, length } => {
                        prop_assert_eq!((volume, offset, length), (Volume::Outbox, 8192, 4096));
                        flying.push((io, false));
                    }
                    Effect::Write { io, volume, offset, bytes } => {
                        prop_assert_eq!((volume, bytes.len()), (Volume::Inbox, 4096));
                        prop_assert!(offset == 0 || offset == 8192);
                        let mailbox = Mailbox::from_bytes(&bytes).expect("a mailbox");
                        let sealed = !matches!(
                            mailbox.verify(),
                            disk_format::vdsm::mailbox::Seal::Wrong { .. }
                        );
                        prop_assert!(offset == 0 || sealed);
                        flying.push((io, true));
                    }
                    Effect::Completed { request, outcome } => {
                        prop_assert_eq!(answers.insert(request.0, outcome), None);
                    }
                    Effect::Extend(_) => prop_assert!(false, "a host extends nothing"),
                    Effect::Stopped => {}
                }
            }
            prop_assert!(flying.len() <= 2 + 2 * 4);
        }
        host.handle(Monotonic(now), host::Input::Stop);
        while let Some(effect) = host.next_effect() {
            if let Effect::Completed { request, outcome } = effect {
                prop_assert_eq!(answers.insert(request.0, outcome), None);
            }
        }
        prop_assert_eq!(u64::try_from(answers.len()).expect("a number"), asked);
    }

    #[test]
    fn a_manager_bears_everything(acts in proptest::collection::vec(act(), 1..150)) {
        let config = manager::Config {
            mailboxes: MAILBOXES,
            ..manager::Config::default()
        };
        let mut manager = Manager::new(config);
        let mut inbox = vec![0; usize::from(MAILBOXES) * MAILBOX_BYTES];
        let (mut now, mut asked, mut lost) = (0, 0, false);
        let mut answers: BTreeMap<u64, Outcome> = BTreeMap::new();
        let mut flying = Vec::new();
        let mut batches = Vec::new();
        // The largest size whose commit was told as done.
        let mut done: BTreeMap<(DomainId, VolumeId), u32> = BTreeMap::new();
        for act in acts {
            let time = Monotonic(now);
            match act {
                Act::Pass(ms) => {
                    now += ms * 1_000_000;
                    manager.handle(Monotonic(now), manager::Input::Tick);
                }
                Act::Ask(extend) => {
                    asked += 1;
                    let request = RequestId(asked);
                    let urgent = asked % 3 == 0;
                    manager.handle(time, manager::Input::LocalExtend { request, extend, urgent });
                }
                Act::End(kind) if !flying.is_empty() => {
                    let (io, write, first, length): (_, bool, usize, usize) = flying.remove(0);
                    let bytes = &inbox[first..first + length];
                    manager.handle(time, manager::Input::Io(io, outcome(kind, bytes, write)));
                }
                Act::Commit(results) if !batches.is_empty() => {
                    let batch: mailbox::Batch = batches.remove(0);
                    for (extend, result) in batch.extends.iter().zip(&results) {
                        if *result == Committed::Done {
                            let size = done.entry((extend.domain, extend.volume)).or_default();
                            *size = (*size).max(extend.size_mib);
                        }
                    }
                    manager.handle(time, manager::Input::Committed(batch.id, &results));
                }
                Act::Post(host, bytes) => {
                    inbox[host * MAILBOX_BYTES..][..MAILBOX_BYTES].copy_from_slice(&bytes);
                }
                Act::Finish(true) => manager.handle(time, manager::Input::Stop),
                Act::Finish(false) => {
                    lost = true;
                    manager.handle(time, manager::Input::LeaseLost);
                }
                Act::End(_) | Act::Commit(_) => {}
            }
            while let Some(effect) = manager.next_effect() {
                match effect {
                    Effect::Read { io, volume, offset, length } => {
                        prop_assert!(!lost);
                        prop_assert_eq!(volume, Volume::Inbox);
                        let first = usize::try_from(offset).expect("an offset");
                        prop_assert!(first + length <= inbox.len());
                        flying.push((io, false, first, length));
                    }
                    Effect::Write { io, volume, offset, bytes } => {
                        prop_assert!(!lost);
                        prop_assert_eq!(volume, Volume::Outbox);
                        let first = usize::try_from(offset).expect("an offset");
                        prop_assert!(first + bytes.len() <= inbox.len());
                        for block in bytes.as_chunks::<MAILBOX_BYTES>().0 {
                            let mailbox = Mailbox::from_bytes(block).expect("a mailbox");
                            for (_, message) in mailbox.messages() {
                                if let Message::Extend(answer) = message {
                                    let key = (answer.domain, answer.volume);
                                    let size = done.get(&key).copied().unwrap_or(0);
                                    prop_assert!(answer.size_mib <= size);
                                }
                            }
                        }
                        flying.push((io, true, 0, 0));
                    }
                    Effect::Extend(batch) => {
                        prop_assert!(!lost);
                        prop_assert!(batches.iter().all(|other| other.domain != batch.domain));
                        batches.push(batch);
                    }
                    Effect::Completed { request, outcome } => {
                        prop_assert_eq!(answers.insert(request.0, outcome), None);
                    }
                    Effect::Stopped => {}
                }
            }
        }
        manager.handle(Monotonic(now), manager::Input::LeaseLost);
        while let Some(effect) = manager.next_effect() {
            if let Effect::Completed { request, outcome } = effect {
                prop_assert_eq!(answers.insert(request.0, outcome), None);
            }
        }
        prop_assert_eq!(u64::try_from(answers.len()).expect("a number"), asked);
    }
}
