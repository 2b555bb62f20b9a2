//! Configuration documents for the machines of the harness.

use std::fmt::Write as _;

use crate::lun::Lun;
use crate::node::Spec;

/// What a document says; [`Document::text`] writes it down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Host name.
    pub hostname: String,
    /// The `[network…]` sections as they stand, if any.
    pub network: String,
    /// Lockspace: name, device path, host id, I/O timeout in seconds.
    pub lockspace: Option<(String, String, u32, u32)>,
}

impl Document {
    /// Node number `number`, its bridge over its first card with DHCP.
    #[must_use]
    pub fn new(number: u8) -> Self {
        let mac = Spec::mac_of(number, 0);
        Self {
            hostname: format!("node{number}"),
            network: format!(
                "[network.nic]\nmac = \"{mac}\"\n\n[network.ipv4]\nmethod = \"dhcp\"\n"
            ),
            lockspace: None,
        }
    }

    /// The same with a lockspace at the start of `lun`.
    #[must_use]
    pub fn with_lockspace(
        mut self,
        name: &str,
        lun: &Lun,
        host_id: u32,
        io_timeout_s: u32,
    ) -> Self {
        self.lockspace = Some((name.to_owned(), lun.guest_path(), host_id, io_timeout_s));
        self
    }

    /// The document.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "version = 1\n\n[node]\nhostname = \"{}\"\n\n{}",
            self.hostname, self.network
        );
        if let Some((name, path, host_id, io_timeout_s)) = &self.lockspace {
            // Writing to a string cannot fail; the result has nothing to say.
            write!(
                text,
                "\n[lockspace]\nname = \"{name}\"\npath = \"{path}\"\nhost_id = {host_id}\nio_timeout = {io_timeout_s}\nhost_name = \"{}\"\n",
                self.hostname
            )
            .unwrap_or_default();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_harness_writes_documents_that_are_valid() {
        let dir = tempfile::tempdir().unwrap();
        let lun = Lun::create(&dir.path().join("lun"), 1, 1).unwrap();
        let text = Document::new(3).with_lockspace("demo", &lun, 3, 5).text();
        let config = control::config::parse(&text).unwrap();
        let lockspace = config.lockspace.unwrap();
        assert_eq!((lockspace.host_id, lockspace.io_timeout_s), (3, 5));
        assert_eq!(config.hostname.as_deref(), Some("node3"));
    }
}
