//! Index, mail, leases.

use disk_format::vdsm::check::{self, BlockFacts, LeaseLeader};
use disk_format::vdsm::mailbox::{Extend, Mailbox, Message};
use disk_format::vdsm::{DomainRole, LeaseId, VolumeId};
use disk_format::{Geometry, LockspaceName, ResourceName, paxos};

use crate::sample::*;
use disk_format::vdsm::check::Grade::{Error, Note, Warning};

#[test]
fn the_index_is_judged() {
    let lease = |number: u8| LeaseId::from_bytes([number; 16]);
    let geometry = Geometry::Sector512Align1M;
    let change = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut block = Block::healthy();
        for number in 1..3 {
            block.index.add(&lease(number), geometry, 1 << 30).unwrap();
        }
        let mut bytes = block.index.bytes().to_vec();
        change(&mut bytes);
        block.facts.areas.index = Some(Ok(bytes));
        block.check()
    };
    let report = change(&|_| {});
    assert_eq!(report.findings, []);
    assert_eq!(report.leases, [(lease(1), 3 << 20), (lease(2), 4 << 20)]);
    only(
        &change(&|bytes| bytes[70] = b'u'),
        Error,
        "in update state: rebuild it",
    );
    only(
        &change(&|bytes| bytes[512 + 63] = 0),
        Error,
        "1 records make no sense, the first is record 0",
    );
    only(
        &change(&|bytes| bytes[512 + 61] = b'u'),
        Warning,
        "half-made or half-removed",
    );
    has(
        &change(&|bytes| bytes.copy_within(512..576, 576)),
        "is in records 0 and 1",
    );
    only(
        &change(&|bytes| bytes[0] = 0),
        Error,
        "the magic number is another",
    );
    only(
        &change(&|bytes| bytes[20] = b'0'),
        Error,
        "it is of lockspace",
    );
    only(
        &change(&|bytes| bytes.fill(0)),
        Error,
        "index of external leases is empty",
    );
    let mut block = Block::healthy();
    for number in 0..817_u32 {
        let mut bytes = [1; 16];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        block
            .index
            .add(&LeaseId::from_bytes(bytes), geometry, 1 << 30)
            .unwrap();
    }
    only(
        &block.check(),
        Warning,
        "817 of 1021 external leases are used",
    );
}

#[test]
fn garbage_in_mailboxes_is_told_and_mail_is_not_garbage() {
    let request = Message::Extend(Extend {
        domain: domain(),
        volume: volume(2),
        size_mib: 1024,
    });
    let mut good = Mailbox::new();
    good.put(3, &request);
    good.seal();
    let check = |mailbox: &Mailbox| {
        let mut block = Block::healthy();
        block.inbox.insert(7, mailbox.clone());
        block.metadata.set_role(DomainRole::Master);
        block.metadata.set_pool(Some(
            "5d928855-b09b-47a7-b920-bd2d2eb5808c".parse().unwrap(),
        ));
        block.check()
    };
    assert_eq!(check(&good).findings, []);
    let mut wrong = *good.bytes();
    wrong[4095] = 1;
    let wrong = Mailbox::from_bytes(&wrong).unwrap();
    only(&check(&wrong), Warning, "mailbox of host 7: checksum");
    let mut garbage = good.clone();
    garbage.put(5, &Message::Unknown([b'x'; 64]));
    garbage.seal();
    only(&check(&garbage), Warning, "host 7, slot 5: garbage");
    let mut block = Block::healthy();
    block.inbox.insert(7, good);
    only(
        &block.check(),
        Note,
        "1 messages in a domain that is no master",
    );
}

#[test]
fn leases_of_others_are_told() {
    let change = |change: fn(&mut BlockFacts)| {
        let mut facts = Block::healthy().facts();
        change(&mut facts);
        check::block(&facts)
    };
    only(
        &change(|facts| facts.areas.ids = Some(Ok(vec![0; 512]))),
        Error,
        "no host leases there: zeros",
    );
    only(
        &change(|facts| facts.areas.sdm = Some(Ok(vec![0; 512]))),
        Error,
        "lease SDM was never made: zeros",
    );
    only(
        &change(|facts| {
            if let Some(Ok(bytes)) = &mut facts.areas.sdm {
                // The resource's name follows the lockspace's.
                let at = bytes.windows(3).position(|part| part == b"SDM").unwrap();
                bytes[at] = b'X';
            }
        }),
        Error,
        "in the place of lease SDM is \"XDM\"",
    );
}

#[test]
fn leases_of_volumes_and_external_ones_are_judged() {
    let id = VolumeId::from_bytes([7; 16]);
    let leader = |resource: &str| {
        let lockspace = LockspaceName::new(&domain().to_string()).unwrap();
        let name = ResourceName::new(resource).unwrap();
        let geometry = Geometry::Sector512Align1M;
        paxos::initial(lockspace.field(), name.field(), geometry, 2000)
            .encode()
            .to_vec()
    };
    let check = |sector: Result<Vec<u8>, String>| {
        let mut facts = Block::healthy().facts();
        facts.areas.leaders = vec![LeaseLeader::of_volume(id, sector)];
        check::block(&facts)
    };
    let good = leader(&id.to_string());
    assert_eq!(check(Ok(good.clone())).findings, []);
    only(
        &check(Ok(vec![0; 512])),
        Error,
        "its lease was never made: zeros",
    );
    only(
        &check(Ok(leader("x"))),
        Error,
        "in the place of its lease is \"x\"",
    );
    only(
        &check(Err("EIO".into())),
        Error,
        "its lease cannot be read: EIO",
    );
    // A byte that only the checksum knows of: the number of hosts.
    let mut broken = good;
    broken[20] ^= 1;
    let report = check(Ok(broken));
    assert_eq!(report.findings.len(), 1, "{report:?}");

    // Every lease of the index is looked at where the index says it is.
    let mut block = Block::healthy();
    let lease = LeaseId::from_bytes([9; 16]);
    let geometry = Geometry::Sector512Align1M;
    block.index.add(&lease, geometry, 1 << 30).unwrap();
    let mut facts = block.facts();
    let mut asked = Vec::new();
    facts.areas.leaders =
        LeaseLeader::of_index(facts.areas.index.as_ref(), domain(), geometry, |offset| {
            asked.push(offset);
            Ok(leader(&lease.to_string()))
        });
    assert_eq!(asked, [3 << 20]);
    assert_eq!(check::block(&facts).findings, []);
}
