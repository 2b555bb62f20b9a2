//! Running `iscsiadm`, and what its exit statuses mean.
//!
//! No argument ever holds a secret; see [`super::record`].

use std::time::Duration;

use control::storage::{Failure, FailureKind};

use super::portal::{Interface, Portal};
use super::{Found, Pair, Wanted, record};
use crate::command::{Output, Run};
use crate::connect::{Places, file};
use crate::job::{Context, Result};

/// How long a command without network traffic may take.
const LOCAL: Duration = Duration::from_secs(20);

/// How often open-iscsi tries by itself before it fails: later attempts are ours.
const ATTEMPTS: u32 = 2;

/// How long a discovery may take: [`ATTEMPTS`] at 15 s.
const DISCOVERY: Duration = Duration::from_secs(45);

/// How long a login may take: [`ATTEMPTS`] at 15 s, and the scan for disks.
const LOGIN: Duration = Duration::from_secs(60);

/// Exit statuses that are acted on.
const SESSION_EXISTS: i32 = 15;
const NOTHING_FOUND: i32 = 21;

pub(super) fn run(context: &Context, arguments: &[&str], deadline: Duration) -> Result<Output> {
    Run::new("iscsiadm")
        .args(arguments)
        .within(deadline)
        .run(context)
}

/// What an exit status other than 0 says, in the words of the operator.
pub(super) fn failure(output: &Output) -> Failure {
    let words = output.words();
    let authentic = words.contains("authenticat") || words.contains("authoriz");
    let (kind, meaning) = match output.code {
        Some(24) => (FailureKind::Denied, "refused: wrong CHAP name or password"),
        Some(19) if authentic => (
            FailureKind::Denied,
            "the target did not prove itself: wrong CHAP name or password of the target",
        ),
        Some(19) => (FailureKind::Denied, "the target refuses the login"),
        Some(4) => (FailureKind::Io, "the portal cannot be reached"),
        Some(8 | 11) => (FailureKind::Timeout, "the portal does not answer"),
        Some(12 | 14) => (
            FailureKind::Unsupported,
            "the kernel has no iSCSI over TCP (module iscsi_tcp)",
        ),
        Some(13) => (FailureKind::Denied, "not allowed"),
        Some(18 | 20) => (FailureKind::WrongState, "iscsid does not run"),
        Some(NOTHING_FOUND) => (FailureKind::NotFound, "no such record"),
        Some(28 | 29) => (FailureKind::InUse, "busy, try again"),
        _ => return output.failure(FailureKind::Failed),
    };
    output.failure(kind).while_doing(meaning)
}

fn done(output: &Output, also: &[i32]) -> Result<()> {
    match output.code {
        Some(0) => Ok(()),
        Some(code) if also.contains(&code) => Ok(()),
        _ => Err(failure(output)),
    }
}

/// Asks one portal for its targets (sendtargets). Leaves nothing in the data
/// base: neither nodes to be started at boot, nor the secrets.
pub(super) fn discover(
    context: &Context,
    places: &Places,
    wanted: &Wanted,
    portal: &Portal,
) -> Result<Vec<Found>> {
    let mut changes = record::discovery_auth(wanted.chap.as_ref(), wanted.mutual_chap.as_ref())?;
    changes.push((
        "discovery.sendtargets.reopen_max",
        Some((ATTEMPTS - 1).to_string()),
    ));
    let endpoint = portal.endpoint();
    let _turn = file::lock(&places.state, &format!("discovery {endpoint}"))?;
    let base = ["-m", "discoverydb", "-t", "st", "-p", &endpoint];
    let with = |more: &[&'static str]| -> Vec<&str> {
        base.iter().copied().chain(more.iter().copied()).collect()
    };
    let outcome = done(&run(context, &with(&["-o", "new"]), LOCAL)?, &[])
        .and_then(|()| {
            let path = record::discovery(&places.iscsi_db, portal);
            record::change(&places.iscsi_db, &path, &changes).map_err(|failure| {
                match failure.kind {
                    // Its record has a name that iscsiadm looked up, or none.
                    FailureKind::NotFound => Failure::new(
                        FailureKind::NotFound,
                        "neither an address nor the name of one",
                    ),
                    _ => failure,
                }
            })
        })
        .and_then(|()| {
            let mut arguments = with(&["-o", "nonpersistent", "--discover"]);
            if wanted.interface.name != "default" {
                arguments.extend(["-I", &wanted.interface.name]);
            }
            run(context, &arguments, DISCOVERY)
        });
    let removed = run(context, &with(&["-o", "delete"]), LOCAL);
    if !removed.is_ok_and(|output| matches!(output.code, Some(0 | NOTHING_FOUND))) {
        tracing::warn!(%portal, "discovery record could not be removed");
    }
    let output = outcome.map_err(|failure| failure.while_doing(format_args!("portal {portal}")))?;
    match output.code {
        Some(0) => parse_targets(&output.text()),
        // No targets for this initiator.
        Some(NOTHING_FOUND) => Ok(Vec::new()),
        _ => Err(failure(&output).while_doing(format_args!("portal {portal}"))),
    }
}

/// Reads `address:port,group target` lines.
pub(super) fn parse_targets(text: &str) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let read = line.split_once(' ').and_then(|(portal, target)| {
            let target = target.trim();
            super::portal::check_name(target).ok()?;
            Some(Found {
                portal: portal.parse().ok()?,
                target: target.to_owned(),
            })
        });
        found.push(read.ok_or_else(|| {
            Failure::new(
                FailureKind::Failed,
                format!("iscsiadm: discovery line {line:?} cannot be read"),
            )
        })?);
    }
    Ok(found)
}

/// Makes the record of an interface that is bound to a network device, and lets
/// answers come in by other routes than requests go out (loose reverse path
/// filter): with two devices in one network the kernel would drop them.
pub(super) fn prepare_interface(
    context: &Context,
    places: &Places,
    interface: &Interface,
) -> Result<()> {
    let Some(device) = &interface.device else {
        return Ok(());
    };
    let _turn = file::lock(&places.state, "iscsi-interfaces")?;
    let path = places.iscsi_db.join("ifaces").join(&interface.name);
    if file::read(&path)?.is_none() {
        let output = run(
            context,
            &["-m", "iface", "-I", &interface.name, "-o", "new"],
            LOCAL,
        )?;
        done(&output, &[])?;
    }
    // By file: `iscsiadm -o update` wants the kernel's module loaded.
    record::change(
        &places.iscsi_db,
        &path,
        &vec![
            ("iface.net_ifacename", Some(device.clone())),
            ("iface.transport_name", Some("tcp".into())),
        ],
    )?;
    let filter = places
        .proc
        .join("sys/net/ipv4/conf")
        .join(device)
        .join("rp_filter");
    std::fs::write(&filter, "2").map_err(|error| {
        crate::connect::io_failure(
            format_args!(
                "network device {device}: reverse path filter {}",
                filter.display()
            ),
            &error,
        )
    })
}

/// What the record of a pair says: manual, with its secrets.
fn node_changes(wanted: &Wanted) -> Result<record::Changes> {
    let mut changes = record::session_auth(wanted.chap.as_ref(), wanted.mutual_chap.as_ref())?;
    changes.push(("node.startup", Some("manual".into())));
    changes.push((
        "node.session.initial_login_retry_max",
        Some(ATTEMPTS.to_string()),
    ));
    Ok(changes)
}

/// Brings the record of a pair that is logged in to what is wanted now. A session
/// that somebody else made may have none.
pub(super) fn renew_node(places: &Places, wanted: &Wanted, pair: &Pair) -> Result<()> {
    let _turn = file::lock(&places.state, &format!("node {pair}"))?;
    let db = &places.iscsi_db;
    match record::find(db, &pair.target, &pair.portal, &pair.interface) {
        Some(path) => record::change(db, &path, &node_changes(wanted)?),
        None => Ok(()),
    }
}

/// Makes the node record of a pair.
pub(super) fn prepare_node(
    context: &Context,
    places: &Places,
    wanted: &Wanted,
    pair: &Pair,
) -> Result<()> {
    let changes = node_changes(wanted)?;
    let find = || {
        record::find(
            &places.iscsi_db,
            &pair.target,
            &pair.portal,
            &pair.interface,
        )
    };
    let path = match find() {
        Some(path) => path,
        None => {
            let endpoint = with_group(context, places, wanted, pair)?.to_string();
            let output = run(
                context,
                &[
                    "-m",
                    "node",
                    "-T",
                    &pair.target,
                    "-p",
                    &endpoint,
                    "-I",
                    &pair.interface,
                    "-o",
                    "new",
                ],
                LOCAL,
            )?;
            done(&output, &[])?;
            find().ok_or_else(|| {
                Failure::new(
                    FailureKind::Failed,
                    format!(
                        "iSCSI data base {}: iscsiadm made no record for {pair}",
                        places.iscsi_db.display()
                    ),
                )
            })?
        }
    };
    record::change(&places.iscsi_db, &path, &changes)
}

/// The portal of a new record, with its group. A record of an unknown group is a
/// single file, which has room for one interface and which open-iscsi deletes
/// when it learns of the group: it is the last resort, for a target that does not
/// answer discoveries.
fn with_group(context: &Context, places: &Places, wanted: &Wanted, pair: &Pair) -> Result<Portal> {
    if pair.portal.group.is_some() {
        return Ok(pair.portal.clone());
    }
    let found = discover(context, places, wanted, &pair.portal).map(|found| {
        found
            .into_iter()
            .find(|found| found.target == pair.target && found.portal.is_same(&pair.portal))
    });
    match found {
        Ok(Some(found)) => Ok(found.portal),
        // A portal by its host name is told by its address.
        Ok(None) => Ok(pair.portal.clone()),
        Err(failure) if matches!(failure.kind, FailureKind::Denied | FailureKind::Failed) => {
            Ok(pair.portal.clone())
        }
        Err(failure) => Err(failure),
    }
}

/// Logs in; a session that exists is success.
pub(super) fn login(
    context: &Context,
    places: &Places,
    wanted: &Wanted,
    pair: &Pair,
) -> Result<()> {
    let _turn = file::lock(&places.state, &format!("node {pair}"))?;
    let endpoint = pair.portal.endpoint();
    prepare_node(context, places, wanted, pair)
        .and_then(|()| {
            let output = run(
                context,
                &[
                    "-m",
                    "node",
                    "-T",
                    &pair.target,
                    "-p",
                    &endpoint,
                    "-I",
                    &pair.interface,
                    "--login",
                ],
                LOGIN,
            )?;
            done(&output, &[SESSION_EXISTS])
        })
        .map_err(|failure| failure.while_doing(pair))
}

/// Logs a session out.
pub(super) fn logout(context: &Context, session: u32) -> Result<()> {
    let id = session.to_string();
    let output = run(context, &["-m", "session", "-r", &id, "-u"], LOGIN)?;
    done(&output, &[NOTHING_FOUND, 2])
        .map_err(|failure| failure.while_doing(format_args!("iSCSI session {session}")))
}

/// Takes the record of a pair, with its secrets, out of the data base.
pub(super) fn delete_node(context: &Context, places: &Places, pair: &Pair) -> Result<()> {
    let _turn = file::lock(&places.state, &format!("node {pair}"))?;
    if record::find(
        &places.iscsi_db,
        &pair.target,
        &pair.portal,
        &pair.interface,
    )
    .is_none()
    {
        return Ok(());
    }
    let endpoint = pair.portal.endpoint();
    let output = run(
        context,
        &[
            "-m",
            "node",
            "-T",
            &pair.target,
            "-p",
            &endpoint,
            "-I",
            &pair.interface,
            "-o",
            "delete",
        ],
        LOCAL,
    )?;
    done(&output, &[NOTHING_FOUND]).map_err(|failure| failure.while_doing(pair))
}

/// Looks for new and grown LUNs on every session.
pub(crate) fn rescan(context: &Context, deadline: Duration) -> Result<()> {
    let output = run(context, &["-m", "session", "-R"], deadline)?;
    done(&output, &[NOTHING_FOUND])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, words: &str) -> Output {
        Output {
            program: "iscsiadm".into(),
            code: Some(code),
            signal: None,
            stdout: Vec::new(),
            stderr: words.as_bytes().to_vec(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn exit_statuses_have_meanings_an_operator_can_act_on() {
        let denied = failure(&ended(
            24,
            "iscsiadm: discovery login to 127.0.0.1 rejected: initiator failed authorization\n",
        ));
        assert_eq!(denied.kind, FailureKind::Denied);
        assert_eq!(
            denied.message,
            "refused: wrong CHAP name or password: iscsiadm: exit 24: iscsiadm: discovery login \
             to 127.0.0.1 rejected: initiator failed authorization"
        );
        let target = failure(&ended(
            19,
            "iscsiadm: Login authentication failed with target , Authentication request failed",
        ));
        assert!(
            target
                .message
                .starts_with("the target did not prove itself")
        );
        for (code, kind) in [
            (8, FailureKind::Timeout),
            (11, FailureKind::Timeout),
            (12, FailureKind::Unsupported),
            (20, FailureKind::WrongState),
            (21, FailureKind::NotFound),
            (7, FailureKind::Failed),
        ] {
            assert_eq!(failure(&ended(code, "")).kind, kind, "{code}");
        }
        assert!(done(&ended(15, ""), &[SESSION_EXISTS]).is_ok());
        assert!(done(&ended(15, ""), &[]).is_err());
    }

    #[test]
    fn discovery_answers_are_read() {
        let found = parse_targets(
            "127.0.0.1:3260,1 iqn.2026-11.test:one\n\
             [fe80::5054:ff:fe12:3456]:3260,1 iqn.2026-11.test:one\n\
             10.1.1.1:3260,-1 eui.0123456789abcdef\n",
        )
        .unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[1].portal.host, "fe80::5054:ff:fe12:3456");
        assert_eq!(found[2].portal.group, None);
        assert_eq!(parse_targets("\n").unwrap(), Vec::new());
        for bad in [
            "nonsense",
            "127.0.0.1:3260,1 ../../etc/passwd",
            "127.0.0.1:3260,1",
        ] {
            assert!(parse_targets(bad).is_err(), "{bad}");
        }
    }
}
