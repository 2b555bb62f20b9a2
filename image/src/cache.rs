//! The builder's cache: where it is, and who may write to it.
//!
//! Every entry is named by a hash of what it was made from, or can be thrown away at any time.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::Error;
use crate::progress::say;

/// How long a build waits for another one; a build from an empty cache takes minutes, not an hour.
const LOCK_WAIT: Duration = Duration::from_secs(3600);

/// The cache folder: `$HOLDFAST_CACHE`, else `holdfast` in the user's cache folder.
pub(crate) fn directory() -> Result<PathBuf, Error> {
    let dir = if let Some(dir) = env::var_os("HOLDFAST_CACHE") {
        PathBuf::from(dir)
    } else if let Some(dir) = env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(dir).join("holdfast")
    } else if let Some(home) = env::home_dir() {
        home.join(".cache/holdfast")
    } else {
        return Err(Error::Host(
            "cache folder: neither HOLDFAST_CACHE nor HOME is set".into(),
        ));
    };
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    fs::canonicalize(&dir).map_err(Error::io("resolve", &dir))
}

/// Held while a build writes to the folder it was taken in.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `dir`, waiting for other builds.
    pub(crate) fn take(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let path = dir.join("lock");
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: file }),
            Err(fs::TryLockError::WouldBlock) => {
                say(&format!("waiting for another build ({})", path.display()))
            }
            Err(fs::TryLockError::Error(source)) => {
                return Err(Error::Io {
                    action: "lock",
                    path,
                    source,
                });
            }
        }
        let (sender, receiver) = mpsc::channel::<io::Result<File>>();
        // The wait itself has no deadline, so it happens in a thread that may be left behind.
        thread::spawn(move || drop(sender.send(file.lock().map(|()| file))));
        match receiver.recv_timeout(LOCK_WAIT) {
            Ok(Ok(file)) => Ok(Self { _file: file }),
            Ok(Err(source)) => Err(Error::Io {
                action: "lock",
                path,
                source,
            }),
            Err(_) => Err(Error::Locked {
                path,
                waited: LOCK_WAIT,
            }),
        }
    }
}

/// Collects the inputs of something cached; equal inputs give equal keys.
#[derive(Debug, Default)]
pub(crate) struct Key(Sha256);

impl Key {
    /// Adds a named input. Names and lengths go in too, so inputs cannot run into each other.
    pub(crate) fn add(&mut self, name: &str, bytes: &[u8]) {
        self.0.update(format!("{name} {}\n", bytes.len()));
        self.0.update(bytes);
    }

    /// Adds every file below `dir` with its path.
    pub(crate) fn add_tree(&mut self, dir: &Path) -> Result<(), Error> {
        for path in crate::tree::walk(dir)? {
            let full = dir.join(&path);
            let meta = fs::symlink_metadata(&full).map_err(Error::io("read", &full))?;
            if meta.is_symlink() {
                let target = fs::read_link(&full).map_err(Error::io("read", &full))?;
                self.add(&path, target.as_os_str().as_encoded_bytes());
            } else if meta.is_file() {
                self.add(&path, &fs::read(&full).map_err(Error::io("read", &full))?);
            }
        }
        Ok(())
    }

    /// The key: lower-case hex.
    pub(crate) fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// SHA-256 of a file, lower-case hex.
pub(crate) fn sha256_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher).map_err(Error::io("read", path))?;
    Ok(hex(&hasher.finalize()))
}

/// Lower-case hex of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_cannot_run_into_each_other() {
        let key = |parts: &[(&str, &str)]| {
            let mut key = Key::default();
            for (name, bytes) in parts {
                key.add(name, bytes.as_bytes());
            }
            key.finish()
        };
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
        assert_ne!(key(&[("a", "bc")]), key(&[("a", "b"), ("c", "")]));
        assert_ne!(key(&[("a", "b 1\nc")]), key(&[("a", "b"), ("c", "")]));
    }
}
