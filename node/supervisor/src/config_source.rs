//! Where the configuration comes from: the first source that has one counts,
//! good or bad. A bad one is never passed over for the next source, because a
//! node that quietly runs an older or a different configuration is worse than
//! one that says why it does not.

use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use control::config::Config;
use control::status::ConfigReport;
use linux::error::chain;

use crate::boot::steps::{Context, load_modules};
use crate::net::bootstrap;
use crate::{time, volume, worker};

/// Longest document accepted, in bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 256 * 1024;
/// QEMU's fw_cfg file.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/holdfast/config/raw";
/// Where the kernel shows that it found a fw_cfg device, before the driver is loaded.
const FW_CFG_DEVICE: &str = "/sys/bus/acpi/devices/QEMU0002:00";
/// Where the driver shows itself once it is loaded.
const FW_CFG_DRIVER: &str = "/sys/firmware/qemu_fw_cfg";
/// Where a volume with a configuration is mounted for a moment.
const VOLUME_MOUNT: &str = "/run/holdfast/config-volume";
/// Where the state volume is mounted.
pub const STATE_MOUNT: &str = "/var/lib/holdfast";
/// Time a card has to get an address for fetching a document by URL.
const NETWORK_DEADLINE: Duration = Duration::from_secs(45);
/// Time the server has to give the document.
const URL_DEADLINE: Duration = Duration::from_secs(30);
/// Time one attempt to fetch it may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between attempts, while the network comes up.
const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// Stack of the thread that fetches, in bytes.
const FETCH_STACK_BYTES: usize = 1024 * 1024;

/// A document and where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `fw_cfg`, `url …`, `volume …`, `state`.
    pub source: String,
    /// Its text.
    pub text: String,
}

/// What became of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration to run; the default one when there is no document.
    pub config: Option<Config>,
    /// For people.
    pub report: ConfigReport,
}

/// Finds and reads the configuration.
pub async fn load(context: &Rc<Context>) -> Loaded {
    match find(context).await {
        Ok(Some(document)) => judge(&document),
        Ok(None) => Loaded {
            config: Some(Config::default()),
            report: ConfigReport::default(),
        },
        Err((source, message)) => Loaded {
            config: None,
            report: ConfigReport {
                source: Some(source),
                mistakes: vec![message],
            },
        },
    }
}

fn judge(document: &Document) -> Loaded {
    let (config, mistakes) = match control::config::parse(&document.text) {
        Ok(config) => (Some(config), Vec::new()),
        Err(mistakes) => (None, mistakes.iter().map(ToString::to_string).collect()),
    };
    Loaded {
        config,
        report: ConfigReport {
            source: Some(document.source.clone()),
            mistakes,
        },
    }
}

type Failure = (String, String);

async fn find(context: &Rc<Context>) -> Result<Option<Document>, Failure> {
    if Path::new(FW_CFG_DEVICE).exists() && !Path::new(FW_CFG_DRIVER).exists() {
        load_modules(context, &["qemu_fw_cfg"]).await;
    }
    if let Some(text) = read(Path::new(FW_CFG)).map_err(|error| ("fw_cfg".to_owned(), error))? {
        return Ok(Some(Document {
            source: "fw_cfg".to_owned(),
            text,
        }));
    }
    if let Some(url) = context.command_line.value("holdfast.config") {
        let source = format!("url {url}");
        let text = fetch(context, url)
            .await
            .map_err(|error| (source.clone(), error))?;
        return Ok(Some(Document { source, text }));
    }
    if let Some(found) = volume::find(context, control::CONFIG_LABEL).await {
        let source = format!("volume {}", found.node.display());
        let text = from_volume(&found)
            .await
            .map_err(|error| (source.clone(), error))?;
        return Ok(Some(Document { source, text }));
    }
    while context.facts.borrow().state_volume.is_none() {
        smol::Timer::after(Duration::from_millis(100)).await;
    }
    let text = read(&Path::new(STATE_MOUNT).join(control::CONFIG_FILE))
        .map_err(|error| ("state".to_owned(), error))?;
    Ok(text.map(|text| Document {
        source: "state".to_owned(),
        text,
    }))
}

async fn from_volume(found: &volume::Volume) -> Result<String, String> {
    volume::mount(found, VOLUME_MOUNT, true).await?;
    let file = Path::new(VOLUME_MOUNT).join(control::CONFIG_FILE);
    let text = worker::run("config", move || read(&file))
        .await
        .map_err(|error| error.to_string())
        .and_then(|text| text);
    if let Err(error) = volume::unmount(VOLUME_MOUNT).await {
        tracing::warn!("{error}");
    }
    text?.ok_or_else(|| format!("it has no file {}", control::CONFIG_FILE))
}

/// The text of `path`; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, String> {
    let name = path.display();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{name}: {error}")),
    };
    let mut bytes = Vec::new();
    file.take(DOCUMENT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{name}: {error}"))?;
    text(bytes).map(Some)
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > DOCUMENT_BYTES_MAX {
        return Err(format!("document longer than {DOCUMENT_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("document is not UTF-8 text: {error}"))
}

async fn fetch(context: &Rc<Context>, url: &str) -> Result<String, String> {
    if !url.starts_with("http://") {
        let scheme = url.split("://").next().unwrap_or(url);
        return Err(format!(
            "holdfast.config={url}: scheme {scheme}: only http is understood"
        ));
    }
    let card = bootstrap::boot_card(&context.command_line.to_string());
    let owned = url.to_owned();
    let work = move || {
        let patience_ms = u64::try_from(NETWORK_DEADLINE.as_millis()).unwrap_or(u64::MAX);
        let network =
            bootstrap::bootstrap(card, Path::new("/run/holdfast/resolv.conf"), patience_ms)
                .map_err(|error| chain(&error))?;
        let text = fetch_patiently(&owned);
        // The configuration decides about the network from here on.
        if let Err(error) = network.undo() {
            tracing::warn!("network for fetching the configuration: {}", chain(&error));
        }
        text
    };
    worker::run_with_stack("config", FETCH_STACK_BYTES, work)
        .await
        .map_err(|error| error.to_string())?
}

/// The server may come up later than this node: after a power cut both start together.
fn fetch_patiently(url: &str) -> Result<String, String> {
    let until = time::now() + u64::try_from(URL_DEADLINE.as_millis()).unwrap_or(u64::MAX);
    loop {
        let error = match fetch_once(url) {
            Ok(text) => return Ok(text),
            Err(error) => error,
        };
        if time::now() >= until {
            return Err(format!(
                "{error} (tried for {} s); check the URL and the server",
                URL_DEADLINE.as_secs()
            ));
        }
        std::thread::sleep(FETCH_PAUSE);
    }
}

fn fetch_once(url: &str) -> Result<String, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(FETCH_DEADLINE))
        .build()
        .into();
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    let bytes = response
        .body_mut()
        .with_config()
        .limit(DOCUMENT_BYTES_MAX + 1)
        .read_to_vec()
        .map_err(|error| error.to_string())?;
    text(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_document_is_reported_with_its_lines_and_gives_no_configuration() {
        let document = Document {
            source: "fw_cfg".into(),
            text: "version = 1\nhostnam = \"a\"\n[lockspace]\nhost_id = 0\n".into(),
        };
        let loaded = judge(&document);
        assert_eq!(loaded.config, None);
        assert_eq!(loaded.report.source.as_deref(), Some("fw_cfg"));
        assert!(
            loaded.report.mistakes.len() >= 2,
            "{:?}",
            loaded.report.mistakes
        );
        assert!(
            loaded
                .report
                .mistakes
                .iter()
                .any(|mistake| mistake.starts_with("line 2: ")),
            "{:?}",
            loaded.report.mistakes
        );
    }

    #[test]
    fn a_document_too_long_or_not_text_is_refused() {
        assert!(text(vec![b'#'; 256 * 1024]).is_ok());
        assert!(
            text(vec![b'#'; 256 * 1024 + 1])
                .unwrap_err()
                .contains("262144 bytes")
        );
        assert!(text(vec![0xff]).unwrap_err().contains("UTF-8"));
        assert_eq!(read(Path::new("/no/such/file")), Ok(None));
    }
}
