//! Metadata of a domain: keys and values, as lines of a file or as tags of a
//! volume group, with one checksum over all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha1::{Digest, Sha1};

use super::error::{FormatError, decimal};
use super::pool::{PoolDomainStatus, PoolKeys};
use super::tag;
use super::uuid::{DomainId, PoolId};
use super::version::DomainVersion;
use super::volume::storable_line;

mod kind;
mod pv;

pub use kind::{DomainClass, DomainRole, DomainType};
pub use pv::PvMapping;
use pv::pv_number;

/// Tag of a VG whose domain is complete.
pub const TAG_READY: &str = "RHAT_storage_domain";
/// Tag of a VG whose domain is being made.
pub const TAG_UNREADY: &str = "RHAT_storage_domain_UNREADY";
/// Characters of a domain's description.
pub const DESCRIPTION_CHARS: usize = 50;
/// Bytes of a metadata file beyond which it is not read.
pub const FILE_BYTES_MAX: usize = 64 << 10;
/// Domains of one pool.
pub const POOL_DOMAINS_MAX: usize = 100;
/// Physical volumes of one domain.
pub const PVS_MAX: usize = 10;

const RECORD: &str = "domain metadata";
const CHECKSUM_KEY: &str = "_SHA_CKSUM";
const TAG_PREFIX: &str = "MDT_";

/// Whether a VG is a domain, by its marker tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// No marker: somebody else's VG, never to be written to.
    Foreign,
    /// A domain that is being made, or whose making was interrupted.
    Unready,
    /// A complete domain.
    Ready,
}

impl Marker {
    /// Judges the tags of a VG. A VG with both markers is not ready.
    #[must_use]
    pub fn of<'a>(tags: impl IntoIterator<Item = &'a str>) -> Self {
        let mut marker = Self::Foreign;
        for tag in tags {
            if tag == TAG_UNREADY {
                return Self::Unready;
            }
            if tag == TAG_READY {
                marker = Self::Ready;
            }
        }
        marker
    }
}

/// What makes a block domain differ from a file domain in the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A volume group.
    Block {
        /// LVM's id of the VG.
        vg_uuid: String,
        /// Its physical volumes, the one with the `metadata` LV first.
        pvs: Vec<PvMapping>,
    },
    /// A directory of this remote path (`server:/export`).
    File {
        /// The remote path.
        remote_path: String,
    },
}

/// What a new domain is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDomain {
    /// Its id.
    pub id: DomainId,
    /// Its version: 3, 4 or 5.
    pub version: DomainVersion,
    /// How it is reached.
    pub kind: DomainType,
    /// What it is for.
    pub class: DomainClass,
    /// One line, at most 50 characters.
    pub description: String,
    /// Block or file.
    pub backing: Backing,
    /// 512 or 4096 bytes; only version 5 stores it.
    pub block_bytes: u32,
    /// 1, 2, 4 or 8 MiB; only version 5 stores it.
    pub alignment_bytes: u32,
}

/// The keys and values of a domain. Those that every domain has are known to
/// be right; others are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainMetadata {
    keys: BTreeMap<String, String>,
    id: DomainId,
    version: DomainVersion,
    kind: DomainType,
    class: DomainClass,
    role: DomainRole,
}

impl DomainMetadata {
    /// The metadata of a new domain, attached to no pool.
    ///
    /// # Errors
    /// When a value cannot be stored.
    pub fn new(new: &NewDomain) -> Result<Self, FormatError> {
        let mut keys = BTreeMap::new();
        let mut put = |key: &str, value: &dyn fmt::Display| {
            keys.insert(key.to_owned(), value.to_string());
        };
        put("CLASS", &new.class);
        put("IOOPTIMEOUTSEC", &10);
        put("LEASERETRIES", &3);
        put("LEASETIMESEC", &60);
        put("LOCKPOLICY", &"");
        put("LOCKRENEWALINTERVALSEC", &5);
        put("POOL_UUID", &"");
        put("ROLE", &DomainRole::Regular);
        put("SDUUID", &new.id);
        put("TYPE", &new.kind);
        put("VERSION", &new.version);
        let newest = new.version >= DomainVersion::V5;
        if newest {
            put("ALIGNMENT", &new.alignment_bytes);
            put("BLOCK_SIZE", &new.block_bytes);
        }
        match &new.backing {
            Backing::Block { vg_uuid, .. } => {
                put("VGUUID", vg_uuid);
                if !newest {
                    put("LOGBLKSIZE", &512);
                    put("PHYBLKSIZE", &512);
                }
            }
            Backing::File { remote_path } => {
                storable_line("remote path", remote_path)?;
                put("REMOTE_PATH", remote_path);
            }
        }
        let mut metadata = Self {
            keys,
            id: new.id,
            version: new.version,
            kind: new.kind,
            class: new.class,
            role: DomainRole::Regular,
        };
        metadata.set_description(&new.description)?;
        if let Backing::Block { pvs, .. } = &new.backing {
            metadata.set_pv_mapping(pvs)?;
        }
        Ok(metadata)
    }

    fn from_keys(mut keys: BTreeMap<String, String>) -> Result<Self, FormatError> {
        if let Some(found) = keys.remove(CHECKSUM_KEY) {
            let computed = checksum(&keys);
            if found != computed {
                return Err(FormatError::Checksum {
                    record: RECORD,
                    found,
                    computed,
                });
            }
        }
        let need = |key: &'static str| {
            keys.get(key).ok_or(FormatError::Missing {
                record: RECORD,
                key,
            })
        };
        Ok(Self {
            id: need("SDUUID")?.parse()?,
            version: need("VERSION")?.parse()?,
            kind: need("TYPE")?.parse()?,
            class: need("CLASS")?.parse()?,
            role: need("ROLE")?.parse()?,
            keys,
        })
    }

    /// Reads the lines of a metadata file. A missing checksum is accepted.
    ///
    /// # Errors
    /// When the checksum is wrong, or what every domain has is missing.
    pub fn from_lines(file: &[u8]) -> Result<Self, FormatError> {
        if file.len() > FILE_BYTES_MAX {
            return Err(FormatError::TooLong {
                noun: "domain metadata file",
                found: file.len(),
                largest: FILE_BYTES_MAX,
                unit: "bytes",
            });
        }
        let padding = file.iter().rev().take_while(|&&byte| byte == 0).count();
        let text = file.get(..file.len() - padding).unwrap_or_default();
        let text = std::str::from_utf8(text)
            .map_err(|error| FormatError::syntax(RECORD, format!("not UTF-8 text: {error}")))?;
        let keys: BTreeMap<String, String> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
            .collect();
        if keys.is_empty() {
            return Err(FormatError::Empty { record: RECORD });
        }
        Self::from_keys(keys)
    }

    /// The content of a metadata file, checksum last.
    #[must_use]
    pub fn to_lines(&self) -> Vec<u8> {
        let mut text = String::new();
        for (key, value) in &self.stored() {
            text.push_str(key);
            text.push('=');
            text.push_str(value);
            text.push('\n');
        }
        text.into_bytes()
    }

    /// Reads the tags of a VG; those of others and the markers are passed over.
    ///
    /// # Errors
    /// When a tag does not decode, a key has two values, the checksum is wrong,
    /// or what every domain has is missing.
    pub fn from_vg_tags<'a>(tags: impl IntoIterator<Item = &'a str>) -> Result<Self, FormatError> {
        let mut keys = BTreeMap::new();
        for encoded in tags {
            let Some(encoded) = encoded.strip_prefix(TAG_PREFIX) else {
                continue;
            };
            let text = tag::decode(encoded)?;
            let Some((key, value)) = text.split_once('=') else {
                continue;
            };
            let key = key.trim().to_owned();
            if let Some(other) = keys.insert(key.clone(), value.to_owned())
                && other != value
            {
                return Err(FormatError::Twice {
                    record: RECORD,
                    key,
                });
            }
        }
        if keys.is_empty() {
            return Err(FormatError::Empty { record: RECORD });
        }
        Self::from_keys(keys)
    }

    /// The tags of a VG, without the marker.
    ///
    /// # Errors
    /// When a value makes a tag that is too long for LVM.
    pub fn to_vg_tags(&self) -> Result<BTreeSet<String>, FormatError> {
        self.stored()
            .iter()
            .map(|(key, value)| {
                let tag = format!("{TAG_PREFIX}{}", tag::encode(&format!("{key}={value}")));
                if tag.len() > tag::BYTES_MAX {
                    return Err(FormatError::TooLong {
                        noun: "tag",
                        found: tag.len(),
                        largest: tag::BYTES_MAX,
                        unit: "bytes",
                    });
                }
                Ok(tag)
            })
            .collect()
    }

    /// The checksum of what is here.
    #[must_use]
    pub fn checksum(&self) -> String {
        checksum(&self.keys)
    }

    fn stored(&self) -> BTreeMap<&str, String> {
        self.keys
            .iter()
            .map(|(key, value)| (key.as_str(), value.clone()))
            .chain([(CHECKSUM_KEY, self.checksum())])
            .collect()
    }

    /// The domain.
    #[must_use]
    pub fn id(&self) -> DomainId {
        self.id
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> DomainVersion {
        self.version
    }

    /// How it is reached.
    #[must_use]
    pub fn kind(&self) -> DomainType {
        self.kind
    }

    /// What it is for.
    #[must_use]
    pub fn class(&self) -> DomainClass {
        self.class
    }

    /// Whether it is a master.
    #[must_use]
    pub fn role(&self) -> DomainRole {
        self.role
    }

    /// Changes the role.
    pub fn set_role(&mut self, role: DomainRole) {
        self.role = role;
        self.put("ROLE", role.to_string());
    }

    /// The value of a key, known or not. The checksum is not a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    /// All keys and values, without the checksum.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keys
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    fn put(&mut self, key: &str, value: String) {
        self.keys.insert(key.to_owned(), value);
    }

    /// The description; empty when there is none.
    #[must_use]
    pub fn description(&self) -> &str {
        self.get("DESCRIPTION").unwrap_or_default()
    }

    /// Changes the description.
    ///
    /// # Errors
    /// When it is longer than 50 characters or not one line.
    pub fn set_description(&mut self, text: &str) -> Result<(), FormatError> {
        described("domain description", text)?;
        self.put("DESCRIPTION", text.to_owned());
        Ok(())
    }

    /// The pools the domain is attached to: none or one; what others wrote may
    /// have more.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolId> {
        self.get("POOL_UUID")
            .unwrap_or_default()
            .split(',')
            .filter_map(|text| text.trim().parse().ok())
            .filter(|pool: &PoolId| !pool.is_blank())
            .collect()
    }

    /// Attaches to a pool, or detaches.
    pub fn set_pool(&mut self, pool: Option<PoolId>) {
        self.put(
            "POOL_UUID",
            pool.map_or_else(String::new, |pool| pool.to_string()),
        );
    }

    /// The master's version; grows with each change of master.
    ///
    /// # Errors
    /// When it is not a number.
    pub fn master_version(&self) -> Result<Option<u64>, FormatError> {
        self.get("MASTER_VERSION")
            .map(|text| decimal("MASTER_VERSION", text))
            .transpose()
    }

    /// Changes the master's version.
    pub fn set_master_version(&mut self, version: u64) {
        self.put("MASTER_VERSION", version.to_string());
    }

    /// The sector size in bytes: what version 5 stores, 512 before.
    ///
    /// # Errors
    /// When it is stored and neither 512 nor 4096.
    pub fn block_bytes(&self) -> Result<u32, FormatError> {
        match self.get("BLOCK_SIZE") {
            None | Some("512") => Ok(512),
            Some("4096") => Ok(4096),
            Some(other) => Err(FormatError::value("BLOCK_SIZE", other, "512 or 4096")),
        }
    }

    /// The alignment of leases in bytes: what version 5 stores, 1 MiB before.
    ///
    /// # Errors
    /// When it is stored and not 1, 2, 4 or 8 MiB.
    pub fn alignment_bytes(&self) -> Result<u32, FormatError> {
        match self.get("ALIGNMENT") {
            None | Some("1048576") => Ok(1 << 20),
            Some("2097152") => Ok(2 << 20),
            Some("4194304") => Ok(4 << 20),
            Some("8388608") => Ok(8 << 20),
            Some(other) => Err(FormatError::value(
                "ALIGNMENT",
                other,
                "1048576, 2097152, 4194304 or 8388608",
            )),
        }
    }

    /// Whether it says that it is a block domain.
    #[must_use]
    pub fn is_block(&self) -> bool {
        self.kind.is_block()
    }

    /// LVM's id of the VG as it was at creation.
    #[must_use]
    pub fn vg_uuid(&self) -> Option<&str> {
        self.get("VGUUID")
    }

    /// The remote path of a file domain.
    #[must_use]
    pub fn remote_path(&self) -> Option<&str> {
        self.get("REMOTE_PATH")
    }

    /// The physical volumes, in their order.
    ///
    /// # Errors
    /// When one does not parse.
    pub fn pv_mapping(&self) -> Result<Vec<PvMapping>, FormatError> {
        let mut numbered = BTreeMap::new();
        for (key, value) in &self.keys {
            if let Some(number) = pv_number(key) {
                numbered.insert(number, PvMapping::decode(value)?);
            }
        }
        Ok(numbered.into_values().collect())
    }

    /// Writes the physical volumes anew, the one with the `metadata` LV first;
    /// their offsets are computed.
    ///
    /// # Errors
    /// When there are none or more than [`PVS_MAX`], or a name has a character
    /// that would not come back.
    pub fn set_pv_mapping(&mut self, pvs: &[PvMapping]) -> Result<(), FormatError> {
        if pvs.is_empty() || pvs.len() > PVS_MAX {
            return Err(FormatError::value(
                "number of physical volumes",
                &pvs.len().to_string(),
                "1 to 10",
            ));
        }
        for text in pvs.iter().flat_map(|pv| [&pv.device, &pv.uuid]) {
            storable_line("physical volume", text)?;
            if text.is_empty() || text.contains(',') {
                return Err(FormatError::value(
                    "physical volume",
                    text,
                    "a name without comma",
                ));
            }
        }
        self.keys.retain(|key, _| pv_number(key).is_none());
        let mut offset: u64 = 0;
        for (number, pv) in pvs.iter().enumerate() {
            let mapping = PvMapping {
                offset,
                start: 0,
                ..pv.clone()
            };
            self.put(&format!("PV{number}"), mapping.encode());
            offset = offset.saturating_add(pv.extents);
        }
        Ok(())
    }

    /// Makes it metadata of a newer version, with the keys that version has.
    ///
    /// # Errors
    /// When there is no such upgrade.
    pub fn upgrade(&mut self, to: DomainVersion, block_bytes: u32) -> Result<(), FormatError> {
        if !self.version.upgrades().contains(&to) {
            return Err(FormatError::value(
                "upgrade to version",
                &to.to_string(),
                "0 or 2 to 3, 3 to 4 or 5, 4 to 5",
            ));
        }
        self.version = to;
        self.put("VERSION", to.to_string());
        if to >= DomainVersion::V5 {
            self.put("BLOCK_SIZE", block_bytes.to_string());
            self.put("ALIGNMENT", (1u32 << 20).to_string());
            self.keys.remove("LOGBLKSIZE");
            self.keys.remove("PHYBLKSIZE");
        }
        Ok(())
    }

    /// The keys of the pool that a master (or former master) has.
    ///
    /// # Errors
    /// When one is there and does not parse.
    pub fn pool_keys(&self) -> Result<PoolKeys, FormatError> {
        Ok(PoolKeys {
            description: self.get("POOL_DESCRIPTION").map(str::to_owned),
            domains: self
                .get("POOL_DOMAINS")
                .map(PoolKeys::parse_domains)
                .transpose()?,
            spm_id: self.signed("POOL_SPM_ID")?,
            spm_lver: self.signed("POOL_SPM_LVER")?,
        })
    }

    /// Writes the keys of the pool; those that are `None` stay as they are.
    ///
    /// # Errors
    /// When the description is too long, or there are too many domains.
    pub fn set_pool_keys(&mut self, keys: &PoolKeys) -> Result<(), FormatError> {
        if let Some(description) = &keys.description {
            described("pool description", description)?;
            self.put("POOL_DESCRIPTION", description.clone());
        }
        if let Some(domains) = &keys.domains {
            self.put("POOL_DOMAINS", pool_domains(domains)?);
        }
        if let Some(id) = keys.spm_id {
            self.put("POOL_SPM_ID", id.to_string());
        }
        if let Some(lver) = keys.spm_lver {
            self.put("POOL_SPM_LVER", lver.to_string());
        }
        Ok(())
    }

    fn signed(&self, key: &'static str) -> Result<Option<i64>, FormatError> {
        self.get(key)
            .map(|text| {
                text.parse()
                    .map_err(|_| FormatError::value(key, text, "a number, or -1 for none"))
            })
            .transpose()
    }
}

/// What one `vgchange` must take away and add so that the tags of a VG become
/// those of this metadata. Tags that are not metadata are left alone.
#[must_use]
pub fn diff_tags(
    stored: &BTreeSet<String>,
    wanted: &BTreeSet<String>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let gone = stored
        .difference(wanted)
        .filter(|tag| tag.starts_with(TAG_PREFIX))
        .cloned()
        .collect();
    (gone, wanted.difference(stored).cloned().collect())
}

fn pool_domains(domains: &BTreeMap<DomainId, PoolDomainStatus>) -> Result<String, FormatError> {
    if domains.len() > POOL_DOMAINS_MAX {
        return Err(FormatError::TooLong {
            noun: "pool",
            found: domains.len(),
            largest: POOL_DOMAINS_MAX,
            unit: "domains",
        });
    }
    Ok(PoolKeys::format_domains(domains))
}

fn described(noun: &'static str, text: &str) -> Result<(), FormatError> {
    let found = text.chars().count();
    if found > DESCRIPTION_CHARS {
        return Err(FormatError::TooLong {
            noun,
            found,
            largest: DESCRIPTION_CHARS,
            unit: "characters",
        });
    }
    storable_line(noun, text)
}

/// SHA-1 over the lines in the order of their keys, without separators, other
/// than ASCII as numeric character references.
fn checksum(keys: &BTreeMap<String, String>) -> String {
    let mut sha = Sha1::new();
    for (key, value) in keys {
        for letter in key.chars().chain(['=']).chain(value.chars()) {
            if letter.is_ascii() {
                sha.update(letter.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                sha.update(format!("&#{};", u32::from(letter)).as_bytes());
            }
        }
    }
    sha.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
