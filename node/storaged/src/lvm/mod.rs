//! Running the `lvm` program the way VDSM does (storage specification §1.7).
//!
//! What may be asked for is in the types:
//!
//! * [`Lvm::report`], [`Lvm::check`]: read, for everybody;
//! * [`Lvm::map`]: activates, deactivates, refreshes: changes this host's
//!   mappings, never the metadata; for everybody;
//! * [`Lvm::change`]: writes metadata. Takes an [`Authority`] that is asked
//!   immediately before the program starts, and names no volume group but the
//!   domain it was given: a [`Change`] cannot reach into another.
//!
//! An LVM command that was killed or that failed may still have committed: the
//! metadata read afterwards decides, never the exit status alone.

pub mod change;
mod config;
mod devices;
mod locks;
#[cfg(test)]
pub(crate) mod loops;
mod moving;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use control::storage::{Failure, FailureKind};

use change::Abilities;
pub use change::Change;
pub use devices::Candidates;
pub use locks::GroupLock;

use crate::authority::Authority;
use crate::command::{Output, Run};
use crate::job::{Context, Result};
use crate::layout::Layout;

/// How long a command that reads or maps may take.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What LVM commands need to know of the host.
#[derive(Debug, Clone)]
pub struct LvmEnv {
    /// The paths of the host.
    pub layout: Layout,
    /// The program.
    pub program: PathBuf,
    /// Whether the kernel has a device-mapper. Without one, metadata can be read
    /// and written all the same, and nothing can be activated.
    pub device_mapper: bool,
    /// The devices that may carry domains.
    pub candidates: Candidates,
}

impl LvmEnv {
    /// A node: multipath devices, device-mapper.
    #[must_use]
    pub fn node(layout: Layout) -> Self {
        Self {
            layout,
            program: "lvm".into(),
            device_mapper: true,
            candidates: Candidates::Multipath { also: Vec::new() },
        }
    }

    /// Given devices, on a kernel without device-mapper: metadata only.
    #[must_use]
    pub fn metadata_only(layout: Layout, devices: Vec<PathBuf>) -> Self {
        Self {
            layout,
            program: "lvm".into(),
            device_mapper: false,
            candidates: Candidates::Fixed(devices),
        }
    }
}

/// Which devices a command looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// All that may carry domains.
    All,
    /// Those of a volume group when they are known, else all.
    Group(&'a str),
    /// These.
    Devices(&'a [PathBuf]),
}

/// A report (§1.8). The fields and their order are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// `pvs`
    PhysicalVolumes,
    /// `vgs`
    Groups,
    /// `lvs`
    LogicalVolumes,
}

impl Report {
    fn verb(self) -> &'static str {
        match self {
            Self::PhysicalVolumes => "pvs",
            Self::Groups => "vgs",
            Self::LogicalVolumes => "lvs",
        }
    }

    fn fields(self) -> &'static str {
        match self {
            Self::PhysicalVolumes => {
                "uuid,name,size,vg_name,vg_uuid,pe_start,pe_count,pe_alloc_count,mda_count,\
                 dev_size,mda_used_count"
            }
            Self::Groups => {
                "uuid,name,attr,size,free,extent_size,extent_count,free_count,tags,vg_mda_size,\
                 vg_mda_free,lv_count,pv_count,pv_name"
            }
            Self::LogicalVolumes => "uuid,name,vg_name,attr,size,seg_start_pe,devices,tags",
        }
    }
}

/// A change of this host's mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Make the volumes' devices appear.
    Activate,
    /// Take them away; fails for open ones.
    Deactivate,
    /// Load the present size of active volumes.
    Refresh,
}

/// The `lvm` program.
#[derive(Debug)]
pub struct Lvm {
    env: LvmEnv,
    /// Devices of volume groups, as last reported.
    known: Mutex<BTreeMap<String, Vec<PathBuf>>>,
    version: OnceLock<Version>,
}

/// Who changes metadata, of which group, and how.
type Writer<'a> = (&'a dyn Authority, &'a str, &'a Change<'a>);

/// Sees what a command writes, as it comes.
type Watch<'a> = &'a mut (dyn FnMut(&[u8]) + 'a);

/// Of the `lvm` program: 2.03.16 is (2, 3, 16).
type Version = (u32, u32, u32);

impl Lvm {
    /// With what it needs to know of the host.
    #[must_use]
    pub fn new(env: LvmEnv) -> Self {
        Self {
            env,
            known: Mutex::default(),
            version: OnceLock::new(),
        }
    }

    /// What it knows of the host.
    #[must_use]
    pub fn env(&self) -> &LvmEnv {
        &self.env
    }

    /// The paths of the host.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.env.layout
    }

    /// Remembers the devices of a volume group; none forgets them.
    pub fn learn(&self, group: &str, devices: Vec<PathBuf>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.is_empty() {
            known.remove(group);
        } else {
            known.insert(group.to_owned(), devices);
        }
    }

    /// The output of a report about `targets` (all when none).
    ///
    /// # Errors
    /// `NotFound` when a target is not there; `Timeout`; what LVM says.
    pub fn report(
        &self,
        context: &Context,
        scope: Scope<'_>,
        report: Report,
        targets: &[&str],
    ) -> Result<String> {
        let arguments = [
            "--noheadings",
            "--units",
            "b",
            "--nosuffix",
            "--separator",
            "|",
            "--ignoreskippedcluster",
            "-o",
            report.fields(),
        ];
        let mut words: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        words.extend(targets.iter().map(OsString::from));
        let output = self.run(context, scope, report.verb(), &words, None, None)?;
        Ok(output.text().into_owned())
    }

    /// Compares the copies of a group's metadata with each other (`vgck`).
    ///
    /// # Errors
    /// What LVM found.
    pub fn check(&self, context: &Context, group: &str) -> Result<()> {
        self.run(
            context,
            Scope::Group(group),
            "vgck",
            &[OsString::from(group)],
            None,
            None,
        )?;
        Ok(())
    }

    /// Maps or unmaps logical volumes of a group on this host.
    ///
    /// # Errors
    /// `Unsupported` without device-mapper; what LVM says.
    pub fn map(
        &self,
        context: &Context,
        mapping: Mapping,
        group: &str,
        volumes: &[&str],
    ) -> Result<()> {
        self.needs_device_mapper()?;
        if volumes.is_empty() {
            return Ok(());
        }
        let mut words: Vec<OsString> = vec!["--autobackup".into(), "n".into()];
        words.extend(
            match mapping {
                Mapping::Activate => &["--available", "y"][..],
                Mapping::Deactivate => &["--available", "n"],
                Mapping::Refresh => &["--refresh"],
            }
            .iter()
            .map(OsString::from),
        );
        words.extend(volumes.iter().map(|name| format!("{group}/{name}").into()));
        self.run(context, Scope::Group(group), "lvchange", &words, None, None)?;
        Ok(())
    }

    /// Takes away all mappings of a group on this host.
    ///
    /// # Errors
    /// `Unsupported` without device-mapper; `InUse`; what LVM says.
    pub fn unmap_group(&self, context: &Context, group: &str) -> Result<()> {
        self.needs_device_mapper()?;
        let words: Vec<OsString> = ["--available", "n", group].map(OsString::from).into();
        self.run(context, Scope::Group(group), "vgchange", &words, None, None)?;
        Ok(())
    }

    /// Changes the metadata of the volume group `domain`, and of no other.
    /// Commands of this host that change one group follow each other.
    ///
    /// # Errors
    /// `LeaseNotHeld` (nothing was done); `Timeout` (the outcome is unknown, read
    /// to know); `NoSpace`, `Exists`, `NotFound`; what LVM says.
    pub fn change(
        &self,
        context: &Context,
        authority: &dyn Authority,
        domain: &str,
        change: &Change<'_>,
    ) -> Result<Output> {
        let lock = self.lock_group(domain)?;
        self.change_locked(context, authority, &lock, change)
    }

    /// As [`Self::change`], by who holds the group's lock already.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub fn change_locked(
        &self,
        context: &Context,
        authority: &dyn Authority,
        lock: &GroupLock,
        change: &Change<'_>,
    ) -> Result<Output> {
        let domain = lock.group();
        let words = change.words(domain, &self.abilities(context)?);
        let devices = change.devices();
        let mut all = Vec::new();
        let scope = if devices.is_empty() {
            Scope::Group(domain)
        } else {
            // A device that joins, beside those that are in the group already.
            all.extend(self.devices_of(domain).unwrap_or_default());
            all.extend(devices.iter().map(|&device| device.clone()));
            Scope::Devices(&all)
        };
        let output = self.run(
            context,
            scope,
            change.verb(),
            &words,
            Some((authority, domain, change)),
            None,
        );
        if change.changes_devices() {
            self.learn(domain, Vec::new());
        }
        output
    }

    /// Keeps other changes of a group away until it is dropped.
    ///
    /// # Errors
    /// The lock file cannot be made.
    pub fn lock_group(&self, group: &str) -> Result<GroupLock> {
        GroupLock::take(&self.env.layout, group)
    }

    /// The devices of a group when they were reported.
    #[must_use]
    pub fn devices_of(&self, group: &str) -> Option<Vec<PathBuf>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(group).cloned()
    }

    fn abilities(&self, context: &Context) -> Result<Abilities> {
        let version = match self.version.get() {
            Some(&version) => version,
            None => {
                let output = Run::new(&self.env.program)
                    .arg("version")
                    .env("LVM_SYSTEM_DIR", &self.env.layout.lvm)
                    .env("LVM_SUPPRESS_FD_WARNINGS", "1")
                    .within(READ_TIMEOUT)
                    .run(context)?;
                // It also tells that there is no device-mapper, by its exit status.
                let version = parse_version(&output.text()).ok_or_else(|| {
                    Failure::new(
                        FailureKind::Unsupported,
                        format!("lvm version: cannot be told from {:?}", output.words()),
                    )
                })?;
                *self.version.get_or_init(|| version)
            }
        };
        Ok(Abilities {
            device_mapper: self.env.device_mapper,
            // Without the option, newer versions refuse to cut off what looks like
            // a file system; which a guest's disk may well do.
            fs_option: version >= (2, 3, 17),
        })
    }

    fn needs_device_mapper(&self) -> Result<()> {
        if self.env.device_mapper {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::Unsupported,
            "this kernel has no device-mapper: logical volumes cannot be activated",
        ))
    }

    /// Runs a command; when it fails, once more if other devices are there now.
    fn run(
        &self,
        context: &Context,
        scope: Scope<'_>,
        verb: &str,
        words: &[OsString],
        writer: Option<Writer<'_>>,
        mut watch: Option<Watch<'_>>,
    ) -> Result<Output> {
        config::prepare(&self.env.layout)?;
        let devices = self.resolve(scope)?;
        let first = match &mut watch {
            Some(watch) => {
                let mut seen = |piece: &[u8]| watch(piece);
                self.once(context, &devices, verb, words, writer, Some(&mut seen))
            }
            None => self.once(context, &devices, verb, words, writer, None),
        };
        let Err(failure) = &first else { return first };
        if matches!(
            failure.kind,
            FailureKind::Timeout
                | FailureKind::LeaseNotHeld
                | FailureKind::Unsupported
                | FailureKind::Cancelled
        ) {
            return first;
        }
        // The list may have been stale: LUNs that came, a group that grew.
        let again = match scope {
            Scope::Group(group) => {
                self.learn(group, Vec::new());
                self.resolve(Scope::All)?
            }
            Scope::All | Scope::Devices(_) => self.resolve(scope)?,
        };
        if again == devices {
            return first;
        }
        tracing::debug!(verb, devices = again.len(), "lvm repeated with new devices");
        self.once(context, &again, verb, words, writer, watch)
    }

    fn resolve(&self, scope: Scope<'_>) -> Result<Vec<PathBuf>> {
        let mut devices = match scope {
            Scope::All => self.env.candidates.list(&self.env.layout)?,
            Scope::Group(group) => match self.devices_of(group) {
                Some(known) => known,
                None => self.env.candidates.list(&self.env.layout)?,
            },
            Scope::Devices(devices) => devices.to_vec(),
        };
        devices.sort();
        devices.dedup();
        Ok(devices)
    }

    fn once(
        &self,
        context: &Context,
        devices: &[PathBuf],
        verb: &str,
        words: &[OsString],
        writer: Option<Writer<'_>>,
        watch: Option<Watch<'_>>,
    ) -> Result<Output> {
        if devices.is_empty() {
            return Err(Failure::new(
                FailureKind::NotFound,
                format!("lvm {verb}: no device to look at, connect storage first"),
            ));
        }
        // A move would keep its slot, and whoever waits for that one, for hours.
        let moves = writer.is_some_and(|(_, _, change)| change.is_of_moves());
        let _slot = (!moves)
            .then(|| locks::Slot::take(&self.env.layout))
            .transpose()?;
        let mut run = Run::new(&self.env.program)
            .arg(verb)
            .arg("--devices")
            .arg(devices::join(devices))
            .arg("--config")
            .arg(config::line(writer.map(|(_, _, change)| change)))
            .env("LVM_SYSTEM_DIR", &self.env.layout.lvm)
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .within(writer.map_or(READ_TIMEOUT, |(_, _, change)| change.timeout()));
        if !self.env.device_mapper {
            run = run.arg("--driverloaded").arg("n");
        }
        run = run.args(words);
        if let Some(watch) = watch {
            run = run.watch(watch);
        }
        if let Some((authority, domain, _)) = writer {
            run = run.inherit(authority.registration());
            // Nothing may come between this and the start of the program.
            authority.check(domain)?;
        }
        let output = run.run(context)?;
        if output.code == Some(0) {
            return Ok(output);
        }
        Err(refusal(verb, &output))
    }
}

fn parse_version(text: &str) -> Option<Version> {
    let line = text.lines().find(|line| line.contains("LVM version:"))?;
    let number = line.split(':').nth(1)?.split('(').next()?.trim();
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// What a failed command means.
fn refusal(verb: &str, output: &Output) -> Failure {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| {
            !line.is_empty()
                && !line.starts_with("WARNING:")
                && !line.contains("device-mapper")
                && !line.contains("/dev/mapper/control")
        })
        .collect();
    let text = lines.join("; ");
    let text: String = text.chars().take(600).collect();
    let lower = text.to_lowercase();
    let has = |any: &[&str]| any.iter().any(|part| lower.contains(part));
    let kind = if has(&[
        "insufficient free space",
        "insufficient suitable",
        "insufficient free extents",
        "not enough free",
        "has insufficient",
    ]) {
        FailureKind::NoSpace
    } else if has(&["already exists", "already in volume group"]) {
        FailureKind::Exists
    } else if has(&[
        "not found",
        "failed to find",
        "cannot find",
        "couldn't find",
    ]) {
        FailureKind::NotFound
    } else if has(&[
        "in use",
        "is used by",
        "contains a filesystem in use",
        "is open",
    ]) {
        FailureKind::InUse
    } else {
        FailureKind::Failed
    };
    let end = match (output.code, output.signal) {
        (Some(code), _) => format!("exit {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    Failure::new(kind, format!("lvm {verb}: {end}: {text}"))
}
