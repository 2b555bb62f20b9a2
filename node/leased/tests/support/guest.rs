//! A process that holds leases through the unmodified `libsanlock_client`, so
//! that the daemon may kill it instead of the test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use super::client::Resource;
use super::host::Host;
use super::wait_for;

/// Debian's Python, which has the library's dependencies; others may not.
pub const PYTHON: &str = "/usr/bin/python3";

/// A Python of the system, running a script of the tests.
pub fn python(script: &str, run_dir: &Path) -> Command {
    assert!(
        Path::new(PYTHON).exists(),
        "{PYTHON} is missing; install it with: apt-get install -y python3 python3-sanlock"
    );
    let mut command = Command::new(PYTHON);
    command
        .arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests")
                .join(script),
        )
        .env("SANLOCK_RUN_DIR", run_dir)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The process, registered with a host.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Guest {
    pub fn start(host: &Host) -> Self {
        let mut guest = Self::idle(host);
        assert_eq!(guest.call("register", json!({})), 0, "registers");
        guest
    }

    /// Not registered.
    pub fn idle(host: &Host) -> Self {
        let mut child = python("support/guest.py", host.run_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            child,
            input,
            output,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a call; [`Self::result`] waits for what comes of it.
    pub fn send(&mut self, call: &str, arguments: Value) {
        writeln!(self.input, "{}", json!([call, arguments])).expect("sent");
    }

    /// The whole answer to a call.
    pub fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub fn result(&mut self) -> i64 {
        let answer = self.answer();
        answer["result"]
            .as_i64()
            .unwrap_or_else(|| panic!("no result in {answer}"))
    }

    pub fn ask(&mut self, call: &str, arguments: Value) -> Value {
        self.send(call, arguments);
        self.answer()
    }

    pub fn call(&mut self, call: &str, arguments: Value) -> i64 {
        self.send(call, arguments);
        self.result()
    }

    pub fn acquire(&mut self, resources: impl AsRef<[Resource]>, flags: u32) -> i64 {
        let resources: Vec<Value> = resources.as_ref().iter().map(described).collect();
        self.call("acquire", json!({"resources": resources, "flags": flags}))
    }

    pub fn release(&mut self, resources: impl AsRef<[Resource]>) -> i64 {
        let resources: Vec<Value> = resources.as_ref().iter().map(described).collect();
        self.call("release", json!({"resources": resources}))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("ours").is_none()
    }

    /// Waits until something kills it; the signal.
    pub fn killed_by(&mut self) -> i32 {
        let status = self.ended();
        status
            .signal()
            .unwrap_or_else(|| panic!("ended by itself: {status}"))
    }

    pub fn ended(&mut self) -> ExitStatus {
        wait_for("the guest ends", || self.child.try_wait().expect("ours"))
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ends");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A resource as the script takes it.
pub fn described(resource: &Resource) -> Value {
    json!({
        "lockspace": resource.lockspace,
        "name": resource.name,
        "flags": resource.flags,
        "lver": resource.lver,
        "data32": resource.data32,
        "disks": [[resource.path, resource.offset]],
    })
}
