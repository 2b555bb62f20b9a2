//! Where a message ends, what is refused and what is ignored: each as the
//! original's daemon was seen to do, except that what it leaves of a refused
//! message cannot be taken for the next one.
#![forbid(unsafe_code)]

use sanlock_wire::{
    AcquireFlags, Command, Decoder, Disk, Dropped, HEADER_BYTES, Header, Incoming, Lockspace,
    Options, RESOURCE_BYTES, Reply, ReplyBody, Request, Resource, Target,
};

fn feed(decoder: &mut Decoder, bytes: &[u8]) -> Vec<Incoming> {
    let mut rest = bytes;
    std::iter::from_fn(|| decoder.next(&mut rest)).collect()
}

fn all(bytes: &[u8]) -> Vec<Incoming> {
    feed(&mut Decoder::new(), bytes)
}

fn version() -> Vec<u8> {
    Request::Version.encode()
}

fn is_version(incoming: &Incoming) -> bool {
    matches!(incoming, Incoming::Request(_, Request::Version))
}

fn header(command: Command, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::request(command);
    change(&mut header);
    header.encode().to_vec()
}

fn refused(incoming: &Incoming) -> &Reply {
    match incoming {
        Incoming::Refused(_, reply) => reply,
        other => panic!("not refused: {other:?}"),
    }
}

/// 128 bytes of a resource that says to have so many disks.
fn resource(disks: u32) -> Vec<u8> {
    let mut bytes = vec![0; RESOURCE_BYTES];
    bytes[..2].copy_from_slice(b"LS");
    bytes[124..].copy_from_slice(&disks.to_le_bytes());
    bytes
}

fn acquire(count: usize) -> Request {
    Request::Acquire {
        target: Target::ThisConnection,
        flags: AcquireFlags::NONE,
        resources: vec![
            Resource {
                disks: vec![Disk::default()],
                ..Resource::default()
            };
            count
        ],
        options: Options::default(),
    }
}

#[test]
fn nine_resources_are_refused_and_their_payload_is_not_taken_for_messages() {
    for payload in [false, true] {
        let message = acquire(9).encode();
        let mut bytes = if payload {
            message
        } else {
            header(Command::Acquire, |header| header.data = 9)
        };
        bytes.extend(version());
        let incoming = all(&bytes);
        assert_eq!(*refused(&incoming[0]), Reply::code(-7));
        assert!(is_version(&incoming[1]), "with payload: {payload}");
        assert_eq!(incoming.len(), 2);
    }
}

#[test]
fn a_release_of_nine_is_refused_and_skipped_to_its_end() {
    let mut bytes = header(Command::Release, |header| header.data = 9);
    for _ in 0..9 {
        bytes.extend(resource(0));
    }
    bytes.extend(version());
    let incoming = all(&bytes);
    assert_eq!(*refused(&incoming[0]), Reply::code(-7));
    assert!(is_version(&incoming[1]));
}

#[test]
fn no_disk_or_five_are_refused() {
    for disks in [0, 5, u32::MAX] {
        for command in [Command::Acquire, Command::Request, Command::WriteResource] {
            let mut bytes = header(command, |header| header.data = 1);
            bytes.extend(resource(disks));
            bytes.extend(version());
            let incoming = all(&bytes);
            assert_eq!(*refused(&incoming[0]), Reply::code(-34), "{command}");
            assert!(is_version(&incoming[1]), "{command}");
        }
    }
}

#[test]
fn a_refused_read_still_carries_the_resource_that_clients_wait_for() {
    let mut bytes = header(Command::ReadResource, |_| {});
    bytes.extend(resource(0));
    let incoming = all(&bytes);
    let reply = refused(&incoming[0]);
    assert_eq!(reply.result, -34);
    assert!(matches!(reply.body, ReplyBody::Resource(_)));
    assert_eq!(
        reply.encode(&Header::request(Command::ReadResource)).len(),
        HEADER_BYTES + RESOURCE_BYTES
    );
}

#[test]
fn only_a_lock_value_takes_its_length_from_the_header() {
    let value = |length: u32, bytes: usize| {
        let mut message = header(Command::SetLvb, |header| header.length = length);
        message.extend(resource(0));
        message.extend(vec![7; bytes]);
        message.extend(version());
        all(&message)
    };
    let longest = value(160 + 4096, 4096);
    match &longest[0] {
        Incoming::Request(_, Request::SetLvb { value, .. }) => assert_eq!(**value, [7; 4096]),
        other => panic!("{other:?}"),
    }
    let too_long = value(160 + 4097, 4097);
    assert_eq!(*refused(&too_long[0]), Reply::code(-7));
    assert!(is_version(&too_long[1]));
    let negative = value(159, 0);
    assert_eq!(*refused(&negative[0]), Reply::code(-12));
    assert!(is_version(&negative[1]));
}

#[test]
fn a_wrong_length_changes_nothing_for_other_commands() {
    for length in [0, 32, u32::MAX] {
        let mut bytes = header(Command::InqLockspace, |header| header.length = length);
        bytes.extend([0; 1104]);
        bytes.extend(version());
        let incoming = all(&bytes);
        assert!(matches!(
            incoming[0],
            Incoming::Request(_, Request::InqLockspace { .. })
        ));
        assert!(is_version(&incoming[1]));
    }
}

#[test]
fn wrong_headers_get_no_answer_and_the_next_one_is_read() {
    let cases = [
        (
            header(Command::Version, |header| header.magic = 5),
            Dropped::Magic(5),
        ),
        (
            header(Command::Inquire, |header| header.version = 0x2_0001),
            Dropped::Version(0x2_0001),
        ),
        (
            header(Command::Version, |header| header.cmd = 41),
            Dropped::Command(41),
        ),
        (
            header(Command::Version, |header| header.cmd = 0),
            Dropped::Command(0),
        ),
    ];
    for (mut bytes, reason) in cases {
        bytes.extend(version());
        let incoming = all(&bytes);
        assert!(matches!(&incoming[0], Incoming::Dropped(_, found) if *found == reason));
        assert!(is_version(&incoming[1]));
    }
}

#[test]
fn a_later_version_may_ask_for_ours() {
    let bytes = header(Command::Version, |header| header.version = 0x2_0001);
    assert!(is_version(&all(&bytes)[0]));
}

#[test]
fn old_clients_may_put_a_string_behind_the_options() {
    let mut bytes = acquire(1).encode();
    let length = u32::try_from(bytes.len() + 5).unwrap();
    bytes[16..20].copy_from_slice(&length.to_le_bytes());
    bytes.extend(b"hello");
    bytes.extend(version());
    let incoming = all(&bytes);
    assert!(matches!(
        incoming[0],
        Incoming::Request(_, Request::Acquire { .. })
    ));
    assert!(is_version(&incoming[1]));
}

#[test]
fn a_message_cut_short_is_answered_not_connected() {
    let mut decoder = Decoder::new();
    assert_eq!(decoder.end(), None);
    assert!(feed(&mut decoder, &header(Command::AddLockspace, |_| {})).is_empty());
    assert!(feed(&mut decoder, b"abc").is_empty());
    let pending = decoder.pending().unwrap();
    assert_eq!(
        pending.header.unwrap().command(),
        Some(Command::AddLockspace)
    );
    assert_eq!((pending.received, pending.wanted), (35, 1136));
    assert_eq!(*refused(&decoder.end().unwrap()), Reply::code(-107));
    assert_eq!(decoder.end(), None);
}

#[test]
fn a_header_cut_short_is_not_answered() {
    let mut decoder = Decoder::new();
    assert!(feed(&mut decoder, &version()[..10]).is_empty());
    let pending = decoder.pending().unwrap();
    assert_eq!(
        (pending.header, pending.received, pending.wanted),
        (None, 10, 32)
    );
    assert_eq!(decoder.end(), None);
}

#[test]
fn what_the_server_refused_early_is_skipped_when_it_comes() {
    let mut decoder = Decoder::new();
    let message = acquire(2).encode();
    assert!(feed(&mut decoder, &message[..100]).is_empty());
    decoder.refuse();
    assert_eq!(decoder.pending(), None);
    let mut rest = message[100..].to_vec();
    rest.extend(version());
    let mut incoming = Vec::new();
    for piece in rest.chunks(11) {
        incoming.extend(feed(&mut decoder, piece));
    }
    assert_eq!(incoming.len(), 1);
    assert!(is_version(&incoming[0]));
}

#[test]
fn names_and_paths_lose_what_follows_their_nul() {
    let mut bytes = header(Command::AddLockspace, |_| {});
    let mut lockspace = vec![b'x'; 1104];
    lockspace[2] = 0;
    lockspace[64 + 3] = 0;
    bytes.extend(&lockspace);
    let Incoming::Request(_, Request::AddLockspace { lockspace, .. }) = all(&bytes).remove(0)
    else {
        panic!("a request");
    };
    assert_eq!(lockspace.name.0[..4], *b"xx\0\0");
    assert_eq!(lockspace.disk.path.as_bytes(), b"xxx");
}

#[test]
fn more_entries_than_a_reply_may_have_are_cut_and_said() {
    let request = Header::request(Command::GetLockspaces);
    let reply = Reply::with(ReplyBody::Lockspaces(vec![Lockspace::default(); 1000]));
    let bytes = reply.encode(&request);
    let header = Header::decode(bytes.first_chunk().unwrap());
    assert_eq!(header.result(), -28);
    assert_eq!(header.data2, 949);
    assert_eq!(bytes.len(), HEADER_BYTES + 949 * 1104);
}

#[test]
fn resources_named_although_all_are_released_are_not_taken_for_messages() {
    let mut bytes = header(Command::Release, |header| {
        header.cmd_flags = 1;
        header.data = 1;
        header.length = 160;
    });
    bytes.extend(resource(1));
    bytes.extend(version());
    let incoming = all(&bytes);
    assert!(matches!(
        incoming[0],
        Incoming::Request(_, Request::Release { .. })
    ));
    assert!(is_version(&incoming[1]));
}

#[test]
fn messages_behind_one_that_the_server_refused_are_not_lost() {
    let mut decoder = Decoder::new();
    let mut bytes = header(Command::Acquire, |header| header.data = 1);
    bytes.extend(version());
    bytes.extend(version());
    assert!(feed(&mut decoder, &bytes).is_empty(), "taken for a payload");
    decoder.refuse();
    let incoming = feed(&mut decoder, &[]);
    assert_eq!(incoming.len(), 2);
    assert!(incoming.iter().all(is_version));
    assert_eq!(decoder.pending(), None);
}

#[test]
fn what_looks_like_a_header_within_a_refused_payload_is_not_one() {
    let mut bytes = header(Command::WriteResource, |_| {});
    let mut bad = resource(9);
    bad[32..64].copy_from_slice(&version());
    bytes.extend(bad);
    bytes.extend(Request::LogDump.encode());
    let incoming = all(&bytes);
    assert_eq!(incoming.len(), 2);
    assert!(matches!(
        incoming[1],
        Incoming::Request(_, Request::LogDump)
    ));
}
