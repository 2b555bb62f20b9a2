//! Reads from an ELF file which libraries it needs, and nothing else.

/// What a program or library needs to be loaded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Path of the program loader.
    pub(crate) interpreter: Option<String>,
    /// Names of libraries, as the loader searches for them.
    pub(crate) libraries: Vec<String>,
    /// Folders to search first, in order; `$ORIGIN` stands for the file's own folder.
    pub(crate) search: Vec<String>,
}

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const PT_INTERP: u64 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Parses a 64-bit little-endian ELF file; `None` when `bytes` are not one, or are damaged.
pub(crate) fn needs(bytes: &[u8]) -> Option<Needs> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (
        number(bytes, 32, 8)?,
        number(bytes, 54, 2)?,
        number(bytes, 56, 2)?,
    );
    let mut needs = Needs::default();
    let mut segments = Vec::new();
    let mut dynamic = None;
    for index in 0..count {
        let at = table + index * size;
        let (kind, offset) = (number(bytes, at, 4)?, number(bytes, at + 8, 8)?);
        let (address, length) = (number(bytes, at + 16, 8)?, number(bytes, at + 32, 8)?);
        match kind {
            PT_LOAD => segments.push((address, offset, length)),
            PT_DYNAMIC => dynamic = Some((offset, length)),
            PT_INTERP => needs.interpreter = Some(text(bytes, offset)?),
            _ => {}
        }
    }
    let Some((offset, length)) = dynamic else {
        return Some(needs);
    };
    let entries: Vec<(u64, u64)> = (0..length / 16)
        .map_while(|index| {
            Some((
                number(bytes, offset + index * 16, 8)?,
                number(bytes, offset + index * 16 + 8, 8)?,
            ))
        })
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let address = entries.iter().find(|(tag, _)| *tag == DT_STRTAB)?.1;
    let strings = segments
        .iter()
        .find(|(start, _, length)| (*start..start + length).contains(&address))
        .map(|(start, offset, _)| address - start + offset)?;
    for (tag, value) in entries {
        match tag {
            DT_NEEDED => needs.libraries.push(text(bytes, strings + value)?),
            DT_RPATH | DT_RUNPATH => {
                needs
                    .search
                    .extend(text(bytes, strings + value)?.split(':').map(str::to_owned));
            }
            _ => {}
        }
    }
    Some(needs)
}

fn number(bytes: &[u8], at: u64, length: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let mut value = [0; 8];
    value[..length].copy_from_slice(bytes.get(at..at.checked_add(length)?)?);
    Some(u64::from_le_bytes(value))
}

fn text(bytes: &[u8], at: u64) -> Option<String> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_the_c_library_and_a_loader() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&own).unwrap();
        assert!(
            needs.libraries.contains(&"libc.so.6".to_owned()),
            "{needs:?}"
        );
        assert!(needs.interpreter.unwrap().contains("ld-linux"));
    }

    #[test]
    fn scripts_and_stumps_are_not_elf() {
        assert_eq!(needs(b"#!/bin/sh\n"), None);
        assert_eq!(needs(b"\x7fELF\x02\x01"), None);
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [16, 63, 64, 100, 400] {
            assert_eq!(needs(&own[..length]), None, "first {length} bytes");
        }
    }
}
