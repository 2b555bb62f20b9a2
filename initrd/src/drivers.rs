//! Drivers: which modules the machine's devices ask for, in which order.
//!
//! Only what a present device claims is loaded, one module at a time and the
//! likeliest first, so that the search for the root can stop in between: a SATA
//! controller without disks takes longer to look at than everything else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use linux::error::{Error, chain};
use linux::module::Loader;

/// Names of modules that no device asks for, in the order to load them, one a
/// line: what the root's file system needs.
pub(crate) const EXTRA_MODULES: &str = "/etc/holdfast/modules";

/// Most modules waiting to be loaded; more are left out. An initrd carries about
/// a hundred.
const WAITING_MAX: usize = 1000;

/// What is loaded, what is waiting, what went wrong.
#[derive(Debug)]
pub(crate) struct Drivers {
    loader: Option<Loader>,
    /// By urgency, then in the order they were asked for.
    waiting: BTreeMap<(u8, usize), String>,
    asked: usize,
    loaded: Vec<String>,
    failures: Vec<String>,
}

impl Drivers {
    /// Takes the modules there are; without any (all drivers are built in, or the
    /// initrd is another kernel's) only a failure is noted. `extra` modules come
    /// after those that devices ask for, or with [`Drivers::load_extra`].
    pub(crate) fn new(loader: Result<Loader, Error>, extra: &str) -> Self {
        let mut drivers = Self {
            loader: None,
            waiting: BTreeMap::new(),
            asked: 0,
            loaded: Vec::new(),
            failures: Vec::new(),
        };
        match loader {
            Ok(loader) => drivers.loader = Some(loader),
            Err(error) => drivers
                .failures
                .push(format!("no modules for this kernel: {}", chain(&error))),
        }
        for name in extra.split_whitespace() {
            drivers.wait_for(URGENCY_LAST, name);
        }
        drivers
    }

    /// Asks for the drivers of all devices present.
    pub(crate) fn ask_for_present(&mut self, sys: &Path) {
        for alias in present_aliases(sys) {
            self.ask_for(&alias);
        }
    }

    /// Asks for the drivers of the device with this alias.
    pub(crate) fn ask_for(&mut self, alias: &str) {
        let wanted = self
            .loader
            .as_ref()
            .map(|loader| loader.wanted_by(alias))
            .unwrap_or_default();
        for name in wanted {
            self.wait_for(urgency(alias), &name);
        }
    }

    fn wait_for(&mut self, urgency: u8, name: &str) {
        let is_waiting = self.waiting.values().any(|waiting| waiting == name);
        if !is_waiting && self.waiting.len() < WAITING_MAX {
            self.asked += 1;
            self.waiting.insert((urgency, self.asked), name.to_owned());
        }
    }

    /// True if [`Drivers::load_next`] has something to do.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Loads the next module asked for. Failures are kept for the report.
    pub(crate) fn load_next(&mut self) {
        if let Some((_, name)) = self.waiting.pop_first() {
            self.need(&name);
        }
    }

    /// Loads the extra modules that were not loaded yet, and nothing else.
    pub(crate) fn load_extra(&mut self) {
        let extra = self.waiting.split_off(&(URGENCY_LAST, 0));
        for name in extra.values() {
            self.need(name);
        }
    }

    /// Loads the module with this name or alias now.
    pub(crate) fn need(&mut self, name: &str) {
        let Some(loader) = &mut self.loader else {
            return;
        };
        match loader.load(name) {
            Ok(loaded) => self.loaded.extend(loaded),
            Err(error) => self.failures.push(chain(&error)),
        }
    }

    /// Names of the modules loaded so far, separated by blanks.
    pub(crate) fn summary(&self) -> String {
        if self.loaded.is_empty() {
            return "none".to_owned();
        }
        self.loaded.join(" ")
    }

    /// What may explain a missing disk: failures, and storage controllers that no
    /// driver took.
    pub(crate) fn notes(&self, sys: &Path) -> Vec<String> {
        let mut notes = self.failures.clone();
        notes.push(format!("modules loaded: {}", self.summary()));
        notes.extend(controllers_without_driver(sys));
        notes
    }
}

/// The aliases of all devices on a bus. Far fewer files than below
/// `/sys/devices`, and the rest has no driver to load.
fn present_aliases(sys: &Path) -> Vec<String> {
    let mut aliases = Vec::new();
    for bus in entries(&sys.join("bus")) {
        for device in entries(&bus.join("devices")) {
            if let Ok(alias) = fs::read_to_string(device.join("modalias")) {
                aliases.push(alias.trim().to_owned());
            }
        }
    }
    aliases
}

fn controllers_without_driver(sys: &Path) -> Vec<String> {
    let mut notes = Vec::new();
    for device in entries(&sys.join("bus/pci/devices")) {
        let read = |file: &str| {
            let text = fs::read_to_string(device.join(file)).unwrap_or_default();
            text.trim().trim_start_matches("0x").to_owned()
        };
        // Class 01: mass storage.
        if read("class").starts_with("01") && !device.join("driver").exists() {
            let slot = device.file_name().unwrap_or_default().to_string_lossy();
            notes.push(format!(
                "storage controller {slot} ({}:{}) has no driver",
                read("vendor"),
                read("device")
            ));
        }
    }
    notes
}

fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(found) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = found.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

const URGENCY_LAST: u8 = 9;

/// Lower is sooner: what answers at once and likely carries the root, then what
/// takes its time to look for disks, then what only leads to other buses.
fn urgency(alias: &str) -> u8 {
    let has = |part: &str| alias.contains(part);
    match alias.split(':').next().unwrap_or_default() {
        "virtio" | "scsi" => 0,
        // Virtio over PCI, and NVMe.
        "pci" if alias.starts_with("pci:v00001AF4") || has("bc01sc08") => 1,
        // IDE and SATA.
        "pci" if has("bc01sc01") || has("bc01sc06") => 3,
        "pci" if has("bc01") => 2,
        // USB controllers and what is behind them.
        "usb" => 4,
        "pci" if has("bc0Csc03") => 4,
        _ => 5,
    }
}

#[cfg(test)]
mod tests {
    use linux::module::Settings;

    use super::*;

    const NVME: &str = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02";
    const SATA: &str = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01";
    const RAID: &str = "pci:v00001000d0000005Dsv00001028sd00001F42bc01sc04i00";
    const VIRTIO: &str = "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00";
    const XHCI: &str = "pci:v00001B36d0000000Dsv00001AF4sd00001100bc0Csc03i30";

    #[test]
    fn quick_disks_come_before_slow_ones_and_other_buses_last() {
        let mut aliases = [
            XHCI,
            SATA,
            RAID,
            NVME,
            "virtio:d00000002v00001AF4",
            "acpi:X:",
        ];
        aliases.sort_by_key(|alias| urgency(alias));
        let sorted = [
            "virtio:d00000002v00001AF4",
            NVME,
            RAID,
            SATA,
            XHCI,
            "acpi:X:",
        ];
        assert_eq!(aliases, sorted);
        assert!(urgency(VIRTIO) < urgency(RAID));
    }

    fn drivers(dir: &Path, extra: &str) -> Drivers {
        let dep = "ahci.ko:\nnvme.ko:\nvirtio_blk.ko:\nsd_mod.ko:\n";
        let alias = "alias pci:v*d*sv*sd*bc01sc06i01* ahci\n\
                     alias pci:v*d*sv*sd*bc01sc08i02* nvme\n\
                     alias scsi:t-0x00* sd_mod\n";
        fs::write(dir.join("modules.dep"), dep).expect("write");
        fs::write(dir.join("modules.alias"), alias).expect("write");
        Drivers::new(Loader::new(dir, Settings::default()), extra)
    }

    /// A `/sys` with one PCI device per name and alias.
    fn sys(dir: &Path, devices: &[(&str, &str)]) {
        for (slot, alias) in devices {
            let device = dir.join("bus/pci/devices").join(slot);
            fs::create_dir_all(&device).expect("directory");
            fs::write(device.join("modalias"), format!("{alias}\n")).expect("write");
            fs::write(device.join("class"), "0x010601\n").expect("write");
            fs::write(device.join("vendor"), "0x8086\n").expect("write");
            fs::write(device.join("device"), "0x2922\n").expect("write");
        }
    }

    #[test]
    fn only_present_devices_get_drivers_each_once_extra_modules_last() {
        let dir = tempfile::tempdir().expect("tempdir");
        sys(
            dir.path(),
            &[
                ("0000:00:01.0", SATA),
                ("0000:00:02.0", NVME),
                ("0000:00:03.0", SATA),
            ],
        );
        let mut drivers = drivers(dir.path(), "virtio_blk\n sd-mod\n");
        drivers.ask_for_present(dir.path());
        drivers.ask_for(NVME);
        let waiting: Vec<_> = drivers.waiting.values().map(String::as_str).collect();
        assert_eq!(waiting, ["nvme", "ahci", "virtio_blk", "sd-mod"]);
        drivers.load_extra();
        let waiting: Vec<_> = drivers.waiting.values().map(String::as_str).collect();
        assert_eq!(waiting, ["nvme", "ahci"]);
    }

    #[test]
    fn failures_and_controllers_without_driver_reach_the_report() {
        let dir = tempfile::tempdir().expect("tempdir");
        sys(dir.path(), &[("0000:00:01.0", SATA)]);
        let mut drivers = drivers(dir.path(), "");
        drivers.ask_for_present(dir.path());
        while drivers.is_waiting() {
            drivers.load_next();
        }
        let notes = drivers.notes(dir.path());
        assert!(notes[0].starts_with("open module "), "{notes:?}");
        assert!(notes[0].contains("ahci.ko"), "{notes:?}");
        assert_eq!(notes[1], "modules loaded: none");
        assert_eq!(
            notes[2],
            "storage controller 0000:00:01.0 (8086:2922) has no driver"
        );
    }

    #[test]
    fn initrd_of_another_kernel_is_explained() {
        let empty = tempfile::tempdir().expect("tempdir");
        let loader = Loader::new(empty.path(), Settings::default());
        let mut drivers = Drivers::new(loader, "erofs");
        while drivers.is_waiting() {
            drivers.load_next();
        }
        let notes = drivers.notes(empty.path());
        assert!(
            notes[0].starts_with("no modules for this kernel: read "),
            "{notes:?}"
        );
        assert_eq!(notes[1], "modules loaded: none");
    }
}
