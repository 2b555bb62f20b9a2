//! The fuzz bodies on damaged golden samples and random bytes, for a bounded
//! number of inputs. `HOLDFAST_FUZZ_INPUTS` sets another number, and
//! `HOLDFAST_FUZZ_SEED` another seed; a failure prints its input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[path = "../fuzz/bodies.rs"]
#[expect(unreachable_pub, reason = "a library of its own for cargo-fuzz")]
mod bodies;
#[path = "fuzz/damage.rs"]
mod damage;

/// Inputs for each body unless told otherwise: seconds, even without
/// optimisation.
const INPUTS: u64 = 40_000;
/// Longest input in bytes: a few sectors of the larger size.
const BYTES_MAX: usize = 12_288;

/// A small generator, good enough to choose damage.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 32).expect("32 bits") % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        let interesting = [0, 1, 0x7f, 0x80, 0xff];
        match self.below(3) {
            0 => interesting[self.below(interesting.len())],
            _ => self.next().to_le_bytes()[0],
        }
    }
}

/// Leases are in the folder itself, domains in folders of it.
fn samples(of_domains: bool) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let (mut files, mut folders) = list(&folder);
    if of_domains {
        files.clear();
        while let Some(folder) = folders.pop() {
            let (more, inside) = list(&folder);
            files.extend(more);
            folders.extend(inside);
        }
        files.sort();
    }
    files
        .into_iter()
        .map(|name| {
            let mut sample = std::fs::read(name).expect("a sample");
            sample.truncate(BYTES_MAX);
            sample
        })
        .collect()
}

/// Files and folders of a folder.
fn list(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the golden samples")
        .map(|entry| entry.expect("a name").path())
        .collect();
    names.sort();
    names.into_iter().partition(|name| name.is_file())
}

/// An input: mostly a damaged sample, sometimes noise. Often the checksums are
/// made right again, so that what lies behind them is reached too.
fn input(random: &mut Random, samples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = if random.below(8) == 0 {
        (0..random.below(700)).map(|_| random.byte()).collect()
    } else {
        samples[random.below(samples.len())].clone()
    };
    if random.below(4) == 0 {
        // Another record comes first.
        let start = random.below(bytes.len()) & !511;
        bytes.drain(..start);
    }
    for _ in 0..random.below(5) {
        let length = bytes.len();
        match random.below(5) {
            0 => bytes.truncate(random.below(length + 1)),
            1 => bytes.extend((0..random.below(64)).map(|_| 0)),
            2 if length > 8 => {
                let place = random.below(length - 8);
                let number = random.next() >> random.below(64);
                bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
            }
            _ if length > 0 => {
                let place = random.below(length.min(260));
                bytes[place] = random.byte();
            }
            _ => {}
        }
    }
    if random.below(2) == 0 {
        seal(&mut bytes, 0, 168);
    } else if random.below(2) == 0 {
        seal(&mut bytes, 0, 48);
    }
    bytes.truncate(BYTES_MAX);
    if random.below(3) == 0 {
        // For bodies that take their first two bytes as a choice.
        bytes.splice(0..0, [random.byte(), random.byte() % 16]);
    }
    bytes
}

fn seal(bytes: &mut [u8], start: usize, covered: usize) {
    if let Some(record) = bytes.get_mut(start..start + covered + 4) {
        let checksum = bodies::slow_checksum(&record[..covered]);
        record[covered..].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

#[test]
fn no_bytes_break_a_promise() {
    let seed = number("HOLDFAST_FUZZ_SEED").unwrap_or(1);
    let inputs = number("HOLDFAST_FUZZ_INPUTS").unwrap_or(INPUTS);
    let samples = samples(false);
    assert!(samples.len() >= 27, "the golden samples are there");
    std::thread::scope(|scope| {
        for (name, body) in bodies::BODIES {
            let samples = &samples;
            scope.spawn(move || run(name, body, seed, inputs, samples));
        }
    });
}

#[test]
fn no_bytes_break_a_promise_of_domains() {
    let seed = number("HOLDFAST_FUZZ_SEED").unwrap_or(1);
    let inputs = number("HOLDFAST_FUZZ_INPUTS").unwrap_or(INPUTS / 10);
    let samples = samples(true);
    assert!(samples.len() >= 50, "the golden samples are there");
    std::thread::scope(|scope| {
        for (name, body) in bodies::vdsm::BODIES {
            let samples = &samples;
            scope.spawn(move || run(name, body, seed, inputs, samples));
        }
    });
}

fn run(name: &str, body: bodies::Body, seed: u64, inputs: u64, samples: &[Vec<u8>]) {
    let mut random = Random(seed);
    for sample in samples {
        body(sample);
    }
    for turn in 0..inputs {
        let bytes = input(&mut random, samples);
        if catch_unwind(AssertUnwindSafe(|| body(&bytes))).is_err() {
            panic!("{name}, seed {seed}, input {turn}: {bytes:02x?}");
        }
    }
}
