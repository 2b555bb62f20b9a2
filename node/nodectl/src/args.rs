//! What can be typed: one table of commands from which the parser and every
//! help text come.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::storage::args::{DomainCommand, PoolCommand, SpmCommand, StorageCommand, TaskCommand};
use crate::storage::volume_args::VolumeCommand;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "nodectl",
    bin_name = "nodectl",
    version,
    about = "Look at and steer a Holdfast node",
    after_help = "Examples:\n  nodectl status\n  nodectl lease list --json\n  nodectl config check node1.toml\n\nExit status: 0 done, 1 the answer is no, 2 wrong usage or failure."
)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Where the supervisor and the lease daemon listen.
    #[command(flatten)]
    pub(crate) sockets: Sockets,
}

/// Sockets other than the node's own, for tests and rescue.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Sockets {
    /// Supervisor's socket instead of the node's (also HOLDFAST_SOCKET)
    #[arg(long, global = true, hide = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Lease daemon's socket instead of the node's (also HOLDFAST_LEASED_SOCKET)
    #[arg(long, global = true, hide = true, value_name = "PATH")]
    pub(crate) leased_socket: Option<PathBuf>,
    /// Storage daemon's socket instead of the node's (also HOLDFAST_STORAGED_SOCKET)
    #[arg(long, global = true, hide = true, value_name = "PATH")]
    pub(crate) storaged_socket: Option<PathBuf>,
    /// Directory of the lease daemon's sanlock socket instead of /run/sanlock (also SANLOCK_RUN_DIR)
    #[arg(long, global = true, hide = true, value_name = "DIR")]
    pub(crate) sanlock_dir: Option<PathBuf>,
}

/// A command typed at the console: the same without the program's name.
#[derive(Debug, Parser)]
#[command(
    name = "holdfast",
    no_binary_name = true,
    disable_version_flag = true,
    override_usage = "COMMAND [ARGUMENTS]",
    about = "Commands of this console",
    after_help = "`COMMAND --help` explains one, with an example. An empty line does nothing but prompt again."
)]
pub(crate) struct ConsoleLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the node on one screen
    #[command(after_help = "Example:\n  nodectl status --json")]
    Status(Output),
    /// Show the boot phases and how long each took
    #[command(after_help = "Example:\n  nodectl boot")]
    Boot(Output),
    /// Show the last lines the node logged
    #[command(after_help = "Example:\n  nodectl log -n 20")]
    Log {
        /// Number of lines
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        lines: u32,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Show the management network, or change it
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  nodectl net\n  nodectl net apply node1.toml"
    )]
    Net {
        /// What to do with it.
        #[command(subcommand)]
        command: Option<NetCommand>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Leases this node holds and what it believes of other hosts
    #[command(subcommand, after_help = "Example:\n  nodectl lease list")]
    Lease(LeaseCommand),
    /// Lockspace areas on shared storage
    #[command(
        subcommand,
        after_help = "Example:\n  nodectl lockspace init cluster1 --path /dev/disk/by-id/…"
    )]
    Lockspace(LockspaceCommand),
    /// Connections to storage, and LUNs
    #[command(subcommand, after_help = "Example:\n  nodectl storage luns")]
    Storage(StorageCommand),
    /// Storage domains
    #[command(subcommand, after_help = "Example:\n  nodectl domain list")]
    Domain(DomainCommand),
    /// Volumes and images
    #[command(subcommand, after_help = "Example:\n  nodectl volume list images")]
    Volume(VolumeCommand),
    /// Long work on storage
    #[command(subcommand, after_help = "Example:\n  nodectl task list")]
    Task(TaskCommand),
    /// The role of the pool's manager
    #[command(subcommand, after_help = "Example:\n  nodectl spm status")]
    Spm(SpmCommand),
    /// The storage pool
    #[command(subcommand, after_help = "Example:\n  nodectl pool show")]
    Pool(PoolCommand),
    /// Show what is on a disk, an image file or a storage domain and what is wrong with it, without writing to it
    #[command(
        after_help = "Examples:\n  nodectl inspect /dev/sda\n  nodectl inspect /dev/mapper/360014054953d2ac5 /dev/mapper/3600140541ae85bde\n  nodectl inspect /rhev/data-center/mnt/server:_export\n\nA storage domain may be given as a directory, as the physical volumes of its volume group, or as /dev/VG. Exit status 1: something is wrong with it."
    )]
    Inspect {
        /// Block devices, files or directories
        #[arg(required = true, value_name = "PATH", num_args = 1..=32)]
        paths: Vec<PathBuf>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Configuration documents
    #[command(subcommand, after_help = "Example:\n  nodectl config check node1.toml")]
    Config(ConfigCommand),
    /// Release the leases, stop everything and power off
    #[command(after_help = "Example:\n  nodectl shutdown --yes")]
    Shutdown(Consent),
    /// Release the leases, stop everything and restart
    #[command(after_help = "Example:\n  nodectl reboot --yes")]
    Reboot(Consent),
    /// Take commands from a terminal, line by line
    #[command(
        after_help = "Example:\n  nodectl console   (started on the node's consoles by itself)"
    )]
    Console,
}

/// How a command prints.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Print one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Permission for a command that takes something away.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Consent {
    /// Do not ask for the node's name
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Changes to the network.
#[derive(Debug, Subcommand)]
pub(crate) enum NetCommand {
    /// Apply the network section of a document now; the working set comes back if the gateway stays unreachable
    #[command(
        after_help = "Example:\n  nodectl net apply node1.toml\n  nodectl net apply - <node1.toml --yes"
    )]
    Apply {
        /// Configuration document, - for standard input
        file: PathBuf,
        /// Whether to ask.
        #[command(flatten)]
        consent: Consent,
    },
}

/// Questions to the lease daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// List every lockspace and the hosts seen in it, our own marked
    #[command(after_help = "Example:\n  nodectl lease list --json")]
    List(Output),
    /// Show lockspaces, leases, processes, and who waits for whom
    #[command(after_help = "Example:\n  nodectl lease status --json")]
    Status(Output),
    /// The same, anew each second, until Enter
    #[command(after_help = "Example:\n  nodectl lease watch")]
    Watch,
    /// Show who waits for which lease, for whom, and until when at the latest
    #[command(after_help = "Example:\n  nodectl lease waits")]
    Waits(Output),
    /// Join a lockspace
    #[command(
        after_help = "Example:\n  nodectl lease join cluster1 --host-id 1 --path /dev/vg/ids"
    )]
    Join(JoinOrder),
    /// Leave a lockspace in which no process holds a lease
    #[command(after_help = "Example:\n  nodectl lease leave cluster1")]
    Leave {
        /// Name of the lockspace
        lockspace: String,
    },
    /// Write a new, free lease
    #[command(
        after_help = "Example:\n  nodectl lease create cluster1:vm1 --path /dev/vg/leases --offset 1048576"
    )]
    Create {
        /// Which, and where.
        #[command(flatten)]
        place: ResourcePlace,
        /// Hosts that may use it, fewer making it faster; 0: as many as fit
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2000))]
        num_hosts: u32,
        /// Overwrite what stands there; repeat LOCKSPACE:NAME
        #[arg(long, value_name = "LEASE")]
        force: Option<String>,
    },
    /// Show which hosts hold a lease, by what is on disk
    #[command(
        after_help = "Example:\n  nodectl lease owners cluster1:vm1 --path /dev/vg/leases --offset 1048576"
    )]
    Owners {
        /// Which, and where.
        #[command(flatten)]
        place: ResourcePlace,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Acquire a lease for a registered process
    #[command(
        after_help = "Example:\n  nodectl lease acquire cluster1:vm1 --path /dev/vg/leases --offset 1048576 --pid 4711"
    )]
    Acquire {
        /// Which, and where.
        #[command(flatten)]
        place: ResourcePlace,
        /// The process; it must have registered
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
        /// Together with other shared holders
        #[arg(long)]
        shared: bool,
    },
    /// Give a lease of a process back, while it goes on
    #[command(after_help = "Example:\n  nodectl lease release cluster1:vm1 --pid 4711")]
    Release {
        /// LOCKSPACE:NAME
        lease: String,
        /// The process
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
    },
    /// Turn a held lease shared or exclusive
    #[command(
        group = clap::ArgGroup::new("mode").required(true),
        after_help = "Example:\n  nodectl lease convert cluster1:vm1 --pid 4711 --shared"
    )]
    Convert {
        /// LOCKSPACE:NAME
        lease: String,
        /// The process
        #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
        /// Share it
        #[arg(long, group = "mode")]
        shared: bool,
        /// Have it alone
        #[arg(long, group = "mode")]
        exclusive: bool,
    },
    /// Ask the host that holds a lease to give it back
    #[command(
        after_help = "Example:\n  nodectl lease request cluster1:vm1 --path /dev/vg/leases --offset 1048576"
    )]
    Request {
        /// Which, and where.
        #[command(flatten)]
        place: ResourcePlace,
        /// Have its process killed instead of asked
        #[arg(long)]
        kill: bool,
    },
    /// Run a command that holds a lease for as long as it runs
    #[command(
        after_help = "Example:\n  nodectl lease run cluster1:vm1 --path /dev/vg/leases --offset 1048576 -- /usr/bin/backup --now"
    )]
    Run {
        /// Which, and where.
        #[command(flatten)]
        place: ResourcePlace,
        /// Program and arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
}

/// A lease and where it lies.
#[derive(Debug, Args)]
pub(crate) struct ResourcePlace {
    /// LOCKSPACE:NAME
    pub(crate) lease: String,
    /// Block device or file
    #[arg(long)]
    pub(crate) path: PathBuf,
    /// Byte offset of the lease, a multiple of 1 MiB
    #[arg(long, value_name = "BYTES")]
    pub(crate) offset: u64,
}

/// A lockspace to join.
#[derive(Debug, Args)]
pub(crate) struct JoinOrder {
    /// Name of the lockspace, 1 to 48 bytes
    pub(crate) lockspace: String,
    /// This host's number in it
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(crate) host_id: u16,
    /// Block device or file
    #[arg(long)]
    pub(crate) path: PathBuf,
    /// Byte offset of the area, a multiple of 1 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) offset: u64,
    /// Seconds one read or write may take; 0: the daemon's own
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) io_timeout: u8,
}

/// Work on lockspace areas.
#[derive(Debug, Subcommand)]
pub(crate) enum LockspaceCommand {
    /// Write an empty lockspace area
    #[command(
        after_help = "Example:\n  nodectl lockspace init cluster1 --path /dev/disk/by-id/… --io-timeout 10"
    )]
    Init(LockspaceInit),
    /// Show a lockspace area and the hosts in it, without writing to it
    #[command(after_help = "Example:\n  nodectl lockspace show /dev/disk/by-id/…")]
    Show {
        /// Block device or file
        path: PathBuf,
        /// Byte offset of the area
        #[arg(long, value_name = "BYTES", default_value_t = 0)]
        offset: u64,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// What a new lockspace area shall be.
#[derive(Debug, Args)]
pub(crate) struct LockspaceInit {
    /// Name of the lockspace, 1 to 48 bytes
    pub(crate) name: String,
    /// Block device or file
    #[arg(long)]
    pub(crate) path: PathBuf,
    /// Byte offset of the area, a multiple of 1 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) offset: u64,
    /// Bytes of a sector: 512 or 4096; the device's own if left out
    #[arg(long, value_name = "BYTES")]
    pub(crate) sector_size: Option<u32>,
    /// Size of the area: 1M, 2M, 4M or 8M; 1M for 512-byte sectors and 8M for 4096 if left out
    #[arg(long, value_name = "SIZE", value_parser = align_size)]
    pub(crate) align_size: Option<u32>,
    /// io timeout in seconds, the same as in every node's configuration
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) io_timeout: u8,
    /// Seconds after which the nodes' watchdogs fire, as in their configuration
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=600))]
    pub(crate) fire_timeout: u32,
    /// Overwrite what stands there; NAME is the name of the lockspace that is lost by it, or of the new one
    #[arg(long, value_name = "NAME")]
    pub(crate) force: Option<String>,
}

/// An area's size in bytes.
fn align_size(text: &str) -> Result<u32, String> {
    match text {
        "1M" => Ok(1 << 20),
        "2M" => Ok(2 << 20),
        "4M" => Ok(4 << 20),
        "8M" => Ok(8 << 20),
        _ => Err("must be 1M, 2M, 4M or 8M".to_owned()),
    }
}

/// Work on configuration documents.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report every mistake in a document; works on any machine
    #[command(after_help = "Example:\n  nodectl config check node1.toml")]
    Check {
        /// Configuration document, - for standard input
        file: PathBuf,
    },
    /// Print a document that uses every key, to start from
    #[command(after_help = "Example:\n  nodectl config example >node1.toml")]
    Example,
}
