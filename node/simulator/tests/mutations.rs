//! Would the checkers notice? The cores are copied, broken in one way after
//! the other, and the simulator must find every one.
//!
//! All mutations are built at once, into one binary, each guarded by a
//! generated `mutation::is(number)`; which one is live is told at run time.
//! Nothing of this is in the real cores.
#![allow(missing_docs, reason = "tests")]

mod copy;
mod mutants;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use copy::Copy;
use mutants::{MUTANTS, Mutant};

/// Most schedules one mutation of the leases may survive.
const SCHEDULES_MAX: u64 = 60_000;
/// The same for the mailbox, whose schedules are longer.
const STORAGE_SCHEDULES_MAX: u64 = 6_000;

/// The copy with all mutations in it, built once.
static BINARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let copy = Copy::make();
    copy.plant("lease", 1, MUTANTS);
    copy.plant("mailbox", 1 + MUTANTS.len(), mutants::mailbox::MUTANTS);
    copy.build()
});

#[test]
fn every_mutation_of_the_cores_is_caught() {
    every_one_is_caught(MUTANTS, 1, false, 3_000, SCHEDULES_MAX);
}

#[test]
fn every_mutation_of_the_mailbox_is_caught() {
    let mutants = mutants::mailbox::MUTANTS;
    every_one_is_caught(mutants, 1 + MUTANTS.len(), true, 500, STORAGE_SCHEDULES_MAX);
}

fn every_one_is_caught(mutants: &[Mutant], first: usize, storage: bool, healthy: u64, most: u64) {
    // Otherwise a mutation might be "caught" for a reason of the copy's.
    let (code, told) = simulate(storage, 0, 0, healthy);
    assert_eq!(code, Some(0), "the copy without a mutation: {told}");
    let mut survivors = Vec::new();
    for (index, mutant) in mutants.iter().enumerate() {
        // Where it was caught before it is likely to be caught again.
        let again = simulate(storage, first + index, mutant.seed, 1);
        let result = match again {
            (Some(1), _) => again,
            _ => simulate(storage, first + index, 0, most),
        };
        match result {
            (Some(1), told) => println!("{}: {told}", mutant.name),
            (Some(0), _) => survivors.push(mutant.name),
            (code, told) => panic!("{}: exit code {code:?}: {told}", mutant.name),
        }
    }
    assert!(
        survivors.is_empty(),
        "not caught in {most} schedules: {survivors:#?}"
    );
}

fn simulate(storage: bool, mutation: usize, first: u64, schedules: u64) -> (Option<i32>, String) {
    let binary: &Path = &BINARY;
    let output = Command::new(binary)
        .env("MUTATION", mutation.to_string())
        .args(storage.then_some("--storage"))
        .args(["--first-failure", "--first", &first.to_string()])
        .args(["--count", &schedules.to_string()])
        .output()
        .expect("the simulator runs");
    let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.code(), told)
}
