//! File domains in directories, and on a file system with sectors of 4096 bytes.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::domain::{DomainClass, DomainRole, DomainType};
use disk_format::vdsm::uuid::{DomainId, ImageId, VolumeId};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::{
    Allocation, DiskType, Legality, SlotFormat, VolumeFormat, VolumeMetadata, VolumeType,
};

use super::{DIRECT_IO_TEST, FileDomain, NewFileDomain, OWNER, alignment_for, discover};
use crate::authority::Authority;
use crate::domain::{Domain, DomainKind, EntryState, NewVolume, Special, VolumeEntry};
use crate::image::leases::{HeldLease, LeaseName, Leases, NoLeases};
use crate::job::{Context, Result};

const ID: &str = "8adbc85e-e554-4ae0-b318-8a5465fe5fe1";
const IMAGE: &str = "6b055e16-337d-4cbe-9af9-d75f00f910c1";
const VOLUME: &str = "d772f1c6-3ebb-43c3-a42e-73fcd8255a5f";
const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../protocol/disk-format/tests/golden/vdsm-metadata"
);

/// Allows everything until step `limit`, and nothing from there on.
#[derive(Debug)]
struct Until {
    limit: u64,
    count: AtomicU64,
}

impl Until {
    fn new(limit: u64) -> Self {
        Self {
            limit,
            count: AtomicU64::new(0),
        }
    }

    fn step(&self) -> Result<()> {
        if self.count.fetch_add(1, Ordering::Relaxed) < self.limit {
            return Ok(());
        }
        Err(Failure::new(FailureKind::LeaseNotHeld, "test: no more"))
    }

    fn fired(&self) -> bool {
        self.count.load(Ordering::Relaxed) > self.limit
    }
}

impl Authority for Until {
    fn check(&self, domain: &str) -> Result<()> {
        assert_eq!(domain, ID);
        self.step()
    }

    fn registration(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

impl Leases for Until {
    fn create_lockspace(&self, area: &LeaseName) -> Result<()> {
        assert!(area.location.path.ends_with("dom_md/ids"));
        self.step()
    }

    fn create(&self, lease: &LeaseName) -> Result<()> {
        assert_eq!(lease.resource, "SDM");
        assert_eq!(lease.location.offset, lease.alignment);
        self.step()
    }

    fn acquire<'a>(&'a self, _: &LeaseName) -> Result<Box<dyn HeldLease + 'a>> {
        Err(Failure::new(FailureKind::Failed, "test: not used"))
    }
}

fn always() -> Until {
    Until::new(u64::MAX)
}

fn new(version: DomainVersion, kind: DomainType) -> NewFileDomain {
    NewFileDomain {
        id: ID.parse().unwrap(),
        version,
        kind,
        class: DomainClass::Data,
        description: "data one é".into(),
        remote_path: "server.example:/export/data one".into(),
        block_size: None,
        hosts_max: 250,
    }
}

fn make(mount: &Path, version: DomainVersion) -> FileDomain {
    let new = new(version, DomainType::Nfs);
    FileDomain::create(&Context::quiet(), mount, &new, &always()).unwrap()
}

fn metadata(image: ImageId) -> VolumeMetadata {
    VolumeMetadata {
        domain: ID.parse().unwrap(),
        image,
        parent: VolumeId::BLANK,
        capacity_bytes: 1 << 20,
        ctime_s: 1_550_522_547,
        description: "x".into(),
        disk_type: DiskType::Data,
        format: VolumeFormat::Raw,
        generation: 3,
        legality: Legality::Legal,
        sequence: 1,
        volume_type: VolumeType::Leaf,
        allocation: Allocation::Sparse,
    }
}

fn put(domain: &FileDomain, image: u8, volume: u8) -> VolumeEntry {
    let image = ImageId::from_random([image; 16]);
    let new = NewVolume {
        id: VolumeId::from_random([volume; 16]),
        image,
        size_bytes: 0,
    };
    domain.make_image(&always(), image).unwrap();
    let draft = domain.allocate(&Context::quiet(), &always(), &new).unwrap();
    domain.publish(&always(), &draft, &metadata(image)).unwrap()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(GOLDEN).join(name)).unwrap()
}

#[test]
fn new_domain_has_the_tree_modes_and_owner_of_the_original() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(DIRECT_IO_TEST), [0; 512]).unwrap();
    let domain = make(dir.path(), DomainVersion::V5);
    domain.make_master_tree(&always()).unwrap();
    let root = domain.root();
    let mode = |path: &str| {
        let status = fs::metadata(root.join(path)).unwrap();
        assert_eq!((status.uid(), status.gid()), (OWNER, OWNER), "{path}");
        (status.mode() & 0o7777, status.len())
    };
    assert_eq!(mode("dom_md").0, 0o775);
    assert_eq!(mode("dom_md/metadata").0, 0o644);
    for name in ["ids", "leases", "xleases"] {
        assert_eq!(mode(&format!("dom_md/{name}")).0, 0o660);
    }
    for name in ["inbox", "outbox"] {
        assert_eq!(mode(&format!("dom_md/{name}")), (0o660, 16 << 20));
    }
    assert_eq!(mode("master/vms").0, 0o755);
    assert_eq!(mode("master/tasks").0, 0o755);
    let entry = put(&domain, 1, 2);
    assert_eq!(mode(&format!("images/{}", entry.image)).0, 0o775);
    let base = format!("images/{}/{}", entry.image, entry.id);
    assert_eq!(mode(&base).0, 0o660);
    assert_eq!(mode(&format!("{base}.meta")).0, 0o644);
    assert_eq!(mode(&format!("{base}.lease")).0, 0o660);
    // The same keys and values as the original writes, byte for byte.
    let written = fs::read(root.join("dom_md/metadata")).unwrap();
    assert_eq!(
        String::from_utf8(written).unwrap(),
        String::from_utf8(golden("domain-nfs-v5.metadata")).unwrap()
    );
    let found = discover(dir.path()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, domain.id());
    let second = NewFileDomain {
        id: DomainId::from_random([7; 16]),
        ..new(DomainVersion::V5, DomainType::Nfs)
    };
    let refused =
        FileDomain::create(&Context::quiet(), dir.path(), &second, &always()).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exists);
}

#[test]
fn creation_that_fails_leaves_nothing_and_can_be_repeated() {
    for limit in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let new = new(DomainVersion::V5, DomainType::Nfs);
        let leases = Until::new(limit);
        let made = FileDomain::create(&Context::quiet(), dir.path(), &new, &leases);
        if !leases.fired() {
            made.unwrap();
            assert_eq!(limit, 2);
            break;
        }
        made.unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        // What a host that died left behind is taken over; anything else is not.
        fs::create_dir_all(dir.path().join(ID).join("dom_md")).unwrap();
        fs::write(dir.path().join(ID).join("dom_md/ids"), b"x").unwrap();
        FileDomain::create(&Context::quiet(), dir.path(), &new, &always()).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(ID).join("holiday pictures")).unwrap();
    let new = new(DomainVersion::V5, DomainType::Nfs);
    let refused = FileDomain::create(&Context::quiet(), dir.path(), &new, &always()).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Foreign);
    assert!(dir.path().join(ID).join("holiday pictures").exists());
}

#[test]
fn golden_domains_and_volumes_are_read_and_written_back_unchanged() {
    for (file, version) in [
        ("domain-nfs-v4.metadata", DomainVersion::V4),
        ("domain-nfs-v5.metadata", DomainVersion::V5),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join(ID);
        let image = root.join("images").join(IMAGE);
        fs::create_dir_all(root.join("dom_md")).unwrap();
        fs::create_dir_all(&image).unwrap();
        // As older releases left it: padded to a block.
        let mut padded = golden(file);
        padded.resize(4096, 0);
        fs::write(root.join("dom_md/metadata"), padded).unwrap();
        let text = if version == DomainVersion::V5 {
            golden("volume-v5-file.meta")
        } else {
            let mut text = golden("volume-v4.slot");
            text.retain(|byte| *byte != 0);
            text
        };
        let meta = image.join(format!("{VOLUME}.meta"));
        fs::write(&meta, &text).unwrap();
        fs::write(image.join(VOLUME), b"").unwrap();
        fs::write(image.join(format!("{VOLUME}.lease")), b"").unwrap();

        let domain = FileDomain::open(&root).unwrap();
        assert_eq!(domain.version(), version);
        let entries = domain.volumes().unwrap();
        assert_eq!(entries.len(), 1);
        let read = domain.volume_metadata(&entries[0]).unwrap();
        assert_eq!(read.capacity_bytes, 10 << 30);
        assert_eq!(read.generation, 3);
        domain
            .write_volume_metadata(&always(), &entries[0], &read)
            .unwrap();
        assert_eq!(fs::read(&meta).unwrap(), text);
        domain
            .change_metadata(&always(), &mut |metadata| {
                metadata.set_role(DomainRole::Master);
                Ok(())
            })
            .unwrap();
        domain
            .change_metadata(&always(), &mut |metadata| {
                metadata.set_role(DomainRole::Regular);
                Ok(())
            })
            .unwrap();
        assert_eq!(
            fs::read(root.join("dom_md/metadata")).unwrap(),
            golden(file)
        );
    }
}

#[test]
fn broken_and_foreign_domains_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let domain = make(dir.path(), DomainVersion::V5);
    let path = domain.root().join("dom_md/metadata");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("ROLE=Regular", "ROLE=Master")).unwrap();
    let broken = FileDomain::open(&domain.root()).unwrap_err();
    assert_eq!(broken.kind, FailureKind::Damaged);
    assert!(broken.message.contains("checksum"), "{broken}");
    assert!(discover(dir.path()).unwrap()[0].metadata.is_err());
    fs::write(&path, &good).unwrap();
    let other = dir.path().join("00000000-0000-4000-8000-000000000001");
    fs::create_dir_all(other.join("dom_md")).unwrap();
    fs::write(other.join("dom_md/metadata"), &good).unwrap();
    let foreign = FileDomain::open(&other).unwrap_err();
    assert!(foreign.message.contains(ID), "{foreign}");
    let none = FileDomain::open(&dir.path().join("nowhere")).unwrap_err();
    assert_eq!(none.kind, FailureKind::NotFound);
    // Without the right, nothing is written.
    let refused = domain
        .change_metadata(&Until::new(0), &mut |metadata| {
            metadata.set_role(DomainRole::Master);
            Ok(())
        })
        .unwrap_err();
    assert_eq!(refused.kind, FailureKind::LeaseNotHeld);
    assert_eq!(fs::read_to_string(&path).unwrap(), good);
}

#[test]
fn upgrade_ends_the_same_whatever_step_it_died_at() {
    for (from, to) in [
        (DomainVersion::V3, DomainVersion::V4),
        (DomainVersion::V3, DomainVersion::V5),
        (DomainVersion::V4, DomainVersion::V5),
    ] {
        for limit in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let domain = make(dir.path(), from);
            let entries = [put(&domain, 1, 2), put(&domain, 1, 3)];
            let broken = put(&domain, 4, 4);
            let bad = domain.meta_path(&broken);
            fs::write(&bad, b"SIZE=what\nEOF\n").unwrap();
            let before: Vec<_> = entries
                .iter()
                .map(|entry| domain.volume_metadata(entry).unwrap())
                .collect();
            let context = Context::quiet();
            let authority = Until::new(limit);
            let answer = domain.upgrade(&context, &authority, to);
            // Whoever reads in between finds what the version promises.
            let domain = FileDomain::open(&domain.root()).unwrap();
            for (entry, before) in entries.iter().zip(&before) {
                let now = domain.volume_metadata(entry).unwrap();
                assert_eq!(now.capacity_bytes, before.capacity_bytes);
                let text = fs::read(domain.meta_path(entry)).unwrap();
                let format = SlotFormat::detect(&text).unwrap();
                assert_ne!(
                    format,
                    if domain.version() == DomainVersion::V5 {
                        SlotFormat::V4
                    } else {
                        SlotFormat::V5
                    }
                );
            }
            if authority.fired() {
                answer.unwrap_err();
                domain.upgrade(&context, &always(), to).unwrap();
            } else {
                answer.unwrap();
            }
            assert_eq!(domain.version(), to);
            assert!(domain.special(Special::Xleases).exists());
            for entry in &entries {
                let text = fs::read(domain.meta_path(entry)).unwrap();
                assert_eq!(SlotFormat::detect(&text), Some(SlotFormat::of(to)));
            }
            assert_eq!(fs::read(&bad).unwrap(), b"SIZE=what\nEOF\n");
            let keys = domain.metadata().unwrap();
            assert_eq!(
                keys.get("BLOCK_SIZE"),
                (to == DomainVersion::V5).then_some("512")
            );
            if !authority.fired() {
                break;
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let domain = make(dir.path(), DomainVersion::V5);
    let back = domain.upgrade(&Context::quiet(), &always(), DomainVersion::V4);
    assert_eq!(back.unwrap_err().kind, FailureKind::BadRequest);
}

#[test]
fn template_is_one_volume_with_several_names() {
    let dir = tempfile::tempdir().unwrap();
    let domain = make(dir.path(), DomainVersion::V5);
    let template = put(&domain, 1, 2);
    let (a, b) = (ImageId::from_random([5; 16]), ImageId::from_random([6; 16]));
    for image in [a, b] {
        domain.make_image(&always(), image).unwrap();
        domain.share(&always(), &template, image).unwrap();
        domain.share(&always(), &template, image).unwrap();
    }
    let entry = domain.volume(template.id).unwrap();
    assert_eq!(entry.image, template.image);
    assert_eq!(entry.shared_with, [a.min(b), a.max(b)]);
    assert_eq!(domain.volumes().unwrap().len(), 1);
    let mut changed = domain.volume_metadata(&entry).unwrap();
    changed.description = "changed".into();
    domain
        .write_volume_metadata(&always(), &entry, &changed)
        .unwrap();
    let meta = |image: ImageId| {
        let name = format!("{}.meta", template.id);
        let path = domain.root().join("images").join(image.to_string());
        fs::metadata(path.join(name)).unwrap().ino()
    };
    assert_eq!(meta(a), meta(template.image));
    assert_eq!(meta(b), meta(template.image));
    // The template's image gone, its clones still have it.
    let marked = domain
        .mark_image_removed(&always(), template.image, false)
        .unwrap();
    assert_eq!(marked[0].state, EntryState::Removed { zero: false });
    for entry in &marked {
        domain.remove(&always(), entry).unwrap();
    }
    let entry = domain.volume(template.id).unwrap();
    assert_eq!(domain.volume_metadata(&entry).unwrap(), changed);
    assert!(domain.path(&entry).exists());
    domain.forget_image(&always(), a).unwrap();
    domain.forget_image(&always(), b).unwrap();
    let images = fs::read_dir(domain.root().join("images")).unwrap();
    assert_eq!(images.count(), 0);
}

#[test]
fn data_without_metadata_is_never_touched() {
    let dir = tempfile::tempdir().unwrap();
    let domain = make(dir.path(), DomainVersion::V5);
    let entry = put(&domain, 1, 2);
    fs::write(domain.path(&entry), b"precious").unwrap();
    fs::remove_file(domain.meta_path(&entry)).unwrap();
    assert!(domain.volumes().unwrap().is_empty());
    domain.sweep(&always()).unwrap();
    domain.forget_image(&always(), entry.image).unwrap();
    let again = NewVolume {
        id: entry.id,
        image: entry.image,
        size_bytes: 0,
    };
    let refused = domain
        .allocate(&Context::quiet(), &always(), &again)
        .unwrap_err();
    assert_eq!(refused.kind, FailureKind::Exists);
    let left = fs::read(
        domain
            .root()
            .join("images")
            .join(entry.image.to_string())
            .join(entry.id.to_string()),
    );
    assert_eq!(left.unwrap(), b"precious");
}

#[test]
fn sweep_removes_images_whose_deletion_never_ended() {
    let dir = tempfile::tempdir().unwrap();
    let domain = make(dir.path(), DomainVersion::V5);
    let (gone, stays) = (put(&domain, 1, 2), put(&domain, 3, 4));
    let images = domain.root().join("images");
    fs::rename(
        images.join(gone.image.to_string()),
        images.join(format!("_remove_me_{}", gone.image)),
    )
    .unwrap();
    assert_eq!(domain.volumes().unwrap().len(), 2);
    assert_eq!(domain.sweep(&always()).unwrap(), 1);
    let left = domain.volumes().unwrap();
    assert_eq!(left, [stays]);
}

#[test]
fn local_domain_is_locked_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let new = new(DomainVersion::V5, DomainType::LocalFs);
    let domain = FileDomain::create(&Context::quiet(), dir.path(), &new, &NoLeases).unwrap();
    assert_eq!(domain.kind(), DomainKind::Local);
    assert!(!domain.special(Special::Xleases).exists());
    let lock = domain.lock_local().unwrap();
    lock.check(ID).unwrap();
    assert!(lock.check(IMAGE).is_err());
    let second = FileDomain::open(&domain.root()).unwrap();
    assert_eq!(second.lock_local().unwrap_err().kind, FailureKind::InUse);
    drop(lock);
    second.lock_local().unwrap();
    let shared = tempfile::tempdir().unwrap();
    let nfs = make(shared.path(), DomainVersion::V5);
    assert_eq!(nfs.lock_local().unwrap_err().kind, FailureKind::WrongState);
}

#[test]
fn iso_and_export_domains_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let new = NewFileDomain {
        class: DomainClass::Iso,
        ..new(DomainVersion::V3, DomainType::Nfs)
    };
    let domain = FileDomain::create(&Context::quiet(), dir.path(), &new, &always()).unwrap();
    let iso = domain
        .root()
        .join("images/11111111-1111-1111-1111-111111111111");
    assert!(iso.is_dir(), "people find where their files go");
    fs::create_dir(iso.join("sub")).unwrap();
    std::os::unix::fs::symlink(&iso, iso.join("again")).unwrap();
    for name in ["b.iso", "A.ISO", "floppy.vfd", "readme.txt", "sub/c.iso"] {
        fs::write(iso.join(name), b"12345").unwrap();
    }
    let files = domain.iso_files().unwrap();
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["A.ISO", "b.iso", "floppy.vfd", "sub/c.iso"]);
    assert_eq!(files[0].size_bytes, 5);
    assert!(domain.volumes().unwrap().is_empty());
    domain.make_master_tree(&always()).unwrap();
    let guest = domain.root().join("master/vms").join(IMAGE);
    fs::create_dir_all(&guest).unwrap();
    fs::write(guest.join(format!("{IMAGE}.ovf")), b"<ovf/>").unwrap();
    let guests = domain.exported_guests().unwrap();
    assert_eq!(guests.len(), 1);
    assert_eq!(
        (guests[0].id.as_str(), guests[0].ovf.as_slice()),
        (IMAGE, &b"<ovf/>"[..])
    );
}

#[test]
fn destroy_wants_a_detached_domain() {
    let dir = tempfile::tempdir().unwrap();
    let domain = make(dir.path(), DomainVersion::V5);
    let pool = Some(IMAGE.parse().unwrap());
    domain
        .change_metadata(&always(), &mut |metadata| {
            metadata.set_pool(pool);
            Ok(())
        })
        .unwrap();
    let root = domain.root();
    let refused = domain.destroy(&always()).unwrap_err();
    assert_eq!(refused.kind, FailureKind::InUse);
    let domain = FileDomain::open(&root).unwrap();
    domain
        .change_metadata(&always(), &mut |metadata| {
            metadata.set_pool(None);
            Ok(())
        })
        .unwrap();
    domain.destroy(&always()).unwrap();
    assert!(!root.exists());
}

#[test]
fn alignment_is_that_of_the_table() {
    for (block, hosts, mib) in [
        (512, 1, 1),
        (512, 2000, 1),
        (4096, 250, 1),
        (4096, 251, 2),
        (4096, 500, 2),
        (4096, 1000, 4),
        (4096, 2000, 8),
    ] {
        assert_eq!(alignment_for(block, hosts).unwrap(), mib << 20);
    }
    assert!(alignment_for(512, 2001).is_err());
    assert!(alignment_for(1024, 1).is_err());
}

/// A file system whose device has sectors of 4096 bytes.
struct Mounted {
    path: PathBuf,
    device: String,
}

impl Mounted {
    fn new(folder: &Path) -> Self {
        let disk = folder.join("disk");
        let file = fs::File::create(&disk).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(&[0], 0).unwrap();
        let path = folder.join("mount");
        fs::create_dir(&path).unwrap();
        let device = tool(
            "losetup",
            &[
                "-f",
                "--show",
                "-b",
                "4096",
                "--direct-io=on",
                &disk.to_string_lossy(),
            ],
        );
        let mounted = Self {
            path,
            device: device.trim().to_owned(),
        };
        tool("mkfs.ext4", &["-q", "-b", "4096", &mounted.device]);
        tool("mount", &[&mounted.device, &mounted.path.to_string_lossy()]);
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for (program, argument) in [
            ("umount", self.path.as_os_str()),
            ("losetup", self.device.as_ref()),
        ] {
            let mut command = Command::new(program);
            if program == "losetup" {
                command.arg("-d");
            }
            if let Err(error) = command.arg(argument).status() {
                eprintln!("{program}: {error}");
            }
        }
    }
}

fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}; apt-get install mount e2fsprogs"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} (as root): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn sectors_of_4096_bytes_are_found_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(dir.path());
    assert_eq!(super::probe_block_size(&mounted.path).unwrap(), 4096);
    let refused = |version, kind| {
        FileDomain::create(
            &Context::quiet(),
            &mounted.path,
            &new(version, kind),
            &always(),
        )
        .unwrap_err()
        .kind
    };
    // An old version has no way to say 4096, and NFS is always 512.
    assert_eq!(
        refused(DomainVersion::V4, DomainType::LocalFs),
        FailureKind::Unsupported
    );
    assert_eq!(
        refused(DomainVersion::V5, DomainType::Nfs),
        FailureKind::Unsupported
    );
    let new = NewFileDomain {
        hosts_max: 500,
        ..new(DomainVersion::V5, DomainType::GlusterFs)
    };
    let domain = FileDomain::create(&Context::quiet(), &mounted.path, &new, &always()).unwrap();
    assert_eq!((domain.block_size(), domain.alignment()), (4096, 2 << 20));
    let entry = put(&domain, 1, 2);
    let read = domain.volume_metadata(&entry).unwrap();
    assert_eq!(read, metadata(entry.image));
    domain
        .write_volume_metadata(&always(), &entry, &read)
        .unwrap();
    let text = fs::read(domain.meta_path(&entry)).unwrap();
    assert!(text.ends_with(b"EOF\n") && text.len() < 512);
    assert_eq!(FileDomain::open(&domain.root()).unwrap().block_size(), 4096);
}
