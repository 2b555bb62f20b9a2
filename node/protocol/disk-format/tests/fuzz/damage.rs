//! Every golden sample of a domain with 1000 kinds of damage each, always the
//! same: no reader panics, reads without end, or asks for more than there is.
//! Unlike other inputs these are near what a disk really has: one or
//! two places of a whole record are another, wherever in it they are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{Random, bodies};

/// Damaged copies of each sample.
const COPIES: u64 = 1000;
/// Numbers that counters, sizes and places run over at.
const NUMBERS: [&str; 9] = [
    "0",
    "-1",
    "-9223372036854775808",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999999",
    "4294967296",
    "2147483648",
];

/// What reads the samples of a folder, and how many copies each reads: all, but of
/// what is large and was read by another.
fn readers(path: &Path) -> &'static [(&'static str, u64)] {
    const ALL: u64 = COPIES;
    let text = path.display().to_string();
    if text.contains("lvm-ring") || text.contains("vdsm-lvm") {
        &[
            ("vdsm_text", ALL),
            ("vdsm_device", ALL),
            ("vdsm_report", ALL),
        ]
    } else if text.contains("vdsm-metadata") {
        &[
            ("vdsm_volume", ALL),
            ("vdsm_domain", ALL),
            ("vdsm_tags", ALL),
            ("vdsm_check", ALL),
        ]
    } else if text.contains("vdsm-tasks") {
        &[("vdsm_task", ALL)]
    } else if text.contains("vdsm-mailbox") {
        &[("vdsm_mailbox", ALL), ("vdsm_check", ALL)]
    } else {
        &[("vdsm_index", ALL), ("vdsm_check", 100)]
    }
}

fn samples(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut inside: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the golden samples")
        .map(|entry| entry.expect("a name").path())
        .collect();
    inside.sort();
    for path in inside {
        if path.is_dir() {
            samples(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Damage to bytes.
fn damage_bytes(random: &mut Random, bytes: &mut Vec<u8>) {
    let length = bytes.len();
    let place = random.below(length);
    match random.below(6) {
        0 => bytes.truncate(place),
        1 => {
            // A sector that was never written, or was written twice.
            let sector = place & !511;
            let end = (sector + 512).min(length);
            bytes[sector..end].fill(0);
        }
        2 if length >= 1024 => {
            let from = random.below(length - 512) & !511;
            let to = random.below(length - 512) & !511;
            bytes.copy_within(from..from + 512, to);
        }
        3 if length > 8 => {
            let place = place.min(length - 8);
            let number = u64::MAX >> random.below(64);
            bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
        }
        _ if length > 0 => bytes[place] ^= 1 << random.below(8),
        _ => {}
    }
}

/// Damage to text of lines.
fn damage_text(random: &mut Random, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let place = random.below(lines.len());
    let other = random.below(lines.len());
    match random.below(6) {
        0 => drop(lines.remove(place)),
        1 => lines.insert(other, lines[place].clone()),
        2 => lines.swap(place, other),
        3 => lines.truncate(place),
        4 => {
            // Another value of some key here.
            let value = lines[other]
                .split_once('=')
                .map(|(_, value)| value.to_owned());
            if let (Some((key, _)), Some(value)) = (lines[place].split_once('='), value) {
                lines[place] = format!("{key}={value}");
            }
        }
        _ => {
            let line = &lines[place];
            let number = NUMBERS[random.below(NUMBERS.len())];
            let digits = |c: char| c.is_ascii_digit();
            if let Some(start) = line.find(digits) {
                let rest = &line[start..];
                let end = rest.find(|c| !digits(c)).unwrap_or(rest.len());
                lines[place] = format!("{}{number}{}", &line[..start], &rest[end..]);
            }
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn no_damage_to_a_golden_sample_breaks_a_promise() {
    let mut found = Vec::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for folder in [
        "lvm-ring",
        "vdsm-lvm",
        "vdsm-mailbox",
        "vdsm-metadata",
        "vdsm-tasks",
    ] {
        samples(&golden.join(folder), &mut found);
    }
    samples(&golden.join("vdsm-xlease"), &mut found);
    assert!(found.len() >= 45, "the golden samples are there");
    let (first, second) = found.split_at(found.len() / 2);
    std::thread::scope(|scope| {
        for half in [first, second] {
            scope.spawn(move || half.iter().for_each(|path| run(path)));
        }
    });
}

fn run(path: &Path) {
    let sample = std::fs::read(path).expect("a sample");
    let text = std::str::from_utf8(&sample)
        .ok()
        .filter(|text| text.contains('\n'));
    for seed in 0..COPIES {
        let mut random = Random(seed);
        let mut bytes = sample.clone();
        if let Some(text) = text
            && random.below(3) > 0
        {
            bytes = damage_text(&mut random, text).into_bytes();
        }
        for _ in 0..=random.below(2) {
            if !bytes.is_empty() {
                damage_bytes(&mut random, &mut bytes);
            }
        }
        for (name, copies) in readers(path) {
            if seed >= *copies {
                continue;
            }
            let (_, body) = bodies::vdsm::BODIES
                .iter()
                .find(|(known, _)| known == name)
                .expect("a reader");
            let outcome = catch_unwind(AssertUnwindSafe(|| body(&bytes)));
            assert!(outcome.is_ok(), "{name}, {}, seed {seed}", path.display());
        }
    }
}
