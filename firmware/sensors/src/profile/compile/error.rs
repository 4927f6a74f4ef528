//! Where and what is wrong in a profile file.

use std::{ops::Range, string::String};

/// One thing that is wrong in a profile file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {what}{}", .right.as_deref().map(|it| std::format!("; {it}")).unwrap_or_default())]
pub struct CompileError {
    /// File, as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right, where that can be said.
    pub right: Option<String>,
}

impl CompileError {
    /// An error at a byte range of the text.
    pub(super) fn at(
        text: &str,
        file: &str,
        span: Option<Range<usize>>,
        what: impl Into<String>,
        right: Option<String>,
    ) -> Self {
        let at = span.map_or(0, |span| span.start).min(text.len());
        let before = text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            file: file.into(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            what: what.into(),
            right,
        }
    }
}

/// Why a profile file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("read profile {file}")]
    Read {
        /// Which file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Neither a built-in profile nor a file.
    #[error("no profile is called {name:?}; use the path of a .toml file, or one of {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The built-in ones.
        known: String,
    },
    /// It can, and is wrong.
    #[error(transparent)]
    Compile(#[from] CompileError),
}
