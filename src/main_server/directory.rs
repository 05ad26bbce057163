//! A main server's directory: the catalog, and `client.toml` with the first account's key.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::catalog::check::CatalogReport;
use crate::catalog::{CatalogError, SqliteCatalog};
use crate::durable;
use crate::ids::Secret;

/// The name of the account that the first start makes.
const FIRST_ACCOUNT: &str = "admin";
pub(super) const CLIENT_FILE: &str = "client.toml";

/// Why a directory, or an address to listen on, is not to be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("cannot {doing} {path}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is not what it should be: {why}")]
    Settings { path: PathBuf, why: String },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    /// Plain text would leave this machine, and nobody said that it may.
    #[error("{0} can be reached from other machines, and connections would not be encrypted")]
    NotLoopback(SocketAddr),
}

/// The socket to serve on. Addresses of other machines' reach are refused unless they are allowed.
pub fn bind(address: SocketAddr, insecure_plaintext: bool) -> Result<TcpListener, DirectoryError> {
    if !address.ip().is_loopback() && !insecure_plaintext {
        return Err(DirectoryError::NotLoopback(address));
    }
    TcpListener::bind(address).map_err(|source| DirectoryError::Listen { address, source })
}

/// Reads the catalog of a stopped main server, by code of its own.
pub fn check(dir: &Path) -> Result<CatalogReport, CatalogError> {
    crate::catalog::check::check(dir)
}

/// An open directory.
pub struct Directory {
    pub catalog: SqliteCatalog,
    /// The settings of a client of this main server, with the key of the first account.
    pub client_file: PathBuf,
    /// This start made it.
    pub is_new: bool,
}

#[derive(Deserialize)]
struct ClientFile {
    key: Secret,
}

impl Directory {
    /// Opens the directory, and makes it when there is no catalog in it. `address` is where the main
    /// server can be reached.
    pub fn open(dir: &Path, address: SocketAddr) -> Result<Directory, DirectoryError> {
        let io = |doing, path: &Path| {
            let path = path.to_path_buf();
            move |source| DirectoryError::Io { doing, path, source }
        };
        durable::make_directories(dir).map_err(io("make the directory", dir))?;
        let client_file = dir.join(CLIENT_FILE);
        let (catalog, is_new) = match SqliteCatalog::open(dir) {
            Ok(catalog) => (catalog, false),
            Err(CatalogError::Missing(_)) => {
                // The key comes first: a catalog whose key nobody has would be of no use.
                let key = first_key(&client_file, address)?;
                (SqliteCatalog::create(dir, FIRST_ACCOUNT, &key.fingerprint())?, true)
            }
            Err(error) => return Err(error.into()),
        };
        match fs::read_to_string(&client_file) {
            Ok(text) => {
                let updated = with_address(&text, address);
                if updated != text {
                    durable::replace_file(&client_file, updated.as_bytes())
                        .map_err(io("write", &client_file))?;
                }
            }
            // Whoever took it away has the key.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("read", &client_file)(error)),
        }
        Ok(Directory { catalog, client_file, is_new })
    }
}

/// The first account's key: the one that is there from a start that was cut off, or a new one.
pub(super) fn first_key(path: &Path, address: SocketAddr) -> Result<Secret, DirectoryError> {
    match fs::read_to_string(path) {
        Ok(text) => match toml::from_str::<ClientFile>(&text) {
            Ok(file) => Ok(file.key),
            Err(error) => {
                let why = error.message().to_string();
                Err(DirectoryError::Settings { path: path.to_path_buf(), why })
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = Secret::random();
            let text = format!("key = \"{}\"\n", String::from(key));
            durable::replace_file(path, with_address(&text, address).as_bytes()).map_err(
                |source| DirectoryError::Io { doing: "write", path: path.to_path_buf(), source },
            )?;
            Ok(key)
        }
        Err(source) => Err(DirectoryError::Io { doing: "read", path: path.to_path_buf(), source }),
    }
}

/// The settings with this address of the main server, and all else as it is.
fn with_address(text: &str, mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    let line = format!("main = \"{address}\"\n");
    let is_main = |line: &&str| line.split('=').next().is_some_and(|name| name.trim() == "main");
    let others: String = text.split_inclusive('\n').filter(|line| !is_main(line)).collect();
    line + &others
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn only_the_address_of_the_settings_changes() {
        let text = "main = \"127.0.0.1:1\"\nkey = \"ab\"\n# mine\nother = 1\n";
        let changed = with_address(text, at(7));
        assert_eq!(changed, "main = \"127.0.0.1:7\"\nkey = \"ab\"\n# mine\nother = 1\n");
        assert_eq!(with_address(&changed, SocketAddr::from(([0; 4], 7))), changed);
    }

    #[test]
    fn the_first_start_makes_a_key_and_later_ones_keep_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = Directory::open(dir.path(), at(7)).expect("a new directory");
        assert!(first.is_new);
        let text = fs::read_to_string(&first.client_file).expect("settings");
        let key = toml::from_str::<ClientFile>(&text).expect("a key").key;
        drop(first);
        let again = Directory::open(dir.path(), at(8)).expect("the same directory");
        assert!(!again.is_new);
        let text = fs::read_to_string(&again.client_file).expect("settings");
        assert!(text.starts_with("main = \"127.0.0.1:8\"\n"));
        assert_eq!(toml::from_str::<ClientFile>(&text).expect("a key").key, key);
        let account = crate::catalog::Catalog::account_by_key(&again.catalog, &key.fingerprint());
        assert!(account.expect("a catalog").is_some_and(|account| account.is_admin));
    }

    #[test]
    fn a_first_start_that_was_cut_off_goes_on_with_its_key() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = first_key(&dir.path().join(CLIENT_FILE), at(7)).expect("a key");
        let opened = Directory::open(dir.path(), at(7)).expect("a new directory");
        let account = crate::catalog::Catalog::account_by_key(&opened.catalog, &key.fingerprint());
        assert!(account.expect("a catalog").is_some());
    }

    #[test]
    fn an_address_that_others_can_reach_is_refused_unless_it_is_allowed() {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        assert!(matches!(bind(any, false), Err(DirectoryError::NotLoopback(_))));
        assert!(bind(any, true).is_ok() && bind(at(0), false).is_ok());
    }
}
