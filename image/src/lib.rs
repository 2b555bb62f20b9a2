//! Builds the Holdfast node image.
#![forbid(unsafe_code)]

mod error;

use std::path::{Path, PathBuf};

pub use error::Error;

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
        Self { profile, source, output, fresh: false }
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
    Err(Error::Host(format!("profile {}: the builder is not written yet", options.profile.name())))
}
