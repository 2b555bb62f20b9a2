//! iSCSI through open-iscsi: discovery, sessions, records.
//!
//! Decisions about sessions rest on what the kernel lists in sysfs (target,
//! portal, interface, state), which never waits; `iscsiadm` makes changes.

use std::collections::BTreeSet;
use std::fmt;

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

/// Whether [`Wanted::of`] takes a connection.
pub(super) fn check_request(connection: &Connection) -> Result<()> {
    Wanted::of(connection).map(drop)
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
        Ok(Self {
            portals: portals.iter().map(|p| p.parse()).collect::<Result<_>>()?,
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
    admin::prepare_interface(context, places, &wanted.interface)?;
    let answers = in_parallel(&wanted.portals, |portal| {
        admin::discover(context, places, wanted, portal)
    });
    let mut found = BTreeSet::new();
    let mut failures = Vec::new();
    let mut answered = false;
    for answer in answers {
        match answer {
            Ok(targets) => {
                answered = true;
                found.extend(targets);
            }
            Err(failure) => failures.push(failure),
        }
    }
    if answered {
        return Ok(found.into_iter().collect());
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
    let wanted = Wanted::of(connection)?;
    admin::prepare_interface(context, places, &wanted.interface)?;
    let pairs = match wanted.pairs() {
        Some(pairs) => pairs,
        None => {
            context.tell(0, 1, "asking for targets");
            let found = discover(context, places, &wanted)?;
            if found.is_empty() {
                return Err(Failure::new(
                    FailureKind::NotFound,
                    format!("{}: no target for this initiator", connection.id()),
                ));
            }
            let interface = &wanted.interface.name;
            let pair = |found: Found| Pair {
                target: found.target,
                portal: found.portal,
                interface: interface.clone(),
            };
            found.into_iter().map(pair).take(PAIRS_MAX).collect()
        }
    };
    // Before the first login: what is made has to be known after a crash.
    remember(places, connection, &pairs)?;
    let sessions = session::list(&places.sys);
    let (there, missing): (Vec<&Pair>, Vec<&Pair>) = pairs
        .iter()
        .partition(|pair| sessions.iter().any(|session| pair.is_of(session)));
    context.tell(
        u64::try_from(there.len()).unwrap_or(0),
        u64::try_from(pairs.len()).unwrap_or(0),
        "logging in",
    );
    let outcomes = in_parallel(&missing, |pair| {
        admin::login(context, places, &wanted, pair)
    });
    let failures: Vec<Failure> = outcomes.into_iter().filter_map(Result::err).collect();
    if there.is_empty() && failures.len() == missing.len() {
        return Err(worst(failures));
    }
    let failed = failures.into_iter().map(|failure| failure.message);
    // A session that lost its connection is restored by iscsid, for ever.
    let down = there.iter().filter_map(|pair| {
        let session = sessions.iter().find(|session| pair.is_of(session))?;
        (!session.is_up()).then(|| format!("{pair} is {}", session.state))
    });
    Ok(Connected {
        path: None,
        warnings: failed.chain(down).collect(),
    })
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
    let outcomes = in_parallel(&sessions, |session| admin::logout(context, session.id));
    for outcome in outcomes {
        outcome?;
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

/// Remembers the sessions of a connection beside those it had before.
fn remember(places: &Places, connection: &Connection, pairs: &[Pair]) -> Result<()> {
    let mut all = pairs_of(places, connection);
    for pair in pairs {
        match all.iter_mut().find(|there| there.is_same(pair)) {
            Some(there) => there.portal = pair.portal.clone(),
            None => all.push(pair.clone()),
        }
    }
    let text = serde_json::to_string(&all)
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

/// Does the same with each, at most [`PARALLEL_MAX`] at a time; outcomes in order.
fn in_parallel<T: Sync, R: Send>(items: &[T], act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let mut outcomes = Vec::with_capacity(items.len());
    for some in items.chunks(PARALLEL_MAX) {
        std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|item| scope.spawn(|| act(item))).collect();
            for thread in threads {
                match thread.join() {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }
    outcomes
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
