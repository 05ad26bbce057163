//! The house: which module may know which, and how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// No file is longer; an evening is enough to read one.
const MAX_LINES: usize = 500;

const VOCABULARY: [&str; 6] = ["ids", "clock", "remote_path", "durable", "size", "causes"];

/// What each module may import, besides itself and the vocabulary.
const ARROWS: [(&str, &[&str]); 12] = [
    ("safety", &[]),
    ("token", &[]),
    ("policy", &[]),
    ("wire", &["token"]),
    ("server", &["wire"]),
    ("metrics", &[]),
    ("catalog", &[]),
    ("segments", &[]),
    ("journal", &[]),
    ("main_server", &["wire", "token", "policy", "server", "catalog", "metrics", "journal"]),
    ("storage_node", &["wire", "token", "policy", "server", "segments", "metrics", "journal"]),
    ("client", &["wire", "token", "policy"]),
];

/// The top of the house: the roles, and what one reads of theirs without running them.
const CLI: [&str; 9] = [
    "main_server",
    "storage_node",
    "client",
    "wire",
    "server",
    "metrics",
    "catalog",
    "segments",
    "policy",
];

/// The test that holds protocol.md against the code looks at the bounds of all who keep to it.
const LOOKS_AT_ALL: &str = "src/wire/protocol_doc.rs";

/// What the tests inside of a module may use beyond its arrows, to play the other side.
const PEERS_IN_TESTS: &str = "server";

fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut all: BTreeMap<_, BTreeSet<_>> =
        ARROWS.map(|(from, to)| (from, to.iter().copied().chain(VOCABULARY).collect())).into();
    all.insert("cli", CLI.into_iter().chain(VOCABULARY).collect());
    // A word of the vocabulary knows no other, but for the ones that are built on it.
    all.extend(VOCABULARY.map(|word| (word, BTreeSet::new())));
    all
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below a directory, with its text.
pub fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let (mut found, mut left) = (Vec::new(), vec![root().join(directory)]);
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the repository") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source is text");
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// The modules that a file stands in, from the crate's root down.
fn module_of(path: &Path) -> Vec<String> {
    let below = path.strip_prefix(root().join("src")).expect("it is in src").with_extension("");
    let mut parts: Vec<String> =
        below.iter().map(|part| part.to_str().expect("plain names").to_string()).collect();
    if matches!(parts.last().map(String::as_str), Some("mod" | "lib")) {
        parts.pop();
    }
    parts
}

/// The top modules that a file names by `crate::` and `super::` paths.
fn imports(module: &[String], text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // Modules inside of the file: rustfmt begins and ends them at the margin.
    let mut inner = 0;
    for (at, line) in lines_with_offsets(text) {
        if line.starts_with("mod ") && line.ends_with('{') {
            inner = 1;
        } else if line == "}" {
            inner = 0;
        }
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (column, _) in line.match_indices("crate::") {
            found.extend(heads(&text[at + column + "crate::".len()..]));
        }
        for (column, _) in line.match_indices("super::") {
            if line[..column].ends_with("super::") {
                continue;
            }
            let rest = &text[at + column..];
            let ups = rest.split("super::").take_while(|part| part.is_empty()).count();
            if ups == module.len() + inner {
                found.extend(heads(&rest[ups * "super::".len()..]));
            }
        }
    }
    found
}

fn lines_with_offsets(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |at, line| {
        let start = *at;
        *at += line.len();
        Some((start, line.trim_end()))
    })
}

/// The first names of a path, of which there are several in braces.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(list) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut depth, mut names, mut start) = (0, Vec::new(), 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&list[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

#[test]
fn modules_import_only_along_the_arrows() {
    let allowed = allowed();
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        if path.ends_with(LOOKS_AT_ALL) {
            continue;
        }
        let module = module_of(&path);
        let Some(own) = module.first() else { continue };
        let Some(may) = allowed.get(own.as_str()) else {
            wrong.push(format!("{} is in no arrow", path.display()));
            continue;
        };
        for import in imports(&module, &text) {
            let known = allowed.contains_key(import.as_str());
            let is_fake_peer = import == PEERS_IN_TESTS && path.iter().any(|part| part == "tests");
            if known && import != *own && !may.contains(import.as_str()) && !is_fake_peer {
                wrong.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    for (path, text) in sources("bin") {
        let heads: BTreeSet<_> = text
            .match_indices("p2pdfs::")
            .flat_map(|(at, found)| heads(&text[at + found.len()..]))
            .collect();
        if heads != BTreeSet::from(["cli".to_string()]) {
            wrong.push(format!("{} names {heads:?}: a program is one call of cli", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_arrows_test_sees_every_way_to_write_a_path() {
    let text = "use crate::{a::{b, c}, d, e as f};\nuse super::super::g::h;\nuse super::i;\n\
                fn x() { crate::j::k(); }\n// crate::not\nmod tests {\n    use super::super::super::l;\n}\n";
    let module = ["m".to_string(), "n".to_string()];
    let found = imports(&module, text);
    let expected = ["a", "d", "e", "g", "j", "l"].map(str::to_string);
    assert_eq!(found, BTreeSet::from(expected));
}

#[test]
fn no_file_is_longer_than_an_evening() {
    let files = ["src", "bin", "tests", "benches"].into_iter().flat_map(sources);
    let long: Vec<_> = files
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}
