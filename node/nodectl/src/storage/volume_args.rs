//! What can be typed about volumes.

use clap::{Args, Subcommand};

use super::args::{Long, size};
use crate::args::Output;

/// A volume.
#[derive(Debug, Args)]
pub(crate) struct VolumeArgument {
    /// DOMAIN/IMAGE/VOLUME
    pub(crate) volume: String,
    /// Whether to stay.
    #[command(flatten)]
    pub(crate) long: Long,
}

/// Where a copy goes.
#[derive(Debug, Args)]
pub(crate) struct CopyArguments {
    /// DOMAIN/IMAGE/VOLUME to copy
    pub(crate) source: String,
    /// Domain of the copy; the source's if left out
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) to: Option<String>,
    /// UUID of the new image
    #[arg(long, value_name = "UUID")]
    pub(crate) image: Option<String>,
    /// UUID of the new volume
    #[arg(long, value_name = "UUID")]
    pub(crate) volume: Option<String>,
    /// raw or cow; the source's if left out
    #[arg(long, value_parser = ["raw", "cow"])]
    pub(crate) format: Option<String>,
    /// Allocate everything at once
    #[arg(long)]
    pub(crate) preallocated: bool,
    /// Copy its bitmaps, too
    #[arg(long)]
    pub(crate) bitmaps: bool,
    /// MiB a second at most
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Whether to stay.
    #[command(flatten)]
    pub(crate) long: Long,
}

/// Volumes and images.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make a volume
    #[command(
        after_help = "Examples:\n  nodectl volume create images --size 20G\n  nodectl volume create images --size 20G --format cow --initial 1G\n  nodectl volume create images --image UUID --parent UUID --format cow"
    )]
    Create {
        /// Domain: UUID, its beginning, or name
        domain: String,
        /// What the guest sees: bytes, or with K, M, G, T
        #[arg(long, value_parser = size)]
        size: Option<u64>,
        /// raw or cow (QCOW2)
        #[arg(long, default_value = "raw", value_parser = ["raw", "cow"])]
        format: String,
        /// Allocate everything at once
        #[arg(long)]
        preallocated: bool,
        /// Room to begin with, of a thin volume on LUNs
        #[arg(long, value_parser = size, value_name = "SIZE")]
        initial: Option<u64>,
        /// UUID of its image; a new one if left out
        #[arg(long, value_name = "UUID")]
        image: Option<String>,
        /// Its UUID; made if left out
        #[arg(long, value_name = "UUID")]
        volume: Option<String>,
        /// UUID of its parent
        #[arg(long, value_name = "UUID")]
        parent: Option<String>,
        /// Image of its parent, if another than its own
        #[arg(long, value_name = "UUID", requires = "parent")]
        parent_image: Option<String>,
        /// Free text
        #[arg(long, default_value = "")]
        description: String,
        /// Whether to stay.
        #[command(flatten)]
        long: Long,
    },
    /// Volumes of a domain
    List {
        /// Domain: UUID, its beginning, or name
        domain: String,
        /// Only those of this image
        #[arg(long, value_name = "UUID")]
        image: Option<String>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Everything known of one
    Show {
        /// DOMAIN/IMAGE/VOLUME
        volume: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Give the guest more, or the volume more room
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
    Extend {
        /// Which.
        #[command(flatten)]
        volume: VolumeArgument,
        /// New size for the guest
        #[arg(long, value_parser = size, group = "what")]
        size: Option<u64>,
        /// Room at least, on LUNs
        #[arg(long, value_parser = size, group = "what", value_name = "SIZE")]
        room: Option<u64>,
    },
    /// Give back room that is not used
    Shrink(VolumeArgument),
    /// Delete a volume that has no children
    Delete {
        /// Which.
        #[command(flatten)]
        volume: VolumeArgument,
        /// Zero it before its room is given back
        #[arg(long)]
        wipe: bool,
        /// Discard it, too
        #[arg(long)]
        discard: bool,
    },
    /// Delete an image with all its volumes
    DeleteImage {
        /// Domain: UUID, its beginning, or name
        domain: String,
        /// UUID of the image
        image: String,
        /// Zero before room is given back
        #[arg(long)]
        wipe: bool,
        /// Discard, too
        #[arg(long)]
        discard: bool,
        /// Whether to stay.
        #[command(flatten)]
        long: Long,
    },
    /// Make an image usable on this host
    Prepare {
        /// Domain: UUID, its beginning, or name
        domain: String,
        /// UUID of the image
        image: String,
        /// Leaf, if not the image's own
        #[arg(long, value_name = "UUID")]
        leaf: Option<String>,
        /// Although a volume of it is illegal
        #[arg(long)]
        allow_illegal: bool,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// The opposite of prepare
    Teardown {
        /// Domain: UUID, its beginning, or name
        domain: String,
        /// UUID of the image
        image: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Copy what a guest sees to a new image
    Copy(CopyArguments),
    /// Copy what a guest sees to a new template
    Template(CopyArguments),
    /// Put a new leaf on an image
    Snapshot {
        /// Domain: UUID, its beginning, or name
        domain: String,
        /// UUID of the image
        image: String,
        /// UUID of the new leaf
        #[arg(long, value_name = "UUID")]
        volume: Option<String>,
        /// Whether to stay.
        #[command(flatten)]
        long: Long,
    },
    /// Merge a volume into its parent, while no guest uses it
    Merge {
        /// The upper one, which goes.
        #[command(flatten)]
        volume: VolumeArgument,
        /// Zero it before its room is given back
        #[arg(long)]
        wipe: bool,
        /// Discard it, too
        #[arg(long)]
        discard: bool,
    },
    /// Bitmaps of a QCOW2 volume, by which backups know what changed
    #[command(subcommand)]
    Bitmap(BitmapCommand),
    /// Map what a volume has become, on this host
    Refresh {
        /// DOMAIN/IMAGE/VOLUME
        volume: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Change what is written about a volume
    #[command(group = clap::ArgGroup::new("change").required(true).multiple(true))]
    Set {
        /// DOMAIN/IMAGE/VOLUME
        volume: String,
        /// May it be used
        #[arg(long, value_parser = ["legal", "illegal"], group = "change")]
        legality: Option<String>,
        /// Free text
        #[arg(long, group = "change")]
        description: Option<String>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Who holds a volume's lease
    Lease {
        /// DOMAIN/IMAGE/VOLUME
        volume: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Watch a guest's drives and extend them in time
    #[command(
        after_help = "Example:\n  nodectl volume watch /run/vm1.qmp --drive disk0=images/IMAGE/VOLUME"
    )]
    Watch {
        /// QMP socket of the guest
        qmp: String,
        /// NODE=DOMAIN/IMAGE/VOLUME; may be repeated
        #[arg(long = "drive", value_name = "DRIVE", required = true)]
        drives: Vec<String>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// End that
    Unwatch {
        /// QMP socket of the guest
        qmp: String,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Tell what happens to a guest that is watched
    #[command(subcommand)]
    Guest(GuestCommand),
}

/// A volume, and how to print.
#[derive(Debug, Args)]
pub(crate) struct BitmapArguments {
    /// DOMAIN/IMAGE/VOLUME
    pub(crate) volume: String,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Bitmaps.
#[derive(Debug, Subcommand)]
pub(crate) enum BitmapCommand {
    /// Show those there are
    List(BitmapArguments),
    /// Make one, which notes all writes from now on
    Add {
        /// Of which.
        #[command(flatten)]
        of: BitmapArguments,
        /// Its name
        name: String,
        /// What one bit stands for: a power of two from 512 to 2G
        #[arg(long, value_parser = size, value_name = "SIZE")]
        granularity: Option<u64>,
        /// Note nothing yet
        #[arg(long)]
        disabled: bool,
    },
    /// Remove one
    Remove {
        /// Of which.
        #[command(flatten)]
        of: BitmapArguments,
        /// Its name
        name: String,
    },
    /// Remove all
    Clear(BitmapArguments),
}

/// A guest, and how to print.
#[derive(Debug, Args)]
pub(crate) struct GuestArguments {
    /// QMP socket of the guest
    pub(crate) qmp: String,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: Output,
}

/// What happens to a guest.
#[derive(Debug, Subcommand)]
pub(crate) enum GuestCommand {
    /// It leaves: its destination maps what volumes become before they grow here
    Migrating {
        /// Which.
        #[command(flatten)]
        guest: GuestArguments,
        /// Socket here at which the destination's storage daemon answers; without
        /// it nothing is extended until the migration ends
        #[arg(long, value_name = "SOCKET")]
        destination: Option<String>,
    },
    /// It has stayed, or is gone
    Stayed(GuestArguments),
    /// Do not continue it for now, although it may have room
    Hold(GuestArguments),
    /// It may be continued again
    Release(GuestArguments),
    /// A disk of it was given another capacity
    Resized {
        /// Which.
        #[command(flatten)]
        guest: GuestArguments,
        /// QEMU's name of the node
        node: String,
    },
    /// A drive is being copied to another thin volume
    Replicating {
        /// Which.
        #[command(flatten)]
        guest: GuestArguments,
        /// QEMU's name of the node
        node: String,
        /// DOMAIN/IMAGE/VOLUME of the copy
        volume: String,
    },
    /// That has ended
    Replicated {
        /// Which.
        #[command(flatten)]
        guest: GuestArguments,
        /// QEMU's name of the node
        node: String,
    },
}
