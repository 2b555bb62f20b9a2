//! `sanlock client`: from an action to its function.

use std::io::Write;

use super::actions::{leases, lockspaces, storage};
use super::arguments::Arguments;
use super::stream;

/// The result of an action that was asked for without what it needs.
pub(super) const EINVAL: i32 = -22;

type Action = fn(&Arguments, &mut dyn Write) -> i32;

macro_rules! actions {
    ($($name:literal => $function:path,)*) => {
        /// The names of the actions.
        pub(super) const ACTIONS: &[&str] = &[$($name),*];

        fn function(name: &str) -> Option<Action> {
            match name {
                $($name => Some($function),)*
                _ => None,
            }
        }
    };
}

actions! {
    "status" => stream::status,
    "gets" => lockspaces::gets,
    "host_status" => stream::host_status,
    "renewal" => stream::renewal,
    "set_event" => lockspaces::set_event,
    "set_config" => lockspaces::set_config,
    "log_dump" => lockspaces::log_dump,
    "shutdown" => lockspaces::shutdown,
    "version" => lockspaces::version,
    "add_lockspace" => lockspaces::add,
    "inq_lockspace" => lockspaces::inquire,
    "rem_lockspace" => lockspaces::remove,
    "command" => leases::command,
    "acquire" => leases::acquire,
    "convert" => leases::convert,
    "release" => leases::release,
    "inquire" => leases::inquire,
    "request" => leases::request,
    "examine" => leases::examine,
    "init" => storage::init,
    "read" => storage::read,
    "align" => storage::align,
    "format" => storage::format,
    "create" => storage::create,
    "delete" => storage::delete,
    "lookup" => storage::lookup,
    "update" => storage::update,
    "rebuild" => storage::rebuild,
}

/// Does one action; its result decides the exit status.
pub(super) fn run(name: &str, arguments: &Arguments, out: &mut dyn Write) -> i32 {
    function(name).map_or(EINVAL, |function| function(arguments, out))
}
