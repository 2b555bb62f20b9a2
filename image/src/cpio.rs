//! Writes cpio archives in the "newc" format, as the kernel unpacks them into its first file system.
//!
//! The archive depends on nothing but what is put in: owner root, one time stamp, inode numbers counted from one.

use std::io::{self, Read, Write};

/// Kinds of entries, with the permission bits each gets.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// What every part of an archive is padded to, and so where a following archive begins.
const ALIGNMENT: u64 = 4;

/// An archive being written.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    written: u64,
    entries: u32,
    time: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive; every entry gets the time stamp `time` (seconds since 1970).
    pub(crate) fn new(out: W, time: u32) -> Self {
        Self {
            out,
            written: 0,
            entries: 0,
            time,
        }
    }

    /// Adds a folder. Folders come before what is in them.
    pub(crate) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.header(path, DIRECTORY, 0, (0, 0))
    }

    /// Adds an executable file.
    pub(crate) fn program(&mut self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.stream(path, PROGRAM, length(contents)?, contents)
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, contents: &[u8]) -> io::Result<()> {
        self.stream(path, DATA, length(contents)?, contents)
    }

    /// Adds a file of `length` bytes read from `from`.
    pub(crate) fn file_from(&mut self, path: &str, length: u32, from: impl Read) -> io::Result<()> {
        self.stream(path, DATA, length, from)
    }

    /// Adds a character device.
    pub(crate) fn character_device(
        &mut self,
        path: &str,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.header(path, CHARACTER_DEVICE, 0, (major, minor))
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entries = 0;
        self.time = 0;
        self.header("TRAILER!!!", 0, 0, (0, 0))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn stream(&mut self, path: &str, mode: u32, length: u32, from: impl Read) -> io::Result<()> {
        self.header(path, mode, length, (0, 0))?;
        let copied = io::copy(&mut from.take(u64::from(length)), &mut self.out)?;
        if copied != u64::from(length) {
            return Err(io::Error::other(format!(
                "{path}: {copied} bytes, {length} were announced"
            )));
        }
        self.written += copied;
        self.pad()
    }

    fn header(
        &mut self,
        path: &str,
        mode: u32,
        length: u32,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let inode = if path == "TRAILER!!!" {
            0
        } else {
            self.entries += 1;
            self.entries
        };
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let name_length = length_of_name(path)?;
        let fields = [
            inode,
            mode,
            0,
            0,
            links,
            self.time,
            length,
            0,
            0,
            major,
            minor,
            name_length,
            0,
        ];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08X}");
        }
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        self.written +=
            u64::try_from(header.len()).map_err(io::Error::other)? + u64::from(name_length);
        self.pad()
    }

    fn pad(&mut self) -> io::Result<()> {
        while !self.written.is_multiple_of(ALIGNMENT) {
            self.out.write_all(&[0])?;
            self.written += 1;
        }
        Ok(())
    }
}

fn length(contents: &[u8]) -> io::Result<u32> {
    u32::try_from(contents.len()).map_err(io::Error::other)
}

fn length_of_name(path: &str) -> io::Result<u32> {
    u32::try_from(path.len() + 1).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new(), 1_700_000_000);
        archive.directory("dev").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        archive.program("init", b"abc").unwrap();
        archive.file("empty", b"").unwrap();
        archive.file_from("stream", 5, &b"12345"[..]).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn same_input_gives_same_bytes_and_ends_aligned() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % 4, 0);
    }

    #[test]
    fn short_input_is_an_error() {
        let mut archive = Archive::new(Vec::new(), 0);
        let error = archive
            .file_from("x", 5, &b"123"[..])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "x: 3 bytes, 5 were announced");
    }

    #[test]
    fn cpio_itself_reads_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new("cpio")
            .args(["--extract", "--quiet", "--no-absolute-filenames"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("cpio is missing: apt-get install cpio");
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(dir.path().join("init")).unwrap(), b"abc");
        assert_eq!(std::fs::read(dir.path().join("stream")).unwrap(), b"12345");
        assert_eq!(std::fs::read(dir.path().join("empty")).unwrap(), b"");
    }
}
