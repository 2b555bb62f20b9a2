//! Images that work prepares for itself: who lets go of them, and when.

use disk_format::vdsm::volume::VolumeFormat;

use super::site::{Site, Sort, image, volume};
use crate::image::borrow::{self, Borrowed};
use crate::image::create::create;
use crate::image::delete::delete_image;
use crate::image::prepare::{self, Wanted};
use crate::image::wipe::Disposal;

fn sites() -> [Site; 2] {
    let sites = [Site::new(Sort::File), Site::new(Sort::Block)];
    for site in &sites {
        create(&site.work(), &site.request(1, 1, VolumeFormat::Cow)).unwrap();
    }
    sites
}

fn wanted() -> Wanted {
    Wanted {
        image: image(1),
        leaf: None,
        allow_illegal: false,
    }
}

fn take(site: &Site) -> Option<Borrowed> {
    let taken = borrow::borrow(site.domain.as_ref(), &site.layout, wanted());
    taken.unwrap().1
}

fn give(site: &Site, borrowed: &Borrowed) {
    borrow::give_back(site.domain.as_ref(), &site.layout, image(1), borrowed).unwrap();
}

fn is_prepared(site: &Site) -> bool {
    let users = prepare::users(site.domain.as_ref(), &site.layout, volume(1)).unwrap();
    users == [image(1)]
}

#[test]
fn the_last_one_lets_go() {
    for site in sites() {
        let (one, two) = (take(&site).unwrap(), take(&site).unwrap());
        give(&site, &one);
        assert!(is_prepared(&site), "another one reads it");
        give(&site, &two);
        assert!(!is_prepared(&site));
        let again = take(&site).unwrap();
        give(&site, &again);
        assert!(!is_prepared(&site));
    }
}

#[test]
fn what_a_guest_has_prepared_stays() {
    for site in sites() {
        let domain = site.domain.as_ref();
        // Before the work, and while it goes on.
        let one = take(&site).unwrap();
        prepare::prepare(domain, &site.layout, wanted(), None).unwrap();
        give(&site, &one);
        assert!(is_prepared(&site));
        assert!(take(&site).is_none(), "nothing to give back");
        assert_eq!(borrow::let_go_of_left(domain, &site.layout), Ok(0));
        assert!(is_prepared(&site));
        prepare::teardown(domain, &site.layout, image(1)).unwrap();
        assert!(!is_prepared(&site));
    }
}

#[test]
fn what_died_with_its_work_is_let_go_of() {
    for site in sites() {
        let domain = site.domain.as_ref();
        let lives = take(&site).unwrap();
        drop(take(&site));
        assert_eq!(borrow::let_go_of_left(domain, &site.layout), Ok(0));
        assert!(is_prepared(&site), "another one goes on");
        drop(lives);
        assert_eq!(borrow::let_go_of_left(domain, &site.layout), Ok(1));
        assert!(!is_prepared(&site));
        // Nobody has to tear anything down before it is deleted.
        drop(take(&site));
        delete_image(&site.work(), image(1), Disposal::default()).unwrap();
    }
}
