//! Finding a watchdog device: the hardware's by loading its driver, the
//! kernel's own timer (softdog) as the last resort.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use crate::boot::steps::{Context, load_modules};
use crate::time;

/// Where devices are looked for when the configuration names none.
const USUAL: [&str; 2] = ["/dev/watchdog0", "/dev/watchdog1"];
/// PCI functions that are nothing but a watchdog, and their drivers: these are
/// loaded at once, without waiting for coldplug.
const PCI: [(&str, &str, &str); 2] = [
    ("0x8086", "0x25ab", "i6300esb"),
    ("0x103c", "0x3306", "hpwdt"),
];
/// Drivers for watchdogs inside chipsets and firmware, tried when coldplug brought none.
const PLATFORM: [&str; 3] = ["wdat_wdt", "iTCO_wdt", "sp5100_tco"];

/// Waits for the device `wanted`, or for any of the usual ones.
///
/// # Errors
/// A text that says what was looked for.
pub async fn find(context: &Rc<Context>, wanted: Option<PathBuf>) -> Result<PathBuf, String> {
    let candidates: Vec<PathBuf> = match &wanted {
        Some(path) => vec![path.clone()],
        None => USUAL.iter().map(PathBuf::from).collect(),
    };
    let present = || candidates.iter().find(|path| path.exists()).cloned();
    load_modules(context, &pci_drivers(Path::new("/sys/bus/pci/devices"))).await;
    let facts: &RefCell<_> = &context.facts;
    while present().is_none() && !facts.borrow().devices_settled(time::now()) {
        smol::Timer::after(Duration::from_millis(200)).await;
    }
    for driver in PLATFORM {
        if present().is_some() {
            break;
        }
        load_modules(context, &[driver]).await;
    }
    if present().is_none() && wanted.is_none() {
        tracing::warn!(
            "no hardware watchdog found; the kernel's own timer (softdog) takes its place, which does not survive a hung kernel"
        );
        load_modules(context, &["softdog"]).await;
        // The node appears a moment after the driver.
        for _ in 0..20 {
            if present().is_some() {
                break;
            }
            smol::Timer::after(Duration::from_millis(100)).await;
        }
    }
    present().ok_or_else(|| {
        let looked: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        format!("no watchdog: {} not found; check the machine's firmware settings or set watchdog.device", looked.join(", "))
    })
}

fn pci_drivers(devices: &Path) -> Vec<&'static str> {
    let Ok(entries) = std::fs::read_dir(devices) else {
        return Vec::new();
    };
    let read = |path: PathBuf| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let ids: Vec<(String, String)> = entries
        .flatten()
        .map(|entry| {
            (
                read(entry.path().join("vendor")),
                read(entry.path().join("device")),
            )
        })
        .collect();
    let known = |&&(vendor, device, _): &&(&str, &str, &str)| {
        ids.iter().any(|(v, d)| v == vendor && d == device)
    };
    PCI.iter()
        .filter(known)
        .map(|&(_, _, driver)| driver)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_on_pci_names_its_driver() {
        let directory = std::env::temp_dir().join(format!("holdfast-pci-{}", std::process::id()));
        for (slot, vendor, device) in [
            ("0000:00:01.0", "0x1af4", "0x1000"),
            ("0000:00:02.0", "0x8086", "0x25ab"),
        ] {
            std::fs::create_dir_all(directory.join(slot)).unwrap();
            std::fs::write(directory.join(slot).join("vendor"), format!("{vendor}\n")).unwrap();
            std::fs::write(directory.join(slot).join("device"), format!("{device}\n")).unwrap();
        }
        assert_eq!(pci_drivers(&directory), ["i6300esb"]);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(pci_drivers(&directory), [""; 0]);
    }
}
