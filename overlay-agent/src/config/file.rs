//! The configuration file: `name: value` lines, read through the command line's own parser, so that a setting cannot exist in one place only.

use super::{ConfigError, Problem, Wrong};
use crate::cli::Settings;
use clap::error::{ContextKind, ContextValue};
use clap::{Args as _, FromArgMatches as _};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    parse_file(path, &text)
}

/// Reads the file through the command line's own parser: `name: value` is taken as `--name=value`.
pub(super) fn parse_file(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    // A name like 0123 must not become a number on the way.
    let options = serde_saphyr::options! { leading_zero_numbers_as_strings: true, underscored_numbers_as_strings: true };
    let lines: Option<BTreeMap<String, Spanned<serde_json::Value>>> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ConfigError::NotYaml { path: path.to_owned(), reason: error.to_string() })?;

    let mut problems = Vec::new();
    let mut arguments = Vec::new();
    for (name, value) in lines.into_iter().flatten() {
        let line = value.referenced.line();
        match check_line(name, &value.value) {
            Ok(argument) => arguments.push(argument),
            Err(what) => problems.push(Problem { path: path.to_owned(), line, what }),
        }
    }
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.line);
        return Err(ConfigError::Wrong { problems });
    }
    parse_arguments(&arguments).map_err(|error| ConfigError::NotYaml { path: path.to_owned(), reason: error.to_string() })
}

fn check_line(name: String, value: &serde_json::Value) -> Result<String, Wrong> {
    if !known_names().contains(&name) {
        let nearest = nearest_name(&name);
        return Err(Wrong::UnknownName { name, nearest });
    }
    let word = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    // Where several are taken, `[a, b]` and lines with dashes say the same as `a,b`.
    let words = match value {
        serde_json::Value::Array(list) if takes_several(&name) => {
            list.iter().map(word).collect::<Option<Vec<_>>>().map(|words| words.join(","))
        }
        one => word(one),
    };
    let text = match (words, value) {
        (Some(text), _) => text,
        (None, serde_json::Value::Null) => {
            return Err(Wrong::BadValue { name, value: "nothing".to_owned(), fix: "give it a value or remove the line".to_owned() });
        }
        (None, _) => {
            return Err(Wrong::BadValue { name, value: value.to_string(), fix: "it takes one value".to_owned() });
        }
    };
    let argument = format!("--{name}={text}");
    match parse_arguments(std::slice::from_ref(&argument)) {
        Ok(_) => Ok(argument),
        Err(error) => Err(Wrong::BadValue { name, value: format!("{text:?}"), fix: reason(&error) }),
    }
}

pub(super) fn command() -> clap::Command {
    Settings::augment_args(clap::Command::new("settings").no_binary_name(true).disable_help_flag(true).disable_version_flag(true))
}

/// Whether a setting takes a list.
fn takes_several(name: &str) -> bool {
    command().get_arguments().any(|argument| argument.get_long() == Some(name) && argument.get_value_delimiter().is_some())
}

fn parse_arguments(arguments: &[String]) -> Result<Settings, clap::Error> {
    command().try_get_matches_from(arguments).and_then(|matches| Settings::from_arg_matches(&matches))
}

/// clap's error without the words about flags.
fn reason(error: &clap::Error) -> String {
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        return format!("it has to be one of {}", valid.join(", "));
    }
    std::error::Error::source(error).map_or_else(|| error.kind().to_string(), ToString::to_string)
}

/// The name of every setting, in the order of the help.
#[must_use]
pub fn known_names() -> Vec<String> {
    command().get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect()
}

/// The setting `name` most likely means, if any is near.
fn nearest_name(name: &str) -> Option<String> {
    nearest(name, known_names())
}

/// The one of the `known` names that `name` most likely means, if any is near. Finds `receive-mode` for `receiveMode`, `RECEIVE_MODE` and
/// `recieve-mode`.
pub(crate) fn nearest<K: AsRef<str>>(name: &str, known: impl IntoIterator<Item = K>) -> Option<K> {
    // More than a third of the letters wrong is another word.
    const NEAR: f64 = 0.66;
    let kebab = kebab_case(name);
    known
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(&kebab, &kebab_case(known.as_ref())), known))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// `receiveMode`, `ReceiveMode` and `receive_mode` as `receive-mode`.
fn kebab_case(name: &str) -> String {
    let mut kebab = String::new();
    let mut after_lower = false;
    for c in name.chars() {
        if c == '_' || c == ' ' {
            kebab.push('-');
        } else {
            if c.is_uppercase() && after_lower {
                kebab.push('-');
            }
            kebab.extend(c.to_lowercase());
        }
        after_lower = c.is_lowercase();
    }
    kebab
}
