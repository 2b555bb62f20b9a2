//! What is said to both daemons.

use sanlock_wire::{
    AcquireFlags, Command, ConfigAction, ConvertFlags, Disk, DiskPath, EventFlags, ForceMode,
    Header, HostEvent, InquireFlags, KillpathFlags, Lockspace, Options, Release, Rentry, Request,
    RequestFlags, Resource, ResourceFlags, RestrictFlags, Rindex, RindexFlags, Target, parse_name,
};

const THIS: Target = Target::ThisConnection;

fn header(command: Command, change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::request(command);
    change(&mut header);
    header.encode().to_vec()
}

/// The disk of the two daemons, and requests about it.
pub(crate) struct About {
    pub(crate) path: DiskPath,
}

impl About {
    fn disk(&self, mebibytes: u64) -> Disk {
        Disk {
            path: self.path.clone(),
            offset: mebibytes << 20,
        }
    }

    fn resource(&self, number: u64) -> Resource {
        Resource {
            lockspace_name: parse_name(b"LS").unwrap(),
            name: parse_name(format!("R{number}").as_bytes()).unwrap(),
            disks: vec![self.disk(number)],
            ..Resource::default()
        }
    }

    fn shared(&self, number: u64) -> Resource {
        Resource {
            flags: ResourceFlags::SHARED.0,
            ..self.resource(number)
        }
    }

    fn lockspace(&self, name: &str, host_id: u64) -> Lockspace {
        Lockspace {
            name: parse_name(name.as_bytes()).unwrap(),
            host_id,
            flags: 0,
            disk: self.disk(0),
        }
    }

    fn rindex(&self) -> Rindex {
        Rindex {
            lockspace_name: parse_name(b"LS").unwrap(),
            disk: self.disk(8),
            ..Rindex::default()
        }
    }

    fn acquire(&self, flags: AcquireFlags, resources: &[Resource]) -> Vec<u8> {
        Request::Acquire {
            target: THIS,
            flags,
            resources: resources.to_vec(),
            options: Options::default(),
        }
        .encode()
    }

    fn release(&self, release: Release) -> Vec<u8> {
        Request::Release {
            target: THIS,
            release,
        }
        .encode()
    }

    fn convert(&self, resource: Resource) -> Vec<u8> {
        Request::Convert {
            target: THIS,
            resource,
            flags: ConvertFlags::NONE,
        }
        .encode()
    }
}

fn inquire() -> Vec<u8> {
    Request::Inquire { target: THIS }.encode()
}

fn register() -> Vec<u8> {
    Request::Register.encode()
}

/// A name and messages.
pub(crate) type Conversation = (&'static str, Vec<Vec<u8>>);

/// Conversations about what is not there, or not allowed.
pub(crate) fn refusals(about: &About) -> Vec<Conversation> {
    let nobody = Target::Pid(99_999_999);
    let unknown = about.lockspace("unknown", 1);
    let resource = about.resource(1);
    let one = |name, request: Request| (name, vec![request.encode()]);
    let registered = |name, message: Vec<u8>| (name, vec![register(), message]);
    vec![
        one("version", Request::Version),
        (
            "a later version's question",
            vec![header(Command::Version, |header| header.version = 0x2_0001)],
        ),
        (
            "sequence and flags are echoed",
            vec![{
                let mut message = Request::InqLockspace {
                    lockspace: unknown.clone(),
                    flags: InquireFlags(0xf0),
                }
                .encode();
                message[20] = 9;
                message
            }],
        ),
        (
            "a later version's command",
            vec![header(Command::Inquire, |header| header.version = 0x2_0001)],
        ),
        (
            "no command",
            vec![header(Command::Version, |header| header.cmd = 77)],
        ),
        ("inquire by nobody", vec![inquire()]),
        one("inquire for nobody", Request::Inquire { target: nobody }),
        (
            "acquire by nobody, only announced",
            vec![header(Command::Acquire, |header| {
                header.data = 1;
                header.data2 = u32::MAX;
            })],
        ),
        registered("inquire for nothing", inquire()),
        registered("acquire of nothing", about.acquire(AcquireFlags::NONE, &[])),
        registered(
            "acquire of nine, only announced",
            header(Command::Acquire, |header| {
                header.data = 9;
                header.data2 = u32::MAX;
            }),
        ),
        registered(
            "acquire in an unknown lockspace",
            about.acquire(AcquireFlags::NONE, std::slice::from_ref(&resource)),
        ),
        registered(
            "release of nothing",
            about.release(Release::Resources(vec![])),
        ),
        registered(
            "release of what is not held",
            about.release(Release::Resources(vec![resource.clone()])),
        ),
        registered("release of all of nothing", about.release(Release::All)),
        registered(
            "renaming what is not held",
            about.release(Release::Rename {
                old: resource.clone(),
                new: resource.clone(),
            }),
        ),
        registered(
            "orphans of nobody",
            about.release(Release::Orphans(resource.clone())),
        ),
        registered(
            "convert of what is not held",
            about.convert(resource.clone()),
        ),
        one(
            "get_lvb of what is not held",
            Request::GetLvb {
                resource: resource.clone(),
                wanted: 0,
            },
        ),
        one(
            "set_lvb of what is not held",
            Request::SetLvb {
                resource: resource.clone(),
                value: [7; 5].into(),
            },
        ),
        (
            "set_lvb of a negative length",
            vec![{
                let mut message = Request::ExamineResource {
                    resource: resource.clone(),
                }
                .encode();
                message[8] = 25;
                message[16] = 159;
                message
            }],
        ),
        one(
            "restrict nothing",
            Request::Restrict {
                flags: RestrictFlags::NONE,
            },
        ),
        registered(
            "killpath",
            Request::Killpath {
                target: THIS,
                flags: KillpathFlags::PID,
                path: DiskPath::new(b"/bin/true").unwrap(),
                arguments: (*b"a b").into(),
            }
            .encode(),
        ),
        one(
            "killpath of nobody",
            Request::Killpath {
                target: THIS,
                flags: KillpathFlags::NONE,
                path: DiskPath::default(),
                arguments: Box::default(),
            },
        ),
        one(
            "examine a resource",
            Request::ExamineResource {
                resource: resource.clone(),
            },
        ),
        one(
            "examine an unknown lockspace",
            Request::ExamineLockspace {
                lockspace: unknown.clone(),
            },
        ),
        one("get_lockspaces", Request::GetLockspaces),
        one(
            "get_hosts of an unknown lockspace",
            Request::GetHosts {
                lockspace: unknown.clone(),
            },
        ),
        one(
            "host_status of an unknown lockspace",
            Request::HostStatus {
                lockspace: unknown.clone(),
            },
        ),
        one(
            "renewal of an unknown lockspace",
            Request::Renewal {
                lockspace: unknown.clone(),
            },
        ),
        one(
            "reg_event of an unknown lockspace",
            Request::RegEvent {
                lockspace: unknown.clone(),
            },
        ),
        one(
            "end_event of an unknown lockspace",
            Request::EndEvent {
                lockspace: unknown.clone(),
            },
        ),
        one(
            "set_config of an unknown lockspace",
            Request::SetConfig {
                lockspace: unknown.clone(),
                action: ConfigAction::Used,
            },
        ),
        one(
            "set_event for nobody",
            Request::SetEvent {
                lockspace: unknown.clone(),
                event: HostEvent::default(),
                flags: EventFlags::NONE,
            },
        ),
        one(
            "request in an unknown lockspace",
            Request::Request {
                resource: resource.clone(),
                force_mode: ForceMode::Force,
                flags: RequestFlags::NEXT_LVER,
            },
        ),
        one(
            "request without disks",
            Request::Request {
                resource: Resource {
                    disks: vec![],
                    ..resource.clone()
                },
                force_mode: ForceMode::Force,
                flags: RequestFlags::NONE,
            },
        ),
        one(
            "read of a resource without disks",
            Request::ReadResource {
                resource: Resource {
                    disks: vec![],
                    ..resource.clone()
                },
            },
        ),
        one(
            "owners of a resource without disks",
            Request::ReadResourceOwners {
                resource: Resource {
                    disks: vec![],
                    ..resource
                },
            },
        ),
        one(
            "lookup in an unknown lockspace",
            Request::LookupRindex {
                rindex: about.rindex(),
                entry: Rentry::default(),
                flags: RindexFlags::NONE,
            },
        ),
        one(
            "delete in an unknown lockspace",
            Request::DeleteResource {
                rindex: about.rindex(),
                entry: Rentry::default(),
                flags: RindexFlags::NONE,
            },
        ),
    ]
}

/// Conversations about leases of a joined lockspace.
pub(crate) fn leases(about: &About) -> Vec<Conversation> {
    let [first, second, third] = [1, 2, 3].map(|number| about.resource(number));
    let all = || about.release(Release::All);
    let wrong_version = Resource {
        flags: ResourceFlags::LVER.0,
        lver: 99,
        ..first.clone()
    };
    let zeros = Resource {
        flags: ResourceFlags::LVER.0 | ResourceFlags::NUM_HOSTS.0,
        ..first.clone()
    };
    let wrong_name = Resource {
        name: second.name,
        ..first.clone()
    };
    let value = |bytes: &[u8]| {
        Request::SetLvb {
            resource: first.clone(),
            value: bytes.into(),
        }
        .encode()
    };
    let get = |wanted| {
        Request::GetLvb {
            resource: first.clone(),
            wanted,
        }
        .encode()
    };
    let none = AcquireFlags::NONE;
    let lvb = AcquireFlags::LVB;
    let one = std::slice::from_ref(&first);
    vec![
        (
            "exclusive",
            vec![
                register(),
                about.acquire(none, one),
                inquire(),
                all(),
                inquire(),
            ],
        ),
        (
            "three at once, in order",
            vec![
                register(),
                about.acquire(none, &[third.clone(), first.clone(), about.shared(2)]),
                inquire(),
                about.release(Release::Resources(vec![first.clone()])),
                inquire(),
                all(),
                inquire(),
            ],
        ),
        (
            "all or nothing",
            vec![
                register(),
                about.acquire(none, &[second.clone(), wrong_version.clone()]),
                inquire(),
                about.acquire(none, &[second.clone(), wrong_name.clone()]),
                inquire(),
                about.acquire(none, &[second.clone(), second.clone()]),
                inquire(),
                all(),
            ],
        ),
        (
            "held already",
            vec![
                register(),
                about.acquire(none, one),
                about.acquire(none, one),
                about.acquire(none, &[about.shared(1)]),
                inquire(),
                all(),
            ],
        ),
        (
            "wrong version, wrong name, nothing there",
            vec![
                register(),
                about.acquire(none, &[wrong_version]),
                about.acquire(none, &[wrong_name]),
                about.acquire(none, &[about.resource(12)]),
                inquire(),
            ],
        ),
        (
            "zero is no version and no number of hosts",
            vec![
                register(),
                about.acquire(none, one),
                all(),
                about.acquire(none, std::slice::from_ref(&zeros)),
                inquire(),
                all(),
                about.acquire(none, &[zeros]),
                inquire(),
                all(),
            ],
        ),
        (
            "convert there and back",
            vec![
                register(),
                about.acquire(none, one),
                about.convert(first.clone()),
                about.convert(about.shared(1)),
                about.convert(about.shared(1)),
                inquire(),
                about.convert(first.clone()),
                inquire(),
                all(),
            ],
        ),
        (
            "a lock value",
            vec![
                register(),
                about.acquire(none, one),
                value(b"early"),
                all(),
                about.acquire(lvb, one),
                value(b"value"),
                get(0),
                get(3),
                value(&[7; 513]),
                get(5),
                all(),
                about.acquire(lvb, one),
                get(0),
                all(),
            ],
        ),
        (
            "released twice",
            vec![
                register(),
                about.acquire(none, &[first.clone(), second.clone()]),
                about.release(Release::Resources(vec![first.clone(), third])),
                inquire(),
                about.release(Release::Resources(vec![second.clone()])),
                about.release(Release::Resources(vec![second])),
            ],
        ),
    ]
}
