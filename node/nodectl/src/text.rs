//! Words and columns: durations, sizes, tables, wrapped fields. Plain ASCII,
//! 80 columns, since a serial console has no more.

/// Width everything is laid out for, in columns.
pub(crate) const WIDTH: usize = 80;
/// Width of the label before a field's text, in columns.
const LABEL_WIDTH: usize = 11;

/// A duration in at most two units: `40 ms`, `3.2 s`, `2 m 10 s`, `5 h 3 m`, `4 d 2 h`.
pub(crate) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..=59 => format!("{s}.{} s", ms % 1000 / 100),
        60..=3_599 => format!("{} m {} s", s / 60, s % 60),
        3_600..=86_399 => format!("{} h {} m", s / 3600, s % 3600 / 60),
        86_400.. => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// How long ago, or that nobody knows.
pub(crate) fn ago(ms: Option<u64>) -> String {
    ms.map_or_else(
        || "not known".to_owned(),
        |ms| format!("{} ago", duration(ms)),
    )
}

/// When something expires: `expires in 3.2 s`, `expired 3.2 s ago`.
pub(crate) fn expiry(in_ms: i64) -> String {
    let length = duration(in_ms.unsigned_abs());
    if in_ms < 0 {
        format!("expired {length} ago")
    } else {
        format!("expires in {length}")
    }
}

/// A size in the largest binary unit that divides it: `512 B`, `1 MiB`, `3 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value == 0 || !value.is_multiple_of(1024) {
            break;
        }
        value /= 1024;
        unit = next;
    }
    format!("{value} {unit}")
}

/// Text from a disk, another host or a log as it may reach a terminal: control
/// characters become visible, so that no record can move the cursor.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// `count` things: `1 host`, `2 hosts`, `no hosts`.
pub(crate) fn count(count: usize, noun: &str) -> String {
    match count {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    }
}

/// Appends `label      text`, the text wrapped at word ends and indented.
pub(crate) fn field(out: &mut String, label: &str, text: &str) {
    wrapped(
        out,
        &format!("{label:<LABEL_WIDTH$} "),
        LABEL_WIDTH + 1,
        text,
    );
}

/// Appends `first` and then `text`; further lines are indented by `indent`
/// columns. Lines end after a comma where a whole clause fits the next one,
/// otherwise at any space. A word longer than a line stands alone, uncut.
pub(crate) fn wrapped(out: &mut String, first: &str, indent: usize, text: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    let text = clean(text);
    for clause in text.split_inclusive(", ").map(str::trim_end) {
        // After a long `first` nothing would be won by starting a new line.
        let start = if empty { line.chars().count() } else { indent };
        let whole = start + clause.chars().count() <= WIDTH;
        let parts: Vec<&str> = if whole {
            vec![clause]
        } else {
            clause.split(' ').collect()
        };
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            if !empty && line.chars().count() + 1 + part.chars().count() > WIDTH {
                end_line(out, &line);
                line = " ".repeat(indent);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(part);
            empty = false;
        }
    }
    end_line(out, &line);
}

fn end_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

/// Rows of cells in columns as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    indent: usize,
    right: &'static [usize],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table `indent` columns from the left whose columns numbered in `right`
    /// (numbers) are flush right.
    pub(crate) fn new(indent: usize, right: &'static [usize], heads: &[&str]) -> Self {
        let heads = heads.iter().map(|&head| head.to_owned()).collect();
        Self {
            indent,
            right,
            rows: vec![heads],
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| clean(&cell)).collect());
    }

    /// Appends the rows, one a line, two spaces between columns. `label` stands
    /// in the indent of the first line.
    pub(crate) fn draw(&self, out: &mut String, label: &str) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            let mut line = format!("{label:<width$}", width = self.indent);
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = " ".repeat(width - cell.chars().count());
                let (before, after) = if self.right.contains(&column) {
                    (gap, String::new())
                } else {
                    (String::new(), gap)
                };
                line.push_str(&before);
                line.push_str(cell);
                line.push_str(&after);
                line.push_str("  ");
            }
            end_line(out, &line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short_words() {
        let cases = [
            0,
            999,
            1000,
            3_249,
            59_999,
            60_000,
            130_000,
            3_600_000,
            18_180_000,
            352_800_000,
        ];
        assert_eq!(
            cases.map(duration),
            [
                "0 ms", "999 ms", "1.0 s", "3.2 s", "59.9 s", "1 m 0 s", "2 m 10 s", "1 h 0 m",
                "5 h 3 m", "4 d 2 h"
            ]
        );
        assert_eq!(expiry(-1500), "expired 1.5 s ago");
        assert_eq!(expiry(1500), "expires in 1.5 s");
    }

    #[test]
    fn sizes_are_exact() {
        assert_eq!(
            [0, 512, 1024, 1_048_576, 1_048_577].map(size),
            ["0 B", "512 B", "1 KiB", "1 MiB", "1048577 B"]
        );
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(
            clean("a\u{1b}[2Jb\u{9b}c\r\n"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn fields_wrap_at_words_within_the_width() {
        let mut out = String::new();
        field(&mut out, "label", &"word ".repeat(30));
        assert!(
            out.lines().count() == 3 && out.lines().all(|line| line.chars().count() <= WIDTH),
            "{out}"
        );
        assert!(
            out.lines()
                .skip(1)
                .all(|line| line.starts_with("            word")),
            "{out}"
        );
    }
}
