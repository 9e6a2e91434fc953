//! Names of NICs, several at once: globs, or regular expressions between slashes.

use regex::Regex;
use std::fmt;
use std::str::FromStr;

/// A name, a glob (`eth*`, `ens?`) or a regular expression (`/^ens[0-9]+$/`).
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// Whether a NIC of that name is meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expression = match text.strip_prefix('/').map(|rest| rest.strip_suffix('/')) {
            Some(Some("") | None) => {
                return Err(format!("{text} is no regular expression: it stands between two slashes, like /^ens[0-9]+$/"));
            }
            Some(Some(expression)) => expression.to_owned(),
            None => {
                if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/' || c == ':') {
                    return Err(format!("{text:?} is no name of a NIC"));
                }
                glob(text)
            }
        };
        let regex = Regex::new(&expression).map_err(|error| format!("{text}: {}", last_line(&error.to_string())))?;
        Ok(Self { text: text.to_owned(), regex })
    }
}

/// The regular expression for a glob.
fn glob(text: &str) -> String {
    let mut expression = "^".to_owned();
    for c in text.chars() {
        match c {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    expression
}

/// What is wrong, without the picture of where.
fn last_line(error: &str) -> &str {
    error.lines().last().unwrap_or(error).trim_start_matches("error: ")
}

/// Patterns with commas between them; the first that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns(pub Vec<Pattern>);

impl Patterns {
    /// Whether any of them means a NIC of that name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(name))
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{pattern}")?;
        }
        Ok(())
    }
}

impl FromStr for Patterns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts: Vec<String> = Vec::new();
        let mut inside = false;
        for piece in text.split(',') {
            // A comma between slashes belongs to the expression: {1,2}.
            match parts.last_mut() {
                Some(last) if inside => {
                    last.push(',');
                    last.push_str(piece);
                }
                _ => parts.push(piece.trim().to_owned()),
            }
            inside = parts.last().is_some_and(|last| last.starts_with('/') && (last.len() == 1 || !last.ends_with('/')));
        }
        parts.iter().map(|part| part.parse()).collect::<Result<_, _>>().map(Self)
    }
}
