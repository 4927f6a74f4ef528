//! Names that a file uses: found, or complained about with what would be right.

use std::path::Path;

use super::document::Name;
use crate::config::Complaint;

/// Names that are listed whole when one is wrong.
const LISTED_MAX: usize = 16;

/// What is wrong in one file, as it is found.
pub(super) struct Findings<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) all: Vec<Complaint>,
}

impl Findings<'_> {
    /// About what stands at a byte of the text.
    pub(super) fn at(&mut self, offset: usize, what: impl Into<String>) {
        self.all.push(Complaint::at(self.file, self.text, offset, what));
    }

    /// About a name.
    pub(super) fn of(&mut self, name: &Name, what: impl Into<String>) {
        self.at(name.span().start, what);
    }

    /// The place of `name` among `known`, or a complaint.
    pub(super) fn find<'n>(
        &mut self,
        what: &str,
        name: &Name,
        known: impl IntoIterator<Item = &'n str>,
    ) -> Option<usize> {
        let known: Vec<_> = known.into_iter().collect();
        let found = known.iter().position(|it| *it == name.get_ref());
        if found.is_none() {
            self.of(name, unknown(what, name.get_ref(), &known));
        }
        found
    }

    /// Complains about names that are there twice.
    pub(super) fn unique<'n>(&mut self, what: &str, names: impl IntoIterator<Item = &'n Name>) {
        let mut seen: Vec<&str> = Vec::new();
        for name in names {
            if name.get_ref().trim().is_empty() {
                self.of(name, format!("a {what} needs a name"));
            } else if seen.contains(&name.get_ref().as_str()) {
                self.of(name, format!("there is another {what} \"{}\": give each a name of its own", name.get_ref()));
            }
            seen.push(name.get_ref());
        }
    }
}

/// What to say of a name that nobody knows.
pub(super) fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let near = known.iter().map(|it| (strsim::damerau_levenshtein(it, name), *it)).min();
    let remedy = match near {
        None => "there is none".to_owned(),
        Some((distance, near)) if distance <= 1 + name.chars().count() / 4 => format!("did you mean \"{near}\"?"),
        Some(_) if known.len() <= LISTED_MAX => {
            let all: Vec<_> = known.iter().map(|it| format!("\"{it}\"")).collect();
            format!("there is {}", all.join(", "))
        }
        Some((_, near)) => format!("there are {}, the nearest is \"{near}\"", known.len()),
    };
    format!("there is no {what} \"{name}\": {remedy}")
}
