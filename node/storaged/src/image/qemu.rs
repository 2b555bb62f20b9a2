//! `qemu-img`: which arguments, and what it answers.
//!
//! The argument lists are pure functions, so that tests can compare them with what
//! other hosts run. Formats are always given: a guest writes the first bytes of a
//! RAW volume, and could make them look like anything.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use control::storage::{Failure, FailureKind};
use disk_format::vdsm::version::DomainVersion;
use disk_format::vdsm::volume::VolumeFormat;

use super::bitmap::Bitmap;
use crate::command::{Output, Run};
use crate::job::{Context, Result};

/// The program.
const PROGRAM: &str = "qemu-img";
/// How long a question about an image may take.
const QUESTION: Duration = Duration::from_secs(600);
/// How long moving its data may take: as long as it takes, a week at most.
const WORK: Duration = Duration::from_secs(7 * 24 * 3600);

/// The word of a format.
#[must_use]
pub fn word(format: VolumeFormat) -> &'static str {
    match format {
        VolumeFormat::Cow => "qcow2",
        VolumeFormat::Raw => "raw",
    }
}

/// Which QCOW2 a domain of this version has.
#[must_use]
pub fn compat(version: DomainVersion) -> &'static str {
    if version >= DomainVersion::V4 {
        "1.1"
    } else {
        "0.10"
    }
}

/// A QCOW2 volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateCow {
    /// `0.10` or `1.1`.
    pub compat: &'static str,
    /// Name of the parent, relative, and its format.
    pub backing: Option<(String, VolumeFormat)>,
    /// What the guest sees, in bytes.
    pub capacity_bytes: u64,
    /// Take the room at once (files).
    pub preallocate: bool,
}

impl CreateCow {
    /// The arguments. With a parent it is not opened (`-u`): it may be active
    /// nowhere, or in use by a guest.
    #[must_use]
    pub fn arguments(&self, path: &Path) -> Vec<OsString> {
        let mut options = format!("compat={}", self.compat);
        if self.preallocate {
            options.push_str(",preallocation=falloc");
        }
        let mut arguments: Vec<OsString> = ["create", "-q", "-f", "qcow2", "-o"]
            .map(OsString::from)
            .to_vec();
        arguments.push(options.into());
        if let Some((name, format)) = &self.backing {
            arguments.extend(["-u", "-b", name, "-F", word(*format)].map(OsString::from));
        }
        arguments.push(path.into());
        arguments.push(self.capacity_bytes.to_string().into());
        arguments
    }
}

/// A copy of what the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one fact about source or target that decides one option"
)]
pub struct Convert {
    /// Format of the source's leaf.
    pub from: VolumeFormat,
    /// Format of the target.
    pub to: VolumeFormat,
    /// Whether the target is a logical volume.
    pub to_block: bool,
    /// Whether the target was made with all its room.
    pub to_preallocated: bool,
    /// Whether a new target reads as zeros everywhere.
    pub to_zeroed: bool,
    /// Relative name of the target's parent.
    pub to_backing: Option<(String, VolumeFormat)>,
    /// `0.10` or `1.1`.
    pub compat: &'static str,
    /// Copy persistent bitmaps.
    pub bitmaps: bool,
    /// Compress (QCOW2).
    pub compress: bool,
    /// MiB a second at most; as fast as it goes when absent.
    pub mib_per_s: Option<u32>,
}

impl Convert {
    /// Whether `qemu-img` makes the target anew because that makes it sparse. One
    /// made with all its room keeps it.
    fn creates(&self) -> bool {
        let has_room = self.to_preallocated && !self.to_block;
        match self.to {
            VolumeFormat::Raw => !self.to_block && !has_room,
            VolumeFormat::Cow => self.to_backing.is_none() && !has_room,
        }
    }

    /// The arguments.
    #[must_use]
    pub fn arguments(&self, source: &Path, target: &Path) -> Vec<OsString> {
        let mut list: Vec<OsString> = ["convert", "-p", "-t", "none", "-T", "none", "-f"]
            .map(OsString::from)
            .to_vec();
        list.extend([word(self.from), "-O", word(self.to)].map(OsString::from));
        if self.creates() {
            if self.to == VolumeFormat::Cow {
                list.extend(["-o".into(), format!("compat={}", self.compat).into()]);
            }
        } else {
            if let Some((name, format)) = &self.to_backing {
                list.extend(["-B", name, "-F", word(*format)].map(OsString::from));
            }
            list.push("-n".into());
            if self.to_zeroed && self.to_backing.is_none() {
                list.push("--target-is-zero".into());
            }
        }
        if self.compress && self.to == VolumeFormat::Cow {
            list.push("-c".into());
        }
        if self.to == VolumeFormat::Raw && self.to_block {
            list.push("-W".into());
        }
        if let Some(rate) = self.mib_per_s {
            list.extend(["-r".into(), format!("{rate}M").into()]);
        }
        if self.bitmaps && self.to == VolumeFormat::Cow && self.compat != "0.10" {
            list.extend(["--bitmaps", "--skip-broken-bitmaps"].map(OsString::from));
        }
        list.extend([source.into(), target.into()]);
        list
    }
}

/// Arguments of a commit of `top` into its parent `base`, both by path.
#[must_use]
pub fn commit_arguments(base: &Path, top: &Path, format: VolumeFormat) -> Vec<OsString> {
    let mut list: Vec<OsString> = ["commit", "-p", "-t", "none", "-b"]
        .map(OsString::from)
        .to_vec();
    list.push(base.into());
    list.extend(["-f", word(format)].map(OsString::from));
    list.push(top.into());
    list
}

/// Bytes an image would need, by `qemu-img measure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// For what is in it now, bitmaps included.
    pub required_bytes: u64,
    /// When everything is written.
    pub full_bytes: u64,
}

/// Makes a QCOW2 volume.
///
/// # Errors
///
/// As [`run`].
pub fn create(context: &Context, what: &CreateCow, path: &Path) -> Result<()> {
    run(context, what.arguments(path), WORK, None).map(drop)
}

/// Copies; tells progress, and ends when cancelled.
///
/// # Errors
///
/// As [`run`].
pub fn convert(context: &Context, what: &Convert, source: &Path, target: &Path) -> Result<()> {
    run(context, what.arguments(source, target), WORK, Some("copy")).map(drop)
}

/// Writes all of `top` into `base`; tells progress, and ends when cancelled.
///
/// # Errors
///
/// As [`run`].
pub fn commit(context: &Context, base: &Path, top: &Path, format: VolumeFormat) -> Result<()> {
    run(
        context,
        commit_arguments(base, top, format),
        WORK,
        Some("merge"),
    )
    .map(drop)
}

/// Changes the name of the parent in a QCOW2 header, without looking at data.
///
/// # Errors
///
/// As [`run`].
pub fn rebase(context: &Context, path: &Path, backing: Option<(&str, VolumeFormat)>) -> Result<()> {
    let mut list: Vec<OsString> = ["rebase", "-u", "-f", "qcow2", "-b"]
        .map(OsString::from)
        .to_vec();
    match backing {
        Some((name, format)) => list.extend([name, "-F", word(format)].map(OsString::from)),
        None => list.push("".into()),
    }
    list.push(path.into());
    run(context, list, QUESTION, None).map(drop)
}

/// Makes a QCOW2 volume larger for the guest.
///
/// # Errors
///
/// As [`run`].
pub fn resize(context: &Context, path: &Path, capacity_bytes: u64) -> Result<()> {
    let list: Vec<OsString> = ["resize", "-q", "-f", "qcow2"]
        .map(OsString::from)
        .into_iter()
        .chain([path.into(), capacity_bytes.to_string().into()])
        .collect();
    run(context, list, WORK, None).map(drop)
}

/// Asks how many bytes the image at `path` would need in format `to`.
///
/// # Errors
///
/// As [`run`]; `Damaged` for an answer without numbers.
pub fn measure(
    context: &Context,
    path: &Path,
    from: VolumeFormat,
    to: VolumeFormat,
) -> Result<Measured> {
    let list: Vec<OsString> = [
        "measure",
        "--output",
        "json",
        "-f",
        word(from),
        "-O",
        word(to),
    ]
    .map(OsString::from)
    .into_iter()
    .chain([path.into()])
    .collect();
    let output = run(context, list, QUESTION, None)?;
    let answer = json(&output)?;
    let number = |key: &str| number(&answer, key);
    Ok(Measured {
        required_bytes: number("required")?.saturating_add(number("bitmaps").unwrap_or(0)),
        full_bytes: number("fully-allocated")?.saturating_add(number("bitmaps").unwrap_or(0)),
    })
}

/// Checks a QCOW2 volume and tells the offset behind which nothing of it lies.
///
/// # Errors
///
/// `Damaged` when it is corrupt (leaked clusters are not); as [`run`].
pub fn end_offset(context: &Context, path: &Path) -> Result<u64> {
    let list: Vec<OsString> = ["check", "--output", "json", "-f", "qcow2"]
        .map(OsString::from)
        .into_iter()
        .chain([path.into()])
        .collect();
    let output = Run::new(PROGRAM)
        .args(&list)
        .as_owner()
        .within(QUESTION)
        .cancellable()
        .run(context)?;
    match output.code {
        Some(0 | 3) => number(&json(&output)?, "image-end-offset"),
        Some(2) => Err(output.failure(FailureKind::Damaged)),
        _ => Err(judged(&output)),
    }
}

/// The bitmaps of the QCOW2 image at `path`.
///
/// # Errors
///
/// As [`run`]; `Damaged` for an answer that makes no sense.
pub fn bitmaps(context: &Context, path: &Path) -> Result<Vec<Bitmap>> {
    // A guest may have it open: only read.
    let list: Vec<OsString> = ["info", "--output", "json", "-U", "-f", "qcow2"]
        .map(OsString::from)
        .into_iter()
        .chain([path.into()])
        .collect();
    let answer = json(&run(context, list, QUESTION, None)?)?;
    let found = answer.pointer("/format-specific/data/bitmaps");
    let found = found.and_then(serde_json::Value::as_array);
    found
        .into_iter()
        .flatten()
        .map(|entry| {
            let flags = entry.get("flags").and_then(serde_json::Value::as_array);
            let has = |flag: &str| flags.is_some_and(|flags| flags.iter().any(|f| f == flag));
            let name = entry.get("name").and_then(serde_json::Value::as_str);
            Ok(Bitmap {
                name: name
                    .ok_or_else(|| {
                        Failure::new(
                            FailureKind::Damaged,
                            format!("{PROGRAM}: answer has a bitmap without a name"),
                        )
                    })?
                    .to_owned(),
                granularity_bytes: number(entry, "granularity")?,
                enabled: has("auto"),
                broken: has("in-use"),
            })
        })
        .collect()
}

fn bitmap(context: &Context, what: Vec<OsString>, path: &Path, name: &str) -> Result<()> {
    let list = [OsString::from("bitmap")]
        .into_iter()
        .chain(what)
        .chain(["-f".into(), "qcow2".into(), path.into(), name.into()])
        .collect();
    run(context, list, QUESTION, None).map(drop)
}

/// Makes a bitmap.
///
/// # Errors
///
/// As [`run`].
pub fn add_bitmap(
    context: &Context,
    path: &Path,
    name: &str,
    granularity_bytes: Option<u64>,
    enabled: bool,
) -> Result<()> {
    let mut what: Vec<OsString> = vec!["--add".into()];
    if let Some(bytes) = granularity_bytes {
        what.extend(["-g".into(), bytes.to_string().into()]);
    }
    if !enabled {
        what.push("--disable".into());
    }
    bitmap(context, what, path, name)
}

/// Removes a bitmap.
///
/// # Errors
///
/// As [`run`].
pub fn remove_bitmap(context: &Context, path: &Path, name: &str) -> Result<()> {
    bitmap(context, vec!["--remove".into()], path, name)
}

/// Adds what the bitmap of the image `from` says to the one of that name in `path`.
///
/// # Errors
///
/// As [`run`].
pub fn merge_bitmap(context: &Context, path: &Path, from: &Path, name: &str) -> Result<()> {
    let what = vec![
        "--merge".into(),
        name.into(),
        "-F".into(),
        "qcow2".into(),
        "-b".into(),
        from.into(),
    ];
    bitmap(context, what, path, name)
}

/// Runs it.
///
/// # Errors
///
/// `NoSpace`, `InUse`, `Io`, `Denied`, `Failed` by what it says; `Cancelled`.
fn run(
    context: &Context,
    arguments: Vec<OsString>,
    within: Duration,
    progress: Option<&str>,
) -> Result<Output> {
    let mut percent = Percent::default();
    let mut watch = |piece: &[u8]| {
        if let (Some(step), Some(done)) = (progress, percent.feed(piece)) {
            context.tell(done, 10_000, step);
        }
    };
    let mut child = Run::new(PROGRAM)
        .args(&arguments)
        .as_owner()
        .within(within)
        .cancellable();
    if progress.is_some() {
        child = child.watch(&mut watch);
    }
    let output = child.run(context)?;
    if output.code == Some(0) {
        return Ok(output);
    }
    Err(judged(&output))
}

fn judged(output: &Output) -> Failure {
    let words = output.words();
    let has = |text: &str| words.contains(text);
    let kind = if has("No space left on device") {
        FailureKind::NoSpace
    } else if has("lock") && has("Is another process using") {
        FailureKind::InUse
    } else if has("Input/output error") {
        FailureKind::Io
    } else if has("Permission denied") {
        FailureKind::Denied
    } else if has("No such file") {
        FailureKind::NotFound
    } else {
        FailureKind::Failed
    };
    output.failure(kind)
}

fn json(output: &Output) -> Result<serde_json::Value> {
    serde_json::from_slice(&output.stdout)
        .map_err(|e| Failure::new(FailureKind::Damaged, format!("{PROGRAM}: answer: {e}")))
}

fn number(answer: &serde_json::Value, key: &str) -> Result<u64> {
    answer
        .get(key)
        .and_then(serde_json::Value::as_u64)
        .ok_or_else(|| {
            Failure::new(
                FailureKind::Damaged,
                format!("{PROGRAM}: answer has no number {key}"),
            )
        })
}

/// Reads `(12.34/100%)` from pieces of output, in hundredths of a percent.
#[derive(Debug, Default)]
struct Percent {
    tail: Vec<u8>,
}

impl Percent {
    fn feed(&mut self, piece: &[u8]) -> Option<u64> {
        self.tail.extend_from_slice(piece);
        let mut last = None;
        while let Some(end) = self.tail.iter().position(|&b| b == b')' || b == b'\r') {
            let rest = self.tail.split_off(end + 1);
            if let Some(value) = parse_percent(&self.tail) {
                last = Some(value);
            }
            self.tail = rest;
        }
        // Never longer than a line of progress.
        if self.tail.len() > 256 {
            self.tail.clear();
        }
        last
    }
}

fn parse_percent(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?;
    let number = text.split_once('(')?.1.split_once("/100%")?.0;
    let (whole, part) = number.split_once('.')?;
    let part = part.get(..2)?;
    let value = whole.trim().parse::<u64>().ok()? * 100 + part.parse::<u64>().ok()?;
    (value <= 10_000).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(arguments: &[OsString]) -> String {
        let words: Vec<_> = arguments.iter().map(|a| a.to_string_lossy()).collect();
        words.join(" ")
    }

    fn plain(to: VolumeFormat, to_block: bool) -> Convert {
        Convert {
            from: VolumeFormat::Cow,
            to,
            to_block,
            to_preallocated: to_block,
            to_zeroed: false,
            to_backing: None,
            compat: "1.1",
            bitmaps: false,
            compress: false,
            mib_per_s: None,
        }
    }

    fn converted(what: &Convert) -> String {
        text(&what.arguments(Path::new("/s"), Path::new("/d")))
            .trim_start_matches("convert -p -t none -T none -f qcow2 -O ")
            .to_owned()
    }

    #[test]
    fn copy_to_raw_keeps_the_target_unless_it_is_a_sparse_file() {
        let raw = VolumeFormat::Raw;
        assert_eq!(converted(&plain(raw, true)), "raw -n -W /s /d");
        assert_eq!(converted(&plain(raw, false)), "raw /s /d");
        let zeroed = Convert {
            to_preallocated: true,
            to_zeroed: true,
            ..plain(raw, false)
        };
        assert_eq!(converted(&zeroed), "raw -n --target-is-zero /s /d");
    }

    #[test]
    fn copy_to_qcow2_keeps_the_target_with_a_parent_or_with_all_its_room() {
        let cow = VolumeFormat::Cow;
        assert_eq!(converted(&plain(cow, true)), "qcow2 -o compat=1.1 /s /d");
        let child = Convert {
            to_backing: Some(("parent".into(), VolumeFormat::Raw)),
            to_zeroed: true,
            bitmaps: true,
            ..plain(cow, false)
        };
        assert_eq!(
            converted(&child),
            "qcow2 -B parent -F raw -n --bitmaps --skip-broken-bitmaps /s /d"
        );
        let full = Convert {
            to_preallocated: true,
            to_zeroed: true,
            ..plain(cow, false)
        };
        assert_eq!(converted(&full), "qcow2 -n --target-is-zero /s /d");
        let old = Convert {
            compat: "0.10",
            bitmaps: true,
            compress: true,
            mib_per_s: Some(20),
            ..plain(cow, true)
        };
        assert_eq!(converted(&old), "qcow2 -o compat=0.10 -c -r 20M /s /d");
    }

    #[test]
    fn child_is_made_without_opening_its_parent() {
        let what = CreateCow {
            compat: "1.1",
            backing: Some(("p".into(), VolumeFormat::Cow)),
            capacity_bytes: 4096,
            preallocate: false,
        };
        assert_eq!(
            text(&what.arguments(Path::new("/v"))),
            "create -q -f qcow2 -o compat=1.1 -u -b p -F qcow2 /v 4096"
        );
    }

    #[test]
    fn progress_is_read_across_pieces() {
        let mut percent = Percent::default();
        assert_eq!(percent.feed(b"    (0.00/1"), None);
        assert_eq!(percent.feed(b"00%)\r    (12.34/100%)\r  (5"), Some(1234));
        assert_eq!(percent.feed(b"0.00/100%)\r"), Some(5000));
        assert_eq!(percent.feed(&[b'x'; 1000]), None);
        assert_eq!(percent.feed(b"(100.00/100%)\r"), Some(10_000));
        assert_eq!(percent.feed(b"(900.00/100%)\r(a.b/100%)\r(/100%)\r"), None);
    }
}
