//! Every config that a node was given, kept: `configs/NODE/NNNN.toml` as a person wrote it, `NNNN.cbor`
//! as it was sent, and `log.jsonl`, to which lines are only ever added: who, when, what became of it,
//! and each calibration.
//!
//! The files are their own lock: a number is taken by making its file, which only one can.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use telemetry::NodeName;

/// Longest log of a node that is read, in bytes.
const LOG_BYTES_MAX: u64 = 16 << 20;
/// Attempts to take a number that another process takes at the same time.
const ATTEMPTS_MAX: u16 = 8;

/// The configs of a data directory.
#[derive(Clone, Debug)]
pub struct Configs {
    folder: PathBuf,
}

/// What became of a config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// It is kept here.
    Kept,
    /// A person wants the node to have it.
    Pushed,
    /// It was sent to the node.
    Sent,
    /// The node runs it; on trial until it has read what its rules need and has been heard.
    Taken,
    /// The node gave it up, and runs the one before.
    GivenUp,
    /// A newer one goes to the node in its place.
    Superseded,
    /// A calibration was made, which a later config carries.
    Calibrated,
}

/// A line of a node's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When, UTC.
    pub at: String,
    /// The config's number; of a calibration, the config that carries it.
    pub number: u16,
    /// What.
    pub what: What,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The image's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<u32>,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The calibration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
}

/// A calibration as it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The channel's name and index.
    pub channel: String,
    /// Its index.
    pub index: u8,
    /// What it measures.
    pub property: String,
    /// The calibration's number, slope and offset before.
    pub before: Correction,
    /// And after.
    pub after: Correction,
    /// Each point: what the standard says and what the instrument said.
    pub points: Vec<Point>,
    /// When the next one is due, as a date.
    pub next_due: String,
}

/// A channel's correction: value = slope × raw + offset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correction {
    /// Rises with each calibration; 0 as delivered.
    pub number: u16,
    /// Slope.
    pub slope: f32,
    /// Offset, in the property's unit.
    pub offset: f32,
}

/// A point of a calibration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The standard's value, in the property's unit.
    pub standard: f64,
    /// What the instrument gave, uncorrected.
    pub raw: f64,
}

/// A config with the newest that is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Its number.
    pub number: u16,
    /// Its digest.
    pub digest: u32,
    /// Who had it kept.
    pub by: String,
    /// When.
    pub at: String,
    /// What became of it.
    pub state: What,
    /// When that was.
    pub since: String,
    /// Why.
    pub why: String,
}

/// What went wrong with kept configs.
#[derive(Debug, thiserror::Error)]
pub enum ConfigsError {
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
    /// A line of the log is none.
    #[error("{path}:{line}: {why}", path = path.display())]
    Damaged {
        /// The log.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Every number has been given.
    #[error("node \"{0}\" has had every number of a config: give it a new name")]
    Exhausted(NodeName),
    /// The image could not be made.
    #[error("make the image: {0}")]
    Image(String),
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> ConfigsError {
    let path = path.to_owned();
    move |source| ConfigsError::Io { doing, path, source }
}

/// Now, as lines say it.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%FT%TZ").to_string()
}

impl Configs {
    /// Those of a data directory.
    pub fn of(data_dir: &Path) -> Self {
        Self { folder: data_dir.join("configs") }
    }

    fn of_node(&self, node: &NodeName) -> PathBuf {
        self.folder.join(node.as_str())
    }

    fn file(&self, node: &NodeName, number: u16, kind: &str) -> PathBuf {
        self.of_node(node).join(format!("{number:04}.{kind}"))
    }

    /// Nodes that have had configs.
    pub fn nodes(&self) -> Result<Vec<NodeName>, ConfigsError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at("read", &self.folder)(error)),
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let entry = entry.map_err(at("read", &self.folder))?;
            nodes.extend(entry.file_name().to_str().and_then(|name| NodeName::new(name).ok()));
        }
        Ok(nodes)
    }

    /// Keeps a config, durably, under the next number above all that there were and above `floor`;
    /// one that is the newest already keeps its number. `make` makes the image of a number, and its
    /// digest.
    pub fn keep(
        &self,
        node: &NodeName,
        text: &str,
        by: &str,
        floor: u16,
        make: impl Fn(u16) -> Result<(Vec<u8>, u32), String>,
    ) -> Result<(u16, u32, Vec<u8>), ConfigsError> {
        let folder = self.of_node(node);
        std::fs::create_dir_all(&folder).map_err(at("make", &folder))?;
        let newest = self.newest(node)?;
        if let Some(number) = newest.filter(|number| *number >= floor) {
            let (image, digest) = make(number).map_err(ConfigsError::Image)?;
            let same = |kind, bytes: &[u8]| std::fs::read(self.file(node, number, kind)).is_ok_and(|it| it == bytes);
            if same("cbor", &image) && same("toml", text.as_bytes()) {
                return Ok((number, digest, image));
            }
        }
        let mut number = newest.unwrap_or(0).max(floor);
        for _ in 0..ATTEMPTS_MAX {
            number = number.checked_add(1).ok_or_else(|| ConfigsError::Exhausted(node.clone()))?;
            let (image, digest) = make(number).map_err(ConfigsError::Image)?;
            let path = self.file(node, number, "cbor");
            match write_new(&path, &image) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(at("write", &path))?,
            }
            let path = self.file(node, number, "toml");
            write_new(&path, text.as_bytes()).map_err(at("write", &path))?;
            std::fs::File::open(&folder).and_then(|it| it.sync_all()).map_err(at("sync", &folder))?;
            let line = Line { by: by.to_owned(), digest: Some(digest), ..Line::of(number, What::Kept) };
            self.note(node, &line)?;
            return Ok((number, digest, image));
        }
        Err(ConfigsError::Exhausted(node.clone()))
    }

    fn newest(&self, node: &NodeName) -> Result<Option<u16>, ConfigsError> {
        let folder = self.of_node(node);
        let mut newest = None;
        for entry in std::fs::read_dir(&folder).map_err(at("read", &folder))? {
            let name = entry.map_err(at("read", &folder))?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".cbor")).and_then(|it| it.parse().ok());
            newest = newest.max(number);
        }
        Ok(newest)
    }

    /// The image of a config.
    pub fn image(&self, node: &NodeName, number: u16) -> Result<Vec<u8>, ConfigsError> {
        let path = self.file(node, number, "cbor");
        std::fs::read(&path).map_err(at("read", &path))
    }

    /// Adds a line to a node's log, durably.
    pub fn note(&self, node: &NodeName, line: &Line) -> Result<(), ConfigsError> {
        let path = self.of_node(node).join("log.jsonl");
        let mut text = serde_json::to_string(line).map_err(|e| ConfigsError::Image(e.to_string()))?;
        text.push('\n');
        // One write at the end of the file: nobody's line gets into another's.
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_data()))
            .map_err(at("write", &path))
    }

    /// A node's log. A line that a crash has torn at the end is passed over.
    pub fn log(&self, node: &NodeName) -> Result<Vec<Line>, ConfigsError> {
        let path = self.of_node(node).join("log.jsonl");
        match std::fs::metadata(&path) {
            Ok(it) if it.len() > LOG_BYTES_MAX => {
                let why = format!("longer than {LOG_BYTES_MAX} bytes");
                return Err(ConfigsError::Damaged { path, line: 0, why });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Ok(_) | Err(_) => {}
        }
        let text = std::fs::read_to_string(&path).map_err(at("read", &path))?;
        let mut lines = Vec::new();
        for (n, line) in text.lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(line) => lines.push(line),
                Err(_) if n + 1 == text.lines().count() && !text.ends_with('\n') => {}
                Err(error) => return Err(ConfigsError::Damaged { path, line: n + 1, why: error.to_string() }),
            }
        }
        Ok(lines)
    }

    /// A node's configs by number, each with the newest that is known of it.
    pub fn versions(&self, node: &NodeName) -> Result<Vec<Version>, ConfigsError> {
        let mut all: BTreeMap<u16, Version> = BTreeMap::new();
        for line in self.log(node)? {
            let number = line.number;
            match line.what {
                What::Calibrated => {}
                What::Kept => {
                    let (by, at) = (line.by, line.at.clone());
                    let (state, since, digest) = (What::Kept, line.at, line.digest.unwrap_or(0));
                    all.insert(number, Version { number, digest, by, at, state, since, why: String::new() });
                }
                state => {
                    if let Some(version) = all.get_mut(&number) {
                        (version.state, version.since, version.why) = (state, line.at, line.why);
                    }
                }
            }
        }
        Ok(all.into_values().collect())
    }
}

impl Line {
    /// Now, of a config.
    pub fn of(number: u16, what: What) -> Self {
        Self { at: now(), number, what, by: String::new(), digest: None, why: String::new(), calibration: None }
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeName {
        NodeName::new("pond-7").unwrap()
    }

    fn made(number: u16) -> Result<(Vec<u8>, u32), String> {
        Ok((vec![number as u8], u32::from(number)))
    }

    #[test]
    fn a_number_rises_with_each_change_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let configs = Configs::of(folder.path());
        assert_eq!(configs.keep(&node(), "a", "li", 0, made).unwrap().0, 1);
        assert_eq!(configs.keep(&node(), "a", "wang", 0, made).unwrap().0, 1);
        assert_eq!(configs.keep(&node(), "b", "wang", 0, made).unwrap().0, 2);
        assert_eq!(configs.keep(&node(), "b", "wang", 9, made).unwrap().0, 10);
        assert_eq!(configs.image(&node(), 2).unwrap(), [2]);
        let by: Vec<_> = configs.versions(&node()).unwrap().into_iter().map(|it| (it.number, it.by)).collect();
        assert_eq!(by, [(1, "li".into()), (2, "wang".into()), (10, "wang".into())]);
        assert_eq!(configs.nodes().unwrap(), [node()]);
    }

    #[test]
    fn the_newest_that_is_known_of_a_config_holds_and_a_torn_line_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let configs = Configs::of(folder.path());
        configs.keep(&node(), "a", "li", 0, made).unwrap();
        configs.note(&node(), &Line::of(1, What::Sent)).unwrap();
        configs.note(&node(), &Line { why: "x".into(), ..Line::of(1, What::GivenUp) }).unwrap();
        let state = || configs.versions(&node()).map(|all| (all[0].state, all[0].why.clone()));
        assert_eq!(state().unwrap(), (What::GivenUp, "x".into()));
        let path = folder.path().join("configs/pond-7/log.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}{{\"at\":")).unwrap();
        assert_eq!(state().unwrap().0, What::GivenUp);
        std::fs::write(&path, format!("{{\"at\":\n{text}")).unwrap();
        assert!(matches!(state(), Err(ConfigsError::Damaged { line: 1, .. })));
    }
}
