//! Mistakes in a configuration file, with the place of each.

use std::fmt;

/// One mistake: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub what: String,
}

/// All mistakes of one file, in the order of their places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// Never empty.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{mistake}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "bramble.toml:{}:{}: {}", self.line, self.column, self.what)
    }
}

/// Collects mistakes while a file is read, so that a person sees all of them at once.
pub(crate) struct Collector<'t> {
    text: &'t str,
    found: Vec<(usize, String)>,
}

/// More mistakes than this are not listed: the file is then something else altogether.
const MISTAKES_MAX: usize = 50;

impl<'t> Collector<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, found: Vec::new() }
    }

    pub(crate) fn add(&mut self, offset: usize, what: impl Into<String>) {
        if self.found.len() < MISTAKES_MAX {
            self.found.push((offset, what.into()));
        }
    }

    pub(crate) fn finish(mut self) -> Result<(), ConfigErrors> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort();
        let mistakes = self
            .found
            .iter()
            .map(|(offset, what)| {
                let (line, column) = position(self.text, *offset);
                Mistake { line, column, what: what.clone() }
            })
            .collect();
        Err(ConfigErrors { mistakes })
    }
}

/// Line and column, both from 1, of a byte offset that may lie at or beyond the end.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut end = offset.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or("");
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before.get(start..).unwrap_or("").chars().count() + 1)
}
