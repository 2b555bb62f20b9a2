//! Physical volumes of a domain, as its metadata list them.

use crate::vdsm::error::{FormatError, decimal};

/// Where the extents of a physical volume were put in the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvMapping {
    /// WWID of the device: its name under `/dev/mapper`.
    pub device: String,
    /// LVM's id of the physical volume.
    pub uuid: String,
    /// First extent: always 0.
    pub start: u64,
    /// Extents.
    pub extents: u64,
    /// Extents of the physical volumes before it.
    pub offset: u64,
}

impl PvMapping {
    pub(super) fn encode(&self) -> String {
        format!(
            "pv:{},uuid:{},pestart:{},pecount:{},mapoffset:{}",
            self.device, self.uuid, self.start, self.extents, self.offset
        )
    }

    pub(super) fn decode(text: &str) -> Result<Self, FormatError> {
        let wrong = || {
            FormatError::value(
                "physical volume mapping",
                text,
                "pv:…,uuid:…,pestart:…,pecount:…,mapoffset:…",
            )
        };
        let mut fields = text.split(',');
        let mut field = |name: &str| {
            fields
                .next()
                .and_then(|field| field.split_once(':'))
                .filter(|(found, _)| *found == name)
                .map(|(_, value)| value)
                .ok_or_else(wrong)
        };
        let mapping = Self {
            device: field("pv")?.to_owned(),
            uuid: field("uuid")?.to_owned(),
            start: decimal("pestart", field("pestart")?)?,
            extents: decimal("pecount", field("pecount")?)?,
            offset: decimal("mapoffset", field("mapoffset")?)?,
        };
        if fields.next().is_some() {
            return Err(wrong());
        }
        Ok(mapping)
    }
}

/// The number of a key `PV0`, `PV1`, ….
pub(super) fn pv_number(key: &str) -> Option<u32> {
    let digits = key.strip_prefix("PV")?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}
