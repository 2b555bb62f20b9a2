//! Mail as the original writes it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use disk_format::HostId;
use disk_format::vdsm::mailbox::{
    self, CHECKSUM_OFFSET, EventBlock, Extend, MAILBOX_BYTES, Mailbox, Message, SLOTS, Seal,
    checksum,
};
use disk_format::vdsm::{DomainId, VolumeId};
use proptest::prelude::*;

fn golden(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/tests/golden/vdsm-mailbox/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn request(size_mib: u32) -> Extend {
    Extend {
        domain: "8adbc85e-e554-4ae0-b318-8a5465fe5fe1".parse().unwrap(),
        volume: "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f".parse().unwrap(),
        size_mib,
    }
}

#[test]
fn messages_are_the_originals() {
    for (name, message) in [
        ("msg-extend-5120MiB.bin", Message::Extend(request(5120))),
        ("msg-extend-1MiB.bin", Message::Extend(request(1))),
        ("msg-extend-max.bin", Message::Extend(request(u32::MAX))),
        ("msg-extend-reply-failed.bin", Message::Extend(request(0))),
        ("msg-clean.bin", Message::Clean),
    ] {
        let bytes = golden(name);
        assert_eq!(message.encode().as_slice(), bytes, "{name}");
        assert_eq!(
            Message::decode(bytes.as_slice().try_into().unwrap()),
            message,
            "{name}"
        );
    }
}

#[test]
fn mailboxes_are_the_originals() {
    let one = |message: Message, sealed: bool| {
        let mut mailbox = Mailbox::new();
        assert!(mailbox.put(0, &message));
        if sealed {
            mailbox.seal();
        }
        mailbox
    };
    let full = |message: &dyn Fn(u32) -> Message| {
        let mut mailbox = Mailbox::new();
        for slot in 0..SLOTS {
            assert!(mailbox.put(slot, &message(u32::try_from(slot).unwrap())));
        }
        assert!(!mailbox.put(SLOTS, &Message::Clean));
        mailbox.seal();
        mailbox
    };
    let numbered = |slot: u32| {
        let first = 0xd772_f1c6_3ebb_43c3_a42e_73fc_d825_0000_u128;
        Message::Extend(Extend {
            volume: VolumeId::from_bytes((first + u128::from(slot)).to_be_bytes()),
            size_mib: 1024 + slot,
            ..request(0)
        })
    };
    for (name, mailbox, seal) in [
        (
            "request-slot0",
            one(Message::Extend(request(5120)), true),
            Seal::Good,
        ),
        (
            "reply-slot0",
            one(Message::Extend(request(5120)), false),
            Seal::None,
        ),
        ("clean-slot0", one(Message::Clean, true), Seal::Good),
        ("empty", Mailbox::new(), Seal::Blank),
        ("request-full63", full(&numbered), Seal::Good),
        ("clean-full63", full(&|_| Message::Clean), Seal::Good),
    ] {
        let bytes = golden(&format!("mailbox-{name}.bin"));
        assert!(mailbox.bytes().as_slice() == bytes, "{name}: {mailbox:?}");
        let read = Mailbox::from_bytes(&bytes).unwrap();
        assert_eq!(read.verify(), seal, "{name}");
        assert_eq!(read, mailbox);
    }
    let bad = Mailbox::from_bytes(&golden("mailbox-bad-checksum.bin")).unwrap();
    assert_eq!(
        bad.verify(),
        Seal::Wrong {
            found: u32::from_le_bytes(*b"bad!"),
            computed: 6452
        }
    );
}

#[test]
fn events_are_the_originals_and_look_like_an_empty_slot() {
    let bytes = golden("mailbox-event-host0.bin");
    let id: DomainId = "01234567-89ab-4cde-8f01-23456789abcd".parse().unwrap();
    let event = EventBlock { id: id.bytes() };
    assert_eq!(event.encode().as_slice(), bytes);
    assert_eq!(EventBlock::decode(&bytes), Some(event));
    let mailbox = Mailbox::from_bytes(&bytes).unwrap();
    assert_eq!(mailbox.messages().count(), 0);
    assert_eq!(EventBlock::decode(&[0; 4096]), None);
    assert_eq!(EventBlock::id_of(&bytes[..19]), None);
}

#[test]
fn the_trace_of_one_extend_reads_as_the_protocol_says() {
    let host = HostId::new(7).unwrap();
    assert_eq!(mailbox::offset(host), 28672);
    let mail = |number: &str, volume: &str| {
        let name = format!("trace/{number}-{volume}-off28672.bin");
        let mailbox = Mailbox::from_bytes(&golden(&name)).unwrap();
        let messages: Vec<_> = mailbox.messages().collect();
        (messages, mailbox.verify())
    };
    let extend = Message::Extend(request(5120));
    assert_eq!(mail("03", "inbox"), (vec![(0, extend)], Seal::Good));
    assert_eq!(mail("05", "outbox"), (vec![(0, extend)], Seal::None));
    assert_eq!(mail("06", "inbox"), (vec![(0, Message::Clean)], Seal::Good));
    assert_eq!(
        mail("08", "outbox"),
        (vec![(0, Message::Clean)], Seal::None)
    );
    for (number, last) in [("04", 1), ("07", 2), ("10", 3)] {
        let event = EventBlock::decode(&golden(&format!("trace/{number}-inbox-off0.bin")));
        let id = event.unwrap().id;
        assert_eq!(id[15], last);
        assert_eq!(id[6], 0x40);
    }
}

#[test]
fn checksums_are_those_of_the_specification() {
    let counting: Vec<u8> = (0..=255).cycle().take(CHECKSUM_OFFSET).collect();
    assert_eq!(checksum(&counting), 521_226);
    assert_eq!(checksum(&[0xff; CHECKSUM_OFFSET]), 1_043_460);
    assert_eq!(checksum(&[0xff; MAILBOX_BYTES]), 1_043_460);
}

proptest! {
    #[test]
    fn any_slot_encodes_to_itself_unless_it_is_empty(mut bytes in any::<[[u8; 32]; 2]>(), start in 0usize..3) {
        // Mostly messages that nearly make sense.
        match start {
            0 => bytes[0][..5].copy_from_slice(b"1xtnd"),
            1 => bytes = [[1; 32]; 2],
            _ => {}
        }
        let mut slot = [0; 64];
        slot.copy_from_slice(bytes.as_flattened());
        let message = Message::decode(&slot);
        if slot[0] == 0 {
            prop_assert_eq!(message, Message::Empty);
        } else {
            prop_assert_eq!(message.encode(), slot);
        }
    }

    #[test]
    fn any_request_comes_back(domain in any::<[u8; 16]>(), volume in any::<[u8; 16]>(), size_mib in any::<u32>()) {
        let message = Message::Extend(Extend {
            domain: DomainId::from_bytes(domain),
            volume: VolumeId::from_bytes(volume),
            size_mib,
        });
        prop_assert_eq!(Message::decode(&message.encode()), message);
    }

    #[test]
    fn one_changed_byte_breaks_a_seal(place in 0usize..MAILBOX_BYTES, by in 1u8..255) {
        let mut mailbox = Mailbox::new();
        mailbox.put(5, &Message::Clean);
        mailbox.seal();
        let mut bytes = *mailbox.bytes();
        bytes[place] = bytes[place].wrapping_add(by);
        let wrong = matches!(Mailbox::from_bytes(&bytes).unwrap().verify(), Seal::Wrong { .. } | Seal::None);
        prop_assert!(wrong);
    }
}
