//! A cluster left running by `cargo demo --keep`: what is needed to look
//! inside it and to end it.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::node::Node;

/// Name of the record in the demo's directory.
const RECORD: &str = "cluster.json";
/// Ctrl-], which leaves an attached console.
const LEAVE: u8 = 0x1d;
/// Silence after which the answers to commands from a pipe are complete.
const SILENCE: Duration = Duration::from_secs(5);

/// A machine left running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptNode {
    /// Name of the node.
    pub name: String,
    /// QEMU's process id.
    pub pid: u32,
    /// Directory of its sockets.
    pub sockets: PathBuf,
}

impl KeptNode {
    /// What must be known to find `node` again.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        Self {
            name: node.spec.name.clone(),
            pid: node.pid(),
            sockets: node.socket_directory().to_owned(),
        }
    }

    /// Whether the process is still the QEMU that was recorded, and not a
    /// stranger with a recycled number.
    fn runs(&self) -> bool {
        let Ok(command) = fs::read(format!("/proc/{}/cmdline", self.pid)) else {
            return false;
        };
        let sockets = self.sockets.display().to_string();
        command
            .windows(sockets.len())
            .any(|window| window == sockets.as_bytes())
    }
}

/// Writes the record of the machines that run now.
pub fn record(directory: &Path, nodes: &[KeptNode]) -> Result<()> {
    let path = directory.join(RECORD);
    fs::write(&path, serde_json::to_vec_pretty(nodes)?).with_context(|| path.display().to_string())
}

/// Ends whatever an earlier run left behind; answers with the names of the ended.
pub fn stop(directory: &Path) -> Result<Vec<String>> {
    let nodes = load(directory)?;
    let mut ended = Vec::new();
    for node in nodes {
        if node.runs() {
            let pid = i32::try_from(node.pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            let pid = pid.with_context(|| format!("{}: process id {}", node.name, node.pid))?;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                .with_context(|| format!("{}: process {}", node.name, node.pid))?;
            ended.push(node.name.clone());
        }
        // Gone already when an earlier stop was interrupted.
        drop(fs::remove_dir_all(&node.sockets));
    }
    drop(fs::remove_file(directory.join(RECORD)));
    Ok(ended)
}

/// Bridges this terminal to the `nodectl` console of node `number` until Ctrl-]
/// is typed, or the input has ended and its answers are there.
pub fn attach(directory: &Path, number: u8) -> Result<()> {
    let name = format!("node{number}");
    let nodes = load(directory)?;
    let Some(node) = nodes.iter().find(|node| node.name == name && node.runs()) else {
        bail!("{name} is not running; `cargo demo --keep` leaves a cluster running");
    };
    let stream = UnixStream::connect(node.sockets.join("console"))
        .with_context(|| format!("{name}: console (somebody else may be attached)"))?;
    println!(
        "attached to the console of {name}; type a nodectl command (help, status, boot, log), Ctrl-] to leave"
    );
    let terminal = Terminal::raw();
    stream.set_read_timeout(Some(SILENCE))?;
    let ended = Arc::new(AtomicBool::new(false));
    let printer = {
        let (screen, ended) = (stream.try_clone()?, Arc::clone(&ended));
        std::thread::spawn(move || print_until_silent(screen, &ended))
    };
    (&stream).write_all(b"\n")?;
    let mut keys = [0; 256];
    while let Ok(count @ 1..) = std::io::stdin().read(&mut keys) {
        if keys[..count].contains(&LEAVE) {
            stream.shutdown(Shutdown::Both)?;
            break;
        }
        (&stream).write_all(&keys[..count])?;
    }
    // Commands from a pipe end before their answers.
    ended.store(true, Ordering::Relaxed);
    drop(printer.join());
    drop(terminal);
    println!();
    Ok(())
}

/// Shows what the console prints, until it is closed or, once the input has
/// `ended`, says nothing for a while.
fn print_until_silent(mut screen: UnixStream, ended: &AtomicBool) {
    let mut chunk = [0; 4096];
    loop {
        match screen.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                let mut out = std::io::stdout().lock();
                if out
                    .write_all(&chunk[..count])
                    .and_then(|()| out.flush())
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

fn load(directory: &Path) -> Result<Vec<KeptNode>> {
    let path = directory.join(RECORD);
    let Ok(bytes) = fs::read(&path) else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

/// The terminal in raw mode, put back when dropped; nothing away from a terminal.
struct Terminal(Option<rustix::termios::Termios>);

impl Terminal {
    fn raw() -> Self {
        let stdin = std::io::stdin();
        let Ok(before) = rustix::termios::tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        // A terminal that refuses stays usable line by line.
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &raw)
            .unwrap_or_default();
        Self(Some(before))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let stdin = std::io::stdin();
            rustix::termios::tcsetattr(stdin, rustix::termios::OptionalActions::Now, before)
                .unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_process_number_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let sockets = dir.path().join("sockets-of-a-node-long-gone");
        // This test's own process stands for the stranger: killing it would show.
        let stranger = KeptNode {
            name: "node1".to_owned(),
            pid: std::process::id(),
            sockets,
        };
        record(dir.path(), std::slice::from_ref(&stranger)).unwrap();
        assert_eq!(stop(dir.path()).unwrap(), Vec::<String>::new());
        assert_eq!(load(dir.path()).unwrap(), Vec::new());
    }
}
