//! Sequential reading and writing of little-endian fields.

use disk_format::NameField;

/// Takes fields off the front of a slice. Past its end every field is zero, so
/// a total decode needs no error path; callers pass slices of the full size.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
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

    /// At most `count` bytes, without a copy.
    pub(crate) fn slice(&mut self, count: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(count.min(self.0.len()));
        self.0 = tail;
        head
    }

    /// A text field of `count` bytes, up to its NUL or its end.
    pub(crate) fn text(&mut self, count: usize) -> &'a [u8] {
        until_nul(self.slice(count))
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A name; whatever follows its NUL is the sender's stack and forgotten.
    pub(crate) fn name(&mut self) -> NameField {
        let mut field: [u8; disk_format::id::NAME_BYTES] = self.bytes();
        let length = until_nul(&field).len();
        if let Some(rest) = field.get_mut(length..) {
            rest.fill(0);
        }
        NameField(field)
    }
}

/// The bytes before the first NUL, or all.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(&[])
}

/// Appends fields to a message.
pub(crate) trait Put {
    fn put_u32(&mut self, field: u32);
    fn put_u64(&mut self, field: u64);
    fn put_name(&mut self, field: &NameField);
    /// Text in a field of `width` bytes, zero padded; what is longer is cut.
    fn put_text(&mut self, text: &[u8], width: usize);
}

impl Put for Vec<u8> {
    fn put_u32(&mut self, field: u32) {
        self.extend_from_slice(&field.to_le_bytes());
    }

    fn put_u64(&mut self, field: u64) {
        self.extend_from_slice(&field.to_le_bytes());
    }

    fn put_name(&mut self, field: &NameField) {
        self.extend_from_slice(&field.0);
    }

    fn put_text(&mut self, text: &[u8], width: usize) {
        let end = self.len() + width;
        self.extend(text.iter().take(width));
        self.resize(end, 0);
    }
}
