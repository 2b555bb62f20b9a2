//! Whether an area may be initialised: what is there now decides.
//!
//! Rules, in this order:
//! 1. nothing but zeros: yes;
//! 2. data in which no lockspace is recognised: only when forced with the name
//!    of the lockspace to be *created*;
//! 3. a lockspace: only when forced with the name found *on disk*;
//! 4. and if any of its hosts may be alive (timestamp not 0): only after the
//!    records have been watched, unchanged, until that host is surely dead.
//!
//! So a name typed for one device never destroys another one, and no option
//! destroys a lease that somebody renews.

use std::fmt;

use disk_format::{Content, LockspaceName, NameField, delta};

use crate::timings;

/// The survey looks at blocks of this size: every record starts at a multiple.
const BLOCK: usize = 512;
/// Distinct lockspace names remembered; more are all the same to the decision.
const LOCKSPACES_MAX: usize = 4;

/// A record with a timestamp: a host that may be alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Host id.
    pub owner_id: u64,
    /// Generation.
    pub generation: u64,
    /// The host's clock at its last renewal, seconds.
    pub timestamp: u64,
    /// The host's unique name.
    pub name: NameField,
    /// Its I/O timeout, seconds.
    pub io_timeout_s: u8,
}

/// What the bytes of an area-to-be hold now; fed piece by piece.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    lockspaces: Vec<NameField>,
    holders: Vec<Holder>,
    other: Option<(u64, Content)>,
}

impl Survey {
    /// Looks at the bytes at `offset` (from the area's start, a multiple of
    /// 4096). Pieces come in ascending order and have a multiple of 4096 bytes.
    pub fn feed(&mut self, offset: u64, part: &[u8]) {
        for (page_number, page) in (0u64..).zip(part.chunks(4096)) {
            if page.iter().all(|&byte| byte == 0) {
                continue;
            }
            let mut recognised = false;
            for block in page.chunks(BLOCK) {
                recognised |= self.look_at_block(block);
            }
            if !recognised && self.other.is_none() {
                self.other = Some((offset.saturating_add(page_number * 4096), Content::of(page)));
            }
        }
    }

    fn look_at_block(&mut self, block: &[u8]) -> bool {
        let Some(leader) = delta::leader(block).filter(|leader| leader.magic == delta::MAGIC)
        else {
            return false;
        };
        if self.lockspaces.len() < LOCKSPACES_MAX
            && !self
                .lockspaces
                .iter()
                .any(|name| name.same_name(&leader.space_name))
        {
            self.lockspaces.push(leader.space_name);
        }
        if leader.timestamp != 0 {
            self.holders.push(Holder {
                owner_id: leader.owner_id,
                generation: leader.owner_generation,
                timestamp: leader.timestamp,
                name: leader.resource_name,
                io_timeout_s: timings::io_timeout_of_record(leader.io_timeout),
            });
        }
        true
    }
}

/// What an initialisation must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitPlan {
    /// Write.
    Write,
    /// Watch these hosts' records for so many seconds, survey again, ask
    /// [`confirm_dead`], then write.
    WatchThenWrite {
        /// Hosts that may be alive.
        holders: Vec<Holder>,
        /// Seconds after which an unchanged record means a dead host.
        watch_s: u64,
    },
}

/// Why an area is not initialised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitRefusal {
    /// There is a lockspace.
    #[error("already holds lockspace \"{found}\"{held}; to destroy it, repeat with --force {found}", held = HeldBy(.holders))]
    Lockspace {
        /// Its name.
        found: NameField,
        /// Hosts that may be alive in it.
        holders: Vec<Holder>,
    },
    /// There are several lockspaces.
    #[error(
        "holds several lockspaces, \"{first}\" and \"{second}\" among them; clear the device with other tools first"
    )]
    SeveralLockspaces {
        /// One name.
        first: NameField,
        /// Another.
        second: NameField,
    },
    /// There is something else.
    #[error(
        "holds {content} at byte {offset} of the area; to destroy it, repeat with --force {name}"
    )]
    OtherContent {
        /// Bytes from the area's start.
        offset: u64,
        /// What it looks like.
        content: Box<Content>,
        /// The lockspace to be created.
        name: LockspaceName,
    },
    /// The force name is another.
    #[error(
        "--force {given} does not name what is there: {expected} would; look again at what the device holds"
    )]
    WrongForce {
        /// What was given.
        given: LockspaceName,
        /// What would have been accepted.
        expected: NameField,
    },
    /// A host renewed its lease while it was watched.
    #[error("host id {} (\"{}\", generation {}) is alive: it renewed its lease just now; stop that host first", .0.owner_id, .0.name, .0.generation)]
    Alive(Holder),
}

struct HeldBy<'a>(&'a [Holder]);

impl fmt::Display for HeldBy<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            [one] => write!(
                out,
                ", in which host id {} (\"{}\") may be alive",
                one.owner_id, one.name
            ),
            [one, rest @ ..] => {
                write!(
                    out,
                    ", in which host id {} (\"{}\") and {} more may be alive",
                    one.owner_id,
                    one.name,
                    rest.len()
                )
            }
        }
    }
}

/// Decides whether lockspace `name` may be made where `survey` looked.
/// `fire_timeout_s` is the watchdog's, for the time to watch.
///
/// # Errors
/// See [`InitRefusal`]; nothing may be written then.
pub fn plan_init(
    survey: &Survey,
    name: &LockspaceName,
    force: Option<&LockspaceName>,
    fire_timeout_s: u32,
) -> Result<InitPlan, InitRefusal> {
    let expected = match (survey.lockspaces.as_slice(), survey.other) {
        ([], None) => return Ok(InitPlan::Write),
        ([], Some((offset, content))) => {
            if force.is_none() {
                return Err(InitRefusal::OtherContent {
                    offset,
                    content: Box::new(content),
                    name: *name,
                });
            }
            *name.field()
        }
        ([found], _) => {
            if force.is_none() {
                return Err(InitRefusal::Lockspace {
                    found: *found,
                    holders: survey.holders.clone(),
                });
            }
            *found
        }
        ([first, second, ..], _) => {
            return Err(InitRefusal::SeveralLockspaces {
                first: *first,
                second: *second,
            });
        }
    };
    if let Some(given) = force.filter(|given| !given.field().same_name(&expected)) {
        return Err(InitRefusal::WrongForce {
            given: *given,
            expected,
        });
    }
    let watch = survey
        .holders
        .iter()
        .map(|holder| timings::host_dead_s(holder.io_timeout_s, fire_timeout_s))
        .max();
    Ok(match watch {
        None => InitPlan::Write,
        Some(watch_s) => InitPlan::WatchThenWrite {
            holders: survey.holders.clone(),
            watch_s,
        },
    })
}

/// After the watch: no record that had a timestamp may have changed, and none
/// may have appeared. A record freed meanwhile is fine.
///
/// # Errors
/// [`InitRefusal::Alive`] with the first host that showed life.
pub fn confirm_dead(before: &Survey, after: &Survey) -> Result<(), InitRefusal> {
    match after
        .holders
        .iter()
        .find(|holder| !before.holders.contains(holder))
    {
        Some(holder) => Err(InitRefusal::Alive(*holder)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use disk_format::{Geometry, HostBitmap};

    use super::*;

    fn name(text: &str) -> LockspaceName {
        LockspaceName::new(text).expect("a valid name")
    }

    fn area(lockspace: &str, geometry: Geometry, held_at: Option<u64>) -> Survey {
        let sector = usize::try_from(geometry.sector_size()).expect("small");
        let mut bytes = vec![0; usize::try_from(geometry.align_size()).expect("small")];
        delta::fill_initial(&name(lockspace), geometry, 10, 0, true, &mut bytes);
        if let Some(timestamp) = held_at {
            let mut leader = delta::leader(&bytes[sector * 6..]).expect("a record");
            leader.owner_id = 7;
            leader.timestamp = timestamp;
            delta::encode_sector(
                &leader.sealed(),
                &HostBitmap::EMPTY,
                &mut bytes[sector * 6..sector * 7],
            );
        }
        let mut survey = Survey::default();
        for (number, part) in (0u64..).zip(bytes.chunks(65536)) {
            survey.feed(number * 65536, part);
        }
        survey
    }

    #[test]
    fn zeros_are_free_to_take() {
        let mut survey = Survey::default();
        survey.feed(0, &[0; 65536]);
        assert_eq!(
            plan_init(&survey, &name("NEW"), None, 60),
            Ok(InitPlan::Write)
        );
    }

    #[test]
    fn unknown_data_needs_the_new_name_repeated() {
        let mut survey = Survey::default();
        let mut page = [0; 8192];
        page[5000] = 1;
        survey.feed(0, &page);
        let refusal = plan_init(&survey, &name("NEW"), None, 60).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "holds data of an unknown kind at byte 4096 of the area; to destroy it, repeat with --force NEW"
        );
        assert!(plan_init(&survey, &name("NEW"), Some(&name("OLD")), 60).is_err());
        assert_eq!(
            plan_init(&survey, &name("NEW"), Some(&name("NEW")), 60),
            Ok(InitPlan::Write)
        );
    }

    #[test]
    fn a_lockspace_needs_its_own_name_in_every_geometry() {
        for geometry in Geometry::ALL {
            let survey = area("OLD", geometry, None);
            assert!(matches!(
                plan_init(&survey, &name("NEW"), None, 60),
                Err(InitRefusal::Lockspace { .. })
            ));
            assert!(matches!(
                plan_init(&survey, &name("NEW"), Some(&name("NEW")), 60),
                Err(InitRefusal::WrongForce { .. })
            ));
            assert_eq!(
                plan_init(&survey, &name("NEW"), Some(&name("OLD")), 60),
                Ok(InitPlan::Write)
            );
        }
    }

    #[test]
    fn a_held_lease_is_watched_until_its_host_is_surely_dead() {
        for geometry in Geometry::ALL {
            let before = area("OLD", geometry, Some(1000));
            let refusal = plan_init(&before, &name("NEW"), None, 60)
                .unwrap_err()
                .to_string();
            assert!(refusal.contains("host id 7"), "{refusal}");
            let plan = plan_init(&before, &name("NEW"), Some(&name("OLD")), 60).unwrap();
            assert!(
                matches!(plan, InitPlan::WatchThenWrite { watch_s: 140, .. }),
                "{plan:?}"
            );
            assert_eq!(
                confirm_dead(&before, &area("OLD", geometry, Some(1000))),
                Ok(())
            );
            assert_eq!(confirm_dead(&before, &area("OLD", geometry, None)), Ok(()));
            let renewed = confirm_dead(&before, &area("OLD", geometry, Some(1020)));
            assert!(matches!(
                renewed,
                Err(InitRefusal::Alive(Holder {
                    owner_id: 7,
                    timestamp: 1020,
                    ..
                }))
            ));
        }
    }

    #[test]
    fn an_interrupted_initialisation_is_recognised_as_the_lockspace_it_was_to_be() {
        let mut bytes = vec![0; 1 << 20];
        delta::fill_initial(
            &name("HALF"),
            Geometry::Sector512Align1M,
            10,
            0,
            false,
            &mut bytes,
        );
        let mut survey = Survey::default();
        survey.feed(0, &bytes);
        assert_eq!(
            plan_init(&survey, &name("HALF"), Some(&name("HALF")), 60),
            Ok(InitPlan::Write)
        );
    }
}
