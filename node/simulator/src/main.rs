//! `cargo simulate`: runs seeds and tells what they did.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt};
use simulator::batch::{Plan, batch, explain};
use simulator::kept::{kept, kept_of_storage};
use simulator::run;
use simulator::seen::{Seen, Sight};
use simulator::storage;

const HELP: &str = "\
Runs simulated schedules of many machines on one faulty disk.

cargo simulate                  the kept seeds, then 100,000 others
cargo simulate --seed N         one seed, with its trace
cargo simulate --first N        begin with this seed (default 0)
cargo simulate --count N        so many runs (1000000: some minutes)
cargo simulate --seconds S      at least so long
cargo simulate --first-failure  stop at the first failure, without its trace
cargo simulate --storage ...    the same for mailboxes and the SPM
cargo simulate --race           how long requests take, here and by the
                                original's rules (simulated time)

Exit code: 0 every promise was kept, 1 one was broken, 2 wrong arguments.
";

/// Failures told of each broken promise.
const EXAMPLES: usize = 12;

struct Arguments {
    seed: Option<u64>,
    first: u64,
    count: u64,
    seconds: u64,
    first_failure: bool,
    storage: bool,
    race: bool,
}

fn main() -> ExitCode {
    match work() {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell if even this fails.
            drop(writeln!(io::stderr(), "simulate: {error}"));
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Option<Arguments>, lexopt::Error> {
    let mut arguments = Arguments {
        seed: None,
        first: 0,
        count: 100_000,
        seconds: 0,
        first_failure: false,
        storage: false,
        race: false,
    };
    let mut parser = Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("seed") => arguments.seed = Some(parser.value()?.parse()?),
            Arg::Long("first") => arguments.first = parser.value()?.parse()?,
            Arg::Long("count") => arguments.count = parser.value()?.parse()?,
            Arg::Long("seconds") => arguments.seconds = parser.value()?.parse()?,
            Arg::Long("first-failure") => arguments.first_failure = true,
            Arg::Long("race") => arguments.race = true,
            Arg::Long("storage") => arguments.storage = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(None),
            Arg::Long(_) | Arg::Short(_) | Arg::Value(_) => return Err(argument.unexpected()),
        }
    }
    Ok(Some(arguments))
}

fn work() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut out = io::stdout().lock();
    let Some(arguments) = arguments()? else {
        write!(out, "{HELP}")?;
        return Ok(ExitCode::SUCCESS);
    };
    if arguments.race {
        return race(&mut out);
    }
    if arguments.storage {
        return storage(&mut out, &arguments);
    }
    if let Some(seed) = arguments.seed {
        write!(out, "{}", explain(seed))?;
        let report = run(seed, false);
        tell(&mut out, &report.seen)?;
        return Ok(ExitCode::from(u8::from(report.violation.is_some())));
    }
    let mut failed = Vec::new();
    if arguments.first_failure {
        return first_failure(&mut out, &arguments);
    }
    for kept in kept() {
        if run(kept.seed, false).violation.is_some() {
            writeln!(out, "kept seed {} fails again: {}", kept.seed, kept.reason)?;
            failed.push(kept.seed);
        }
    }
    let outcome = batch(Plan {
        first: arguments.first,
        at_least: arguments.count,
        box_time: Duration::from_secs(arguments.seconds),
        failures_max: 10_000,
    });
    let mut promises = BTreeMap::new();
    for failure in &outcome.failures {
        if let Some(violation) = &failure.violation {
            promises
                .entry(violation.promise)
                .or_insert_with(Vec::new)
                .push((failure.seed, &violation.what));
        }
        failed.push(failure.seed);
    }
    for (promise, failures) in promises {
        writeln!(out, "broken {} times: {promise}", failures.len())?;
        for (seed, what) in failures.iter().take(EXAMPLES) {
            writeln!(out, "  seed {seed}: {what}")?;
        }
    }
    tell(&mut out, &outcome.seen)?;
    let seconds = outcome.took.as_secs_f64();
    writeln!(out, "{} runs in {seconds:.1} s", outcome.runs)?;
    let Some(first) = failed.first() else {
        return Ok(ExitCode::SUCCESS);
    };
    write!(out, "{}", explain(*first))?;
    Ok(ExitCode::FAILURE)
}

fn first_failure(
    out: &mut impl Write,
    arguments: &Arguments,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // What a broken core has to say when it panics is in the report.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = batch(Plan {
        first: arguments.first,
        at_least: arguments.count,
        box_time: Duration::from_secs(arguments.seconds),
        failures_max: 1,
    });
    let runs = outcome.runs;
    let Some(failure) = outcome.failures.first() else {
        writeln!(out, "{runs} runs keep every promise")?;
        return Ok(ExitCode::SUCCESS);
    };
    if let Some(violation) = &failure.violation {
        let seed = failure.seed;
        let (promise, what) = (violation.promise, &violation.what);
        writeln!(out, "after {runs} runs, seed {seed}: {promise}: {what}")?;
    }
    Ok(ExitCode::FAILURE)
}

fn tell(out: &mut impl Write, seen: &Seen) -> io::Result<()> {
    for sight in Sight::ALL {
        writeln!(out, "{:>12}  {}", seen.of(*sight), sight.text())?;
    }
    Ok(())
}

/// The same, in the storage world.
fn storage(
    out: &mut impl Write,
    arguments: &Arguments,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    if let Some(seed) = arguments.seed {
        write!(out, "{}", storage::batch::explain(seed))?;
        let report = storage::run(seed, false);
        return Ok(ExitCode::from(u8::from(report.violation.is_some())));
    }
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = Vec::new();
    if !arguments.first_failure {
        let seeds = kept_of_storage().into_iter().map(|kept| kept.seed);
        failed.extend(seeds.filter(|seed| storage::run(*seed, false).violation.is_some()));
    }
    let outcome = storage::batch::batch(Plan {
        first: arguments.first,
        at_least: arguments.count,
        box_time: Duration::from_secs(arguments.seconds),
        failures_max: if arguments.first_failure { 1 } else { 100 },
    });
    for failure in &outcome.failures {
        if let Some(violation) = &failure.violation {
            let (promise, what) = (violation.promise, &violation.what);
            writeln!(out, "seed {}: {promise}: {what}", failure.seed)?;
        }
        failed.push(failure.seed);
    }
    if !arguments.first_failure {
        for (sight, text) in storage::seen::SIGHTS {
            writeln!(out, "{:>12}  {text}", outcome.seen.of(*sight))?;
        }
    }
    let seconds = outcome.took.as_secs_f64();
    writeln!(out, "{} runs in {seconds:.1} s", outcome.runs)?;
    Ok(ExitCode::from(u8::from(!failed.is_empty())))
}

/// Latency and throughput, both kinds of hosts and SPMs, in simulated time.
fn race(out: &mut impl Write) -> Result<ExitCode, Box<dyn std::error::Error>> {
    for commit_ms in [20, 250, 500] {
        for hosts in [2, 50, 249] {
            for original in [false, true] {
                let race = storage::race::steady(hosts, original, commit_ms);
                let kind = if original { "original" } else { "ours" };
                writeln!(
                    out,
                    "{hosts:>4} hosts, commit {commit_ms:>3} ms, {kind:<8}: \
                     p50 {:>6} ms, p99 {:>6} ms, {} requests in {} commits",
                    race.p50_ms, race.p99_ms, race.requests, race.commits
                )?;
            }
        }
        for original in [false, true] {
            let storm = storage::race::storm(249, original, commit_ms);
            let kind = if original { "original" } else { "ours" };
            writeln!(
                out,
                " 249 hosts at once, commit {commit_ms:>3} ms, {kind:<8}: \
                 all done after {} ms, {} commits",
                storm.p99_ms, storm.commits
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
