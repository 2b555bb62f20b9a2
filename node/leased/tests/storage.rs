//! Storage commands on files: the original's results, and nothing outside the
//! area named.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use disk_format::{Generation, Geometry, HostId, LockspaceName, NameField, delta, paxos, rindex};
use lease::code::Code;
use lease::resource::{Observed, Owners, Us};
use leased::storage::{self, Member};
use sanlock_wire::{
    Disk, DiskPath, Lockspace, Rentry, Resource, Rindex, RindexFlags, geometry_flags,
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;
const POISON: u8 = 0x5a;

struct Image {
    _folder: TempDir,
    path: PathBuf,
}

impl Image {
    /// A file of `mebibytes` full of a pattern.
    fn new(mebibytes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("image");
        std::fs::write(&path, vec![POISON; mebibytes << 20]).expect("room for the image");
        Self {
            _folder: folder,
            path,
        }
    }

    fn disk(&self, offset: u64) -> Disk {
        let path = self.path.to_str().expect("a plain path");
        Disk {
            path: DiskPath::new(path.as_bytes()).expect("a short path"),
            offset,
        }
    }

    fn bytes(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(&self.path)
            .and_then(|file| file.read_exact_at(&mut bytes, offset))
            .expect("the image can be read");
        bytes
    }

    /// Asserts that nothing changed outside an area.
    fn assert_untouched_outside(&self, start: u64, length: u32) {
        let all = std::fs::read(&self.path).expect("the image can be read");
        let start = usize::try_from(start).expect("small");
        let end = start + usize::try_from(length).expect("small");
        let poison = vec![POISON; all.len()];
        assert!(all[..start] == poison[..start], "a byte before {start}");
        assert!(all[end..] == poison[end..], "a byte after {end}");
    }
}

fn name(text: &str) -> NameField {
    NameField::from_bytes(text.as_bytes())
}

fn lockspace(disk: Disk, geometry: Option<Geometry>) -> Lockspace {
    Lockspace {
        name: name("LS"),
        host_id: 1,
        flags: geometry.map_or(0, geometry_flags),
        disk,
    }
}

fn resource(disk: Disk, geometry: Option<Geometry>) -> Resource {
    Resource {
        lockspace_name: name("LS"),
        name: name("R1"),
        flags: geometry.map_or(0, geometry_flags),
        disks: vec![disk],
        ..Resource::default()
    }
}

fn index(disk: Disk, geometry: Option<Geometry>) -> Rindex {
    Rindex {
        flags: geometry.map_or(0, geometry_flags),
        max_resources: 0,
        lockspace_name: name("LS"),
        disk,
    }
}

fn entry(text: &str, offset: u64) -> Rentry {
    Rentry {
        name: name(text),
        offset,
        flags: 0,
    }
}

#[test]
fn areas_are_made_in_every_geometry_and_nothing_beside_them() {
    for geometry in Geometry::ALL {
        let area = geometry.align_size();
        let offset = u64::from(area);
        let image = Image::new((3 * geometry.area_bytes()) >> 20);
        let ls = lockspace(image.disk(offset), Some(geometry));
        assert_eq!(storage::write_lockspace(&ls, 7), Code::OK);
        image.assert_untouched_outside(offset, area);
        let mut expected = vec![0; geometry.area_bytes()];
        let space = LockspaceName::new("LS").expect("a valid name");
        delta::fill_initial(&space, geometry, 7, 0, true, &mut expected);
        assert!(image.bytes(offset, geometry.area_bytes()) == expected);

        let ask = lockspace(image.disk(offset), None);
        let (code, found, io_timeout) = storage::read_lockspace(&ask);
        assert_eq!((code, io_timeout), (Code::OK, 7));
        assert_eq!(found.flags, geometry_flags(geometry));

        let image = Image::new((3 * geometry.area_bytes()) >> 20);
        let res = resource(image.disk(offset), Some(geometry));
        assert_eq!(storage::write_resource(&res, 0, false), Code::OK);
        image.assert_untouched_outside(offset, area);
        let leader = paxos::initial(&name("LS"), &name("R1"), geometry, 0);
        paxos::fill_initial(&leader, geometry, 0, &mut expected);
        assert!(image.bytes(offset, geometry.area_bytes()) == expected);
        let (code, found) = storage::read_resource(&resource(image.disk(offset), None));
        assert_eq!(code, Code::OK);
        assert_eq!(found.flags, geometry_flags(geometry));
        let (code, _, owners) = storage::read_resource_owners(&res);
        assert_eq!((code, owners.len()), (Code::OK, 0));
    }
}

#[test]
fn an_index_is_made_in_every_geometry_and_nothing_beside_it() {
    for geometry in Geometry::ALL {
        let area = geometry.align_size();
        let offset = u64::from(area);
        let image = Image::new((4 * geometry.area_bytes()) >> 20);
        let ix = index(image.disk(offset), Some(geometry));
        assert_eq!(storage::format_rindex(&ix), Code::OK);
        image.assert_untouched_outside(offset, 2 * area);
        let first = offset + 2 * u64::from(area);
        let asked = index(image.disk(offset), None);
        let free = entry("", first);
        assert_eq!(
            storage::lookup_rindex(&asked, &entry("", 0)),
            (Code::OK, free)
        );

        let add = RindexFlags::ADD;
        assert_eq!(
            storage::update_rindex(&ix, &entry("a", first), add).0,
            Code::OK
        );
        image.assert_untouched_outside(offset, 2 * area);
        let found = entry("a", first);
        assert_eq!(
            storage::lookup_rindex(&ix, &entry("a", 0)),
            (Code::OK, found)
        );
        // There is no resource at the place: a rebuilt index says so.
        assert_eq!(storage::rebuild_rindex(&ix, None), Code::OK);
        assert_eq!(storage::lookup_rindex(&ix, &entry("a", 0)).0, Code::ENOENT);
        let res = Resource {
            name: name("found"),
            ..resource(image.disk(first), Some(geometry))
        };
        assert_eq!(storage::write_resource(&res, 0, false), Code::OK);
        assert_eq!(storage::rebuild_rindex(&ix, None), Code::OK);
        let found = entry("found", first);
        assert_eq!(
            storage::lookup_rindex(&ix, &entry("", first)),
            (Code::OK, found)
        );
        image.assert_untouched_outside(offset, 3 * area);
    }
}

#[test]
fn a_place_that_is_no_place_of_a_resource_is_refused_and_nothing_written() {
    let image = Image::new(8);
    let ix = index(image.disk(MIB), None);
    assert_eq!(storage::format_rindex(&ix), Code::OK);
    let before = image.bytes(0, 8 << 20);
    // The original writes beside its buffer for some of these, and dies of
    // looking up others.
    for offset in [
        1,
        MIB,
        2 * MIB,
        3 * MIB + 5,
        1 << 50,
        u64::MAX,
        16_003 * MIB,
    ] {
        for flags in [RindexFlags::ADD, RindexFlags::REMOVE] {
            let (code, _) = storage::update_rindex(&ix, &entry("x", offset), flags);
            assert_eq!(code, Code::RINDEX_OFFSET, "offset {offset}");
        }
        let (code, _) = storage::lookup_rindex(&ix, &entry("", offset));
        assert_eq!(code, Code::RINDEX_OFFSET, "offset {offset}");
    }
    let none = RindexFlags::NONE;
    for (wanted, flags) in [
        (entry("x", 0), RindexFlags::ADD),
        (entry("", 3 * MIB), RindexFlags::ADD),
        (entry("x", 0), RindexFlags::REMOVE),
        (entry("x", 3 * MIB), none),
    ] {
        assert_eq!(storage::update_rindex(&ix, &wanted, flags).0, Code::EINVAL);
    }
    assert!(image.bytes(0, 8 << 20) == before);
}

#[test]
fn what_cannot_be_opened_or_makes_no_sense_has_the_originals_number() {
    let image = Image::new(4);
    let nowhere = Disk {
        path: DiskPath::new(b"/nonexistent").expect("a short path"),
        offset: 0,
    };
    let folder = Disk {
        path: DiskPath::new(b"/tmp").expect("a short path"),
        offset: 0,
    };
    let empty = Disk::default();
    for disk in [&nowhere, &folder, &empty] {
        let ls = lockspace(disk.clone(), None);
        assert_eq!(storage::write_lockspace(&ls, 0), Code::ENODEV);
        assert_eq!(storage::read_lockspace(&ls), (Code::ENODEV, ls.clone(), 0));
        assert_eq!(storage::align(disk), Code::ENODEV);
    }
    for (disk, code) in [(&nowhere, -2), (&empty, -2), (&folder, -21)] {
        let res = resource(disk.clone(), None);
        assert_eq!(storage::write_resource(&res, 0, false), Code(code));
        assert_eq!(storage::read_resource(&res).0, Code(code));
        assert_eq!(storage::read_resource_owners(&res).0, Code(code));
        let ix = index(disk.clone(), None);
        assert_eq!(storage::format_rindex(&ix), Code(code));
        assert_eq!(storage::lookup_rindex(&ix, &entry("", 0)).0, Code(code));
    }
    assert_eq!(storage::align(&image.disk(0)), Code(1 << 20));
    for flags in [0x10, 0x100, 0x180] {
        let mut ls = lockspace(image.disk(0), None);
        ls.flags = flags;
        assert_eq!(storage::write_lockspace(&ls, 0), Code::EPERM);
        let mut res = resource(image.disk(0), None);
        res.flags = flags;
        assert_eq!(storage::write_resource(&res, 0, false), Code::EPERM);
    }
    assert_eq!(
        storage::write_lockspace(&lockspace(image.disk(100), None), 0),
        Code::EINVAL
    );
    let res = Resource::default();
    assert_eq!(storage::write_resource(&res, 0, false), Code::ERANGE);
    assert_eq!(storage::read_resource(&res).0, Code::ERANGE);
    assert_eq!(storage::read_resource_owners(&res).0, Code::ERANGE);
    image.assert_untouched_outside(0, 0);
}

#[test]
fn names_and_sizes_are_compared_as_the_original_does() {
    let image = Image::new(4);
    let res = resource(image.disk(MIB), None);
    assert_eq!(storage::write_resource(&res, 0, false), Code::OK);
    let ask = |ls: &str, r: &str, flags| {
        let mut asked = resource(image.disk(MIB), None);
        asked.lockspace_name = name(ls);
        asked.name = name(r);
        asked.flags = flags;
        let owners = storage::read_resource_owners(&asked).0;
        (storage::read_resource(&asked).0.0, owners.0)
    };
    assert_eq!(ask("LS", "R1", 0), (0, 0));
    assert_eq!(ask("LS", "R1", 0x110), (0, 0));
    assert_eq!(ask("LS", "R1", 0x10), (0, 0));
    assert_eq!(ask("LS", "R1", 0x280), (0, -22));
    assert_eq!(ask("", "", 0), (0, -226));
    assert_eq!(ask("X", "R1", 0), (-226, -226));
    assert_eq!(ask("LS", "X", 0), (-227, -227));

    assert_eq!(storage::write_resource(&res, 0, true), Code::OK);
    assert_eq!(ask("LS", "R1", 0), (-223, -223));
    assert_eq!(ask("LS", "R1", 0x110), (-223, -223));

    // All numbers of hosts that make no sense mean all hosts.
    for (asked, stored) in [(0, 2000), (7, 7), (3000, 2000), (-1, 2000)] {
        assert_eq!(storage::write_resource(&res, asked, false), Code::OK);
        let leader = paxos::leader(&image.bytes(MIB, 512)).expect("a leader");
        assert_eq!((leader.num_hosts, leader.max_hosts), (stored, 2000));
    }

    let ls = lockspace(image.disk(0), None);
    assert_eq!(storage::write_lockspace(&ls, 300), Code::OK);
    let read = |text: &str, host_id| {
        let mut asked = ls.clone();
        asked.name = name(text);
        asked.host_id = host_id;
        let (code, found, io_timeout) = storage::read_lockspace(&asked);
        (code.0, found.host_id, io_timeout)
    };
    assert_eq!(read("", 0), (0, 1, 300));
    assert_eq!(read("LS", 2000), (0, 2000, 300));
    assert_eq!(read("LS", 2001), (-223, 2001, 0));
    // The resource behind the lockspace is nobody's host.
    assert_eq!(read("LS", 2049), (-223, 2049, 0));
    assert_eq!(read("LS", u64::MAX).0, -22);
    assert_eq!(read("X", 0), (-226, 0, 0));
}

#[test]
fn owners_are_the_leaders_owner_and_the_sharing_hosts() {
    let sample: &[u8] =
        include_bytes!("../../protocol/disk-format/tests/golden/paxos_shared_two_hosts.bin");
    let image = Image::new(2);
    let res = resource(image.disk(MIB), None);
    assert_eq!(storage::write_resource(&res, 0, false), Code::OK);
    let file = File::options()
        .write(true)
        .open(&image.path)
        .expect("the image");
    file.write_all_at(sample, MIB).expect("room");
    let (code, found, owners) = storage::read_resource_owners(&res);
    assert_eq!((code, found.lver, found.flags), (Code::OK, 6, 0x4));
    let owners: Vec<_> = owners
        .iter()
        .map(|host| (host.host_id, host.generation, host.timestamp))
        .collect();
    assert_eq!(owners, [(1, 1, 0), (2, 1, 0)]);

    let held: &[u8] =
        include_bytes!("../../protocol/disk-format/tests/golden/paxos_acquired_ex.bin");
    file.write_all_at(held, MIB).expect("room");
    let (_, found, owners) = storage::read_resource_owners(&res);
    assert_eq!((found.flags, owners.len()), (0, 1));
    let owner = owners.first().expect("an owner");
    assert_eq!(
        (owner.host_id, owner.generation, owner.timestamp),
        (1, 1, 2419)
    );
}

#[test]
fn a_header_of_another_lockspace_or_place_is_refused() {
    let image = Image::new(4);
    let ix = index(image.disk(0), None);
    assert_eq!(
        storage::lookup_rindex(&ix, &entry("", 0)).0,
        Code::RINDEX_MAGIC
    );
    assert_eq!(storage::format_rindex(&ix), Code::OK);
    let mut other = ix.clone();
    other.lockspace_name = name("OTHER");
    assert_eq!(
        storage::lookup_rindex(&other, &entry("", 0)).0,
        Code::RINDEX_LOCKSPACE
    );
    let file = File::options()
        .write(true)
        .open(&image.path)
        .expect("the image");
    let mut header = rindex::Header::initial(&name("LS"), Geometry::Sector512Align1M, 0, MIB);
    file.write_all_at(&header.encode(), 0).expect("room");
    assert_eq!(
        storage::lookup_rindex(&ix, &entry("", 0)).0,
        Code::RINDEX_OFFSET
    );
    header.version = 0x0002_0000;
    file.write_all_at(&header.encode(), 0).expect("room");
    assert_eq!(
        storage::lookup_rindex(&ix, &entry("", 0)).0,
        Code::RINDEX_VERSION
    );
}

/// A lockspace in which nobody else was ever seen.
struct Alone;

impl Owners for Alone {
    fn observed(&self, _: &LockspaceName, _: HostId) -> Option<Observed> {
        None
    }

    fn is_joined(&self, _: &LockspaceName) -> bool {
        true
    }
}

fn member(image: &Image, host_id: u64, geometry: Geometry, alive: &Arc<AtomicBool>) -> Member {
    let alive = Arc::clone(alive);
    Member {
        us: Us {
            host_id: HostId::new(host_id).expect("a host id"),
            generation: Generation(1),
            io_timeout_s: 10,
            fire_timeout_s: 60,
        },
        lockspace: LockspaceName::new("LS").expect("a valid name"),
        geometry,
        space: image.disk(0),
        owners: Box::new(Alone),
        alive: Box::new(move || alive.load(Ordering::SeqCst)),
        seed: host_id,
    }
}

#[test]
fn resources_are_created_and_deleted_under_the_indexs_lease() {
    for geometry in [Geometry::Sector512Align1M, Geometry::Sector4096Align2M] {
        let align = u64::from(geometry.align_size());
        let image = Image::new((6 * geometry.area_bytes()) >> 20);
        let alive = Arc::new(AtomicBool::new(true));
        let us = member(&image, 1, geometry, &alive);
        let ls = lockspace(image.disk(0), Some(geometry));
        assert_eq!(storage::write_lockspace(&ls, 10), Code::OK);
        let ix = index(image.disk(align), Some(geometry));
        assert_eq!(storage::format_rindex(&ix), Code::OK);

        let (code, made) = storage::create_resource(&ix, &entry("a", 0), 7, &us);
        assert_eq!((code, made), (Code::OK, entry("", 3 * align)));
        let again = storage::create_resource(&ix, &entry("a", 0), 0, &us);
        assert_eq!(again, (Code::EEXIST, Rentry::default()));
        let (code, made) = storage::create_resource(&ix, &entry("b", 0), 0, &us);
        assert_eq!((code, made.offset), (Code::OK, 4 * align));
        let mut res = resource(image.disk(3 * align), None);
        res.name = name("a");
        assert_eq!(storage::read_resource(&res).0, Code::OK);
        let leader = paxos::leader(&image.bytes(3 * align, 512)).expect("a leader");
        assert_eq!(leader.num_hosts, 7);

        assert_eq!(
            storage::delete_resource(&ix, &entry("a", 0), &us).0,
            Code::OK
        );
        assert_eq!(storage::read_resource(&res).0, Code::LEADER_MAGIC);
        assert_eq!(
            storage::delete_resource(&ix, &entry("a", 0), &us).0,
            Code::ENOENT
        );
        let (_, free) = storage::lookup_rindex(&ix, &entry("", 0));
        assert_eq!(free.offset, 3 * align);
        assert_eq!(storage::rebuild_rindex(&ix, Some(&us)), Code::OK);
        assert_eq!(
            storage::lookup_rindex(&ix, &entry("b", 0)),
            (Code::OK, entry("b", 4 * align))
        );

        // The index's lease is free again, its version counts the five uses.
        let lease = paxos::leader(&image.bytes(2 * align, 512)).expect("a leader");
        assert_eq!((lease.timestamp, lease.owner_id, lease.lver), (0, 1, 6));
        // The rest of the image, where no resource was made, is as it was.
        let rest = image.bytes(5 * align, geometry.area_bytes());
        assert!(rest.iter().all(|&byte| byte == POISON));
    }
}

#[test]
fn an_index_may_have_another_geometry_than_its_lockspace() {
    let geometry = Geometry::Sector4096Align2M;
    let align = u64::from(geometry.align_size());
    let image = Image::new(16);
    let alive = Arc::new(AtomicBool::new(true));
    let us = member(&image, 1, Geometry::Sector512Align1M, &alive);
    let ls = lockspace(image.disk(0), None);
    assert_eq!(storage::write_lockspace(&ls, 10), Code::OK);
    let made = index(image.disk(align), Some(geometry));
    assert_eq!(storage::format_rindex(&made), Code::OK);
    // Said, or found.
    for (name, place, flags) in [("a", 3, Some(geometry)), ("b", 4, None)] {
        let asked = index(image.disk(align), flags);
        let (code, made) = storage::create_resource(&asked, &entry(name, 0), 0, &us);
        assert_eq!((code, made.offset), (Code::OK, place * align));
    }
    let asked = index(image.disk(align), None);
    assert_eq!(storage::rebuild_rindex(&asked, Some(&us)), Code::OK);
    let (code, found) = storage::lookup_rindex(&asked, &entry("b", 0));
    assert_eq!((code, found.offset), (Code::OK, 4 * align));
    // No index at all is reported as such.
    let none = index(image.disk(12 * MIB), None);
    let (code, _) = storage::create_resource(&none, &entry("c", 0), 0, &us);
    assert_eq!(code, Code::RINDEX_MAGIC);
}

#[test]
fn a_host_that_may_have_lost_its_lockspace_changes_nothing() {
    let geometry = Geometry::Sector512Align1M;
    let image = Image::new(6);
    let alive = Arc::new(AtomicBool::new(true));
    let us = member(&image, 1, geometry, &alive);
    let ls = lockspace(image.disk(0), None);
    assert_eq!(storage::write_lockspace(&ls, 10), Code::OK);
    let ix = index(image.disk(MIB), None);
    assert_eq!(storage::format_rindex(&ix), Code::OK);
    let before = image.bytes(0, 6 << 20);
    alive.store(false, Ordering::SeqCst);
    let (code, _) = storage::create_resource(&ix, &entry("a", 0), 0, &us);
    assert_ne!(code, Code::OK);
    assert_ne!(storage::rebuild_rindex(&ix, Some(&us)), Code::OK);
    assert!(image.bytes(0, 6 << 20) == before);
}

#[test]
fn an_index_whose_lease_another_host_holds_is_not_changed() {
    let geometry = Geometry::Sector512Align1M;
    let image = Image::new(6);
    let alive = Arc::new(AtomicBool::new(true));
    let us = member(&image, 1, geometry, &alive);
    let ls = lockspace(image.disk(0), None);
    assert_eq!(storage::write_lockspace(&ls, 10), Code::OK);
    let ix = index(image.disk(MIB), None);
    assert_eq!(storage::format_rindex(&ix), Code::OK);
    let file = File::options()
        .write(true)
        .open(&image.path)
        .expect("the image");
    let mut leader = paxos::leader(&image.bytes(2 * MIB, 512)).expect("a leader");
    (leader.owner_id, leader.owner_generation, leader.lver) = (2, 1, 1);
    (leader.timestamp, leader.write_id, leader.write_generation) = (5, 2, 1);
    file.write_all_at(&leader.sealed().encode(), 2 * MIB)
        .expect("room");
    let mut theirs = delta::leader(&image.bytes(512, 512)).expect("a record");
    (theirs.owner_id, theirs.owner_generation, theirs.timestamp) = (2, 1, 5);
    file.write_all_at(&theirs.sealed().encode(), 512)
        .expect("room");
    let before = image.bytes(0, 6 << 20);
    let (code, _) = storage::create_resource(&ix, &entry("a", 0), 0, &us);
    assert_eq!(
        code,
        Code::ACQUIRE_OWNED_RETRY,
        "whether they live is not known"
    );
    let (code, _) = storage::delete_resource(&ix, &entry("a", 0), &us);
    assert_eq!(code, Code::ACQUIRE_OWNED_RETRY);
    assert!(image.bytes(0, 6 << 20) == before);
}
