//! `cargo bench-lease`: ours and the original in one run on the same storage.
//!
//! Each line measures both daemons one after the other on storage of its own
//! made the same way, through the same client. Nothing is asserted: these are
//! figures of the machine they ran on.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

mod client;
mod daemon;
mod storage;
mod table;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sanlock_wire::{Lockspace, Resource};

use client::{Client, disk, name};
use daemon::{Daemon, LOOK, Make};
use storage::{Kind, Storage};
use table::{Unit, head, line, percentile};

const MIB: u64 = 1 << 20;
const GEOMETRY_512_1M: u32 = 0x110;
/// How long one throughput line runs for each daemon.
const THROUGHPUT: Duration = Duration::from_secs(3);
/// How long renewals are watched.
const RENEWALS: Duration = Duration::from_secs(12);
/// The io_timeout here: renewal every 2 s, dead after 8 + 60 s.
const IO_TIMEOUT_S: u32 = 1;
const DEAD_S: f64 = 68.0;

/// Where scratch files go.
struct Places {
    memory: tempfile::TempDir,
    plain: tempfile::TempDir,
}

impl Places {
    fn new() -> Result<Self> {
        Ok(Self {
            memory: tempfile::tempdir_in("/dev/shm").context("a directory in /dev/shm")?,
            plain: tempfile::tempdir()?,
        })
    }

    fn storage(&self, kind: Kind, mib: u64) -> Result<Storage> {
        Storage::new(kind, self.memory.path(), self.plain.path(), mib * MIB)
    }
}

/// A daemon with a lockspace and some leases.
struct Setup {
    daemon: Daemon,
    leases: Vec<Resource>,
    storage: Storage,
    /// Apart from the leases, so that renewals are not measured with them.
    _lockspace_storage: Storage,
}

fn lockspace(path: &Path, offset: u64, number: u64, host_id: u64) -> Result<Lockspace> {
    Ok(Lockspace {
        name: name(&format!("LS{number}"))?,
        host_id,
        flags: GEOMETRY_512_1M,
        disk: disk(path, offset)?,
    })
}

fn lease(path: &Path, number: u64) -> Result<Resource> {
    Ok(Resource {
        lockspace_name: name("LS0")?,
        name: name(&format!("R{number}"))?,
        flags: GEOMETRY_512_1M,
        disks: vec![disk(path, (1 + number) * MIB)?],
        ..Resource::default()
    })
}

impl Setup {
    fn new(places: &Places, make: Make, kind: Kind, count: u64, num_hosts: u32) -> Result<Self> {
        let storage = places.storage(kind, count + 1)?;
        let daemon = Daemon::start(make, places.memory.path(), "host-one")?;
        let lockspace_storage = places.storage(Kind::Memory, 1)?;
        let lockspace = lockspace(&lockspace_storage.path, 0, 0, 1)?;
        let mut client = Client::connect(&daemon.run_dir)?;
        client.write_lockspace(&lockspace, IO_TIMEOUT_S)?;
        let leases = (0..count)
            .map(|number| lease(&storage.path, number))
            .collect::<Result<Vec<_>>>()?;
        for lease in &leases {
            client.write_resource(lease, num_hosts)?;
        }
        client.start_joining(&lockspace, IO_TIMEOUT_S)?;
        client.wait_joined(&lockspace)?;
        Ok(Self {
            daemon,
            leases,
            storage,
            _lockspace_storage: lockspace_storage,
        })
    }
}

/// For each make, in the same order.
fn both<T>(mut with: impl FnMut(Make) -> Result<T>) -> Result<[T; 2]> {
    let [original, ours] = Make::BOTH;
    Ok([with(original)?, with(ours)?])
}

/// One round: acquire and release once, timed.
fn round(client: &mut Client, leases: &[Resource]) -> Result<[Duration; 2]> {
    let start = Instant::now();
    client.acquire(leases.to_vec())?;
    let acquired = start.elapsed();
    let start = Instant::now();
    client.release(leases.to_vec())?;
    Ok([acquired, start.elapsed()])
}

/// Turn and turn about, so that a disk that is slow for a while is so for both.
fn latency(places: &Places, kind: Kind, num_hosts: u32, rounds: usize) -> Result<()> {
    let setups = both(|make| Setup::new(places, make, kind, 1, num_hosts))?;
    let mut samples = [(); 2].map(|()| (Vec::new(), Vec::new()));
    let mut clients = Vec::new();
    for setup in &setups {
        clients.push(Client::registered(&setup.daemon.run_dir)?);
    }
    for _ in 0..rounds {
        for ((setup, client), samples) in setups.iter().zip(&mut clients).zip(&mut samples) {
            let [acquire, release] = round(client, &setup.leases)?;
            samples.0.push(acquire);
            samples.1.push(release);
        }
    }
    let [mut original, mut ours] = samples;
    for (what, share) in [("p50", 0.5), ("p99", 0.99)] {
        let acquire = (
            percentile(&mut original.0, share),
            percentile(&mut ours.0, share),
        );
        let release = (
            percentile(&mut original.1, share),
            percentile(&mut ours.1, share),
        );
        let hosts = hosts(num_hosts);
        let place = kind.to_string();
        let acquire_what = format!("acquire, {hosts} hosts, {what}");
        line(
            &place,
            &acquire_what,
            Unit::Microseconds,
            acquire.0,
            acquire.1,
        );
        let release_what = format!("release, {hosts} hosts, {what}");
        line(
            &place,
            &release_what,
            Unit::Microseconds,
            release.0,
            release.1,
        );
    }
    Ok(())
}

fn hosts(num_hosts: u32) -> u32 {
    if num_hosts == 0 { 2000 } else { num_hosts }
}

fn throughput(places: &Places, kind: Kind, num_hosts: u32, clients: u64) -> Result<()> {
    let [original, ours] = both(|make| {
        let setup = Setup::new(places, make, kind, clients, num_hosts)?;
        let stop = AtomicBool::new(false);
        let cycles = AtomicU64::new(0);
        let start = Instant::now();
        let results = std::thread::scope(|scope| {
            let workers: Vec<_> = setup
                .leases
                .iter()
                .map(|lease| {
                    scope.spawn(|| -> Result<()> {
                        let mut client = Client::registered(&setup.daemon.run_dir)?;
                        while !stop.load(Ordering::Relaxed) {
                            client.acquire(vec![lease.clone()])?;
                            client.release(vec![lease.clone()])?;
                            cycles.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            while start.elapsed() < THROUGHPUT {
                std::thread::park_timeout(LOOK);
            }
            stop.store(true, Ordering::Relaxed);
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|_| bail!("a client panicked")))
                .collect::<Result<Vec<()>>>()
        });
        let elapsed = start.elapsed();
        results?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(cycles.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64())
    })?;
    let what = format!(
        "acquire + release, {} hosts, {clients} clients",
        hosts(num_hosts)
    );
    line(&kind.to_string(), &what, Unit::PerSecond, original, ours);
    Ok(())
}

fn held(places: &Places) -> Result<()> {
    const LEASES: u64 = 1000;
    let [original, ours] = both(|make| {
        let setup = Setup::new(places, make, Kind::Memory, LEASES, 0)?;
        let mut client = Client::registered(&setup.daemon.run_dir)?;
        let start = Instant::now();
        for lease in &setup.leases {
            client.acquire(vec![lease.clone()])?;
        }
        let took = start.elapsed().as_secs_f64() * 1e6;
        let resident = setup.daemon.resident_kib()?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok((took / LEASES as f64, resident as f64))
    })?;
    let place = Kind::Memory.to_string();
    let what = "acquire, while 0 to 1,000 are held, mean";
    line(&place, what, Unit::Microseconds, original.0, ours.0);
    let what = "resident memory with 1,000 leases held";
    line(&place, what, Unit::Kib, original.1, ours.1);
    Ok(())
}

fn renewals(places: &Places, count: u64) -> Result<()> {
    let [original, ours] = both(|make| {
        let storage = places.storage(Kind::Memory, count)?;
        let daemon = Daemon::start(make, places.memory.path(), "host-one")?;
        let spaces = (0..count)
            .map(|number| lockspace(&storage.path, number * MIB, number, 1))
            .collect::<Result<Vec<_>>>()?;
        let mut client = Client::connect(&daemon.run_dir)?;
        for space in &spaces {
            client.write_lockspace(space, IO_TIMEOUT_S)?;
        }
        for space in &spaces {
            // The original's worker is busy until it has joined: a connection each.
            Client::connect(&daemon.run_dir)?.start_joining(space, IO_TIMEOUT_S)?;
        }
        for space in &spaces {
            client.wait_joined(space)?;
        }
        let history = || -> Result<usize> {
            spaces.iter().try_fold(0, |sum, space| {
                Ok(sum + Client::renewals(&daemon.run_dir, space)?.len())
            })
        };
        let (before, cpu_before) = (history()?, daemon.cpu()?);
        let start = Instant::now();
        while start.elapsed() < RENEWALS {
            std::thread::park_timeout(RENEWALS - start.elapsed());
        }
        let cpu = daemon.cpu()? - cpu_before;
        let renewals = history()? - before;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok((
            cpu.as_secs_f64() * 1e6 / renewals as f64,
            daemon.resident_kib()? as f64,
        ))
    })?;
    let place = Kind::Memory.to_string();
    let what = format!("CPU a renewal, {count} lockspaces");
    line(&place, &what, Unit::Microseconds, original.0, ours.0);
    let what = format!("resident memory, {count} lockspaces");
    line(&place, &what, Unit::Kib, original.1, ours.1);
    Ok(())
}

fn io_counts(places: &Places, num_hosts: u32) -> Result<()> {
    const ROUNDS: u32 = 50;
    let [original, ours] = both(|make| {
        let setup = Setup::new(places, make, Kind::Loop, 1, num_hosts)?;
        let mut client = Client::registered(&setup.daemon.run_dir)?;
        let before = setup.storage.ios()?;
        for _ in 0..ROUNDS {
            client.acquire(setup.leases.clone())?;
            client.release(setup.leases.clone())?;
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok((setup.storage.ios()? - before) as f64 / f64::from(ROUNDS))
    })?;
    let what = format!("I/Os of acquire + release, {} hosts", hosts(num_hosts));
    line(&Kind::Loop.to_string(), &what, Unit::Count, original, ours);
    Ok(())
}

/// From the holder's last renewal to the contender's acquisition.
fn take_over(places: &Places) -> Result<()> {
    let run = |make: Make| -> Result<f64> {
        let storage = places.storage(Kind::Memory, 2)?;
        let dir = tempfile::tempdir_in(places.memory.path())?;
        let path: PathBuf = dir.path().join("shared");
        std::fs::rename(&storage.path, &path)?;
        let mut holder = Daemon::start(make, dir.path(), "host-one")?;
        let contender = Daemon::start(make, dir.path(), "host-two")?;
        let spaces = [lockspace(&path, 0, 0, 1)?, lockspace(&path, 0, 0, 2)?];
        let lease = lease(&path, 0)?;
        let mut first = Client::connect(&holder.run_dir)?;
        first.write_lockspace(&spaces[0], IO_TIMEOUT_S)?;
        first.write_resource(&lease, 0)?;
        for (daemon, space) in [&holder, &contender].into_iter().zip(&spaces) {
            let mut client = Client::connect(&daemon.run_dir)?;
            client.start_joining(space, IO_TIMEOUT_S)?;
            client.wait_joined(space)?;
        }
        let mut client = Client::registered(&holder.run_dir)?;
        client.acquire(vec![lease.clone()])?;
        // Renewed at least twice before its death, so that the contender knows it.
        while Client::renewals(&holder.run_dir, &spaces[0])?.len() < 3 {
            std::thread::park_timeout(LOOK);
        }
        holder.kill()?;
        let mut record = [0; 200];
        std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::open(&path)?, &mut record, 0)?;
        let last = disk_format::Leader::decode(&record).timestamp;
        let mut client = Client::registered(&contender.run_dir)?;
        // "The owner is alive" until it has been seen not to renew.
        while client.acquire(vec![lease.clone()]).is_err() {
            std::thread::park_timeout(LOOK);
        }
        let now = std::fs::read_to_string("/proc/uptime")?;
        let now: f64 = now.split(' ').next().unwrap_or_default().parse()?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        Ok(now - last as f64)
    };
    let [original, ours] = std::thread::scope(|scope| {
        let original = scope.spawn(|| run(Make::Original));
        let ours = scope.spawn(|| run(Make::Ours));
        [original, ours].map(|run| run.join().unwrap_or_else(|_| bail!("a client panicked")))
    });
    let what = "take-over after the last renewal, bound 68 s";
    let (original, ours) = (original?, ours?);
    let place = Kind::Memory.to_string();
    line(&place, what, Unit::Seconds, original, ours);
    let what = "of that beyond the bound";
    line(
        &place,
        what,
        Unit::Seconds,
        original - DEAD_S,
        ours - DEAD_S,
    );
    Ok(())
}

/// A part of the benchmark that can be asked for by name.
type Section = (&'static str, fn(&Places) -> Result<()>);

const SECTIONS: [Section; 7] = [
    ("latency", |places| {
        for num_hosts in [0, 64, 7] {
            latency(places, Kind::Memory, num_hosts, 500)?;
        }
        latency(places, Kind::Plain, 0, 100)?;
        latency(places, Kind::Plain, 64, 100)
    }),
    ("throughput", |places| {
        for (num_hosts, clients) in [(0, 8), (0, 64), (64, 8), (64, 64)] {
            throughput(places, Kind::Memory, num_hosts, clients)?;
        }
        throughput(places, Kind::Plain, 64, 64)
    }),
    ("delayed", |places| {
        for micros in [200, 1000, 5000] {
            latency(places, Kind::Delayed(micros), 64, 30)?;
            throughput(places, Kind::Delayed(micros), 64, 64)?;
        }
        Ok(())
    }),
    ("held", held),
    ("renewals", |places| {
        [1, 8, 64]
            .into_iter()
            .try_for_each(|count| renewals(places, count))
    }),
    ("ios", |places| {
        [0, 7]
            .into_iter()
            .try_for_each(|num_hosts| io_counts(places, num_hosts))
    }),
    ("takeover", take_over),
];

fn main() -> Result<()> {
    let mut wanted: Vec<String> = std::env::args().skip(1).collect();
    // What cargo itself adds.
    wanted.retain(|word| word != "--bench");
    let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = wanted.iter().find(|word| !known.contains(&word.as_str())) {
        bail!("section \"{unknown}\": there are {}", known.join(", "));
    }
    let places = Places::new()?;
    head();
    for (section, run) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|word| word == section) {
            run(&places).with_context(|| format!("section {section}"))?;
        }
    }
    Ok(())
}
