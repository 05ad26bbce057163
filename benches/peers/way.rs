//! The ways in which SeaweedFS can be given and asked for files, and what each promises.

use p2pdfs::cli::bench::workloads::Workload;
use serde::Serialize;

/// A way. What is not synced is acknowledged when it is in the memory of two servers' system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// One request to the filer.
    Filer,
    FilerSynced,
    /// SeaweedFS's own program.
    Upload,
    /// The master assigns, and a volume server is asked.
    Native,
    NativeSynced,
}

impl Way {
    /// Those in which a workload is measured.
    pub fn all_of(workload: Workload) -> &'static [Way] {
        match workload {
            Workload::PutLarge => &[Way::Filer, Way::Upload, Way::FilerSynced],
            Workload::GetLarge => &[Way::Filer],
            Workload::PutTree | Workload::PutSmall1 | Workload::PutSmall16 => {
                &[Way::Native, Way::NativeSynced]
            }
            Workload::GetSmall1 | Workload::GetSmall16 => &[Way::Native],
        }
    }

    /// True where a put is answered only once it is synced.
    pub fn is_synced(self) -> bool {
        match self {
            Way::FilerSynced | Way::NativeSynced => true,
            Way::Filer | Way::Upload | Way::Native => false,
        }
    }

    /// What it is called in the table.
    pub fn in_words(self, workload: Workload) -> String {
        let name = match self {
            Way::Filer | Way::FilerSynced => "filer",
            Way::Upload => "`weed upload`",
            Way::Native | Way::NativeSynced => "volume servers",
        };
        let promise = match workload {
            Workload::GetLarge | Workload::GetSmall1 | Workload::GetSmall16 => "",
            _ if self.is_synced() => ", fsync=true",
            _ => ", not synced",
        };
        format!("SeaweedFS, {name}{promise}")
    }
}
