//! Builds the Holdfast node image: what `cargo image` and the QEMU tests call.
//!
//! ```text
//!   this machine's apt sources ──▶ apt (isolated, trixie) ──▶ mkosi, mkfs.erofs
//!                                                              │
//!   mkosi.conf ──────────────────────────────────────────▶ Debian tree  (cache, one for both profiles)
//!   image/files/*.list ── which files of it ──┐                │
//!   image/files/root*  ── our own files ──────┼──▶ staged root ◀
//!   cargo, static programs ───────────────────┘       │
//!                                         root.erofs ◀┴▶ initrd.img ──▶ pxe.img, disk.raw, manifest.json
//! ```
//!
//! What it is not: a package manager's idea of a small system. The Debian tree is complete; the root takes from it what
//! lists name and what that needs, see `image/files/keep.list`.
//!
//! # Invariants
//!
//! - Equal commit, package set and compiler give equal bytes, in any folder (`cargo image --check-reproducible`).
//! - No file of an image is set-uid, a package manager or a way to log in; the release image has no shell and no script
//!   (`root::forbid`, checked on every build).
//! - A file is in the root because a list, a link or a program asks for it; a list entry that matches nothing is an error.
//! - A finished image is never a mixture: its `inputs` file is removed first and written last.
#![forbid(unsafe_code)]

mod apt;
mod base;
mod binaries;
mod build;
mod cache;
mod cpio;
mod disk;
mod elf;
mod error;
mod initrd;
mod keep;
mod manifest;
mod modules;
mod progress;
mod reference;
mod root;
mod run;
mod setup;
mod sources;
mod tools;
mod tree;

use std::path::{Path, PathBuf};

pub use error::Error;
pub use reference::{Reference, reference};
pub use setup::setup;

/// Which of the two images to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// What is shipped: no shell, no coreutils, nothing to log in with.
    Release,
    /// The same, with a root shell and the usual tools.
    Debug,
}

impl Profile {
    /// Both profiles.
    pub const ALL: [Self; 2] = [Self::Release, Self::Debug];

    /// The profile's name on the command line and in paths.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Debug => "debug",
        }
    }
}

/// What to build, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which image.
    pub profile: Profile,
    /// The source tree: the workspace's top folder.
    pub source: PathBuf,
    /// Where the artefacts go; they are in a folder of the profile's name below it.
    pub output: PathBuf,
    /// Build the Debian tree anew even if the cache has it. Downloaded packages are used again.
    pub fresh: bool,
}

impl Options {
    /// The usual build of `profile`: from this workspace into its `target/image`.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap_or(Path::new("."))
            .to_owned();
        let output = source.join("target/image");
        Self {
            profile,
            source,
            output,
            fresh: false,
        }
    }
}

/// A finished image. All files are in [`Artifacts::dir`].
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// The folder that holds everything below.
    pub dir: PathBuf,
    /// The kernel, as Debian ships it.
    pub vmlinuz: PathBuf,
    /// The initrd that finds the root on a disk.
    pub initrd: PathBuf,
    /// The initrd with the root inside, for network boot.
    pub pxe_initrd: PathBuf,
    /// The EROFS root alone.
    pub root_erofs: PathBuf,
    /// A GPT disk with an EFI system partition and the root.
    pub disk: PathBuf,
    /// The kernel command line for booting from `disk`.
    pub cmdline: String,
    /// PARTUUID of the root partition in `disk`, lower case with dashes.
    pub root_partuuid: String,
    /// SHA-256 of the root, lower-case hex.
    pub root_sha256: String,
}

/// Builds the image, or returns the one already there when nothing it is made of has changed.
///
/// Prints what it is doing to standard error. Concurrent builds wait for each other.
///
/// # Errors
///
/// Any [`Error`]; the message names the step, the log file and its last lines.
pub fn build(options: &Options) -> Result<Artifacts, Error> {
    build::build(options)
}

/// Builds the image twice, the second time from nothing but downloaded packages, and compares every file.
///
/// # Errors
///
/// [`Error::NotReproducible`] names what differs; otherwise as [`build`](fn@build).
pub fn check_reproducible(options: &Options) -> Result<Artifacts, Error> {
    build::check_reproducible(options)
}

/// Bytes as MiB, for display.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
