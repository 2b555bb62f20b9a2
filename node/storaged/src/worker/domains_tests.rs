//! Work on the LUNs of a domain, as the daemon asks for it, on loop devices.

use disk_format::vdsm::version::DomainVersion;

use super::*;
use crate::block::tests::{Lab, authority};
use crate::command::Run;
use crate::lvm::loops::GIB;
use crate::worker::work::Settings;

fn host(lab: &Lab) -> Host {
    Host::new(Settings {
        layout: lab.loops.layout(),
        root: None,
        host_name: "node1".to_owned(),
        host_id: 1,
        io_timeout_s: 10,
        manager: control::config::Manager::Pool,
        thin: control::config::Thin::default(),
        giving_back: control::config::GivingBack::default(),
        devices: lab.loops.paths(),
    })
}

fn said(answer: Answer) -> String {
    let Answer::Done { message } = answer else {
        panic!("{answer:?}");
    };
    message
}

#[test]
fn what_is_told_of_luns_that_come_grow_and_go_says_what_to_do_next() {
    let mut lab = Lab::new(&[12]);
    let made = lab.domain(DomainVersion::V5);
    let place = Place {
        domain: made.id().to_string(),
        carrier: Carrier::Block,
    };
    let (authority, context) = (authority(&made), Context::quiet());
    let first = lab.loops.paths()[0].clone();
    let name = first.to_str().unwrap();
    let domain = host(&lab);
    let grown = said(grow(&place, name, &domain, &authority, &context).unwrap());
    assert!(grown.contains("uses all of LUN"), "{grown}");

    let file = std::fs::File::options()
        .write(true)
        .open(lab.loops.file(0))
        .unwrap();
    file.set_len(20 * GIB).unwrap();
    Run::new("losetup")
        .arg("-c")
        .arg(&first)
        .succeed(&context)
        .unwrap();
    let grown = said(grow(&place, name, &domain, &authority, &context).unwrap());
    assert!(grown.contains("8 GiB more"), "{grown}");
    assert!(grown.contains("by themselves"), "{grown}");

    let more = lab.loops.add(10 * GIB);
    let more = more.to_str().unwrap().to_owned();
    let domain = host(&lab);
    let luns = [more.clone()];
    let added = said(extend(&place, &luns, false, &domain, &authority, &context).unwrap());
    assert!(added.contains("has 1 LUN more and 2"), "{added}");
    let gone = said(reduce(&place, &more, &domain, &authority, &context).unwrap());
    assert!(gone.contains(&format!("without LUN {more}")), "{gone}");
    let unknown = grow(&place, "/dev/null", &domain, &authority, &context).unwrap_err();
    assert_eq!(unknown.kind, FailureKind::NotFound, "{unknown}");
}
