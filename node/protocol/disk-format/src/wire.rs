//! Sequential reading and writing of little-endian fields in fixed buffers.

use crate::error::RecordError;

/// Takes fields off the front of a slice. Past its end every field is zero, so
/// a total decode needs no error path; callers pass buffers of the full size.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.0 = tail;
                *head
            }
            None => {
                self.0 = &[];
                [0; N]
            }
        }
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

/// Puts fields at the front of a slice; what does not fit is left out.
#[derive(Debug)]
pub(crate) struct Writer<'a>(pub(crate) &'a mut [u8]);

impl Writer<'_> {
    pub(crate) fn bytes(&mut self, field: &[u8]) {
        let rest = std::mem::take(&mut self.0);
        if let Some((head, tail)) = rest.split_at_mut_checked(field.len()) {
            head.copy_from_slice(field);
            self.0 = tail;
        }
    }

    pub(crate) fn u16(&mut self, field: u16) {
        self.bytes(&field.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, field: u32) {
        self.bytes(&field.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, field: u64) {
        self.bytes(&field.to_le_bytes());
    }
}

/// The `N` bytes at `start`.
pub(crate) fn chunk_at<const N: usize>(
    bytes: &[u8],
    start: usize,
) -> Result<&[u8; N], RecordError> {
    bytes
        .get(start..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(RecordError::Truncated {
            bytes: bytes.len(),
            needed: start.saturating_add(N),
        })
}

/// Puts a record at `start`; one that does not fit is left out.
pub(crate) fn put_at(bytes: &mut [u8], start: usize, record: &[u8]) {
    if let Some(place) = bytes
        .get_mut(start..)
        .and_then(|rest| rest.get_mut(..record.len()))
    {
        place.copy_from_slice(record);
    }
}
