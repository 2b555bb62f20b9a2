//! The commands and how each is served.

use std::fmt;

/// How a command's connection is treated, and whether it acts for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Answered at once; the connection stays.
    Kept,
    /// Answered at once; the server closes the connection after the answer.
    Closed,
    /// May take long; the connection stays; nobody need be registered.
    Slow,
    /// May take long; acts on a registered connection ([`crate::Target`]).
    Registered,
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $class:ident;)*) => {
        /// A command of the protocol. Numbers are the format's.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Command {
            $($(#[$doc])* $name = $number,)*
        }

        impl Command {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The command with this number.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Its number on the wire.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            /// Its name in lower case, as logs and `debug_cmd` have it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// How it is served.
            #[must_use]
            pub const fn class(self) -> Class {
                match self {
                    $(Self::$name => Class::$class,)*
                }
            }
        }
    };
}

commands! {
    /// Makes this connection stand for the process at its other end; never answered.
    Register = 1, "register", Kept;
    /// Joins a lockspace.
    AddLockspace = 2, "add_lockspace", Slow;
    /// Leaves a lockspace.
    RemLockspace = 3, "rem_lockspace", Slow;
    /// Ends the daemon; never answered.
    Shutdown = 4, "shutdown", Closed;
    /// Everything the daemon knows, as a stream.
    Status = 5, "status", Closed;
    /// The last log lines.
    LogDump = 6, "log_dump", Closed;
    /// Takes leases for a process.
    Acquire = 7, "acquire", Registered;
    /// Gives leases back.
    Release = 8, "release", Registered;
    /// The leases of a process, as text.
    Inquire = 9, "inquire", Registered;
    /// Takes rights away from this connection.
    Restrict = 10, "restrict", Kept;
    /// Asks the owner of a lease to give it up.
    Request = 11, "request", Slow;
    /// The align size of a device.
    Align = 12, "align", Slow;
    /// Looks for requests against all leases held in a lockspace.
    ExamineLockspace = 13, "examine_lockspace", Slow;
    /// Looks for a request against one lease.
    ExamineResource = 14, "examine_resource", Slow;
    /// What is known of the hosts of a lockspace, as a stream.
    HostStatus = 15, "host_status", Closed;
    /// Whether a lockspace is joined.
    InqLockspace = 16, "inq_lockspace", Slow;
    /// Sets the program that is run instead of SIGTERM.
    Killpath = 17, "killpath", Registered;
    /// Initialises a lockspace area.
    WriteLockspace = 18, "write_lockspace", Slow;
    /// Initialises a resource area.
    WriteResource = 19, "write_resource", Slow;
    /// Reads a lockspace's name and geometry.
    ReadLockspace = 20, "read_lockspace", Slow;
    /// Reads a resource's names and geometry.
    ReadResource = 21, "read_resource", Slow;
    /// The lockspaces.
    GetLockspaces = 22, "get_lockspaces", Closed;
    /// The hosts of a lockspace.
    GetHosts = 23, "get_hosts", Closed;
    /// Who holds a resource, from disk.
    ReadResourceOwners = 24, "read_resource_owners", Slow;
    /// Sets the value that goes to disk when the lease is released.
    SetLvb = 25, "set_lvb", Slow;
    /// The value read when the lease was acquired.
    GetLvb = 26, "get_lvb", Slow;
    /// Changes between exclusive and shared.
    Convert = 27, "convert", Registered;
    /// Versions of daemon and protocol.
    Version = 28, "version", Kept;
    /// Ends the daemon and says when.
    ShutdownWait = 29, "shutdown_wait", Slow;
    /// Makes this connection receive a lockspace's events.
    RegEvent = 30, "reg_event", Closed;
    /// Forgets event connections that were closed.
    EndEvent = 31, "end_event", Closed;
    /// Sends an event to other hosts.
    SetEvent = 32, "set_event", Slow;
    /// Marks a lockspace as used from outside.
    SetConfig = 33, "set_config", Closed;
    /// The renewal history of a lockspace, as a stream.
    Renewal = 34, "renewal", Closed;
    /// Initialises a resource index.
    FormatRindex = 35, "format_rindex", Slow;
    /// Changes one entry of a resource index.
    UpdateRindex = 36, "update_rindex", Slow;
    /// Finds an entry of a resource index.
    LookupRindex = 37, "lookup_rindex", Slow;
    /// Makes a resource and its index entry.
    CreateResource = 38, "create_resource", Slow;
    /// Clears a resource and its index entry.
    DeleteResource = 39, "delete_resource", Slow;
    /// Makes a resource index anew from the resources found.
    RebuildRindex = 40, "rebuild_rindex", Slow;
    /// Everything this daemon knows, as JSON; the original has no such command.
    Metrics = 1000, "metrics", Closed;
}

impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
