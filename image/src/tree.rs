//! Walks, matches and copies file trees in an order that never varies.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::Error;

/// Every path below `dir`, relative, parents before children, sorted; links are not followed.
pub(crate) fn walk(dir: &Path) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    visit(dir, "", &mut found)?;
    Ok(found)
}

fn visit(dir: &Path, prefix: &str, found: &mut Vec<String>) -> Result<(), Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name().into_string().map_err(|name| {
            Error::Input(format!(
                "file name {name:?} in {}: not UTF-8",
                dir.display()
            ))
        })?;
        names.push((
            name,
            entry.file_type().map_err(Error::io("read", dir))?.is_dir(),
        ));
    }
    names.sort();
    for (name, is_dir) in names {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}/{name}")
        };
        found.push(path.clone());
        if is_dir {
            visit(&dir.join(&name), &path, found)?;
        }
    }
    Ok(())
}

/// Whether `path` matches `pattern`: `*` stands for any text without a slash, `**` for any text.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    if let Some(rest) = pattern.strip_prefix("**") {
        return (0..=path.len()).any(|at| path.is_char_boundary(at) && matches(rest, &path[at..]));
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        let limit = path.find('/').unwrap_or(path.len());
        return (0..=limit).any(|at| path.is_char_boundary(at) && matches(rest, &path[at..]));
    }
    match (pattern.chars().next(), path.chars().next()) {
        (None, None) => true,
        (Some(a), Some(b)) if a == b => matches(&pattern[a.len_utf8()..], &path[b.len_utf8()..]),
        _ => false,
    }
}

/// The lines of a list file: `#` starts a comment, blank lines do not count.
pub(crate) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| {
            line.split_once('#')
                .map_or(line, |(before, _)| before)
                .trim()
        })
        .filter(|line| !line.is_empty())
}

/// Copies a file or link with the modes the image has: 0755 when executable, else 0644, never set-uid.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    let meta = fs::symlink_metadata(from).map_err(Error::io("read", from))?;
    if fs::symlink_metadata(to).is_ok() {
        fs::remove_file(to).map_err(Error::io("replace", to))?;
    }
    if meta.is_symlink() {
        let target = fs::read_link(from).map_err(Error::io("read", from))?;
        return symlink(target, to).map_err(Error::io("link", to));
    }
    fs::copy(from, to).map_err(Error::io("copy", from))?;
    let mode = if meta.permissions().mode() & 0o111 == 0 {
        0o644
    } else {
        0o755
    };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .map_err(Error::io("set the mode of", to))
}

/// Writes a small file with mode 0644, making its folder first.
pub(crate) fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    }
    fs::write(path, contents).map_err(Error::io("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        .map_err(Error::io("set the mode of", path))
}

/// Makes `path` an empty folder.
pub(crate) fn empty(path: &Path) -> Result<(), Error> {
    remove(path)?;
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// Removes a folder with all it holds, if it exists.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_star_stays_in_its_folder_and_two_do_not() {
        assert!(matches("/usr/lib/*.so", "/usr/lib/libc.so"));
        assert!(!matches("/usr/lib/*.so", "/usr/lib/x/libc.so"));
        assert!(matches("/usr/lib/**.so", "/usr/lib/x/libc.so"));
        assert!(matches("drivers/md/**", "drivers/md/bcache/bcache.ko.xz"));
        assert!(!matches("drivers/md/**", "drivers/mdx/a"));
        assert!(matches("a*b*c", "aXbYbc"));
        assert!(!matches("a", "ab"));
        assert!(!matches("ab", "a"));
    }

    #[test]
    fn list_ignores_comments_and_blank_lines() {
        let lines: Vec<_> = list("# head\n\n a # why\nb\n").collect();
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn copies_lose_set_uid_and_keep_execution() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("su"), dir.path().join("out/su"));
        fs::write(&from, "x").unwrap();
        fs::set_permissions(&from, fs::Permissions::from_mode(0o4711)).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(
            fs::metadata(&to).unwrap().permissions().mode() & 0o7777,
            0o755
        );
    }

    #[test]
    fn walk_is_sorted_with_parents_first() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["b/2", "b/1", "a", "c/d/e"] {
            write(&dir.path().join(path), "").unwrap();
        }
        assert_eq!(
            walk(dir.path()).unwrap(),
            ["a", "b", "b/1", "b/2", "c", "c/d", "c/d/e"]
        );
    }
}
