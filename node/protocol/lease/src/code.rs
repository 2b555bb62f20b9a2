//! The numbers the original answers with (spec §7.7), for replies and logs.

use std::fmt;

/// A result as the original's clients know it: 0 or 1 for success, a negative
/// errno, or one of its own numbers from −201 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub i32);

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $text:literal;)*) => {
        impl Code {
            $($(#[doc = $doc])+ pub const $name: Self = Self($value);)*

            /// Every number that has a name here, ascending in meaning only.
            pub const NAMED: &'static [Self] = &[$(Self::$name),*];

            /// A short text; numbers without a name get none of their own.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "unknown result",
                }
            }

            /// The name of the constant, without the original's prefix.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// Success, as clients see it.
    OK = 0, "success";
    /// Not permitted.
    EPERM = -1, "operation not permitted";
    /// Not found.
    ENOENT = -2, "not found";
    /// No such registered process.
    ESRCH = -3, "no such registered process";
    /// I/O error.
    EIO = -5, "input/output error";
    /// Too many or too long.
    E2BIG = -7, "more than allowed";
    /// Try again: an earlier release runs, or others hold it shared.
    EAGAIN = -11, "busy for the moment, try again";
    /// Out of memory.
    ENOMEM = -12, "out of memory";
    /// Busy.
    EBUSY = -16, "busy";
    /// Already there.
    EEXIST = -17, "already held or present";
    /// The path cannot be opened.
    ENODEV = -19, "no such device";
    /// An argument is wrong.
    EINVAL = -22, "invalid argument";
    /// Not a connection that can be used for this.
    ENOTTY = -25, "client is gone";
    /// The lockspace is not joined or is dying; or a list is full.
    ENOSPC = -28, "lockspace not joined, or no room";
    /// Number of disks out of range.
    ERANGE = -34, "number of disks out of range";
    /// Too many event registrations.
    ENOCSI = -50, "too many event registrations";
    /// Short I/O.
    EMSGSIZE = -90, "short read or write";
    /// Not connected: the message was cut short.
    ENOTCONN = -107, "message cut short";
    /// Daemon not there.
    ECONNREFUSED = -111, "connection refused";
    /// Already in that mode.
    EALREADY = -114, "already in that mode";
    /// Being added or removed.
    EINPROGRESS = -115, "in progress";
    /// The client died during the command.
    ESTALE = -116, "client died during the command";
    /// An orphan stands in the way.
    EUCLEAN = -117, "held by an orphan";

    /// Success, inside the original's status texts.
    DONE = 1, "success";
    /// Unspecified failure, or given up on request.
    ERROR = -201, "given up";
    /// An I/O took longer than its time-out.
    AIO_TIMEOUT = -202, "input or output timed out";
    /// The watchdog daemon cannot be reached or refused.
    WD_ERROR = -203, "watchdog connection or registration failed";
    /// Reading ballot blocks failed.
    DBLOCK_READ = -210, "reading ballot blocks failed";
    /// Writing our ballot block failed.
    DBLOCK_WRITE = -211, "writing our ballot block failed";
    /// A newer version is being decided.
    DBLOCK_LVER = -212, "ballot lost to a newer version";
    /// A higher ballot was begun.
    DBLOCK_MBAL = -213, "ballot lost to a higher number";
    /// A ballot block is damaged.
    DBLOCK_CHECKSUM = -214, "checksum of a ballot block is wrong";
    /// Reading the leader record failed.
    LEADER_READ = -220, "reading the leader record failed";
    /// Writing the leader record failed.
    LEADER_WRITE = -221, "writing the leader record failed";
    /// The disks disagree.
    LEADER_DIFF = -222, "leader records of the disks differ";
    /// Nothing is initialised there, or it was cleared.
    LEADER_MAGIC = -223, "nothing initialised there";
    /// Unsupported format version.
    LEADER_VERSION = -224, "format version not supported";
    /// Unsupported sector size.
    LEADER_SECTORSIZE = -225, "sector size not supported";
    /// Another lockspace's name.
    LEADER_LOCKSPACE = -226, "lockspace name on disk differs";
    /// Another resource's name.
    LEADER_RESOURCE = -227, "resource name on disk differs";
    /// Our host id is beyond the hosts of this lease.
    LEADER_NUMHOSTS = -228, "host id beyond the hosts of the lease";
    /// The leader record is damaged.
    LEADER_CHECKSUM = -229, "checksum of the leader record is wrong";
    /// Sector size and align size do not go together.
    ADDLS_SIZES = -230, "no such pair of sector size and align size";
    /// Host id too large for the lockspace.
    ADDLS_INVALID_HOSTID = -231, "host id too large for the lockspace";
    /// The lease has another version than demanded.
    ACQUIRE_LVER = -240, "version differs from the one demanded";
    /// The owner's lockspace is not joined here.
    ACQUIRE_LOCKSPACE = -241, "lockspace of the owner is not joined";
    /// The owner's lockspace cannot be read.
    ACQUIRE_IDDISK = -242, "record of the owner cannot be reached";
    /// The owner is alive.
    ACQUIRE_IDLIVE = -243, "held by a host that is alive";
    /// Another host won the ballot.
    ACQUIRE_OWNED = -244, "another host has acquired it";
    /// We decided the ballot for another host.
    ACQUIRE_OTHER = -245, "another host won the ballot";
    /// Shared retries are used up.
    ACQUIRE_SHRETRY = -246, "shared retries exhausted";
    /// Not waiting for the owner's death was asked for.
    ACQUIRE_OWNED_RETRY = -247, "owner may be dead, not yet decided";
    /// The version on disk is not the one held.
    RELEASE_LVER = -250, "version on disk is not the one held";
    /// The owner on disk is not us.
    RELEASE_OWNER = -251, "lease on disk is no longer ours";
    /// Our delta lease has another owner.
    RENEW_OWNER = -260, "host id was taken over";
    /// Our delta lease was changed.
    RENEW_DIFF = -261, "our host id's record was changed";
    /// The host id is in use.
    HOSTID_BUSY = -262, "host id is in use by another host";
    /// No request record there.
    REQUEST_MAGIC = -270, "no request record there";
    /// Unsupported request record.
    REQUEST_VERSION = -271, "version of the request record not supported";
    /// The requested version is not newer than the held one.
    REQUEST_OLD = -272, "requested version is already past";
    /// A newer version was requested already.
    REQUEST_LVER = -273, "a newer version was requested already";
    /// No resource index there.
    RINDEX_MAGIC = -274, "no resource index there";
    /// Unsupported resource index.
    RINDEX_VERSION = -275, "version of the resource index not supported";
    /// The index belongs to another lockspace.
    RINDEX_LOCKSPACE = -276, "resource index of another lockspace";
    /// The index says it lies elsewhere.
    RINDEX_OFFSET = -277, "resource index lies at another offset";
    /// Name and offset belong to different entries.
    RINDEX_DIFF = -278, "name and offset belong to different entries";
}

impl Code {
    /// The result of a system call that failed with `errno` (positive or
    /// negative; 0 becomes [`Code::ERROR`]).
    #[must_use]
    pub const fn errno(errno: i32) -> Self {
        match errno {
            0 | i32::MIN => Self::ERROR,
            number if number > 0 => Self(-number),
            number => Self(number),
        }
    }

    /// Whether it means success: 0 or positive.
    #[must_use]
    pub const fn is_ok(self) -> bool {
        self.0 >= 0
    }

    /// Whether it says that somebody else holds the lease, now or in a moment.
    #[must_use]
    pub const fn is_held_elsewhere(self) -> bool {
        matches!(self.0, -247..=-243 | -11)
    }

    /// Whether it came from the storage rather than from what is written there.
    #[must_use]
    pub const fn is_io(self) -> bool {
        matches!(self.0, -200..=-1 | -202 | -211 | -210 | -221 | -220)
    }
}

impl From<disk_format::RecordError> for Code {
    fn from(error: disk_format::RecordError) -> Self {
        Self(error.code())
    }
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({})", self.0, self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_name_and_a_text() {
        let mut numbers: Vec<_> = Code::NAMED.iter().map(|code| code.0).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), Code::NAMED.len());
        for code in Code::NAMED {
            assert_ne!(code.text(), Code(-9999).text());
            assert!(code.name().is_some());
        }
        assert_eq!(Code::ACQUIRE_IDLIVE.0, -243);
        assert_eq!(
            Code::ACQUIRE_IDLIVE.to_string(),
            "-243 (held by a host that is alive)"
        );
    }

    #[test]
    fn an_errno_is_negative_whichever_way_it_comes() {
        assert_eq!(Code::errno(5), Code(-5));
        assert_eq!(Code::errno(-5), Code(-5));
        assert_eq!(Code::errno(0), Code::ERROR);
        assert!(Code::OK.is_ok() && Code::DONE.is_ok() && !Code::EAGAIN.is_ok());
    }
}
