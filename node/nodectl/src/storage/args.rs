//! What can be typed about storage.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::Output;

/// Whether to stay until long work has ended.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Long {
    /// Do not wait for the end; print the task
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Wait for the end and show progress (the default)
    #[arg(long, conflicts_with = "no_wait")]
    pub(crate) wait: bool,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Connections and LUNs.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Connections, domains, pool and workers at a glance
    #[command(after_help = "Example:\n  nodectl storage status")]
    Status(Output),
    /// LUNs of this host: size, vendor, what is on them, paths
    #[command(after_help = "Example:\n  nodectl storage luns --rescan")]
    Luns {
        /// Look for new ones first
        #[arg(long)]
        rescan: bool,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Look for new and grown LUNs and for domains
    #[command(after_help = "Example:\n  nodectl storage rescan")]
    Rescan(Output),
    /// Ask an iSCSI portal for its targets
    #[command(after_help = "Example:\n  nodectl storage discover 192.0.2.20")]
    Discover {
        /// What to ask, and as whom.
        #[command(flatten)]
        portal: IscsiOrder,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Make a connection and keep it
    #[command(
        subcommand,
        after_help = "Examples:\n  nodectl storage connect iscsi 192.0.2.20 --target iqn.2026-01.com.example:array\n  nodectl storage connect nfs nas.example.com:/images\n  nodectl storage connect local /data/images"
    )]
    Connect(ConnectCommand),
    /// Drop a connection that was asked for here
    #[command(after_help = "Example:\n  nodectl storage disconnect nfs:nas.example.com:/images")]
    Disconnect {
        /// Its id, as storage status shows it
        connection: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// An iSCSI portal and who we are to it.
#[derive(Debug, Args)]
pub(crate) struct IscsiOrder {
    /// Portals, ADDRESS or ADDRESS:PORT
    #[arg(required = true)]
    pub(crate) portals: Vec<String>,
    /// CHAP user
    #[arg(long, requires = "password_file")]
    pub(crate) user: Option<String>,
    /// File with the CHAP password, - for standard input
    #[arg(long, value_name = "FILE", requires = "user")]
    pub(crate) password_file: Option<PathBuf>,
    /// Interface: NAME, or NAME=DEVICE to bind it
    #[arg(long)]
    pub(crate) interface: Option<String>,
}

/// Kinds of connection.
#[derive(Debug, Subcommand)]
pub(crate) enum ConnectCommand {
    /// An iSCSI target
    Iscsi {
        /// Portals, and who we are.
        #[command(flatten)]
        portal: IscsiOrder,
        /// Target name; all that the portals offer if left out
        #[arg(long)]
        target: Option<String>,
        /// User with which the target proves itself
        #[arg(long, requires = "mutual_password_file")]
        mutual_user: Option<String>,
        /// File with that password
        #[arg(long, value_name = "FILE", requires = "mutual_user")]
        mutual_password_file: Option<PathBuf>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Fibre Channel, SAS and other SCSI disks of this host
    Fc {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// An NFS export
    Nfs {
        /// SERVER:/PATH
        export: String,
        /// Protocol: 3, 4, 4.0, 4.1, 4.2 or auto
        #[arg(long, value_name = "VERSION")]
        nfs_version: Option<String>,
        /// Wait for ever for a server that is gone, instead of failing
        #[arg(long)]
        hard: bool,
        /// Further mount option; may be repeated
        #[arg(long = "option", short, value_name = "OPTION")]
        options: Vec<String>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Any file system the kernel can mount
    Posix {
        /// What is mounted
        spec: String,
        /// Type of file system
        #[arg(long = "type", value_name = "TYPE")]
        vfs_type: String,
        /// Mount option; may be repeated
        #[arg(long = "option", short, value_name = "OPTION")]
        options: Vec<String>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// A directory of this host
    Local {
        /// Absolute path
        path: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// A Gluster volume
    Gluster {
        /// SERVER:VOLUME
        volume: String,
        /// Further mount option; may be repeated
        #[arg(long = "option", short, value_name = "OPTION")]
        options: Vec<String>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// A domain.
#[derive(Debug, Args)]
pub(crate) struct DomainName {
    /// UUID, its beginning, or name
    pub(crate) domain: String,
    /// Whether to stay.
    #[command(flatten)]
    pub(crate) long: Long,
}

/// Storage domains.
#[derive(Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// Make a domain on LUNs or on a file system
    #[command(
        group = clap::ArgGroup::new("place").required(true),
        after_help = "Examples:\n  nodectl domain create images --connection nfs:nas.example.com:/images\n  nodectl domain create images --lun 3600140589a2b… --lun 36001405aa…"
    )]
    Create {
        /// What people call it
        name: String,
        /// LUN to use; may be repeated
        #[arg(long = "lun", value_name = "WWID", group = "place")]
        luns: Vec<String>,
        /// Connection to a file system, as storage status shows it
        #[arg(long, value_name = "ID", group = "place")]
        connection: Option<String>,
        /// Its UUID; one is made if left out
        #[arg(long, value_name = "UUID")]
        id: Option<String>,
        /// What it holds
        #[arg(long, default_value = "data", value_parser = ["data", "iso", "export"])]
        class: String,
        /// Version
        #[arg(long, value_parser = clap::value_parser!(u8).range(0..=5))]
        format: Option<u8>,
        /// Bytes of a sector: 512 or 4096; found out if left out
        #[arg(long, value_name = "BYTES")]
        block_size: Option<u32>,
        /// MiB of a lease: 1, 2, 4 or 8
        #[arg(long, value_name = "MIB")]
        alignment: Option<u32>,
        /// Take LUNs that carry something else
        #[arg(long)]
        force: bool,
        /// Whether to stay.
        #[command(flatten)]
        long: Long,
    },
    /// Domains on connected storage
    List(Output),
    /// Everything known of one, and what is wrong with it
    Show {
        /// UUID, its beginning, or name
        domain: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Put it into the pool
    Attach(DomainName),
    /// Take it out of the pool
    Detach {
        /// Which.
        #[command(flatten)]
        name: DomainName,
        /// Although the pool's manager cannot be asked
        #[arg(long)]
        force: bool,
    },
    /// Use it
    Activate(DomainName),
    /// Stop using it
    Deactivate(DomainName),
    /// Make it the master while the old one can be read
    MigrateMaster(DomainName),
    /// Make it the master although the old one cannot be read
    Reconstruct {
        /// Which.
        #[command(flatten)]
        name: DomainName,
        /// Do not ask for the domain's name
        #[arg(long)]
        yes: bool,
    },
    /// Convert it to a newer version
    Upgrade {
        /// Which.
        #[command(flatten)]
        name: DomainName,
        /// Version to convert to
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=5))]
        format: u8,
    },
    /// Add LUNs to a block domain
    #[command(
        after_help = "The LUNs must be seen by every host of the pool.\n\nExample:\n  nodectl domain extend images --lun 3600140589a2b…"
    )]
    Extend {
        /// Which.
        #[command(flatten)]
        name: DomainName,
        /// LUN to add; may be repeated
        #[arg(long = "lun", value_name = "WWID", required = true)]
        luns: Vec<String>,
        /// Take LUNs that carry something else
        #[arg(long)]
        force: bool,
    },
    /// Use what a grown LUN has more
    #[command(
        after_help = "Grow the LUN at the storage first. The disks are asked for their size, the\nmultipath map grows, then the domain. Other hosts of its pool notice by\nthemselves.\n\nExample:\n  nodectl domain grow images --lun 3600140589a2b…"
    )]
    Grow {
        /// Which.
        #[command(flatten)]
        name: DomainName,
        /// The LUN
        #[arg(long, value_name = "WWID")]
        lun: String,
    },
    /// Move everything off a LUN and take it out
    #[command(
        after_help = "Takes as long as copying what is on the LUN, and tells how far it is. Nobody but\nthis host may use the domain meanwhile. Cancelled, it takes back what it has not\nfinished; again, it goes on. The LUN that has the domain's metadata stays.\n\nExample:\n  nodectl domain reduce images --lun 3600140589a2b…"
    )]
    Reduce {
        /// Which.
        #[command(flatten)]
        name: DomainName,
        /// The LUN
        #[arg(long, value_name = "WWID")]
        lun: String,
    },
    /// Destroy a domain that is in no pool, with everything in it
    Remove {
        /// Which.
        #[command(flatten)]
        name: DomainName,
        /// Do not ask for the domain's name
        #[arg(long)]
        yes: bool,
    },
    /// External leases of a domain
    #[command(subcommand)]
    Lease(DomainLeaseCommand),
    /// Configurations of guests kept in a domain (OVF_STORE)
    #[command(subcommand)]
    Ovf(DomainOvfCommand),
}

/// Configurations of guests.
#[derive(Debug, Subcommand)]
pub(crate) enum DomainOvfCommand {
    /// Guests whose configuration the domain has
    List {
        /// UUID, its beginning, or name
        domain: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Print the configuration of one
    Show(GuestName),
    /// Save the configuration of one in place of the one it has
    #[command(after_help = "Example:\n  nodectl domain ovf save images 6a1f… vm.ovf")]
    Save {
        /// Which.
        #[command(flatten)]
        name: GuestName,
        /// The document; - for standard input
        file: PathBuf,
    },
    /// Take one out
    Remove(GuestName),
}

/// A guest and the domain that has its configuration.
#[derive(Debug, Args)]
pub(crate) struct GuestName {
    /// Domain: UUID, its beginning, or name
    pub(crate) domain: String,
    /// UUID of the guest
    pub(crate) guest: String,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// External leases.
#[derive(Debug, Subcommand)]
pub(crate) enum DomainLeaseCommand {
    /// Make one
    Add(LeaseName),
    /// All of a domain
    List {
        /// UUID, its beginning, or name
        domain: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Where one is, and who holds it
    Show(LeaseName),
    /// Remove one
    Remove(LeaseName),
    /// Make index and leases agree again
    Rebuild {
        /// UUID, its beginning, or name
        domain: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// An external lease.
#[derive(Debug, Args)]
pub(crate) struct LeaseName {
    /// Domain: UUID, its beginning, or name
    pub(crate) domain: String,
    /// UUID of the lease
    pub(crate) lease: String,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Long work.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Tasks that run and those that ended
    List(Output),
    /// One of them
    Show {
        /// Its id, or the beginning
        task: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Its progress until it ends
    Watch {
        /// Its id, or the beginning
        task: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// End it
    Cancel {
        /// Its id, or the beginning
        task: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Forget one that has ended
    Forget {
        /// Its id, or the beginning
        task: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// The pool manager's role.
#[derive(Debug, Subcommand)]
pub(crate) enum SpmCommand {
    /// Who has it
    Status(Output),
    /// Take it
    Start(Long),
    /// Give it back
    Stop(Output),
    /// Have another host take it: stop here, and tell it to start
    #[command(after_help = "Example:\n  nodectl spm move 2")]
    Move {
        /// That host's number
        #[arg(value_parser = clap::value_parser!(u16).range(1..=250))]
        host_id: u16,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// The pool.
#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Make a pool of domains, the first its master
    #[command(after_help = "Example:\n  nodectl pool create main images")]
    Create {
        /// What people call it
        name: String,
        /// Its domains
        #[arg(required = true)]
        domains: Vec<String>,
        /// Its UUID; made if left out
        #[arg(long, value_name = "UUID")]
        id: Option<String>,
        /// Whether to stay.
        #[command(flatten)]
        long: Long,
    },
    /// Be a host of a pool
    Connect {
        /// UUID
        pool: String,
        /// This host's number in it
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=250))]
        host_id: u16,
        /// Its master; looked for if left out
        #[arg(long, value_name = "DOMAIN")]
        master: Option<String>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Be no host of it any more
    Disconnect(Output),
    /// What is known of it
    Show(Output),
    /// Read it again
    Refresh(Output),
    /// Convert all of its active domains to a newer version
    #[command(
        after_help = "The master is converted first. Hosts that do not know the version cannot use\nthe pool afterwards, and there is no way back.\n\nExample:\n  nodectl pool upgrade 5"
    )]
    Upgrade {
        /// Version to convert to
        #[arg(value_parser = clap::value_parser!(u8).range(4..=5))]
        format: u8,
        /// Whether to stay.
        #[command(flatten)]
        long: Long,
    },
}

/// A size: bytes, or with K, M, G or T (binary).
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number of bytes, or one with K, M, G or T, such as 20G".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes <= i64::MAX.unsigned_abs())
        .ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read_in_binary_units() {
        assert_eq!(size("20G"), Ok(20 << 30));
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("512"), Ok(512));
        for wrong in ["", "G", "-1", "1.5G", "9999999999T", "1X", "ä", "1ä"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
