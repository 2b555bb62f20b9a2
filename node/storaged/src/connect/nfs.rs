//! Mount options of NFS (VDSM storage specification §2.6).

use control::storage::{Failure, FailureKind};

use crate::job::Result;

/// Tenths of a second before a request is sent again.
const TIMEO: u32 = 100;

/// How often a request is sent again before a soft mount fails it.
const RETRANS: u32 = 3;

/// Options with a key of their own in the configuration.
const OWN_KEYS: [&str; 12] = [
    "soft",
    "softerr",
    "hard",
    "timeo",
    "retrans",
    "vers",
    "nfsvers",
    "minorversion",
    "v3",
    "v4",
    "nosharecache",
    "sharecache",
];

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// What both sides know best.
    #[default]
    Auto,
    /// 3.
    V3,
    /// 4, its minor version by agreement.
    V4,
    /// 4.0, 4.1 or 4.2.
    Minor(u8),
}

impl std::str::FromStr for Version {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.to_ascii_lowercase().trim_start_matches('v') {
            "auto" => Self::Auto,
            "3" => Self::V3,
            "4" => Self::V4,
            "4.0" | "4_0" => Self::Minor(0),
            "4.1" | "4_1" => Self::Minor(1),
            "4.2" | "4_2" => Self::Minor(2),
            _ => {
                return Err(Failure::new(
                    FailureKind::BadRequest,
                    format!("NFS version {text:?}: auto, 3, 4, 4.0, 4.1 or 4.2"),
                ));
            }
        })
    }
}

/// What is asked of an NFS mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choices<'a> {
    /// Protocol.
    pub version: Version,
    /// Tenths of a second, 1–6000; 100 when absent.
    pub timeo: Option<u32>,
    /// Times, 1–100; 3 when absent.
    pub retrans: Option<u32>,
    /// Waits for ever for a server that is gone.
    pub hard: bool,
    /// Further options; each may hold several, separated by commas.
    pub further: &'a [String],
}

/// The option string that VDSM makes for the same choices.
///
/// # Errors
///
/// [`FailureKind::BadRequest`] for a number out of range, and for a further
/// option that has a key of its own or cannot be an option.
pub fn options(choices: &Choices<'_>) -> Result<String> {
    let further = further(choices.further)?;
    for option in &further {
        let key = option.split('=').next().unwrap_or_default();
        if OWN_KEYS.contains(&key) {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!("mount option {option:?}: set by version, hard, timeo and retrans"),
            ));
        }
    }
    let timeo = in_range("timeo", choices.timeo.unwrap_or(TIMEO), 6000)?;
    let retrans = in_range("retrans", choices.retrans.unwrap_or(RETRANS), 100)?;
    let mut options = vec![
        if choices.hard { "hard" } else { "soft" }.to_owned(),
        "nosharecache".to_owned(),
        format!("timeo={timeo}"),
        format!("retrans={retrans}"),
    ];
    // The lock helper of version 3 is one more thing that hangs, and domains lock by sanlock.
    if matches!(choices.version, Version::Auto | Version::V3)
        && !further
            .iter()
            .any(|option| option == "lock" || option == "nolock")
    {
        options.push("nolock".to_owned());
    }
    match choices.version {
        Version::Auto => {}
        Version::V3 => options.push("nfsvers=3".to_owned()),
        Version::V4 => options.push("nfsvers=4".to_owned()),
        Version::Minor(minor) => {
            options.push("nfsvers=4".to_owned());
            options.push(format!("minorversion={minor}"));
        }
    }
    options.extend(further);
    Ok(options.join(","))
}

/// What of the options asked for a mount does not have: somebody mounted it before,
/// with others. `has` is what the kernel tells of it.
#[must_use]
pub fn differences(wanted: &str, has: &str) -> Vec<String> {
    let of = |options: &str, key: &str| -> Option<String> {
        options.split(',').find_map(|option| {
            let (name, value) = option.split_once('=')?;
            (name == key).then(|| value.to_owned())
        })
    };
    let mut differ = Vec::new();
    for word in ["soft", "hard"] {
        let is = |options: &str| options.split(',').any(|option| option == word);
        if is(wanted) && !is(has) {
            differ.push(word.to_owned());
        }
    }
    for key in ["timeo", "retrans"] {
        let (asked, told) = (of(wanted, key), of(has, key));
        if let (Some(asked), Some(told)) = (asked, told)
            && asked != told
        {
            differ.push(format!("{key}={asked} (it has {told})"));
        }
    }
    let version = of(wanted, "nfsvers").map(|major| match of(wanted, "minorversion") {
        Some(minor) => format!("{major}.{minor}"),
        None => major,
    });
    if let (Some(asked), Some(told)) = (version, of(has, "vers")) {
        let fits = told == asked
            || told
                .strip_prefix(&asked)
                .is_some_and(|minor| minor.starts_with('.'));
        if !fits {
            differ.push(format!("version {asked} (it has {told})"));
        }
    }
    differ
}

/// Options one by one, checked: printable, no blanks.
pub(super) fn further(given: &[String]) -> Result<Vec<String>> {
    let mut options = Vec::new();
    for option in given.iter().flat_map(|text| text.split(',')) {
        let option = option.trim();
        if option.is_empty() {
            continue;
        }
        if !option.chars().all(|letter| letter.is_ascii_graphic()) {
            return Err(Failure::new(
                FailureKind::BadRequest,
                format!("mount option {option:?}: only printable ASCII without blanks"),
            ));
        }
        options.push(option.to_owned());
    }
    Ok(options)
}

fn in_range(name: &str, value: u32, max: u32) -> Result<u32> {
    if (1..=max).contains(&value) {
        return Ok(value);
    }
    Err(Failure::new(
        FailureKind::BadRequest,
        format!("{name} {value}: from 1 to {max}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(version: &str, hard: bool, further: &[&str]) -> Result<String> {
        let further: Vec<String> = further.iter().map(|&text| text.to_owned()).collect();
        options(&Choices {
            version: version.parse()?,
            hard,
            further: &further,
            ..Choices::default()
        })
    }

    #[test]
    fn options_are_those_of_vdsm_in_its_order() {
        const BASE: &str = "soft,nosharecache,timeo=100,retrans=3";
        for (version, further, tail) in [
            ("auto", &[][..], ",nolock"),
            ("auto", &["lock"], ",lock"),
            ("3", &[], ",nolock,nfsvers=3"),
            ("V3", &["lock", "sec=sys"], ",nfsvers=3,lock,sec=sys"),
            ("3", &["nolock"], ",nfsvers=3,nolock"),
            (
                "3",
                &["local_lock=none"],
                ",nolock,nfsvers=3,local_lock=none",
            ),
            ("4", &[], ",nfsvers=4"),
            (
                "4",
                &["rsize=65536, wsize=65536"],
                ",nfsvers=4,rsize=65536,wsize=65536",
            ),
            ("V4_0", &[], ",nfsvers=4,minorversion=0"),
            ("4.1", &[], ",nfsvers=4,minorversion=1"),
            (
                "4.2",
                &["nconnect=4"],
                ",nfsvers=4,minorversion=2,nconnect=4",
            ),
        ] {
            let expected = format!("{BASE}{tail}");
            assert_eq!(
                made(version, false, further).unwrap(),
                expected,
                "{version} {further:?}"
            );
        }
        assert_eq!(
            made("4.2", true, &[]).unwrap(),
            "hard,nosharecache,timeo=100,retrans=3,nfsvers=4,minorversion=2"
        );
        let slow = Choices {
            timeo: Some(600),
            retrans: Some(6),
            ..Choices::default()
        };
        assert_eq!(
            options(&slow).unwrap(),
            "soft,nosharecache,timeo=600,retrans=6,nolock"
        );
    }

    #[test]
    fn a_mount_with_other_options_is_told_from_one_that_agreed_on_them() {
        const HAS: &str = "rw,vers=4.2,rsize=1048576,namlen=255,soft,nosharecache,proto=tcp,\
                           timeo=100,retrans=3,sec=sys,clientaddr=10.0.0.2,addr=10.0.0.1";
        for (version, hard, differ) in [
            ("auto", false, &[][..]),
            ("4", false, &[]),
            ("4.2", false, &[]),
            ("4.1", false, &["version 4.1 (it has 4.2)"]),
            ("3", true, &["hard", "version 3 (it has 4.2)"]),
        ] {
            let wanted = made(version, hard, &[]).unwrap();
            assert_eq!(differences(&wanted, HAS), differ, "{version} {hard}");
        }
        let slow = options(&Choices {
            timeo: Some(600),
            retrans: Some(6),
            ..Choices::default()
        });
        assert_eq!(
            differences(&slow.unwrap(), HAS),
            ["timeo=600 (it has 100)", "retrans=6 (it has 3)"]
        );
        assert!(differences("soft,timeo=100", "rw").contains(&"soft".to_owned()));
        let old = HAS.replace("vers=4.2", "vers=3");
        assert!(differences(&made("3", false, &[]).unwrap(), &old).is_empty());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for option in [
            "hard",
            "vers=3",
            "timeo=1",
            "sharecache",
            "a b",
            "x\ny",
            "ä",
        ] {
            assert!(made("auto", false, &[option]).is_err(), "{option}");
        }
        assert!(made("5", false, &[]).is_err());
        let zero = Choices {
            retrans: Some(0),
            ..Choices::default()
        };
        assert_eq!(
            options(&zero).unwrap_err().message,
            "retrans 0: from 1 to 100"
        );
    }
}
