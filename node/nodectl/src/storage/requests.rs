//! From what was typed to what is asked.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use control::storage::Format;
use control::storage::connection::{Chap, Connection, Secret};
use control::storage::ovf::OVF_BYTES_MAX;
use control::storage::request::{
    BitmapChange, Class, CopyTarget, DomainRequest, GuestChange, NewDomain, NewPlace, NewVolume,
    VolumeRequest, WatchedDrive,
};

use super::args::{ConnectCommand, DomainCommand, IscsiOrder, Long};
use super::volume_args::{BitmapCommand, CopyArguments, GuestCommand, VolumeCommand};
use super::volume_name;
use crate::args::Output;
use crate::session::Session;

/// A request, and how it is to be asked.
pub(super) enum Asked {
    /// Answered at once.
    Short(VolumeRequest, Output),
    /// A task.
    Long(VolumeRequest, Long),
}

/// A connection as it was typed.
pub(super) fn connection(
    command: ConnectCommand,
    session: &mut Session<'_>,
) -> Result<(Connection, Output)> {
    Ok(match command {
        ConnectCommand::Iscsi {
            portal,
            target,
            mutual_user,
            mutual_password_file,
            output,
        } => {
            let mutual = chap(mutual_user, mutual_password_file.as_deref(), session)?;
            (iscsi(portal, target, mutual, session)?, output)
        }
        ConnectCommand::Fc { output } => (Connection::Fc {}, output),
        ConnectCommand::Nfs {
            export,
            nfs_version,
            hard,
            options,
            output,
        } => {
            let connection = Connection::Nfs {
                export,
                version: nfs_version,
                timeo: None,
                retrans: None,
                options,
                hard,
            };
            (connection, output)
        }
        ConnectCommand::Posix {
            spec,
            vfs_type,
            options,
            output,
        } => {
            let connection = Connection::Posix {
                spec,
                vfs_type,
                options,
            };
            (connection, output)
        }
        ConnectCommand::Local { path, output } => (Connection::Local { path }, output),
        ConnectCommand::Gluster {
            volume,
            options,
            output,
        } => (Connection::Gluster { volume, options }, output),
    })
}

/// An iSCSI target as it was typed.
pub(super) fn iscsi(
    portal: IscsiOrder,
    target: Option<String>,
    mutual_chap: Option<Chap>,
    session: &mut Session<'_>,
) -> Result<Connection> {
    let chap = chap(portal.user, portal.password_file.as_deref(), session)?;
    Ok(Connection::Iscsi {
        portals: portal.portals,
        target,
        chap,
        mutual_chap,
        interface: portal.interface,
    })
}

/// The configuration of a guest that is to be saved.
pub(super) fn ovf(file: &Path, session: &mut Session<'_>) -> Result<String> {
    let bytes = session.document(file)?;
    ensure!(
        bytes.len() <= OVF_BYTES_MAX,
        "{}: more than {OVF_BYTES_MAX} bytes",
        file.display()
    );
    String::from_utf8(bytes).with_context(|| format!("{}: no text", file.display()))
}

fn chap(
    user: Option<String>,
    file: Option<&Path>,
    session: &mut Session<'_>,
) -> Result<Option<Chap>> {
    let (Some(user), Some(file)) = (user, file) else {
        return Ok(None);
    };
    let text = String::from_utf8(session.document(file)?).context("password")?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() || password.contains('\n') {
        bail!(
            "{}: must hold the password and nothing else",
            file.display()
        );
    }
    Ok(Some(Chap {
        user,
        password: Secret(password.to_owned()),
    }))
}

/// A change of domains as it was typed.
pub(super) fn domain(command: DomainCommand) -> Result<(DomainRequest, Long)> {
    Ok(match command {
        DomainCommand::Create {
            name,
            luns,
            connection,
            id,
            class,
            format,
            block_size,
            alignment,
            force,
            long,
        } => {
            let place = match connection {
                Some(connection) => NewPlace::File { connection },
                None => NewPlace::Block { luns },
            };
            let class = match class.as_str() {
                "iso" => Class::Iso,
                "export" => Class::Export,
                _ => Class::Data,
            };
            let new = NewDomain {
                id,
                name,
                place,
                class,
                version: format,
                block_size,
                alignment_mib: alignment,
                force,
            };
            (DomainRequest::Create(new), long)
        }
        DomainCommand::Attach(name) => (
            DomainRequest::Attach {
                domain: name.domain,
            },
            name.long,
        ),
        DomainCommand::Detach { name, force } => (
            DomainRequest::Detach {
                domain: name.domain,
                force,
            },
            name.long,
        ),
        DomainCommand::Activate(name) => (
            DomainRequest::Activate {
                domain: name.domain,
            },
            name.long,
        ),
        DomainCommand::Deactivate(name) => (
            DomainRequest::Deactivate {
                domain: name.domain,
            },
            name.long,
        ),
        DomainCommand::MigrateMaster(name) => (
            DomainRequest::MigrateMaster {
                domain: name.domain,
            },
            name.long,
        ),
        DomainCommand::Reconstruct { name, .. } => (
            DomainRequest::Reconstruct {
                domain: name.domain,
            },
            name.long,
        ),
        DomainCommand::Upgrade { name, format } => (
            DomainRequest::Upgrade {
                domain: name.domain,
                version: format,
            },
            name.long,
        ),
        DomainCommand::Extend { name, luns, force } => (
            DomainRequest::Extend {
                domain: name.domain,
                luns,
                force,
            },
            name.long,
        ),
        DomainCommand::Grow { name, lun } => (
            DomainRequest::Grow {
                domain: name.domain,
                lun,
            },
            name.long,
        ),
        DomainCommand::Reduce { name, lun } => (
            DomainRequest::Reduce {
                domain: name.domain,
                lun,
            },
            name.long,
        ),
        DomainCommand::Remove { name, .. } => (
            DomainRequest::Remove {
                domain: name.domain,
            },
            name.long,
        ),
        DomainCommand::List(_)
        | DomainCommand::Show { .. }
        | DomainCommand::Lease(_)
        | DomainCommand::Ovf(_) => {
            bail!("this command is answered at once")
        }
    })
}

/// A question or order about volumes as it was typed.
pub(super) fn volume(command: VolumeCommand) -> Result<Asked> {
    Ok(match command {
        VolumeCommand::Create {
            domain,
            size,
            format,
            preallocated,
            initial,
            image,
            volume,
            parent,
            parent_image,
            description,
            long,
        } => {
            if parent.is_none() && size.is_none() {
                bail!(
                    "a volume without a parent needs a size: add --size, for instance --size 20G"
                );
            }
            let new = NewVolume {
                domain,
                image,
                volume,
                parent_image,
                parent,
                capacity_bytes: size.unwrap_or(0),
                initial_bytes: initial,
                format: read_format(&format),
                preallocated,
                description,
                disk_type: None,
            };
            Asked::Long(VolumeRequest::Create(new), long)
        }
        VolumeCommand::List {
            domain,
            image,
            output,
        } => Asked::Short(VolumeRequest::List { domain, image }, output),
        VolumeCommand::Show { volume, output } => {
            let volume = volume_name(&volume)?;
            Asked::Short(VolumeRequest::Show { volume }, output)
        }
        VolumeCommand::Extend { volume, size, room } => {
            let request = VolumeRequest::Extend {
                volume: volume_name(&volume.volume)?,
                capacity_bytes: size,
                size_bytes: room,
            };
            Asked::Short(request, volume.long.output)
        }
        VolumeCommand::Shrink(volume) => Asked::Long(
            VolumeRequest::Shrink {
                volume: volume_name(&volume.volume)?,
            },
            volume.long,
        ),
        VolumeCommand::Delete {
            volume,
            wipe,
            discard,
        } => Asked::Long(
            VolumeRequest::Delete {
                volume: volume_name(&volume.volume)?,
                wipe,
                discard,
            },
            volume.long,
        ),
        VolumeCommand::DeleteImage {
            domain,
            image,
            wipe,
            discard,
            long,
        } => Asked::Long(
            VolumeRequest::DeleteImage {
                domain,
                image,
                wipe,
                discard,
            },
            long,
        ),
        VolumeCommand::Prepare {
            domain,
            image,
            leaf,
            allow_illegal,
            output,
        } => Asked::Short(
            VolumeRequest::Prepare {
                domain,
                image,
                leaf,
                allow_illegal,
            },
            output,
        ),
        VolumeCommand::Teardown {
            domain,
            image,
            output,
        } => Asked::Short(VolumeRequest::Teardown { domain, image }, output),
        VolumeCommand::Copy(arguments) => {
            let (source, target, long) = copy(arguments)?;
            Asked::Long(VolumeRequest::Copy { source, target }, long)
        }
        VolumeCommand::Template(arguments) => {
            let (source, target, long) = copy(arguments)?;
            Asked::Long(VolumeRequest::Template { source, target }, long)
        }
        VolumeCommand::Snapshot {
            domain,
            image,
            volume,
            long,
        } => Asked::Long(
            VolumeRequest::Snapshot {
                domain,
                image,
                volume,
            },
            long,
        ),
        VolumeCommand::Merge {
            volume,
            wipe,
            discard,
        } => Asked::Long(
            VolumeRequest::Merge {
                volume: volume_name(&volume.volume)?,
                wipe,
                discard,
            },
            volume.long,
        ),
        VolumeCommand::Bitmap(command) => bitmap(command)?,
        VolumeCommand::Refresh { volume, output } => {
            let volume = volume_name(&volume)?;
            Asked::Short(VolumeRequest::Refresh { volume }, output)
        }
        VolumeCommand::Guest(command) => guest(command)?,
        VolumeCommand::Set {
            volume,
            legality,
            description,
            output,
        } => Asked::Short(
            VolumeRequest::Set {
                volume: volume_name(&volume)?,
                legal: legality.map(|word| word == "legal"),
                description,
            },
            output,
        ),
        VolumeCommand::Lease { volume, output } => {
            let volume = volume_name(&volume)?;
            Asked::Short(VolumeRequest::LeaseShow { volume }, output)
        }
        VolumeCommand::Watch {
            qmp,
            drives,
            output,
        } => {
            let drives = drives
                .iter()
                .map(|text| drive(text))
                .collect::<Result<_>>()?;
            Asked::Short(VolumeRequest::Watch { qmp, drives }, output)
        }
        VolumeCommand::Unwatch { qmp, output } => {
            Asked::Short(VolumeRequest::Unwatch { qmp }, output)
        }
    })
}

fn copy(arguments: CopyArguments) -> Result<(control::storage::VolumeName, CopyTarget, Long)> {
    let source = volume_name(&arguments.source)?;
    let target = CopyTarget {
        domain: arguments.to.unwrap_or_else(|| source.domain.clone()),
        image: arguments.image,
        volume: arguments.volume,
        format: arguments.format.as_deref().map(read_format),
        preallocated: arguments.preallocated,
        bitmaps: arguments.bitmaps,
        mib_per_s: arguments.rate,
    };
    Ok((source, target, arguments.long))
}

fn bitmap(command: BitmapCommand) -> Result<Asked> {
    let (of, change) = match command {
        BitmapCommand::List(of) => {
            let volume = volume_name(&of.volume)?;
            return Ok(Asked::Short(VolumeRequest::Bitmaps { volume }, of.output));
        }
        BitmapCommand::Add {
            of,
            name,
            granularity,
            disabled,
        } => {
            let granularity_bytes = granularity
                .map(|bytes| {
                    u32::try_from(bytes).with_context(|| {
                        format!("granularity {bytes}: largest allowed is {}", 1_u32 << 31)
                    })
                })
                .transpose()?;
            (
                of,
                BitmapChange::Add {
                    name,
                    granularity_bytes,
                    disabled,
                },
            )
        }
        BitmapCommand::Remove { of, name } => (of, BitmapChange::Remove { name }),
        BitmapCommand::Clear(of) => (of, BitmapChange::Clear),
    };
    let volume = volume_name(&of.volume)?;
    Ok(Asked::Short(
        VolumeRequest::Bitmap { volume, change },
        of.output,
    ))
}

fn guest(command: GuestCommand) -> Result<Asked> {
    let (guest, change) = match command {
        GuestCommand::Migrating { guest, destination } => {
            (guest, GuestChange::Migrating { destination })
        }
        GuestCommand::Stayed(guest) => (guest, GuestChange::Stayed),
        GuestCommand::Hold(guest) => (guest, GuestChange::Hold),
        GuestCommand::Release(guest) => (guest, GuestChange::Release),
        GuestCommand::Resized { guest, node } => (guest, GuestChange::Resized { node }),
        GuestCommand::Replicating {
            guest,
            node,
            volume,
        } => {
            let replica = volume_name(&volume)?;
            (guest, GuestChange::Replicating { node, replica })
        }
        GuestCommand::Replicated { guest, node } => (guest, GuestChange::Replicated { node }),
    };
    let qmp = guest.qmp;
    Ok(Asked::Short(
        VolumeRequest::Guest { qmp, change },
        guest.output,
    ))
}

fn read_format(word: &str) -> Format {
    if word == "cow" {
        Format::Cow
    } else {
        Format::Raw
    }
}

fn drive(text: &str) -> Result<WatchedDrive> {
    let (node, volume) = text
        .split_once('=')
        .with_context(|| format!("{text}: a drive is written NODE=DOMAIN/IMAGE/VOLUME"))?;
    Ok(WatchedDrive {
        node: node.to_owned(),
        volume: volume_name(volume)?,
    })
}
