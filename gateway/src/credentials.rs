//! Who nodes are: login tokens, kept only as SHA-256, and the master key from which each node's
//! MAC key derives.
//!
//! A token is 160 random bits in hexadecimal: it needs no slow hash, because it cannot be
//! guessed; comparison takes the same time whatever is wrong.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use telemetry::NodeName;
use telemetry::mac::Key;

/// Random bytes of a token.
const TOKEN_BYTES: usize = 20;

/// What went wrong with credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file operation failed.
    #[error("{doing} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file of nodes is not what this program wrote.
    #[error("{path}: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Others may read the master key.
    #[error("{path} may be read by others; make it private with: chmod 600 {path}", path = .0.display())]
    Exposed(PathBuf),
    /// There is a node of this name.
    #[error("node \"{0}\" has credentials already; revoke them first")]
    Exists(NodeName),
    /// There is none.
    #[error("there is no node \"{0}\"")]
    Unknown(NodeName),
    /// No randomness to be had.
    #[error("get random bytes: {0}")]
    Random(String),
}

/// One node's line in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// SHA-256 of the token, hexadecimal.
    pub token_sha256: String,
    /// When it was made.
    pub created: String,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<String>,
}

/// The credentials of a data directory.
pub struct Credentials {
    path: PathBuf,
    nodes: BTreeMap<String, Entry>,
    master: [u8; 32],
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CredentialsError {
    let path = path.to_owned();
    move |source| CredentialsError::Io { doing, path, source }
}

fn random<const N: usize>() -> Result<[u8; N], CredentialsError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| CredentialsError::Random(e.to_string()))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Credentials {
    /// Opens the credentials of `folder`, making master key and file when they are not there.
    pub fn open(folder: &Path) -> Result<Self, CredentialsError> {
        std::fs::create_dir_all(folder).map_err(at("make", folder))?;
        let master = master_key(&folder.join("master.key"))?;
        let mut credentials = Self { path: folder.join("nodes.toml"), nodes: BTreeMap::new(), master };
        credentials.reload()?;
        Ok(credentials)
    }

    /// Reads the file of nodes again.
    pub fn reload(&mut self) -> Result<(), CredentialsError> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(at("read", &self.path)(e)),
        };
        self.nodes = toml::from_str(&text)
            .map_err(|e| CredentialsError::Damaged { path: self.path.clone(), what: e.message().to_owned() })?;
        Ok(())
    }

    /// Makes a node's token: shown once, kept only as a hash.
    pub fn add(&mut self, node: &NodeName) -> Result<String, CredentialsError> {
        if self.nodes.get(node.as_str()).is_some_and(|e| e.revoked.is_none()) {
            return Err(CredentialsError::Exists(node.clone()));
        }
        let token = hex(&random::<TOKEN_BYTES>()?);
        self.set(node, &token)?;
        Ok(token)
    }

    /// Gives a node this token; for simulated nodes, whose tokens live on the same machine.
    pub fn set(&mut self, node: &NodeName, token: &str) -> Result<(), CredentialsError> {
        let created = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
        let entry = Entry { token_sha256: hex(&Sha256::digest(token.as_bytes())), created, revoked: None };
        self.nodes.insert(node.as_str().to_owned(), entry);
        self.save()
    }

    /// Revokes a node's token.
    pub fn revoke(&mut self, node: &NodeName) -> Result<(), CredentialsError> {
        let entry = self.nodes.get_mut(node.as_str()).ok_or_else(|| CredentialsError::Unknown(node.clone()))?;
        entry.revoked.get_or_insert_with(|| jiff::Timestamp::now().strftime("%FT%TZ").to_string());
        self.save()
    }

    /// Every node that has or had a token.
    pub fn list(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.nodes.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Whether the node has a token that is not revoked.
    pub fn known(&self, node: &NodeName) -> bool {
        self.nodes.get(node.as_str()).is_some_and(|e| e.revoked.is_none())
    }

    /// Whether `token` is the node's.
    pub fn check(&self, node: &NodeName, token: &[u8]) -> bool {
        let given = hex(&Sha256::digest(token));
        // An unknown node takes as long as a known one.
        let none = "0".repeat(64);
        let entry = self.nodes.get(node.as_str()).filter(|e| e.revoked.is_none());
        let kept = entry.map_or(none.as_str(), |e| e.token_sha256.as_str());
        bool::from(given.as_bytes().ct_eq(kept.as_bytes())) && entry.is_some()
    }

    /// The node's MAC key.
    pub fn key(&self, node: &NodeName) -> Key {
        Key::derive(&self.master, node)
    }

    fn save(&self) -> Result<(), CredentialsError> {
        let text = toml::to_string(&self.nodes)
            .map_err(|e| CredentialsError::Damaged { path: self.path.clone(), what: e.to_string() })?;
        write_private(&self.path, text.as_bytes())
    }
}

/// Replaces a file whole: written beside it with mode 0600, synced, renamed, folder synced.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), CredentialsError> {
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at("remove", &beside)(e)),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .map_err(at("make", &beside))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at("write", &beside))?;
    std::fs::rename(&beside, path).map_err(at("replace", path))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(at("sync", folder))
}

fn master_key(path: &Path) -> Result<[u8; 32], CredentialsError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let mode = std::fs::metadata(path).map_err(at("read", path))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(CredentialsError::Exposed(path.to_owned()));
            }
            let what = format!("{} bytes instead of 32", bytes.len());
            bytes.try_into().map_err(|_| CredentialsError::Damaged { path: path.to_owned(), what })
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = random::<32>()?;
            write_private(path, &key)?;
            Ok(key)
        }
        Err(e) => Err(at("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_node_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let (pond, other) = (NodeName::new("pond-7").unwrap(), NodeName::new("pond-8").unwrap());
        let mut credentials = Credentials::open(folder.path()).unwrap();
        let token = credentials.add(&pond).unwrap();
        assert_eq!(token.len(), 40);
        assert!(matches!(credentials.add(&pond), Err(CredentialsError::Exists(_))));
        let mut again = Credentials::open(folder.path()).unwrap();
        assert!(again.check(&pond, token.as_bytes()));
        assert!(!again.check(&pond, b"wrong") && !again.check(&other, token.as_bytes()));
        assert_eq!(again.key(&pond).as_bytes(), credentials.key(&pond).as_bytes());
        assert!(!std::fs::read_to_string(folder.path().join("nodes.toml")).unwrap().contains(&token));
        again.revoke(&pond).unwrap();
        assert!(!again.check(&pond, token.as_bytes()));
        assert!(matches!(again.revoke(&other), Err(CredentialsError::Unknown(_))));
        assert!(again.add(&pond).is_ok());
    }

    #[test]
    fn a_master_key_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Credentials::open(folder.path()).unwrap();
        let key = folder.path().join("master.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = Credentials::open(folder.path()).err().unwrap();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
