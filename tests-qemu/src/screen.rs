//! What the person at the terminal sees: moments scroll by, the table below
//! them is redrawn in place. Away from a terminal, one line for each change.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::line::lock;
use crate::stage::Window;
use crate::story::{Audience, Moment};
use crate::table;

/// The terminal, or whatever standard output is.
#[derive(Debug)]
pub struct Screen {
    began: Instant,
    shared: Arc<Mutex<Drawn>>,
    drawer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

#[derive(Debug)]
struct Drawn {
    terminal: bool,
    /// Lines of the table that stand on the screen now.
    lines: usize,
    table: String,
    rows: Vec<[String; 9]>,
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

impl Screen {
    /// A screen on standard output.
    #[must_use]
    pub fn new() -> Self {
        let drawn = Drawn {
            terminal: std::io::stdout().is_terminal(),
            lines: 0,
            table: String::new(),
            rows: Vec::new(),
        };
        Self {
            began: Instant::now(),
            shared: Arc::new(Mutex::new(drawn)),
            drawer: Mutex::new(None),
        }
    }

    /// Prints a line of its own.
    pub fn say(&self, text: &str) {
        lock(&self.shared).say(&format!("[{}] {text}", clock(self.began.elapsed())));
    }

    /// Waits until the stage is gone and its last table is drawn.
    pub fn finish(&self) {
        if let Some(drawer) = lock(&self.drawer).take() {
            // A drawer that panicked has told its reason on stderr.
            drop(drawer.join());
        }
    }
}

impl Audience for Screen {
    fn moment(&self, moment: &Moment) {
        let promise = moment
            .promise
            .as_ref()
            .map(|promise| format!(" ({promise})"))
            .unwrap_or_default();
        self.say(&format!("{}{promise}", moment.what));
    }

    fn curtain(&self, window: Window) {
        let (shared, began) = (Arc::clone(&self.shared), self.began);
        let drawer = std::thread::spawn(move || {
            while let Some(views) = window.next(Duration::from_secs(1)) {
                let mut drawn = lock(&shared);
                let rows = table::rows(&views, None);
                if drawn.terminal {
                    drawn.table = table::draw(&views, Instant::now());
                    drawn.erase();
                    drawn.draw();
                } else {
                    let aged = table::rows(&views, Some(Instant::now()));
                    for (index, row) in rows.iter().enumerate() {
                        if drawn.rows.get(index) != Some(row) {
                            let line = aged[index].join("  ");
                            drawn.say(&format!("[{}] {line}", clock(began.elapsed())));
                        }
                    }
                }
                drawn.rows = rows;
            }
        });
        *lock(&self.drawer) = Some(drawer);
    }
}

impl Drawn {
    fn say(&mut self, line: &str) {
        self.erase();
        emit(&format!("{line}\n"));
        self.draw();
    }

    fn erase(&mut self) {
        if self.lines > 0 {
            emit(&format!("\x1b[{}A\x1b[J", self.lines));
            self.lines = 0;
        }
    }

    fn draw(&mut self) {
        if !self.terminal || self.table.is_empty() {
            return;
        }
        let width = rustix::termios::tcgetwinsize(std::io::stdout())
            .map_or(80, |size| usize::from(size.ws_col));
        // A line that wraps would be two lines to erase.
        let cut = |line: &str| line.chars().take(width.max(20) - 1).collect::<String>();
        let lines: Vec<String> = std::iter::once(String::new())
            .chain(self.table.lines().map(cut))
            .collect();
        emit(&(lines.join("\n") + "\n"));
        self.lines = lines.len();
    }
}

/// Standard output may be a closed pipe; the story goes on without a reader.
fn emit(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()));
    drop(out.flush());
}

/// `m:ss` since the beginning.
#[must_use]
pub fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
