//! The one structure that all calls of device-mapper pass, and what follows it:
//! bytes, in the machine's order.

use rustix::io::Errno;

use super::{Listed, Map, Name, TargetLine};

/// `sizeof(struct dm_ioctl)`.
pub(super) const HEADER_BYTES: usize = 312;
/// `sizeof(struct dm_target_spec)`.
const SPEC_BYTES: usize = 40;
/// Interface version spoken: all that is used here was there in 4.0.0.
const VERSION: [u32; 3] = [4, 0, 0];
/// Longest name and uuid, with their NUL.
const NAME_BYTES: usize = 128;
const UUID_BYTES: usize = 129;
const TYPE_BYTES: usize = 16;

pub(super) const READ_ONLY: u32 = 1;
pub(super) const SUSPENDED: u32 = 1 << 1;
pub(super) const STATUS_TABLE: u32 = 1 << 4;
const ACTIVE_PRESENT: u32 = 1 << 5;
const INACTIVE_PRESENT: u32 = 1 << 6;
pub(super) const BUFFER_FULL: u32 = 1 << 8;
pub(super) const SKIP_LOCKFS: u32 = 1 << 10;
pub(super) const NO_FLUSH: u32 = 1 << 11;
pub(super) const QUERY_INACTIVE: u32 = 1 << 12;

mod at {
    pub(super) const VERSION: usize = 0;
    pub(super) const DATA_SIZE: usize = 12;
    pub(super) const DATA_START: usize = 16;
    pub(super) const TARGET_COUNT: usize = 20;
    pub(super) const OPEN_COUNT: usize = 24;
    pub(super) const FLAGS: usize = 28;
    pub(super) const DEVICE: usize = 40;
    pub(super) const NAME: usize = 48;
    pub(super) const UUID: usize = 176;
}

const _: () = assert!(at::NAME + NAME_BYTES == at::UUID);
const _: () = assert!(at::UUID + UUID_BYTES + 7 == HEADER_BYTES);

/// A call's memory: the header, then room or data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
}

impl Message {
    /// About the map `name`, with `data` behind the header, zeros up to
    /// `room` bytes of it.
    pub(super) fn new(
        name: Option<&Name>,
        flags: u32,
        targets: u32,
        data: &[u8],
        room: usize,
    ) -> Self {
        let size = HEADER_BYTES + room.max(data.len());
        let mut message = Self {
            bytes: vec![0; size],
        };
        for (place, number) in (at::VERSION..).step_by(4).zip(VERSION) {
            message.put(place, &number.to_ne_bytes());
        }
        // Far below 4 GiB: rooms are bounded by the caller.
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        message.put(at::DATA_SIZE, &size.to_ne_bytes());
        let start = u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX);
        message.put(at::DATA_START, &start.to_ne_bytes());
        message.put(at::TARGET_COUNT, &targets.to_ne_bytes());
        message.put(at::FLAGS, &flags.to_ne_bytes());
        if let Some(name) = name {
            message.put(at::NAME, name.0.as_bytes());
        }
        message.put(HEADER_BYTES, data);
        message
    }

    fn put(&mut self, place: usize, bytes: &[u8]) {
        if let Some(room) = self.bytes.get_mut(place..place + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    }

    fn u32_at(&self, place: usize) -> u32 {
        u32_at(&self.bytes, place)
    }

    pub(super) fn version(&self) -> (u32, u32, u32) {
        (
            self.u32_at(at::VERSION),
            self.u32_at(at::VERSION + 4),
            self.u32_at(at::VERSION + 8),
        )
    }

    pub(super) fn flags(&self) -> u32 {
        self.u32_at(at::FLAGS)
    }

    /// The answer's data, as long as the kernel says and not longer than there is.
    fn data(&self) -> &[u8] {
        let start = usize::try_from(self.u32_at(at::DATA_START)).unwrap_or(usize::MAX);
        let end = usize::try_from(self.u32_at(at::DATA_SIZE)).unwrap_or(usize::MAX);
        self.bytes
            .get(start..end.min(self.bytes.len()))
            .unwrap_or_default()
    }

    pub(super) fn map(&self) -> Map {
        let flags = self.flags();
        let device = u64_at(&self.bytes, at::DEVICE);
        Map {
            name: text(&self.bytes, at::NAME, NAME_BYTES),
            uuid: text(&self.bytes, at::UUID, UUID_BYTES),
            device: number(device),
            open_count: u32::try_from(i32::from_ne_bytes(
                self.u32_at(at::OPEN_COUNT).to_ne_bytes(),
            ))
            .unwrap_or(0),
            targets: self.u32_at(at::TARGET_COUNT),
            read_only: flags & READ_ONLY != 0,
            suspended: flags & SUSPENDED != 0,
            has_table: flags & ACTIVE_PRESENT != 0,
            has_inactive_table: flags & INACTIVE_PRESENT != 0,
        }
    }

    /// The lines of a table that were asked for.
    pub(super) fn lines(&self) -> Result<Vec<TargetLine>, Errno> {
        let data = self.data();
        let mut lines = Vec::new();
        let mut place = 0;
        for _ in 0..self.u32_at(at::TARGET_COUNT) {
            let spec = data.get(place..place + SPEC_BYTES).ok_or(Errno::BADMSG)?;
            // From the start of the first one, unlike when loading.
            let next = usize::try_from(u32_at(spec, 20)).map_err(|_| Errno::BADMSG)?;
            if next <= place {
                return Err(Errno::BADMSG);
            }
            let parameters = data
                .get(place + SPEC_BYTES..next.min(data.len()))
                .ok_or(Errno::BADMSG)?;
            lines.push(TargetLine {
                start_sector: u64_at(spec, 0),
                sectors: u64_at(spec, 8),
                kind: text(spec, 24, TYPE_BYTES),
                parameters: text(parameters, 0, parameters.len()),
            });
            place = next;
        }
        Ok(lines)
    }

    /// Devices below a map.
    pub(super) fn devices(&self) -> Result<Vec<(u32, u32)>, Errno> {
        let data = self.data();
        let count = usize::try_from(u32_at(data, 0)).map_err(|_| Errno::BADMSG)?;
        (0..count)
            .map(|index| {
                let place = index
                    .checked_mul(8)
                    .and_then(|place| place.checked_add(8))
                    .filter(|place| place + 8 <= data.len())
                    .ok_or(Errno::BADMSG)?;
                Ok(number(u64_at(data, place)))
            })
            .collect()
    }

    /// Names and numbers of all maps.
    pub(super) fn names(&self) -> Result<Vec<Listed>, Errno> {
        let data = self.data();
        let mut found = Vec::new();
        let mut place = 0;
        loop {
            let Some(entry) = data.get(place..).filter(|entry| entry.len() > 12) else {
                return Err(Errno::BADMSG);
            };
            let device = u64_at(entry, 0);
            if device == 0 && found.is_empty() {
                // There is none.
                return Ok(found);
            }
            let name = text(entry, 12, entry.len() - 12);
            found.push(Listed {
                name,
                device: number(device),
            });
            match usize::try_from(u32_at(entry, 8)) {
                Ok(0) => return Ok(found),
                Ok(next) => place += next,
                Err(_) => return Err(Errno::BADMSG),
            }
        }
    }
}

/// A table to be loaded, as it follows the header.
pub(super) fn table(lines: &[TargetLine]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        let parameters = line.parameters.as_bytes();
        // With its NUL, up to a multiple of 8.
        let length = (SPEC_BYTES + parameters.len() + 1).next_multiple_of(8);
        let start = bytes.len();
        bytes.extend(line.start_sector.to_ne_bytes());
        bytes.extend(line.sectors.to_ne_bytes());
        bytes.extend(0i32.to_ne_bytes());
        bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        let mut kind = [0; TYPE_BYTES];
        // Cut where it is too long: the kernel then does not know the type.
        let cut = line.kind.len().min(TYPE_BYTES - 1);
        if let (Some(to), Some(from)) = (kind.get_mut(..cut), line.kind.as_bytes().get(..cut)) {
            to.copy_from_slice(from);
        }
        bytes.extend(kind);
        bytes.extend(parameters);
        bytes.resize(start + length, 0);
    }
    bytes
}

/// Major and minor out of the kernel's `huge_encode_dev`.
fn number(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    let found = bytes.get(place..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn u64_at(bytes: &[u8], place: usize) -> u64 {
    let found = bytes.get(place..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Text up to its NUL, within `length` bytes.
fn text(bytes: &[u8], place: usize, length: usize) -> String {
    let field = bytes.get(place..).unwrap_or_default();
    let field = field.get(..length.min(field.len())).unwrap_or_default();
    let end = field.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(field.get(..end.unwrap_or(field.len())).unwrap_or_default())
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(start: u64, sectors: u64, parameters: &str) -> TargetLine {
        TargetLine {
            start_sector: start,
            sectors,
            kind: "linear".into(),
            parameters: parameters.into(),
        }
    }

    #[test]
    fn header_has_every_field_in_its_place() {
        let name = Name::new("a-b").expect("a name");
        let message = Message::new(Some(&name), STATUS_TABLE | SKIP_LOCKFS, 2, b"xyz", 16);
        assert_eq!(message.bytes.len(), 312 + 16);
        assert_eq!(&message.bytes[..12], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(u32_at(&message.bytes, 12), 328);
        assert_eq!(u32_at(&message.bytes, 16), 312);
        assert_eq!(u32_at(&message.bytes, 20), 2);
        assert_eq!(u32_at(&message.bytes, 28), 0x410);
        assert_eq!(&message.bytes[48..52], b"a-b\0");
        assert_eq!(&message.bytes[312..316], b"xyz\0");
        assert!(message.bytes[52..312].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn loaded_lines_are_padded_and_point_to_the_next_from_themselves() {
        let lines = [
            linear(0, 262_144, "253:3 2048"),
            linear(262_144, 8, "8:16 1"),
        ];
        let bytes = table(&lines);
        assert_eq!(bytes.len(), 56 + 48);
        assert_eq!(u64_at(&bytes, 0), 0);
        assert_eq!(u64_at(&bytes, 8), 262_144);
        assert_eq!(u32_at(&bytes, 20), 56);
        assert_eq!(text(&bytes, 24, 16), "linear");
        assert_eq!(&bytes[40..56], b"253:3 2048\0\0\0\0\0\0");
        assert_eq!(u64_at(&bytes, 56), 262_144);
        assert_eq!(u32_at(&bytes, 56 + 20), 48);
        assert_eq!(&bytes[96..104], b"8:16 1\0\0");
    }

    /// As the kernel writes them: `next` counted from the first line.
    fn status(lines: &[TargetLine]) -> Message {
        let mut bytes = table(lines);
        let mut place = 0;
        for _ in lines {
            let length = u32_at(&bytes, place + 20);
            let next = u32::try_from(place).expect("small") + length;
            bytes[place + 20..place + 24].copy_from_slice(&next.to_ne_bytes());
            place += usize::try_from(length).expect("small");
        }
        let count = u32::try_from(lines.len()).expect("few");
        Message::new(None, 0, count, &bytes, 4096)
    }

    #[test]
    fn table_of_the_kernel_reads_as_what_was_loaded() {
        let lines = vec![
            linear(0, 262_144, "253:3 2048"),
            linear(262_144, 262_144, "253:4 12345678901"),
            linear(524_288, 1, "8:1 0"),
        ];
        assert_eq!(status(&lines).lines(), Ok(lines));
        assert_eq!(status(&[]).lines(), Ok(Vec::new()));
    }

    #[test]
    fn nonsense_from_the_kernel_is_an_error_and_no_endless_loop() {
        let mut message = status(&[linear(0, 1, "8:1 0"), linear(1, 1, "8:1 1")]);
        message.put(HEADER_BYTES + 20, &0u32.to_ne_bytes());
        assert_eq!(message.lines(), Err(Errno::BADMSG));
        let mut message = status(&[linear(0, 1, "8:1 0")]);
        message.put(at::TARGET_COUNT, &u32::MAX.to_ne_bytes());
        assert_eq!(message.lines(), Err(Errno::BADMSG));
        message.put(at::DATA_START, &u32::MAX.to_ne_bytes());
        assert_eq!(message.lines(), Err(Errno::BADMSG));
        assert_eq!(message.names(), Err(Errno::BADMSG));
        let mut many = Message::new(None, 0, 0, &u32::MAX.to_ne_bytes(), 64);
        assert_eq!(many.devices(), Err(Errno::BADMSG));
        many.put(at::DATA_SIZE, &0u32.to_ne_bytes());
        assert_eq!(many.devices(), Ok(Vec::new()));
    }

    #[test]
    fn what_the_kernel_says_of_a_map_is_read() {
        let name = Name::new("vg-lv").expect("a name");
        let mut message = Message::new(
            Some(&name),
            READ_ONLY | ACTIVE_PRESENT | SUSPENDED,
            3,
            &[],
            0,
        );
        message.put(at::UUID, b"LVM-abc\0");
        message.put(at::DEVICE, &rustix::fs::makedev(253, 7).to_ne_bytes());
        message.put(at::OPEN_COUNT, &2i32.to_ne_bytes());
        assert_eq!(
            message.map(),
            Map {
                name: "vg-lv".into(),
                uuid: "LVM-abc".into(),
                device: (253, 7),
                open_count: 2,
                targets: 3,
                read_only: true,
                suspended: true,
                has_table: true,
                has_inactive_table: false,
            }
        );
    }

    #[test]
    fn names_and_devices_are_read() {
        let mut data = Vec::new();
        data.extend(rustix::fs::makedev(253, 1).to_ne_bytes());
        data.extend(24u32.to_ne_bytes());
        data.extend(b"first\0\0\0\0\0\0\0");
        data.extend(rustix::fs::makedev(253, 300).to_ne_bytes());
        data.extend(0u32.to_ne_bytes());
        data.extend(b"second\0");
        let message = Message::new(None, 0, 0, &data, 128);
        assert_eq!(
            message.names(),
            Ok(vec![
                Listed {
                    name: "first".into(),
                    device: (253, 1)
                },
                Listed {
                    name: "second".into(),
                    device: (253, 300)
                },
            ])
        );
        assert_eq!(Message::new(None, 0, 0, &[], 64).names(), Ok(Vec::new()));
        let mut data = 2u64.to_ne_bytes().to_vec();
        data.extend(rustix::fs::makedev(8, 0).to_ne_bytes());
        data.extend(rustix::fs::makedev(253, 2).to_ne_bytes());
        let message = Message::new(None, 0, 0, &data, 64);
        assert_eq!(message.devices(), Ok(vec![(8, 0), (253, 2)]));
    }
}
