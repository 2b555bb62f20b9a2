//! Two tools, one image: the same command by each, and what differs then.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use disk_format::{HostId, paxos};
use tempfile::TempDir;

use crate::support::{command, disk_dir, file};

pub(crate) const MIB: usize = 1 << 20;

/// What may differ on disk: bytes the original leaves undefined, or that hold
/// the time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Differs {
    Nothing,
    /// Timestamps and the checksums over them, in a resource's leader and in
    /// the dblock of one host.
    Times {
        resource: usize,
        host: u64,
    },
    /// The padding of the request record in an index's lease.
    Padding {
        index: usize,
        sector: usize,
        area: usize,
    },
    /// What the clock and chance put into a host's record.
    Host {
        sector: usize,
    },
    /// When a resource was cleared.
    Cleared {
        resource: usize,
    },
}

impl Differs {
    fn ranges(self) -> Vec<Range<usize>> {
        let leader = |start: usize| {
            [152..160, 168..172, 192..200].map(|range| start + range.start..start + range.end)
        };
        match self {
            Self::Nothing => Vec::new(),
            Self::Times { resource, host } => {
                let host = HostId::new(host).expect("a host id");
                let sector = usize::try_from(paxos::host_sector(host)).expect("small") * 512;
                let dblock = resource + sector;
                let mut ranges = leader(resource).to_vec();
                ranges.extend([dblock + 32..dblock + 40, dblock + 48..dblock + 52]);
                ranges
            }
            Self::Padding {
                index,
                sector,
                area,
            } => {
                let padding = index + area + sector + 20;
                std::iter::once(padding..padding + 4).collect()
            }
            Self::Host { sector } => {
                vec![sector + 104..sector + 160, sector + 168..sector + 172]
            }
            Self::Cleared { resource } => std::iter::once(resource + 192..resource + 200).collect(),
        }
    }
}

/// Writes a file of which only what is not zero takes room and time.
pub(crate) fn write_sparse(path: &Path, bytes: &[u8]) {
    const PIECE: usize = 1 << 16;
    static ZEROS: [u8; PIECE] = [0; PIECE];
    let file = fs::File::create(path).expect("the image");
    file.set_len(u64::try_from(bytes.len()).expect("a length"))
        .expect("room");
    for (number, piece) in (0..).zip(bytes.chunks(PIECE)) {
        if piece != &ZEROS[..piece.len()] {
            file.write_all_at(piece, number * 65_536).expect("room");
        }
    }
}

/// Two tools and an image.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) image: PathBuf,
    /// A name for what the image is on: itself, or a device over it.
    pub(crate) target: PathBuf,
}

impl Bench {
    pub(crate) fn new(mebibytes: u64) -> Self {
        let dir = disk_dir();
        let image = file(&dir, "image", mebibytes);
        symlink(env!("CARGO_BIN_EXE_leased"), dir.path().join("sanlock")).expect("a link");
        Self {
            dir,
            target: image.clone(),
            image,
        }
    }

    fn words(&self, line: &str) -> Vec<String> {
        let target = self.target.display().to_string();
        let folder = self.dir.path().display().to_string();
        line.split(' ')
            .map(|word| word.replace('@', &target).replace('%', &folder))
            .collect()
    }

    fn run(&self, mut tool: Command, line: &str) -> Output {
        tool.arg("direct")
            .args(self.words(line).iter().filter(|word| !word.is_empty()))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("runs")
    }

    pub(crate) fn theirs(&self, line: &str) -> Output {
        self.run(command("sanlock", "sanlock"), line)
    }

    pub(crate) fn ours(&self, line: &str) -> Output {
        self.run(Command::new(self.dir.path().join("sanlock")), line)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        fs::read(&self.image).expect("the image")
    }

    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        let mut all = self.bytes();
        all[offset..offset + bytes.len()].copy_from_slice(bytes);
        write_sparse(&self.image, &all);
    }

    /// Both tools do the same.
    pub(crate) fn same(&mut self, line: &str, differs: Differs) {
        self.same_but(line, differs, str::to_owned);
    }

    /// Both tools do the same, as far as `normal` leaves of the output.
    pub(crate) fn same_but(
        &mut self,
        line: &str,
        differs: Differs,
        normal: impl Fn(&str) -> String,
    ) {
        let start = self.bytes();
        let theirs = self.theirs(line);
        let mut their_bytes = self.bytes();
        write_sparse(&self.image, &start);
        let ours = self.ours(line);
        let mut our_bytes = self.bytes();
        write_sparse(&self.image, &their_bytes);

        let text = |output: &Output| normal(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(text(&ours), text(&theirs), "output of: {line}");
        assert_eq!(ours.status, theirs.status, "exit status of: {line}");
        for range in differs.ranges() {
            their_bytes[range.clone()].fill(0);
            our_bytes[range].fill(0);
        }
        assert_eq!(our_bytes.len(), their_bytes.len(), "size after: {line}");
        if our_bytes != their_bytes {
            let place = our_bytes.iter().zip(&their_bytes).position(|(a, b)| a != b);
            panic!("first differing byte after: {line}: {place:?}");
        }
    }

    pub(crate) fn all(&mut self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.same(line, Differs::Nothing);
        }
    }

    /// Ours alone; what it printed.
    pub(crate) fn ours_says(&self, line: &str) -> (String, Option<i32>) {
        let output = self.ours(line);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text, output.status.code())
    }
}
