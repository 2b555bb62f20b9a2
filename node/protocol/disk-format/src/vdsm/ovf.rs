//! Descriptions of OVF_STORE volumes: where managers keep the configurations
//! of guests, and which of them is the newest.

use serde_json::Value;
use time::{OffsetDateTime, Weekday};

use super::error::FormatError;
use super::uuid::DomainId;

/// Size of an OVF_STORE volume, in bytes.
pub const VOLUME_BYTES: u64 = 128 << 20;
/// What the description of the disk says.
pub const DISK_DESCRIPTION: &str = "OVF_STORE";

/// What a store's archive calls the configuration of guest N: `N.ovf`.
pub const SUFFIX: &str = ".ovf";

const RECORD: &str = "OVF_STORE description";
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// `Last Updated` of a store written `unix_s` seconds after 1970, UTC: as
/// `Tue Sep 21 14:01:02 UTC 2021`. Times beyond the year 9999 are cut to it.
#[must_use]
pub fn date(unix_s: u64) -> String {
    let last = time::Date::MAX.with_hms(23, 59, 59).map_or(
        OffsetDateTime::UNIX_EPOCH,
        time::PrimitiveDateTime::assume_utc,
    );
    let at = i64::try_from(unix_s)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(last);
    let day = match at.weekday() {
        Weekday::Monday => "Mon",
        Weekday::Tuesday => "Tue",
        Weekday::Wednesday => "Wed",
        Weekday::Thursday => "Thu",
        Weekday::Friday => "Fri",
        Weekday::Saturday => "Sat",
        Weekday::Sunday => "Sun",
    };
    let month = usize::from(u8::from(at.month()) - 1);
    format!(
        "{day} {} {:02} {:02}:{:02}:{:02} UTC {:04}",
        MONTHS.get(month).unwrap_or(&"Jan"),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.year()
    )
}

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

    /// `Last Updated` in seconds after 1970, for comparison: zones are not looked
    /// at, one manager writes one. Nothing when it is no date.
    #[must_use]
    pub fn written_s(&self) -> Option<u64> {
        let words: Vec<&str> = self.last_updated.split_ascii_whitespace().collect();
        let [_, month, day, time, .., year] = words.as_slice() else {
            return None;
        };
        let month = MONTHS.iter().position(|name| name == month)?;
        let month = time::Month::try_from(u8::try_from(month).ok()? + 1).ok()?;
        let date =
            time::Date::from_calendar_date(year.parse().ok()?, month, day.parse().ok()?).ok()?;
        let mut clock = time.split(':').map(str::parse::<u8>);
        let mut next = || clock.next()?.ok();
        let at = date.with_hms(next()?, next()?, next()?).ok()?;
        u64::try_from(at.assume_utc().unix_timestamp()).ok()
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
            .is_none_or(|(_, best)| store.written_s() > best.written_s());
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
    fn dates_are_written_as_managers_write_them_and_read_back() {
        assert_eq!(date(1_632_232_862), "Tue Sep 21 14:01:02 UTC 2021");
        assert_eq!(date(0), "Thu Jan 01 00:00:00 UTC 1970");
        assert_eq!(date(u64::MAX), "Fri Dec 31 23:59:59 UTC 9999");
        for seconds in [0, 951_782_399, 1_709_208_000, 4_102_444_799] {
            assert_eq!(store(true, &date(seconds)).written_s(), Some(seconds));
        }
        for wrong in [
            "",
            "Tue Sep 31 14:01:02 UTC 2021",
            "Tue Sep 21 24:01 UTC 2021",
        ] {
            assert_eq!(store(true, wrong).written_s(), None);
        }
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
