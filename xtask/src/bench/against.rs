//! What `--against` names: another build of ours, an agent and the lab that belongs to it.
//!
//! A git revision is checked out in a worktree of its own below `target/bench` and built there by its own verbs; the user's tree is not
//! touched. One worktree is kept for all revisions: from one to the next, cargo compiles only what differs.

use crate::{place, step};
use anyhow::{Context as _, Result, bail, ensure};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The two programs another build consists of.
const AGENT: &str = "overlay-agent";
const LAB: &str = "overlay-lab";

/// What to compare with, found but not built.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// A folder with both programs.
    Built(Other),
    /// A commit.
    Revision {
        /// The whole hash.
        commit: String,
        /// What to call it.
        name: String,
    },
}

/// Another build, ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    /// Has `overlay-agent` and `overlay-lab`.
    pub(super) folder: PathBuf,
    /// What the report calls it.
    pub(super) name: String,
}

/// What the words of `--against` can mean, as far as the file system tells.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// This program.
    Agent(PathBuf),
    /// Something git knows, or nobody.
    Revision,
}

impl Against {
    /// Finds what `text` names. Nothing is built yet.
    pub(super) fn find(text: &str) -> Result<Self> {
        match meaning(text, Path::is_file) {
            Meaning::Agent(agent) => built(&agent).map(Self::Built),
            Meaning::Revision => revision(text),
        }
    }

    /// Builds what has to be built.
    pub(super) fn prepare(&self) -> Result<Other> {
        let other = match self {
            Self::Built(other) => other.clone(),
            Self::Revision { commit, name } => {
                let tree = place::bench().join("against");
                check_out(&tree, commit)?;
                build(&tree, name).with_context(|| {
                    format!("{name} does not build, or not with the tools of this tree, so there is nothing to compare with")
                })?;
                Other { folder: tree.join("target/release"), name: name.clone() }
            }
        };
        let mut lab = Command::new(other.folder.join(LAB));
        step::output(lab.args(["wire", "--help"])).with_context(|| {
            format!("{} cannot be compared with: its {LAB} is older than `overlay-lab wire`, which connects its pods", other.name)
        })?;
        Ok(other)
    }
}

/// What a tree holds.
#[derive(Debug)]
pub(super) struct TreeRevision {
    /// The commit, abbreviated.
    commit: String,
    /// Tracked files differ from it.
    pub(super) has_changes: bool,
}

impl fmt::Display for TreeRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.commit, if self.has_changes { " with changes" } else { "" })
    }
}

/// What `tree` holds. An error if git does not know it.
pub(super) fn revision_of(tree: &Path) -> Result<TreeRevision> {
    let commit = step::output(git(tree).args(["rev-parse", "--short", "HEAD"]))?.trim().to_owned();
    let listing = step::output(git(tree).args(["status", "--porcelain", "--untracked-files=no"]))?;
    Ok(TreeRevision { commit, has_changes: !listing.trim().is_empty() })
}

fn meaning(text: &str, is_file: impl Fn(&Path) -> bool) -> Meaning {
    let path = Path::new(text);
    let inside = path.join(AGENT);
    if is_file(&inside) {
        return Meaning::Agent(inside);
    }
    // No branch or tag may begin so (git-check-ref-format), so whoever wrote it meant a path, be it a wrong one.
    let like_a_path = ["/", "./", "../"].iter().any(|start| text.starts_with(start));
    if is_file(path) || like_a_path { Meaning::Agent(path.to_owned()) } else { Meaning::Revision }
}

/// The build an agent's binary belongs to.
fn built(agent: &Path) -> Result<Other> {
    let name = agent.display().to_string();
    ensure!(place::is_executable(agent), "--against {name}: there is no such program, and no revision has a name like that");
    ensure!(agent.ends_with(AGENT), "--against {name}: the program has to be named {AGENT}");
    let agent = agent.canonicalize().with_context(|| format!("--against {name}"))?;
    let folder = agent.parent().context("a file is in a folder")?.to_owned();
    ensure!(
        place::is_executable(&folder.join(LAB)),
        "--against {name}: {LAB} of the same build has to be beside it, because only that one wires pods with the map layout this agent \
         expects; `cargo xtask build --release` leaves both in target/release"
    );
    Ok(Other { folder, name })
}

fn revision(text: &str) -> Result<Against> {
    let workspace = place::workspace();
    // Peeled: a tag is not a commit yet. The text cannot be taken for an option.
    let commit = git(workspace).args(["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{text}^{{commit}}")]).output();
    let commit = commit.context("cannot start git, which knows revisions")?;
    let said = String::from_utf8_lossy(&commit.stderr);
    if !commit.status.success() && !said.trim().is_empty() {
        bail!("--against {text}: {}", said.trim());
    }
    ensure!(commit.status.success(), "--against {text}: git knows no revision of that name, and there is no program of that path");
    let commit = String::from_utf8_lossy(&commit.stdout).trim().to_owned();
    let short = step::output(git(workspace).args(["rev-parse", "--short", &commit]))?.trim().to_owned();
    Ok(Against::Revision { name: called(text, &commit, &short), commit })
}

/// A revision's name for people: as it was asked for, and which commit that was today.
fn called(text: &str, commit: &str, short: &str) -> String {
    if commit.starts_with(text) { short.to_owned() } else { format!("{text} ({short})") }
}

/// Makes `tree` a clean checkout of the commit.
fn check_out(tree: &Path, commit: &str) -> Result<()> {
    if tree.join(".git").exists() {
        let listing = step::output(git(tree).args(["status", "--porcelain"]))?;
        let mend = format!("git worktree remove --force {}", tree.display());
        ensure!(listing.trim().is_empty(), "somebody changed files in {}, where --against builds: run {mend}", tree.display());
        return step::output(git(tree).args(["checkout", "--quiet", "--detach", commit]))
            .map(drop)
            .with_context(|| format!("to begin anew: {mend}"));
    }
    // Forced, because git still lists a worktree whose folder went with the whole of `target`.
    step::output(git(place::workspace()).args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(tree).arg(commit)).map(drop)
}

/// Builds the eBPF object and the two programs, by the verbs of that revision.
fn build(tree: &Path, name: &str) -> Result<()> {
    let target = tree.join("target");
    lend_linker(&target)?;
    let cargo = |words: &[&str]| {
        let mut cargo = step::cargo();
        cargo.args(words).current_dir(tree).env("CARGO_TARGET_DIR", &target).env_remove("OVERLAY_EBPF_OBJECT");
        cargo
    };
    step::quiet(&format!("eBPF object of {name}"), "against-ebpf", &mut cargo(&["xtask", "build-ebpf"]))?;
    let host = ["build", "--release", "--package", AGENT, "--package", LAB];
    step::quiet(&format!("{AGENT} and {LAB} of {name}"), "against-build", &mut cargo(&host))
}

/// Copies the bpf-linker that `setup` built: that revision's `setup` would spend minutes on another one.
fn lend_linker(target: &Path) -> Result<()> {
    let (from, to) = (place::tools().join("bin/bpf-linker"), target.join("tools/bin/bpf-linker"));
    if !from.is_file() || to.is_file() {
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("the path has folders")?)
        .with_context(|| format!("cannot create the folder of {}", to.display()))?;
    fs::copy(&from, &to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn git(tree: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(tree);
    git
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_revisions_from_paths() {
        let there = ["target/release/overlay-agent", "old/overlay-agent", "notes"];
        let meaning = |text: &str| meaning(text, |path| there.iter().any(|file| path == Path::new(file)));
        let agent = |path: &str| Meaning::Agent(path.into());
        for revision in ["main", "HEAD~1", "0123abc", "feature/xdp", "v1.0^", "origin/main@{yesterday}", "target/release"] {
            let expected = if revision == "target/release" { agent("target/release/overlay-agent") } else { Meaning::Revision };
            assert_eq!(meaning(revision), expected, "{revision}");
        }
        assert_eq!(meaning("target/release/overlay-agent"), agent("target/release/overlay-agent"));
        assert_eq!(meaning("old"), agent("old/overlay-agent"));
        // A file wins, and a wrong path is not looked for among the revisions.
        assert_eq!(meaning("notes"), agent("notes"));
        for path in ["./gone", "../gone", "/gone/overlay-agent"] {
            assert_eq!(meaning(path), agent(path));
        }
    }

    #[test]
    fn an_agent_without_its_lab_is_refused_with_the_reason() {
        let here = std::env::current_exe().unwrap();
        let error = built(&here).unwrap_err().to_string();
        assert!(error.contains("named overlay-agent"), "{error}");
        let error = built(Path::new("/nowhere/overlay-agent")).unwrap_err().to_string();
        assert!(error.contains("no such program"), "{error}");
    }

    #[test]
    fn a_revision_is_called_as_it_was_asked_for() {
        let commit = "0123456789abcdef";
        assert_eq!(called("HEAD~1", commit, "0123456"), "HEAD~1 (0123456)");
        assert_eq!(called("012345678", commit, "0123456"), "0123456");
    }
}
