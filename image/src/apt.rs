//! An apt of our own beside the machine's: same mirrors, another release, nothing of the machine touched.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::Error;
use crate::progress::{Step, say};
use crate::{run, sources, tree};

/// The Debian release the image is made of.
pub(crate) const RELEASE: &str = "trixie";

/// Package lists older than this are fetched again before a build.
const LISTS_FRESH: Duration = Duration::from_secs(24 * 3600);

/// A package with its version.
pub(crate) type Package = (String, String);

/// An isolated apt for [`RELEASE`].
///
/// Its downloads and lists are laid out as mkosi lays out its own, so that both share them and see the same packages.
#[derive(Debug)]
pub(crate) struct Apt {
    state: PathBuf,
}

impl Apt {
    /// Prepares the isolated apt in `cache`, fetching package lists when they are missing, old or for other sources.
    pub(crate) fn open(cache: &Path) -> Result<Self, Error> {
        let apt = Self {
            state: cache.join("apt"),
        };
        for dir in [
            "packages/cache/apt/archives/partial",
            "packages/lib/apt/lists/partial",
            "log",
        ] {
            let dir = apt.state.join(dir);
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        }
        let text = sources::rewritten(
            &sources::of_this_machine(&machine_release()?)?,
            RELEASE,
            &[""],
        );
        let etc = apt.sandbox_tree().join("etc/apt");
        let list = etc.join("sources.list.d/mkosi.sources");
        let changed = fs::read_to_string(&list).ok().as_ref() != Some(&text);
        tree::write(&list, &text)?;
        tree::write(&etc.join("apt.conf.d/50machine"), machine_settings()?)?;
        copy_credentials(&etc)?;
        tree::write(&apt.state.join("status"), "")?;
        tree::write(&apt.state.join("apt.conf"), apt.configuration()?)?;
        apt.refresh(changed)?;
        Ok(apt)
    }

    /// The files mkosi's own apt must see.
    pub(crate) fn sandbox_tree(&self) -> PathBuf {
        self.state.join("sandbox")
    }

    /// mkosi's package cache folder.
    pub(crate) fn packages(&self) -> PathBuf {
        self.state.join("packages")
    }

    /// What installing `names` into an empty system would install: every package with its version, sorted.
    pub(crate) fn resolve(&self, names: &[&str]) -> Result<Vec<Package>, Error> {
        let mut command = self.command();
        command
            .args(["--simulate", "--no-install-recommends", "install"])
            .args(names);
        let mut packages: Vec<Package> = run::captured(&mut command)?
            .lines()
            .filter_map(parse_inst)
            .collect();
        packages.sort();
        Ok(packages)
    }

    /// Downloads `packages` and unpacks them into `into`, which is emptied first.
    pub(crate) fn unpack(&self, packages: &[Package], into: &Path) -> Result<(), Error> {
        let work = into.with_extension("debs");
        tree::empty(&work)?;
        tree::empty(into)?;
        let mut command = self.command();
        command.current_dir(&work).arg("download");
        command.args(
            packages
                .iter()
                .map(|(name, version)| format!("{name}={version}")),
        );
        run::captured(&mut command)?;
        for deb in tree::walk(&work)? {
            run::captured(
                Command::new("dpkg-deb")
                    .arg("-x")
                    .arg(work.join(deb))
                    .arg(into),
            )?;
        }
        tree::remove(&work)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", self.state.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }

    fn configuration(&self) -> Result<String, Error> {
        let state = self.state.display();
        Ok(format!(
            "{}Dir::Etc::Parts \"/dev/null\";\nDir::Etc::Main \"/dev/null\";\nDir::Etc::SourceList \"/dev/null\";\n\
             Dir::Etc::SourceParts \"{state}/sandbox/etc/apt/sources.list.d\";\n\
             Dir::Etc::Preferences \"/dev/null\";\nDir::Etc::PreferencesParts \"/dev/null\";\n\
             Dir::State \"{state}/packages/lib/apt\";\nDir::State::Status \"{state}/status\";\n\
             Dir::Cache \"{state}/packages/cache/apt\";\nDir::Log \"{state}/log\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures \"amd64\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nDebug::NoLocking \"true\";\n",
            machine_settings()?
        ))
    }

    fn refresh(&self, changed: bool) -> Result<(), Error> {
        let stamp = self.state.join("refreshed");
        let age = fs::metadata(&stamp)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if !changed && age.is_some_and(|age| age < LISTS_FRESH) {
            return Ok(());
        }
        let step = Step::start(format!("Debian {RELEASE} package lists"));
        let mut command = self.command();
        command.arg("update").arg("--error-on=any");
        match run::logged(
            &step,
            "fetching package lists",
            &mut command,
            &self.state.join("log/update.log"),
        ) {
            Ok(()) => {
                tree::write(&stamp, "")?;
                step.finish("up to date");
                Ok(())
            }
            Err(error) if age.is_some() && !changed => {
                say(&format!(
                    "package lists stay as they were a while ago, for want of new ones: {error}"
                ));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// A line of a simulated installation: `Inst name (version …)`.
fn parse_inst(line: &str) -> Option<Package> {
    let rest = line.strip_prefix("Inst ")?;
    let (name, rest) = rest.split_once(" (")?;
    let version = rest.split_whitespace().next()?;
    Some((name.to_owned(), version.to_owned()))
}

/// The machine's Debian release ("bookworm").
pub(crate) fn machine_release() -> Result<String, Error> {
    let path = Path::new("/etc/os-release");
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    match (field("ID"), field("VERSION_CODENAME")) {
        (Some("debian"), Some(release @ ("bookworm" | "trixie"))) => Ok(release.to_owned()),
        (id, release) => Err(Error::Host(format!(
            "this machine runs {} {}: the image is built on Debian 12 (bookworm) or 13 (trixie)",
            id.unwrap_or("an unnamed system"),
            release.unwrap_or("without a release name")
        ))),
    }
}

/// How the machine's own apt reaches its mirrors: proxies, time-outs, checks switched off for archived mirrors.
fn machine_settings() -> Result<String, Error> {
    let dump = run::captured(Command::new("apt-config").arg("dump"))?;
    let mut text: String = dump
        .lines()
        .filter(|line| line.starts_with("Acquire::"))
        .filter(|line| {
            !line.starts_with("Acquire::IndexTargets") && !line.starts_with("Acquire::Languages")
        })
        .fold(String::new(), |text, line| text + line + "\n");
    for (variable, setting) in [("http_proxy", "http"), ("https_proxy", "https")] {
        if let Ok(proxy) = env::var(variable)
            && !proxy.contains('"')
        {
            text += &format!("Acquire::{setting}::Proxy \"{proxy}\";\n");
        }
    }
    Ok(text)
}

/// Mirrors that want a password have it in apt's `auth.conf` files.
fn copy_credentials(etc: &Path) -> Result<(), Error> {
    let machine = Path::new("/etc/apt");
    if machine.join("auth.conf").is_file() {
        tree::copy(&machine.join("auth.conf"), &etc.join("auth.conf"))?;
    }
    let parts = machine.join("auth.conf.d");
    if parts.is_dir() {
        for name in tree::walk(&parts)? {
            tree::copy(&parts.join(&name), &etc.join("auth.conf.d").join(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_installations_are_understood() {
        assert_eq!(
            parse_inst("Inst libc6 (2.41-12+deb13u4 Debian:13.6/stable [amd64]) []"),
            Some(("libc6".into(), "2.41-12+deb13u4".into()))
        );
        assert_eq!(
            parse_inst("Conf libc6 (2.41-12 Debian:13.6/stable [amd64])"),
            None
        );
    }
}
