//! What a child prints: bytes in, bounded lines out.

use crate::journal::{LINE_BYTES_MAX, Priority};

/// Cuts a stream into lines.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// The rest of an overlong line is being passed over.
    overlong: bool,
}

impl Lines {
    /// Takes the next bytes and calls `line` for every whole line in them. A line
    /// beyond the limit comes out cut, once; damaged UTF-8 is replaced.
    pub fn take(&mut self, bytes: &[u8], mut line: impl FnMut(Priority, &str)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            if !self.overlong {
                let room = LINE_BYTES_MAX - self.partial.len();
                self.partial
                    .extend_from_slice(&text[..text.len().min(room)]);
                if text.len() > room {
                    self.overlong = true;
                    self.give(&mut line);
                }
            }
            if ended {
                if !self.overlong {
                    self.give(&mut line);
                }
                self.overlong = false;
            }
        }
    }

    /// The stream ended: what is left without a line break is a line too.
    pub fn end(&mut self, mut line: impl FnMut(Priority, &str)) {
        if !self.partial.is_empty() {
            self.give(&mut line);
        }
    }

    fn give(&mut self, line: &mut impl FnMut(Priority, &str)) {
        let bytes = std::mem::take(&mut self.partial);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        let (priority, text) = prefixed(text);
        if !text.is_empty() {
            line(priority, text);
        }
    }
}

/// A line may begin with its priority, `<3>text`, as daemons under systemd do.
fn prefixed(text: &str) -> (Priority, &str) {
    let Some((number, rest)) = text.strip_prefix('<').and_then(|rest| rest.split_once('>')) else {
        return (Priority::INFO, text);
    };
    match number.parse::<u8>() {
        Ok(number @ 0..=7) => (Priority(number), rest),
        _ => (Priority::INFO, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<(u8, String)> {
        let mut found = Vec::new();
        let mut splitter = Lines::default();
        for piece in pieces {
            splitter.take(piece, |priority, text| {
                found.push((priority.0, text.to_owned()))
            });
        }
        splitter.end(|priority, text| found.push((priority.0, text.to_owned())));
        found
    }

    #[test]
    fn lines_come_out_whole_however_they_arrive() {
        let expected = vec![
            (6, "one".to_owned()),
            (3, "two".to_owned()),
            (6, "<9>three".to_owned()),
        ];
        assert_eq!(lines(&[b"one\n\n<3>two\n<9>three"]), expected);
        let bytes: Vec<[u8; 1]> = b"one\n\n<3>two\n<9>three"
            .iter()
            .map(|&byte| [byte])
            .collect();
        let pieces: Vec<&[u8]> = bytes.iter().map(|byte| &byte[..]).collect();
        assert_eq!(lines(&pieces), expected);
    }

    #[test]
    fn an_endless_line_is_cut_once_and_the_next_one_is_whole() {
        let flood = vec![b'x'; LINE_BYTES_MAX * 3];
        let found = lines(&[&flood, &flood, b"tail\nnext\n"]);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].1.len(), LINE_BYTES_MAX);
        assert_eq!(found[1].1, "next");
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        assert_eq!(
            lines(&[b"\xff\xfe\n"]),
            [(6, "\u{fffd}\u{fffd}".to_owned())]
        );
    }
}
