//! Names in the store: a tree of paths for each account. They never become paths on a server, and a
//! client that turns one into a local path can rely on each component being a plain name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most bytes of one component.
pub const MAX_NAME_BYTES: usize = 255;
/// The most bytes of a whole path.
pub const MAX_PATH_BYTES: usize = 4096;
/// The most components of a path.
pub const MAX_PATH_DEPTH: usize = 128;

/// Why a text is not a name or a path of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("a path in the store starts with a slash: {0:?}")]
    NotAbsolute(String),
    #[error("a path in the store has no empty component, no `.` and no `..`: {0:?}")]
    BadComponent(String),
    #[error("a name in the store has no control characters: {0:?}")]
    Control(String),
    #[error("a name has at most {MAX_NAME_BYTES} bytes, this one has {0}")]
    NameTooLong(usize),
    #[error("a path has at most {MAX_PATH_BYTES} bytes, this one has {0}")]
    PathTooLong(usize),
    #[error("a path has at most {MAX_PATH_DEPTH} components, this one has {0}")]
    TooDeep(usize),
}

/// A path in an account's tree: `/` or `/name/name`, without a slash at the end.
///
/// Each component is 1 to 255 bytes of UTF-8 without `/`, NUL or any control character, and is
/// neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RemotePath(String);

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Checks one component.
pub fn check_name(name: &str) -> Result<(), PathError> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(PathError::BadComponent(excerpt(name)));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(PathError::NameTooLong(name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(PathError::Control(excerpt(name)));
    }
    Ok(())
}

impl RemotePath {
    /// The root of the tree.
    pub fn root() -> Self {
        RemotePath("/".to_string())
    }

    /// True for `/`.
    pub fn is_root(&self) -> bool {
        self.0 == "/"
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components, from the root down; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&str> {
        self.components().next_back()
    }

    /// The directory that holds this; `None` for the root.
    pub fn parent(&self) -> Option<RemotePath> {
        let cut = self.0.rfind('/')?;
        match (self.is_root(), cut) {
            (true, _) => None,
            (false, 0) => Some(RemotePath::root()),
            (false, _) => Some(RemotePath(self.0[..cut].to_string())),
        }
    }

    /// The path of `name` in this directory.
    pub fn join(&self, name: &str) -> Result<RemotePath, PathError> {
        check_name(name)?;
        let base = if self.is_root() { "" } else { &self.0 };
        format!("{base}/{name}").parse()
    }

    /// True when this is `other` or lies below it.
    pub fn is_within(&self, other: &RemotePath) -> bool {
        other.is_root()
            || self.0 == other.0
            || self.0.strip_prefix(&other.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl FromStr for RemotePath {
    type Err = PathError;
    fn from_str(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::PathTooLong(text.len()));
        }
        let rest = text.strip_prefix('/').ok_or_else(|| PathError::NotAbsolute(excerpt(text)))?;
        if rest.is_empty() {
            return Ok(RemotePath::root());
        }
        let mut depth = 0;
        for name in rest.split('/') {
            check_name(name)?;
            depth += 1;
        }
        if depth > MAX_PATH_DEPTH {
            return Err(PathError::TooDeep(depth));
        }
        Ok(RemotePath(text.to_string()))
    }
}

impl TryFrom<String> for RemotePath {
    type Error = PathError;
    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<RemotePath> for String {
    fn from(path: RemotePath) -> String {
        path.0
    }
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_lead_out_of_the_tree_is_refused() {
        let long = format!("/{}", "x".repeat(64 * 1024));
        let deep = "/d".repeat(MAX_PATH_DEPTH + 1);
        let name = format!("/{}", "é".repeat(128));
        for bad in [
            "",
            "a",
            "../x",
            "/..",
            "/a/../b",
            "/.",
            "/a/./b",
            "//",
            "/a/",
            "/a//b",
            "/a\0b",
            "/a\nb",
            "/a\u{7f}",
            "/a\u{9b}b",
            &long,
            &deep,
            &name,
        ] {
            assert!(bad.parse::<RemotePath>().is_err(), "{bad:.40?} was taken");
        }
    }

    #[test]
    fn parents_and_children_undo_each_other() {
        let path: RemotePath = "/a/b c/é".parse().expect("a good path");
        assert_eq!(path.name(), Some("é"));
        let parent = path.parent().expect("not the root");
        assert_eq!(parent.as_str(), "/a/b c");
        assert_eq!(parent.join("é"), Ok(path.clone()));
        assert!(path.is_within(&parent) && !parent.is_within(&path));
        assert!(
            !"/ab".parse::<RemotePath>().expect("good").is_within(&"/a".parse().expect("good"))
        );
        assert_eq!(RemotePath::root().parent(), None);
    }
}
