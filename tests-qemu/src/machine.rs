//! What a machine is made of, and QEMU's command line for it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::lun::Lun;

/// Where the machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// QEMU loads kernel and initrd itself.
    Direct {
        /// The kernel.
        kernel: PathBuf,
        /// The initrd.
        initrd: PathBuf,
        /// Kernel command line without the harness's own additions.
        cmdline: String,
    },
    /// The firmware starts from the root disk (UEFI).
    Disk,
    /// QEMU's network boot ROM fetches this file over TFTP.
    Network {
        /// Directory served.
        directory: PathBuf,
        /// File started, an iPXE script.
        file: String,
    },
}

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plug {
    /// A router of its own with DHCP, 192.168.77.2.
    Router,
    /// A datagram cable to another machine of the same scenario: both sockets.
    Cable {
        /// Socket this end listens on.
        here: PathBuf,
        /// Socket of the other end.
        there: PathBuf,
    },
}

/// A machine to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Name of the node and of its files.
    pub name: String,
    /// 1–9: distinguishes MAC and DHCP addresses.
    pub number: u8,
    /// Start.
    pub boot: Boot,
    /// Disk with the root file system, and whether the guest may write to it.
    pub root: Option<(PathBuf, bool)>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// Configuration document handed over by the firmware.
    pub config: Option<String>,
    /// LUNs attached from the start.
    pub luns: Vec<Lun>,
    /// Network cards in order.
    pub nics: Vec<Plug>,
    /// Empty slots for cards plugged in later.
    pub slots: u8,
    /// Whether there is a watchdog card.
    pub watchdog: bool,
    /// Further kernel arguments.
    pub append: String,
    /// A root shell on the third serial line (debug image only).
    pub shell: bool,
    /// Leave the machine running when the harness ends.
    pub outlive: bool,
    /// Network namespace QEMU runs in, when not the harness's own.
    pub namespace: Option<PathBuf>,
}

impl Spec {
    /// MAC address of card `index`.
    #[must_use]
    pub fn mac(&self, index: usize) -> String {
        Self::mac_of(self.number, index)
    }

    /// MAC address of card `index` of machine `number`.
    #[must_use]
    pub fn mac_of(number: u8, index: usize) -> String {
        format!("52:54:00:77:{number:02x}:{index:02x}")
    }

    /// A machine that boots `image` directly, with one card, a watchdog and
    /// its root disk read-only.
    #[must_use]
    pub fn new(image: &image::Artifacts, number: u8) -> Self {
        Self {
            name: format!("node{number}"),
            number,
            boot: Boot::Direct {
                kernel: image.vmlinuz.clone(),
                initrd: image.initrd.clone(),
                cmdline: image.cmdline.clone(),
            },
            root: Some((image.disk.clone(), false)),
            memory_mib: 768,
            cpus: 1,
            config: None,
            luns: Vec::new(),
            nics: vec![Plug::Router],
            slots: 0,
            watchdog: true,
            append: "console=ttyS0 panic=10 holdfast.console=ttyS1".to_owned(),
            shell: false,
            outlive: false,
            namespace: None,
        }
    }

    /// The same with a configuration document.
    #[must_use]
    pub fn with_config(mut self, text: String) -> Self {
        self.config = Some(text);
        self
    }

    /// The same with one more LUN.
    #[must_use]
    pub fn with_lun(mut self, lun: &Lun) -> Self {
        self.luns.push(lun.clone());
        self
    }

    /// The same with a root shell (debug image only).
    #[must_use]
    pub fn with_shell(mut self) -> Self {
        self.shell = true;
        self.append.push_str(" holdfast.debug_shell=ttyS2");
        self
    }

    /// The same in the network of `lab`, with its servers within reach.
    #[must_use]
    pub fn in_lab(mut self, lab: &crate::lab::Lab) -> Self {
        self.namespace = Some(lab.namespace());
        self
    }

    /// First address the router hands out.
    #[must_use]
    pub fn dhcp_address(&self) -> String {
        format!("192.168.77.{}", 10 + u32::from(self.number))
    }
}

/// `name.N`, N the first start of this name in `directory` without a log.
pub(crate) fn log_name(spec: &Spec, directory: &Path) -> String {
    let taken = |n: &u32| {
        directory
            .join(format!("{}.{n}.qemu.log", spec.name))
            .exists()
    };
    let number = (1..).find(|n| !taken(n)).unwrap_or_default();
    format!("{}.{number}", spec.name)
}

/// QEMU's command line for a machine that waits for `cont`.
pub(crate) fn arguments(spec: &Spec, directory: &Path, sockets: &Path) -> Result<Vec<String>> {
    let mut list: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| list.extend([option.to_owned(), value]);
    let log = log_name(spec, directory);
    add("-name", spec.name.clone());
    add("-machine", "q35,usb=off,vmport=off,hpet=on".to_owned());
    add(
        "-accel",
        std::env::var("HOLDFAST_ACCEL").unwrap_or_else(|_| "tcg,tb-size=256".to_owned()),
    );
    // Five-level page tables only make an emulated processor slower.
    add("-cpu", "max,la57=off".to_owned());
    add("-m", spec.memory_mib.to_string());
    add("-smp", spec.cpus.to_string());
    add("-display", "none".to_owned());
    add(
        "-action",
        "reboot=reset,shutdown=poweroff,watchdog=reset".to_owned(),
    );
    if spec.watchdog {
        add("-device", "i6300esb,id=watchdog".to_owned());
    }
    match &spec.boot {
        Boot::Direct {
            kernel,
            initrd,
            cmdline,
        } => {
            add("-kernel", kernel.display().to_string());
            add("-initrd", initrd.display().to_string());
            add(
                "-append",
                format!("{cmdline} {}", spec.append).trim().to_owned(),
            );
        }
        Boot::Disk => {
            let firmware = [
                "/usr/share/OVMF/OVMF_CODE_4M.fd",
                "/usr/share/OVMF/OVMF_CODE.fd",
            ];
            let code = firmware.iter().find(|path| Path::new(path).exists());
            let code =
                code.context("UEFI firmware: apt-get install --no-install-recommends ovmf")?;
            add(
                "-drive",
                format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"),
            );
        }
        Boot::Network { .. } => add("-boot", "order=n".to_owned()),
    }
    if let Some((root, writable)) = &spec.root {
        let node = json!({
            "driver": "raw", "node-name": "root", "read-only": !writable,
            "file": { "driver": "file", "filename": root, "read-only": !writable, "locking": "off" },
        });
        add("-blockdev", node.to_string());
        add(
            "-device",
            "virtio-blk-pci,drive=root,bootindex=1".to_owned(),
        );
    }
    if let Some(config) = &spec.config {
        let path = directory.join(format!("{}.toml", spec.name));
        fs::write(&path, config).with_context(|| path.display().to_string())?;
        add(
            "-fw_cfg",
            format!("name=opt/holdfast/config,file={}", path.display()),
        );
    }
    add("-device", "virtio-scsi-pci,id=scsi".to_owned());
    for (index, lun) in spec.luns.iter().enumerate() {
        let id = format!("lun{index}");
        add("-blockdev", lun.block_node(&id).to_string());
        add("-device", lun.device(&id).to_string());
    }
    for slot in 0..spec.slots {
        add(
            "-device",
            format!(
                "pcie-root-port,id=slot{slot},chassis={},slot={}",
                slot + 1,
                slot + 1
            ),
        );
    }
    for (index, plug) in spec.nics.iter().enumerate() {
        add("-netdev", netdev(spec, index, plug).to_string());
        let boots = matches!(spec.boot, Boot::Network { .. }) && index == 0;
        let rom = if boots { "bootindex=0" } else { "romfile=" };
        add(
            "-device",
            format!(
                "virtio-net-pci,id=nic{index},netdev=net{index},mac={},speed=10000,duplex=full,{rom}",
                spec.mac(index)
            ),
        );
    }
    let lines = ["serial", "console", "shell"];
    for line in &lines[..if spec.shell { 3 } else { 2 }] {
        let socket = sockets.join(line);
        let logfile = directory.join(format!("{log}.{line}.log"));
        add(
            "-chardev",
            format!(
                "socket,id={line},path={},server=on,wait=off,logfile={}",
                socket.display(),
                logfile.display()
            ),
        );
        add("-serial", format!("chardev:{line}"));
    }
    add(
        "-chardev",
        format!(
            "socket,id=qmp,path={},server=on,wait=off",
            sockets.join("qmp").display()
        ),
    );
    add("-mon", "chardev=qmp,mode=control".to_owned());
    list.extend(["-nodefaults", "-no-user-config", "-S"].map(str::to_owned));
    Ok(list)
}

/// The network behind card `index`.
#[must_use]
pub(crate) fn netdev(spec: &Spec, index: usize, plug: &Plug) -> Value {
    let id = format!("net{index}");
    match plug {
        Plug::Router => {
            let mut node = json!({
                "type": "user", "id": id, "net": "192.168.77.0/24", "dhcpstart": spec.dhcp_address(),
            });
            if let Boot::Network { directory, file } = &spec.boot {
                node["tftp"] = json!(directory);
                node["bootfile"] = json!(file);
            }
            node
        }
        Plug::Cable { here, there } => json!({
            "type": "dgram", "id": id,
            "local": { "type": "unix", "path": here },
            "remote": { "type": "unix", "path": there },
        }),
    }
}
