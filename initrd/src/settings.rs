//! What the kernel command line asks of the initrd. Pure.

use std::fmt;
use std::time::Duration;

/// Keys under `holdfast.` that somebody reads: the initrd the first four, the
/// supervisor the last three.
const KEYS: [&str; 6] = [
    ROOT,
    ROOT_WAIT,
    REBOOT_DELAY,
    CONSOLE,
    "holdfast.config",
    "holdfast.debug_shell",
];
const CONSOLE: &str = "holdfast.console";
const ROOT: &str = "holdfast.root";
const ROOT_WAIT: &str = "holdfast.root_wait";
const REBOOT_DELAY: &str = "holdfast.reboot_delay";

/// How long to wait for the root unless told otherwise: disks behind a slow
/// controller take this long to spin up.
const ROOT_WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Long enough to read the report, short enough to be no outage by itself.
const REBOOT_DELAY_DEFAULT: Duration = Duration::from_secs(10);
/// Largest number of seconds accepted for either: an hour.
const SECONDS_MAX: u64 = 3600;

/// Where the root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootSpec {
    /// The partition with this PARTUUID, lower case.
    PartUuid(String),
    /// The file system with this label, or the partition with this name.
    Label(String),
    /// The file `/root.erofs` of the initramfs itself.
    Initrd,
}

impl RootSpec {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "initrd" {
            return Ok(Self::Initrd);
        }
        match text.split_once('=') {
            Some(("PARTUUID", uuid)) => {
                let uuid = uuid.to_ascii_lowercase();
                if is_partition_uuid(&uuid) {
                    Ok(Self::PartUuid(uuid))
                } else {
                    Err(format!(
                        "{ROOT}: PARTUUID {uuid:?} has neither the form \
                         01234567-89ab-cdef-0123-456789abcdef nor 01234567-01"
                    ))
                }
            }
            Some(("LABEL", label)) if !label.is_empty() => Ok(Self::Label(label.to_owned())),
            _ => Err(format!(
                "{ROOT}: {text:?} is none of PARTUUID=…, LABEL=…, initrd"
            )),
        }
    }
}

impl fmt::Display for RootSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartUuid(uuid) => write!(f, "PARTUUID={uuid}"),
            Self::Label(label) => write!(f, "LABEL={label}"),
            Self::Initrd => f.write_str("initrd"),
        }
    }
}

/// A GUID, or the disk id and number of an MBR partition.
fn is_partition_uuid(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    (lengths == [8, 4, 4, 4, 12] || lengths == [8, 2])
        && text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// The command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where the root is, or why that is not known.
    pub(crate) root: Result<RootSpec, String>,
    /// How long to wait for it.
    pub(crate) root_wait: Duration,
    /// How long a failure stays on the consoles before the machine reboots.
    pub(crate) reboot_delay: Duration,
    /// Terminals that are consoles besides the kernel's own.
    pub(crate) consoles: Vec<String>,
    /// What was not understood and is ignored, one sentence each.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// Understands the words of the command line. As in the kernel, the last of
    /// several equal keys counts.
    pub(crate) fn parse<'words>(words: impl IntoIterator<Item = &'words str>) -> Self {
        let mut settings = Self {
            root: Err(format!("{ROOT} is not on the kernel command line")),
            root_wait: ROOT_WAIT_DEFAULT,
            reboot_delay: REBOOT_DELAY_DEFAULT,
            consoles: Vec::new(),
            warnings: Vec::new(),
        };
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                ROOT => settings.root = RootSpec::parse(value),
                ROOT_WAIT => settings.set_seconds(key, value, |it| &mut it.root_wait),
                REBOOT_DELAY => settings.set_seconds(key, value, |it| &mut it.reboot_delay),
                CONSOLE => {
                    // A name, never a path out of /dev.
                    settings.consoles = value
                        .split(',')
                        .filter(|name| !name.is_empty() && !name.contains('/'))
                        .map(str::to_owned)
                        .collect();
                }
                _ if key.starts_with("holdfast.") && !KEYS.contains(&key) => {
                    settings
                        .warnings
                        .push(format!("{key}: unknown key, ignored"));
                }
                _ => {}
            }
        }
        settings
    }

    fn set_seconds(&mut self, key: &str, value: &str, field: fn(&mut Self) -> &mut Duration) {
        let parsed = value.parse::<u64>().ok();
        if let Some(seconds) = parsed.filter(|seconds| *seconds <= SECONDS_MAX) {
            *field(self) = Duration::from_secs(seconds);
        } else {
            let kept = field(self).as_secs();
            self.warnings.push(format!(
                "{key}: {value:?} is not a whole number of seconds up to {SECONDS_MAX}, using {kept}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

    fn parse(line: &str) -> Settings {
        Settings::parse(line.split_whitespace())
    }

    #[test]
    fn every_place_of_the_root_is_understood() {
        let root = |value: &str| parse(&format!("quiet holdfast.root={value} panic=10")).root;
        assert_eq!(
            root(&format!("PARTUUID={UUID}")),
            Ok(RootSpec::PartUuid(UUID.to_ascii_lowercase()))
        );
        assert_eq!(
            root("PARTUUID=0123ABCD-02"),
            Ok(RootSpec::PartUuid("0123abcd-02".to_owned()))
        );
        assert_eq!(
            root("LABEL=holdfast=root"),
            Ok(RootSpec::Label("holdfast=root".to_owned()))
        );
        assert_eq!(root("initrd"), Ok(RootSpec::Initrd));
    }

    #[test]
    fn wrong_places_are_named() {
        for wrong in [
            "",
            "/dev/vda1",
            "PARTUUID=1234",
            "LABEL=",
            "UUID=1",
            "Initrd",
        ] {
            let error = parse(&format!("holdfast.root={wrong}"))
                .root
                .expect_err(wrong);
            assert!(error.starts_with("holdfast.root: "), "{error}");
            assert!(
                error.contains(wrong.trim_start_matches("PARTUUID=")),
                "{error}"
            );
        }
        assert_eq!(
            parse("quiet").root,
            Err("holdfast.root is not on the kernel command line".to_owned())
        );
    }

    #[test]
    fn delays_have_defaults_limits_and_the_last_one_counts() {
        let settings = parse("holdfast.root_wait=5 holdfast.root_wait=7 holdfast.reboot_delay=0");
        assert_eq!(settings.root_wait, Duration::from_secs(7));
        assert_eq!(settings.reboot_delay, Duration::ZERO);
        assert!(settings.warnings.is_empty());

        let settings = parse("holdfast.root_wait=soon holdfast.reboot_delay=3601");
        assert_eq!(settings.root_wait, Duration::from_secs(30));
        assert_eq!(settings.reboot_delay, Duration::from_secs(10));
        assert_eq!(
            settings.warnings,
            [
                "holdfast.root_wait: \"soon\" is not a whole number of seconds up to 3600, using 30",
                "holdfast.reboot_delay: \"3601\" is not a whole number of seconds up to 3600, using 10",
            ]
        );
    }

    #[test]
    fn extra_consoles_are_names_of_terminals() {
        let settings = parse("console=ttyS0 holdfast.console=ttyS1,tty1,,../sda");
        assert_eq!(settings.consoles, ["ttyS1", "tty1"]);
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn unknown_keys_of_ours_are_reported_and_others_are_not() {
        let settings = parse("holdfast.rot=initrd holdfast.config=http://x console=ttyS0 a.b=c");
        assert_eq!(settings.warnings, ["holdfast.rot: unknown key, ignored"]);
    }

    proptest! {
        #[test]
        fn any_command_line_is_answered(line in ".*") {
            let settings = Settings::parse(line.split(' '));
            prop_assert!(settings.root_wait <= Duration::from_secs(SECONDS_MAX));
        }
    }
}
