//! What must hold for any bytes, one function a record. Run by the targets
//! beside this file (cargo-fuzz, for as long as one likes) and by
//! `tests/fuzz.rs` (an ordinary test, bounded).
//!
//! Each body reads the bytes a second time, naively, by the offsets in the
//! specification's tables, and compares.

use disk_format::paxos::{self, Area};
use disk_format::{
    Content, Dblock, Geometry, HostBitmap, HostExtras, HostId, Leader, LockspaceName, ModeBlock,
    NameField, RecordError, RequestRecord, ResourceName, delta, rindex,
};

pub mod vdsm;

/// A body: any bytes in, a panic if a promise is broken.
pub type Body = fn(&[u8]);

/// All of them, by the name of the record.
pub const BODIES: [(&str, Body); 11] = [
    ("delta_leader", delta_leader),
    ("paxos_leader", paxos_leader),
    ("request", request),
    ("dblock", dblock),
    ("mode_block", mode_block),
    ("bitmap", bitmap),
    ("event", event),
    ("lvb_and_area", lvb_and_area),
    ("rindex_header", rindex_header),
    ("rindex_entry", rindex_entry),
    ("content", content),
];

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes[offset..offset + 8]
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    bytes[offset..offset + 4]
        .iter()
        .rev()
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

/// The checksum bit by bit.
pub fn slow_checksum(bytes: &[u8]) -> u32 {
    let mut register = 0xffff_fffe_u32;
    for &byte in bytes {
        register ^= u32::from(byte);
        for _ in 0..8 {
            let odd = register & 1 == 1;
            register >>= 1;
            if odd {
                register ^= 0x82f6_3b78;
            }
        }
    }
    register
}

fn name_at(bytes: &[u8], offset: usize) -> &[u8] {
    let field = &bytes[offset..offset + 48];
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(48);
    &field[..end]
}

fn same_leader(leader: &Leader, bytes: &[u8]) {
    assert_eq!(leader.encode(), bytes[..200], "decoding keeps every bit");
    assert_eq!(leader.magic, u32_at(bytes, 0));
    assert_eq!(leader.version, u32_at(bytes, 4));
    assert_eq!(leader.flags, u32_at(bytes, 8));
    assert_eq!(leader.sector_size, u32_at(bytes, 12));
    assert_eq!(leader.num_hosts, u64_at(bytes, 16));
    assert_eq!(leader.max_hosts, u64_at(bytes, 24));
    assert_eq!(leader.owner_id, u64_at(bytes, 32));
    assert_eq!(leader.owner_generation, u64_at(bytes, 40));
    assert_eq!(leader.lver, u64_at(bytes, 48));
    assert_eq!(leader.space_name.bytes(), name_at(bytes, 56));
    assert_eq!(leader.resource_name.bytes(), name_at(bytes, 104));
    assert_eq!(leader.timestamp, u64_at(bytes, 152));
    assert_eq!(leader.checksum, u32_at(bytes, 168));
    assert_eq!(u32::from(leader.io_timeout), u32_at(bytes, 172) >> 16);
    assert_eq!(leader.write_id, u64_at(bytes, 176));
    assert_eq!(leader.write_generation, u64_at(bytes, 184));
    assert_eq!(leader.write_timestamp, u64_at(bytes, 192));
}

/// The original's order of checks, from the bytes.
fn expected_code(bytes: &[u8], magic: u32, major: u32, rest: impl Fn() -> Option<i32>) -> i32 {
    if u32_at(bytes, 0) != magic {
        -223
    } else if u32_at(bytes, 4) >> 16 != major {
        -224
    } else if let Some(code) = rest() {
        code
    } else if u32_at(bytes, 168) != slow_checksum(&bytes[..168]) {
        -229
    } else {
        0
    }
}

fn code(result: Result<(), RecordError>) -> i32 {
    result.map_or_else(
        |error| {
            assert!(!error.to_string().is_empty());
            error.code()
        },
        |()| 0,
    )
}

/// A sector of a lockspace.
pub fn delta_leader(bytes: &[u8]) {
    let leader = match delta::leader(bytes) {
        Some(leader) => leader,
        None => return assert!(bytes.len() < 200),
    };
    same_leader(&leader, bytes);
    let lockspace = LockspaceName::new("LS").expect("a valid name");
    let expected = expected_code(bytes, 0x1221_2010, 3, || {
        (name_at(bytes, 56) != b"LS").then_some(-226)
    });
    assert_eq!(code(delta::verify(&leader, &lockspace)), expected);
    if let Ok(geometry) = delta::discover(bytes) {
        assert_eq!(geometry.sector_size(), leader.sector_size);
        assert!(leader.flags & 0xf0 == 0 || leader.flags & 0xf0 == geometry.align_flag());
    }
    // What is written back is the record and nothing else.
    let mut sector = vec![0xff; 4096];
    let bits = delta::bitmap(bytes).unwrap_or(HostBitmap::EMPTY);
    delta::encode_sector(&leader, &bits, &mut sector);
    assert_eq!(delta::leader(&sector), Some(leader));
    assert_eq!(delta::bitmap(&sector), Some(bits));
    assert!(
        sector[200..256]
            .iter()
            .chain(&sector[512..])
            .all(|&byte| byte == 0)
    );
}

/// The first sector of a resource.
pub fn paxos_leader(bytes: &[u8]) {
    let leader = match paxos::leader(bytes) {
        Ok(leader) => leader,
        Err(error) => return truncated(error, bytes.len(), 200),
    };
    same_leader(&leader, bytes);
    let lockspace = LockspaceName::new("LS").expect("a valid name");
    let resource = ResourceName::new("R1").expect("a valid name");
    let own = HostId::new(7).expect("a host id");
    let expected = expected_code(bytes, 0x0615_2010, 6, || {
        if name_at(bytes, 56) != b"LS" {
            Some(-226)
        } else if name_at(bytes, 104) != b"R1" {
            Some(-227)
        } else {
            (u64_at(bytes, 16) < 7).then_some(-228)
        }
    });
    assert_eq!(
        code(paxos::verify(&leader, &lockspace, &resource, own)),
        expected
    );
    for geometry in Geometry::ALL {
        let sectors = paxos::ballot_sectors(leader.num_hosts, geometry);
        assert!(sectors <= geometry.sectors());
        if let Ok(hosts) = paxos::hosts(&leader, geometry) {
            assert!((1..=geometry.max_hosts()).contains(&hosts.num));
            assert!((1..=geometry.max_hosts()).contains(&hosts.max));
            let last = HostId::new(u64::from(hosts.num)).expect("in range");
            assert!(paxos::host_sector(last) < sectors);
        }
    }
    assert_eq!(Leader::decode(&leader.sealed().encode()), leader.sealed());
    assert_eq!(leader.sealed().checksum, slow_checksum(&bytes[..168]));
}

/// The second sector of a resource.
pub fn request(bytes: &[u8]) {
    let record = match RequestRecord::decode(bytes) {
        Ok(record) => record,
        Err(error) => return truncated(error, bytes.len(), 24),
    };
    let mut expected = bytes[..24].to_vec();
    expected[20..].fill(0);
    assert_eq!(record.encode().as_slice(), expected, "all but the padding");
    assert_eq!(RequestRecord::decode(&record.encode()), Ok(record));
    assert_eq!(record.lver, u64_at(bytes, 8));
    assert_eq!(record.force_mode, u32_at(bytes, 16));
    let expected = if u32_at(bytes, 0) != 0x0829_2011 {
        -270
    } else if u32_at(bytes, 4) >> 16 != 1 {
        -271
    } else {
        0
    };
    assert_eq!(code(record.verify()), expected);
}

/// A host's sector of a resource.
pub fn dblock(bytes: &[u8]) {
    let block = match Dblock::decode(bytes) {
        Ok(block) => block,
        Err(error) => return truncated(error, bytes.len(), 56),
    };
    assert_eq!(block.encode(), bytes[..56]);
    let words: Vec<u64> = (0..6).map(|index| u64_at(bytes, 8 * index)).collect();
    assert_eq!(
        words,
        [
            block.mbal, block.bal, block.inp, block.inp2, block.inp3, block.lver
        ]
    );
    assert_eq!(block.is_released(), bytes[52] & 1 == 1);
    let empty = [0, 1, 2, 5].into_iter().all(|index| words[index] == 0) && u32_at(bytes, 48) == 0;
    let right = empty || u32_at(bytes, 48) == slow_checksum(&bytes[..48]);
    assert_eq!(code(block.verify()), if right { 0 } else { -214 });
    assert_eq!(block.sealed().verify(), Ok(()));
    let mode = ModeBlock::decode(bytes).unwrap_or(ModeBlock::NONE);
    let mut sector = vec![0xff; 4096];
    paxos::encode_host_sector(&block, &mode, &mut sector);
    assert_eq!(Dblock::decode(&sector), Ok(block));
    assert_eq!(ModeBlock::decode(&sector), Ok(mode));
    assert!(
        sector[56..128]
            .iter()
            .chain(&sector[144..])
            .all(|&byte| byte == 0)
    );
}

/// The same sector, its other record.
pub fn mode_block(bytes: &[u8]) {
    let block = match ModeBlock::decode(bytes) {
        Ok(block) => block,
        Err(error) => return truncated(error, bytes.len(), 144),
    };
    let mut expected = bytes[128..144].to_vec();
    expected[4..8].fill(0);
    assert_eq!(block.encode().as_slice(), expected, "all but the padding");
    assert_eq!(block.is_shared(), bytes[128] & 1 == 1);
    assert_eq!(block.generation, u64_at(bytes, 136));
}

/// The bitmap of a lockspace's sector.
pub fn bitmap(bytes: &[u8]) {
    let Some(bits) = delta::bitmap(bytes) else {
        return assert!(bytes.len() < 512);
    };
    assert_eq!(bits.0, bytes[256..512]);
    let mut again = HostBitmap::EMPTY;
    for number in 1..=2000_u16 {
        let host = HostId::new(u64::from(number)).expect("in range");
        let index = usize::from(number - 1);
        let set = bytes[256 + index / 8] >> (index % 8) & 1 == 1;
        assert_eq!(bits.contains(host), set);
        if set {
            again.insert(host);
        }
    }
    assert_eq!(again.0[..250], bits.0[..250]);
}

/// The event in a lockspace's sector.
pub fn event(bytes: &[u8]) {
    let Some(leader) = delta::leader(bytes) else {
        return assert!(bytes.len() < 200);
    };
    let extras = HostExtras::of(&leader);
    assert_eq!(extras.generation, u64_at(bytes, 176));
    assert_eq!(extras.event, u64_at(bytes, 184));
    assert_eq!(extras.data, u64_at(bytes, 192));
    let without = HostExtras::NONE.stored_in(leader);
    assert_eq!(HostExtras::of(&without), HostExtras::NONE);
    assert_eq!(extras.stored_in(without), leader, "nothing else is touched");
    assert_eq!(without.computed_checksum(), leader.computed_checksum());
}

/// Part of a resource area: whatever sector is asked for, what comes back is
/// that sector or an error. The first two bytes choose geometry and sector.
pub fn lvb_and_area(bytes: &[u8]) {
    let Some(([choice, number], bytes)) = bytes.split_first_chunk() else {
        return;
    };
    let geometry = Geometry::ALL[usize::from(*choice) % 5];
    let size = geometry.sector_bytes();
    let area = Area::new(bytes, geometry);
    for number in [
        u32::from(*number),
        u32::from(*number) % 8,
        paxos::LVB_SECTOR,
        u32::MAX,
    ] {
        let start = number as usize * size;
        match area.sector(number) {
            Ok(sector) => assert_eq!(sector, &bytes[start..start + size]),
            Err(error) => truncated(error, bytes.len(), start + size),
        }
    }
    assert_eq!(
        paxos::lvb_allowed(geometry),
        (2002 + 1) * size <= geometry.area_bytes()
    );
    if let Ok(leader) = area.leader() {
        same_leader(&leader, bytes);
    }
    if let Ok(request) = area.request() {
        assert_eq!(request.lver, u64_at(bytes, size + 8));
    }
    for number in [1, 2, u64::from(geometry.max_hosts())] {
        let host = HostId::new(number).expect("in range");
        if let Ok((dblock, mode)) = area.host(host) {
            let start = (1 + usize::from(host.get())) * size;
            assert_eq!(dblock.mbal, u64_at(bytes, start));
            assert_eq!(mode.generation, u64_at(bytes, start + 136));
        }
    }
}

/// The first sector of a resource index.
pub fn rindex_header(bytes: &[u8]) {
    let header = match rindex::Header::decode(bytes) {
        Ok(header) => header,
        Err(error) => return truncated(error, bytes.len(), 80),
    };
    assert_eq!(header.encode(), bytes[..80]);
    assert_eq!(header.max_resources, u32_at(bytes, 16));
    assert_eq!(header.rx_offset, u64_at(bytes, 24));
    let lockspace = LockspaceName::new("LS").expect("a valid name");
    let expected = if u32_at(bytes, 0) != 0x0104_2018 {
        -274
    } else if u32_at(bytes, 4) >> 16 != 1 {
        -275
    } else if name_at(bytes, 32) != b"LS" {
        -276
    } else if u64_at(bytes, 24) != 1 << 20 {
        -277
    } else {
        0
    };
    assert_eq!(code(header.verify(&lockspace, 1 << 20)), expected);
    if let Ok(geometry) = header.geometry() {
        assert_eq!(geometry.sector_size(), u32_at(bytes, 12));
        assert_eq!(geometry.align_size(), u32_at(bytes, 8) << 20);
    }
    for geometry in Geometry::ALL {
        let entries = header.entries(geometry);
        assert!((1..=rindex::entries_max(geometry)).contains(&entries));
        if let Some(last) = rindex::resource_offset(header.rx_offset, geometry, entries - 1) {
            assert_eq!(
                rindex::entry_at(header.rx_offset, geometry, last),
                Some(entries - 1)
            );
            assert_eq!(rindex::entry_at(header.rx_offset, geometry, last + 1), None);
        }
    }
}

/// Entries of a resource index. The first two bytes choose which.
pub fn rindex_entry(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    match rindex::Entry::decode(bytes) {
        Ok(entry) => {
            assert_eq!(entry.encode(), bytes[..64]);
            assert_eq!(entry.res_offset, u64_at(bytes, 0));
            assert_eq!(entry.name.bytes(), name_at(bytes, 16));
            assert_eq!(entry.is_free(), u64_at(bytes, 0) == 0 && bytes[16] == 0);
        }
        Err(error) => truncated(error, bytes.len(), 64),
    }
    let number = u32::from(u16::from_le_bytes(*choice));
    for geometry in Geometry::ALL {
        let start = geometry.sector_bytes() + 64 * number as usize;
        match rindex::entry(bytes, geometry, number) {
            Ok(entry) => {
                assert_eq!(entry.encode(), bytes[start..start + 64]);
                let mut changed = bytes.to_vec();
                rindex::put_entry(&mut changed, geometry, number, &rindex::Entry::FREE);
                assert!(changed[start..start + 64].iter().all(|&byte| byte == 0));
                rindex::put_entry(&mut changed, geometry, number, &entry);
                assert_eq!(changed, bytes, "an entry's neighbours are not touched");
            }
            Err(error) => {
                truncated(error, bytes.len(), start + 64);
                let mut same = bytes.to_vec();
                rindex::put_entry(&mut same, geometry, number, &rindex::Entry::FREE);
                assert_eq!(same, bytes);
            }
        }
    }
}

/// Anything at the start of an area.
pub fn content(bytes: &[u8]) {
    let content = Content::of(bytes);
    let text = content.to_string();
    assert!(
        text.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        "{text:?}"
    );
    if bytes.iter().all(|&byte| byte == 0) {
        assert_eq!(content, Content::Zeros);
    }
    if let Some(field) = bytes.first_chunk() {
        let name = NameField(*field);
        assert!(name.same_name(&name.cleaned()));
        assert_eq!(LockspaceName::from_field(&name).is_err(), name.is_empty());
    }
}

fn truncated(error: RecordError, bytes: usize, needed: usize) {
    assert!(bytes < needed, "{bytes} bytes are enough for {needed}");
    assert_eq!(error, RecordError::Truncated { bytes, needed });
}
