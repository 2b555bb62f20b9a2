//! Users and groups by name: the local files first, then whatever `getent`
//! knows. Called at the start only.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

/// The user both exist for by default.
const DEFAULT_NAME: &str = "sanlock";

/// Whom to run as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// User id.
    pub(crate) uid: u32,
    /// Group id: the process's and the socket's.
    pub(crate) gid: u32,
    /// Every group the user is a member of.
    pub(crate) groups: Vec<u32>,
}

/// Finds the account for the configured names; `None` means `sanlock` where
/// both user and group of that name exist, else root.
///
/// # Errors
/// A configured name that does not exist.
pub(crate) fn find(user: Option<&str>, group: Option<&str>) -> io::Result<Account> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    find_in(&passwd, &groups, user, group, getent)
}

fn find_in(
    passwd: &str,
    groups: &str,
    user: Option<&str>,
    group: Option<&str>,
    ask: impl Fn(&str, &str) -> Option<String>,
) -> io::Result<Account> {
    let both = user_id(passwd, DEFAULT_NAME).is_some() && id_of(groups, DEFAULT_NAME).is_some();
    let usual = if both { DEFAULT_NAME } else { "root" };
    let (user, group) = (user.unwrap_or(usual), group.unwrap_or(usual));
    let missing = |noun: &str, name: &str| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("{noun} {name:?} does not exist; create it or configure another"),
        )
    };
    let uid = match user_id(passwd, user) {
        Some(uid) => uid,
        None => ask("passwd", user)
            .and_then(|line| user_id(&line, user))
            .ok_or_else(|| missing("user", user))?,
    };
    let gid = match id_of(groups, group) {
        Some(gid) => gid,
        None => ask("group", group)
            .and_then(|line| id_of(&line, group))
            .ok_or_else(|| missing("group", group))?,
    };
    let mut member_of = vec![gid];
    for line in groups.lines() {
        let mut fields = line.split(':').skip(2);
        let (Some(id), Some(members)) = (fields.next(), fields.next()) else {
            continue;
        };
        if members.split(',').any(|member| member == user)
            && let Ok(id) = id.parse()
            && !member_of.contains(&id)
        {
            member_of.push(id);
        }
    }
    Ok(Account {
        uid,
        gid,
        groups: member_of,
    })
}

fn user_id(passwd: &str, name: &str) -> Option<u32> {
    id_of(passwd, name)
}

/// The third field of the line whose first is `name`: the same place in both
/// files.
fn id_of(text: &str, name: &str) -> Option<u32> {
    text.lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1))?)
        .and_then(|id| id.parse().ok())
}

fn getent(database: &str, name: &str) -> Option<String> {
    let output = Command::new("getent")
        .args([database, name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nsanlock:x:104:110::/:/bin/false\nqemu:x:64:64::/:/x\n";
    const GROUP: &str =
        "root:x:0:\nsanlock:x:110:\ndisk:x:6:sanlock,qemu\nkvm:x:36:qemu,sanlock\nodd\n";

    fn find(user: Option<&str>, group: Option<&str>) -> io::Result<Account> {
        find_in(PASSWD, GROUP, user, group, |_, _| None)
    }

    #[test]
    fn the_default_is_sanlock_with_every_group_it_is_a_member_of() {
        let account = find(None, None).unwrap();
        assert_eq!((account.uid, account.gid), (104, 110));
        assert_eq!(account.groups, [110, 6, 36], "disk opens block devices");
    }

    #[test]
    fn without_a_sanlock_group_it_is_root() {
        let account = find_in(PASSWD, "root:x:0:\n", None, None, |_, _| None).unwrap();
        assert_eq!((account.uid, account.gid), (0, 0));
    }

    #[test]
    fn a_name_that_does_not_exist_is_an_error_that_says_so() {
        let error = find(Some("nobody-here"), None).unwrap_err();
        assert!(error.to_string().contains("user \"nobody-here\""));
        assert!(find(None, Some("nobody-here")).is_err());
    }

    #[test]
    fn what_the_files_do_not_know_is_asked_for() {
        let ask = |database: &str, name: &str| {
            (database == "passwd" && name == "far").then(|| "far:*:7000:7000::/:/x".to_owned())
        };
        let account = find_in(PASSWD, GROUP, Some("far"), Some("root"), ask).unwrap();
        assert_eq!(account.uid, 7000);
    }
}
