//! The daemon's command line.

use std::path::{Path, PathBuf};

use control::config::Storage;

use crate::layout::Layout;

/// How to use it.
pub const USAGE: &str = "\
storaged: the storage daemon of a Holdfast node

  storaged run [--config FILE] [--host-name NAME] [--socket PATH]
               [--root DIR] [--sanlock PATH] [--state FILE] [--device PATH]...
  storaged refresh-table [--check] [--device PATH]... DOMAIN/VOLUME

  --config FILE     the storage section of the configuration, as JSON
  --host-name NAME  name of this host in its leases
  --socket PATH     where to listen (default /run/holdfast/storaged.sock)
  --root DIR        keep everything that is written below DIR, for tests
  --sanlock PATH    the lease daemon's socket
  --state FILE      what is remembered while the machine is up
  --device PATH     a block device LVM may use besides multipath's, for tests
  refresh-table     loads the table that LVM's metadata give a mapped volume;
                    with --check prints it beside the one in use and changes nothing
";

/// What the daemon was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The storage section.
    pub config: Storage,
    /// Name of this host in its leases.
    pub host_name: String,
    /// Where to listen.
    pub socket: PathBuf,
    /// Below which everything is written, for tests.
    pub root: Option<PathBuf>,
    /// Roots of the file system.
    pub layout: Layout,
    /// What is remembered while the machine is up.
    pub state: PathBuf,
    /// Further block devices.
    pub devices: Vec<PathBuf>,
}

impl Options {
    /// Reads the arguments after `run`.
    ///
    /// # Errors
    /// A message for whoever typed them.
    pub fn parse(mut arguments: lexopt::Parser) -> Result<Self, String> {
        use lexopt::prelude::{Long, Value};
        let (mut config, mut host_name, mut socket) = (None, None, None);
        let (mut root, mut sanlock, mut state) = (None::<PathBuf>, None::<PathBuf>, None);
        let mut devices = Vec::new();
        let wrong = |error: lexopt::Error| error.to_string();
        while let Some(argument) = arguments.next().map_err(wrong)? {
            let option = match argument {
                Long(option) => option.to_owned(),
                Value(word) => return Err(format!("{}: not understood", word.display())),
                other => return Err(other.unexpected().to_string()),
            };
            let value = arguments.value().map_err(wrong)?;
            match option.as_str() {
                "config" => config = Some(read_config(Path::new(&value))?),
                "host-name" => host_name = value.into_string().ok(),
                "socket" => socket = Some(value.into()),
                "root" => root = Some(value.into()),
                "sanlock" => sanlock = Some(value.into()),
                "state" => state = Some(value.into()),
                "device" => devices.push(value.into()),
                _ => return Err(format!("--{option}: not known")),
            }
        }
        let mut layout = root.as_deref().map_or_else(Layout::default, Layout::under);
        if let Some(sanlock) = sanlock {
            layout.sanlock = sanlock;
        }
        let below = |name: &str, own: &str| match &root {
            Some(root) => root.join(name),
            None => own.into(),
        };
        Ok(Self {
            config: config.unwrap_or_default(),
            host_name: host_name.unwrap_or_else(own_name),
            socket: socket
                .unwrap_or_else(|| below("storaged.sock", control::storage::STORAGED_SOCKET)),
            state: state.unwrap_or_else(|| below("storaged.state", "/run/holdfast/storaged.state")),
            root,
            layout,
            devices,
        })
    }
}

fn read_config(path: &Path) -> Result<Storage, String> {
    let shown = path.display();
    let text = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("{shown}: {error}"))
}

fn own_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}
