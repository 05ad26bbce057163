//! PROMISES.md names real tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::arrows::sources;

/// The rows of the table of faults.
const FAULTS: usize = 37;

/// The rows of PROMISES.md: what is promised, by its key in the first column, and the tests.
fn rows() -> BTreeMap<String, Vec<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/PROMISES.md");
    let text = fs::read_to_string(path).expect("tests/PROMISES.md");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_string()).collect()
    };
    let table = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|--"));
    let rows = table.map(cells).filter(|row| row[0] != "#");
    rows.map(|row| {
        let tests = row[2].split(',').map(|name| name.trim().trim_matches('`').to_string());
        (row[0].clone(), tests.filter(|name| !name.is_empty()).collect())
    })
    .collect()
}

#[test]
fn every_promise_has_its_tests() {
    let text: String =
        ["src", "tests"].into_iter().flat_map(sources).map(|(_, text)| text).collect();
    let tests: BTreeSet<&str> =
        text.split("fn ").skip(1).filter_map(|rest| rest.split(['(', '<']).next()).collect();
    let rows = rows();
    let missing: Vec<_> = rows
        .values()
        .flatten()
        .filter(|name| name.as_str() != "later" && !tests.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "there are no such tests: {missing:#?}");
    let unshown: Vec<_> = rows.iter().filter(|(_, tests)| tests.is_empty()).collect();
    assert!(unshown.is_empty(), "no test is named for {unshown:?}");
}

#[test]
fn every_row_of_the_faults_and_every_promise_is_listed() {
    let rows = rows();
    let promises = (1..=7).map(|number| format!("P{number}"));
    let faults = (1..=FAULTS).map(|number| number.to_string());
    let unlisted: Vec<_> = promises.chain(faults).filter(|key| !rows.contains_key(key)).collect();
    assert!(unlisted.is_empty(), "not in PROMISES.md: {unlisted:?}");
}
