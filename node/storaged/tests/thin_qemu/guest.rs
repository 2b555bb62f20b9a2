//! A real QEMU with a guest that does nothing but write, on a QCOW2 file on a
//! loop device that is as large as its backing file was when last refreshed:
//! what a logical volume is to a host.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use control::storage::VolumeName;
use guest::qmp::{CommandId, Event, Message, Session};
use linux::loop_device::{LoopDevice, Options};
use serde_json::{Value, json};
use smol::channel::{Receiver, Sender};
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::unix::UnixStream;
use storaged::thin::{Drive, Extender, Later, Refresher, Watch};
use thin::size::MIB;
use thin::{ExtendOutcome, Policy, RefreshOutcome};

/// A boot sector in real mode: writes 64 KiB after 64 KiB to the first disk
/// through the firmware, up to the sector at [`LIMIT_AT`], then halts.
///
/// ```text
///        cli; ds = es = ss = 0; sp = 0x7c00; sti
/// again: eax = [lba]; if eax >= [limit] goto done
///        si = packet; ax = 0x4300 (write); dl = 0x80; int 0x13; if carry goto again
///        [lba] += 128; goto again
/// done:  hlt; goto done
/// ```
const CODE: [u8; 0x32] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb, 0x66, 0xa1, 0xd8,
    0x7d, 0x66, 0x3b, 0x06, 0xe0, 0x7d, 0x73, 0x17, 0xbe, 0xd0, 0x7d, 0xb8, 0x00, 0x43, 0xb2, 0x80,
    0xcd, 0x13, 0x72, 0xe9, 0x66, 0x81, 0x06, 0xd8, 0x7d, 0x80, 0x00, 0x00, 0x00, 0xeb, 0xde, 0xf4,
    0xeb, 0xfd,
];
/// Packet: its length, 128 sectors, from 0x1000:0, to sector 0.
const PACKET_AT: usize = 0x1d0;
const PACKET: [u8; 8] = [0x10, 0, 128, 0, 0, 0, 0, 0x10];
const LIMIT_AT: usize = 0x1e0;
const FLOPPY_BYTES: usize = 1_474_560;

/// 4 MiB chunks, 2 MiB kept free.
pub(crate) const SMALL: Policy = Policy {
    chunk_bytes: 4 * MIB,
    utilization_percent: 50,
};

/// A volume: a file, and a loop device that shows what of it was there at the
/// last refresh.
#[derive(Debug)]
pub(crate) struct Volume {
    file: PathBuf,
    device: LoopDevice,
    pub(crate) asked_mib: RefCell<Vec<u64>>,
    /// While shut, requests wait.
    gate: (Sender<()>, Receiver<()>),
    shut: Cell<bool>,
    /// So many requests are refused.
    pub(crate) refuse: Cell<u32>,
    /// Who mapped the volume anew, in order.
    pub(crate) mapped: RefCell<Vec<&'static str>>,
    /// Whether the destination of a migration can.
    pub(crate) destination: Cell<bool>,
}

impl Volume {
    pub(crate) fn new(folder: &Path, mib: u64) -> Rc<Self> {
        let file = folder.join("volume");
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&file)
            .and_then(|file| file.set_len(mib * MIB))
            .expect("a sparse file");
        let options = Options {
            block_size: 512,
            read_only: false,
            direct_io: false,
            auto_clear: true,
        };
        let device =
            LoopDevice::attach(&file, &options).expect("a loop device (run the tests as root)");
        Rc::new(Self {
            file,
            device,
            asked_mib: RefCell::default(),
            gate: smol::channel::bounded(64),
            shut: Cell::new(false),
            refuse: Cell::new(0),
            mapped: RefCell::default(),
            destination: Cell::new(false),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.device.path()
    }

    pub(crate) fn shut(&self) {
        self.shut.set(true);
    }

    pub(crate) fn open(&self) {
        self.shut.set(false);
        // Full: enough wait already.
        while self.gate.0.try_send(()).is_ok() {}
    }
}

/// Both traits, for one volume.
#[derive(Debug, Clone)]
pub(crate) struct Storage(pub(crate) Rc<Volume>);

impl Extender for Storage {
    fn extend(&self, _volume: &VolumeName, mib: u64) -> Later<ExtendOutcome> {
        let volume = Rc::clone(&self.0);
        volume.asked_mib.borrow_mut().push(mib);
        Box::pin(async move {
            if volume.shut.get() && volume.gate.1.recv().await.is_err() {
                return ExtendOutcome::Failed;
            }
            if let Some(left) = volume.refuse.get().checked_sub(1) {
                volume.refuse.set(left);
                return ExtendOutcome::Refused;
            }
            let file = OpenOptions::new().write(true).open(&volume.file);
            let file = file.expect("the volume's file");
            let now = file.metadata().expect("size").len();
            file.set_len(now.max(mib * MIB)).expect("a larger file");
            ExtendOutcome::Done
        })
    }
}

impl Refresher for Storage {
    fn refresh(&self, _volume: &VolumeName, _at_least_bytes: u64) -> Later<RefreshOutcome> {
        let volume = Rc::clone(&self.0);
        volume.mapped.borrow_mut().push("here");
        Box::pin(async move {
            let losetup = smol::process::Command::new("losetup")
                .arg("-c")
                .arg(volume.path())
                .status()
                .await;
            assert!(
                losetup.is_ok_and(|status| status.success()),
                "losetup -c (apt-get install mount)"
            );
            let size = storaged::thin::size_bytes(volume.path(), Path::new("/sys"));
            RefreshOutcome::Done {
                size_bytes: size.expect("a block device"),
            }
        })
    }

    fn refresh_destination(&self, _volume: &VolumeName, _at_least: u64) -> Later<RefreshOutcome> {
        let volume = Rc::clone(&self.0);
        volume.mapped.borrow_mut().push("there");
        Box::pin(async move {
            if !volume.destination.get() {
                return RefreshOutcome::Impossible;
            }
            let size = std::fs::metadata(&volume.file).expect("the volume's file");
            RefreshOutcome::Done {
                size_bytes: size.len(),
            }
        })
    }
}

/// A running QEMU, killed when dropped.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    folder: PathBuf,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Qemu {
    /// A guest, not yet started, that will write `mib` MiB. With `error_at_mib`
    /// the write at that offset of the device fails with EIO, once.
    pub(crate) fn start(
        folder: &Path,
        volume: &Volume,
        mib: u32,
        error_at_mib: Option<u64>,
    ) -> Self {
        let floppy = folder.join("floppy");
        std::fs::write(&floppy, boot_disk(mib)).expect("boot disk");
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(volume.path())
            .arg("256M")
            .status();
        assert!(
            made.is_ok_and(|status| status.success()),
            "qemu-img create (apt-get install qemu-utils)"
        );
        let device = volume.path().display();
        let file = format!("driver=host_device,filename={device},node-name=disk-file");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-M", "pc,accel=tcg", "-m", "64", "-nodefaults"])
            .args(["-display", "none", "-S", "-boot", "a", "-drive"])
            .arg(format!(
                "if=floppy,format=raw,readonly=on,file={}",
                floppy.display()
            ))
            .args(["-blockdev", &file]);
        let below = match error_at_mib {
            None => "disk-file",
            Some(at_mib) => {
                qemu.arg("-blockdev").arg(format!(
                    "driver=blkdebug,node-name=bad,image=disk-file,inject-error.0.event=none,\
                     inject-error.0.iotype=write,inject-error.0.errno=5,inject-error.0.once=on,\
                     inject-error.0.sector={}",
                    at_mib * MIB / 512
                ));
                "bad"
            }
        };
        let child = qemu
            .arg("-blockdev")
            .arg(format!("driver=qcow2,node-name=disk,file={below}"))
            .args([
                "-device",
                "virtio-blk-pci,drive=disk,id=vda,werror=stop,rerror=stop",
            ])
            .arg("-qmp")
            .arg(socket_argument(&folder.join("ours")))
            .arg("-qmp")
            .arg(socket_argument(&folder.join("theirs")))
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-system-x86_64 (apt-get install qemu-system-x86)");
        Self {
            child,
            folder: folder.to_path_buf(),
        }
    }

    pub(crate) fn watch(&self, node: &str, volume: &Volume) -> Watch {
        Watch {
            socket: self.folder.join("ours"),
            drives: vec![Drive {
                node: node.to_owned(),
                volume: VolumeName {
                    domain: "domain".into(),
                    image: "image".into(),
                    volume: "volume".into(),
                },
                path: volume.path().to_path_buf(),
            }],
            config: thin::Config {
                policy: SMALL,
                ..thin::Config::default()
            },
            sys: "/sys".into(),
        }
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.folder.join("theirs")).await
    }
}

fn socket_argument(path: &Path) -> String {
    format!("unix:{},server=on,wait=off", path.display())
}

fn boot_disk(mib: u32) -> Vec<u8> {
    let mut disk = vec![0; FLOPPY_BYTES];
    disk[..CODE.len()].copy_from_slice(&CODE);
    disk[PACKET_AT..PACKET_AT + PACKET.len()].copy_from_slice(&PACKET);
    disk[LIMIT_AT..LIMIT_AT + 4].copy_from_slice(&(mib * 2048).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// The test's own connection to QEMU.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    session: Session,
    /// Events in their order, taken by [`Client::event`].
    pub(crate) events: Vec<String>,
}

impl Client {
    async fn connect(socket: &Path) -> Self {
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                // QEMU makes it when it has started.
                Err(_) => smol::future::yield_now().await,
            }
        };
        let mut client = Self {
            stream,
            session: Session::new(),
            events: Vec::new(),
        };
        loop {
            if let Some(Message::Ready(_)) = client.message().await {
                return client;
            }
        }
    }

    async fn message(&mut self) -> Option<Message> {
        if let Some(message) = self.session.next_message() {
            return Some(message);
        }
        let out = self.session.transmit().to_vec();
        self.stream.write_all(&out).await.expect("send to QEMU");
        self.session.transmitted(out.len());
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes).await.expect("read from QEMU");
        assert!(count > 0, "QEMU has ended");
        self.session.receive(&bytes[..count]).expect("QMP");
        // The session may have something to send now, before more comes.
        let out = self.session.transmit().to_vec();
        self.stream.write_all(&out).await.expect("send to QEMU");
        self.session.transmitted(out.len());
        self.session.next_message()
    }

    pub(crate) async fn run(&mut self, command: &str) -> Value {
        self.run_with(command, Value::Null).await
    }

    async fn run_with(&mut self, command: &str, arguments: Value) -> Value {
        let id: CommandId = self
            .session
            .execute(command, arguments)
            .expect("a ready session");
        loop {
            match self.message().await {
                Some(Message::Reply { id: of, outcome }) if of == id => {
                    return outcome.expect("QEMU's yes");
                }
                Some(Message::Event(event)) => self.note(&event),
                _ => {}
            }
        }
    }

    /// Waits for an event, and forgets those before it.
    pub(crate) async fn event(&mut self, name: &str) {
        loop {
            if let Some(at) = self.events.iter().position(|event| event == name) {
                self.events.drain(..=at);
                return;
            }
            if let Some(Message::Event(event)) = self.message().await {
                self.note(&event);
            }
        }
    }

    pub(crate) async fn status(&mut self) -> String {
        let status = self.run("query-status").await;
        status["status"].as_str().unwrap_or_default().to_owned()
    }

    fn note(&mut self, event: &Event) {
        let node = event.data["node-name"].as_str().unwrap_or_default();
        // Those of the node below are the monitor's.
        if event.name != "BLOCK_WRITE_THRESHOLD" || node == "disk" {
            self.events.push(event.name.clone());
        }
    }

    /// Has QEMU tell when the guest writes the last of `mib` MiB: a threshold on
    /// the node the guest writes to, which is no business of the monitor.
    pub(crate) async fn tell_at(&mut self, mib: u64) {
        let arguments = json!({ "node-name": "disk", "write-threshold": mib * MIB - 1 });
        self.run_with("block-set-write-threshold", arguments).await;
    }

    /// Waits until the guest has written all, as told by [`Self::tell_at`].
    pub(crate) async fn until_written(&mut self, mib: u64) {
        self.event("BLOCK_WRITE_THRESHOLD").await;
        while self.written_mib().await < mib {}
    }

    /// What the guest has written, in MiB.
    pub(crate) async fn written_mib(&mut self) -> u64 {
        let stats = self.run("query-blockstats").await;
        let disks = stats.as_array().expect("a list");
        let disk = disks.iter().find(|disk| disk["node-name"] == "disk");
        disk.and_then(|disk| disk["stats"]["wr_bytes"].as_u64())
            .expect("the disk")
            / MIB
    }
}
