//! Resources and resource indexes made by the original tool, in both
//! directions.

use disk_format::paxos::{self, Area, SHORT_HOLD};
use disk_format::{
    Dblock, Geometry, HostId, Leader, LockspaceName, ModeBlock, NameField, RecordError,
    RequestRecord, ResourceName, rindex,
};

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("golden/", $name, ".bin")).as_slice()
    };
}

fn field(name: &str) -> NameField {
    NameField::from_bytes(name.as_bytes())
}

fn host(number: u64) -> HostId {
    HostId::new(number).expect("a host id")
}

fn verify(leader: &Leader, lockspace: &str, resource: &str) -> Result<(), RecordError> {
    let lockspace = LockspaceName::new(lockspace).expect("a valid name");
    let resource = ResourceName::new(resource).expect("a valid name");
    paxos::verify(leader, &lockspace, &resource, host(1))
}

#[test]
fn initial_resources_equal_the_originals_in_every_geometry() {
    let samples = [
        (
            Geometry::Sector512Align1M,
            golden!("paxos_init_512_1M"),
            0x02a3_2a8a,
        ),
        (
            Geometry::Sector4096Align1M,
            golden!("paxos_init_4096_1M"),
            0xb8d8_ae4d,
        ),
        (
            Geometry::Sector4096Align2M,
            golden!("paxos_init_4096_2M"),
            0xfb7e_c0aa,
        ),
        (
            Geometry::Sector4096Align4M,
            golden!("paxos_init_4096_4M"),
            0x7c32_1d64,
        ),
        (
            Geometry::Sector4096Align8M,
            golden!("paxos_init_4096_8M"),
            0x7747_d009,
        ),
    ];
    for (geometry, sample, checksum) in samples {
        let leader = paxos::initial(&field("LS"), &field("RA"), geometry, 0);
        assert_eq!(leader.checksum, checksum, "{geometry:?}");
        let mut ours = vec![0xff; sample.len()];
        paxos::fill_initial(&leader, geometry, 0, &mut ours);
        assert_eq!(ours, sample, "{geometry:?}");
        let read = Area::new(sample, geometry).leader().unwrap();
        assert_eq!(verify(&read, "LS", "RA"), Ok(()));
        assert_eq!(
            Geometry::from_leader(read.sector_size, read.flags),
            Ok(geometry)
        );
        let all = geometry.max_hosts();
        assert_eq!(
            paxos::hosts(&read, geometry),
            Ok(paxos::Hosts { num: all, max: all })
        );
        // In parts, it is the same.
        let mut parts = vec![0xff; sample.len()];
        for (number, part) in (0..).zip(parts.chunks_mut(geometry.sector_bytes())) {
            paxos::fill_initial(&leader, geometry, number, part);
        }
        assert_eq!(parts, sample);
    }
}

#[test]
fn a_cleared_resource_is_remade_and_refused() {
    let sample = golden!("paxos_clear");
    let geometry = Geometry::Sector512Align1M;
    let leader = paxos::cleared(&field("LS"), &field("res2"), geometry, 0, 3194);
    let mut ours = vec![0xff; sample.len()];
    paxos::fill_initial(&leader, geometry, 0, &mut ours);
    assert_eq!(ours, sample);
    assert_eq!(verify(&leader, "LS", "res2").unwrap_err().code(), -223);
}

/// What one of the original's resource areas holds.
struct Sample {
    bytes: &'static [u8],
    geometry: Geometry,
    resource: &'static str,
    /// owner, generation, version, timestamp
    owner: (u64, u64, u64, u64),
    /// writer, its generation, its time
    writer: (u64, u64, u64),
    flags: u32,
    request: Option<RequestRecord>,
    /// ballot, owner, generation, timestamp, version, flags, checksum; generation if shared
    hosts: &'static [([u64; 5], u32, u32, Option<u64>)],
}

const SMALL: Geometry = Geometry::Sector512Align1M;

fn samples() -> Vec<Sample> {
    let base = Sample {
        bytes: &[],
        geometry: SMALL,
        resource: "R1",
        owner: (1, 1, 1, 0),
        writer: (1, 1, 0),
        flags: 0,
        request: Some(RequestRecord::NONE),
        hosts: &[],
    };
    let graceful = Some(RequestRecord::new(5, RequestRecord::GRACEFUL));
    vec![
        Sample {
            bytes: golden!("paxos_acquired_ex"),
            owner: (1, 1, 1, 2419),
            writer: (1, 1, 2419),
            hosts: &[([1, 1, 1, 2419, 1], 0, 0xe0a1_8adb, None)],
            ..base
        },
        Sample {
            bytes: golden!("paxos_released_ex"),
            writer: (1, 1, 2420),
            hosts: &[([1, 1, 1, 2419, 1], 1, 0xe0a1_8adb, None)],
            ..base
        },
        Sample {
            bytes: golden!("paxos_shared_held"),
            resource: "R2",
            writer: (1, 1, 2422),
            hosts: &[([1, 1, 1, 2422, 1], 1, 0xd4a9_2bce, Some(1))],
            ..base
        },
        Sample {
            bytes: golden!("paxos_shared_released"),
            resource: "R2",
            writer: (1, 1, 2422),
            hosts: &[([1, 1, 1, 2422, 1], 1, 0xd4a9_2bce, None)],
            ..base
        },
        Sample {
            bytes: golden!("paxos_shared_two_hosts"),
            owner: (2, 1, 6, 0),
            writer: (2, 1, 2782),
            request: graceful,
            hosts: &[
                ([8001, 1, 1, 2750, 5], 1, 0x3cc3_4669, Some(1)),
                ([10002, 2, 1, 2782, 6], 1, 0x7c55_59eb, Some(1)),
            ],
            ..base
        },
        Sample {
            bytes: golden!("paxos_ex_converted"),
            owner: (1, 1, 8, 2791),
            writer: (1, 1, 2791),
            request: graceful,
            hosts: &[([14001, 1, 1, 2791, 8], 0, 0x3a35_ed9a, None)],
            ..base
        },
        Sample {
            bytes: golden!("paxos_request_graceful"),
            owner: (1, 1, 4, 2587),
            writer: (1, 1, 2587),
            request: graceful,
            hosts: &[([6001, 1, 1, 2587, 4], 0, 0xc7c9_171a, None)],
            ..base
        },
        Sample {
            bytes: golden!("paxos_acquired_4096_8M"),
            geometry: Geometry::Sector4096Align8M,
            owner: (1, 1, 1, 4679),
            writer: (1, 1, 4679),
            hosts: &[([1, 1, 1, 4679, 1], 0, 0xe299_cddf, None)],
            ..base
        },
        Sample {
            bytes: golden!("paxos_leader_short_hold"),
            resource: "R2",
            owner: (1, 1, 1, 2422),
            writer: (1, 1, 2422),
            flags: SHORT_HOLD,
            request: None,
            ..base
        },
        Sample {
            bytes: golden!("rindex_lease"),
            resource: rindex::LEASE_NAME,
            owner: (1, 2, 5, 0),
            writer: (1, 2, 3194),
            hosts: &[],
            ..base
        },
    ]
}

#[test]
fn held_and_released_resources_are_understood_and_remade() {
    for sample in samples() {
        let area = Area::new(sample.bytes, sample.geometry);
        let leader = area.leader().unwrap();
        let lockspace = leader.space_name.to_string();
        assert_eq!(verify(&leader, &lockspace, sample.resource), Ok(()));

        // The same built from nothing.
        let mut ours = paxos::initial(
            &field(&lockspace),
            &field(sample.resource),
            sample.geometry,
            0,
        );
        (
            ours.owner_id,
            ours.owner_generation,
            ours.lver,
            ours.timestamp,
        ) = sample.owner;
        (ours.write_id, ours.write_generation, ours.write_timestamp) = sample.writer;
        ours.flags |= sample.flags;
        assert_eq!(
            ours.sealed(),
            leader,
            "{} v{}",
            sample.resource,
            leader.lver
        );
        assert_eq!(&leader.encode(), &sample.bytes[..200]);

        if let Some(request) = sample.request {
            assert_eq!(area.request(), Ok(request));
            assert_eq!(request.verify(), Ok(()));
            // The original leaves the padding as it finds it.
            assert_eq!(request.encode()[..20], area.sector(1).unwrap()[..20]);
        }
        for (number, &([ballot, owner, generation, timestamp, lver], flags, checksum, shared)) in
            (1..).zip(sample.hosts)
        {
            let mode = shared.map_or(ModeBlock::NONE, ModeBlock::shared);
            let dblock = Dblock {
                mbal: ballot,
                bal: ballot,
                inp: owner,
                inp2: generation,
                inp3: timestamp,
                lver,
                checksum: 0,
                flags,
            }
            .sealed();
            assert_eq!(dblock.checksum, checksum);
            assert_eq!(area.host(host(number)), Ok((dblock, mode)));
            let mut sector = vec![0xff; sample.geometry.sector_bytes()];
            paxos::encode_host_sector(&dblock, &mode, &mut sector);
            // Here too.
            let mut theirs = area
                .sector(paxos::host_sector(host(number)))
                .unwrap()
                .to_vec();
            theirs[132..136].fill(0);
            assert_eq!(sector, theirs);
        }
    }
}

#[test]
fn a_first_proposal_is_remade() {
    let sample = golden!("paxos_dblock_phase1");
    let dblock = Dblock {
        mbal: 1,
        lver: 1,
        ..Dblock::default()
    }
    .sealed();
    assert_eq!(dblock.checksum, 0x9e4f_b861);
    let mut sector = vec![0xff; 512];
    paxos::encode_host_sector(&dblock, &ModeBlock::NONE, &mut sector);
    assert_eq!(sector, sample);
    assert_eq!(dblock.verify(), Ok(()));
    assert_eq!(
        Dblock::default().verify(),
        Ok(()),
        "empty needs no checksum"
    );
    let torn = Dblock { mbal: 2, ..dblock };
    assert_eq!(torn.verify().unwrap_err().code(), -214);
}

#[test]
fn the_lease_value_block_is_raw_bytes_in_a_sector_that_not_every_area_has() {
    let sample = golden!("paxos_lvb_512");
    assert!(sample.starts_with(b"lvbdata-0123456789\0"));
    assert_eq!(sample.len(), SMALL.sector_bytes());
    let mut whole = vec![0; SMALL.area_bytes()];
    whole[1_025_024..][..512].copy_from_slice(sample);
    assert_eq!(
        Area::new(&whole, SMALL).sector(paxos::LVB_SECTOR),
        Ok(sample)
    );
    let allowed: Vec<_> = Geometry::ALL
        .into_iter()
        .filter(|&geometry| paxos::lvb_allowed(geometry))
        .collect();
    assert_eq!(allowed, [SMALL, Geometry::Sector4096Align8M]);
    // Elsewhere the sector is beyond the area, and asking for it says so.
    for geometry in Geometry::ALL {
        let area = vec![0; geometry.area_bytes()];
        let found = Area::new(&area, geometry).sector(paxos::LVB_SECTOR);
        assert_eq!(found.is_ok(), paxos::lvb_allowed(geometry));
    }
}

#[test]
fn checks_are_made_in_the_originals_order() {
    let good = paxos::initial(&field("LS"), &field("R1"), SMALL, 3);
    let mut wrong = Leader {
        magic: 1,
        version: 0x0003_0004,
        num_hosts: 0,
        checksum: 0,
        ..good
    };
    let check = |leader: &Leader, lockspace, resource| {
        verify(leader, lockspace, resource).unwrap_err().code()
    };
    assert_eq!(check(&wrong, "X", "X"), -223);
    wrong.magic = paxos::MAGIC;
    assert_eq!(check(&wrong, "X", "X"), -224);
    wrong.version = paxos::VERSION | 0xff;
    assert_eq!(check(&wrong, "X", "X"), -226);
    assert_eq!(check(&wrong, "LS", "X"), -227);
    assert_eq!(check(&wrong, "LS", "R1"), -228);
    wrong.num_hosts = 3;
    assert_eq!(check(&wrong, "LS", "R1"), -229);
    assert_eq!(verify(&wrong.sealed(), "LS", "R1"), Ok(()));
    let lockspace = LockspaceName::new("LS").unwrap();
    let resource = ResourceName::new("R1").unwrap();
    assert_eq!(paxos::verify(&good, &lockspace, &resource, host(3)), Ok(()));
    let fourth = paxos::verify(&good, &lockspace, &resource, host(4));
    assert_eq!(fourth.unwrap_err().code(), -228);
}

#[test]
fn impossible_numbers_of_hosts_are_named_with_their_limit() {
    let geometry = Geometry::Sector4096Align1M;
    let good = paxos::initial(&field("LS"), &field("R1"), geometry, 2000);
    assert_eq!(good.num_hosts, 250, "too many means all");
    let many = Leader {
        num_hosts: 2000,
        ..good
    };
    assert_eq!(
        paxos::hosts(&many, geometry).unwrap_err().to_string(),
        "num_hosts 2000: needed are 1 to 250"
    );
    let none = Leader {
        max_hosts: 0,
        ..good
    };
    assert_eq!(
        paxos::hosts(&none, geometry).unwrap_err().to_string(),
        "max_hosts 0: allowed are 1 to 250"
    );
    // What a ballot reads never leaves the area.
    assert_eq!(paxos::ballot_sectors(7, SMALL), 16);
    assert_eq!(paxos::ballot_sectors(1, SMALL), 4);
    assert_eq!(paxos::ballot_sectors(2000, SMALL), 2048);
    assert_eq!(paxos::ballot_sectors(2000, geometry), 256);
    assert_eq!(paxos::ballot_sectors(u64::MAX, geometry), 256);
    assert_eq!(paxos::ballot_sectors(u64::from(u32::MAX), SMALL), 2048);
}

#[test]
fn an_index_is_understood_and_remade() {
    let sample = golden!("rindex_512_1M");
    let header = rindex::Header::decode(sample).unwrap();
    let lockspace = LockspaceName::new("LS").unwrap();
    assert_eq!(header.verify(&lockspace, 1 << 20), Ok(()));
    assert_eq!(header.geometry(), Ok(SMALL));
    assert_eq!(header.entries(SMALL), 4096);
    let mut ours = vec![0; sample.len()];
    let made = rindex::Header::initial(&field("LS"), SMALL, 0, 1 << 20);
    assert_eq!(made, header);
    ours[..80].copy_from_slice(&made.encode());
    for (number, name) in [(0, "res1"), (2, "res3"), (3, "res1")] {
        let offset = rindex::resource_offset(1 << 20, SMALL, number).unwrap();
        let entry = rindex::Entry::new(&field(name), offset);
        rindex::put_entry(&mut ours, SMALL, number, &entry);
        assert_eq!(rindex::entry(sample, SMALL, number), Ok(entry));
        assert_eq!(rindex::entry_at(1 << 20, SMALL, offset), Some(number));
    }
    assert_eq!(ours, sample);
    assert!(rindex::entry(sample, SMALL, 1).unwrap().is_free());
    assert_eq!(rindex::entry(sample, SMALL, 8).unwrap_err().code(), -90);

    let elsewhere = header.verify(&lockspace, 0).unwrap_err();
    assert_eq!(elsewhere.code(), -277);
    let other = LockspaceName::new("OTHER").unwrap();
    assert_eq!(header.verify(&other, 0).unwrap_err().code(), -276);
    let newer = rindex::Header {
        version: 0x0002_0000,
        ..header
    };
    assert_eq!(newer.verify(&other, 0).unwrap_err().code(), -275);
    let nothing = rindex::Header::decode(&[0; 512]).unwrap();
    assert_eq!(nothing.verify(&other, 0).unwrap_err().code(), -274);
}

#[test]
fn every_geometry_has_an_index_that_fits_its_area() {
    for (geometry, flag, entries) in [
        (SMALL, 1, 16_000),
        (Geometry::Sector4096Align1M, 1, 16_000),
        (Geometry::Sector4096Align2M, 2, 32_000),
        (Geometry::Sector4096Align4M, 4, 64_000),
        (Geometry::Sector4096Align8M, 8, 128_000),
    ] {
        let header = rindex::Header::initial(&field("LS"), geometry, u32::MAX, 0);
        assert_eq!((header.flags, header.max_resources), (flag, entries));
        assert_eq!(header.geometry(), Ok(geometry));
        let mut area = vec![0; geometry.area_bytes()];
        let last = rindex::Entry::new(&field("last"), 1);
        rindex::put_entry(&mut area, geometry, entries - 1, &last);
        assert_eq!(rindex::entry(&area, geometry, entries - 1), Ok(last));
    }
}
