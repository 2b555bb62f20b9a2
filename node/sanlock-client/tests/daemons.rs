//! Both daemons, through the same calls.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use sanlock_client::{
    Acquire, Client, Code, Error, HostState, Joined, Lockspace, Resource, lease, lockspace,
};
use support::{CALL, DEADLINE, Host, IO_TIMEOUT_S, Kind, disk_dir, file, until};

/// A lockspace at 0, a lease at each MiB after it.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let dir = disk_dir();
        file(&dir.path().join("disk"), 4);
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    fn space(&self, host_id: u64) -> Lockspace {
        lockspace("LS", host_id, &self.path(), None).unwrap()
    }

    fn lease(&self, index: u64) -> Resource {
        lease("LS", &format!("R{index}"), &self.path(), index << 20, None).unwrap()
    }

    fn format(&self, client: &Client) {
        client
            .write_lockspace(&self.space(0), 0, IO_TIMEOUT_S, CALL)
            .unwrap();
        for index in 1..=2 {
            client
                .write_resource(&self.lease(index), 0, false, CALL)
                .unwrap();
        }
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.unwrap_err().code().expect("a refusal")
}

fn both(body: impl Fn(Kind) + Sync) {
    std::thread::scope(|scope| {
        for kind in Kind::BOTH {
            let body = &body;
            scope.spawn(move || body(kind));
        }
    });
}

#[test]
fn a_lockspace_is_made_joined_seen_and_left() {
    both(|kind| {
        let disk = Disk::new();
        let host = Host::start(kind, "one");
        let client = host.client();
        let space = disk.space(1);
        assert_eq!(
            client.inq_lockspace(&space, false, CALL).unwrap(),
            Joined::No
        );
        assert_eq!(code(client.hosts(&space, CALL)), Code::ENOENT);
        assert_eq!(
            code(client.read_resource(&disk.lease(1), CALL)),
            Code::LEADER_MAGIC
        );
        disk.format(&client);
        assert_eq!(
            client.read_resource(&disk.lease(1), CALL).unwrap().name,
            disk.lease(1).name
        );

        client
            .add_lockspace_async(&space, IO_TIMEOUT_S, CALL)
            .unwrap();
        client
            .add_lockspace_async(&space, IO_TIMEOUT_S, CALL)
            .unwrap();
        until("joined", || {
            (client.inq_lockspace(&space, false, CALL).unwrap() == Joined::Yes).then_some(())
        });
        assert_eq!(
            code(client.add_lockspace(&space, IO_TIMEOUT_S, CALL)),
            Code::EEXIST
        );
        assert_eq!(client.lockspaces(CALL).unwrap().len(), 1);
        let (seen, state) = until("seen by itself", || {
            client.host_state(&space, 1, CALL).unwrap()
        });
        assert_eq!((seen.host_id, state), (1, HostState::Live));

        let mut holder = client.register(CALL).unwrap();
        holder
            .acquire(&disk.lease(1), Acquire::default(), CALL)
            .unwrap();
        assert_eq!(code(client.rem_lockspace(&space, true, CALL)), Code::EBUSY);
        holder.release(&disk.lease(1), CALL).unwrap();
        client.rem_lockspace(&space, true, DEADLINE).unwrap();
        assert_eq!(
            client.inq_lockspace(&space, false, CALL).unwrap(),
            Joined::No
        );
    });
}

#[test]
fn the_second_host_is_refused_and_sees_who_holds_it() {
    both(|kind| {
        let disk = Disk::new();
        let other = match kind {
            Kind::Ours => Kind::Original,
            Kind::Original => Kind::Ours,
        };
        let (one, two) = (Host::start(kind, "one"), Host::start(other, "two"));
        disk.format(&one.client());
        std::thread::scope(|scope| {
            scope.spawn(|| one.join(&disk.space(1)));
            scope.spawn(|| two.join(&disk.space(2)));
        });
        let lease = disk.lease(1);
        let mut first = one.client().register(CALL).unwrap();
        first.acquire(&lease, Acquire::default(), CALL).unwrap();
        assert!(first.holds(&lease, CALL).unwrap());
        assert!(!first.holds(&disk.lease(2), CALL).unwrap());
        let held = first.inquire(CALL).unwrap();
        assert_eq!(held.len(), 1);

        let mut second = two.client().register(CALL).unwrap();
        until("the second host knows that the first lives", || {
            let state = two.client().host_state(&disk.space(2), 1, CALL).unwrap();
            (state?.1 == HostState::Live).then_some(())
        });
        let refused = code(second.acquire(&lease, Acquire::default(), CALL));
        assert!(refused.is_held_elsewhere(), "{refused:?}");
        let seen = two.client().read_resource_owners(&lease, CALL).unwrap();
        assert_eq!(seen.owners.len(), 1);
        assert_eq!(seen.owners[0].host_id, 1);
        assert_eq!(seen.resource.lver, held[0].lver);
        assert!(!seen.shared());

        // The connection's end gives it back.
        drop(first);
        until("free", || {
            let seen = two.client().read_resource_owners(&lease, CALL).unwrap();
            seen.owners.is_empty().then_some(())
        });
        second.acquire(&lease, Acquire::default(), CALL).unwrap();
    });
}

#[test]
fn a_value_travels_with_the_lease() {
    both(|kind| {
        let disk = Disk::new();
        let host = Host::start(kind, "one");
        disk.format(&host.client());
        host.join(&disk.space(1));
        let lease = disk.lease(1);
        let how = Acquire {
            value: true,
            ..Acquire::default()
        };
        let mut holder = host.client().register(CALL).unwrap();
        assert_eq!(code(holder.set_value(&lease, b"early", CALL)), Code::ENOENT);
        holder.acquire(&lease, how, CALL).unwrap();
        assert_eq!(holder.value(&lease, CALL).unwrap(), vec![0; 512]);
        assert_eq!(code(holder.set_value(&lease, &[1; 513], CALL)), Code::E2BIG);
        holder
            .set_value(&lease, br#"{"generation":3}"#, CALL)
            .unwrap();
        holder.release(&lease, CALL).unwrap();
        holder.acquire(&lease, how, CALL).unwrap();
        let value = holder.value(&lease, CALL).unwrap();
        assert_eq!(&value[..16], br#"{"generation":3}"#);
        assert!(value[16..].iter().all(|&byte| byte == 0));
    });
}

#[test]
fn a_child_with_the_connection_keeps_the_lease() {
    both(|kind| {
        let disk = Disk::new();
        let host = Host::start(kind, "one");
        disk.format(&host.client());
        host.join(&disk.space(1));
        let lease = disk.lease(1);
        let mut holder = host.client().register(CALL).unwrap();
        holder.acquire(&lease, Acquire::default(), CALL).unwrap();

        // A child that holds the descriptor as its standard error until its
        // input ends.
        let copy = holder.as_fd().try_clone_to_owned().unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(copy)
            .spawn()
            .unwrap();
        drop(holder);
        let client = host.client();
        let mut other = client.register(CALL).unwrap();
        assert_eq!(
            code(other.acquire(&lease, Acquire::default(), CALL)),
            Code::EEXIST
        );
        drop(child.stdin.take());
        child
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut Vec::new())
            .unwrap();
        child.wait().unwrap();
        until("given back", || {
            let done = other.acquire(&lease, Acquire::default(), CALL);
            done.ok()
        });
    });
}

#[test]
fn a_silent_daemon_is_given_up_in_time() {
    let host = Host::start(Kind::Ours, "one");
    host.signal(rustix::process::Signal::STOP);
    let error = host
        .client()
        .lockspaces(Duration::from_millis(300))
        .unwrap_err();
    assert!(matches!(error, Error::Silent { .. }), "{error:?}");
    assert!(error.is_unknown() && error.is_daemon_gone());
    host.signal(rustix::process::Signal::CONT);
    let nobody = Client::new("/nonexistent/sanlock.sock");
    assert!(matches!(
        nobody.lockspaces(CALL).unwrap_err(),
        Error::Absent { .. }
    ));
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let disk = Disk::new();
    let host = Host::start(Kind::Ours, "one");
    disk.format(&host.client());
    host.join(&disk.space(1));
    let mut holder = host.client().register(CALL).unwrap();
    holder
        .acquire(&disk.lease(1), Acquire::default(), CALL)
        .unwrap();
    host.signal(rustix::process::Signal::STOP);
    let silent = holder.inquire(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(silent, Error::Silent { .. }), "{silent:?}");
    host.signal(rustix::process::Signal::CONT);
    holder.release(&disk.lease(1), CALL).unwrap();
    // The first inquiry's answer, with a lease in it, came meanwhile.
    assert!(!holder.holds(&disk.lease(1), CALL).unwrap());
}
