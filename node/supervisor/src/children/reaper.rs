//! The one owner of reaping: every ended child is taken here, and only here.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use linux::process::{self, Exit, Spawn};
use smol::channel::{Sender, bounded};

/// Most processes taken in one go, so that a storm of dying strangers cannot
/// hold the loop; the rest comes with the next event.
const BATCH_MAX: usize = 256;

#[derive(Debug)]
enum Owner {
    /// One of the table's children.
    Table,
    /// A command somebody waits for.
    Command(Sender<Exit>),
}

/// Knows whose each process is.
#[derive(Debug, Default)]
pub struct Reaper {
    owners: BTreeMap<u32, Owner>,
}

/// What was reaped.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Processes of the table's children.
    pub children: Vec<(u32, Exit)>,
    /// Orphans that nobody here started.
    pub strangers: u32,
    /// There may be more.
    pub more: bool,
}

impl Reaper {
    /// The process `pid` belongs to the table of children.
    pub fn adopt(&mut self, pid: u32) {
        self.owners.insert(pid, Owner::Table);
    }

    /// Starts a command that ends by itself and returns where its end will be told.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        &mut self,
        what: &Spawn,
    ) -> io::Result<(process::Spawned, smol::channel::Receiver<Exit>)> {
        let spawned = process::spawn(what)?;
        let (told, end) = bounded(1);
        self.owners.insert(spawned.pid, Owner::Command(told));
        Ok((spawned, end))
    }

    /// Takes every process that has ended.
    ///
    /// # Errors
    /// The kernel refuses, which it has no reason to.
    pub fn reap(&mut self) -> io::Result<Reaped> {
        let mut reaped = Reaped::default();
        for _ in 0..BATCH_MAX {
            let Some(pid) = process::peek_exited()? else {
                return Ok(reaped);
            };
            let Some(exit) = process::reap(pid)? else {
                return Ok(reaped);
            };
            match self.owners.remove(&pid) {
                Some(Owner::Table) => reaped.children.push((pid, exit)),
                Some(Owner::Command(told)) => {
                    // Whoever asked may have given up.
                    told.try_send(exit).ok();
                }
                None => reaped.strangers += 1,
            }
        }
        reaped.more = true;
        Ok(reaped)
    }
}

/// How a command went.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub exit: Exit,
    /// The beginning of what it printed.
    pub output: String,
}

/// Most output kept of a command, in bytes.
const OUTPUT_BYTES_MAX: usize = 4096;

/// Runs a command to its end; past `deadline` it is killed and the answer is an error.
///
/// # Errors
/// It cannot be started, or overran its deadline.
pub async fn command(
    reaper: &std::cell::RefCell<Reaper>,
    program: &str,
    arguments: &[&str],
    deadline: Duration,
) -> io::Result<Finished> {
    let what = Spawn {
        program: program.into(),
        arguments: arguments.iter().map(Into::into).collect(),
        environment: super::environment(),
        ..Spawn::default()
    };
    let (spawned, end) = reaper.borrow_mut().start(&what)?;
    let pid = spawned.pid;
    let reading = async move {
        let mut kept = Vec::new();
        if let Some(output) = spawned
            .output
            .and_then(|output| smol::Async::new(std::fs::File::from(output)).ok())
        {
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = output
                .read_with(|mut file| io::Read::read(&mut file, &mut buffer))
                .await
            {
                let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..length.min(room)]);
            }
        }
        kept
    };
    let whole = async {
        let kept = reading.await;
        let exit = end
            .recv()
            .await
            .map_err(|_| io::Error::other("the reaper is gone"))?;
        Ok(Finished {
            exit,
            output: String::from_utf8_lossy(&kept).trim().to_owned(),
        })
    };
    let overdue = async {
        smol::Timer::after(deadline).await;
        process::kill(pid).ok();
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "{program} did not end within {} s and was killed",
                deadline.as_secs()
            ),
        ))
    };
    smol::future::or(whole, overdue).await
}
