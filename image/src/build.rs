//! The build itself: from the Debian tree and our programs to the finished files.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::apt::{self, Apt};
use crate::base::{self, Base};
use crate::binaries::{self, Binaries, Identity};
use crate::cache::{self, Key, Lock};
use crate::manifest::{self, Manifest, Sizes};
use crate::progress::{Step, say};
use crate::tools::Tools;
use crate::{Artifacts, Error, Options, disk, initrd, root, tree};

/// Kernel command line of a node that boots from its disk, all but where the root is.
const CMDLINE: &str = "panic=10 console=ttyS0";

/// Names of the files in a finished image's folder.
const ARTEFACTS: [&str; 8] = [
    "vmlinuz",
    "initrd.img",
    "root.erofs",
    "disk.raw",
    "pxe.img",
    "cmdline",
    "manifest.json",
    "sizes.json",
];

/// Holds the key of the inputs a finished image was made from; written last.
const INPUTS: &str = "inputs";

/// Everything an image is made from, ready to use.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) base: Base,
    pub(crate) tools: Tools,
    pub(crate) binaries: Binaries,
    pub(crate) identity: Identity,
}

impl Inputs {
    /// Fetches and builds what is missing. The cache must be locked.
    pub(crate) fn prepare(options: &Options, cache: &Path) -> Result<Self, Error> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Host(
                "user: mkosi is run as root here; run the build as root".into(),
            ));
        }
        let logs = cache.join("log");
        let apt = Apt::open(cache)?;
        let tools = Tools::open(cache, &apt)?;
        let fresh = options.fresh.then(|| options.output.join("fresh-base"));
        let base = base::build(cache, &apt, &tools, &options.source, fresh.as_deref())?;
        let programs = if options.fresh {
            options.output.join("fresh-programs")
        } else {
            options.source.join("target/image-build")
        };
        if options.fresh {
            tree::empty(&programs)?;
        }
        let binaries = binaries::build(&options.source, &programs, &logs.join("cargo.log"))?;
        Ok(Self {
            base,
            tools,
            binaries,
            identity: Identity::of(&options.source),
        })
    }

    /// A key that changes when anything the image is made from does.
    fn key(&self, options: &Options) -> Result<String, Error> {
        let mut key = Key::default();
        key.add("base", self.base.key.as_bytes());
        key.add("release", self.identity.release.as_bytes());
        key.add("time", &self.identity.time.to_le_bytes());
        key.add("profile", options.profile.name().as_bytes());
        key.add(
            "programs",
            cache::sha256_file(&self.binaries.initrd())?.as_bytes(),
        );
        for (path, name) in self.binaries.in_root() {
            key.add(name, cache::sha256_file(&path)?.as_bytes());
        }
        // The lists, our files, and the builder itself.
        key.add_tree(&options.source.join("image"))?;
        Ok(key.finish())
    }
}

/// See [`crate::build`].
pub(crate) fn build(options: &Options) -> Result<Artifacts, Error> {
    let cache = cache::directory()?;
    let _cache_lock = Lock::take(&cache)?;
    let dir = options.output.join(options.profile.name());
    let _output_lock = Lock::take(&options.output)?;
    let inputs = Inputs::prepare(options, &cache)?;
    let key = inputs.key(options)?;
    let complete = ARTEFACTS.iter().all(|name| dir.join(name).is_file());
    if complete && fs::read_to_string(dir.join(INPUTS)).ok().as_ref() == Some(&key) {
        say(&format!(
            "{} image in {} is up to date",
            options.profile.name(),
            dir.display()
        ));
    } else {
        assemble(options, &inputs, &dir, &cache.join("log"))?;
        tree::write(&dir.join(INPUTS), key)?;
    }
    artifacts(&dir)
}

/// Makes all files of the image in `dir`.
fn assemble(options: &Options, inputs: &Inputs, dir: &Path, logs: &Path) -> Result<(), Error> {
    let profile = options.profile;
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    // An image that is half made must not pass for a finished one.
    for name in ARTEFACTS.iter().chain([&INPUTS]) {
        let path = dir.join(name);
        if path.exists() {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    let file = |name: &str| dir.join(name);
    let (root_file, initrd_file) = (file("root.erofs"), file("initrd.img"));
    let kernel = inputs.base.kernel_version()?;

    let stage = options.output.join("work").join(profile.name());
    let staged = root::stage(
        &options.source,
        &inputs.base,
        &inputs.binaries,
        &inputs.identity,
        profile,
        &stage,
    )?;
    root::pack(
        &inputs.tools,
        &staged.dir,
        &inputs.identity,
        &root_file,
        &logs.join("mkfs.erofs.log"),
    )?;

    let step = Step::start("Kernel, initrd, network-boot initrd, disk");
    tree::copy(
        &inputs
            .base
            .root
            .join("usr/lib/modules")
            .join(&kernel)
            .join("vmlinuz"),
        &file("vmlinuz"),
    )?;
    initrd::write(
        &options.source,
        &staged.dir,
        &kernel,
        &inputs.binaries,
        &inputs.identity,
        &initrd_file,
    )?;
    initrd::write_pxe(&initrd_file, &root_file, &inputs.identity, &file("pxe.img"))?;
    let root_sha256 = cache::sha256_file(&root_file)?;
    let root_partuuid = disk::uuid_from_sha256(&root_sha256);
    disk::write(&file("disk.raw"), &root_file, &root_partuuid)?;
    tree::write(
        &file("cmdline"),
        format!("holdfast.root=PARTUUID={root_partuuid} {CMDLINE}\n"),
    )?;
    step.finish("written");

    let (packages, files) = manifest::owners(&inputs.base, &staged.from_debian)?;
    let manifest = Manifest {
        release: inputs.identity.release.clone(),
        profile: profile.name(),
        debian: apt::RELEASE,
        kernel,
        root_sha256,
        root_partuuid,
        packages,
        files,
        tools: inputs.tools.versions.iter().cloned().collect(),
    };
    write_json(&file("manifest.json"), &manifest)?;
    let size = |name: &str| {
        fs::metadata(file(name))
            .map(|meta| meta.len())
            .map_err(Error::io("read", &file(name)))
    };
    let sizes = Sizes {
        root: size("root.erofs")?,
        kernel: size("vmlinuz")?,
        initrd: size("initrd.img")?,
        pxe: size("pxe.img")?,
        disk: size("disk.raw")?,
    };
    write_json(&file("sizes.json"), &sizes)?;
    for line in sizes.lines() {
        say(&format!("{} {line}", profile.name()));
    }
    Ok(())
}

/// Describes the finished image in `dir`.
fn artifacts(dir: &Path) -> Result<Artifacts, Error> {
    let file = |name: &str| -> PathBuf { dir.join(name) };
    let text = |name: &str| fs::read_to_string(file(name)).map_err(Error::io("read", &file(name)));
    let manifest: serde_json::Value = serde_json::from_str(&text("manifest.json")?)
        .map_err(|error| Error::Input(format!("{}: {error}", file("manifest.json").display())))?;
    let field = |name: &str| {
        manifest[name].as_str().map(str::to_owned).ok_or_else(|| {
            Error::Input(format!(
                "{}: no field {name}",
                file("manifest.json").display()
            ))
        })
    };
    Ok(Artifacts {
        vmlinuz: file("vmlinuz"),
        initrd: file("initrd.img"),
        pxe_initrd: file("pxe.img"),
        root_erofs: file("root.erofs"),
        disk: file("disk.raw"),
        cmdline: text("cmdline")?.trim().to_owned(),
        root_partuuid: field("root_partuuid")?,
        root_sha256: field("root_sha256")?,
        dir: dir.to_owned(),
    })
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), Error> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Input(format!("{}: {error}", path.display())))?;
    bytes.push(b'\n');
    let mut file = fs::File::create(path).map_err(Error::io("create", path))?;
    file.write_all(&bytes).map_err(Error::io("write", path))
}

/// Builds the image a second time from nothing but downloaded packages, and compares the two.
///
/// # Errors
///
/// [`Error::NotReproducible`] naming the files of the image that differ and the first paths that differ in the root.
pub(crate) fn check_reproducible(options: &Options) -> Result<Artifacts, Error> {
    let first = build(options)?;
    let again = Options {
        output: options.output.join("again"),
        fresh: true,
        ..options.clone()
    };
    tree::remove(&again.output)?;
    let second = build(&again)?;

    let mut differences = Vec::new();
    for name in ARTEFACTS {
        if cache::sha256_file(&first.dir.join(name))? != cache::sha256_file(&second.dir.join(name))?
        {
            differences.push(format!("{name} differs"));
        }
    }
    if differences.is_empty() {
        tree::remove(&again.output)?;
        say(&format!(
            "reproducible: two builds have the root {}",
            first.root_sha256
        ));
        return Ok(first);
    }
    let work = |options: &Options| options.output.join("work").join(options.profile.name());
    differences.extend(differing_paths(&work(options), &work(&again))?);
    Err(Error::NotReproducible(differences.join("\n")))
}

/// Paths that differ between two staged roots, at most this many.
fn differing_paths(a: &Path, b: &Path) -> Result<Vec<String>, Error> {
    const SHOWN: usize = 20;
    let describe = |dir: &Path, path: &str| -> Option<String> {
        let full = dir.join(path);
        let meta = fs::symlink_metadata(&full).ok()?;
        if meta.is_symlink() {
            return Some(format!("link to {}", fs::read_link(&full).ok()?.display()));
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
        let contents = if meta.is_file() {
            cache::sha256_file(&full).ok()?
        } else {
            "folder".into()
        };
        Some(format!("{mode:o} {contents}"))
    };
    let mut paths = tree::walk(a)?;
    paths.extend(tree::walk(b)?);
    paths.sort();
    paths.dedup();
    Ok(paths
        .into_iter()
        .filter_map(|path| {
            let (a, b) = (describe(a, &path), describe(b, &path));
            (a != b).then(|| {
                let word = |side: Option<String>| side.unwrap_or_else(|| "missing".into());
                format!("/{path}: {} and {}", word(a), word(b))
            })
        })
        .take(SHOWN)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_paths_are_named_with_the_difference() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for dir in [&a, &b] {
            tree::write(&dir.path().join("same"), "x").unwrap();
            tree::write(
                &dir.path().join("changed"),
                dir.path().to_string_lossy().as_bytes(),
            )
            .unwrap();
        }
        tree::write(&a.path().join("only-here"), "x").unwrap();
        let found = differing_paths(a.path(), b.path()).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("/changed: 100644 "), "{found:?}");
        assert!(
            found[1].starts_with("/only-here: 100644 ") && found[1].ends_with(" and missing"),
            "{found:?}"
        );
    }
}
