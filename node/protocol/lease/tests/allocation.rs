//! The renewal path does not allocate: a machine that is out of memory still
//! renews its lease.

use disk_format::{Geometry, HostBitmap, HostId, HostName, Leader, LockspaceName, delta};
use lease::{Config, DeltaLease, Effect, Input, IoOutcome, Monotonic, Now, State};

fn at(seconds: u64) -> Now {
    let clock = Monotonic(seconds * 1_000_000_000);
    Now {
        monotonic: clock,
        boottime: clock,
    }
}

/// Does what the lease asks for, on `area`, at once.
fn serve(lease: &mut DeltaLease, now: Now, area: &mut [u8]) {
    while let Some(effect) = lease.next_effect() {
        match effect {
            Effect::ReadOwn(io) => lease.handle(now, Input::Io(io, IoOutcome::Read(&area[..512]))),
            Effect::ReadArea(io) => lease.handle(now, Input::Io(io, IoOutcome::Read(&area[..512]))),
            Effect::Write { io, record, .. } => {
                area[..512].copy_from_slice(&record);
                lease.handle(now, Input::Io(io, IoOutcome::Written));
            }
            Effect::WatchdogRegister { .. } => lease.handle(now, Input::WatchdogRegistered(true)),
            Effect::WatchdogUpdate { .. } | Effect::WatchdogClear => {}
        }
    }
    while lease.next_note().is_some() {}
}

#[test]
fn renewing_failing_and_losing_a_lease_allocate_nothing() {
    let lockspace = LockspaceName::new("LS").expect("valid");
    let mut area = vec![0; 2000 * 512];
    delta::fill_initial(
        &lockspace,
        Geometry::Sector512Align1M,
        10,
        0,
        true,
        &mut area,
    );
    let mut lease = DeltaLease::new(Config {
        lockspace,
        host_id: HostId::new(1).expect("valid"),
        host_name: HostName::new("a").expect("valid"),
        io_timeout_s: 10,
        fire_timeout_s: 60,
        watchdog: true,
    });
    lease.handle(at(1), Input::Start(Geometry::Sector512Align1M));
    serve(&mut lease, at(1), &mut area);
    lease.handle(at(21), Input::Tick);
    serve(&mut lease, at(21), &mut area);
    assert_eq!(lease.status().state, State::Held);

    let allocated = allocation_counter::measure(|| {
        for second in 22..1000 {
            // All other hosts renew, too.
            for sector in area.chunks_exact_mut(512).skip(1) {
                let leader = delta::leader(sector).expect("512 bytes");
                let renewed = Leader {
                    owner_id: 2,
                    timestamp: second,
                    ..leader
                };
                delta::encode_sector(&renewed, &HostBitmap::EMPTY, sector);
            }
            lease.handle(at(second), Input::Tick);
            serve(&mut lease, at(second), &mut area);
        }
        assert_eq!(lease.status().state, State::Held);
        assert!(lease.status().renewals > 40);
        // Every read fails until the lease is lost.
        for second in 1000..1100 {
            lease.handle(at(second), Input::Tick);
            while let Some(effect) = lease.next_effect() {
                if let Effect::ReadArea(io) = effect {
                    lease.handle(at(second), Input::Io(io, IoOutcome::Failed(5)));
                }
            }
        }
    });
    assert_eq!(lease.status().state, State::Lost);
    assert_eq!(allocated.count_total, 0, "{allocated:?}");
}
