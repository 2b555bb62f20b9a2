//! A serial line: everything received is kept, and waits are for conditions on
//! the text, woken by its arrival.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Most bytes kept; a guest that prints more has its oldest half dropped.
const KEPT_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    /// Bytes dropped from the front.
    dropped: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    received: Mutex<Received>,
    arrival: Condvar,
}

/// One serial line, connected to QEMU's socket.
#[derive(Debug)]
pub struct Line {
    shared: Arc<Shared>,
    writer: UnixStream,
}

impl Line {
    /// Connects to the socket QEMU listens on.
    pub fn connect(socket: &Path) -> Result<Self> {
        let writer = UnixStream::connect(socket)
            .with_context(|| format!("serial line {}", socket.display()))?;
        let mut reader = writer.try_clone().context("serial line")?;
        let shared = Arc::new(Shared::default());
        let sink = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("serial".to_owned())
            .spawn(move || {
                let mut chunk = [0; 4096];
                loop {
                    let count = reader.read(&mut chunk).unwrap_or(0);
                    let mut received = lock(&sink.received);
                    if count == 0 {
                        received.closed = true;
                        sink.arrival.notify_all();
                        return;
                    }
                    received.bytes.extend_from_slice(&chunk[..count]);
                    if received.bytes.len() > KEPT_BYTES_MAX {
                        received.bytes.drain(..KEPT_BYTES_MAX / 2);
                        received.dropped += KEPT_BYTES_MAX / 2;
                    }
                    sink.arrival.notify_all();
                }
            })
            .context("serial reader thread")?;
        Ok(Self { shared, writer })
    }

    /// Sends bytes as if typed.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        (&self.writer)
            .write_all(bytes)
            .context("serial line: write")
    }

    /// Where the text ends now; a later wait may look only at what follows.
    #[must_use]
    pub fn position(&self) -> usize {
        let received = lock(&self.shared.received);
        received.dropped + received.bytes.len()
    }

    /// The text after `position`.
    #[must_use]
    pub fn text_after(&self, position: usize) -> String {
        let received = lock(&self.shared.received);
        after(&received, position)
    }

    /// Whether QEMU has closed its end.
    #[must_use]
    pub fn closed(&self) -> bool {
        lock(&self.shared.received).closed
    }

    /// Waits until `found` answers with something for the text after
    /// `position`, for `patience` at most.
    pub fn wait<T>(
        &self,
        position: usize,
        patience: Duration,
        what: &str,
        mut found: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        let mut received = lock(&self.shared.received);
        loop {
            let text = after(&received, position);
            if let Some(answer) = found(&text) {
                return Ok(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if received.closed {
                bail!(
                    "{what}: the machine ended first; its last words:\n{}",
                    tail(&text, 15)
                );
            }
            if left.is_zero() {
                bail!(
                    "{what}: not seen within {} s; last words:\n{}",
                    patience.as_secs(),
                    tail(&text, 15)
                );
            }
            received = self
                .shared
                .arrival
                .wait_timeout(received, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until the text after `position` contains `needle`.
    pub fn wait_for(&self, position: usize, needle: &str, patience: Duration) -> Result<()> {
        self.wait(
            position,
            patience,
            &format!("{needle:?} on the console"),
            |text| text.contains(needle).then_some(()),
        )
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Ends the reader thread; the peer may be gone already.
        drop(self.writer.shutdown(std::net::Shutdown::Both));
    }
}

fn after(received: &Received, position: usize) -> String {
    let start = position
        .saturating_sub(received.dropped)
        .min(received.bytes.len());
    String::from_utf8_lossy(&received.bytes[start..]).into_owned()
}

/// A poisoned lock means a panicked reader; what it kept is still the best there is.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last `count` lines of a text.
#[must_use]
pub fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn pair() -> (Line, UnixStream, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("line");
        let listener = UnixListener::bind(&socket).unwrap();
        let line = Line::connect(&socket).unwrap();
        let (peer, _) = listener.accept().unwrap();
        (line, peer, dir)
    }

    #[test]
    fn a_wait_ends_when_the_text_has_arrived_in_pieces() {
        let (line, mut peer, _dir) = pair();
        peer.write_all(b"holdf").unwrap();
        peer.write_all(b"ast> ").unwrap();
        line.wait_for(0, "holdfast> ", Duration::from_secs(60))
            .unwrap();
    }

    #[test]
    fn a_wait_looks_only_at_what_follows_its_position() {
        let (line, mut peer, _dir) = pair();
        peer.write_all(b"ready\n").unwrap();
        line.wait_for(0, "ready", Duration::from_secs(60)).unwrap();
        let position = line.position();
        peer.write_all(b"later\n").unwrap();
        line.wait_for(position, "later", Duration::from_secs(60))
            .unwrap();
        assert_eq!(line.text_after(position), "later\n");
    }

    #[test]
    fn a_machine_that_ends_fails_the_wait_and_shows_its_last_words() {
        let (line, mut peer, _dir) = pair();
        peer.write_all(b"Kernel panic\n").unwrap();
        drop(peer);
        let error = line
            .wait_for(0, "ready", Duration::from_secs(600))
            .unwrap_err();
        assert!(error.to_string().contains("Kernel panic"), "{error}");
    }
}
