//! Records of open-iscsi's data base: `key = value` lines, a file of mode 0600
//! each.
//!
//! Secrets go into records by writing the file: `iscsiadm … -v secret` would show
//! them to everybody in the process list.

use std::path::{Path, PathBuf};

use control::storage::connection::Chap;
use control::storage::{Failure, FailureKind};

use super::portal::Portal;
use crate::connect::file;
use crate::job::Result;

/// Longest user name or password, in bytes.
const SECRET_BYTES_MAX: usize = 255;

/// Changes of a record: a value, or `None` to take the key out.
pub(super) type Changes = Vec<(&'static str, Option<String>)>;

/// Applies changes to a record's text. Keys that were not there come before its end.
pub(super) fn changed(text: &str, changes: &[(&'static str, Option<String>)]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut open: Vec<&(&'static str, Option<String>)> = changes.iter().collect();
    let mut end = None;
    for line in text.lines() {
        let key = line.split('=').next().unwrap_or_default().trim();
        if changes.iter().any(|(known, _)| *known == key) {
            let at = open.iter().position(|(known, _)| *known == key);
            if let Some((key, Some(value))) = at.map(|at| open.remove(at)) {
                lines.push(format!("{key} = {value}"));
            }
            continue;
        }
        if line.trim() == "# END RECORD" {
            end = Some(lines.len());
        }
        lines.push(line.to_owned());
    }
    let added = open
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key} = {}", value.as_ref()?)));
    let at = end.unwrap_or(lines.len());
    lines.splice(at..at, added);
    lines.join("\n") + "\n"
}

/// Changes a record file in place, as a whole. `db` is the data base it is in:
/// a temporary file beside the record would be taken for one.
pub(super) fn change(db: &Path, path: &Path, changes: &Changes) -> Result<()> {
    let text = file::read(path)?.ok_or_else(|| {
        Failure::new(
            FailureKind::NotFound,
            format!("iSCSI record {}: not there", path.display()),
        )
    })?;
    let wanted = changed(&text, changes);
    if wanted == text {
        return Ok(());
    }
    file::write(path, Some(db), 0o600, &wanted)
}

/// The value of a key.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (known, value) = line.split_once('=')?;
        (known.trim() == key).then_some(value.trim())
    })
}

/// What authenticates a session.
///
/// # Errors
///
/// [`FailureKind::BadRequest`] for a name or password that a record cannot hold.
pub(super) fn session_auth(chap: Option<&Chap>, mutual: Option<&Chap>) -> Result<Changes> {
    auth(
        [
            "node.session.auth.authmethod",
            "node.session.auth.username",
            "node.session.auth.password",
            "node.session.auth.username_in",
            "node.session.auth.password_in",
        ],
        chap,
        mutual,
    )
}

/// What authenticates a discovery.
///
/// # Errors
///
/// As [`session_auth`].
pub(super) fn discovery_auth(chap: Option<&Chap>, mutual: Option<&Chap>) -> Result<Changes> {
    auth(
        [
            "discovery.sendtargets.auth.authmethod",
            "discovery.sendtargets.auth.username",
            "discovery.sendtargets.auth.password",
            "discovery.sendtargets.auth.username_in",
            "discovery.sendtargets.auth.password_in",
        ],
        chap,
        mutual,
    )
}

fn auth(keys: [&'static str; 5], chap: Option<&Chap>, mutual: Option<&Chap>) -> Result<Changes> {
    if chap.is_none() && mutual.is_some() {
        return Err(Failure::new(
            FailureKind::BadRequest,
            "CHAP: the target proves itself only to an initiator that does, too",
        ));
    }
    let [method, user, password, user_in, password_in] = keys;
    let mut changes: Changes = vec![(
        method,
        Some(if chap.is_some() { "CHAP" } else { "None" }.to_owned()),
    )];
    for (chap, user, password) in [(chap, user, password), (mutual, user_in, password_in)] {
        if let Some(chap) = chap {
            check("CHAP user", &chap.user)?;
            check("CHAP password", &chap.password.0)?;
        }
        changes.push((user, chap.map(|chap| chap.user.clone())));
        changes.push((password, chap.map(|chap| chap.password.0.clone())));
    }
    Ok(changes)
}

/// The message never shows what was given.
fn check(what: &str, text: &str) -> Result<()> {
    let bad = if text.is_empty() || text.len() > SECRET_BYTES_MAX {
        format!("{what}: {} bytes; from 1 to {SECRET_BYTES_MAX}", text.len())
    } else if text.chars().any(char::is_control) || text.trim() != text {
        format!("{what}: no control characters, and no blanks at its ends")
    } else {
        return Ok(());
    };
    Err(Failure::new(FailureKind::BadRequest, bad))
}

/// The record of a target at a portal over an interface: one of an unknown
/// portal group is a file of its own, the others are in a directory by group.
pub(super) fn find(db: &Path, target: &str, portal: &Portal, interface: &str) -> Option<PathBuf> {
    let target = db.join("nodes").join(target);
    let folder = portal.folder();
    let grouped = |name: &str| {
        let group = name.strip_prefix(&folder).and_then(|g| g.strip_prefix(','));
        group.is_some_and(|group| {
            portal
                .group
                .is_none_or(|wanted| group.parse() == Ok(wanted))
        })
    };
    let mut names: Vec<String> = std::fs::read_dir(&target)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let lone = target.join(&folder);
    let is_ours = |path: &PathBuf| {
        let text = file::read(path).ok().flatten().unwrap_or_default();
        value(&text, "iface.iscsi_ifacename") == Some(interface)
    };
    names
        .iter()
        .filter(|name| grouped(name))
        .map(|name| target.join(name).join(interface))
        .find(|path| path.is_file())
        .or_else(|| Some(lone).filter(|lone| lone.is_file() && is_ours(lone)))
}

/// The record of a discovery at a portal.
pub(super) fn discovery(db: &Path, portal: &Portal) -> PathBuf {
    db.join("send_targets")
        .join(portal.folder())
        .join("st_config")
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::storage::connection::Secret;

    const RECORD: &str = "# BEGIN RECORD 2.1.8\n\
        node.name = iqn.2026-11.test:one\n\
        node.startup = automatic\n\
        node.session.auth.authmethod = None\n\
        node.session.auth.password = old\n\
        # END RECORD\n";

    fn chap(user: &str, password: &str) -> Chap {
        Chap {
            user: user.into(),
            password: Secret(password.into()),
        }
    }

    #[test]
    fn changes_replace_add_and_take_out_and_keep_the_rest() {
        let changes = session_auth(Some(&chap("us = er", "p#w=d")), None).unwrap();
        let text = changed(RECORD, &changes);
        assert_eq!(
            text,
            "# BEGIN RECORD 2.1.8\n\
             node.name = iqn.2026-11.test:one\n\
             node.startup = automatic\n\
             node.session.auth.authmethod = CHAP\n\
             node.session.auth.password = p#w=d\n\
             node.session.auth.username = us = er\n\
             # END RECORD\n"
        );
        assert_eq!(changed(&text, &changes), text);
        let without = changed(&text, &session_auth(None, None).unwrap());
        assert_eq!(
            value(&without, "node.session.auth.authmethod"),
            Some("None")
        );
        assert!(!without.contains("password"));
    }

    #[test]
    fn secrets_that_would_break_the_record_are_refused_without_being_shown() {
        for secret in ["", "two\nlines", " secret", &"x".repeat(256)] {
            let failure = session_auth(Some(&chap("user", secret)), None).unwrap_err();
            assert_eq!(failure.kind, FailureKind::BadRequest);
            assert!(secret.is_empty() || !failure.message.contains(secret));
        }
        assert!(discovery_auth(None, Some(&chap("a", "b"))).is_err());
        assert!(!format!("{:?}", chap("user", "hidden")).contains("hidden"));
    }

    #[test]
    fn records_are_found_where_open_iscsi_puts_them() {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path();
        let portal = |text: &str| text.parse::<Portal>().unwrap();
        let put = |path: &str| {
            let path = db.join("nodes").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "iface.iscsi_ifacename = default\n").unwrap();
        };
        assert_eq!(find(db, "iqn.a", &portal("10.0.0.1"), "default"), None);
        put("iqn.a/10.0.0.1,3260,1/default");
        put("iqn.a/10.0.0.1,32600,1/default");
        put("iqn.b/fe80::1,3260");
        let found = find(db, "iqn.a", &portal("10.0.0.1"), "default").unwrap();
        assert!(found.ends_with("iqn.a/10.0.0.1,3260,1/default"));
        assert_eq!(
            find(db, "iqn.a", &portal("10.0.0.1:3260,2"), "default"),
            None
        );
        assert_eq!(find(db, "iqn.a", &portal("10.0.0.1"), "other"), None);
        let found = find(db, "iqn.b", &portal("[fe80::1]"), "default").unwrap();
        assert!(found.ends_with("iqn.b/fe80::1,3260"));
        assert_eq!(find(db, "iqn.b", &portal("[fe80::1]"), "other"), None);
    }
}
