//! A domain in a folder of its own, an authority and leases that can be made to
//! fail at any step, and ways to write and read as a guest would.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainClass, DomainType};
use disk_format::vdsm::uuid::{DomainId, ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{Allocation, Legality, VolumeFormat, VolumeType};

use super::real::Real;
use super::shelf::Shelf;
use crate::authority::Authority;
use crate::domain::{Domain, VolumeEntry};
use crate::file::{FileDomain, NewFileDomain};
use crate::image::Work;
use crate::image::chain::View;
use crate::image::create::CreateVolume;
use crate::image::leases::{HeldLease, LeaseName, Leases};
use crate::image::prepare::{self, Wanted};
use crate::job::{Context, Result};
use crate::layout::Layout;

/// Every change of metadata and every order to the lease daemon is a step. The one
/// numbered `fail_at` fails; with `dead`, all after it, too.
#[derive(Debug)]
pub(super) struct Steps {
    count: AtomicU64,
    fail_at: AtomicU64,
    dead: AtomicU64,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            fail_at: AtomicU64::new(u64::MAX),
            dead: AtomicU64::new(0),
        }
    }
}

impl Steps {
    /// From now on step `at` (0: the next) fails.
    pub(super) fn arm(&self, at: u64, dead: bool) {
        self.count.store(0, Ordering::Relaxed);
        self.fail_at.store(at, Ordering::Relaxed);
        self.dead.store(u64::from(dead), Ordering::Relaxed);
    }

    pub(super) fn disarm(&self) {
        self.arm(u64::MAX, false);
    }

    /// Whether the step that shall fail was reached.
    pub(super) fn fired(&self) -> bool {
        self.count.load(Ordering::Relaxed) > self.fail_at.load(Ordering::Relaxed)
    }

    fn step(&self) -> Result<()> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let at = self.fail_at.load(Ordering::Relaxed);
        if number == at || (number > at && self.dead.load(Ordering::Relaxed) != 0) {
            return Err(Failure::new(
                FailureKind::LeaseNotHeld,
                format!("test: step {number} fails"),
            ));
        }
        Ok(())
    }
}

impl Authority for Steps {
    fn check(&self, _domain: &str) -> Result<()> {
        self.step()
    }

    fn registration(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

impl Leases for Steps {
    fn create_lockspace(&self, _: &LeaseName) -> Result<()> {
        self.step()
    }

    fn create(&self, _: &LeaseName) -> Result<()> {
        self.step()
    }

    fn acquire<'a>(&'a self, _: &LeaseName) -> Result<Box<dyn HeldLease + 'a>> {
        self.step()?;
        Ok(Box::new(Held(self)))
    }
}

#[derive(Debug)]
struct Held<'a>(&'a Steps);

impl HeldLease for Held<'_> {
    fn check(&self) -> Result<()> {
        self.0.step()
    }

    fn value(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn set_value(&self, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    File,
    Block,
    /// A real volume group.
    Lvm,
}

pub(super) struct Site {
    // Before the folder: its loop devices are of files in it.
    pub(super) domain: Box<dyn Domain>,
    pub(super) shelf: Option<Shelf>,
    pub(super) layout: Layout,
    pub(super) context: Context,
    pub(super) steps: Arc<Steps>,
    pub(super) folder: tempfile::TempDir,
}

pub(super) const DOMAIN: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";

pub(super) fn image(number: u8) -> ImageId {
    ImageId::from_random([number; 16])
}

pub(super) fn volume(number: u8) -> VolumeId {
    VolumeId::from_random([number; 16])
}

pub(super) fn new_file_domain(version: DomainVersion) -> NewFileDomain {
    NewFileDomain {
        id: DOMAIN.parse().unwrap(),
        version,
        kind: DomainType::Nfs,
        class: DomainClass::Data,
        description: "test".into(),
        remote_path: "server.example:/export".into(),
        block_size: None,
        hosts_max: 250,
    }
}

impl Site {
    pub(super) fn new(sort: Sort) -> Self {
        match sort {
            Sort::Block => {
                let folder = tempfile::tempdir().unwrap();
                let shelf = Shelf::new(folder.path(), DOMAIN.parse::<DomainId>().unwrap());
                Self::with(folder, Box::new(shelf.clone()), Some(shelf))
            }
            Sort::File => Self::file(DomainVersion::V5),
            Sort::Lvm => {
                let folder = tempfile::tempdir().unwrap();
                let real = Real::new(folder.path());
                Self::with(folder, Box::new(real), None)
            }
        }
    }

    pub(super) fn file(version: DomainVersion) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let domain = FileDomain::create(
            &Context::quiet(),
            &mount,
            &new_file_domain(version),
            &Steps::default(),
        );
        Self::with(folder, Box::new(domain.unwrap()), None)
    }

    fn with(folder: tempfile::TempDir, domain: Box<dyn Domain>, shelf: Option<Shelf>) -> Self {
        Self {
            domain,
            shelf,
            layout: Layout::under(folder.path()),
            context: Context::quiet(),
            steps: Arc::default(),
            folder,
        }
    }

    /// As after a reboot: nothing is active or prepared, everything is read anew.
    pub(super) fn reboot(&mut self) {
        match std::fs::remove_dir_all(&self.layout.run) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        match &self.shelf {
            Some(shelf) => shelf.detach_all(),
            None if self.domain.kind().is_block() => {
                let entries = self.domain.volumes().unwrap();
                let entries: Vec<_> = entries.iter().collect();
                self.domain.deactivate(&entries).unwrap();
            }
            None => {
                let root = self.domain.root();
                self.domain = Box::new(FileDomain::open(&root).unwrap());
            }
        }
    }

    pub(super) fn work(&self) -> Work<'_> {
        Work {
            context: &self.context,
            domain: self.domain.as_ref(),
            authority: self.steps.as_ref(),
            leases: self.steps.as_ref(),
            layout: &self.layout,
            growth: thin::Policy::DEFAULT,
        }
    }

    /// A request that is possible on this sort of domain.
    pub(super) fn request(&self, of: u8, id: u8, format: VolumeFormat) -> CreateVolume {
        let block = self.domain.kind().is_block();
        CreateVolume {
            format,
            allocation: if block && format == VolumeFormat::Raw {
                Allocation::Preallocated
            } else {
                Allocation::Sparse
            },
            ..CreateVolume::new(image(of), volume(id), CAPACITY)
        }
    }

    fn with_prepared<T>(&self, of: u8, leaf: u8, what: impl FnOnce(&Path) -> T) -> T {
        let wanted = Wanted {
            image: image(of),
            leaf: Some(volume(leaf)),
            allow_illegal: true,
        };
        let prepared = prepare::prepare(self.domain.as_ref(), &self.layout, wanted, None).unwrap();
        let answer = what(&prepared.path);
        if !prepared.before {
            prepare::teardown(self.domain.as_ref(), &self.layout, image(of)).unwrap();
        }
        answer
    }

    pub(super) fn format_of(&self, id: u8) -> VolumeFormat {
        let entry = self.domain.volume(volume(id)).unwrap();
        self.domain.volume_metadata(&entry).unwrap().format
    }

    /// Writes 64 KiB of `byte` at `place` × 64 KiB, as a guest would.
    pub(super) fn write(&self, of: u8, id: u8, place: u64, byte: u8) {
        let format = super::super::qemu::word(self.format_of(id));
        let command = format!("write -P {byte} {} 65536", place * 65536);
        self.with_prepared(of, id, |path| {
            tool(
                "qemu-io",
                &["-f", format, "-c", &command, &path.to_string_lossy()],
            );
        });
    }

    /// What the guest sees: the byte at the start of each 64 KiB, all of them equal.
    pub(super) fn read(&self, of: u8, id: u8) -> Vec<u8> {
        let format = super::super::qemu::word(self.format_of(id));
        let out = self.folder.path().join("read-back");
        self.with_prepared(of, id, |path| {
            let arguments = [
                "convert",
                "-f",
                format,
                "-O",
                "raw",
                &path.to_string_lossy(),
                &out.to_string_lossy(),
            ];
            tool("qemu-img", &arguments);
        });
        let bytes = std::fs::read(&out).unwrap();
        let mut parts: Vec<u8> = bytes
            .chunks(65536)
            .map(|part| {
                assert!(part.iter().all(|b| b == &part[0]), "torn part");
                part[0]
            })
            .collect();
        // Extents make RAW volumes long; no test writes so far behind.
        assert!(parts.iter().skip(64).all(|byte| *byte == 0));
        parts.truncate(64);
        parts
    }

    pub(super) fn live(&self) -> Vec<VolumeEntry> {
        let all = self.domain.volumes().unwrap();
        all.into_iter().filter(VolumeEntry::is_live).collect()
    }

    pub(super) fn kind_of(&self, id: u8) -> VolumeType {
        let entry = self.domain.volume(volume(id)).unwrap();
        self.domain.volume_metadata(&entry).unwrap().volume_type
    }

    pub(super) fn capacity(&self, id: u8) -> u64 {
        let entry = self.domain.volume(volume(id)).unwrap();
        self.domain.volume_metadata(&entry).unwrap().capacity_bytes
    }

    pub(super) fn legality(&self, id: u8) -> Legality {
        let entry = self.domain.volume(volume(id)).unwrap();
        self.domain.volume_metadata(&entry).unwrap().legality
    }

    /// Everything that is promised to hold at any moment.
    pub(super) fn check(&self) {
        let view = View::of_domain(self.domain.as_ref()).unwrap();
        if let Some((id, failure)) = view.broken().next() {
            panic!("volume {id}: {failure}");
        }
        for link in view.links() {
            let id = link.entry.id;
            let chain = view.chain(id).unwrap();
            // One that is being deleted has let go of its parent already.
            let stands = link.metadata.legality == Legality::Legal;
            if let (Some((_, below)), true) = (chain.split_last(), stands) {
                for parent in below {
                    assert_ne!(
                        parent.metadata.volume_type,
                        VolumeType::Leaf,
                        "leaf {} is below {id}",
                        parent.entry.id
                    );
                }
            }
            assert!(link.metadata.capacity_bytes > 0);
            if !self.domain.kind().is_block() {
                let lease = self.domain.lease(&link.entry);
                assert!(lease.path.exists(), "volume {id} without lease");
                assert!(self.domain.path(&link.entry).exists());
            }
        }
    }
}

pub(super) const CAPACITY: u64 = 1 << 20;

pub(super) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; apt-get install qemu-utils"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

pub(super) fn both(test: impl Fn(Site)) {
    for sort in [Sort::File, Sort::Block] {
        test(Site::new(sort));
    }
}
