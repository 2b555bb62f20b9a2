//! Everything that can go wrong while an image is built.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why the image, or the machine it is built on, could not be made ready.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted, as a verb ("read", "create").
        action: &'static str,
        /// The file it was attempted on.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("program {program}: cannot be started")]
    Spawn {
        /// The program's name or path.
        program: String,
        /// What the system answered.
        source: io::Error,
    },
    /// A program ended without success.
    #[error("{what}: {program} ended with {status}; full log in {}\n{tail}", log.display())]
    Command {
        /// The step it was part of.
        what: String,
        /// The program's name or path.
        program: String,
        /// Its exit status in words.
        status: String,
        /// Where everything it printed is kept.
        log: PathBuf,
        /// The last lines of that log.
        tail: String,
    },
    /// Debian packages are missing and may not be installed from here.
    #[error("packages missing on this machine: {}\n\n    {command}\n", missing.join(" "))]
    MissingPackages {
        /// The packages, as `apt-get` knows them.
        missing: Vec<String>,
        /// The line that installs them.
        command: String,
    },
    /// The machine is not one the image can be built on.
    #[error("{0}")]
    Host(String),
    /// An input of the build (a list, a module, a library) is not as expected.
    #[error("{0}")]
    Input(String),
    /// Another build held the lock for too long.
    #[error("lock {}: held by another build for {} s", path.display(), waited.as_secs())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// Two builds of the same inputs gave different results.
    #[error("not reproducible:\n{0}")]
    NotReproducible(String),
}

impl Error {
    /// Makes a function for `map_err` that adds what was done to which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
