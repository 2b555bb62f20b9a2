//! Standard input, line by line, with Ctrl-C and end of input as answers
//! rather than as the end of the program.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, isatty,
    tcgetattr, tcsetattr,
};

use crate::session::{Entered, Input, read_at_most};

/// Longest line kept, in bytes; what goes beyond is dropped.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// What Ctrl-C types.
const CTRL_C: u8 = 3;

/// Standard input of this process.
#[derive(Debug)]
pub(crate) struct Terminal {
    fd: BorrowedFd<'static>,
    terminal: bool,
    pending: Vec<u8>,
    /// Modes found, put back in the end.
    before: Option<Termios>,
}

impl Terminal {
    /// Standard input as it is.
    pub(crate) fn stdin() -> Self {
        let fd = rustix::stdio::stdin();
        Self {
            fd,
            terminal: isatty(fd),
            pending: Vec::new(),
            before: None,
        }
    }

    /// Makes a terminal edit and echo lines and hand Ctrl-C over as a character
    /// that ends the line: no signal can then end a console.
    pub(crate) fn take_over(&mut self) -> io::Result<()> {
        if !self.terminal {
            return Ok(());
        }
        let before = tcgetattr(self.fd)?;
        let mut modes = before.clone();
        modes.input_modes |= InputModes::ICRNL | InputModes::IUTF8;
        modes.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        modes.local_modes |=
            LocalModes::ICANON | LocalModes::ECHO | LocalModes::ECHOE | LocalModes::ECHOK;
        modes.local_modes &= !LocalModes::ISIG;
        modes.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
        tcsetattr(self.fd, OptionalActions::Now, &modes)?;
        self.before = Some(before);
        Ok(())
    }

    /// Whether something is typed within `patience`.
    pub(crate) fn typed_within(&self, patience: Duration) -> io::Result<bool> {
        if !self.pending.is_empty() {
            return Ok(true);
        }
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The next line from what was read already.
    fn buffered(&mut self) -> Option<Entered> {
        let end = self
            .pending
            .iter()
            .position(|&byte| byte == b'\n' || (self.terminal && byte == CTRL_C))?;
        let line: Vec<u8> = self.pending.drain(..=end).collect();
        Some(match line.split_last() {
            Some((&b'\n', line)) => Entered::Line(
                String::from_utf8_lossy(line)
                    .trim_end_matches('\r')
                    .to_owned(),
            ),
            Some(_) | None => Entered::Cancelled,
        })
    }
}

impl Input for Terminal {
    fn is_terminal(&self) -> bool {
        self.terminal
    }

    fn line(&mut self) -> io::Result<Entered> {
        loop {
            if let Some(entered) = self.buffered() {
                return Ok(entered);
            }
            let mut chunk = [0; 4096];
            let length = match rustix::io::read(self.fd, &mut chunk) {
                Ok(length) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if length == 0 {
                let rest = std::mem::take(&mut self.pending);
                // A last line without its end counts, save on a terminal,
                // where Ctrl-D in the middle of a line is a slip.
                let whole = !self.terminal && !rest.is_empty();
                return Ok(if whole {
                    Entered::Line(String::from_utf8_lossy(&rest).into_owned())
                } else {
                    Entered::End
                });
            }
            let room = LINE_BYTES_MAX
                .saturating_sub(self.pending.len())
                .min(length);
            self.pending.extend_from_slice(&chunk[..room]);
            if room < length {
                self.pending.push(b'\n');
            }
        }
    }

    fn pause(&mut self, patience: Duration) -> io::Result<bool> {
        if !self.terminal {
            std::thread::sleep(patience);
            return Ok(false);
        }
        let typed = self.typed_within(patience)?;
        if typed {
            self.line()?;
        }
        Ok(typed)
    }

    fn document(&mut self, longest: usize) -> io::Result<Vec<u8>> {
        if !self.terminal {
            // As it is: a byte that is no text is for the reader to report.
            let mut bytes = std::mem::take(&mut self.pending);
            bytes.extend(read_at_most(
                std::io::stdin().lock(),
                longest.saturating_sub(bytes.len()),
            )?);
            return Ok(bytes);
        }
        let mut text = String::new();
        while text.len() < longest {
            match self.line()? {
                // A console has no end of input: a lone dot stands for it.
                Entered::Line(line) if line == "." => break,
                Entered::Line(line) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Entered::Cancelled => return Err(io::Error::other("given up")),
                Entered::End => break,
            }
        }
        Ok(text.into_bytes())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing is left to be done about a terminal that is gone.
            tcsetattr(self.fd, OptionalActions::Now, before).ok();
        }
    }
}
