//! What holds for all bytes, not just for the samples.

use std::hint::black_box;

use disk_format::delta;
use disk_format::leader::LEADER_BYTES;
use disk_format::{Content, Geometry, Leader, LockspaceName, NameField};
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
