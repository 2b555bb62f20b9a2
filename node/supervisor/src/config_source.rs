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

/// Most bytes read of a document: one more than allowed, so that too long a one
/// is refused as such, with the words of `nodectl config check`.
const READ_BYTES_MAX: usize = control::config::DOCUMENT_BYTES_MAX + 1;
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
    /// What was there, text or not.
    pub bytes: Vec<u8>,
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
    let (config, mistakes) = match control::config::parse_bytes(&document.bytes) {
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
    if let Some(bytes) = read(Path::new(FW_CFG)).map_err(|error| ("fw_cfg".to_owned(), error))? {
        return Ok(Some(Document {
            source: "fw_cfg".to_owned(),
            bytes,
        }));
    }
    if let Some(url) = context.command_line.value("holdfast.config") {
        let source = format!("url {url}");
        let bytes = fetch(context, url)
            .await
            .map_err(|error| (source.clone(), error))?;
        return Ok(Some(Document { source, bytes }));
    }
    if let Some(found) = volume::find(context, control::CONFIG_LABEL).await {
        let found = found.map_err(|error| ("volume".to_owned(), error))?;
        let source = format!("volume {}", found.node.display());
        let bytes = from_volume(&found)
            .await
            .map_err(|error| (source.clone(), error))?;
        return Ok(Some(Document { source, bytes }));
    }
    while context.facts.borrow().state_volume.is_none() {
        smol::Timer::after(Duration::from_millis(100)).await;
    }
    // One that is there and cannot be used may hold a configuration.
    if let Some(fault) = context.facts.borrow().state_fault.clone() {
        return Err(("state".to_owned(), fault));
    }
    let bytes = read(&Path::new(STATE_MOUNT).join(control::CONFIG_FILE))
        .map_err(|error| ("state".to_owned(), error))?;
    Ok(bytes.map(|bytes| Document {
        source: "state".to_owned(),
        bytes,
    }))
}

async fn from_volume(found: &volume::Volume) -> Result<Vec<u8>, String> {
    volume::mount(found, VOLUME_MOUNT, true).await?;
    let file = Path::new(VOLUME_MOUNT).join(control::CONFIG_FILE);
    let bytes = worker::run("config", move || read(&file))
        .await
        .map_err(|error| error.to_string())
        .and_then(|bytes| bytes);
    if let Err(error) = volume::unmount(VOLUME_MOUNT).await {
        tracing::warn!("{error}");
    }
    bytes?.ok_or_else(|| format!("it has no file {}", control::CONFIG_FILE))
}

/// What `path` holds, up to the limit; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let name = path.display();
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{name}: {error}")),
    };
    let mut bytes = Vec::new();
    up_to_limit(file)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("{name}: {error}"))?;
    Ok(Some(bytes))
}

fn up_to_limit(reader: impl Read) -> impl Read {
    reader.take(u64::try_from(READ_BYTES_MAX).unwrap_or(u64::MAX))
}

async fn fetch(context: &Rc<Context>, url: &str) -> Result<Vec<u8>, String> {
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
        let bytes = fetch_patiently(&owned);
        // The configuration decides about the network from here on.
        if let Err(error) = network.undo() {
            tracing::warn!("network for fetching the configuration: {}", chain(&error));
        }
        bytes
    };
    worker::run_with_stack("config", FETCH_STACK_BYTES, work)
        .await
        .map_err(|error| error.to_string())?
}

/// The server may come up later than this node: after a power cut both start together.
fn fetch_patiently(url: &str) -> Result<Vec<u8>, String> {
    let until = time::now() + u64::try_from(URL_DEADLINE.as_millis()).unwrap_or(u64::MAX);
    loop {
        let error = match fetch_once(url) {
            Ok(bytes) => return Ok(bytes),
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

fn fetch_once(url: &str) -> Result<Vec<u8>, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(FETCH_DEADLINE))
        .build()
        .into();
    let response = agent.get(url).call().map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    // Cut, not refused: what is too long is said where all mistakes are.
    up_to_limit(response.into_body().into_reader())
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_document_is_reported_with_its_lines_and_gives_no_configuration() {
        let document = Document {
            source: "fw_cfg".into(),
            bytes: b"version = 1\nhostnam = \"a\"\n[lockspace]\nhost_id = 0\n".to_vec(),
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
    fn the_node_says_what_nodectl_config_check_says_of_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let long = [
            b"version = 1\n#".as_slice(),
            &"ä".repeat(64 * 1024).into_bytes(),
        ]
        .concat();
        for bytes in [
            b"".as_slice(),
            b"version = 1\n# \xe9\n",
            b"\xef\xbb\xbfversion = 1\r\n[nodes]\r\n",
            &long,
        ] {
            std::fs::write(&path, bytes).unwrap();
            let bytes = read(&path).unwrap().unwrap();
            let source = "state".to_owned();
            let loaded = judge(&Document {
                source,
                bytes: bytes.clone(),
            });
            assert_eq!(loaded.config, None);
            let told = control::config::parse_bytes(&bytes).unwrap_err();
            let told: Vec<String> = told.iter().map(ToString::to_string).collect();
            assert_eq!(loaded.report.mistakes, told);
        }
        std::fs::write(&path, &long).unwrap();
        let mistakes = control::config::parse_bytes(&read(&path).unwrap().unwrap()).unwrap_err();
        assert!(
            mistakes[0]
                .message
                .contains("largest allowed is 65536 bytes"),
            "a cut within a character must not hide that it is too long: {mistakes:?}"
        );
        assert_eq!(read(Path::new("/no/such/file")), Ok(None));
    }

    #[test]
    fn a_server_may_send_more_than_is_taken() {
        use std::io::Write;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/config", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _length = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").unwrap();
            // Until the client has had enough.
            while stream.write_all(&[b'#'; 4096]).is_ok() {}
        });
        let bytes = fetch_once(&url).unwrap();
        server.join().unwrap();
        assert!(control::config::parse_bytes(&bytes).is_err());
    }
}
