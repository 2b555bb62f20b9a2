//! PID 1 of a Holdfast node.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

const HELP: &str = "\
supervisor: PID 1 of a Holdfast node. The initrd starts it; it takes no
arguments and refuses to run as anything but process 1. Use nodectl to talk to
the one that runs.";

fn main() -> ExitCode {
    if std::process::id() == 1 {
        linux::memory::share_one_heap();
        return match supervisor::init::run() {
            Ok(()) => ExitCode::FAILURE,
            Err(error) => {
                if let Ok(kmsg) = linux::kmsg::Kmsg::open() {
                    kmsg.write(0, &format!("supervisor: {error}; the machine resets"))
                        .ok();
                }
                // The kernel panics when PID 1 ends, and reboots from that.
                ExitCode::FAILURE
            }
        };
    }
    let asked_for_help = std::env::args()
        .nth(1)
        .is_some_and(|word| word == "--help" || word == "-h");
    let text = if asked_for_help {
        HELP.to_owned()
    } else {
        format!(
            "supervisor: runs as process 1 only, this is process {}\n\n{HELP}",
            std::process::id()
        )
    };
    // Nothing better to do if the terminal is gone.
    if asked_for_help {
        writeln!(std::io::stdout(), "{text}").ok();
        return ExitCode::SUCCESS;
    }
    writeln!(std::io::stderr(), "{text}").ok();
    ExitCode::from(2)
}
