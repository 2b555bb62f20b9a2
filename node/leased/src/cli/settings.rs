//! What the daemon is told: defaults, then the configuration file, then the
//! command line, then two environment variables.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use disk_format::HostName;
use disk_format::id::NAME_BYTES;
use sanlock_wire::Command;

use super::arguments::Arguments;
use super::connection::{RUN_DIR_VARIABLE, run_dir};
use super::numbers::int;
use crate::daemon::{MaxSectors, Options};

/// The configuration file.
pub const CONFIG_FILE: &str = "/etc/sanlock/sanlock.conf";
/// Names another configuration file.
pub const CONFIG_VARIABLE: &str = "SANLOCK_CONFIG";
/// "1" or absent: the daemon may change user and limits.
const PRIVILEGED_VARIABLE: &str = "SANLOCK_PRIVILEGED";

/// Longest line of the configuration file in bytes.
const LINE_MAX: usize = 127;
/// Most bytes of the configuration file that are read.
const FILE_MAX: u64 = 1 << 20;
/// Warnings that are kept; a file of another kind would make thousands.
const WARNINGS_MAX: usize = 50;

/// Most seconds between SIGTERM and SIGKILL.
const KILL_GRACE_MAX_S: u32 = 60;
/// Largest request to a block device in KiB.
const MAX_SECTORS_KB: u32 = 8192;
/// Fewest worker threads.
const WORKERS_MIN: u32 = 2;

/// Commands whose requests are not logged unless asked for.
const QUIET: [Command; 7] = [
    Command::InqLockspace,
    Command::WriteResource,
    Command::ReadLockspace,
    Command::ReadResource,
    Command::GetLockspaces,
    Command::GetHosts,
    Command::ReadResourceOwners,
];

/// The daemon's options. Nothing in the file is an error: what cannot be used
/// is a warning and the default stays. `variable` reads the environment.
pub(super) fn daemon_options(
    arguments: &Arguments,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Options {
    let mut settings = Settings {
        options: Options {
            run_dir: run_dir(variable(RUN_DIR_VARIABLE)),
            privileged: variable(PRIVILEGED_VARIABLE).is_none_or(|value| value == "1"),
            debug_commands: QUIET
                .iter()
                .fold(u64::MAX, |bits, &command| bits & !bit(command)),
            ..Options::default()
        },
    };
    let file = variable(CONFIG_VARIABLE).map_or_else(|| PathBuf::from(CONFIG_FILE), PathBuf::from);
    settings.read_file(&file);
    settings.read_arguments(arguments);
    settings.options
}

/// The command's bit in `debug_cmds`; none for later inventions.
fn bit(command: Command) -> u64 {
    1u64.checked_shl(command.number()).unwrap_or(0)
}

struct Settings {
    options: Options,
}

impl Settings {
    fn warn(&mut self, text: String) {
        if self.options.warnings.len() < WARNINGS_MAX {
            self.options.warnings.push(text);
        }
    }

    fn read_file(&mut self, path: &Path) {
        let mut text = Vec::new();
        let read = File::open(path).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
        match read {
            Ok(_) => self.read_text(path, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => self.warn(format!("{}: {error}", path.display())),
        }
    }

    fn read_text(&mut self, path: &Path, text: &[u8]) {
        for (place, line) in text.split(|&byte| byte == b'\n').enumerate() {
            if let Err(problem) = self.read_line(line) {
                self.warn(format!("{} line {}: {problem}", path.display(), place + 1));
            }
        }
    }

    /// One line: `key = value`; `#` at its start makes it a comment.
    fn read_line(&mut self, line: &[u8]) -> Result<(), String> {
        if line.first() == Some(&b'#') || line.trim_ascii().is_empty() {
            return Ok(());
        }
        if line.len() > LINE_MAX {
            let bytes = line.len();
            return Err(format!("{bytes} bytes: largest allowed is {LINE_MAX}"));
        }
        let line = std::str::from_utf8(line).map_err(|_| "not text".to_owned())?;
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| "no \"=\": expected is key = value".to_owned())?;
        let key = key.trim();
        let value = value.split_whitespace().next().unwrap_or("");
        if value.is_empty() {
            return Err(format!("{key} has no value"));
        }
        self.set(key, value)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let flag = || number(key, value, 0, 1).map(|number: u32| number == 1);
        let options = &mut self.options;
        match key {
            "quiet_fail" => options.quiet_fail = flag()?,
            "debug_renew" => options.debug_renew = flag()?,
            "debug_clients" => options.debug_clients = flag()?,
            "use_aio" => options.use_aio = flag()?,
            "logfile_use_utc" => options.logfile_use_utc = flag()?,
            "use_watchdog" => options.use_watchdog = flag()?,
            "high_priority" => options.high_priority = flag()?,
            "logfile_priority" => options.logfile_priority = number(key, value, -1, 7)?,
            "syslog_priority" => options.syslog_priority = number(key, value, -1, 7)?,
            "names_log_priority" => options.names_log_priority = number(key, value, -1, 7)?,
            "mlock_level" => options.mlock_level = number(key, value, 0, 2)?,
            "sh_retries" => options.sh_retries = number(key, value, 0, u32::MAX)?,
            "uname" => options.user = Some(value.to_owned()),
            "gname" => options.group = Some(value.to_owned()),
            "our_host_name" => options.host_name = Some(host_name(value)?),
            "renewal_read_extend_sec" => {
                options.renewal_read_extend_s = Some(number(key, value, 0, u32::MAX)?);
            }
            "renewal_history_size" => {
                options.renewal_history_size = number(key, value, 0, u32::MAX)?;
            }
            "debug_cmd" => options.debug_commands = debug_commands(options.debug_commands, value)?,
            // Accepted: what they would log is in the trace of every request.
            "paxos_debug_all" | "debug_io" => {}
            "max_sectors_kb" => options.max_sectors = max_sectors(value)?,
            "write_init_io_timeout" => {
                options.write_init_io_timeout_s = number(key, value, 1, u32::MAX)?;
            }
            "max_worker_threads" => {
                options.max_worker_threads = number(key, value, WORKERS_MIN, u32::MAX)?;
            }
            "io_timeout" => options.io_timeout_s = number(key, value, 1, u8::MAX)?,
            "watchdog_fire_timeout" => {
                options.fire_timeout_s = number(key, value, 1, u32::from(u16::MAX))?;
            }
            "kill_grace_seconds" => {
                options.kill_grace_s = Some(number(key, value, 0, KILL_GRACE_MAX_S)?);
            }
            _ => return Err(format!("unknown key {key:?}")),
        }
        Ok(())
    }

    /// The command line wins over the file. Here, too, a value that cannot be
    /// used is a warning: the original starts with it.
    fn read_arguments(&mut self, arguments: &Arguments) {
        self.options.foreground = arguments.debug;
        let keys = [
            (b'Q', "quiet_fail"),
            (b'R', "debug_renew"),
            (b'H', "renewal_history_size"),
            (b'L', "logfile_priority"),
            (b'S', "syslog_priority"),
            (b'U', "uname"),
            (b'G', "gname"),
            (b't', "max_worker_threads"),
            (b'g', "kill_grace_seconds"),
            (b'w', "use_watchdog"),
            (b'h', "high_priority"),
            (b'l', "mlock_level"),
            (b'e', "our_host_name"),
            (b'o', "io_timeout"),
            (b'a', "use_aio"),
        ];
        for (option, key) in keys {
            if let Some(value) = arguments.text(option) {
                let value = String::from_utf8_lossy(value);
                self.argument(option, |settings| settings.set(key, &value));
            }
        }
        if let Some(value) = arguments.text(b'b') {
            let value = String::from_utf8_lossy(value);
            self.argument(b'b', |settings| {
                let seconds = number("seconds", &value, 0, u32::MAX)?;
                // 0 is the default, as in the original.
                settings.options.bitmap_s = (seconds != 0).then_some(seconds);
                Ok(())
            });
        }
    }

    fn argument(&mut self, option: u8, set: impl FnOnce(&mut Self) -> Result<(), String>) {
        if let Err(problem) = set(self) {
            self.warn(format!("option -{}: {problem}", char::from(option)));
        }
    }
}

/// A number as C reads it, within its limits.
fn number<T>(key: &str, value: &str, smallest: T, largest: T) -> Result<T, String>
where
    T: Copy + PartialOrd + std::fmt::Display + TryFrom<i32>,
{
    match T::try_from(int(value.as_bytes())) {
        Ok(number) if number >= smallest && number <= largest => Ok(number),
        Ok(_) | Err(_) => Err(format!("{key} {value}: allowed is {smallest} to {largest}")),
    }
}

/// A host name, cut where the disk's field ends.
fn host_name(value: &str) -> Result<HostName, String> {
    let end = (0..=NAME_BYTES.min(value.len()))
        .rev()
        .find(|&end| value.is_char_boundary(end))
        .unwrap_or(0);
    HostName::new(value.get(..end).unwrap_or("")).map_err(|error| error.to_string())
}

/// `ignore`, `align`, or an even number of KiB.
fn max_sectors(value: &str) -> Result<MaxSectors, String> {
    match value {
        "ignore" => Ok(MaxSectors::Ignore),
        "align" => Ok(MaxSectors::Align),
        value => match number("max_sectors_kb", value, 2, MAX_SECTORS_KB)? {
            kib if kib % 2 == 0 => Ok(MaxSectors::Kib(kib)),
            kib => Err(format!("max_sectors_kb {kib}: allowed are even numbers")),
        },
    }
}

/// `+all`, `-all`, `+name` or `-name` applied to what there is.
fn debug_commands(bits: u64, value: &str) -> Result<u64, String> {
    let (add, name) = match (value.strip_prefix('+'), value.strip_prefix('-')) {
        (Some(name), _) => (true, name),
        (None, Some(name)) => (false, name),
        (None, None) => return Err(format!("debug_cmd {value:?}: begins with neither + nor -")),
    };
    let named = if name == "all" {
        u64::MAX
    } else {
        Command::ALL
            .iter()
            .find(|command| command.name() == name)
            .map(|&command| bit(command))
            .ok_or_else(|| format!("debug_cmd {value:?}: no such command"))?
    };
    Ok(if add { bits | named } else { bits & !named })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::Kind;

    fn read(file: &str, words: &str) -> Options {
        let words: Vec<Vec<u8>> = words.split_whitespace().map(|word| word.into()).collect();
        let mut out = Vec::new();
        let arguments = Arguments::parse(Kind::Daemon, "", &words, &mut out).unwrap();
        let mut settings = Settings {
            options: daemon_options(&arguments, |name| {
                (name == CONFIG_VARIABLE).then(|| "/nonexistent".into())
            }),
        };
        settings.read_text(Path::new("f"), file.as_bytes());
        settings.read_arguments(&arguments);
        settings.options
    }

    #[test]
    fn the_defaults_are_the_originals() {
        let options = read("", "");
        assert_eq!(options.warnings, [""; 0]);
        assert_eq!(options.debug_commands, 0xffff_ffff_fe06_ffff);
        assert!(options.privileged && options.use_watchdog && !options.foreground);
        assert_eq!((options.io_timeout_s, options.fire_timeout_s), (10, 60));
        assert_eq!(options.run_dir, Path::new("/run/sanlock"));
    }

    #[test]
    fn every_key_is_read() {
        let options = read(
            "quiet_fail = 0\n# comment\n\ndebug_renew=1\nuse_aio 0\nuse_aio = 0\n\
             logfile_priority = 7\nsyslog_priority = -1\nlogfile_use_utc = 1\n\
             names_log_priority = 5\nuse_watchdog = 0\nhigh_priority = 1\nmlock_level = 2\n\
             sh_retries = 3\nuname = u\ngname = g\nour_host_name = host-a\n\
             renewal_read_extend_sec = 0\nrenewal_history_size = 0\npaxos_debug_all = 1\n\
             debug_io = submit,complete\ndebug_clients = 1\ndebug_cmd = -all\n\
             debug_cmd = +acquire\nmax_sectors_kb = align\nwrite_init_io_timeout = 9\n\
             max_worker_threads = 4\nio_timeout = 5\nwatchdog_fire_timeout = 30\n\
             kill_grace_seconds = 7\n",
            "",
        );
        assert_eq!(
            options.warnings,
            ["f line 5: no \"=\": expected is key = value"]
        );
        assert!(!options.quiet_fail && options.debug_renew && !options.use_aio);
        assert!(options.logfile_use_utc && !options.use_watchdog && options.high_priority);
        assert!(options.debug_clients);
        assert_eq!((options.logfile_priority, options.syslog_priority), (7, -1));
        assert_eq!((options.names_log_priority, options.mlock_level), (5, 2));
        assert_eq!(options.sh_retries, 3);
        assert_eq!(options.user.as_deref(), Some("u"));
        assert_eq!(options.group.as_deref(), Some("g"));
        assert_eq!(options.host_name.unwrap().to_string(), "host-a");
        assert_eq!(options.renewal_read_extend_s, Some(0));
        assert_eq!(options.renewal_history_size, 0);
        assert_eq!(options.debug_commands, 1 << 7);
        assert_eq!(options.max_sectors, MaxSectors::Align);
        assert_eq!(options.write_init_io_timeout_s, 9);
        assert_eq!((options.max_worker_threads, options.io_timeout_s), (4, 5));
        assert_eq!(
            (options.fire_timeout_s, options.kill_grace_s),
            (30, Some(7))
        );
    }

    #[test]
    fn what_cannot_be_used_is_a_warning_and_the_default_stays() {
        let long = format!("sh_retries = {}", "1".repeat(200));
        for line in [
            "quite_fail = 1",
            "sh_retries =",
            "io_timeout = 256",
            "io_timeout = 0",
            "kill_grace_seconds = 61",
            "max_sectors_kb = 1023",
            "max_sectors_kb = 8194",
            "debug_cmd = acquire",
            "debug_cmd = +nothing",
            "our_host_name = \u{e4}",
            &long,
        ] {
            let options = read(line, "");
            assert_eq!(options.warnings.len(), 1, "{line}");
            assert_eq!(
                (options.io_timeout_s, options.sh_retries),
                (10, 8),
                "{line}"
            );
            assert_eq!(options.kill_grace_s, None, "{line}");
        }
    }

    #[test]
    fn the_command_line_wins() {
        let options = read(
            "io_timeout = 5\nuse_watchdog = 1\nour_host_name = a\n",
            "-D -w 0 -l 0 -h 0 -U root -G root -o 2 -e b -g 0 -b 9 -H 5 -Q 0 -R 1 -L 7 -S 7 -t 3 -a 0",
        );
        assert_eq!(options.warnings, [""; 0]);
        assert!(options.foreground && !options.use_watchdog && !options.high_priority);
        assert_eq!((options.mlock_level, options.io_timeout_s), (0, 2));
        assert_eq!(options.host_name.unwrap().to_string(), "b");
        assert_eq!((options.kill_grace_s, options.bitmap_s), (Some(0), Some(9)));
        assert_eq!(options.user.as_deref(), Some("root"));
    }

    #[test]
    fn a_long_host_name_is_cut_as_on_disk() {
        let options = read("", &format!("-e {}", "n".repeat(60)));
        assert_eq!(options.host_name.unwrap().to_string().len(), NAME_BYTES);
    }

    #[test]
    fn the_environment_chooses_directory_and_privileges() {
        let arguments = Arguments::default();
        let options = daemon_options(&arguments, |name| match name {
            "SANLOCK_RUN_DIR" => Some("/somewhere".into()),
            "SANLOCK_PRIVILEGED" => Some("0".into()),
            _ => Some("/nonexistent".into()),
        });
        assert_eq!(options.run_dir, Path::new("/somewhere"));
        assert!(!options.privileged);
    }
}
