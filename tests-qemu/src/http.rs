//! The smallest HTTP server that can feed a network boot: a fixed set of files
//! on the loopback, which a machine's router shows it as the gateway.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct Files {
    port: u16,
    ended: Arc<AtomicBool>,
}

impl Files {
    /// Serves each file under its path.
    pub fn serve(files: &[(&str, &Path)]) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("HTTP server")?;
        let port = listener.local_addr().context("HTTP server")?.port();
        let files: Arc<[(String, PathBuf)]> = files
            .iter()
            .map(|&(name, path)| (name.to_owned(), path.to_owned()))
            .collect();
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let files = Arc::clone(&files);
                // A client that goes away in the middle is its own business.
                std::thread::spawn(move || drop(answer(&stream, &files)));
            }
        });
        Ok(Self { port, ended })
    }

    /// Port on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the listener so that it sees the end.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

/// Answers the requests of one connection in turn.
fn answer(stream: &TcpStream, files: &[(String, PathBuf)]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let mut words = request.split(' ');
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let mut out = stream;
        let Some((_, path)) = files.iter().find(|(name, _)| name == target) else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let mut file = File::open(path)?;
        write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            file.metadata()?.len()
        )?;
        if method != "HEAD" {
            std::io::copy(&mut file, &mut out)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_file_is_served_whole_and_a_stranger_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "hello").unwrap();
        let server = Files::serve(&[("/file", &path)]).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        stream
            .write_all(b"GET /other HTTP/1.1\r\n\r\nGET /file HTTP/1.1\r\n\r\n")
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 404"), "{text}");
        assert!(text.ends_with("Content-Length: 5\r\n\r\nhello"), "{text}");
    }
}
