//! For arbitrary bytes and arbitrary messages.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use disk_format::NameField;
use proptest::collection::vec;
use proptest::prelude::*;
use sanlock_wire::{
    AcquireFlags, AddFlags, Command, ConfigAction, ConvertFlags, Decoder, Disk, DiskPath,
    EventFlags, ForceMode, Header, Host, HostEvent, Incoming, InquireFlags, KillpathFlags,
    Lockspace, MESSAGE_MAX, Options, Release, RemoveFlags, Rentry, Reply, ReplyBody, ReplyShape,
    Request, RequestFlags, Resource, RestrictFlags, Rindex, RindexFlags, StateBody, StateDecoder,
    StateKind, StateRecord, Target, WriteFlags, parse_lockspace, parse_rentry, parse_resource,
    parse_rindex,
};

fn name() -> impl Strategy<Value = NameField> {
    vec(1..=255u8, 0..=48).prop_map(|text| sanlock_wire::parse_name(&text).unwrap())
}

fn path(most: usize) -> impl Strategy<Value = DiskPath> {
    vec(1..=255u8, 0..=most).prop_map(|text| DiskPath::new(&text).unwrap())
}

fn disk() -> impl Strategy<Value = Disk> {
    (path(1023), any::<u64>()).prop_map(|(path, offset)| Disk { path, offset })
}

fn bare_resource() -> impl Strategy<Value = Resource> {
    (name(), name(), any::<(u64, u64, u32, u32)>()).prop_map(
        |(lockspace_name, name, (lver, data64, data32, flags))| Resource {
            lockspace_name,
            name,
            lver,
            data64,
            data32,
            flags,
            disks: Vec::new(),
        },
    )
}

fn resource() -> impl Strategy<Value = Resource> {
    (bare_resource(), vec(disk(), 1..=4))
        .prop_map(|(resource, disks)| Resource { disks, ..resource })
}

fn lockspace() -> impl Strategy<Value = Lockspace> {
    (name(), any::<(u64, u32)>(), disk()).prop_map(|(name, (host_id, flags), disk)| Lockspace {
        name,
        host_id,
        flags,
        disk,
    })
}

fn rindex() -> impl Strategy<Value = Rindex> {
    (any::<(u32, u32)>(), name(), disk()).prop_map(
        |((flags, max_resources), lockspace_name, disk)| Rindex {
            flags,
            max_resources,
            lockspace_name,
            disk,
        },
    )
}

fn entry() -> impl Strategy<Value = Rentry> {
    (name(), any::<(u64, u32)>()).prop_map(|(name, (offset, flags))| Rentry {
        name,
        offset,
        flags,
    })
}

fn host() -> impl Strategy<Value = Host> {
    any::<(u64, u64, u64, u32, u32)>().prop_map(
        |(host_id, generation, timestamp, io_timeout, flags)| Host {
            host_id,
            generation,
            timestamp,
            io_timeout,
            flags,
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    any::<i32>().prop_map(|pid| match pid {
        -1 => Target::ThisConnection,
        pid => Target::Pid(pid),
    })
}

fn release() -> impl Strategy<Value = Release> {
    prop_oneof![
        Just(Release::All),
        vec(bare_resource(), 0..=8).prop_map(Release::Resources),
        (bare_resource(), bare_resource()).prop_map(|(old, new)| Release::Rename { old, new }),
        bare_resource().prop_map(Release::Orphans),
    ]
}

/// Requests about processes and their leases.
fn lease_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        Just(Request::Register),
        (target(), any::<u32>(), vec(resource(), 0..=8), name()).prop_map(
            |(target, flags, resources, owner_name)| Request::Acquire {
                target,
                flags: AcquireFlags(flags),
                resources,
                options: Options {
                    owner_name,
                    flags,
                    len: 0
                },
            }
        ),
        (target(), release()).prop_map(|(target, release)| Request::Release { target, release }),
        target().prop_map(|target| Request::Inquire { target }),
        any::<u32>().prop_map(|flags| Request::Restrict {
            flags: RestrictFlags(flags)
        }),
        (resource(), any::<(u32, u32)>()).prop_map(|(resource, (mode, flags))| {
            Request::Request {
                resource,
                force_mode: ForceMode::from_number(mode),
                flags: RequestFlags(flags),
            }
        }),
        bare_resource().prop_map(|resource| Request::ExamineResource { resource }),
        (target(), any::<u32>(), path(127), vec(1..=255u8, 0..=127)).prop_map(
            |(target, flags, path, arguments)| Request::Killpath {
                target,
                flags: KillpathFlags(flags),
                path,
                arguments: arguments.into(),
            }
        ),
        (bare_resource(), vec(any::<u8>(), 0..=4096)).prop_map(|(resource, value)| {
            Request::SetLvb {
                resource,
                value: value.into(),
            }
        }),
        (bare_resource(), any::<u32>())
            .prop_map(|(resource, wanted)| Request::GetLvb { resource, wanted }),
        (target(), bare_resource(), any::<u32>()).prop_map(|(target, resource, flags)| {
            Request::Convert {
                target,
                resource,
                flags: ConvertFlags(flags),
            }
        }),
    ]
}

/// Requests about lockspaces and the daemon.
fn lockspace_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (lockspace(), any::<(u32, u32)>()).prop_map(|(lockspace, (io_timeout_s, flags))| {
            Request::AddLockspace {
                lockspace,
                io_timeout_s,
                flags: AddFlags(flags),
            }
        }),
        (lockspace(), any::<u32>()).prop_map(|(lockspace, flags)| Request::RemLockspace {
            lockspace,
            flags: RemoveFlags(flags),
        }),
        any::<bool>().prop_map(|force| Request::Shutdown { force }),
        any::<bool>().prop_map(|force| Request::ShutdownWait { force }),
        any::<u32>().prop_map(|detail| Request::Status { detail }),
        Just(Request::LogDump),
        Just(Request::GetLockspaces),
        Just(Request::Metrics),
        Just(Request::Version),
        lockspace().prop_map(|lockspace| Request::ExamineLockspace { lockspace }),
        lockspace().prop_map(|lockspace| Request::HostStatus { lockspace }),
        lockspace().prop_map(|lockspace| Request::GetHosts { lockspace }),
        lockspace().prop_map(|lockspace| Request::RegEvent { lockspace }),
        lockspace().prop_map(|lockspace| Request::EndEvent { lockspace }),
        lockspace().prop_map(|lockspace| Request::Renewal { lockspace }),
        (lockspace(), any::<u32>()).prop_map(|(lockspace, flags)| Request::InqLockspace {
            lockspace,
            flags: InquireFlags(flags),
        }),
        (lockspace(), any::<u32>()).prop_map(|(lockspace, action)| Request::SetConfig {
            lockspace,
            action: ConfigAction::from_number(action),
        }),
        (lockspace(), any::<(u64, u64, u64, u64, u32)>()).prop_map(
            |(lockspace, (host_id, generation, event, data, flags))| Request::SetEvent {
                lockspace,
                event: HostEvent {
                    host_id,
                    generation,
                    event,
                    data
                },
                flags: EventFlags(flags),
            }
        ),
    ]
}

/// Requests about storage.
fn storage_request() -> impl Strategy<Value = Request> {
    let indexed = || (rindex(), entry(), any::<u32>());
    prop_oneof![
        disk().prop_map(|disk| Request::Align { disk }),
        (lockspace(), any::<(u32, u32)>()).prop_map(|(lockspace, (max_hosts, io_timeout_s))| {
            Request::WriteLockspace {
                lockspace,
                max_hosts,
                io_timeout_s,
            }
        }),
        (resource(), any::<(u32, u32, u32)>()).prop_map(
            |(resource, (max_hosts, num_hosts, flags))| Request::WriteResource {
                resource,
                max_hosts,
                num_hosts,
                flags: WriteFlags(flags),
            }
        ),
        lockspace().prop_map(|lockspace| Request::ReadLockspace { lockspace }),
        resource().prop_map(|resource| Request::ReadResource { resource }),
        resource().prop_map(|resource| Request::ReadResourceOwners { resource }),
        (rindex(), any::<u32>()).prop_map(|(rindex, flags)| Request::FormatRindex {
            rindex,
            flags: RindexFlags(flags),
        }),
        (rindex(), any::<u32>()).prop_map(|(rindex, flags)| Request::RebuildRindex {
            rindex,
            flags: RindexFlags(flags),
        }),
        indexed().prop_map(|(rindex, entry, flags)| Request::UpdateRindex {
            rindex,
            entry,
            flags: RindexFlags(flags),
        }),
        indexed().prop_map(|(rindex, entry, flags)| Request::LookupRindex {
            rindex,
            entry,
            flags: RindexFlags(flags),
        }),
        indexed().prop_map(|(rindex, entry, flags)| Request::DeleteResource {
            rindex,
            entry,
            flags: RindexFlags(flags),
        }),
        (indexed(), any::<(u32, u32)>()).prop_map(
            |((rindex, entry, flags), (max_hosts, num_hosts))| Request::CreateResource {
                rindex,
                entry,
                max_hosts,
                num_hosts,
                flags: RindexFlags(flags),
            }
        ),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![lease_request(), lockspace_request(), storage_request()]
}

fn reply() -> impl Strategy<Value = (Command, Reply)> {
    let body = prop_oneof![
        Just((Command::Acquire, ReplyBody::Empty)),
        (1..100u32, vec(1..=255u8, 1..200))
            .prop_map(|(count, text)| (Command::Inquire, ReplyBody::Inquiry { count, text })),
        (any::<u32>(), lockspace()).prop_map(|(io_timeout_s, lockspace)| (
            Command::ReadLockspace,
            ReplyBody::Lockspace {
                io_timeout_s,
                lockspace
            }
        )),
        bare_resource().prop_map(|resource| (Command::ReadResource, ReplyBody::Resource(resource))),
        (bare_resource(), vec(host(), 0..20)).prop_map(|(resource, owners)| (
            Command::ReadResourceOwners,
            ReplyBody::Owners { resource, owners }
        )),
        vec(lockspace(), 0..5)
            .prop_map(|list| (Command::GetLockspaces, ReplyBody::Lockspaces(list))),
        vec(host(), 0..20).prop_map(|list| (Command::GetHosts, ReplyBody::Hosts(list))),
        vec(any::<u8>(), 0..600).prop_map(|value| (Command::GetLvb, ReplyBody::Lvb(value))),
        any::<u32>().prop_map(|number| (Command::Version, ReplyBody::Version(number))),
        entry().prop_map(|entry| (Command::LookupRindex, ReplyBody::Entry(entry))),
    ];
    (body, -300..=0i32).prop_map(|((command, body), result)| {
        let result = match body {
            ReplyBody::Lvb(_) | ReplyBody::Lockspaces(_) | ReplyBody::Hosts(_) => 0,
            _ => result,
        };
        (command, Reply { result, body })
    })
}

fn record() -> impl Strategy<Value = StateRecord> {
    let body = prop_oneof![
        Just((StateKind::Client, StateBody::None)),
        lockspace().prop_map(|space| (StateKind::Lockspace, StateBody::Lockspace(space))),
        resource().prop_map(|resource| (StateKind::Resource, StateBody::Resource(resource))),
        (7..u32::MAX).prop_map(|kind| (StateKind::Other(kind), StateBody::None)),
    ];
    (body, any::<(u32, u32, u64)>(), name(), "[a-z=0-9 ]{0,300}").prop_map(
        |((kind, body), (flags, data32, data64), name, text)| StateRecord {
            kind,
            flags,
            data32,
            data64,
            name,
            text,
            body,
        },
    )
}

/// Feeds bytes cut at arbitrary places; checks the bound after each piece.
fn decode_in_pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Incoming> {
    let mut decoder = Decoder::new();
    let mut found = Vec::new();
    let mut rest = bytes;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() {
        let length = cuts.next().map_or(1, |&cut| cut.clamp(1, rest.len()));
        let (mut piece, tail) = rest.split_at(length);
        rest = tail;
        while let Some(incoming) = decoder.next(&mut piece) {
            found.push(incoming);
        }
        if let Some(pending) = decoder.pending() {
            assert!(pending.received <= MESSAGE_MAX && pending.wanted <= MESSAGE_MAX);
            assert!(pending.received < pending.wanted);
        }
    }
    found
}

/// Headers that look right in front of arbitrary payloads.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let header = (0..45u32, any::<[u32; 3]>(), 0..12u32, 0..3u8).prop_map(
        |(cmd, [cmd_flags, length, data2], data, odd)| {
            let mut header = Header::request(Command::Version);
            header.cmd = cmd;
            header.cmd_flags = cmd_flags & 0x1f;
            header.length = if odd == 0 { length } else { length % 6000 };
            header.data = data;
            header.data2 = data2;
            header.encode().to_vec()
        },
    );
    let payload = prop_oneof![
        vec(any::<u8>(), 0..1500),
        vec(0..6u8, 0..1500),
        Just(vec![0; 1104]),
        resource()
            .prop_map(|resource| { Request::ReadResource { resource }.encode().split_off(32) }),
    ];
    vec(prop_oneof![header.boxed(), payload.boxed()], 1..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_comes_back_as_it_was(
        requests in vec(request(), 1..4),
        cuts in vec(1..3000usize, 1..5),
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(Request::encode).collect();
        let found: Vec<Request> = decode_in_pieces(&bytes, &cuts)
            .into_iter()
            .map(|incoming| match incoming {
                Incoming::Request(_, request) => request,
                other => panic!("{other:?}"),
            })
            .collect();
        prop_assert_eq!(found, requests);
    }

    #[test]
    fn every_reply_comes_back_as_it_was((command, reply) in reply()) {
        let bytes = reply.encode(&Header::request(command));
        let (header, payload) = bytes.split_first_chunk().unwrap();
        let header = Header::decode(header);
        prop_assert_eq!(ReplyShape::of(&header).unwrap(), ReplyShape::Bytes(payload.len()));
        prop_assert_eq!(Reply::decode(&header, payload).unwrap(), reply);
    }

    #[test]
    fn every_record_comes_back_as_it_was(
        records in vec(record(), 0..6),
        piece in 1..2000usize,
    ) {
        let mut bytes = Vec::new();
        for record in &records {
            record.encode(&mut bytes);
        }
        let mut decoder = StateDecoder::new();
        let mut found = Vec::new();
        for mut piece in bytes.chunks(piece) {
            while let Some(record) = decoder.next(&mut piece).unwrap() {
                found.push(record);
            }
        }
        prop_assert_eq!(found, records);
    }

    #[test]
    fn hostile_bytes_are_the_same_however_they_are_cut(
        bytes in hostile(),
        cuts in vec(1..200usize, 1..6),
    ) {
        let whole = decode_in_pieces(&bytes, &[bytes.len()]);
        prop_assert_eq!(decode_in_pieces(&bytes, &cuts), whole);
    }

    #[test]
    fn a_server_may_refuse_at_any_time(
        bytes in hostile(),
        cuts in vec(1..200usize, 1..6),
        refusals in vec(any::<bool>(), 1..6),
    ) {
        let mut decoder = Decoder::new();
        let mut rest = bytes.as_slice();
        for (&cut, &refuse) in cuts.iter().cycle().zip(refusals.iter().cycle()) {
            let (mut piece, tail) = rest.split_at(cut.min(rest.len()));
            rest = tail;
            while decoder.next(&mut piece).is_some() {}
            if refuse {
                decoder.refuse();
                while decoder.next(&mut piece).is_some() {}
            }
            if let Some(pending) = decoder.pending() {
                prop_assert!(pending.received < pending.wanted && pending.wanted <= MESSAGE_MAX);
            }
            if rest.is_empty() {
                break;
            }
        }
    }

    #[test]
    fn hostile_replies_do_no_harm(bytes in hostile()) {
        if let Some((header, payload)) = bytes.split_first_chunk() {
            let header = Header::decode(header);
            if let Ok(ReplyShape::Bytes(length) | ReplyShape::UntilEnd(length)) = ReplyShape::of(&header) {
                prop_assert!(length <= 64 << 20);
            }
            drop(Reply::decode(&header, payload));
        }
        let mut decoder = StateDecoder::new();
        let mut rest = bytes.as_slice();
        while let Ok(Some(_)) = decoder.next(&mut rest) {}
    }

    #[test]
    fn strings_of_resources_are_read_back(
        resource in resource(),
        lver in any::<u64>(),
        shared in any::<bool>(),
    ) {
        // Names are not escaped: a colon or backslash in one does not survive.
        let mut resource = resource;
        let tame = |name: NameField| NameField(name.0.map(|byte| match byte {
            b':' | b'\\' => b'_',
            byte => byte,
        }));
        resource.lockspace_name = tame(resource.lockspace_name);
        resource.name = tame(resource.name);
        for disk in &mut resource.disks {
            let path: Vec<u8> = disk.path.as_bytes().iter().map(|&byte| if byte == b'\\' { b'/' } else { byte }).collect();
            let path = if path.is_empty() { b"p".to_vec() } else { path };
            disk.path = DiskPath::new(&path).unwrap();
        }
        (resource.data64, resource.data32) = (0, 0);
        if shared {
            (resource.lver, resource.flags) = (0, 0x4);
        } else {
            (resource.lver, resource.flags) = (lver, 0x1);
        }
        prop_assert_eq!(parse_resource(&resource.to_text()).unwrap(), resource);
    }

    #[test]
    fn any_text_is_a_resource_or_an_error(text in vec(any::<u8>(), 0..200)) {
        drop(parse_resource(&text));
        drop(parse_lockspace(&text));
        drop(parse_rindex(&text));
        prop_assert!(parse_rentry(&text).name.bytes().len() <= 48);
    }
}
