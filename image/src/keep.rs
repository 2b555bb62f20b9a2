//! Chooses which files of the Debian tree go into the root.
//!
//! A file is chosen because a list names it, because a chosen link points at it, or because a chosen program or
//! library needs it. Everything else stays out; so nothing gets into the image by accident, and a shell only on purpose.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::Error;
use crate::{elf, tree};

/// Where the loader looks for libraries by itself, in this order.
const LIBRARY_FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "usr/lib"];

/// Chooses from the tree at `root` by `patterns`; returns paths relative to `root`.
///
/// # Errors
///
/// [`Error::Input`] when a pattern matches nothing, a link leads nowhere or a library is missing.
pub(crate) fn choose(root: &Path, patterns: &[&str]) -> Result<BTreeSet<String>, Error> {
    let all = tree::walk(root)?;
    let mut wanted: VecDeque<(String, String)> = VecDeque::new();
    let mut unmatched = Vec::new();
    for pattern in patterns {
        let pattern = pattern.trim_start_matches('/');
        let before = wanted.len();
        for path in all.iter().filter(|path| tree::matches(pattern, path)) {
            if !root.join(path).is_dir() || root.join(path).is_symlink() {
                wanted.push_back((path.clone(), format!("pattern {pattern}")));
            }
        }
        if wanted.len() == before {
            unmatched.push(format!(
                "pattern /{pattern}: matches no file of the Debian tree"
            ));
        }
    }
    if !unmatched.is_empty() {
        return Err(Error::Input(unmatched.join("\n")));
    }

    let mut chosen = BTreeMap::new();
    while let Some((path, reason)) = wanted.pop_front() {
        if chosen.contains_key(&path) {
            continue;
        }
        let full = root.join(&path);
        if full.is_symlink() {
            let target = fs::read_link(&full).map_err(Error::io("read", &full))?;
            let target = resolve(root, &path, &target).ok_or_else(|| {
                Error::Input(format!(
                    "link /{path}: leads nowhere, to {}",
                    target.display()
                ))
            })?;
            if root.join(&target).is_file() || root.join(&target).is_symlink() {
                wanted.push_back((target, format!("link {path}")));
            }
        } else {
            let bytes = fs::read(&full).map_err(Error::io("read", &full))?;
            for needed in needed_by(root, &path, &bytes)? {
                wanted.push_back((needed, format!("needed by {path}")));
            }
        }
        chosen.insert(path, reason);
    }
    Ok(chosen.into_keys().collect())
}

/// The loader and libraries a file needs; nothing for what is not ELF.
fn needed_by(root: &Path, path: &str, bytes: &[u8]) -> Result<Vec<String>, Error> {
    let Some(needs) = elf::needs(bytes) else {
        return Ok(Vec::new());
    };
    let origin = Path::new(path)
        .parent()
        .unwrap_or(Path::new(""))
        .to_string_lossy()
        .into_owned();
    let mut folders: Vec<String> = needs
        .search
        .iter()
        .map(|folder| {
            folder
                .replace("$ORIGIN", &format!("/{origin}"))
                .trim_start_matches('/')
                .to_owned()
        })
        .collect();
    folders.extend(LIBRARY_FOLDERS.map(str::to_owned));
    let mut found = Vec::new();
    if let Some(interpreter) = needs.interpreter {
        found.push(resolve(root, "", Path::new(&interpreter)).ok_or_else(|| {
            Error::Input(format!("/{path}: its loader {interpreter} is missing"))
        })?);
    }
    for library in needs.libraries {
        let place = folders
            .iter()
            .filter_map(|folder| resolve(root, "", &Path::new("/").join(folder).join(&library)))
            .find(|place| root.join(place).exists());
        found.push(
            place.ok_or_else(|| {
                Error::Input(format!("/{path}: its library {library} is missing"))
            })?,
        );
    }
    Ok(found)
}

/// Where `target`, seen from the file at `from`, is inside `root`: links among the *folders* on the way are followed,
/// a link at the end is not.
fn resolve(root: &Path, from: &str, target: &Path) -> Option<String> {
    /// Enough for any sane tree; a loop of links ends here.
    const STEPS_MAX: usize = 64;
    let mut rest: VecDeque<String> = VecDeque::new();
    let mut at = PathBuf::new();
    if !target.is_absolute() {
        at = Path::new(from).parent()?.to_owned();
    }
    push_front(&mut rest, target)?;
    for _ in 0..STEPS_MAX {
        let Some(name) = rest.pop_front() else {
            return at.to_str().map(str::to_owned);
        };
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let meta = fs::symlink_metadata(root.join(&next)).ok()?;
        if meta.is_symlink() && !rest.is_empty() {
            let link = fs::read_link(root.join(&next)).ok()?;
            if link.is_absolute() {
                at = PathBuf::new();
            }
            push_front(&mut rest, &link)?;
        } else {
            at = next;
        }
    }
    None
}

fn push_front(rest: &mut VecDeque<String>, path: &Path) -> Option<()> {
    for component in path.components().rev() {
        match component {
            Component::Normal(name) => rest.push_front(name.to_str()?.to_owned()),
            Component::ParentDir => rest.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree_with_links() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in [
            "usr/lib/x86_64-linux-gnu/liba.so.1.2",
            "usr/bin/tool",
            "usr/share/doc/tool",
            "etc/tool/a.conf",
        ] {
            tree::write(&root.join(path), "x").unwrap();
        }
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink(
            "liba.so.1.2",
            root.join("usr/lib/x86_64-linux-gnu/liba.so.1"),
        )
        .unwrap();
        symlink(
            "/lib/x86_64-linux-gnu/liba.so.1",
            root.join("usr/bin/absolute"),
        )
        .unwrap();
        symlink("nowhere", root.join("usr/bin/dangling")).unwrap();
        symlink("loop", root.join("usr/bin/loop")).unwrap();
        dir
    }

    #[test]
    fn links_bring_what_they_point_at() {
        let dir = tree_with_links();
        let chosen = choose(dir.path(), &["/usr/bin/absolute"]).unwrap();
        let expected = [
            "usr/bin/absolute",
            "usr/lib/x86_64-linux-gnu/liba.so.1",
            "usr/lib/x86_64-linux-gnu/liba.so.1.2",
        ];
        assert_eq!(chosen, expected.map(str::to_owned).into());
    }

    #[test]
    fn what_no_pattern_names_stays_out() {
        let dir = tree_with_links();
        let chosen = choose(dir.path(), &["/etc/tool/*", "/usr/bin/tool"]).unwrap();
        assert_eq!(
            chosen,
            ["etc/tool/a.conf", "usr/bin/tool"]
                .map(str::to_owned)
                .into()
        );
    }

    #[test]
    fn patterns_without_files_and_links_to_nowhere_are_errors() {
        let dir = tree_with_links();
        let message = |pattern: &str| choose(dir.path(), &[pattern]).unwrap_err().to_string();
        assert_eq!(
            message("/usr/bin/nothing"),
            "pattern /usr/bin/nothing: matches no file of the Debian tree"
        );
        assert_eq!(
            message("/usr/bin/dangling"),
            "link /usr/bin/dangling: leads nowhere, to nowhere"
        );
    }

    #[test]
    fn libraries_of_a_program_come_along() {
        let own = std::env::current_exe().unwrap();
        let bytes = fs::read(&own).unwrap();
        let needs = elf::needs(&bytes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        fs::write(dir.path().join("usr/bin/program"), &bytes).unwrap();
        let error = choose(dir.path(), &["/usr/bin/program"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("its loader /lib64/ld-linux"), "{error}");
        tree::write(&dir.path().join("lib64/ld-linux-x86-64.so.2"), "x").unwrap();
        for library in &needs.libraries {
            tree::write(&dir.path().join("usr/lib").join(library), "x").unwrap();
        }
        let chosen = choose(dir.path(), &["/usr/bin/program"]).unwrap();
        assert!(chosen.contains("usr/lib/libc.so.6"), "{chosen:?}");
    }
}
