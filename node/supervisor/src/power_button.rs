//! The power button, heard as a key of an input device.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use smol::Async;

/// `EV_KEY`.
const EVENT_TYPE_KEY: u16 = 1;
/// `KEY_POWER`.
const KEY_POWER: u16 = 116;
/// `struct input_event` on 64-bit machines: two longs, two shorts, one int.
const EVENT_BYTES: usize = 24;

/// Input devices present now that have a power key.
#[must_use]
pub fn present(sys_class_input: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(sys_class_input) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| has_power_key(sys_class_input, name))
        .collect()
}

/// Whether the input device `name` (`event3`) has a power key.
#[must_use]
pub fn has_power_key(sys_class_input: &Path, name: &str) -> bool {
    let file = sys_class_input.join(name).join("device/capabilities/key");
    name.starts_with("event")
        && std::fs::read_to_string(file).is_ok_and(|text| bit_is_set(&text, KEY_POWER.into()))
}

/// The kernel prints bit maps as words of 64 bits, highest first.
fn bit_is_set(words: &str, bit: usize) -> bool {
    let word = words.split_whitespace().rev().nth(bit / 64);
    word.and_then(|word| u64::from_str_radix(word, 16).ok())
        .is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

/// Waits until the key is pressed on the device `name`.
///
/// # Errors
/// The device cannot be opened, or went away.
pub async fn pressed(name: &str) -> io::Result<()> {
    let path: PathBuf = Path::new("/dev/input").join(name);
    let device = Async::new(File::open(path)?)?;
    let mut buffer = [0; EVENT_BYTES * 16];
    loop {
        let length = device.read_with(|mut file| file.read(&mut buffer)).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buffer[..length].chunks_exact(EVENT_BYTES).any(is_press) {
            return Ok(());
        }
    }
}

fn is_press(event: &[u8]) -> bool {
    let u16_at = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    u16_at(16) == EVENT_TYPE_KEY && u16_at(18) == KEY_POWER && event[20..24] == 1_i32.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_power_key_is_found_in_the_kernels_bit_map() {
        assert!(bit_is_set("10000000000000 0\n", 116), "an ACPI button");
        assert!(!bit_is_set("fffffffffffffffe\n", 116), "a mouse");
        assert!(!bit_is_set("", 116));
    }

    #[test]
    fn only_a_press_of_that_key_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![0; 16];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        assert!(is_press(&event(1, 116, 1)));
        assert!(!is_press(&event(1, 116, 0)), "released");
        assert!(!is_press(&event(1, 30, 1)), "another key");
        assert!(!is_press(&event(0, 116, 1)), "not a key");
    }
}
