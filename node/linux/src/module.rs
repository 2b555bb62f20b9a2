//! Kernel modules, decompressed by the kernel.
//!
//! [`Index`] is pure: it answers which modules a device alias asks for and in
//! which order files have to be loaded. [`Loader`] carries that out and remembers
//! what it loaded. Reads the text files `depmod` writes (`modules.dep`,
//! `modules.alias`, `modules.softdep`, `modules.builtin`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::error::Error;

mod glob;

pub use glob::matches as alias_matches;

/// Most modules one [`Index::load_order`] returns; a chain of real modules is
/// under 30. What lies beyond is left out, so that files that name each other in
/// circles cannot grow the answer.
const ORDER_MAX: usize = 256;

/// Deepest chain of soft dependencies followed.
const DEPTH_MAX: u32 = 16;

/// What `depmod` knows about one kernel's modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// By module name.
    modules: BTreeMap<String, Module>,
    /// Pattern and module name, in file order.
    aliases: Vec<(String, String)>,
    /// Modules wanted before another one, by that one's name; these may be
    /// aliases, and missing ones are no error.
    soft: BTreeMap<String, Vec<String>>,
    built_in: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Module {
    /// Relative to the modules directory.
    path: PathBuf,
    /// Names of what has to be loaded first, in loading order.
    needs: Vec<String>,
}

impl Index {
    /// Parses the contents of the four files; an absent file is an empty string.
    /// Lines that make no sense are left out.
    #[must_use]
    pub fn parse(dep: &str, alias: &str, softdep: &str, builtin: &str) -> Self {
        let mut index = Self::default();
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else {
                continue;
            };
            // The file lists the farthest dependency last.
            let needs = needs.split_whitespace().rev().map(module_name).collect();
            index.modules.insert(
                module_name(path),
                Module {
                    path: PathBuf::from(path),
                    needs,
                },
            );
        }
        for line in alias.lines() {
            let Some((pattern, module)) = line
                .strip_prefix("alias ")
                .and_then(|rest| rest.rsplit_once(' '))
            else {
                continue;
            };
            index
                .aliases
                .push((glob::normalize(pattern), module_name(module)));
        }
        for line in softdep.lines() {
            let Some(rest) = line.strip_prefix("softdep ") else {
                continue;
            };
            let mut words = rest.split_whitespace();
            let Some(module) = words.next() else { continue };
            // "pre: a b post: c"; only what comes before matters for loading.
            let pre = words
                .skip_while(|word| *word != "pre:")
                .skip(1)
                .take_while(|word| !word.ends_with(':'))
                .map(str::to_owned);
            index
                .soft
                .entry(module_name(module))
                .or_default()
                .extend(pre);
        }
        index.built_in = builtin.lines().map(module_name).collect();
        index
    }

    /// Reads the files below `dir`, such as `/lib/modules/6.12.0-amd64`.
    ///
    /// # Errors
    /// `modules.dep` cannot be read; the other files may be absent.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let dep_path = dir.join("modules.dep");
        let dep = fs::read_to_string(&dep_path)
            .map_err(|source| Error::new("read", &dep_path, source))?;
        let optional = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        Ok(Self::parse(
            &dep,
            &optional("modules.alias"),
            &optional("modules.softdep"),
            &optional("modules.builtin"),
        ))
    }

    /// Names of the modules that claim `alias` (a device's `modalias`, `fs-erofs`,
    /// or a plain module name), without repetition, in file order.
    #[must_use]
    pub fn resolve(&self, alias: &str) -> Vec<&str> {
        let name = module_name(alias);
        if let Some((name, _)) = self.modules.get_key_value(&name) {
            return vec![name];
        }
        let alias = glob::normalize(alias);
        let mut found: Vec<&str> = Vec::new();
        for (pattern, module) in &self.aliases {
            if !found.contains(&module.as_str()) && alias_matches(pattern, &alias) {
                found.push(module);
            }
        }
        found
    }

    /// True if there is a file for this module name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.modules.contains_key(&module_name(name))
    }

    /// True if the kernel carries this module inside.
    #[must_use]
    pub fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(&module_name(name))
    }

    /// Names to load for `name`, dependencies (hard and soft) first, itself last.
    /// Empty if there is no such module.
    #[must_use]
    pub fn load_order(&self, name: &str) -> Vec<&str> {
        let mut order = Vec::new();
        self.visit(&module_name(name), &mut order, 0);
        order
    }

    fn visit<'index>(&'index self, name: &str, order: &mut Vec<&'index str>, depth: u32) {
        let Some((name, module)) = self.modules.get_key_value(name) else {
            return;
        };
        if depth > DEPTH_MAX || order.len() >= ORDER_MAX || order.contains(&name.as_str()) {
            return;
        }
        for soft in self.soft.get(name).into_iter().flatten() {
            for wanted in self.resolve(soft) {
                if wanted != name {
                    self.visit(wanted, order, depth + 1);
                }
            }
        }
        for needed in &module.needs {
            if needed != name {
                self.visit(needed, order, depth + 1);
            }
        }
        if !order.contains(&name.as_str()) {
            order.push(name);
        }
    }

    fn path(&self, name: &str) -> Option<&Path> {
        Some(self.modules.get(name)?.path.as_path())
    }
}

/// `kernel/drivers/block/virtio-blk.ko.xz` and `virtio-blk` → `virtio_blk`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.find(".ko").map_or(file, |end| &file[..end]);
    stem.trim().replace('-', "_")
}

/// Module parameters given on the kernel command line as `module.parameter=value`,
/// and modules named by `modprobe.blacklist=`. The kernel itself applies
/// parameters only to what is built in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    parameters: BTreeMap<String, String>,
    blacklist: BTreeSet<String>,
}

impl Settings {
    /// Parses the words of the command line (already split, quotes removed).
    pub fn from_words<'words>(words: impl IntoIterator<Item = &'words str>) -> Self {
        let mut settings = Self::default();
        for word in words {
            let (key, _) = word.split_once('=').unwrap_or((word, ""));
            let Some((module, _)) = key.split_once('.') else {
                continue;
            };
            if key == "modprobe.blacklist" {
                let names = word.split_once('=').map_or("", |(_, names)| names);
                settings.blacklist.extend(names.split(',').map(module_name));
                continue;
            }
            let parameter = &word[module.len() + 1..];
            let text = settings.parameters.entry(module_name(module)).or_default();
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(parameter);
        }
        settings
    }

    /// True if devices must not get this module by themselves.
    #[must_use]
    pub fn is_blacklisted(&self, name: &str) -> bool {
        self.blacklist.contains(&module_name(name))
    }
}

/// Loads modules and remembers which.
#[derive(Debug)]
pub struct Loader {
    dir: PathBuf,
    index: Index,
    settings: Settings,
    /// Loaded, built in, or refused: not tried again.
    settled: BTreeSet<String>,
}

impl Loader {
    /// A loader over the modules below `dir`.
    ///
    /// # Errors
    /// The directory has no `modules.dep`.
    pub fn new(dir: &Path, settings: Settings) -> Result<Self, Error> {
        Ok(Self {
            dir: dir.to_path_buf(),
            index: Index::read(dir)?,
            settings,
            settled: BTreeSet::new(),
        })
    }

    /// A loader over the running kernel's modules in `/lib/modules`.
    ///
    /// # Errors
    /// There is no `modules.dep` for the running kernel.
    pub fn for_running_kernel(settings: Settings) -> Result<Self, Error> {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        Self::new(&Path::new("/lib/modules").join(release), settings)
    }

    /// What `depmod` knows.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Modules a device with this alias asks for and that were not tried yet,
    /// without the blacklisted ones.
    #[must_use]
    pub fn wanted_by(&self, modalias: &str) -> Vec<String> {
        self.index
            .resolve(modalias)
            .into_iter()
            .filter(|name| !self.settled.contains(*name) && !self.settings.is_blacklisted(name))
            .map(str::to_owned)
            .collect()
    }

    /// Loads `name` (a module or an alias) and what it needs. Returns the names
    /// newly loaded, in order; empty if all was there already. A module the
    /// kernel carries inside is success, and so is one loaded by somebody else.
    ///
    /// Blocks while the driver looks for its devices. Each module is tried once:
    /// a second call for a refused one returns an empty list.
    ///
    /// # Errors
    /// No such module, its file cannot be read, or the kernel refuses it or one
    /// that it needs (`ENODEV`: the driver found nothing to drive).
    pub fn load(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let targets: Vec<String> = self
            .index
            .resolve(name)
            .into_iter()
            .map(str::to_owned)
            .collect();
        if targets.is_empty() {
            if self.index.is_built_in(name) {
                return Ok(Vec::new());
            }
            return Err(Error::new("find module", Path::new(name), Errno::NOENT));
        }
        let mut loaded = Vec::new();
        for target in targets {
            let order: Vec<String> = self
                .index
                .load_order(&target)
                .into_iter()
                .map(str::to_owned)
                .collect();
            for module in order {
                if self.settled.insert(module.clone()) && self.load_one(&module)? {
                    loaded.push(module);
                }
            }
        }
        Ok(loaded)
    }

    /// True if this call loaded it, false if it was there.
    fn load_one(&self, name: &str) -> Result<bool, Error> {
        let Some(relative) = self.index.path(name) else {
            return Err(Error::new("find module", Path::new(name), Errno::NOENT));
        };
        let path = self.dir.join(relative);
        let file = File::open(&path).map_err(|source| Error::new("open module", &path, source))?;
        let compressed = path.extension().is_some_and(|extension| extension != "ko");
        let flags = if compressed {
            MODULE_INIT_COMPRESSED_FILE
        } else {
            0
        };
        let parameters = self
            .settings
            .parameters
            .get(name)
            .map_or("", String::as_str);
        let parameters = CString::new(parameters)
            .map_err(|_nul| Error::new("load module", &path, Errno::INVAL))?;
        match rustix::system::finit_module(&file, &parameters, flags) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(Error::new("load module", &path, errno)),
        }
    }
}

/// The kernel unpacks the file (`CONFIG_MODULE_DECOMPRESS`).
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;

#[cfg(test)]
mod tests;
