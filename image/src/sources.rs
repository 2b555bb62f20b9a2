//! Where this machine gets Debian packages from, read from its own apt configuration.
//!
//! The image is built from whatever mirror the machine uses; no mirror is named anywhere in this repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::Error;
use crate::tree;

/// Debian's own keys. Both supported hosts carry those of the release the image is made of.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One archive the machine takes Debian from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Source {
    /// The archive's address.
    uri: String,
    /// The part of the suite's name after the release: "", "-updates" or "-security".
    suffix: String,
}

/// The machine's Debian archives.
///
/// # Errors
///
/// [`Error::Host`] when there is none for `release`, which is the machine's own.
pub(crate) fn of_this_machine(release: &str) -> Result<BTreeSet<Source>, Error> {
    let etc = Path::new("/etc/apt");
    let mut found = BTreeSet::new();
    let mut read = |path: &Path| {
        let Ok(text) = fs::read_to_string(path) else {
            return;
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line(&text, release, &mut found),
            Some("sources") => stanzas(&text, release, &mut found),
            _ => {}
        }
    };
    read(&etc.join("sources.list"));
    let parts = etc.join("sources.list.d");
    if parts.is_dir() {
        for name in tree::walk(&parts)? {
            read(&parts.join(name));
        }
    }
    let found: BTreeSet<Source> = found.into_iter().flat_map(expand_mirror_list).collect();
    if found.iter().any(|source| source.suffix.is_empty()) {
        return Ok(found);
    }
    Err(Error::Host(format!(
        "package sources in {}: none for Debian {release}, component main; add one and try again",
        etc.display()
    )))
}

/// Sources in the one-line format: `deb [options] uri suite component…`.
fn one_line(text: &str, release: &str, found: &mut BTreeSet<Source>) {
    for line in tree::list(text) {
        let Some(rest) = line
            .strip_prefix("deb ")
            .or_else(|| line.strip_prefix("deb\t"))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="));
        let words: Vec<&str> = rest.split_whitespace().collect();
        if let [uri, suite, components @ ..] = words.as_slice() {
            add(&[uri], &[suite], components, signed_by, release, found);
        }
    }
}

/// Sources in the deb822 format: stanzas of `Field: value`.
fn stanzas(text: &str, release: &str, found: &mut BTreeSet<Source>) {
    for stanza in text.split("\n\n") {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| {
            fields
                .iter()
                .find(|(field, _)| field == name)
                .map(|(_, value)| value.as_str())
        };
        let words = |name: &str| {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        if field("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"))
            || !words("types").contains(&"deb")
        {
            continue;
        }
        add(
            &words("uris"),
            &words("suites"),
            &words("components"),
            field("signed-by"),
            release,
            found,
        );
    }
}

/// Keeps what is Debian's: the release's suites, component main, no key but Debian's own.
fn add(
    uris: &[&str],
    suites: &[&str],
    components: &[&str],
    signed_by: Option<&str>,
    release: &str,
    found: &mut BTreeSet<Source>,
) {
    if !components.contains(&"main") || signed_by.is_some_and(|key| !key.contains("debian-archive"))
    {
        return;
    }
    for uri in uris.iter().filter(|uri| !uri.starts_with("cdrom:")) {
        for suite in suites {
            if let Some(suffix @ ("" | "-updates" | "-security")) = suite.strip_prefix(release) {
                found.insert(Source {
                    uri: (*uri).to_owned(),
                    suffix: suffix.to_owned(),
                });
            }
        }
    }
}

/// Cloud images name a file with a list of mirrors instead of a mirror.
fn expand_mirror_list(source: Source) -> Vec<Source> {
    let Some(path) = source.uri.strip_prefix("mirror+file:") else {
        return vec![source];
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    tree::list(&text)
        .filter_map(|line| line.split_whitespace().next())
        .map(|uri| Source {
            uri: uri.to_owned(),
            suffix: source.suffix.clone(),
        })
        .collect()
}

/// The same archives' suites of another release, in the deb822 format.
pub(crate) fn rewritten(sources: &BTreeSet<Source>, release: &str, suffixes: &[&str]) -> String {
    let mut text = String::new();
    for source in sources {
        let mut suites = Vec::new();
        if source.suffix.is_empty() {
            suites.extend(suffixes.iter().map(|suffix| format!("{release}{suffix}")));
        } else {
            suites.push(format!("{release}{}", source.suffix));
        }
        text.push_str(&format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nSigned-By: {KEYRING}\n\n",
            source.uri,
            suites.join(" ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suffix: &str) -> Source {
        Source {
            uri: uri.into(),
            suffix: suffix.into(),
        }
    }

    #[test]
    fn one_line_format_keeps_only_debian() {
        let mut found = BTreeSet::new();
        one_line(
            "# deb http://old.example/debian bookworm main\n\
             deb http://mirror.example/debian bookworm main contrib\n\
             deb-src http://mirror.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://sec.example/d bookworm-security main\n\
             deb [signed-by=/etc/keyrings/other.gpg] http://other.example bookworm main\n\
             deb http://third.example bookworm stable\n\
             deb http://cloud.example cloud-sdk-bookworm main\n\
             deb cdrom:[Debian]/ bookworm main\n",
            "bookworm",
            &mut found,
        );
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [
                source("http://mirror.example/debian", ""),
                source("http://sec.example/d", "-security")
            ]
        );
    }

    #[test]
    fn stanzas_with_comments_continuations_and_disabled_ones() {
        let mut found = BTreeSet::new();
        stanzas(
            "Types: deb deb-src\n# a comment\nURIs: http://a.example/debian\nSuites: trixie\n trixie-updates trixie-backports\nComponents: main\n\n\
             Enabled: no\nTypes: deb\nURIs: http://b.example/debian\nSuites: trixie\nComponents: main\n\n\
             Types: deb\nURIs: http://c.example\nSuites: trixie\nComponents: main\nSigned-By:\n -----BEGIN PGP-----\n",
            "trixie",
            &mut found,
        );
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [
                source("http://a.example/debian", ""),
                source("http://a.example/debian", "-updates")
            ]
        );
    }

    #[test]
    fn rewriting_names_the_other_release_everywhere() {
        let sources = BTreeSet::from([
            source("http://a.example/debian", ""),
            source("http://s.example/x", "-security"),
        ]);
        let text = rewritten(&sources, "trixie", &[""]);
        assert!(
            text.contains("URIs: http://a.example/debian\nSuites: trixie\nComponents: main\n"),
            "{text}"
        );
        assert!(
            text.contains("URIs: http://s.example/x\nSuites: trixie-security\n"),
            "{text}"
        );
        assert!(!text.contains("bookworm"), "{text}");
    }
}
