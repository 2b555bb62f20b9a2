//! Which terminals get a console, and which a shell.

use linux::system::CommandLine;

/// Most consoles; more on the command line are left out.
pub const CONSOLES_MAX: usize = 8;

/// Terminals that run `nodectl console`: the kernel's active consoles and those
/// named by `holdfast.console=`, without the one that has the debug shell.
#[must_use]
pub fn consoles(active: &str, command_line: &CommandLine, shell: Option<&str>) -> Vec<String> {
    let named = command_line.value("holdfast.console").unwrap_or("");
    let words = active
        .split_whitespace()
        .chain(named.split(','))
        .map(str::trim);
    let mut found: Vec<String> = Vec::new();
    for word in words {
        // tty0 is "whichever is in front"; a console needs one of its own.
        let word = if word == "tty0" {
            "tty1"
        } else {
            word.strip_prefix("/dev/").unwrap_or(word)
        };
        let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if plain
            && Some(word) != shell
            && !found.iter().any(|known| known == word)
            && found.len() < CONSOLES_MAX
        {
            found.push(word.to_owned());
        }
    }
    found
}

/// Terminal of the debug shell, on a debug image.
#[must_use]
pub fn debug_shell(is_debug_image: bool, command_line: &CommandLine) -> Option<String> {
    let named = command_line.value("holdfast.debug_shell").unwrap_or("tty2");
    let plain = !named.is_empty() && named.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_debug_image && plain).then(|| named.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_active_and_named_terminal_gets_one_console() {
        let line = CommandLine::parse("holdfast.console=ttyS1,ttyS0,/dev/tty3,../etc,");
        assert_eq!(
            consoles("tty0 ttyS0\n", &line, None),
            ["tty1", "ttyS0", "ttyS1", "tty3"]
        );
        assert_eq!(
            consoles("ttyS0", &line, Some("ttyS1")),
            ["ttyS0", "tty3"],
            "the shell keeps its own"
        );
    }

    #[test]
    fn a_release_image_has_no_shell_whatever_the_command_line_says() {
        let line = CommandLine::parse("holdfast.debug_shell=ttyS2");
        assert_eq!(debug_shell(false, &line), None);
        assert_eq!(debug_shell(true, &line).as_deref(), Some("ttyS2"));
        assert_eq!(
            debug_shell(true, &CommandLine::default()).as_deref(),
            Some("tty2")
        );
    }
}
