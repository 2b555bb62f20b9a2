//! Whether domains are well: what a worker looks at, and what is made of it.
//!
//! ```text
//!  worker   look()      direct read of a block, the domain's metadata, space
//!  daemon   Monitor     due? hung? valid? since when? — without any I/O
//! ```

use std::time::{Duration, Instant};

use control::storage::{Failure, FailureKind};
use linux::disk::{Access, AlignedBuffer, BlockDevice};

use crate::domain::{Domain, Space, Special};
use crate::job::Result;

/// Between two looks.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Between two thorough ones.
pub const THOROUGH: Duration = Duration::from_secs(300);
/// What is read of a domain: one block of its metadata.
const READ_BYTES: usize = 4096;

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// How long the read took; its error otherwise.
    pub read: Result<Duration>,
    /// Whether the domain's own metadata and space are as they should be.
    pub domain: Result<Space>,
    /// Version of the domain.
    pub version: u8,
}

/// Looks at a domain; may hang as long as the storage does. A thorough look
/// reads the domain's metadata too.
#[must_use]
pub fn look(domain: &dyn Domain, thorough: bool) -> Look {
    let read = read_block(domain);
    let checked = if thorough {
        domain.metadata().and_then(|_| domain.space())
    } else {
        domain.space()
    };
    Look {
        read,
        domain: checked,
        version: domain.version().number(),
    }
}

fn read_block(domain: &dyn Domain) -> Result<Duration> {
    let path = domain.special(Special::Metadata);
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(FailureKind::Io, format!("domain {}: {error}", domain.id()))
    };
    let start = Instant::now();
    let device = BlockDevice::open(&path, Access::Read).map_err(|error| failed(&error))?;
    let mut block = AlignedBuffer::new(READ_BYTES);
    match device.read_at(&mut block, 0) {
        // The metadata of a file domain are shorter than a block.
        Ok(()) => {}
        Err(linux::disk::IoError::Short(count)) if count > 0 => {}
        Err(error) => {
            return Err(failed(&format_args!("{}: read: {error}", path.display())));
        }
    }
    Ok(start.elapsed())
}

/// How a domain is, in a report's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// No read error and no domain error.
    pub valid: bool,
    /// Why not.
    pub reason: Option<Failure>,
    /// Since the last look that ended, or timed out.
    pub last_check: Option<Duration>,
    /// How long its read took.
    pub delay: Option<Duration>,
    /// Version of the domain.
    pub version: u8,
    /// Space.
    pub space: Option<Space>,
}

/// What a manager polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoStats {
    /// 0, or the code of the failure.
    pub code: u32,
    /// Age of the last check in seconds, one decimal.
    pub last_check: String,
    /// Delay of the read in seconds.
    pub delay: String,
    /// Whether it is usable.
    pub valid: bool,
    /// Version.
    pub version: i16,
    /// Whether this host's id is held in it.
    pub acquired: bool,
    /// Whether it has been looked at at all.
    pub actual: bool,
}

/// Follows one domain's looks. Pure: the caller says when it is.
#[derive(Debug, Clone)]
pub struct Monitor {
    begun: Option<Instant>,
    thorough_at: Option<Instant>,
    last: Option<(Instant, Look)>,
    /// The read under way is late; told once per period.
    hung_at: Option<Instant>,
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

impl Monitor {
    /// Nothing seen.
    #[must_use]
    pub fn new() -> Self {
        Self {
            begun: None,
            thorough_at: None,
            last: None,
            hung_at: None,
        }
    }

    /// Whether a look is due at `now`, and whether a thorough one: one at a time.
    #[must_use]
    pub fn due(&self, now: Instant) -> Option<bool> {
        if self.begun.is_some() {
            return None;
        }
        let since = self.last.as_ref().map(|(at, _)| now.duration_since(*at));
        since.is_none_or(|since| since >= PERIOD).then(|| {
            self.thorough_at
                .is_none_or(|at| now.duration_since(at) >= THOROUGH)
        })
    }

    /// A look has begun.
    pub fn begin(&mut self, now: Instant, thorough: bool) {
        self.begun = Some(now);
        if thorough {
            self.thorough_at = Some(now);
        }
    }

    /// The look under way has ended. Returns whether validity changed.
    pub fn end(&mut self, now: Instant, look: Look) -> bool {
        let before = self.valid();
        self.begun = None;
        self.hung_at = None;
        self.last = Some((now, look));
        before != self.valid()
    }

    /// Time has passed: a look still under way after a period counts as failed,
    /// until it ends. Returns whether validity changed.
    pub fn tick(&mut self, now: Instant) -> bool {
        let before = self.valid();
        if let Some(begun) = self.begun
            && now.duration_since(begun) >= PERIOD
        {
            self.hung_at = Some(now);
        }
        before != self.valid()
    }

    /// `None` before the first look has ended.
    #[must_use]
    pub fn valid(&self) -> Option<bool> {
        if self.hung_at.is_some() {
            return Some(false);
        }
        self.last
            .as_ref()
            .map(|(_, look)| look.read.is_ok() && look.domain.is_ok())
    }

    /// How the domain is at `now`.
    #[must_use]
    pub fn health(&self, now: Instant) -> Health {
        let last = self.last.as_ref();
        let look = last.map(|(_, look)| look);
        let reason = if self.hung_at.is_some() {
            Some(Failure::new(
                FailureKind::Timeout,
                format!("no answer to a read for {} s", PERIOD.as_secs()),
            ))
        } else {
            look.and_then(|look| {
                let read = look.read.as_ref().err();
                read.or(look.domain.as_ref().err()).cloned()
            })
        };
        Health {
            valid: self.valid().unwrap_or(false),
            reason,
            last_check: self
                .hung_at
                .or(last.map(|(at, _)| *at))
                .map(|at| now.duration_since(at)),
            delay: look.and_then(|look| look.read.as_ref().ok().copied()),
            version: look.map_or(0, |look| look.version),
            space: look.and_then(|look| look.domain.as_ref().ok().copied()),
        }
    }

    /// The same in the words of VDSM's report.
    #[must_use]
    pub fn repo_stats(&self, now: Instant, acquired: bool) -> RepoStats {
        let health = self.health(now);
        let seen = self.last.is_some() || self.hung_at.is_some();
        RepoStats {
            code: match &health.reason {
                None => 0,
                Some(failure) => code(failure.kind),
            },
            last_check: format!("{:.1}", health.last_check.unwrap_or_default().as_secs_f64()),
            delay: format!("{:.6}", health.delay.unwrap_or_default().as_secs_f64()),
            valid: health.valid,
            version: if seen { i16::from(health.version) } else { -1 },
            acquired,
            actual: seen,
        }
    }
}

/// Managers' code of a failure.
fn code(kind: FailureKind) -> u32 {
    match kind {
        FailureKind::NotFound => 358,
        _ => 200,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Look {
        Look {
            read: Ok(Duration::from_micros(273)),
            domain: Ok(Space {
                total_bytes: 10,
                free_bytes: 5,
            }),
            version: 5,
        }
    }

    #[test]
    fn a_hung_read_makes_a_domain_invalid_until_it_ends() {
        let start = Instant::now();
        let mut monitor = Monitor::new();
        assert_eq!(monitor.due(start), Some(true));
        assert!(!monitor.repo_stats(start, false).actual);
        monitor.begin(start, true);
        assert_eq!(monitor.due(start), None);
        assert!(monitor.end(start, good()), "first seen");
        let next = start + PERIOD;
        assert_eq!(monitor.due(next), Some(false), "not thorough again");
        monitor.begin(next, false);
        assert!(!monitor.tick(next + PERIOD / 2));
        assert!(monitor.tick(next + PERIOD));
        assert!(!monitor.tick(next + PERIOD * 2), "no second change");
        let late = monitor.health(next + PERIOD * 2);
        assert!(!late.valid);
        assert_eq!(late.reason.map(|one| one.kind), Some(FailureKind::Timeout));
        assert_eq!(monitor.due(next + PERIOD * 2), None, "one at a time");
        assert!(monitor.end(next + PERIOD * 3, good()));
        assert_eq!(
            monitor.due(start + THOROUGH + PERIOD),
            Some(true),
            "thorough again"
        );
    }

    #[test]
    fn a_report_is_in_the_managers_words() {
        let start = Instant::now();
        let mut monitor = Monitor::new();
        monitor.begin(start, true);
        monitor.end(start, good());
        let stats = monitor.repo_stats(start + Duration::from_millis(3_140), true);
        assert_eq!(
            stats,
            RepoStats {
                code: 0,
                last_check: "3.1".to_owned(),
                delay: "0.000273".to_owned(),
                valid: true,
                version: 5,
                acquired: true,
                actual: true,
            }
        );
        let gone = Look {
            read: Err(Failure::new(FailureKind::NotFound, "gone")),
            ..good()
        };
        monitor.begin(start + PERIOD, false);
        monitor.end(start + PERIOD, gone);
        let stats = monitor.repo_stats(start + PERIOD, true);
        assert_eq!((stats.code, stats.valid), (358, false));
    }
}
