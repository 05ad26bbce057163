//! Where the client's settings come from: flags, the environment, a file.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::client::Common;
use super::exit::{Exit, Failure};
use super::output::shown;
use crate::client::Settings;
use crate::ids::{Address, Secret};

/// A settings file, such as the main server writes at its first start.
#[derive(Debug, Default, Deserialize)]
struct ConfigFile {
    main: Option<Address>,
    key: Option<Secret>,
    copies: Option<u8>,
    #[serde(default)]
    insecure_plaintext: bool,
}

/// What the flags and the file say together.
pub struct Config {
    pub settings: Settings,
    pub copies: Option<u8>,
}

/// The user's own settings file, if this system says where such files are.
pub fn user_file() -> Option<PathBuf> {
    user_directory("XDG_CONFIG_HOME", ".config").map(|dir| dir.join("p2pdfs/client.toml"))
}

/// A directory of the XDG base directory specification.
pub fn user_directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let value = PathBuf::from(std::env::var_os(name)?);
        value.is_absolute().then_some(value)
    };
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}

/// The settings for a command.
pub fn load(common: &Common) -> Result<Config, Failure> {
    let (file, path) = match &common.config {
        Some(path) => (read(path)?, Some(path.clone())),
        None => match user_file().filter(|path| path.exists()) {
            Some(path) => (read(&path)?, Some(path)),
            None => (ConfigFile::default(), None),
        },
    };
    let from = path.map_or("no settings file".to_string(), |path| shown(&path));
    let missing = |what: &str, flag: &str| {
        Failure::new(Exit::Usage, format!("no {what} is known: none is given, and there is {from}"))
            .hint(format!(
                "start a cluster of your own with `p2pdfs up`; for another one, give {flag}, \
                 or --config with the client.toml that p2pdfs-main wrote in its directory"
            ))
    };
    let main = common.main.clone().or(file.main);
    let main =
        main.ok_or_else(|| missing("main server", "--main HOST:PORT and --key-file FILE"))?;
    let key = match key_given(common)?.or(file.key) {
        Some(key) => key,
        None => return Err(missing("account key", "--key-file FILE")),
    };
    let mut settings = Settings::new(main, key);
    settings.insecure_plaintext = common.insecure_plaintext || file.insecure_plaintext;
    Ok(Config { settings, copies: file.copies })
}

/// The settings of one file, whatever flags and environment say.
pub fn load_file(path: &Path) -> Result<Config, Failure> {
    let file = read(path)?;
    match file.main.zip(file.key) {
        Some((main, key)) => Ok(Config { settings: Settings::new(main, key), copies: file.copies }),
        None => {
            let text = format!("{} lacks `main` or `key`", shown(path));
            Err(Failure::new(Exit::Failed, text))
        }
    }
}

fn read(path: &Path) -> Result<ConfigFile, Failure> {
    let what = format!("cannot read the settings {}", shown(path));
    let text = std::fs::read_to_string(path).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::PermissionDenied => Exit::NotAllowed,
            _ => Exit::Failed,
        };
        Failure::because(exit, &what, &error).hint(
            "a cluster started with `p2pdfs up` has its settings in client.toml in its directory",
        )
    })?;
    toml::from_str(&text).map_err(|error| {
        // The message alone: what toml shows of the file could be the key.
        Failure::new(Exit::Usage, format!("{what}: {}", shown(error.message())))
    })
}

fn key_given(common: &Common) -> Result<Option<Secret>, Failure> {
    let usage = |text: String| Failure::new(Exit::Usage, text);
    if let Some(path) = &common.key_file {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::because(Exit::Failed, format!("cannot read the key {}", shown(path)), &error)
        })?;
        let key = text.trim().parse();
        return key
            .map(Some)
            .map_err(|error| usage(format!("{} holds no key: {error}", shown(path))));
    }
    match std::env::var("P2PDFS_KEY") {
        Ok(text) => text.trim().parse().map(Some).map_err(|e| usage(format!("P2PDFS_KEY: {e}"))),
        Err(_) => Ok(None),
    }
}
