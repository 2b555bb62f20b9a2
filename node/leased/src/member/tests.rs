//! The renewing thread on a real file, with a wdmd of a few lines.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use control::wdmd::{Command, MESSAGE_BYTES, Message};
use disk_format::{HostId, HostName, LockspaceName};

use super::*;
use crate::area::{self, InitOptions};

/// Serves one connection; passes every expiry on.
fn wdmd(socket: &Path) -> mpsc::Receiver<u64> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let (expiries, received) = mpsc::channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut bytes = [0; MESSAGE_BYTES];
        while stream.read_exact(&mut bytes).is_ok() {
            let message = Message::decode(&bytes);
            if message.command == Command::TestLive.to_wire() {
                expiries.send(message.expire_time_s).ok();
            }
            let answered = [Command::Status, Command::OpenWatchdog].map(Command::to_wire);
            if answered.contains(&message.command) {
                let answer = Message {
                    fire_timeout_s: 60,
                    test_interval_s: 1,
                    ..message
                };
                stream.write_all(&answer.encode()).expect("answered");
            }
        }
    });
    received
}

fn turn_until(member: &mut Member, state: State, renewals: u64) {
    let start = now().boottime;
    loop {
        assert_eq!(member.turn(), None);
        let status = member.lease.status();
        if status.state == state && status.renewals >= renewals {
            return;
        }
        assert!(
            now().boottime.ms_since(start) < 180_000,
            "not {state:?}: {status:?}"
        );
    }
}

#[test]
fn the_renewing_thread_allocates_nothing_while_it_renews_fails_and_loses_the_lease() {
    // Beside the build: direct I/O must work there.
    let program = std::env::current_exe().expect("known");
    let dir = tempfile::tempdir_in(program.parent().expect("a folder")).expect("a directory");
    let disk = dir.path().join("disk");
    let file = std::fs::File::create(&disk).expect("a file");
    file.set_len(1 << 20).expect("a size");
    let lockspace = LockspaceName::new("LS").expect("valid");
    let made = InitOptions {
        io_timeout_s: 1,
        ..InitOptions::new(&disk, lockspace)
    };
    area::init(&made, &mut |_| ()).expect("made");
    let socket = dir.path().join("wdmd");
    let expiries = wdmd(&socket);

    let options = Arc::new(Options {
        lockspace,
        host_id: HostId::new(7).expect("valid"),
        path: disk,
        offset: 0,
        host_name: HostName::new("node-a").expect("valid"),
        io_timeout_s: 1,
        fire_timeout_s: 60,
        watchdog_socket: Some(socket),
        socket: dir.path().join("leased"),
        realtime: false,
    });
    let lease = lease_for(&options);
    let shared = Arc::new(Shared::new(&lease));
    let signal = Arc::new(Signal::default());
    let helper = Helper::start(Arc::clone(&options), Arc::clone(&signal)).expect("a thread");
    let mut member = Member::new(options, Arc::clone(&shared), signal, helper, lease);
    turn_until(&mut member, State::Held, 1);

    let allocated = allocation_counter::measure(|| turn_until(&mut member, State::Held, 4));
    assert_eq!(allocated.count_total, 0, "renewing: {allocated:?}");
    assert!(
        expiries.try_iter().count() >= 4,
        "the watchdog is told of each"
    );

    // Reads end early from here on.
    file.set_len(0).expect("a size");
    let allocated = allocation_counter::measure(|| {
        turn_until(&mut member, State::Failing, 0);
        turn_until(&mut member, State::Lost, 0);
    });
    assert_eq!(allocated.count_total, 0, "failing: {allocated:?}");
    let size = file.metadata().expect("a size").len();
    assert_eq!(size, 0, "a holder that cannot read does not write");
}
