//! Descriptions of OVF_STORE volumes: where managers keep the configurations
//! of guests, and which of them is the newest.

use serde_json::Value;

use super::error::FormatError;
use super::uuid::DomainId;

/// Size of an OVF_STORE volume, in bytes.
pub const VOLUME_BYTES: u64 = 128 << 20;
/// What the description of the disk says.
pub const DISK_DESCRIPTION: &str = "OVF_STORE";

const RECORD: &str = "OVF_STORE description";

/// What the description of an OVF_STORE volume says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Whether the content is whole: false while it is written.
    pub updated: bool,
    /// Bytes of the tar archive at the start of the volume.
    pub size_bytes: u64,
    /// When it was written, as the manager's text.
    pub last_updated: String,
    /// The domain(s) whose guests it has.
    pub domains: Vec<DomainId>,
}

impl Description {
    /// Reads a description.
    ///
    /// # Errors
    /// When it is not JSON of this kind.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| FormatError::syntax(RECORD, error.to_string()))?;
        let need = |key: &'static str| {
            value.get(key).ok_or(FormatError::Missing {
                record: RECORD,
                key,
            })
        };
        let wrong = |key: &'static str| {
            let found = value.get(key).map(Value::to_string).unwrap_or_default();
            FormatError::value(key, &found, "what managers write there")
        };
        let kind = need("Disk Description")?;
        if kind.as_str() != Some(DISK_DESCRIPTION) {
            return Err(wrong("Disk Description"));
        }
        // Of a store that was never written, there is no more than "Updated".
        let domains = match value.get("Storage Domains") {
            None => Vec::new(),
            Some(domains) => domains
                .as_array()
                .ok_or_else(|| wrong("Storage Domains"))?
                .iter()
                .map(|domain| {
                    domain
                        .get("uuid")
                        .and_then(Value::as_str)
                        .ok_or_else(|| wrong("Storage Domains"))?
                        .parse()
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Self {
            updated: need("Updated")?.as_bool().ok_or_else(|| wrong("Updated"))?,
            size_bytes: match value.get("Size") {
                None => 0,
                Some(size) => size.as_u64().ok_or_else(|| wrong("Size"))?,
            },
            last_updated: match value.get("Last Updated") {
                None | Some(Value::Null) => String::new(),
                Some(text) => text
                    .as_str()
                    .ok_or_else(|| wrong("Last Updated"))?
                    .to_owned(),
            },
            domains,
        })
    }

    /// The text, its keys in the manager's order.
    #[must_use]
    pub fn emit(&self) -> String {
        let domains: Vec<String> = self
            .domains
            .iter()
            .map(|domain| format!("{{\"uuid\":\"{domain}\"}}"))
            .collect();
        format!(
            "{{\"Updated\":{},\"Size\":{},\"Last Updated\":{},\"Storage Domains\":[{}],\"Disk Description\":\"{DISK_DESCRIPTION}\"}}",
            self.updated,
            self.size_bytes,
            Value::from(self.last_updated.as_str()),
            domains.join(",")
        )
    }

    /// `Last Updated` as something that can be compared: year, month, day,
    /// hour, minute, second. Zones are not looked at: one manager writes one.
    fn written(&self) -> Option<[u32; 6]> {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let words: Vec<&str> = self.last_updated.split_ascii_whitespace().collect();
        let [_, month, day, time, .., year] = words.as_slice() else {
            return None;
        };
        let month = MONTHS.iter().position(|name| name == month)?;
        let mut clock = time.split(':').map(str::parse::<u32>);
        let mut next = || clock.next()?.ok();
        Some([
            year.parse().ok()?,
            u32::try_from(month).ok()?,
            day.parse().ok()?,
            next()?,
            next()?,
            next()?,
        ])
    }
}

/// The store to read: the newest of those that are whole. Of equally new ones,
/// the first.
pub fn newest<'a, T>(
    stores: impl IntoIterator<Item = (T, &'a Description)>,
) -> Option<(T, &'a Description)> {
    let mut best: Option<(T, &Description)> = None;
    for (name, store) in stores {
        let newer = best
            .as_ref()
            .is_none_or(|(_, best)| store.written() > best.written());
        if store.updated && newer {
            best = Some((name, store));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(updated: bool, when: &str) -> Description {
        Description {
            updated,
            size_bytes: 51200,
            last_updated: when.to_owned(),
            domains: vec![DomainId::BLANK],
        }
    }

    #[test]
    fn the_newest_whole_store_is_chosen_by_date_not_by_text() {
        let april = store(true, "Fri Apr 09 23:59:59 UTC 2021");
        let september = store(true, "Tue Sep 21 14:01:02 UTC 2021");
        let half = store(false, "Wed Sep 22 14:01:02 UTC 2021");
        let never = store(true, "");
        let all = [(1, &never), (2, &september), (3, &april), (4, &half)];
        assert_eq!(newest(all).map(|(name, _)| name), Some(2));
        assert_eq!(newest([(1, &never)]).map(|(name, _)| name), Some(1));
        assert_eq!(newest([(4, &half)]).map(|(name, _)| name), None);
    }

    #[test]
    fn text_comes_back_and_other_json_is_refused() {
        let store = store(true, "Tue \"Sep\" 21");
        assert_eq!(Description::parse(&store.emit()), Ok(store));
        assert!(Description::parse("{\"DiskAlias\":\"vm1\"}").is_err());
        assert!(Description::parse("OVF_STORE").is_err());
        let fresh = "{\"Updated\":false,\"Disk Description\":\"OVF_STORE\"}";
        assert!(!Description::parse(fresh).unwrap().updated);
    }
}
