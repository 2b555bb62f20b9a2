//! What hosts tell each other through the disk, ours and the original in both
//! directions: requests to let go, events, and the resource index they share.

mod support;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::json;
use support::client::{Space, code, command, flag, rentry, rindex, u64_at};
use support::guest::Guest;
use support::host::{Cluster, Disk, Host, Kind, Storage, every_setting};
use support::wait_for;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const REQUEST_OLD: i32 = -272;
const REQUEST_LVER: i32 = -273;

/// Holder, asking host, number of a resource of their own: both ways round.
fn both_ways(cluster: &Cluster) -> [(&Host, &Host, u64); 2] {
    [
        (&cluster.first, &cluster.second, 0),
        (&cluster.second, &cluster.first, 6),
    ]
}

#[test]
fn a_request_from_another_host_ends_the_holder_as_asked() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 12);
        let scratch = tempfile::tempdir().expect("a directory");
        for (holder, asker, base) in both_ways(&cluster) {
            let lease = |index| cluster.disk.resource(base + index);
            let hold = |index| {
                let mut guest = Guest::start(holder);
                assert_eq!(guest.acquire(&[lease(index)], 0), 0);
                guest
            };
            let mut forced = hold(1);
            let mut asked = hold(2);
            let mut spared_kill = hold(3);
            let mut spared_term = hold(4);
            let mut with_killpath = Guest::start(holder);
            let mut ordinary = hold(6);

            // Restrictions count from the acquire that follows them.
            for (guest, flags, index) in [(&mut spared_kill, 2, 3), (&mut spared_term, 4, 4)] {
                assert_eq!(guest.release(&[lease(index)]), 0);
                assert_eq!(guest.call("restrict", json!({"flags": flags})), 0);
                assert_eq!(guest.acquire(&[lease(index)], 0), 0);
            }
            let ran = scratch.path().join(format!("ran-{base}"));
            let killpath = scratch.path().join(format!("killpath-{base}"));
            let script = format!("#!/bin/sh\necho \"$@\" >>{}\n", ran.display());
            std::fs::write(&killpath, script).expect("written");
            std::fs::set_permissions(&killpath, std::fs::Permissions::from_mode(0o755))
                .expect("executable");
            let call = json!({"path": killpath, "args": "one two", "flags": 1});
            assert_eq!(with_killpath.call("killpath", call), 0);
            assert_eq!(with_killpath.acquire(&[lease(5)], 0), 0);

            let next = flag::NEXT_LVER;
            let ask = |index, mode| {
                assert_eq!(asker.request(&lease(index), mode, next), code::OK);
            };
            ask(1, flag::REQUEST_FORCE);
            ask(2, flag::REQUEST_GRACEFUL);
            ask(3, flag::REQUEST_FORCE);
            ask(4, flag::REQUEST_GRACEFUL);
            ask(5, flag::REQUEST_GRACEFUL);
            assert_eq!(forced.killed_by(), SIGKILL);
            assert_eq!(asked.killed_by(), SIGTERM);
            assert_eq!(spared_kill.killed_by(), SIGTERM);
            assert_eq!(spared_term.killed_by(), SIGKILL);
            let arguments = wait_for("the killpath ran", || {
                let text = std::fs::read_to_string(&ran).ok()?;
                text.ends_with('\n').then_some(text)
            });
            assert!(arguments.starts_with("one two"), "{arguments}");
            assert!(with_killpath.is_running(), "killpath in place of a signal");
            assert!(ordinary.is_running(), "nobody asked for its lease");

            // Who asked gets it, and the request is then an old one.
            let mut client = asker.registered();
            wait_for("the asker has it", || {
                let result = client.acquire(&[lease(1)], 0);
                (result == code::OK).then_some(())
            });
            assert_eq!(holder.lver(&lease(1)), 2);
            let old = lease(1).version(2);
            assert_eq!(holder.request(&old, flag::REQUEST_FORCE, 0), REQUEST_OLD);
        }
    });
}

#[test]
fn requests_are_written_only_where_they_mean_something() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 2);
        for (index, (holder, asker)) in [
            (1, (&cluster.first, &cluster.second)),
            (2, (&cluster.second, &cluster.first)),
        ] {
            let lease = cluster.disk.resource(index);
            let sector = storage.sector();
            let record = || cluster.disk.bytes(lease.offset + sector, 24);
            let force = flag::REQUEST_FORCE;
            let before = record();
            assert_eq!(asker.request(&lease, force, flag::NEXT_LVER), code::OK);
            assert_eq!(record(), before, "a free lease needs no request");

            let mut client = holder.registered();
            assert_eq!(client.acquire(&lease, 0), code::OK);
            let of = |lver| lease.version(lver);
            assert_eq!(asker.request(&of(1), force, 0), REQUEST_OLD);
            // The mode that asks for nothing: heard of, no signal sent.
            assert_eq!(asker.request(&of(5), 0, 0), code::OK);
            assert_eq!(u64_at(&record(), 8), 5);
            assert_eq!(asker.request(&of(4), 0, 0), REQUEST_LVER);
            assert_eq!(asker.request(&of(6), 0, 0), code::OK);
            assert_eq!(u64_at(&record(), 8), 6);
            // Version 0 and no mode clear it.
            assert_eq!(holder.request(&lease, 0, 0), code::OK);
            assert_eq!(u64_at(&record(), 8), 0);
            assert_eq!(client.release(&lease), code::OK);
        }
    });
}

#[test]
fn an_event_reaches_the_host_it_is_for_and_nobody_else() {
    every_setting(|kinds, storage| {
        let cluster = Cluster::start(kinds, storage, 1);
        let space = cluster.disk.space();
        for (sender, from, receiver, to, event) in [
            (&cluster.first, 1, &cluster.second, 2, 0x13),
            (&cluster.second, 2, &cluster.first, 1, 0x17),
        ] {
            let mut listening = receiver.events(&space);
            let mut also = receiver.events(&space);
            let own = sender.events(&space);
            let set = |event, flags| sender.set_event(&space, (to, 1), event, 0x23, flags);
            assert_eq!(set(event, 0), code::OK);
            // Another at once is refused, unless it may replace the first.
            assert_eq!(set(event + 1, 0), code::EBUSY);
            for connection in [&mut listening, &mut also] {
                let got = connection.event();
                assert_eq!((got.host_id, got.generation), (to, 1), "{got:?}");
                assert_eq!((got.event, got.data), (event, 0x23), "{got:?}");
                assert_eq!(
                    (got.from_host_id, got.from_generation),
                    (from, cluster.disk.generation(from))
                );
            }
            // The sender may hear the other's event again, never its own.
            let mut heard = [0; 80];
            own.stream().set_nonblocking(true).expect("set");
            while own.stream().read_exact(&mut heard).is_ok() {
                assert_ne!(u64_at(&heard, 64), from, "its own event");
            }
            assert_eq!(set(event + 1, 0x8), code::OK);
            wait_for("the replaced event", || {
                (listening.event().event == event + 1).then_some(())
            });
        }
        let unknown = Space {
            name: "nowhere".to_owned(),
            ..space.clone()
        };
        for host in [&cluster.first, &cluster.second] {
            assert_eq!(host.set_event(&unknown, (1, 1), 1, 0, 0), code::ENOENT);
            assert_eq!(host.set_event(&space, (0, 1), 1, 0, 0), code::EINVAL);
            assert_eq!(host.set_event(&space, (2001, 1), 1, 0, 0), code::EINVAL);
        }
    });
}

#[test]
fn both_fill_one_index_and_renew_while_the_other_rebuilds_it() {
    every_setting(|kinds, storage| {
        const EACH: u64 = 3;
        // Lockspace, one spare area, index, its lease, resources.
        let disk = Disk::new(storage, 4 + 2 * EACH);
        let align = storage.align();
        let hosts = [
            Host::start(kinds.0, "host-one"),
            Host::start(kinds.1, "host-two"),
        ];
        let space = disk.space();
        hosts[0].init_space(&disk.space(), 1);
        thread::scope(|scope| {
            for (host, host_id) in hosts.iter().zip(1..) {
                let space = &space;
                scope.spawn(move || assert_eq!(host.join(space, host_id, 1), code::OK));
            }
        });
        let index = Space {
            offset: 2 * align,
            flags: geometry_flags(storage),
            ..disk.space()
        };
        let x = rindex(&index, u32::try_from(2 * EACH).expect("small"));
        let format = hosts[1].call(command::FORMAT_RINDEX, 0, 0, 0, &x);
        assert_eq!(format.result, code::OK);

        // Each in its turn, at the same time: a busy index is asked again. Who
        // is done goes on using it: an original that another host made owner
        // of the index cannot give it back until it takes it once more.
        let busy = |result| matches!(result, 0 | -16 | -11 | -247..=-243);
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for host in &hosts {
                let (x, done) = (&x, &done);
                scope.spawn(move || {
                    for number in 1..=EACH {
                        let name = format!("{}-{number}", host.name);
                        let payload = [x.clone(), rentry(&name, 0)].concat();
                        wait_for(&format!("{name} created"), || {
                            let create = command::CREATE_RESOURCE;
                            let reply = host.call(create, 0, 0, 0, &payload);
                            assert!(busy(reply.result), "create {name}: {}", reply.result);
                            (reply.result == code::OK).then_some(())
                        });
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                    wait_for("the other is done", || {
                        let reply = host.call(command::REBUILD_RINDEX, 0, 0, 0, x);
                        assert!(busy(reply.result), "rebuild: {}", reply.result);
                        (done.load(Ordering::SeqCst) == 2).then_some(())
                    });
                });
            }
        });
        let lookup = |host: &Host, name: &str| {
            let payload = [x.clone(), rentry(name, 0)].concat();
            let reply = host.call(command::LOOKUP_RINDEX, 0, 0, 0, &payload);
            (reply.result, reply.body.get(48..56).map(|at| u64_at(at, 0)))
        };
        let names: Vec<_> = hosts
            .iter()
            .flat_map(|host| (1..=EACH).map(|number| format!("{}-{number}", host.name)))
            .collect();
        let mut offsets = Vec::new();
        for name in &names {
            let (result, offset) = lookup(&hosts[0], name);
            assert_eq!((result, offset), lookup(&hosts[1], name), "{name}");
            assert_eq!(result, code::OK, "{name}");
            offsets.extend(offset);
        }
        offsets.sort_unstable();
        let expected: Vec<_> = (4..4 + 2 * EACH).map(|area| area * align).collect();
        assert_eq!(offsets, expected, "one area each");

        // Each rebuilds until the other has renewed three times.
        for (rebuilder, other, other_id) in [(&hosts[0], &hosts[1], 2), (&hosts[1], &hosts[0], 1)] {
            let mut seen = std::collections::BTreeSet::new();
            wait_for("renewals while the other rebuilds", || {
                let reply = rebuilder.call(command::REBUILD_RINDEX, 0, 0, 0, &x);
                assert!(busy(reply.result), "{}: {}", rebuilder.kind, reply.result);
                if reply.result != code::OK {
                    // The other must give it back first, as above.
                    other.call(command::REBUILD_RINDEX, 0, 0, 0, &x);
                    return None;
                }
                seen.insert(disk.renewed_at(other_id));
                (seen.len() > 3).then_some(())
            });
        }
        for name in &names {
            assert_eq!(lookup(&hosts[0], name), lookup(&hosts[1], name), "{name}");
            assert_eq!(
                lookup(&hosts[0], name).0,
                code::OK,
                "{name} after a rebuild"
            );
        }
        // One deletes what the other made; the slot is the next to be used.
        let payload = [x.clone(), rentry(&names[0], 0)].concat();
        wait_for("deleted", || {
            let reply = hosts[1].call(command::DELETE_RESOURCE, 0, 0, 0, &payload);
            assert!(busy(reply.result), "delete: {}", reply.result);
            (reply.result == code::OK).then_some(())
        });
        assert_eq!(lookup(&hosts[0], &names[0]).0, code::ENOENT);
    });
}

fn geometry_flags(storage: Storage) -> u32 {
    match storage {
        Storage::File => 0x10 | 0x100,
        Storage::Loop4096 => 0x80 | 0x200,
    }
}

/// The original's answer to a request for a shared lease is in `defects.rs`.
#[test]
fn requests_leave_our_shared_holders_alone() {
    let cluster = Cluster::start((Kind::Ours, Kind::Original), Storage::File, 1);
    let lease = cluster.disk.resource(1);
    let mut guest = Guest::start(&cluster.first);
    assert_eq!(guest.acquire(&[lease.shared()], 0), 0);
    let force = flag::REQUEST_FORCE;
    // The leader of a shared lease is free: an ordinary request is not written.
    assert_eq!(
        cluster.second.request(&lease, force, flag::NEXT_LVER),
        code::OK
    );
    assert!(guest.is_running());
    assert_eq!(cluster.first.owner_ids(&lease), [1]);
}
