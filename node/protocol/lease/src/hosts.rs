//! What is believed of every host of the lockspace, from nothing but watching
//! its record change (spec §3.6).

use disk_format::geometry::HOSTS_MAX;
use disk_format::{Generation, HostId, LockspaceName, NameField, delta};

use crate::time::Monotonic;
use crate::timings;

/// Belief about a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belief {
    /// Its lease is free.
    Free,
    /// Not seen changing since the first look, which is not long ago; or its
    /// record was wiped.
    Unknown,
    /// Renewing (or ourselves).
    Live,
    /// No renewal for 8 × its I/O timeout.
    Fail,
    /// No renewal for 8 × its I/O timeout + the watchdog's time.
    Dead,
}

/// What was seen of one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Host id in its record; 0 = never acquired.
    pub owner_id: u64,
    /// Generation.
    pub generation: Generation,
    /// Its clock at its last renewal, seconds; 0 = free.
    pub timestamp: u64,
    /// Its I/O timeout, seconds; ours if its record says 0.
    pub io_timeout_s: u8,
    /// Its unique name.
    pub name: NameField,
    /// First look.
    pub first_check: Option<Monotonic>,
    /// Latest look.
    pub last_check: Option<Monotonic>,
    /// Latest look that showed a change.
    pub last_live: Option<Monotonic>,
    /// Whether the latest look found no valid record.
    pub damaged: bool,
}

impl Host {
    const UNSEEN: Self = Self {
        owner_id: 0,
        generation: Generation(0),
        timestamp: 0,
        io_timeout_s: 0,
        name: NameField::EMPTY,
        first_check: None,
        last_check: None,
        last_live: None,
        damaged: false,
    };

    /// What to believe of it at `now`.
    #[must_use]
    pub fn belief(&self, now: Monotonic, fire_timeout_s: u32) -> Belief {
        if self.timestamp == 0 {
            // Zeros where its record should be do not say that it gave it back.
            return if self.damaged {
                Belief::Unknown
            } else {
                Belief::Free
            };
        }
        let Some(last) = self.last_live.or(self.first_check) else {
            return Belief::Unknown;
        };
        if now <= last.plus_s(timings::lost_s(self.io_timeout_s)) {
            if self.first_check == self.last_live {
                Belief::Unknown
            } else {
                Belief::Live
            }
        } else if now > last.plus_s(timings::host_dead_s(self.io_timeout_s, fire_timeout_s)) {
            Belief::Dead
        } else {
            Belief::Fail
        }
    }
}

/// All hosts; allocated once, for the largest geometry.
#[derive(Debug)]
pub struct Hosts {
    hosts: Box<[Host]>,
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            hosts: vec![Host::UNSEEN; usize::from(HOSTS_MAX)].into_boxed_slice(),
        }
    }
}

impl Hosts {
    /// Takes in one reading of the whole area: [`delta::RECORD_BYTES`] of each
    /// host's sector, in order. `own_io_timeout_s` stands in where a record
    /// says 0. Checksums of other hosts' records are not verified, as in the
    /// original: only change matters here.
    pub(crate) fn observe(
        &mut self,
        area: &[u8],
        lockspace: &LockspaceName,
        own_io_timeout_s: u8,
        now: Monotonic,
    ) {
        for (host, record) in self
            .hosts
            .iter_mut()
            .zip(area.chunks_exact(delta::RECORD_BYTES))
        {
            let Some(leader) = delta::leader(record) else {
                continue;
            };
            host.first_check.get_or_insert(now);
            host.last_check = Some(now);
            host.damaged =
                leader.magic != delta::MAGIC || !leader.space_name.same_name(lockspace.field());
            if host.damaged {
                // Whose record it was stays known; its clock is still followed.
                if leader.timestamp != host.timestamp {
                    host.timestamp = leader.timestamp;
                    host.last_live = Some(now);
                }
                continue;
            }
            let remembered = (host.owner_id, host.generation, host.timestamp);
            let seen = (
                leader.owner_id,
                Generation(leader.owner_generation),
                leader.timestamp,
            );
            if seen != remembered {
                (host.owner_id, host.generation, host.timestamp) = seen;
                host.name = leader.resource_name;
                host.io_timeout_s = match timings::io_timeout_of_record(leader.io_timeout) {
                    0 => own_io_timeout_s,
                    theirs => theirs,
                };
                host.last_live = Some(now);
            }
        }
    }

    /// What was seen of one host.
    #[must_use]
    pub fn get(&self, host: HostId) -> &Host {
        self.hosts.get(host.index()).unwrap_or(&Host::UNSEEN)
    }

    /// Every host with a record that was ever acquired, ascending.
    pub fn seen(&self) -> impl Iterator<Item = (HostId, &Host)> {
        self.hosts
            .iter()
            .enumerate()
            .filter(|(_, host)| host.owner_id != 0 || host.timestamp != 0 || host.damaged)
            .filter_map(|(index, host)| Some((HostId::from_index(index)?, host)))
    }
}

#[cfg(test)]
mod tests {
    use disk_format::{Geometry, HostBitmap, Leader};

    use super::*;

    const fn at(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000_000)
    }

    fn record(generation: u64, timestamp: u64) -> [u8; delta::RECORD_BYTES] {
        let lockspace = LockspaceName::new("LS").expect("valid");
        let mut bytes = [0; delta::RECORD_BYTES];
        let leader = Leader {
            owner_id: 1,
            owner_generation: generation,
            timestamp,
            ..delta::initial(&lockspace, Geometry::Sector512Align1M, 2)
        };
        delta::encode_sector(&leader.sealed(), &HostBitmap::EMPTY, &mut bytes);
        bytes
    }

    fn look(hosts: &mut Hosts, bytes: &[u8], second: u64) -> Belief {
        hosts.observe(
            bytes,
            &LockspaceName::new("LS").expect("valid"),
            10,
            at(second),
        );
        hosts
            .get(HostId::new(1).expect("valid"))
            .belief(at(second), 60)
    }

    #[test]
    fn a_killed_host_goes_from_live_to_fail_to_dead_by_its_own_timeout() {
        let mut hosts = Hosts::default();
        assert_eq!(look(&mut hosts, &record(1, 500), 100), Belief::Unknown);
        assert_eq!(look(&mut hosts, &record(1, 500), 104), Belief::Unknown);
        assert_eq!(look(&mut hosts, &record(1, 504), 108), Belief::Live);
        // Observed with the original for T = 2: live until +16 s, fail until +76 s.
        assert_eq!(look(&mut hosts, &record(1, 504), 124), Belief::Live);
        assert_eq!(look(&mut hosts, &record(1, 504), 125), Belief::Fail);
        assert_eq!(look(&mut hosts, &record(1, 504), 184), Belief::Fail);
        assert_eq!(look(&mut hosts, &record(1, 504), 185), Belief::Dead);
        // It comes back with the next generation.
        assert_eq!(look(&mut hosts, &record(2, 3), 200), Belief::Live);
        assert_eq!(look(&mut hosts, &record(2, 0), 210), Belief::Free);
    }

    #[test]
    fn a_host_never_seen_alive_is_unknown_then_fail_then_dead() {
        let mut hosts = Hosts::default();
        assert_eq!(look(&mut hosts, &record(1, 500), 100), Belief::Unknown);
        assert_eq!(look(&mut hosts, &record(1, 500), 116), Belief::Unknown);
        assert_eq!(look(&mut hosts, &record(1, 500), 117), Belief::Fail);
        assert_eq!(look(&mut hosts, &record(1, 500), 177), Belief::Dead);
    }

    #[test]
    fn damage_keeps_what_was_known() {
        let mut hosts = Hosts::default();
        look(&mut hosts, &record(4, 500), 100);
        let belief = look(&mut hosts, &[0; delta::RECORD_BYTES], 101);
        assert_eq!(belief, Belief::Unknown, "wiped is not free");
        let host = hosts.get(HostId::new(1).expect("valid"));
        assert!(host.damaged);
        assert_eq!(host.generation, Generation(4));
        assert_eq!(hosts.seen().count(), 1);
    }
}
