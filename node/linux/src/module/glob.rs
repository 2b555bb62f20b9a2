//! The patterns of `modules.alias`: `*`, `?` and `[…]`, as in file names but
//! without special treatment of `/` and leading dots.

/// Does `text` match `pattern`? Both must be [`normalize`]d by the same rule.
/// An unclosed bracket stands for itself.
///
/// Takes time proportional to the product of both lengths at worst.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at_pattern, mut at_text) = (0, 0);
    // Where to go on when the present attempt fails: after the last star, with
    // one more byte swallowed by it. Earlier stars need no second try.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let rest = pattern.get(at_pattern..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            at_pattern += 1;
            retry = Some((at_pattern, at_text));
            continue;
        }
        match (rest.is_empty(), text.get(at_text)) {
            (true, None) => return true,
            (false, Some(byte)) => {
                if let Some(length) = one(rest, *byte) {
                    at_pattern += length;
                    at_text += 1;
                    continue;
                }
            }
            _ => {}
        }
        match retry {
            Some((after_star, swallowed)) if swallowed < text.len() => {
                at_pattern = after_star;
                at_text = swallowed + 1;
                retry = Some((after_star, swallowed + 1));
            }
            _ => return false,
        }
    }
}

/// Matches one byte against the first item of a non-empty pattern that does not
/// start with a star; returns the item's length.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', inner @ ..] => match set(inner, byte) {
            Some((true, length)) => Some(length + 1),
            Some((false, _)) => None,
            None => (byte == b'[').then_some(1),
        },
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Reads a set up to its `]` (which may come first as a member): is the byte in
/// it, and how long is it, bracket included. `None` if it is never closed.
fn set(inner: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(inner.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut found = false;
    loop {
        let first = *inner.get(at)?;
        if first == b']' && at > start {
            return Some((found != negated, at + 1));
        }
        match (inner.get(at + 1), inner.get(at + 2)) {
            (Some(b'-'), Some(&last)) if last != b']' => {
                found |= (first..=last).contains(&byte);
                at += 3;
            }
            _ => {
                found |= first == byte;
                at += 1;
            }
        }
    }
}

/// Dashes and underscores are one in module names and aliases; inside brackets a
/// dash means a range and stays.
#[must_use]
pub(super) fn normalize(alias: &str) -> String {
    let mut in_set = false;
    alias
        .chars()
        .map(|letter| {
            match letter {
                '[' => in_set = true,
                ']' => in_set = false,
                '-' if !in_set => return '_',
                _ => {}
            }
            letter
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn real_aliases_match_their_devices_only() {
        let virtio = "virtio:d00000002v*";
        assert!(matches(virtio, "virtio:d00000002v00001AF4"));
        assert!(!matches(virtio, "virtio:d00000001v00001AF4"));
        let nvme = "pci:v*d*sv*sd*bc01sc08i02*";
        assert!(matches(
            nvme,
            "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"
        ));
        assert!(!matches(
            nvme,
            "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"
        ));
        let usb = "usb:v05DCpB002d0[0-4]*dc*dsc*dp*ic*isc*ip*in*";
        assert!(matches(
            usb,
            "usb:v05DCpB002d0300dc00dsc00dp00ic08isc06ip50in00"
        ));
        assert!(!matches(
            usb,
            "usb:v05DCpB002d0500dc00dsc00dp00ic08isc06ip50in00"
        ));
    }

    #[test]
    fn sets_ranges_and_their_edges() {
        assert!(matches("[]a]", "]"));
        assert!(matches("[!a-c]x", "dx"));
        assert!(!matches("[!a-c]x", "bx"));
        assert!(matches("[a-]", "-"));
        assert!(matches("[ab", "[ab"));
        assert!(matches("", ""));
        assert!(!matches("", "a"));
        assert!(matches("***", ""));
        assert!(matches("a*b*c", "a--b-b-c"));
        assert!(!matches("a*b*c", "a--b-b-"));
        assert!(matches("\\*", "*"));
        assert!(!matches("\\*", "x"));
    }

    #[test]
    fn dashes_in_sets_stay_ranges() {
        assert_eq!(normalize("fs-erofs[0-9]-x"), "fs_erofs[0-9]_x");
    }

    /// The definition, without any cleverness: exponential, so short inputs.
    fn oracle(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|skip| oracle(rest, &text[skip..])),
            _ => text.first().is_some_and(|byte| {
                one(pattern, *byte).is_some_and(|length| oracle(&pattern[length..], &text[1..]))
            }),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in r"[ab*?\[\]!-]{0,9}", text in "[ab-]{0,9}") {
            prop_assert_eq!(
                matches(&pattern, &text),
                oracle(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn any_text_is_answered(pattern in ".*", text in ".*") {
            prop_assert!(matches("*", &text));
            std::hint::black_box(matches(&pattern, &text));
        }
    }
}
