//! Would the checkers notice? The cores are copied, broken in one way after
//! the other, and the simulator must find every one.
//!
//! All mutations are built at once, into one binary, each guarded by a
//! generated `mutation::is(number)`; which one is live is told at run time.
//! Nothing of this is in the real cores.
#![allow(missing_docs, reason = "tests")]

mod copy;
mod mutants;

use std::path::Path;
use std::process::Command;

use copy::Copy;
use mutants::MUTANTS;

/// Most schedules one mutation may survive.
const SCHEDULES_MAX: u64 = 60_000;

#[test]
fn every_mutation_of_the_cores_is_caught() {
    let copy = Copy::make();
    copy.plant(MUTANTS);
    let binary = copy.build();
    // Otherwise a mutation might be "caught" for a reason of the copy's.
    let (code, told) = simulate(&binary, 0, 0, 3000);
    assert_eq!(code, Some(0), "the copy without a mutation: {told}");
    let mut survivors = Vec::new();
    for (index, mutant) in MUTANTS.iter().enumerate() {
        // Where it was caught before it is likely to be caught again.
        let again = simulate(&binary, index + 1, mutant.seed, 1);
        let result = match again {
            (Some(1), _) => again,
            _ => simulate(&binary, index + 1, 0, SCHEDULES_MAX),
        };
        match result {
            (Some(1), told) => println!("{}: {told}", mutant.name),
            (Some(0), _) => survivors.push(mutant.name),
            (code, told) => panic!("{}: exit code {code:?}: {told}", mutant.name),
        }
    }
    assert!(
        survivors.is_empty(),
        "not caught in {SCHEDULES_MAX} schedules: {survivors:#?}"
    );
}

fn simulate(binary: &Path, mutation: usize, first: u64, schedules: u64) -> (Option<i32>, String) {
    let output = Command::new(binary)
        .env("MUTATION", mutation.to_string())
        .args(["--first-failure", "--first", &first.to_string()])
        .args(["--count", &schedules.to_string()])
        .output()
        .expect("the simulator runs");
    let told = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.code(), told)
}
