//! The kernel's log as a sink before journald answers (and whenever it does not).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};

/// Longest text of one record, in bytes; the kernel refuses records near 1 KiB.
const TEXT_BYTES_MAX: usize = 900;

/// An open `/dev/kmsg`.
#[derive(Debug)]
pub struct Kmsg {
    file: File,
}

impl Kmsg {
    /// Opens the kernel's log for writing.
    ///
    /// # Errors
    /// `/dev` is not mounted, or the caller is not root.
    pub fn open() -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open("/dev/kmsg")?;
        Ok(Self { file })
    }

    /// Writes one record. `priority` is syslog's, 0 (emergency) to 7 (debug);
    /// text beyond 900 bytes is cut, line breaks become spaces.
    ///
    /// # Errors
    /// The kernel refuses the record.
    pub fn write(&self, priority: u8, text: &str) -> io::Result<()> {
        (&self.file).write_all(record(priority, text).as_bytes())
    }
}

fn record(priority: u8, text: &str) -> String {
    // Facility 3 (daemon), so that the text is not taken for the kernel's own.
    let mut record = format!("<{}>", 3 * 8 + priority.min(7));
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    record.extend(text[..end].chars().map(|c| if c == '\n' { ' ' } else { c }));
    record.push('\n');
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_with_its_priority_and_never_too_long() {
        assert_eq!(record(6, "a\nb"), "<30>a b\n");
        assert_eq!(record(9, "x"), "<31>x\n");
        let long = record(3, &"ä".repeat(1000));
        assert!(
            long.len() <= TEXT_BYTES_MAX + 6,
            "record of {} bytes",
            long.len()
        );
    }
}
