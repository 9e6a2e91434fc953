//! Rules about which part of the code may name what, as data; they keep the straight line of ARCHITECTURE.md straight.
//!
//! The sources are read as text with comments and literals taken out, not parsed: a rule is about a word in code.

use crate::place;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// A word that only some of the code may use.
struct Rule {
    /// Folders and files the rule is about, from the root of the workspace.
    within: &'static [&'static str],
    /// Parts of those that may use it.
    except: &'static [&'static str],
    /// The words. One that ends in `*` stands for every word that begins so.
    words: &'static [&'static str],
    /// Whether the words are crates, which count only in a path (`kube::`) or an import (`use kube`).
    crates: bool,
    /// Said to whoever broke it.
    why: &'static str,
}

const RULES: [Rule; 7] = [
    Rule {
        within: &["overlay-agent/src"],
        except: &["overlay-agent/src/cluster"],
        words: &["kube", "k8s_openapi"],
        crates: true,
        why: "only cluster speaks Kubernetes; the rest sees a Topology",
    },
    Rule {
        within: &["overlay-agent/src"],
        except: &["overlay-agent/src/datapath"],
        words: &["aya", "aya_log", "aya_obj"],
        crates: true,
        why: "only datapath speaks to BPF",
    },
    Rule {
        within: &["overlay-agent/src"],
        except: &["overlay-agent/src/netlink"],
        words: &["rtnetlink", "netlink_packet_*", "netlink_sys", "netlink_proto"],
        crates: true,
        why: "only netlink speaks to the kernel's network configuration",
    },
    Rule {
        within: &["overlay-agent/src"],
        // A CNI plugin is run as a program by those who speak CNI: `cni` runs the IPAM plugins it is told to.
        except: &["overlay-agent/src/firewall", "overlay-agent/src/cni", "overlay-agent/src/bin", "overlay-agent/src/main.rs"],
        words: &["process"],
        crates: true,
        why: "only firewall runs programs (nft, iptables); whatever the kernel can be told directly is told by netlink and datapath",
    },
    Rule {
        within: &[
            "overlay-agent/src/model.rs",
            "overlay-agent/src/address",
            "overlay-agent/src/desired.rs",
            "overlay-agent/src/reconcile/plan.rs",
        ],
        except: &[],
        words: &["tokio", "futures", "nix", "inotify"],
        crates: true,
        why: "the model and the decisions are pure: values in, values out",
    },
    Rule {
        within: &["overlay-common/src"],
        except: &[],
        words: &["unsafe"],
        crates: false,
        why: "the code both sides share is safe; unsafe belongs to overlay-ebpf's views of a packet",
    },
    Rule {
        within: &["xtask/src"],
        except: &[],
        words: &["overlay_agent", "overlay_common", "overlay_lab"],
        crates: true,
        why: "xtask starts the project's programs and links none of its crates, to compile in seconds",
    },
];

/// Folders with Rust sources whose modules all open with a `//!` paragraph.
const SOURCES: [&str; 5] = ["overlay-agent", "overlay-common", "overlay-ebpf", "xtask/src", "xtask/lab"];

/// Checks every rule; the error lists every place that breaks one.
pub(crate) fn check() -> Result<()> {
    let root = place::workspace();
    let mut broken = Vec::new();
    for rule in &RULES {
        for part in rule.within {
            broken.extend(breaches(root, part, rule)?);
        }
    }
    for folder in SOURCES {
        for file in files(&root.join(folder), "rs")? {
            // A file of unit tests is the inside of the module it tests.
            let tests = file.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"));
            if !tests && !read(&file)?.starts_with("//!") {
                broken.push(format!(
                    "{}: does not open with `//!`: say what it is, what it may touch, what it never does",
                    shown(root, &file)
                ));
            }
        }
    }
    if !broken.is_empty() {
        bail!("layout rules are broken:\n    {}", broken.join("\n    "));
    }
    Ok(())
}

fn breaches(root: &Path, part: &str, rule: &Rule) -> Result<Vec<String>> {
    let part = root.join(part);
    // A module that does not exist yet breaks no rule.
    let files = if part.is_dir() { files(&part, "rs")? } else { Some(part).into_iter().filter(|file| file.is_file()).collect() };
    let mut found = Vec::new();
    for file in files.into_iter().filter(|file| !rule.except.iter().any(|except| file.starts_with(root.join(except)))) {
        let code = code_only(&read(&file)?);
        for (number, line) in (1..).zip(code.lines()) {
            if let Some(word) = forbidden(line, rule) {
                found.push(format!("{}:{number}: `{word}`: {}", shown(root, &file), rule.why));
            }
        }
    }
    Ok(found)
}

/// The first word of a line that the rule forbids.
fn forbidden<'a>(line: &'a str, rule: &Rule) -> Option<&'a str> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let fits = |word: &str| rule.words.iter().any(|rule| rule.strip_suffix('*').map_or(*rule == word, |start| word.starts_with(start)));
    let mut before = "";
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |length| start + length);
        let (word, after) = (&rest[start..end], &rest[end..]);
        let names_crate = after.starts_with("::") || before == "use" || before == "crate";
        if fits(word) && (names_crate || !rule.crates) {
            return Some(word);
        }
        before = word;
        rest = after;
    }
    None
}

/// The source with comments, strings and character literals blanked out; line numbers stay.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let length = literal_length(rest);
        if length == 0 {
            code.push(next);
            rest = &rest[next.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// How many bytes at the start of the text are a comment or a literal; zero if it starts with code.
fn literal_length(text: &str) -> usize {
    let through = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return through("*/", 2);
    }
    if let Some(raw) = text.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            return through(&format!("\"{}", "#".repeat(hashes)), hashes + 2);
        }
    }
    if text.starts_with('"') {
        return quoted_length(text, '"');
    }
    // A quote begins a character, not a lifetime, if it is escaped or closed after one character.
    let mut inside = text.chars().skip(1);
    let (first, second) = (inside.next(), inside.next());
    if text.starts_with('\'') && (first == Some('\\') || second == Some('\'')) {
        return quoted_length(text, '\'');
    }
    0
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Every file below a folder with this extension, build output and hidden folders left out, in a stable order.
pub(crate) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn shown(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBE: Rule = Rule { within: &[], except: &[], words: &["kube", "netlink_packet_*"], crates: true, why: "" };

    #[test]
    fn a_crate_counts_where_it_is_imported_or_named_in_a_path() {
        assert_eq!(forbidden("use kube::Client;", &KUBE), Some("kube"));
        assert_eq!(forbidden("    let c = kube::Client::new();", &KUBE), Some("kube"));
        assert_eq!(forbidden("pub use netlink_packet_route as route;", &KUBE), Some("netlink_packet_route"));
        assert_eq!(forbidden("extern crate kube;", &KUBE), Some("kube"));
        assert_eq!(forbidden("let kube = 1; kubernetes::run(kube)", &KUBE), None);
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        let source = "a // kube::x\nb /* unsafe\n */ c \"un\\\"safe\" r#\"x \" y\"# 'u' '\\'' <'a> d";
        let code = code_only(source);
        assert_eq!(code.lines().count(), 3);
        let words: Vec<_> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "c", "<'a>", "d"]);
    }
}
