//! The real binary, and a peer that answers it over a real socket.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

/// What a run of the binary left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A directory with sockets in it, and the binary told to use them.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) dir: TempDir,
}

impl Node {
    /// A node nobody answers for.
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("temporary directory"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file in the directory.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("file written");
        path
    }

    /// Lets `answer` speak for the supervisor; requests are kept. `None` keeps
    /// the connection open and says nothing.
    pub(crate) fn supervisor(
        &self,
        answer: impl Fn(&str) -> Option<String> + Send + 'static,
    ) -> Requests {
        serve(&self.path("control.sock"), answer)
    }

    /// The same for the lease daemon.
    pub(crate) fn leased(
        &self,
        answer: impl Fn(&str) -> Option<String> + Send + 'static,
    ) -> Requests {
        serve(&self.path("leased.sock"), answer)
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodectl"));
        command
            .args(args)
            .env("HOLDFAST_SOCKET", self.path("control.sock"))
            .env("HOLDFAST_LEASED_SOCKET", self.path("leased.sock"));
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.run_with(args, "")
    }

    /// Runs it with `input` on standard input.
    pub(crate) fn run_with<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nodectl runs");
        // It may end without reading any.
        drop(
            child
                .stdin
                .take()
                .expect("piped")
                .write_all(input.as_bytes()),
        );
        let output = child.wait_with_output().expect("nodectl ends");
        Ran {
            status: output.status.code().expect("no signal"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }
}

/// Requests received so far.
pub(crate) type Requests = Arc<Mutex<Vec<String>>>;

fn serve(path: &Path, answer: impl Fn(&str) -> Option<String> + Send + 'static) -> Requests {
    let requests = Requests::default();
    let listener = UnixListener::bind(path).expect("socket bound");
    let kept = Arc::clone(&requests);
    // Ends with the test process.
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.expect("connection");
            let mut request = String::new();
            BufReader::new(&stream)
                .read_line(&mut request)
                .expect("request");
            let answer = answer(request.trim_end());
            kept.lock()
                .expect("lock")
                .push(request.trim_end().to_owned());
            match answer {
                Some(answer) => drop(stream.write_all(format!("{answer}\n").as_bytes())),
                None => silent.push(stream),
            }
        }
    });
    requests
}

/// Runs the original tool.
pub(crate) fn sanlock<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> String {
    let output = Command::new("sanlock")
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("sanlock cannot be run ({error}); install it: apt-get install --yes sanlock")
        });
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sanlock: {text}");
    text
}
