//! Bytes made by the original tool decide, in both directions.

use disk_format::delta::{self, RECORD_BYTES};
use disk_format::leader::LEADER_BYTES;
use disk_format::{
    Content, Generation, Geometry, HostBitmap, HostId, Leader, LockspaceName, RecordError,
};

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("golden/", $name, ".bin"))
    };
}

fn leader_of(bytes: &[u8]) -> Leader {
    let leader = delta::leader(bytes).expect("a whole record");
    assert_eq!(
        leader.encode().as_slice(),
        &bytes[..LEADER_BYTES],
        "decoding must keep every bit"
    );
    leader
}

fn lockspace(name: &str) -> LockspaceName {
    LockspaceName::new(name).expect("a valid name")
}

#[test]
fn initial_areas_equal_the_originals_in_every_geometry() {
    let samples: [(Geometry, &[u8], u32); 5] = [
        (
            Geometry::Sector512Align1M,
            golden!("delta_init_512_1M"),
            0xb0f1_74c0,
        ),
        (
            Geometry::Sector4096Align1M,
            golden!("delta_init_4096_1M"),
            0xd0d8_841f,
        ),
        (
            Geometry::Sector4096Align2M,
            golden!("delta_init_4096_2M"),
            0x0f69_7e4d,
        ),
        (
            Geometry::Sector4096Align4M,
            golden!("delta_init_4096_4M"),
            0xb5e6_fc18,
        ),
        (
            Geometry::Sector4096Align8M,
            golden!("delta_init_4096_8M"),
            0xc515_8e43,
        ),
    ];
    for (geometry, sample, checksum) in samples {
        assert_eq!(delta::discover(sample), Ok(geometry));
        let mut ours = vec![0xff; sample.len()];
        delta::fill_initial(&lockspace("LS"), geometry, 10, 0, true, &mut ours);
        assert_eq!(ours, sample, "{geometry:?}");
        for sector in sample.chunks(usize::try_from(geometry.sector_size()).unwrap()) {
            let leader = leader_of(sector);
            assert_eq!(delta::verify(&leader, &lockspace("LS")), Ok(()));
            assert_eq!(leader.checksum, checksum);
            assert_eq!(leader.io_timeout, 10);
        }
    }
}

#[test]
fn the_area_ends_in_zeros_and_is_not_valid_before_its_commit() {
    for geometry in Geometry::ALL {
        let sector = usize::try_from(geometry.sector_size()).unwrap();
        let mut area = vec![0xff; usize::try_from(geometry.align_size()).unwrap()];
        delta::fill_initial(&lockspace("LS"), geometry, 10, 0, false, &mut area);
        assert_eq!(delta::discover(&area).unwrap_err().code(), -223);
        let records = usize::from(geometry.max_hosts()) * sector;
        assert!(area[records..].iter().all(|&byte| byte == 0));
        assert!(
            delta::verify(
                &delta::leader(&area[records - sector..]).unwrap(),
                &lockspace("LS")
            )
            .is_ok()
        );
        // Filling in parts gives the same bytes.
        let mut parts = vec![0xff; area.len()];
        for (number, part) in parts.chunks_mut(sector * 16).enumerate() {
            delta::fill_initial(&lockspace("LS"), geometry, 10, number * 16, false, part);
        }
        assert_eq!(parts, area);
    }
}

#[test]
fn held_records_of_the_original_are_understood_and_remade() {
    struct Sample {
        bytes: &'static [u8],
        lockspace: &'static str,
        host: u64,
        name: &'static str,
        generation: u64,
        timestamp: u64,
        io_timeout: u16,
        checksum: u32,
        event: (u64, u64, u64),
        notifies: Option<u64>,
    }
    let samples = [
        Sample {
            bytes: golden!("delta_held_host1"),
            lockspace: "LS",
            host: 1,
            name: "hostA",
            generation: 1,
            timestamp: 2422,
            io_timeout: 2,
            checksum: 0xbd21_842c,
            event: (0, 0, 0),
            notifies: None,
        },
        Sample {
            bytes: golden!("delta_bitmap_host2"),
            lockspace: "LS",
            host: 2,
            name: "hostB",
            generation: 1,
            timestamp: 2594,
            io_timeout: 2,
            checksum: 0x5d9d_39db,
            event: (0, 0, 0),
            notifies: Some(1),
        },
        Sample {
            bytes: golden!("delta_bitmap_event_host2"),
            lockspace: "LS",
            host: 2,
            name: "hostB",
            generation: 1,
            timestamp: 2683,
            io_timeout: 2,
            checksum: 0x68ca_9141,
            event: (1, 0x13, 0x23),
            notifies: Some(1),
        },
        Sample {
            bytes: golden!("delta_released_host1"),
            lockspace: "LS",
            host: 1,
            name: "hostA",
            generation: 2,
            timestamp: 0,
            io_timeout: 2,
            checksum: 0x1759_430b,
            event: (0, 0, 0),
            notifies: None,
        },
    ];
    for sample in samples {
        let leader = leader_of(sample.bytes);
        assert_eq!(delta::verify(&leader, &lockspace(sample.lockspace)), Ok(()));
        assert_eq!(leader.resource_name.to_string(), sample.name);
        assert_eq!(leader.timestamp, sample.timestamp);
        assert_eq!(
            Generation(leader.owner_generation),
            Generation(sample.generation)
        );
        assert_eq!(leader.checksum, sample.checksum);
        assert_eq!(
            (
                leader.write_id,
                leader.write_generation,
                leader.write_timestamp
            ),
            sample.event
        );

        // The same record built from nothing.
        let mut ours = delta::initial(&lockspace(sample.lockspace), Geometry::Sector512Align1M, 0);
        ours.owner_id = sample.host;
        ours.owner_generation = sample.generation;
        ours.resource_name = *disk_format::HostName::new(sample.name).unwrap().field();
        ours.timestamp = sample.timestamp;
        ours.io_timeout = sample.io_timeout;
        (ours.write_id, ours.write_generation, ours.write_timestamp) = sample.event;
        let mut bitmap = HostBitmap::EMPTY;
        if let Some(host) = sample.notifies {
            bitmap.insert(HostId::new(host).unwrap());
        }
        assert_eq!(delta::bitmap(sample.bytes), Some(bitmap));
        let mut sector = [0xff; RECORD_BYTES];
        delta::encode_sector(&ours.sealed(), &bitmap, &mut sector);
        assert_eq!(
            sector.as_slice(),
            sample.bytes,
            "host {} of {}",
            sample.host,
            sample.lockspace
        );
    }
}

#[test]
fn a_record_held_on_4096_byte_sectors_is_remade() {
    let sample: &[u8] = golden!("delta_held_4096_8M");
    let leader = leader_of(sample);
    assert_eq!(delta::verify(&leader, &lockspace("L8")), Ok(()));
    assert_eq!(
        (leader.timestamp, leader.checksum, leader.io_timeout),
        (4676, 0x591d_2879, 1)
    );
    assert_eq!(delta::discover(sample), Ok(Geometry::Sector4096Align8M));
    let mut sector = vec![0xff; 4096];
    delta::encode_sector(&leader.sealed(), &HostBitmap::EMPTY, &mut sector);
    assert_eq!(sector, sample);
}

#[test]
fn checks_are_made_in_the_originals_order() {
    let good = leader_of(golden!("delta_held_host1"));
    let space = lockspace("LS");
    let mut all_wrong = Leader {
        magic: 1,
        version: 0x0009_0000,
        checksum: 0,
        ..good
    };
    let other = lockspace("OTHER");
    assert_eq!(delta::verify(&all_wrong, &other).unwrap_err().code(), -223);
    all_wrong.magic = delta::MAGIC;
    assert_eq!(delta::verify(&all_wrong, &other).unwrap_err().code(), -224);
    all_wrong.version = 0x0003_0099;
    assert_eq!(delta::verify(&all_wrong, &other).unwrap_err().code(), -226);
    assert_eq!(delta::verify(&all_wrong, &space).unwrap_err().code(), -229);
    // A newer minor version is fine, but it is covered by the checksum.
    assert_eq!(
        delta::verify(
            &Leader {
                version: 0x0003_0099,
                ..good
            }
            .sealed(),
            &space
        ),
        Ok(())
    );
    assert_eq!(
        Geometry::from_leader(1024, 0x10).unwrap_err(),
        RecordError::SectorSize { found: 1024 }
    );
    assert_eq!(Geometry::from_leader(512, 0x80).unwrap_err().code(), -230);
    assert_eq!(Geometry::from_leader(4096, 0x30).unwrap_err().code(), -230);
    assert_eq!(
        Geometry::from_leader(512, 0),
        Ok(Geometry::Sector512Align1M)
    );
    assert_eq!(
        Geometry::from_leader(4096, 0),
        Ok(Geometry::Sector4096Align8M)
    );
}

#[test]
fn what_lies_on_a_disk_is_named() {
    let name = |bytes: &[u8]| Content::of(bytes).to_string();
    assert_eq!(name(&[0; 4096]), "zeros");
    assert_eq!(name(golden!("delta_init_4096_2M")), "lockspace \"LS\"");
    let mut damaged = golden!("delta_held_host1").to_vec();
    damaged[152] ^= 1;
    assert_eq!(name(&damaged), "damaged lockspace \"LS\"");
    assert_eq!(
        name(golden!("paxos_acquired_ex")),
        "resource lease \"R1\" of lockspace \"LS\""
    );
    assert!(matches!(
        Content::of(golden!("paxos_clear")),
        Content::ClearedResource { .. }
    ));
    assert!(matches!(
        Content::of(golden!("paxos_init_4096_8M")),
        Content::PaxosResource { .. }
    ));
    assert!(matches!(
        Content::of(golden!("paxos_init_512_1M")),
        Content::PaxosResource { .. }
    ));
    assert!(matches!(
        Content::of(golden!("rindex_512_1M")),
        Content::ResourceIndex { .. }
    ));
    let mut table = vec![0; 4096];
    table[512..520].copy_from_slice(b"EFI PART");
    assert_eq!(name(&table), "a GPT partition table");
    assert_eq!(name(b"GARBAGE"), "data of an unknown kind");
}
