//! Where file systems are mounted from: `server:/path`, `server:volume`, a device or
//! a directory; and what cannot be one.

/// Longest one, in bytes.
const BYTES_MAX: usize = 1023;

/// A remote path in its one spelling: no doubled, no closing slash, no `.` and
/// `..`. `host:` before it stays, and so do the brackets of an IPv6 address, and the
/// two slashes before the server of a CIFS share.
#[must_use]
pub fn normalized(remote: &str) -> String {
    let (host, path) = split_host(remote);
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if path.starts_with('/') || parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let is_share = host.is_none() && path.starts_with("//") && !path.starts_with("///");
    let root = match path.starts_with('/') {
        true if is_share => "//",
        true => "/",
        false => "",
    };
    match host {
        Some(host) => format!("{host}:{root}{}", parts.join("/")),
        None => format!("{root}{}", parts.join("/")),
    }
}

/// Splits `host:path`, `[address]:path`; no host in what starts with a slash.
#[must_use]
pub fn split_host(remote: &str) -> (Option<&str>, &str) {
    if remote.starts_with('/') {
        return (None, remote);
    }
    if remote.starts_with('[') {
        if let Some(end) = remote.find("]:") {
            return (
                remote.get(..=end),
                remote.get(end + 2..).unwrap_or_default(),
            );
        }
        return (None, remote);
    }
    match remote.split_once(':') {
        Some((host, path)) => (Some(host), path),
        None => (None, remote),
    }
}

/// Checks that something can be mounted from, or linked to: blanks, colons and
/// letters of any language may be in it.
///
/// # Errors
/// What is wrong with it, without the text itself: nothing, too much, an option, an
/// IPv6 address without brackets, characters that no list of mounts can show.
pub fn check(remote: &str) -> Result<(), String> {
    if remote.is_empty() {
        return Err("is empty".to_owned());
    }
    if remote.len() > BYTES_MAX {
        return Err(format!(
            "{} bytes, longest allowed is {BYTES_MAX}",
            remote.len()
        ));
    }
    if remote.starts_with('-') {
        return Err("may not begin with a hyphen".to_owned());
    }
    if remote.chars().any(char::is_control) {
        return Err("may have no control characters".to_owned());
    }
    if remote.trim() != remote {
        return Err("may not begin or end with a blank".to_owned());
    }
    Ok(())
}

/// Checks an NFS export.
///
/// # Errors
/// As [`check`], and when it is not `server:/path`.
pub fn check_export(export: &str) -> Result<(), String> {
    check(export)?;
    let (host, path) = split_host(export);
    let Some(host) = host.filter(|host| !host.is_empty() && path.starts_with('/')) else {
        let colons = export.split('/').next().unwrap_or_default().matches(':');
        return Err(if colons.count() > 1 && !export.starts_with('[') {
            "an IPv6 address is written in brackets: [address]:/path".to_owned()
        } else {
            "an export is written server:/path".to_owned()
        });
    };
    if host.contains(char::is_whitespace) {
        return Err("its server has a blank in its name".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_paths_have_one_spelling() {
        for (given, expected) in [
            ("server:/export/data/", "server:/export/data"),
            ("server:/export//data", "server:/export/data"),
            ("server:/a/./b/../c", "server:/a/c"),
            ("server:/", "server:/"),
            ("server:/..", "server:/"),
            ("server:/a b:c/", "server:/a b:c"),
            ("[2001:db8::1]:/data/", "[2001:db8::1]:/data"),
            ("server:volume", "server:volume"),
            ("/dev/vdb", "/dev/vdb"),
            ("/data/", "/data"),
            ("//cifs/share/", "//cifs/share"),
            ("///data", "/data"),
            ("LABEL=data", "LABEL=data"),
        ] {
            assert_eq!(normalized(given), expected, "{given}");
        }
    }

    #[test]
    fn exports_may_have_blanks_colons_and_addresses() {
        for export in [
            "server:/x",
            "server:/my export/a:b",
            "10.0.0.1:/x",
            "[2001:db8::1]:/x",
            "[fe80::1%eth0]:/x",
            "server:/é",
        ] {
            check_export(export).unwrap();
        }
        for (export, why) in [
            ("", "is empty"),
            ("server", "server:/path"),
            ("server:relative", "server:/path"),
            (":/x", "server:/path"),
            ("/x", "server:/path"),
            ("2001:db8::1:/x", "brackets"),
            ("[2001:db8::1]", "server:/path"),
            ("-o:/x", "hyphen"),
            ("server:/a\nb", "control"),
            ("server:/x ", "blank"),
            ("my server:/x", "blank in its name"),
        ] {
            let message = check_export(export).unwrap_err();
            assert!(message.contains(why), "{export:?}: {message}");
        }
        assert!(check(&"x".repeat(1024)).unwrap_err().contains("1023"));
    }
}
