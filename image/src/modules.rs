//! Chooses kernel modules by lists of patterns, with everything they depend on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use crate::Error;
use crate::tree;

/// What `depmod` knows about the modules of one kernel.
#[derive(Debug)]
pub(crate) struct Modules {
    /// Path below the modules folder → paths it needs loaded first, as in `modules.dep`.
    dependencies: BTreeMap<String, Vec<String>>,
    /// Module name → modules that should be there when it is loaded, as in `modules.softdep`.
    soft: BTreeMap<String, Vec<String>>,
    /// Module name → patterns of the devices (and names) it answers to, as in `modules.alias`.
    aliases: BTreeMap<String, BTreeSet<String>>,
}

impl Modules {
    /// Reads the files `depmod` wrote into `dir` (`…/modules/<version>`).
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let file = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).map_err(Error::io("read", &path))
        };
        Ok(Self::parse(
            &file("modules.dep")?,
            &file("modules.softdep")?,
            &file("modules.alias")?,
        ))
    }

    fn parse(dep: &str, softdep: &str, alias: &str) -> Self {
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let dependencies = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, rest)| (path.to_owned(), words(rest)));
        let mut soft: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in softdep
            .lines()
            .filter_map(|line| line.strip_prefix("softdep "))
        {
            let mut names = words(line).into_iter().filter(|word| !word.ends_with(':'));
            if let Some(module) = names.next() {
                soft.entry(name(&module)).or_default().extend(names);
            }
        }
        let mut aliases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in alias.lines().filter_map(|line| line.strip_prefix("alias ")) {
            if let Some((pattern, module)) = line.rsplit_once(' ') {
                aliases
                    .entry(name(module))
                    .or_default()
                    .insert(pattern.to_owned());
            }
        }
        Self {
            dependencies: dependencies.collect(),
            soft,
            aliases,
        }
    }

    /// The modules matching `patterns` (paths below `kernel/` without suffix, or bare module names; a leading `-` takes
    /// out again what matches) and everything they depend on. Paths as in `modules.dep`.
    ///
    /// # Errors
    ///
    /// [`Error::Input`] for a pattern that matches no module.
    pub(crate) fn choose<'a>(
        &self,
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeSet<String>, Error> {
        let mut wanted = BTreeSet::new();
        let mut unmatched = Vec::new();
        for pattern in patterns {
            let (remove, bare) = pattern
                .strip_prefix('-')
                .map_or((false, pattern), |bare| (true, bare));
            let matching: Vec<&String> = self
                .dependencies
                .keys()
                .filter(|path| selects(bare, path))
                .collect();
            if matching.is_empty() {
                unmatched.push(format!(
                    "module pattern {bare}: matches no module of this kernel"
                ));
            }
            for path in matching {
                if remove {
                    wanted.remove(path);
                } else {
                    wanted.insert(path.clone());
                }
            }
        }
        if unmatched.is_empty() {
            Ok(self.closure(wanted))
        } else {
            Err(Error::Input(unmatched.join("\n")))
        }
    }

    fn closure(&self, wanted: BTreeSet<String>) -> BTreeSet<String> {
        let mut queue = VecDeque::from_iter(wanted);
        let mut chosen = BTreeSet::new();
        while let Some(path) = queue.pop_front() {
            if chosen.contains(&path) {
                continue;
            }
            queue.extend(self.dependencies.get(&path).into_iter().flatten().cloned());
            let soft = self.soft.get(&name(&path)).into_iter().flatten();
            queue.extend(soft.flat_map(|wanted| self.answering(wanted)));
            chosen.insert(path);
        }
        chosen
    }

    /// The modules known by a name or an alias that is no pattern ("crypto-crc32c").
    fn answering(&self, wanted: &str) -> Vec<String> {
        self.dependencies
            .keys()
            .filter(|path| {
                let module = name(path);
                module == name(wanted)
                    || self
                        .aliases
                        .get(&module)
                        .is_some_and(|aliases| aliases.contains(wanted))
            })
            .cloned()
            .collect()
    }

    /// `modules.dep` and `modules.alias` for `chosen` alone, in `depmod`'s own format.
    pub(crate) fn subset(&self, chosen: &BTreeSet<String>) -> (String, String) {
        let mut dep = String::new();
        let mut alias = String::new();
        for path in chosen {
            let needs = self
                .dependencies
                .get(path)
                .into_iter()
                .flatten()
                .map(|need| format!(" {need}"));
            dep += &format!("{path}:{}\n", needs.collect::<String>());
            for pattern in self.aliases.get(&name(path)).into_iter().flatten() {
                alias += &format!("alias {pattern} {}\n", name(path));
            }
        }
        (dep, alias)
    }
}

fn selects(pattern: &str, path: &str) -> bool {
    if pattern.contains('/') {
        let path = path.strip_prefix("kernel/").unwrap_or(path);
        let stem = path.split_once(".ko").map_or(path, |(stem, _)| stem);
        tree::matches(pattern, stem)
    } else {
        name(path) == name(pattern)
    }
}

/// A module's name as the kernel writes it: no folder, no suffix, underscores.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko")
        .map_or(file, |(stem, _)| stem)
        .replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules() -> Modules {
        Modules::parse(
            "kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz kernel/lib/crc16.ko.xz\n\
             kernel/fs/jbd2/jbd2.ko.xz:\n\
             kernel/lib/crc16.ko.xz:\n\
             kernel/crypto/crc32c_generic.ko.xz:\n\
             kernel/drivers/usb/storage/usb-storage.ko.xz: kernel/drivers/scsi/scsi_mod.ko.xz\n\
             kernel/drivers/scsi/scsi_mod.ko.xz:\n\
             kernel/drivers/scsi/sd_mod.ko.xz: kernel/drivers/scsi/scsi_mod.ko.xz\n",
            "# comment\nsoftdep ext4 pre: crypto-crc32c\n",
            "alias crypto-crc32c crc32c_generic\nalias usb:v*p* usb_storage\nalias fs-ext4 ext4\n",
        )
    }

    fn chosen(patterns: &[&str]) -> Vec<String> {
        let names = modules().choose(patterns.iter().copied()).unwrap();
        names.iter().map(|path| name(path)).collect()
    }

    #[test]
    fn dependencies_hard_and_soft_come_along() {
        assert_eq!(
            chosen(&["ext4"]),
            ["crc32c_generic", "ext4", "jbd2", "crc16"]
        );
    }

    #[test]
    fn folders_names_and_exceptions() {
        assert_eq!(chosen(&["drivers/scsi/*"]), ["scsi_mod", "sd_mod"]);
        assert_eq!(chosen(&["drivers/scsi/*", "-sd_mod"]), ["scsi_mod"]);
        assert_eq!(chosen(&["usb_storage"]), ["scsi_mod", "usb_storage"]);
        // An exception does not take away what something else needs.
        assert_eq!(
            chosen(&["drivers/scsi/*", "usb-storage", "-drivers/scsi/*"]),
            ["scsi_mod", "usb_storage"]
        );
    }

    #[test]
    fn unknown_module_is_an_error() {
        let error = modules().choose(["floppy"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "module pattern floppy: matches no module of this kernel"
        );
    }

    #[test]
    fn subset_lists_only_what_was_chosen() {
        let (dep, alias) = modules().subset(&modules().choose(["usb-storage"]).unwrap());
        assert_eq!(
            dep,
            "kernel/drivers/scsi/scsi_mod.ko.xz:\n\
             kernel/drivers/usb/storage/usb-storage.ko.xz: kernel/drivers/scsi/scsi_mod.ko.xz\n"
        );
        assert_eq!(alias, "alias usb:v*p* usb_storage\n");
    }
}
