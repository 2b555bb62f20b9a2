//! The control socket against clients that mean no good.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test panic as the test does"
)]
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use control::request::{REQUEST_BYTES_MAX, Reply, Request};
use rustix::process::Uid;
use smol::LocalExecutor;
use supervisor::control_socket::{self, Asked};

/// Generous: nothing here is timed.
const PATIENCE: Duration = Duration::from_secs(60);
/// As many as the server takes at once.
const CLIENTS_MAX: usize = 32;

struct Server {
    folder: tempfile::TempDir,
}

/// Serves on a thread and answers every request with an empty list of phases.
/// The thread ends with the test program.
fn server() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let listener = control_socket::bind(&folder.path().join("control.sock")).unwrap();
    std::thread::spawn(move || {
        let executor = Rc::new(LocalExecutor::new());
        let (events, asked) = smol::channel::bounded(4);
        executor
            .spawn(control_socket::serve(
                executor.clone(),
                listener,
                events,
                |asked: Asked| asked,
            ))
            .detach();
        smol::block_on(executor.run(async {
            while let Ok(asked) = asked.recv().await {
                let phases = Vec::new();
                asked.reply.try_send(Reply::Boot { phases }).unwrap();
            }
        }));
    });
    Server { folder }
}

impl Server {
    fn path(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    fn connect(&self) -> Client {
        connect(&self.path())
    }
}

struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

fn connect(path: &Path) -> Client {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let reader = BufReader::new(stream.try_clone().unwrap());
    Client { stream, reader }
}

impl Client {
    fn ask(&mut self) -> Option<Reply> {
        let mut line = serde_json::to_vec(&Request::Boot).unwrap();
        line.push(b'\n');
        self.stream.write_all(&line).unwrap();
        self.answer()
    }

    /// The next answer; `None` when the server hung up.
    fn answer(&mut self) -> Option<Reply> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
            // What the server had not read yet makes its hanging up an error.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer: {error}"),
        }
    }

    fn refusal(&mut self) -> String {
        match self.answer() {
            Some(Reply::Error { message }) => message,
            other => panic!("expected a refusal, not {other:?}"),
        }
    }
}

#[test]
fn the_socket_is_roots_alone_by_its_mode() {
    let server = server();
    let mode = std::fs::metadata(server.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    // A supervisor that starts again takes the place of a socket left behind.
    control_socket::bind(&server.path()).unwrap();
}

#[test]
fn another_user_gets_no_answer_even_where_the_mode_would_let_him_in() {
    let server = server();
    for (path, mode) in [(server.folder.path(), 0o755), (&server.path(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = server.path();
    let stranger = std::thread::spawn(move || {
        // This thread's alone; the test needs root, as the product does.
        let nobody = Uid::from_raw(65_534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may have hung up already.
        stream.write_all(b"{\"request\":\"boot\"}\n").ok();
        let mut heard = Vec::new();
        match stream.read_to_end(&mut heard) {
            Ok(_) => heard,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => heard,
            Err(error) => panic!("not let go: {error}"),
        }
    });
    assert_eq!(stranger.join().unwrap(), b"");
    assert!(server.connect().ask().is_some(), "root is served on");
}

#[test]
fn nonsense_is_answered_with_an_error_and_the_conversation_goes_on() {
    let server = server();
    let mut client = server.connect();
    let deep = "[".repeat(REQUEST_BYTES_MAX / 2) + "\n";
    for nonsense in [
        b"\n".as_slice(),
        b"\xff\xfe\0\n",
        b"{\"request\":\"format-disk\"}\n",
        b"{\"request\":\"boot\",\"more\":1}\n",
        deep.as_bytes(),
    ] {
        client.stream.write_all(nonsense).unwrap();
        assert!(client.refusal().starts_with("request: "));
    }
    assert!(matches!(client.ask(), Some(Reply::Boot { .. })));
}

#[test]
fn an_overlong_or_unfinished_line_ends_the_conversation_with_the_reason() {
    let server = server();
    let mut endless = server.connect();
    endless
        .stream
        .write_all(&vec![b' '; REQUEST_BYTES_MAX])
        .unwrap();
    assert!(
        endless
            .refusal()
            .contains(&format!("longer than {REQUEST_BYTES_MAX} bytes"))
    );
    assert_eq!(endless.answer(), None);

    let mut cut = server.connect();
    cut.stream.write_all(b"{\"request\":").unwrap();
    cut.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(cut.refusal().contains("cut off"));
    assert_eq!(cut.answer(), None);
}

#[test]
fn clients_that_say_nothing_or_hear_nothing_hold_up_nobody_and_one_too_many_is_told_so() {
    let server = server();
    let mut deaf = server.connect();
    deaf.stream.set_nonblocking(true).unwrap();
    while deaf.stream.write(b"{\"request\":\"boot\"}\n").is_ok() {}
    let mut half = server.connect();
    half.stream.write_all(b"{\"requ").unwrap();
    let mut honest = server.connect();
    assert!(matches!(honest.ask(), Some(Reply::Boot { .. })));

    let mut more: Vec<Client> = (3..CLIENTS_MAX).map(|_| server.connect()).collect();
    // Answered, therefore counted.
    for client in &mut more {
        assert!(client.ask().is_some());
    }
    let mut excess = server.connect();
    assert!(
        excess
            .refusal()
            .contains("32 clients are connected already"),
    );
    assert_eq!(excess.answer(), None);
    assert!(honest.ask().is_some(), "those within the limit stay");
}
