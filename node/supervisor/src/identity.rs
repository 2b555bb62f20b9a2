//! Who this machine is: the machine id, and the name written into leases.
//!
//! A host that finds its own name in a held lease takes it back after 2 ×
//! io_timeout instead of waiting until the holder is surely dead (sanlock
//! specification §3.2). That is right only if no other machine can have the
//! same name: two nodes installed with a copied configuration, the same host id
//! and the same name would take the lease from each other. The name is
//! therefore derived from what the hardware says, never from the
//! configuration's host name, and where the hardware says nothing certain it is
//! random: the node then waits the full time after a power cut.

use std::fs;
use std::io;
use std::path::Path;

use control::config::Config;

/// Longest host name in a lease, in bytes (sanlock specification §2.2).
const LEASE_NAME_BYTES_MAX: usize = 48;

/// What the hardware says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hardware {
    /// The firmware's system UUID (`/sys/class/dmi/id/product_uuid`).
    pub system_uuid: Option<String>,
    /// Permanent MAC addresses of the physical cards, in any order.
    pub permanent_macs: Vec<[u8; 6]>,
}

/// 128 bits that stand for this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    bits: u128,
    stable: bool,
}

impl Identity {
    /// From the hardware when it is certain to be unique, else from `random`.
    ///
    /// Certain means: a system UUID that firmware did not leave blank, together
    /// with at least one universally administered MAC address or, on virtual
    /// machines, any MAC address beside a random (version 4) UUID.
    #[must_use]
    pub fn new(hardware: &Hardware, random: u128) -> Self {
        let Some(uuid) = hardware.system_uuid.as_deref().and_then(unique_uuid) else {
            return Self {
                bits: random,
                stable: false,
            };
        };
        let random_uuid = (uuid >> 76) & 0xf == 4;
        let mut macs = hardware.permanent_macs.clone();
        macs.retain(|mac| random_uuid || mac[0] & 0b10 == 0);
        macs.sort_unstable();
        macs.dedup();
        if macs.is_empty() {
            return Self {
                bits: random,
                stable: false,
            };
        }
        let mut text = format!("holdfast machine {uuid:032x}");
        for mac in macs {
            for byte in mac {
                text.push_str(&format!("{byte:02x}"));
            }
        }
        Self {
            bits: digest(text.as_bytes()),
            stable: true,
        }
    }

    /// Whether the same machine has the same identity after a reboot.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.stable
    }

    /// The machine id, 32 lower-case hexadecimal digits (machine-id(5)).
    #[must_use]
    pub fn machine_id(&self) -> String {
        // machine-id(5) wants a version 4 UUID without its hyphens.
        let bits = self.bits & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
        format!("{bits:032x}")
    }

    /// The name for the lease: the configured one, else `<uuid>.<host name>`
    /// cut to 48 bytes, the form the original uses.
    #[must_use]
    pub fn lease_name(&self, config: &Config, hostname: &str) -> String {
        if let Some(name) = config
            .lockspace
            .as_ref()
            .and_then(|lockspace| lockspace.host_name.as_ref())
        {
            return name.clone();
        }
        let id = self.machine_id();
        let mut name = format!(
            "{}-{}-{}-{}-{}.{hostname}",
            &id[..8],
            &id[8..12],
            &id[12..16],
            &id[16..20],
            &id[20..]
        );
        while name.len() > LEASE_NAME_BYTES_MAX {
            name.pop();
        }
        name
    }
}

/// What the machine below `sys` (normally `/sys`) says about its hardware, as
/// far as its drivers are loaded.
#[must_use]
pub fn hardware(sys: &Path) -> Hardware {
    let system_uuid = fs::read_to_string(sys.join("class/dmi/id/product_uuid")).ok();
    let cards = fs::read_dir(sys.join("class/net"))
        .into_iter()
        .flatten()
        .flatten();
    let permanent_macs = cards
        .filter_map(|card| permanent_mac(&card.path()))
        .collect();
    Hardware {
        system_uuid,
        permanent_macs,
    }
}

/// The card's own address, unless somebody gave it another.
fn permanent_mac(card: &Path) -> Option<[u8; 6]> {
    let read = |file: &str| fs::read_to_string(card.join(file)).ok();
    let physical = card.join("device").exists();
    // 0 is the kernel's NET_ADDR_PERM.
    if !physical || read("addr_assign_type")?.trim() != "0" {
        return None;
    }
    let bytes: Vec<u8> = read("address")?
        .trim()
        .split(':')
        .map_while(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes.try_into().ok()
}

/// Sixteen random bytes as a number, for an [`Identity`].
///
/// # Errors
/// The kernel offers no randomness at all.
pub fn random() -> io::Result<u128> {
    let mut bytes = [0; 16];
    linux::system::random_bytes(&mut bytes)?;
    Ok(u128::from_le_bytes(bytes))
}

/// Version of the image (`VERSION+commit`), from its one-line file `release`.
#[must_use]
pub fn image_version(release: &Path) -> String {
    fs::read_to_string(release).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The UUID as a number, unless firmware plainly left it blank.
fn unique_uuid(text: &str) -> Option<u128> {
    let digits: String = text
        .trim()
        .chars()
        .filter(|&character| character != '-')
        .collect();
    if digits.len() != 32 {
        return None;
    }
    let uuid = u128::from_str_radix(&digits, 16).ok()?;
    // Blank, erased flash, and the counting pattern many boards are shipped with.
    let blanks = [
        0,
        u128::MAX,
        0x0302_0100_0504_0706_0809_0a0b_0c0d_0e0f,
        0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f,
    ];
    (!blanks.contains(&uuid)).then_some(uuid)
}

/// FNV-1a, 128 bits: spreads the text; nothing here needs to resist an attacker.
fn digest(bytes: &[u8]) -> u128 {
    bytes.iter().fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d,
        |hash: u128, &byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_addresses_of_physical_cards_count() {
        let sys = tempfile::tempdir().unwrap();
        let cards = [
            ("eth0", "0", "52:54:00:12:34:56", true),
            ("eth1", "3", "52:54:00:12:34:57", true),
            ("br0", "0", "52:54:00:12:34:58", false),
        ];
        for (name, assigned, address, physical) in cards {
            let card = sys.path().join("class/net").join(name);
            fs::create_dir_all(&card).unwrap();
            fs::write(card.join("addr_assign_type"), format!("{assigned}\n")).unwrap();
            fs::write(card.join("address"), format!("{address}\n")).unwrap();
            if physical {
                fs::create_dir(card.join("device")).unwrap();
            }
        }
        let found = super::hardware(sys.path());
        assert_eq!(found.permanent_macs, [[0x52, 0x54, 0x00, 0x12, 0x34, 0x56]]);
        assert_eq!(found.system_uuid, None);
    }

    const UUID: &str = "4c4c4544-0042-3510-8052-b4c04f313233";
    const MAC: [u8; 6] = [0x00, 0x1b, 0x21, 1, 2, 3];

    fn hardware(uuid: &str, macs: &[[u8; 6]]) -> Hardware {
        Hardware {
            system_uuid: Some(uuid.to_owned()),
            permanent_macs: macs.to_vec(),
        }
    }

    fn config(document: &str) -> Config {
        control::config::parse(document).unwrap()
    }

    #[test]
    fn one_machine_keeps_its_name_whatever_the_order_of_its_cards() {
        let other = [0x00, 0x1b, 0x21, 9, 9, 9];
        let first = Identity::new(&hardware(UUID, &[MAC, other]), 1);
        let second = Identity::new(&hardware(UUID, &[other, MAC]), 2);
        assert_eq!(first, second);
        assert!(first.is_stable());
    }

    #[test]
    fn boards_with_one_uuid_differ_by_their_cards() {
        let first = Identity::new(&hardware(UUID, &[MAC]), 1);
        let second = Identity::new(&hardware(UUID, &[[0x00, 0x1b, 0x21, 1, 2, 4]]), 1);
        assert_ne!(first.machine_id(), second.machine_id());
    }

    #[test]
    fn nothing_certain_means_a_random_name() {
        let local = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        for uncertain in [
            Hardware::default(),
            hardware("00000000-0000-0000-0000-000000000000", &[MAC]),
            hardware("03020100-0504-0706-0809-0a0b0c0d0e0f", &[MAC]),
            hardware("Not Settable", &[MAC]),
            hardware(UUID, &[]),
            hardware(UUID, &[local]),
        ] {
            let identity = Identity::new(&uncertain, 77);
            assert!(!identity.is_stable(), "{uncertain:?}");
            assert_ne!(
                identity.machine_id(),
                Identity::new(&uncertain, 78).machine_id()
            );
        }
    }

    #[test]
    fn a_virtual_machine_with_a_random_uuid_is_certain() {
        let virtual_machine = hardware(
            "9d7e1c1e-5f0b-4f6e-9a55-0b1f7b9a1c01",
            &[[0x52, 0x54, 0, 1, 2, 3]],
        );
        assert!(Identity::new(&virtual_machine, 5).is_stable());
    }

    #[test]
    fn the_lease_name_fits_its_field_and_never_follows_from_the_host_name_alone() {
        let config = config("version = 1\n");
        let long = "a-very-long-host-name.example.org";
        let first = Identity::new(&hardware(UUID, &[MAC]), 1).lease_name(&config, long);
        let second = Identity::new(&hardware(UUID, &[[0x00, 0x1b, 0x21, 1, 2, 4]]), 1)
            .lease_name(&config, long);
        assert_eq!(first.len(), LEASE_NAME_BYTES_MAX);
        assert_ne!(first, second);
    }

    #[test]
    fn a_configured_name_is_taken_as_it_is() {
        let config = config(
            "version = 1\n[lockspace]\nname = \"LS\"\npath = \"/dev/sdb\"\nhost_id = 1\nhost_name = \"rack7-node3\"\n",
        );
        assert_eq!(
            Identity::new(&Hardware::default(), 1).lease_name(&config, "x"),
            "rack7-node3"
        );
    }
}
