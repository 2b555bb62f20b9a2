//! Child processes that cannot outlive the harness.
//!
//! A tied command is this very program started again with a marker: it asks the
//! kernel for SIGKILL at its parent's death and then becomes the real program.
//! That covers Ctrl-C, a panic and an abort alike, and needs no `unsafe`. The
//! tie holds to the *thread* that spawned the child, so a thread that starts
//! machines must live as long as they do.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// First argument that turns a run of a harness binary into the tied child.
const MARKER: &str = "--become-tied-child-of";

/// Becomes the tied child if the command line says so; every binary of this
/// crate calls it first. Returns at once otherwise.
pub fn intercept() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().as_deref() != Some(MARKER.as_ref()) {
        return;
    }
    let failure = become_child(arguments);
    eprintln!("tied child: {failure}");
    std::process::exit(127);
}

/// Replaces this process; an answer means failure.
fn become_child(mut arguments: impl Iterator<Item = OsString>) -> String {
    let (Some(parent), Some(program)) = (arguments.next(), arguments.next()) else {
        return "parent and program are missing from the command line".to_owned();
    };
    if let Err(error) =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        return format!("parent-death signal: {error}");
    }
    // The parent may have died before the call above.
    let now = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if parent.to_string_lossy() != now.to_string() {
        return "parent is gone".to_owned();
    }
    let error = Command::new(&program).args(arguments).exec();
    format!("{}: {error}", program.display())
}

/// A command for `program` that dies with this thread.
#[must_use]
pub fn command(program: &str) -> Command {
    // The link resolves in the child, which runs this binary: it works even
    // after a rebuild has replaced the file.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(MARKER)
        .arg(std::process::id().to_string())
        .arg(program);
    command
}
