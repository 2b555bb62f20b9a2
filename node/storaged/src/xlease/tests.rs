//! The index on a real `xleases` volume, with resources written beside it.

use super::*;
use crate::block::tests::{DirectLeases, Lab, authority, fresh};
use disk_format::vdsm::version::DomainVersion;

fn names(xleases: &Xleases) -> BTreeMap<usize, LeaseId> {
    xleases.found(&Context::quiet()).unwrap()
}

#[test]
fn leases_are_added_found_listed_and_removed() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let xleases = Xleases::of_block(&domain).unwrap();
    let [one, two, three] = [(); 3].map(|()| fresh(LeaseId::from_random));
    let add = |lease| xleases.add(&authority, &DirectLeases, lease);
    let first = add(one).unwrap();
    // Lease 0 is at 3 MiB of `xleases`, which starts at extent 20.
    assert_eq!(first.location.offset, (129 + 20 * 128 + 3) << 20);
    add(two).unwrap();
    assert_eq!(add(one).unwrap_err().kind, FailureKind::Exists);
    assert_eq!(names(&xleases), BTreeMap::from([(0, one), (1, two)]));
    xleases.remove(&authority, &DirectLeases, one).unwrap();
    assert_eq!(xleases.lookup(one).unwrap_err().kind, FailureKind::NotFound);
    // The cleared resource is none, and its place is taken again.
    assert_eq!(names(&xleases), BTreeMap::from([(1, two)]));
    assert_eq!(add(three).unwrap().location, first.location);
    let listed: Vec<_> = xleases
        .list()
        .unwrap()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(listed, [three, two]);
    assert_eq!(xleases.lookup(two).unwrap().resource, two.to_string());
}

#[test]
fn index_and_resources_are_made_to_agree() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let xleases = Xleases::of_block(&domain).unwrap();
    let [one, two, lost] = [(); 3].map(|()| fresh(LeaseId::from_random));
    let at = |record| lease_offset(Geometry::Sector512Align1M, record);
    xleases.add(&authority, &DirectLeases, one).unwrap();
    xleases.add(&authority, &DirectLeases, two).unwrap();
    // Died between the resource and the record, and one resource was wiped.
    let extra = xleases.name(&lost.to_string(), at(7)).unwrap();
    Resources::write(&DirectLeases, &extra).unwrap();
    DirectLeases
        .clear(&xleases.name("", at(1)).unwrap())
        .unwrap();
    let changed = xleases
        .rebuild(&Context::quiet(), &authority, &DirectLeases, 1_700_000_000)
        .unwrap();
    assert_eq!(changed, 2);
    assert_eq!(names(&xleases), BTreeMap::from([(0, one), (1, two)]));
    let again = xleases.rebuild(&Context::quiet(), &authority, &DirectLeases, 1_700_000_000);
    assert_eq!(again.unwrap(), 0);
}

#[test]
fn an_index_that_was_being_formatted_is_refused_until_rebuilt() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V5);
    let authority = authority(&domain);
    let xleases = Xleases::of_block(&domain).unwrap();
    let lease = fresh(LeaseId::from_random);
    xleases.add(&authority, &DirectLeases, lease).unwrap();
    let (_, steps) = Index::format(&domain.id(), 1, Geometry::Sector512Align1M);
    let region = xleases.region(Access::ReadWrite).unwrap();
    write_index(&region, &steps[0]).unwrap();
    let add = xleases.add(&authority, &DirectLeases, lease).unwrap_err();
    assert_eq!(add.kind, FailureKind::Damaged, "{add}");
    assert_eq!(xleases.list().unwrap_err().kind, FailureKind::Damaged);
    xleases
        .rebuild(&Context::quiet(), &authority, &DirectLeases, 2)
        .unwrap();
    assert!(xleases.list().unwrap().is_empty());
    assert!(names(&xleases).is_empty());
    // Nothing readable at all is for formatting, not for rebuilding.
    region.write(1 << 20, &[0; 512]).unwrap();
    let nothing = xleases
        .rebuild(&Context::quiet(), &authority, &DirectLeases, 2)
        .unwrap_err();
    assert_eq!(nothing.kind, FailureKind::Damaged);
    xleases.format(&authority, 3).unwrap();
    assert!(xleases.list().unwrap().is_empty());
}

#[test]
fn a_file_holds_them_as_well() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = folder.path().join("xleases");
    std::fs::File::create(&path).unwrap();
    let id = fresh(DomainId::from_random);
    let authority = crate::authority::Unattached {
        domain: id.to_string(),
    };
    for geometry in [Geometry::Sector512Align1M, Geometry::Sector4096Align2M] {
        let xleases = Xleases::in_file(id, geometry, &path);
        xleases.format(&authority, 1).unwrap();
        let lease = fresh(LeaseId::from_random);
        let added = xleases.add(&authority, &DirectLeases, lease).unwrap();
        assert_eq!(added.location.offset, lease_offset(geometry, 0));
        assert_eq!(names(&xleases), BTreeMap::from([(0, lease)]));
        let changed = xleases.rebuild(&Context::quiet(), &authority, &DirectLeases, 2);
        assert_eq!(changed.unwrap(), 0);
        xleases.remove(&authority, &DirectLeases, lease).unwrap();
    }
}

#[test]
fn versions_without_external_leases_are_refused() {
    let lab = Lab::new(&[12]);
    let domain = lab.domain(DomainVersion::V3);
    let refused = Xleases::of_block(&domain).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unsupported);
}
