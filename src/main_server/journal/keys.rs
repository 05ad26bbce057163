//! `journal.json` in the main server's directory: what seals the journal.
//!
//! Whoever has it can open and forge pieces of the journal that he finds elsewhere. He cannot read
//! the journal from a node: for that the recovery key is needed, of which only a fingerprint is here.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::ids::{Fingerprint, Secret};
use crate::journal::{RecoveryKey, SealingKey};
use crate::main_server::DirectoryError;

const FILE: &str = "journal.json";
const FORMAT: u32 = 1;

/// What a main server keeps of the recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalKeys {
    pub sealing: SealingKey,
    /// Of the secret by which nodes let the journal be read.
    pub reader: Fingerprint,
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    format: u32,
    sealing: Secret,
    reader: Fingerprint,
}

impl JournalKeys {
    /// What is kept of this key.
    pub fn of(key: &RecoveryKey) -> JournalKeys {
        JournalKeys { sealing: key.sealing(), reader: key.reader() }
    }

    /// Reads what is kept in `dir`. Where nothing is, a recovery key is drawn and shown; only when
    /// that went well is it used. After a crash in between another one is shown, and is the one.
    pub fn open(
        dir: &Path,
        show: impl FnOnce(&RecoveryKey) -> io::Result<()>,
    ) -> Result<JournalKeys, DirectoryError> {
        let path = dir.join(FILE);
        match fs::read(&path) {
            Ok(text) => {
                let bad = |why: String| DirectoryError::Settings { path: path.clone(), why };
                let file: KeyFile =
                    serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
                if file.format != FORMAT {
                    let found = file.format;
                    return Err(bad(format!("it has format {found}, and {FORMAT} is known")));
                }
                let sealing = SealingKey::from_secret(&file.sealing);
                Ok(JournalKeys { sealing, reader: file.reader })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = RecoveryKey::random();
                show(&key).map_err(|source| DirectoryError::Io {
                    doing: "give out the recovery key for",
                    path: dir.to_path_buf(),
                    source,
                })?;
                let keys = JournalKeys::of(&key);
                keys.save(dir)?;
                Ok(keys)
            }
            Err(source) => Err(DirectoryError::Io { doing: "read", path, source }),
        }
    }

    /// Keeps it in `dir`, durable, readable by its owner alone.
    pub fn save(&self, dir: &Path) -> Result<(), DirectoryError> {
        let path = dir.join(FILE);
        let sealing = self.sealing.to_secret();
        let file = KeyFile { format: FORMAT, sealing, reader: self.reader };
        let text = serde_json::to_vec_pretty(&file).expect("plain data");
        durable::replace_file(&path, &text).map_err(|source| DirectoryError::Io {
            doing: "write",
            path,
            source,
        })
    }
}
