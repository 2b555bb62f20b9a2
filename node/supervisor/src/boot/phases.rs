//! The table of boot phases, in the order `nodectl boot` prints them.
//!
//! The path to "the bridge has its address" is short on purpose: mounts, the
//! card's module, the configuration, the network. It does not wait for udevd or
//! coldplug, which work through some hundred devices meanwhile.

use super::sequence::OnFailure::{Continue, Reboot, StayUp};
use super::sequence::Phase;

const fn phase(
    name: &'static str,
    needs: &'static [&'static str],
    seconds: u64,
    on_failure: super::sequence::OnFailure,
) -> Phase {
    Phase {
        name,
        needs,
        deadline_ms: seconds * 1000,
        on_failure,
    }
}

/// The boot.
pub const BOOT: &[Phase] = &[
    phase("api-filesystems", &[], 10, Reboot),
    phase("cgroups", &["api-filesystems"], 10, Continue),
    phase("kernel-modules", &["cgroups"], 30, Continue),
    phase("control-socket", &["api-filesystems"], 10, Continue),
    phase("identity", &["kernel-modules"], 10, Continue),
    phase("clock", &["api-filesystems"], 10, Continue),
    phase("watchdog", &["cgroups"], 60, Continue),
    phase("config", &["kernel-modules"], 90, StayUp),
    phase("hostname", &["config", "identity"], 5, Continue),
    // A card that is slow to negotiate plus a DHCP server that is slow to answer.
    phase("network", &["config", "kernel-modules"], 120, Continue),
    phase("consoles", &["cgroups", "control-socket"], 30, Continue),
    phase("journald", &["cgroups", "identity"], 60, Continue),
    phase("udevd", &["cgroups"], 60, Continue),
    phase("coldplug", &["udevd"], 60, Continue),
    phase("state-volume", &["coldplug"], 60, Continue),
    phase("entropy", &["state-volume"], 10, Continue),
    phase("leased", &["config", "hostname", "watchdog"], 60, Continue),
    phase("storage-files", &["config"], 10, Continue),
    // Devices come and go later; nothing here waits for all of them.
    phase(
        "storaged",
        &["storage-files", "udevd", "leased"],
        60,
        Continue,
    ),
    phase("iscsid", &["storaged"], 60, Continue),
    phase("multipathd", &["storaged"], 60, Continue),
];

#[cfg(test)]
mod tests {
    use super::super::sequence::Sequence;
    use super::*;

    /// Everything `name` waits for, itself included.
    fn path_to(name: &str) -> Vec<&'static str> {
        let phase = BOOT.iter().find(|phase| phase.name == name).unwrap();
        let mut all = vec![phase.name];
        for need in phase.needs {
            all.extend(path_to(need));
        }
        all
    }

    #[test]
    fn the_table_is_in_order() {
        let sequence = Sequence::new(BOOT);
        assert!(!sequence.settled());
    }

    #[test]
    fn the_network_waits_neither_for_udevd_nor_for_the_journal_nor_for_a_disk() {
        for slow in [
            "udevd",
            "coldplug",
            "journald",
            "state-volume",
            "entropy",
            "watchdog",
        ] {
            assert!(
                !path_to("network").contains(&slow),
                "the network waits for {slow}"
            );
        }
    }

    #[test]
    fn a_bad_configuration_leaves_the_rescue_path_alone() {
        for vital in [
            "consoles",
            "control-socket",
            "journald",
            "watchdog",
            "udevd",
            "state-volume",
        ] {
            assert!(
                !path_to(vital).contains(&"config"),
                "{vital} needs the configuration"
            );
        }
    }

    #[test]
    fn leases_wait_for_the_watchdog() {
        assert!(path_to("leased").contains(&"watchdog"));
    }
}
