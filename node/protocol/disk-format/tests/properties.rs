//! What holds for all bytes, not just for the samples.

use std::hint::black_box;

use disk_format::delta;
use disk_format::leader::LEADER_BYTES;
use disk_format::{
    Content, Dblock, Geometry, HostBitmap, HostExtras, Leader, LockspaceName, ModeBlock, NameField,
    RequestRecord, paxos, rindex,
};
use proptest::prelude::*;

prop_compose! {
    fn leaders()(
        bytes in proptest::collection::vec(any::<u8>(), LEADER_BYTES),
        kind in 0..3,
        name in "[a-zA-Z0-9_.-]{1,48}",
    ) -> Leader {
        let mut leader = Leader::decode(bytes.first_chunk().expect("200 bytes"));
        if kind > 0 {
            leader.magic = delta::MAGIC;
            leader.version = delta::VERSION;
            leader.space_name = *LockspaceName::new(&name).expect("a valid name").field();
        }
        if kind > 1 { leader.sealed() } else { leader }
    }
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(leader in leaders()) {
        prop_assert_eq!(Leader::decode(&leader.encode()), leader);
    }

    #[test]
    fn encoding_undoes_decoding(bytes in proptest::collection::vec(any::<u8>(), LEADER_BYTES)) {
        let bytes: &[u8; LEADER_BYTES] = bytes.first_chunk().unwrap();
        prop_assert_eq!(&Leader::decode(bytes).encode(), bytes);
    }

    #[test]
    fn a_sealed_record_verifies_and_any_flipped_covered_bit_does_not(
        name in "[a-zA-Z0-9_.-]{1,48}", owner in any::<u64>(), timestamp in any::<u64>(), bit in 0usize..168 * 8,
    ) {
        let lockspace = LockspaceName::new(&name).unwrap();
        let mut leader = delta::initial(&lockspace, Geometry::Sector512Align1M, 10);
        leader.owner_id = owner;
        leader.timestamp = timestamp;
        let leader = leader.sealed();
        prop_assert_eq!(delta::verify(&leader, &lockspace), Ok(()));
        let mut bytes = leader.encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(delta::verify(&Leader::decode(&bytes), &lockspace).is_err());
    }

    #[test]
    fn every_record_of_a_host_comes_back_from_its_sector(
        words in any::<[u64; 7]>(), flags in any::<[u32; 3]>(), bits in proptest::collection::vec(any::<u8>(), 256),
    ) {
        let [mbal, bal, inp, inp2, inp3, lver, generation] = words;
        let dblock = Dblock { mbal, bal, inp, inp2, inp3, lver, checksum: flags[0], flags: flags[1] };
        let mode = ModeBlock { flags: flags[2], generation };
        for geometry in Geometry::ALL {
            let mut sector = vec![0xff; geometry.sector_bytes()];
            paxos::encode_host_sector(&dblock, &mode, &mut sector);
            prop_assert_eq!(Dblock::decode(&sector), Ok(dblock));
            prop_assert_eq!(ModeBlock::decode(&sector), Ok(mode));
        }
        let request = RequestRecord { magic: flags[0], version: flags[1], lver, force_mode: flags[2] };
        prop_assert_eq!(RequestRecord::decode(&request.encode()), Ok(request));
        let extras = HostExtras { generation, event: bal, data: inp };
        let lockspace = LockspaceName::new("LS").unwrap();
        let leader = extras.stored_in(delta::initial(&lockspace, Geometry::Sector512Align1M, 10));
        prop_assert_eq!(HostExtras::of(&leader), extras);
        let bitmap = HostBitmap(*bits.first_chunk().unwrap());
        let mut sector = [0; 512];
        delta::encode_sector(&leader, &bitmap, &mut sector);
        prop_assert_eq!(delta::bitmap(&sector), Some(bitmap));
        prop_assert_eq!(delta::leader(&sector), Some(leader));
    }

    #[test]
    fn indexes_come_back_from_their_area(
        words in any::<[u32; 6]>(), rx_offset in any::<u64>(), name in proptest::collection::vec(any::<u8>(), 48), number in 0u32..128_000,
    ) {
        let name = NameField(*name.first_chunk().unwrap());
        let [magic, version, flags, sector_size, max_resources, unused] = words;
        let header = rindex::Header {
            magic, version, flags, sector_size, max_resources, unused, rx_offset, lockspace_name: name,
        };
        prop_assert_eq!(rindex::Header::decode(&header.encode()), Ok(header));
        let entry = rindex::Entry { res_offset: rx_offset, flags, unused, name };
        prop_assert_eq!(rindex::Entry::decode(&entry.encode()), Ok(entry));
        for geometry in Geometry::ALL {
            let number = number % rindex::entries_max(geometry);
            let start = rx_offset >> 1;
            let offset = rindex::resource_offset(start, geometry, number).unwrap();
            prop_assert_eq!(rindex::entry_at(start, geometry, offset), Some(number));
            prop_assert!(rindex::entry_offset(geometry, number) + 64 <= u64::from(geometry.align_size()));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
        let lockspace = LockspaceName::new("LS").unwrap();
        if let Some(leader) = delta::leader(&bytes) {
            black_box(delta::verify(&leader, &lockspace).map_err(|error| error.to_string())).ok();
        }
        black_box(delta::bitmap(&bytes));
        black_box(delta::discover(&bytes)).ok();
        black_box(Content::of(&bytes).to_string());
        if let Some(field) = bytes.first_chunk() {
            black_box(NameField(*field).to_string());
        }
        let mut short = bytes;
        delta::fill_initial(&lockspace, Geometry::Sector4096Align8M, 1, usize::MAX, true, &mut short);
    }
}
