//! Every line of a recorded conversation between the original's libraries and
//! the original's daemon: our decoder understands it, and our encoders make
//! the same bytes.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use sanlock_wire::{
    Command, Decoder, EventMessage, HEADER_BYTES, Header, Host, HostEvent, Incoming, Lockspace,
    RESOURCE_BYTES, Release, Reply, ReplyBody, ReplyShape, Request, Resource, StateBody,
    StateDecoder, StateKind, Target, VERSION_NUMBER,
};

/// Consecutive messages in one direction.
struct Turn {
    from_client: bool,
    /// Line of the transcript where it starts.
    line: usize,
    bytes: Vec<u8>,
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}

fn transcript() -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::new();
    for (line, text) in include_str!("golden/socket_transcript.jsonl")
        .lines()
        .enumerate()
    {
        let entry: serde_json::Value = serde_json::from_str(text).unwrap();
        let from_client = entry["dir"] == "C>D";
        let length = usize::try_from(entry["len"].as_u64().unwrap()).unwrap();
        let mut bytes = unhex(entry["hex_trimmed"].as_str().unwrap());
        bytes.resize(length, 0);
        if bytes == EventMessage::END {
            // Written on another connection, the one that receives events.
            continue;
        }
        match turns.last_mut() {
            Some(turn) if turn.from_client == from_client => turn.bytes.extend(bytes),
            _ => turns.push(Turn {
                from_client,
                line: line + 1,
                bytes,
            }),
        }
    }
    turns
}

/// Feeds a turn in pieces of the given size.
fn requests(bytes: &[u8], piece: usize) -> Vec<(Header, Request)> {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    for mut part in bytes.chunks(piece) {
        while let Some(incoming) = decoder.next(&mut part) {
            match incoming {
                Incoming::Request(header, request) => found.push((header, request)),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(decoder.pending(), None, "ends with a whole message");
    found
}

/// Resources that travel without their disks still say how many there are; we
/// forget that number, and nobody reads it.
fn forget_disks(command: Command, message: &mut [u8]) {
    let first = HEADER_BYTES + RESOURCE_BYTES;
    let ends: &[usize] = match command {
        Command::Release => &[first, first + RESOURCE_BYTES],
        Command::ExamineResource | Command::SetLvb | Command::GetLvb | Command::Convert => &[first],
        _ => &[],
    };
    for &end in ends {
        if let Some(field) = message.get_mut(end - 4..end) {
            field.fill(0);
        }
    }
}

#[test]
fn every_recorded_request_is_understood_and_made_alike() {
    let mut seen = Vec::new();
    for turn in transcript().iter().filter(|turn| turn.from_client) {
        let found = requests(&turn.bytes, usize::MAX);
        for piece in [1, 7, 32, 1000] {
            assert_eq!(requests(&turn.bytes, piece), found, "in pieces of {piece}");
        }
        let mut rest = turn.bytes.as_slice();
        for (header, request) in found {
            let command = request.command();
            seen.push(command);
            let mut ours = request.encode();
            let (theirs, tail) = rest.split_at(ours.len());
            let mut theirs = theirs.to_vec();
            rest = tail;
            forget_disks(command, &mut ours);
            forget_disks(command, &mut theirs);
            assert_eq!(ours, theirs, "line {}: {command} {header:?}", turn.line);
        }
        assert!(rest.is_empty(), "line {}", turn.line);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 36, "commands in the transcript: {seen:?}");
}

#[test]
fn every_recorded_reply_is_understood_and_made_alike() {
    let turns = transcript();
    let mut replies = 0;
    for pair in turns.windows(2).filter(|pair| pair[0].from_client) {
        let (question, answer) = (&pair[0], &pair[1]);
        let (request, _) = requests(&question.bytes, usize::MAX).pop().unwrap();
        let bytes = answer.bytes.as_slice();
        let header = Header::decode(bytes.first_chunk().unwrap());
        let payload = &bytes[HEADER_BYTES..];
        let shape = ReplyShape::of(&header).unwrap();
        let reply = Reply::decode(&header, payload).unwrap();
        let mut ours = reply.encode(&request);
        let mut theirs = bytes.to_vec();
        match shape {
            ReplyShape::Bytes(length) => assert_eq!(length, payload.len()),
            ReplyShape::UntilEnd(_) => panic!("line {}: no reply overflowed", answer.line),
            ReplyShape::Stream => {
                for record in records(payload) {
                    record.encode(&mut ours);
                    if let StateBody::Lockspace(_) = record.body {
                        // The original sends whatever was in its padding.
                        theirs[ours.len() - 8..ours.len()].fill(0);
                    }
                }
            }
        }
        if let ReplyBody::Resource(_) | ReplyBody::Owners { .. } = reply.body {
            for message in [&mut ours, &mut theirs] {
                message[HEADER_BYTES + RESOURCE_BYTES - 4..HEADER_BYTES + RESOURCE_BYTES].fill(0);
            }
        }
        assert!(ours == theirs, "line {}: {reply:?}", answer.line);
        replies += 1;
    }
    assert_eq!(
        replies,
        turns.iter().filter(|turn| !turn.from_client).count()
    );
}

fn records(stream: &[u8]) -> Vec<sanlock_wire::StateRecord> {
    let mut decoder = StateDecoder::new();
    let mut records = Vec::new();
    for mut piece in stream.chunks(77) {
        while let Some(record) = decoder.next(&mut piece).unwrap() {
            records.push(record);
        }
    }
    records
}

/// Turns of the transcript, by their request.
fn answers(command: Command) -> Vec<(Request, Reply, Vec<u8>)> {
    let turns = transcript();
    let mut found = Vec::new();
    for pair in turns.windows(2).filter(|pair| pair[0].from_client) {
        let (_, request) = requests(&pair[0].bytes, usize::MAX).pop().unwrap();
        if request.command() == command {
            let (header, payload) = pair[1].bytes.split_at(HEADER_BYTES);
            let header = Header::decode(header.first_chunk().unwrap());
            let reply = Reply::decode(&header, payload).unwrap();
            found.push((request, reply, payload.to_vec()));
        }
    }
    found
}

#[test]
fn the_recorded_status_has_its_records_in_order() {
    let (_, _, stream) = answers(Command::Status).remove(0);
    let kinds: Vec<StateKind> = records(&stream).iter().map(|record| record.kind).collect();
    assert_eq!(
        kinds,
        [
            StateKind::Daemon,
            StateKind::Client,
            StateKind::Client,
            StateKind::Client,
            StateKind::Lockspace
        ]
    );
    let records = records(&stream);
    assert!(
        records[0]
            .text
            .starts_with("our_host_name=hostA use_watchdog=0 ")
    );
    assert_eq!(records[1].data32, u32::MAX);
    assert_eq!(records[1].name.to_string(), "helper");
    match &records[4].body {
        StateBody::Lockspace(lockspace) => {
            assert_eq!(lockspace.to_text(), b"LS:1:/tmp/sanlock-spec/img/t.img:0");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_recorded_inquiries_are_what_we_would_write() {
    let mut counts = Vec::new();
    for (_, reply, _) in answers(Command::Inquire) {
        let ReplyBody::Inquiry { count, text } = &reply.body else {
            panic!("{reply:?}");
        };
        counts.push(*count);
        let resources: Vec<Resource> = text
            .split(|&byte| byte == b' ')
            .filter(|text| !text.is_empty())
            .map(|text| sanlock_wire::parse_resource(text).unwrap())
            .collect();
        assert_eq!(ReplyBody::inquiry(&resources), reply.body);
    }
    assert_eq!(counts, [1, 2, 0]);
}

#[test]
fn recorded_hosts_and_owners_have_their_numbers() {
    let (_, reply, _) = answers(Command::GetHosts).remove(0);
    let host = |host_id, generation| Host {
        host_id,
        generation,
        timestamp: 0xc43,
        io_timeout: 2,
        flags: 3,
    };
    assert_eq!(reply.body, ReplyBody::Hosts(vec![host(1, 2), host(2, 1)]));
    let (_, reply, _) = answers(Command::ReadResourceOwners).remove(0);
    let ReplyBody::Owners { owners, .. } = reply.body else {
        panic!("{reply:?}");
    };
    assert_eq!(owners.len(), 1);
    assert_eq!((owners[0].host_id, owners[0].timestamp), (1, 0xc4b));
    let (_, reply, _) = answers(Command::Version).remove(0);
    assert_eq!(reply.body, ReplyBody::Version(VERSION_NUMBER));
}

/// The header bytes that the specification lists (§7.6).
#[test]
fn headers_are_those_of_the_specification() {
    let resource = Resource::default();
    let with_disk = Resource {
        disks: vec![sanlock_wire::Disk::default()],
        ..Resource::default()
    };
    let lockspace = Lockspace::default;
    let this = Target::ThisConnection;
    let acquire = |flags, resources| Request::Acquire {
        target: this,
        flags: sanlock_wire::AcquireFlags(flags),
        resources,
        options: sanlock_wire::Options::default(),
    };
    let expected: Vec<(Request, &str)> = vec![
        (
            Request::Register,
            "0100000000000000200000000000000000000000 00000000",
        ),
        (
            Request::Killpath {
                target: this,
                flags: sanlock_wire::KillpathFlags::NONE,
                path: sanlock_wire::DiskPath::default(),
                arguments: Box::default(),
            },
            "1100000000000000200100000000000000000000 ffffffff",
        ),
        (
            Request::Restrict {
                flags: sanlock_wire::RestrictFlags::SIGKILL,
            },
            "0a00000002000000200000000000000000000000 ffffffff",
        ),
        (
            Request::WriteLockspace {
                lockspace: lockspace(),
                max_hosts: 0,
                io_timeout_s: 3,
            },
            "1200000000000000700400000000000000000000 03000000",
        ),
        (
            acquire(1, vec![with_disk.clone()]),
            "0700000001000000e80400000000000001000000 ffffffff",
        ),
        (
            acquire(0, vec![with_disk.clone(), with_disk.clone()]),
            "0700000000000000780900000000000002000000 ffffffff",
        ),
        (
            Request::Convert {
                target: this,
                resource: resource.clone(),
                flags: sanlock_wire::ConvertFlags::NONE,
            },
            "1b00000000000000a00000000000000000000000 ffffffff",
        ),
        (
            Request::Release {
                target: this,
                release: Release::Resources(vec![resource.clone()]),
            },
            "0800000000000000a00000000000000001000000 ffffffff",
        ),
        (
            Request::Release {
                target: this,
                release: Release::All,
            },
            "0800000001000000200000000000000000000000 ffffffff",
        ),
        (
            Request::Release {
                target: this,
                release: Release::Rename {
                    old: resource.clone(),
                    new: resource.clone(),
                },
            },
            "0800000002000000200100000000000002000000 ffffffff",
        ),
        (
            Request::Request {
                resource: with_disk,
                force_mode: sanlock_wire::ForceMode::Graceful,
                flags: sanlock_wire::RequestFlags::NEXT_LVER,
            },
            "0b00000001000000b00400000000000002000000 00000000",
        ),
        (
            Request::SetLvb {
                resource,
                value: (*b"hello").into(),
            },
            "1900000000000000a50000000000000000000000 00000000",
        ),
        (
            Request::SetConfig {
                lockspace: lockspace(),
                action: sanlock_wire::ConfigAction::Used,
            },
            "2100000000000000700400000000000001000000 00000000",
        ),
        (
            Request::SetEvent {
                lockspace: lockspace(),
                event: HostEvent::default(),
                flags: sanlock_wire::EventFlags::CUR_GENERATION,
            },
            "2000000001000000900400000000000000000000 00000000",
        ),
        (
            Request::HostStatus {
                lockspace: lockspace(),
            },
            "0f00000000000000200000000000000000000000 00000000",
        ),
        (
            Request::LookupRindex {
                rindex: sanlock_wire::Rindex::default(),
                entry: sanlock_wire::Rentry::default(),
                flags: sanlock_wire::RindexFlags::NONE,
            },
            "2500000000000000f00400000000000000000000 00000000",
        ),
    ];
    for (request, words) in expected {
        let words = unhex(&format!("1020280401000000{}", words.replace(' ', "")));
        assert_eq!(request.encode()[..HEADER_BYTES], words, "{request:?}");
    }
}

#[test]
fn a_full_acquire_of_the_specification_has_its_length() {
    let disks = vec![sanlock_wire::Disk::default(); sanlock_wire::DISKS_MAX];
    let resource = Resource {
        disks,
        ..Resource::default()
    };
    let longest = Request::Acquire {
        target: Target::ThisConnection,
        flags: sanlock_wire::AcquireFlags::NONE,
        resources: vec![resource; 8],
        options: sanlock_wire::Options::default(),
    };
    assert_eq!(longest.encode().len(), sanlock_wire::MESSAGE_MAX);
}

#[test]
fn an_event_is_80_bytes() {
    let message = EventMessage {
        event: HostEvent {
            host_id: 1,
            generation: 2,
            event: 3,
            data: 4,
        },
        from_host_id: 5,
        from_generation: 6,
    };
    let bytes = message.encode();
    let words = unhex("1020280401000000010000000000000050000000000000000000000000000000");
    assert_eq!(bytes[..HEADER_BYTES], words);
    let numbers: Vec<u64> = bytes[HEADER_BYTES..]
        .chunks(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    assert_eq!(
        EventMessage::decode(bytes.first_chunk().unwrap()),
        Some(message)
    );
}
