//! Trees of files: made to be stored, and compared with what came back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::random::Random;

/// Everything about an entry that a store must bring back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Facts {
    Directory,
    File { hash: blake3::Hash, bytes: u64, mtime_ms: i64, executable: bool },
}

/// Writes a file with a modification time of its own, in the past.
pub fn write(path: &Path, bytes: &[u8], mtime_ms: u64, executable: bool) {
    fs::create_dir_all(path.parent().expect("it is in a directory")).expect("a directory");
    fs::write(path, bytes).expect("the file can be written");
    let file = File::options().append(true).open(path).expect("it was just written");
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(mtime_ms);
    file.set_modified(time).expect("it is ours");
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// Makes a tree with everything that is awkward: sizes around the chunk size, empty files and
/// directories, names with spaces, quotes and accents, executables, old times, deep paths.
pub fn awkward(root: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let chunk = 4 << 20;
    let sizes = [0, 9, 4095, 65_536, 65_537, chunk - 1, chunk, chunk + 1, 2 * chunk + 12_345];
    for (index, size) in sizes.into_iter().enumerate() {
        let path = root.join(format!("sizes/{size}.bin"));
        write(&path, &random.bytes(size), 1_000_000_007 * index as u64, index % 2 == 1);
    }
    for name in ["with space", "quo\"te's", "größe-尺", "-dash", "#hash%20", ".hidden"] {
        write(&root.join("names").join(name), &random.bytes(20), 1_234_567_890_123, false);
    }
    let deep: PathBuf = (0..40).map(|level| format!("level-{level}")).collect();
    write(&root.join(deep).join("bottom"), &random.bytes(30), 999_999_999_999, true);
    for empty in ["empty", "empty-2/inner"] {
        fs::create_dir_all(root.join(empty)).expect("a directory");
    }
}

/// Makes `count` small files in a few directories.
pub fn many(root: &Path, count: usize, seed: u64) {
    let mut random = Random::new(seed);
    for index in 0..count {
        let size = random.below(3000) as usize;
        let path = root.join(format!("d{}/e{}/f{index}", index % 7, index % 13));
        write(&path, &random.bytes(size), 1_500_000_000_000 + index as u64, index % 5 == 0);
    }
}

/// All entries below `root`, by their path from there; none when there is no such directory.
pub fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut left: Vec<_> = root.is_dir().then(|| root.to_path_buf()).into_iter().collect();
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap_or_else(|e| panic!("{directory:?}: {e}")) {
            let path = entry.expect("the directory can be read").path();
            let metadata = fs::symlink_metadata(&path).expect("it was just listed");
            let of_it = if metadata.is_dir() {
                left.push(path.clone());
                Facts::Directory
            } else {
                file_facts(&path, &metadata)
            };
            found.insert(path.strip_prefix(root).expect("it is below").to_path_buf(), of_it);
        }
    }
    found
}

fn file_facts(path: &Path, metadata: &fs::Metadata) -> Facts {
    Facts::File {
        hash: blake3::hash(&fs::read(path).expect("it can be read")),
        bytes: metadata.len(),
        mtime_ms: metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000,
        executable: metadata.permissions().mode() & 0o100 != 0,
    }
}

/// Fails the test, naming the differences, unless both trees are the same.
pub fn assert_same(original: &Path, copy: &Path) {
    let (original, copy) = (facts(original), facts(copy));
    let differ: Vec<_> = original
        .keys()
        .chain(copy.keys())
        .filter(|path| original.get(*path) != copy.get(*path))
        .map(|path| format!("{path:?}: {:?} became {:?}", original.get(path), copy.get(path)))
        .collect();
    assert!(differ.is_empty(), "{} differ: {:#?}", differ.len(), &differ[..differ.len().min(10)]);
}
