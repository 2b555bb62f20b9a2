//! QEMU's machine protocol: one JSON document a line, replies matched by id,
//! events kept in order with the moment they arrived.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::line::lock;

/// How long QEMU may take to answer one command on a busy machine.
const REPLY_PATIENCE: Duration = Duration::from_secs(120);

/// Something QEMU reported by itself.
#[derive(Debug, Clone)]
pub struct Event {
    /// When it arrived.
    pub at: Instant,
    /// `RESET`, `WATCHDOG`, `SHUTDOWN`, `DEVICE_DELETED`…
    pub name: String,
    /// Its data, `null` when it has none.
    pub data: Value,
}

#[derive(Debug, Default)]
struct Incoming {
    replies: BTreeMap<u64, Value>,
    events: Vec<Event>,
    greeted: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    incoming: Mutex<Incoming>,
    arrival: Condvar,
}

/// A session; commands may come from several threads.
#[derive(Debug)]
pub struct Qmp {
    shared: Arc<Shared>,
    writer: Mutex<UnixStream>,
    next_id: AtomicU64,
}

impl Qmp {
    /// Connects, waits for the greeting and leaves negotiation mode.
    pub fn connect(socket: &Path) -> Result<Self> {
        let writer = UnixStream::connect(socket)
            .with_context(|| format!("QMP socket {}", socket.display()))?;
        let reader = writer.try_clone().context("QMP socket")?;
        let shared = Arc::new(Shared::default());
        let sink = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(move || receive(reader, &sink))
            .context("QMP reader thread")?;
        let session = Self {
            shared,
            writer: Mutex::new(writer),
            next_id: AtomicU64::new(1),
        };
        session.wait(REPLY_PATIENCE, "QMP greeting", |incoming| {
            incoming.greeted.then_some(())
        })?;
        session.execute("qmp_capabilities", json!({}))?;
        Ok(session)
    }

    /// Runs a command and answers with its return value.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        lock(&self.writer)
            .write_all(line.as_bytes())
            .with_context(|| format!("QMP {command}"))?;
        let reply = self.wait(REPLY_PATIENCE, &format!("QMP reply to {command}"), |i| {
            i.replies.remove(&id)
        })?;
        if let Some(error) = reply.get("error") {
            bail!(
                "QMP {command}: {}",
                error["desc"].as_str().unwrap_or("refused")
            );
        }
        Ok(reply["return"].clone())
    }

    /// How many events have arrived so far; a later wait may start there.
    #[must_use]
    pub fn event_count(&self) -> usize {
        lock(&self.shared.incoming).events.len()
    }

    /// The events from number `first` on.
    #[must_use]
    pub fn events_from(&self, first: usize) -> Vec<Event> {
        lock(&self.shared.incoming)
            .events
            .get(first..)
            .unwrap_or_default()
            .to_vec()
    }

    /// Waits for an event called `name` among those from number `first` on.
    pub fn wait_event(&self, first: usize, name: &str, patience: Duration) -> Result<Event> {
        self.wait(patience, &format!("QMP event {name}"), |incoming| {
            incoming
                .events
                .iter()
                .skip(first)
                .find(|event| event.name == name)
                .cloned()
        })
    }

    /// Blocks until an event arrives beyond number `seen` or QEMU ends, for
    /// `pause` at most: the breath between two looks at a node.
    pub fn rest(&self, seen: usize, pause: Duration) {
        let incoming = lock(&self.shared.incoming);
        let unchanged = |i: &mut Incoming| i.events.len() <= seen && !i.closed;
        drop(
            self.shared
                .arrival
                .wait_timeout_while(incoming, pause, unchanged)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Whether QEMU has closed the session.
    #[must_use]
    pub fn closed(&self) -> bool {
        lock(&self.shared.incoming).closed
    }

    fn wait<T>(
        &self,
        patience: Duration,
        what: &str,
        mut found: impl FnMut(&mut Incoming) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        let mut incoming = lock(&self.shared.incoming);
        loop {
            if let Some(answer) = found(&mut incoming) {
                return Ok(answer);
            }
            let names: Vec<&str> = incoming
                .events
                .iter()
                .map(|event| event.name.as_str())
                .collect();
            if incoming.closed {
                bail!("{what}: QEMU ended first; events: {names:?}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "{what}: not seen within {} s; events: {names:?}",
                    patience.as_secs()
                );
            }
            incoming = self
                .shared
                .arrival
                .wait_timeout(incoming, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // Ends the reader thread; the peer may be gone already.
        drop(lock(&self.writer).shutdown(std::net::Shutdown::Both));
    }
}

fn receive(reader: UnixStream, sink: &Shared) {
    for line in BufReader::new(reader).lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let mut incoming = lock(&sink.incoming);
        if message.get("QMP").is_some() {
            incoming.greeted = true;
        } else if let Some(name) = message["event"].as_str() {
            let event = Event {
                at: Instant::now(),
                name: name.to_owned(),
                data: message["data"].clone(),
            };
            incoming.events.push(event);
        } else if let Some(id) = message["id"].as_u64() {
            incoming.replies.insert(id, message);
        }
        sink.arrival.notify_all();
    }
    lock(&sink.incoming).closed = true;
    sink.arrival.notify_all();
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A QEMU that greets, then answers each command with the next script line.
    fn scripted(script: &'static [&'static str]) -> (Qmp, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"{\"QMP\": {\"version\": {}}}\n").unwrap();
            let mut commands = BufReader::new(peer.try_clone().unwrap()).lines();
            for answer in script {
                commands.next().unwrap().unwrap();
                peer.write_all(answer.as_bytes()).unwrap();
                peer.write_all(b"\n").unwrap();
            }
        });
        (Qmp::connect(&socket).unwrap(), dir)
    }

    #[test]
    fn a_reply_is_found_behind_events() {
        let (qmp, _dir) = scripted(&[
            r#"{"return": {}, "id": 1}"#,
            "{\"event\": \"RESET\", \"data\": {\"guest\": true}}\n{\"return\": {\"status\": \"running\"}, \"id\": 2}",
        ]);
        assert_eq!(
            qmp.execute("query-status", json!({})).unwrap()["status"],
            "running"
        );
        let event = qmp.wait_event(0, "RESET", Duration::from_secs(60)).unwrap();
        assert_eq!(event.data["guest"], true);
    }

    #[test]
    fn a_refusal_names_the_command_and_the_reason() {
        let (qmp, _dir) = scripted(&[
            r#"{"return": {}, "id": 1}"#,
            r#"{"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}, "id": 2}"#,
        ]);
        let error = qmp
            .execute("device_del", json!({ "id": "x" }))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "QMP device_del: Device 'x' not found");
    }

    #[test]
    fn a_wait_fails_at_once_when_qemu_ends() {
        let (qmp, _dir) = scripted(&[r#"{"return": {}, "id": 1}"#]);
        let error = qmp
            .wait_event(0, "WATCHDOG", Duration::from_secs(600))
            .unwrap_err()
            .to_string();
        assert!(error.contains("QEMU ended first"), "{error}");
    }
}
