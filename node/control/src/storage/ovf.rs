//! Configurations of guests in a domain's OVF stores.

use serde::{Deserialize, Serialize};

/// Longest configuration that can be saved, in bytes: it has to fit a request.
pub const OVF_BYTES_MAX: usize = 48 * 1024;

/// About the configurations of guests that a domain keeps. `domain` is a UUID, or
/// a name if only one domain has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum OvfRequest {
    /// Which guests are in the newest store.
    List {
        /// Domain.
        domain: String,
    },
    /// The configuration of one.
    Show {
        /// Domain.
        domain: String,
        /// UUID of the guest.
        guest: String,
    },
    /// Save the configuration of a guest, in place of the one it has. A domain
    /// without stores gets two.
    Save {
        /// Domain.
        domain: String,
        /// UUID of the guest.
        guest: String,
        /// The document, at most [`OVF_BYTES_MAX`].
        content: String,
    },
    /// Take a guest out.
    Remove {
        /// Domain.
        domain: String,
        /// UUID of the guest.
        guest: String,
    },
}

impl OvfRequest {
    /// Domain and, where it is about one, guest.
    #[must_use]
    pub fn names(&self) -> (&str, Option<&str>) {
        match self {
            Self::List { domain } => (domain, None),
            Self::Show { domain, guest }
            | Self::Save { domain, guest, .. }
            | Self::Remove { domain, guest } => (domain, Some(guest)),
        }
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_reading(&self) -> bool {
        matches!(self, Self::List { .. } | Self::Show { .. })
    }
}

/// The newest whole OVF store of a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OvfReport {
    /// Its volume, when there is a store.
    pub volume: Option<String>,
    /// When it was written, as its manager says.
    pub written: String,
    /// Files in it.
    pub files: Vec<OvfFile>,
}

/// A file of an OVF store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OvfFile {
    /// Name in the archive: `<guest>.ovf`, or what else a manager keeps there.
    pub name: String,
    /// Bytes.
    pub size_bytes: u64,
}
