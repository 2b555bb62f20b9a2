//! Mailboxes as the cores look at them: slots of a block of bytes.

use disk_format::vdsm::mailbox::{CHECKSUM_OFFSET, checksum};
pub(crate) use disk_format::vdsm::mailbox::{
    Extend, IDENTITY_BYTES, MAILBOX_BYTES, MESSAGE_BYTES, Message, SLOTS,
};

/// One host's mailbox.
pub(crate) type Block = [u8; MAILBOX_BYTES];

/// Bytes from one host's mailbox to the next.
pub(crate) const MAILBOX_STEP: u64 = 4096;

const EMPTY: [u8; MESSAGE_BYTES] = [0; MESSAGE_BYTES];

/// Bytes of a slot; all zero where there is none.
pub(crate) fn slot(block: &Block, slot: usize) -> &[u8; MESSAGE_BYTES] {
    block.as_chunks().0.get(slot).unwrap_or(&EMPTY)
}

/// Changes a slot.
pub(crate) fn put(block: &mut Block, slot: usize, message: &Message) {
    assert!(slot < SLOTS, "slot {slot}: the last one is {}", SLOTS - 1);
    if let Some(place) = block.as_chunks_mut().0.get_mut(slot) {
        *place = message.encode();
    }
}

/// Whether a slot holds something about this volume.
pub(crate) fn is_about(bytes: &[u8; MESSAGE_BYTES], message: &[u8; MESSAGE_BYTES]) -> bool {
    bytes[..IDENTITY_BYTES] == message[..IDENTITY_BYTES]
}

/// Writes the checksum.
pub(crate) fn seal(block: &mut Block) {
    let sum = checksum(block.as_slice());
    if let Some(place) = block.last_chunk_mut::<4>() {
        *place = sum.to_le_bytes();
    }
}

/// What an SPM makes of a mailbox as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seal {
    /// There is nothing in it; its checksum does not matter.
    Blank,
    /// The checksum is right.
    Good,
    /// There is something, and the checksum is 0.
    Missing,
    /// The checksum is wrong.
    Wrong,
}

/// Judges a mailbox of the inbox.
pub(crate) fn judge(block: &Block) -> Seal {
    let blank = block
        .as_chunks::<MESSAGE_BYTES>()
        .0
        .iter()
        .take(SLOTS)
        .all(|slot| slot[0] == 0);
    if blank {
        return Seal::Blank;
    }
    let stored = block.last_chunk().map_or(0, |sum| u32::from_le_bytes(*sum));
    if stored == 0 {
        Seal::Missing
    } else if stored == checksum(&block[..CHECKSUM_OFFSET]) {
        Seal::Good
    } else {
        Seal::Wrong
    }
}
