//! Writes the initrd: our `/init`, the modules that can lead to a root, and the index it reads.
//!
//! The archive is not compressed. Most of it is modules that are compressed already, and unpacking a compressed archive
//! costs an emulated node more than reading a few megabytes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::Error;
use crate::binaries::{Binaries, Identity};
use crate::cpio::Archive;
use crate::modules::Modules;
use crate::tree;

/// Folders of the initrd besides those its modules are in; `/init` mounts over most.
const FOLDERS: [&str; 8] = [
    "dev",
    "etc",
    "etc/holdfast",
    "lib",
    "lib/modules",
    "proc",
    "run",
    "sys",
];

/// Writes the initrd to `out`, taking modules from the staged root.
pub(crate) fn write(
    source: &Path,
    root: &Path,
    kernel: &str,
    binaries: &Binaries,
    identity: &Identity,
    out: &Path,
) -> Result<(), Error> {
    let folder = root.join("usr/lib/modules").join(kernel);
    let always_path = source.join("image/files/initrd-always.list");
    let always = fs::read_to_string(&always_path).map_err(Error::io("read", &always_path))?;
    let always: Vec<&str> = tree::list(&always).collect();
    let list_path = source.join("image/files/initrd-modules.list");
    let list = fs::read_to_string(&list_path).map_err(Error::io("read", &list_path))?;

    let modules = Modules::read(&folder)?;
    let chosen = modules.choose(always.iter().copied().chain(tree::list(&list)))?;
    let (dep, alias) = modules.subset(&chosen);
    let init = binaries.initrd();
    let init = fs::read(&init).map_err(Error::io("read", &init))?;

    let file = File::create(out).map_err(Error::io("create", out))?;
    let failed = Error::io("write", out);
    (|| {
        let mut archive = Archive::new(BufWriter::new(file), identity.time);
        let below = format!("lib/modules/{kernel}");
        let mut folders: BTreeSet<String> = FOLDERS.map(str::to_owned).into();
        folders.insert(below.clone());
        for path in &chosen {
            let mut at = below.clone();
            for name in path.split('/').take(path.split('/').count() - 1) {
                at = format!("{at}/{name}");
                folders.insert(at.clone());
            }
        }
        for path in &folders {
            archive.directory(path)?;
        }
        // The kernel opens it for /init before anything is mounted.
        archive.character_device("dev/console", 5, 1)?;
        archive.program("init", &init)?;
        archive.file(
            "etc/holdfast/modules",
            (always.join("\n") + "\n").as_bytes(),
        )?;
        archive.file(
            "etc/holdfast/release",
            format!("{}\n", identity.release).as_bytes(),
        )?;
        archive.file(&format!("{below}/modules.dep"), dep.as_bytes())?;
        archive.file(&format!("{below}/modules.alias"), alias.as_bytes())?;
        for path in &chosen {
            archive.file(&format!("{below}/{path}"), &fs::read(folder.join(path))?)?;
        }
        archive.finish()?;
        Ok(())
    })()
    .map_err(failed)
}

/// Writes the network-boot initrd to `out`: the initrd, followed by an archive that holds the root.
pub(crate) fn write_pxe(
    initrd: &Path,
    root: &Path,
    identity: &Identity,
    out: &Path,
) -> Result<(), Error> {
    let failed = Error::io("write", out);
    (|| -> io::Result<()> {
        let mut file = BufWriter::new(File::create(out)?);
        io::copy(&mut File::open(initrd)?, &mut file)?;
        let mut archive = Archive::new(file, identity.time);
        let length = u32::try_from(fs::metadata(root)?.len()).map_err(io::Error::other)?;
        archive.file_from("root.erofs", length, File::open(root)?)?;
        archive.finish()?.flush()
    })()
    .map_err(failed)
}
