//! Builds our own programs for the image: static, and the same wherever the source tree is.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::progress::Step;
use crate::{Error, run};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The workspace's profile for what is in the image.
const PROFILE: &str = "node";

/// Our programs: cargo package (and binary) name, and where it goes in the root. The initrd's goes nowhere there.
const PROGRAMS: [(&str, Option<&str>); 5] = [
    ("initrd", None),
    ("supervisor", Some("usr/lib/holdfast/supervisor")),
    ("leased", Some("usr/lib/holdfast/leased")),
    ("storaged", Some("usr/lib/holdfast/storaged")),
    ("nodectl", Some("usr/bin/nodectl")),
];

/// Our programs, built.
#[derive(Debug)]
pub(crate) struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// The program that is `/init` in the initrd.
    pub(crate) fn initrd(&self) -> PathBuf {
        self.dir.join("initrd")
    }

    /// The programs in the root: where each was built, and its path in the root.
    pub(crate) fn in_root(&self) -> impl Iterator<Item = (PathBuf, &'static str)> {
        PROGRAMS
            .iter()
            .filter_map(|(name, path)| Some((self.dir.join(name), (*path)?)))
    }
}

/// Builds every program with cargo into `target_dir`.
pub(crate) fn build(source: &Path, target_dir: &Path, log: &Path) -> Result<Binaries, Error> {
    let step = Step::start("Holdfast's own programs (cargo)");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(source).args([
        "build",
        "--profile",
        PROFILE,
        "--locked",
        "--target",
        TARGET,
    ]);
    command.arg("--target-dir").arg(target_dir);
    for (name, _) in PROGRAMS {
        command.args(["--package", name, "--bin", name]);
    }
    command.env("RUSTFLAGS", flags(source)?);
    command
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    run::logged(&step, "building Holdfast's own programs", &mut command, log)?;
    step.finish("built");
    Ok(Binaries {
        dir: target_dir.join(TARGET).join(PROFILE),
    })
}

/// Static linking, so that the root's C library does not matter; and no path of this machine in the result.
fn flags(source: &Path) -> Result<String, Error> {
    let source = fs::canonicalize(source).map_err(Error::io("resolve", source))?;
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")))
        .ok_or_else(|| Error::Host("cargo's folder: neither CARGO_HOME nor HOME is set".into()))?;
    Ok(format!(
        "-C target-feature=+crt-static --remap-path-prefix={}=/holdfast --remap-path-prefix={}=/cargo",
        source.display(),
        cargo_home.display()
    ))
}

/// What the source tree is: version, commit and the commit's time.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// "VERSION+commit", with ".dirty" when files differ from the commit; without "+…" outside a git clone.
    pub(crate) release: String,
    /// Seconds since 1970: the commit's time, or `SOURCE_DATE_EPOCH`, or 1980 when neither is known.
    pub(crate) time: u32,
}

impl Identity {
    /// Asks git about `source`.
    pub(crate) fn of(source: &Path) -> Self {
        /// 1980-01-01, the earliest time every file system can store.
        const EARLIEST: u32 = 315_532_800;
        let git = |arguments: &[&str]| {
            run::captured(Command::new("git").arg("-C").arg(source).args(arguments))
                .ok()
                .map(|text| text.trim().to_owned())
        };
        let version = env!("CARGO_PKG_VERSION");
        let time =
            git(&["log", "-1", "--format=%ct"]).or_else(|| env::var("SOURCE_DATE_EPOCH").ok());
        let time = time.and_then(|time| time.parse().ok()).unwrap_or(EARLIEST);
        let release = match git(&["rev-parse", "--short=12", "HEAD"]) {
            Some(commit) => {
                let clean = git(&["status", "--porcelain", "--untracked-files=no"])
                    .is_some_and(|text| text.is_empty());
                format!("{version}+{commit}{}", if clean { "" } else { ".dirty" })
            }
            None => version.to_owned(),
        };
        Self { release, time }
    }
}
