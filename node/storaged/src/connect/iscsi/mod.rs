//! iSCSI through open-iscsi: discovery, sessions, records.
//!
//! Decisions about sessions rest on what the kernel lists in sysfs (target,
//! portal, interface, state), which never waits; `iscsiadm` makes changes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control::storage::connection::{Chap, Connection};
use control::storage::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use super::{Connected, Health, Places, file};
use crate::job::{Context, Result};

pub(crate) mod admin;
pub mod portal;
mod record;
pub mod session;

use portal::{Interface, Portal};
use session::Session;

/// Most logins at a time.
const PARALLEL_MAX: usize = 10;

/// Most pairs of target and portal of one connection.
const PAIRS_MAX: usize = 256;

/// Most portals of one connection.
const PORTALS_MAX: usize = 32;

/// How long portals are begun to be asked or logged in to; those that are left are
/// for the next attempt. With the last one's own deadline it is less than what
/// making a connection may take, so that one attempt never undoes another.
const BEGIN: Duration = Duration::from_secs(50);

/// An iSCSI connection, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where to ask.
    pub portals: Vec<Portal>,
    /// Target; every one that the portals offer when absent.
    pub target: Option<String>,
    /// We prove ourselves.
    pub chap: Option<Chap>,
    /// The target proves itself.
    pub mutual_chap: Option<Chap>,
    /// Which way.
    pub interface: Interface,
}

/// A target at a portal, as discovery tells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Where it answers.
    pub portal: Portal,
    /// Its name.
    pub target: String,
}

/// One session to have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pair {
    /// Target.
    pub target: String,
    /// Portal.
    pub portal: Portal,
    /// Interface record.
    pub interface: String,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "target {} at {}", self.target, self.portal)?;
        if self.interface != "default" {
            write!(f, " over {}", self.interface)?;
        }
        Ok(())
    }
}

impl Pair {
    fn is_of(&self, session: &Session) -> bool {
        session.target == self.target
            && session.portal.is_same(&self.portal)
            && session.interface == self.interface
    }

    fn is_same(&self, other: &Self) -> bool {
        self.target == other.target
            && self.portal.is_same(&other.portal)
            && self.interface == other.interface
    }
}

impl Wanted {
    /// Checks an iSCSI connection.
    ///
    /// # Errors
    ///
    /// [`FailureKind::BadRequest`] for another kind, or for a name, portal or
    /// secret that cannot be one.
    pub fn of(connection: &Connection) -> Result<Self> {
        let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
        let Connection::Iscsi {
            portals,
            target,
            chap,
            mutual_chap,
            interface,
        } = connection
        else {
            return Err(bad(format!("{}: not an iSCSI connection", connection.id())));
        };
        if portals.is_empty() {
            return Err(bad("iSCSI connection: no portal".into()));
        }
        if let Some(target) = target {
            portal::check_name(target)?;
        }
        record::session_auth(chap.as_ref(), mutual_chap.as_ref())?;
        let mut several: Vec<Portal> = Vec::new();
        for portal in portals {
            let portal: Portal = portal.parse()?;
            if !several.iter().any(|there| there.is_same(&portal)) {
                several.push(portal);
            }
        }
        if several.len() > PORTALS_MAX {
            return Err(bad(format!(
                "iSCSI connection: {} portals, at most {PORTALS_MAX}",
                several.len()
            )));
        }
        Ok(Self {
            portals: several,
            target: target.clone(),
            chap: chap.clone(),
            mutual_chap: mutual_chap.clone(),
            interface: interface
                .as_deref()
                .map_or_else(|| Ok(Interface::default()), str::parse)?,
        })
    }

    /// The sessions to have when the target is known.
    fn pairs(&self) -> Option<Vec<Pair>> {
        let target = self.target.as_ref()?;
        let pair = |portal: &Portal| Pair {
            target: target.clone(),
            portal: portal.clone(),
            interface: self.interface.name.clone(),
        };
        Some(self.portals.iter().map(pair).collect())
    }
}

/// Asks every portal for its targets; one that fails is passed over as long as
/// another answers.
///
/// # Errors
///
/// What the first portal said, when none answered.
pub fn discover(context: &Context, places: &Places, wanted: &Wanted) -> Result<Vec<Found>> {
    let (found, failures) = ask(context, places, wanted, Instant::now() + BEGIN)?;
    for failure in failures {
        tracing::warn!(%failure, "portal passed over");
    }
    Ok(found)
}

/// What the portals offer, and what those said that do not answer.
fn ask(
    context: &Context,
    places: &Places,
    wanted: &Wanted,
    until: Instant,
) -> Result<(Vec<Found>, Vec<Failure>)> {
    admin::prepare_interface(context, places, &wanted.interface)?;
    let answers = in_parallel(&wanted.portals, until, |portal| {
        admin::discover(context, places, wanted, portal)
    });
    let mut found = BTreeSet::new();
    let mut failures = Vec::new();
    let mut answered = false;
    for (portal, answer) in wanted.portals.iter().zip(answers) {
        match answer.unwrap_or_else(|| Err(put_off(format_args!("portal {portal}")))) {
            Ok(targets) => {
                answered = true;
                found.extend(targets);
            }
            Err(failure) => failures.push(failure),
        }
    }
    if answered {
        return Ok((found.into_iter().collect(), failures));
    }
    Err(worst(failures))
}

/// Logs in to every portal that is not logged in to yet.
///
/// # Errors
///
/// What the portals said, when no session is there in the end.
pub(super) fn connect(
    context: &Context,
    places: &Places,
    connection: &Connection,
) -> Result<Connected> {
    let until = Instant::now() + BEGIN;
    let wanted = Wanted::of(connection)?;
    admin::prepare_interface(context, places, &wanted.interface)?;
    let (pairs, silent) = match wanted.pairs() {
        Some(pairs) => (pairs, Vec::new()),
        None => offered(context, places, connection, &wanted, until)?,
    };
    let sessions = session::list(&places.sys);
    let has_session = |pair: &Pair| sessions.iter().any(|session| pair.is_of(session));
    // What it had before: a session stays, for LUNs may be used over it, and so does
    // what only a portal that is silent now could name.
    let (kept, gone): (Vec<Pair>, Vec<Pair>) = pairs_of(places, connection)
        .into_iter()
        .filter(|pair| !pairs.iter().any(|other| other.is_same(pair)))
        .partition(|pair| has_session(pair) || !silent.is_empty());
    let pairs: Vec<Pair> = pairs.into_iter().chain(kept).collect();
    // Before the first login: what is made has to be known after a crash.
    remember(places, connection, &pairs)?;
    for pair in &gone {
        admin::delete_node(context, places, pair)?;
    }
    let (there, mut missing): (Vec<&Pair>, Vec<&Pair>) =
        pairs.iter().partition(|pair| has_session(pair));
    for pair in &there {
        // The secrets may have changed since; iscsid reads them when it logs in again.
        admin::renew_node(places, &wanted, pair)?;
    }
    context.tell(
        u64::try_from(there.len()).unwrap_or(0),
        u64::try_from(pairs.len()).unwrap_or(0),
        "logging in",
    );
    begin_elsewhere(&mut missing);
    let outcomes = in_parallel(&missing, until, |pair| {
        admin::login(context, places, &wanted, pair)
    });
    let failures: Vec<Failure> = missing
        .iter()
        .zip(outcomes)
        .map(|(pair, outcome)| outcome.unwrap_or_else(|| Err(put_off(pair))))
        .filter_map(Result::err)
        .collect();
    if there.is_empty() && failures.len() == missing.len() {
        return Err(worst(failures));
    }
    // A session that lost its connection is restored by iscsid, for ever.
    let down = there.iter().filter_map(|pair| {
        let session = sessions.iter().find(|session| pair.is_of(session))?;
        (!session.is_up()).then(|| format!("{pair} is {}", session.state))
    });
    let failed = silent.into_iter().chain(failures);
    Ok(Connected {
        path: None,
        warnings: failed.map(|failure| failure.message).chain(down).collect(),
        sessions: pairs
            .iter()
            .map(|pair| format!("{} {}", pair.target, pair.portal.endpoint()))
            .collect(),
    })
}

/// The sessions to have with whatever the portals offer, and what those said that
/// do not answer.
fn offered(
    context: &Context,
    places: &Places,
    connection: &Connection,
    wanted: &Wanted,
    until: Instant,
) -> Result<(Vec<Pair>, Vec<Failure>)> {
    context.tell(0, 1, "asking for targets");
    let (found, mut silent) = ask(context, places, wanted, until)?;
    if found.is_empty() {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!("{}: no target for this initiator", connection.id()),
        ));
    }
    if found.len() > PAIRS_MAX {
        silent.push(Failure::new(
            FailureKind::NoSpace,
            format!(
                "{}: {} targets and portals are offered, the first {PAIRS_MAX} are used; name \
                 the target",
                connection.id(),
                found.len()
            ),
        ));
    }
    let pair = |found: Found| Pair {
        target: found.target,
        portal: found.portal,
        interface: wanted.interface.name.clone(),
    };
    Ok((
        found.into_iter().map(pair).take(PAIRS_MAX).collect(),
        silent,
    ))
}

fn put_off(what: impl fmt::Display) -> Failure {
    Failure::new(
        FailureKind::Timeout,
        format!("{what}: not tried yet, others took too long; it is tried again"),
    )
}

/// Begins each attempt with another one: those that do not answer must not keep the
/// same others from being tried for ever.
fn begin_elsewhere<T>(items: &mut [T]) {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let count = u64::try_from(items.len()).unwrap_or(u64::MAX).max(1);
    items.rotate_left(usize::try_from(seconds % count).unwrap_or(0));
}

/// Logs out of what the connection made, except for what others want too.
///
/// # Errors
///
/// [`FailureKind::InUse`] while a disk of it is used on this host.
pub(super) fn disconnect(
    context: &Context,
    places: &Places,
    connection: &Connection,
    still_wanted: &[Connection],
) -> Result<()> {
    let kept: Vec<Pair> = still_wanted
        .iter()
        .filter(|other| other.id() != connection.id())
        .flat_map(|other| pairs_of(places, other))
        .collect();
    let pairs: Vec<Pair> = pairs_of(places, connection)
        .into_iter()
        .filter(|pair| !kept.iter().any(|kept| kept.is_same(pair)))
        .collect();
    let sessions: Vec<Session> = session::list(&places.sys)
        .into_iter()
        .filter(|session| pairs.iter().any(|pair| pair.is_of(session)))
        .collect();
    let disks: Vec<&str> = sessions
        .iter()
        .flat_map(|session| session.disks.iter().map(String::as_str))
        .collect();
    super::luns::refuse_used(places, &disks)?;
    super::multipath::remove_maps(context, places, &disks);
    let outcomes = in_parallel(&sessions, Instant::now() + BEGIN, |session| {
        admin::logout(context, session.id)
    });
    for outcome in outcomes {
        outcome.unwrap_or_else(|| Err(put_off("logout")))?;
    }
    for pair in &pairs {
        admin::delete_node(context, places, pair)?;
    }
    forget(places, connection)
}

/// Compares the sessions there are with those to have.
///
/// # Errors
///
/// [`FailureKind::BadRequest`] for a connection that cannot be one.
pub(super) fn check(places: &Places, connection: &Connection) -> Result<Health> {
    Wanted::of(connection)?;
    let pairs = pairs_of(places, connection);
    let sessions = session::list(&places.sys);
    let mut down = Vec::new();
    let mut missing = Vec::new();
    for pair in &pairs {
        match sessions.iter().find(|session| pair.is_of(session)) {
            Some(session) if session.is_up() => {}
            Some(session) => down.push(format!("{pair} is {}", session.state)),
            None => missing.push(format!("{pair} is not logged in")),
        }
    }
    if missing.len() == pairs.len() {
        return Ok(Health::Absent);
    }
    let faults: Vec<String> = missing.into_iter().chain(down).collect();
    Ok(if faults.is_empty() {
        Health::Connected
    } else {
        Health::Degraded(faults.join("; "))
    })
}

/// Gives the initiator its name: the one that is asked for, the one it has, or
/// one made from the machine.
pub(super) fn write_initiator_name(
    places: &Places,
    name: Option<&str>,
    host_name: &str,
) -> Result<()> {
    let present = file::read(&places.initiator_name)?.unwrap_or_default();
    let present = present
        .lines()
        .find_map(|line| line.trim().strip_prefix("InitiatorName="));
    let name = match (name, present) {
        (Some(name), _) => name.to_owned(),
        (None, Some(present)) if portal::check_name(present).is_ok() => return Ok(()),
        (None, _) => own_name(places, host_name),
    };
    portal::check_name(&name)?;
    if present == Some(name.as_str()) {
        return Ok(());
    }
    file::write(
        &places.initiator_name,
        None,
        0o600,
        &format!("InitiatorName={name}\n"),
    )
}

/// The hardware's UUID outlives everything that is installed on it.
fn own_name(places: &Places, host_name: &str) -> String {
    let hardware = places.sys.join("class/dmi/id/product_uuid");
    let unique = file::read(&hardware)
        .ok()
        .flatten()
        .map(|text| text.trim().to_ascii_lowercase())
        .filter(|text| text.len() == 36 && text.chars().any(|c| !matches!(c, '0' | 'f' | '-')))
        .unwrap_or_else(|| host_name.to_ascii_lowercase());
    let plain: String = unique
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-".contains(c) {
                c
            } else {
                '-'
            }
        })
        .take(100)
        .collect();
    format!("iqn.2026-11.example.holdfast:{plain}")
}

/// What a connection made, or would make.
fn pairs_of(places: &Places, connection: &Connection) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = file::read(&memory(places, connection))
        .ok()
        .flatten()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let known = Wanted::of(connection)
        .ok()
        .and_then(|wanted| wanted.pairs());
    for pair in known.unwrap_or_default() {
        if !pairs.iter().any(|there| there.is_same(&pair)) {
            pairs.push(pair);
        }
    }
    pairs
}

/// Remembers the sessions of a connection, those it had before only if named again.
fn remember(places: &Places, connection: &Connection, pairs: &[Pair]) -> Result<()> {
    let text = serde_json::to_string(pairs)
        .map_err(|error| Failure::new(FailureKind::Failed, format!("sessions: {error}")))?;
    file::write(&memory(places, connection), None, 0o600, &text)
}

fn forget(places: &Places, connection: &Connection) -> Result<()> {
    let path = memory(places, connection);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(super::io_failure(
            format_args!("file {}", path.display()),
            &error,
        )),
        _ => Ok(()),
    }
}

fn memory(places: &Places, connection: &Connection) -> std::path::PathBuf {
    places
        .state
        .join(format!("{}.sessions", file::short_name(&connection.id())))
}

/// Does the same with each, at most [`PARALLEL_MAX`] at a time; outcomes in order,
/// none for those that were not begun by `until`.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    until: Instant,
    act: impl Fn(&T) -> R + Sync,
) -> Vec<Option<R>> {
    let next = AtomicUsize::new(0);
    let outcomes: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..items.len().min(PARALLEL_MAX) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(item), Some(outcome)) = (items.get(index), outcomes.get(index))
                    else {
                        return;
                    };
                    if Instant::now() >= until {
                        return;
                    }
                    let done = act(item);
                    // Nobody else ever has it.
                    *outcome
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(done);
                }
            });
        }
    });
    outcomes
        .into_iter()
        .map(|outcome| {
            outcome
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        })
        .collect()
}

/// The failure to show of several: a refusal says more than a silence.
fn worst(mut failures: Vec<Failure>) -> Failure {
    failures.sort_by_key(|failure| match failure.kind {
        FailureKind::Denied => 0,
        FailureKind::Unsupported | FailureKind::WrongState => 1,
        FailureKind::NotFound => 2,
        FailureKind::Timeout => 4,
        _ => 3,
    });
    let more = failures.len().saturating_sub(1);
    match failures.into_iter().next() {
        None => Failure::new(FailureKind::NotFound, "no portal to ask"),
        Some(mut failure) => {
            if more > 0 {
                failure.message += &format!(" ({more} more failed)");
            }
            failure
        }
    }
}

#[cfg(test)]
mod tests;
