//! `up`, `down` and `demo`: a whole cluster from one command, in a home that is not the user's.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::harness::{Cli, bytes, run};

/// A home directory whose cluster is taken down at the end, also after a failure.
pub struct Home {
    directory: TempDir,
    pub cluster: PathBuf,
}

impl Home {
    pub fn new() -> Home {
        let directory = TempDir::with_prefix("p2pdfs-home-").expect("a temporary directory");
        let cluster = directory.path().join("cluster");
        Home { directory, cluster }
    }

    pub fn cli(&self) -> Cli {
        Cli::new(self.directory.path(), None)
    }

    pub fn dir(&self) -> &str {
        self.cluster.to_str().expect("a plain path")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.cli().command(&["down", "--dir", self.dir()]).output();
    }
}

/// Processes of ours that run on this directory.
pub fn processes_on(directory: &Path) -> Vec<String> {
    let directory = directory.to_str().expect("a plain path");
    let entries = fs::read_dir("/proc").expect("Linux has it").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains("p2pdfs") && line.contains(directory)).collect()
}

#[test]
fn up_runs_a_cluster_that_is_kept_between_runs() {
    let home = Home::new();
    let cli = home.cli();
    let content = bytes(101, 5 << 20);
    cli.ok(&["up", "--dir", home.dir(), "--nodes", "3", "--copies", "2", "--detach"]);
    assert!(home.cluster.join("client.toml").exists());
    // Without a flag: the settings became the user's own.
    cli.run_with(&["put", "-", "/file"], &content).ok();
    assert!(cli.run(&["cat", "/file"]).stdout == content);
    // A second one on the same directory changes nothing.
    cli.run(&["up", "--dir", home.dir(), "--detach"]);
    assert!(cli.run(&["cat", "/file"]).stdout == content);
    cli.ok(&["down", "--dir", home.dir()]);
    assert_eq!(processes_on(&home.cluster), Vec::<String>::new());

    cli.ok(&["up", "--dir", home.dir(), "--detach"]);
    let config = home.cluster.join("client.toml");
    let config = config.to_str().expect("a plain path");
    assert!(cli.run(&["--config", config, "cat", "/file"]).stdout == content);
    cli.ok(&["down", "--dir", home.dir()]);
    assert_eq!(processes_on(&home.cluster), Vec::<String>::new());
}

#[test]
fn the_demo_ends_well_and_says_what_to_type_next() {
    let home = Home::new();
    let temporary = home.directory.path().join("tmp");
    fs::create_dir(&temporary).expect("it can be made");
    let run = run(home.cli().command(&["demo"]).env("TMPDIR", &temporary), &[]);
    assert_eq!(run.code, Some(0), "{}{}", run.text(), run.stderr);
    let said = run.text();
    for word in ["node 1", "node 2", "node 3", "kill -9", "byte by byte", "p2pdfs up --detach"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert_eq!(processes_on(&temporary), Vec::<String>::new());
    let left: Vec<_> = fs::read_dir(&temporary).expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
    // The user's home is as it was.
    assert_eq!(fs::read_dir(home.directory.path()).expect("it is there").count(), 1);
}
