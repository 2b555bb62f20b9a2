//! The error of calls that act on one named object.

use std::io;
use std::path::{Path, PathBuf};

/// What failed, on which path, and what the kernel said.
///
/// Displays as "`operation` `path`"; the kernel's answer is the source, so that
/// whoever prints the chain says everything once.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct Error {
    /// What was attempted, as a verb: "mount", "load module".
    pub operation: &'static str,
    /// What it was attempted on.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

impl Error {
    /// Wraps an answer of the kernel, whether from `std` or from a raw call.
    pub fn new(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self {
            operation,
            path: path.to_path_buf(),
            source: source.into(),
        }
    }
}

/// Writes an error and its sources on one line: "mount /run: permission denied".
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_says_operation_path_and_cause_once() {
        let error = Error::new("mount", Path::new("/run"), rustix::io::Errno::NOENT);
        let text = chain(&error);
        assert!(text.starts_with("mount /run: "), "{text}");
        assert_eq!(text.matches("mount").count(), 1);
    }
}
