//! Keys of a pool, in the metadata of its master domain.

use std::collections::BTreeMap;

use super::error::FormatError;
use super::uuid::DomainId;

/// Whether a domain of a pool is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PoolDomainStatus {
    /// In use.
    Active,
    /// Attached and not in use.
    Attached,
}

/// The keys of the historic back end. Managers of today keep the same in
/// memory; what is on disk is kept and brought up to date where it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolKeys {
    /// At most 50 characters.
    pub description: Option<String>,
    /// The domains of the pool.
    pub domains: Option<BTreeMap<DomainId, PoolDomainStatus>>,
    /// Host id of the SPM, −1 when there is none.
    pub spm_id: Option<i64>,
    /// Version of the SPM's lease, −1 when there is none.
    pub spm_lver: Option<i64>,
}

impl PoolKeys {
    /// Reads `uuid:Status,…`, in the spellings of older writers too.
    ///
    /// # Errors
    /// When an entry is not of that form.
    pub fn parse_domains(text: &str) -> Result<BTreeMap<DomainId, PoolDomainStatus>, FormatError> {
        text.split(',')
            .map(|entry| entry.trim().trim_matches(['\'', '"']))
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                let wrong =
                    || FormatError::value("pool domain", entry, "<uuid>:Active or <uuid>:Attached");
                let (id, status) = entry.split_once(':').ok_or_else(wrong)?;
                let status = match status
                    .trim_matches(['\'', '"', ' '])
                    .to_lowercase()
                    .as_str()
                {
                    "active" => PoolDomainStatus::Active,
                    "attached" | "inactive" => PoolDomainStatus::Attached,
                    _ => return Err(wrong()),
                };
                Ok((id.trim_matches(['\'', '"', ' ']).parse()?, status))
            })
            .collect()
    }

    /// Writes `uuid:Status,…`.
    #[must_use]
    pub fn format_domains(domains: &BTreeMap<DomainId, PoolDomainStatus>) -> String {
        let entries: Vec<String> = domains
            .iter()
            .map(|(id, status)| match status {
                PoolDomainStatus::Active => format!("{id}:Active"),
                PoolDomainStatus::Attached => format!("{id}:Attached"),
            })
            .collect();
        entries.join(",")
    }
}
