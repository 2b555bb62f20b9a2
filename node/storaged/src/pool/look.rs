//! Whether a domain is well: what its worker looks at for the daemon's monitor.

use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use linux::disk::{Access, AlignedBuffer, BlockDevice};

use crate::domain::{Domain, Space, Special};
use crate::job::Result;

/// What is read of a domain: one block of its metadata.
const READ_BYTES: usize = 4096;

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// How long the read took; its error otherwise.
    pub read: Result<Duration>,
    /// Whether the domain's own metadata and space are as they should be.
    pub domain: Result<Space>,
    /// Version of the domain.
    pub version: u8,
}

/// Looks at a domain; may hang as long as the storage does. A thorough look
/// reads the domain's metadata too.
#[must_use]
pub fn look(domain: &dyn Domain, thorough: bool) -> Look {
    let read = read_block(domain);
    let checked = if thorough {
        domain.metadata().and_then(|_| domain.space())
    } else {
        domain.space()
    };
    Look {
        read,
        domain: checked,
        version: domain.version().number(),
    }
}

fn read_block(domain: &dyn Domain) -> Result<Duration> {
    let path = domain.special(Special::Metadata);
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(FailureKind::Io, format!("domain {}: {error}", domain.id()))
    };
    let start = Instant::now();
    let device = BlockDevice::open(&path, Access::Read).map_err(|error| failed(&error))?;
    let mut block = AlignedBuffer::new(READ_BYTES);
    match device.read_at(&mut block, 0) {
        // The metadata of a file domain are shorter than a block.
        Ok(()) => {}
        Err(linux::disk::IoError::Short(count)) if count > 0 => {}
        Err(error) => {
            return Err(failed(&format_args!("{}: read: {error}", path.display())));
        }
    }
    Ok(start.elapsed())
}
