//! Which rows a run measures and on whom: the plan, cut down to what the command line asks for.

use super::BenchArgs;
use super::contender::{ContenderId, System};
use super::plan::{GoalSpec, ROWS, RowSpec};
use super::report::{Better, Bound, ContenderInfo, Goal};
use super::rows::{Contestant, Limit};
use super::work::Work;
use anyhow::{Context as _, ensure};
use std::fmt::Write as _;

/// What contenders of the other build are called: `other-tc` beside `tc`.
pub(super) const OTHER: &str = "other";

/// How much slower than the other build is still as fast: more than the spread of medians on a quiet machine.
const TOLERANCE: f64 = 0.03;

/// What is going to be measured.
pub(super) struct Selection {
    /// The rows, in the plan's order.
    pub(super) rows: Vec<SelectedRow>,
}

/// A row and who takes part.
pub(super) struct SelectedRow {
    /// The row as the plan has it.
    pub(super) spec: RowSpec,
    /// Who is measured.
    pub(super) contestants: Vec<Contestant>,
}

impl Selection {
    /// Reads the command line.
    ///
    /// # Errors
    /// No row has such a name, or no contender; the message lists what there is.
    pub(super) fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        for part in &args.rows {
            let names = || ROWS.iter().map(|row| row.id).collect::<Vec<_>>().join(", ");
            ensure!(ROWS.iter().any(|row| row.id.contains(part.as_str())), "no row's name contains {part}: there are {}", names());
        }
        let wanted = |row: &&RowSpec| match args.rows.as_slice() {
            [] => args.all || !row.slow,
            parts => parts.iter().any(|part| row.id.contains(part.as_str())),
        };
        let mut rows = Vec::new();
        for spec in ROWS.iter().filter(wanted) {
            let contestants = contestants(spec, args)?;
            if !contestants.is_empty() {
                rows.push(SelectedRow { spec: *spec, contestants });
            }
        }
        ensure!(!rows.is_empty(), "no selected row has any of these contenders: {}", args.contenders.join(", "));
        Ok(Self { rows })
    }

    /// Everyone who takes part, for the report.
    pub(super) fn contenders(&self, other_name: &str) -> Vec<ContenderInfo> {
        let mut infos: Vec<ContenderInfo> = Vec::new();
        for (_, contestant) in self.contestants() {
            if infos.iter().all(|info| info.id != contestant.name) {
                infos.push(info(contestant, other_name));
            }
        }
        infos
    }

    /// Rows and contenders as text, for `--list`.
    pub(super) fn listing(&self) -> String {
        let mut text = String::new();
        let mut group = "";
        for SelectedRow { spec, contestants } in &self.rows {
            if spec.group != group {
                let _ = writeln!(text, "{}{}", if group.is_empty() { "" } else { "\n" }, spec.group);
                group = spec.group;
            }
            let names: Vec<&str> = contestants.iter().map(|contestant| contestant.name.as_str()).collect();
            let _ = writeln!(text, "  {:<20} {}", spec.id, spec.title);
            let _ = writeln!(text, "  {:<20} {}", "", names.join(" "));
        }
        text.push_str("\nContenders\n");
        for info in self.contenders(OTHER) {
            let _ = writeln!(text, "  {:<20} {}: {}", info.id, info.title, info.what);
        }
        text
    }

    fn contestants(&self) -> impl Iterator<Item = (&RowSpec, &Contestant)> {
        self.rows.iter().flat_map(|row| row.contestants.iter().map(move |contestant| (&row.spec, contestant)))
    }
}

/// Every pair the bed of these rows has to have, each once.
pub(super) fn pairs(rows: &[&SelectedRow]) -> Vec<ContenderId> {
    let mut pairs = Vec::new();
    for contestant in rows.iter().filter(|row| row.spec.work.needs_bed()).flat_map(|row| &row.contestants) {
        if !pairs.contains(&contestant.pair) {
            pairs.push(contestant.pair.clone());
        }
    }
    pairs
}

/// Who takes part in a row: those the plan names, or those of them that were asked for, and what was asked for and is in no row by itself
/// (`flannel-200`). Beside another build only ours, each with its twin.
fn contestants(spec: &RowSpec, args: &BenchArgs) -> anyhow::Result<Vec<Contestant>> {
    let planned = |name: &str| ROWS.iter().any(|row| row.contenders.contains(&name));
    let mut names: Vec<&str> = spec.contenders.to_vec();
    if !args.contenders.is_empty() {
        names.retain(|name| args.contenders.iter().any(|wanted| wanted == name));
        names.extend(args.contenders.iter().map(String::as_str).filter(|name| !planned(name)));
    } else if args.other.is_some() {
        names.retain(|name| name.parse::<ContenderId>().is_ok_and(|id| matches!(id.system, System::Ours { .. })));
    }
    let mut contestants = Vec::new();
    // One that is named and another's twin as well takes part once.
    let mut take = |contestant: Contestant| {
        if !contestants.contains(&contestant) {
            contestants.push(contestant);
        }
    };
    for name in names {
        let contestant = Contestant::new(name).with_context(|| format!("contender {name}"))?;
        let twin = matches!(contestant.pair.system, System::Ours { .. }) && args.other.is_some() && contestant.pair.build.is_none();
        take(contestant);
        if twin && spec.work.needs_bed() {
            take(Contestant::new(&format!("{OTHER}-{name}"))?);
        }
    }
    Ok(contestants)
}

fn info(contestant: &Contestant, other_name: &str) -> ContenderInfo {
    let id = contestant.name.clone();
    match contestant.limit {
        Some(limit) => ContenderInfo { id, title: limit.title().to_owned(), what: limit.what().to_owned() },
        None if contestant.pair.build.is_some() => {
            let ours = ContenderId { build: None, ..contestant.pair.clone() };
            ContenderInfo { id, title: format!("{}, {other_name}", ours.title()), what: ours.what().to_owned() }
        }
        None => ContenderInfo { id, title: contestant.pair.title(), what: contestant.pair.what().to_owned() },
    }
}

/// What is asked of a figure: the plan's goals; beside another build, not to be slower than the twin.
pub(super) fn goals(spec: &RowSpec, contestants: &[Contestant], figure: &str, better: Better) -> Vec<Goal> {
    let planned = spec.goals.iter().filter(|goal| goal.figure == figure).map(|goal| {
        let GoalSpec { contender, rival, bound, .. } = *goal;
        Goal { contender: contender.to_owned(), rival: rival.to_owned(), bound }
    });
    let twins = contestants.iter().filter(|contestant| contestant.pair.build.as_deref() == Some(OTHER));
    let against = twins.filter_map(|twin| {
        let bound = match better {
            Better::Higher => Bound::AtLeast(1.0 - TOLERANCE),
            Better::Lower => Bound::AtMost(1.0 + TOLERANCE),
        };
        Some(Goal { contender: twin.name.strip_prefix(OTHER)?.strip_prefix('-')?.to_owned(), rival: twin.name.clone(), bound })
    });
    // Without its rivals a run against another build has nothing to say on the plan's goals.
    if contestants.iter().any(|contestant| contestant.pair.build.is_some()) { against.collect() } else { planned.collect() }
}

impl Work {
    /// Whether it is done on the bed's pairs; some work makes a node of its own.
    pub(super) fn needs_bed(self) -> bool {
        !matches!(self, Self::Memory(_))
    }
}

impl Limit {
    fn title(self) -> &'static str {
        match self {
            Self::XdpDrop => "drop in XDP",
            Self::TcDrop => "drop in TC",
            Self::XdpRedirect => "redirect in XDP",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::XdpDrop => "every frame dropped by XDP at the NIC: what the generator itself costs",
            Self::TcDrop => "every packet dropped by TC at the NIC: what an skb costs",
            Self::XdpRedirect => "every frame redirected by XDP into a pod, not looked at and not changed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn names(words: &[&str]) -> anyhow::Result<Vec<(String, Vec<String>)>> {
        let cli = Cli::try_parse_from(["bench"].iter().chain(words))?;
        let rows = Selection::new(&cli.args)?.rows;
        Ok(rows.into_iter().map(|row| (row.spec.id.to_owned(), row.contestants.into_iter().map(|who| who.name).collect())).collect())
    }

    #[test]
    fn rows_and_contenders_can_be_chosen() -> anyhow::Result<()> {
        let chosen = names(&["--rows", "receive-1-flow", "--contenders", "tc,limit-tc-drop,flannel-200"])?;
        assert_eq!(chosen, [("receive-1-flow".to_owned(), ["tc", "limit-tc-drop", "flannel-200"].map(ToOwned::to_owned).to_vec())]);
        assert!(names(&["--rows", "nonsense"]).is_err());
        assert!(names(&["--contenders", "nonsense"]).is_err());
        Ok(())
    }

    #[test]
    fn another_build_stands_beside_ours() -> anyhow::Result<()> {
        let chosen = names(&["--rows", "send-1-flow", "--other", "/nowhere"])?;
        assert_eq!(chosen[0].1[..2], ["tc", "other-tc"]);
        assert!(chosen[0].1.iter().all(|name| name != "flannel"));
        Ok(())
    }

    #[test]
    fn who_is_named_and_a_twin_takes_part_once() -> anyhow::Result<()> {
        let words = ["--rows", "send-1-flow", "--other", "/nowhere", "--contenders", "tc,other-tc,flannel-200,flannel-200"];
        let chosen = names(&words)?;
        assert_eq!(chosen[0].1, ["tc", "other-tc", "flannel-200"]);
        Ok(())
    }

    #[test]
    fn every_planned_contender_exists() -> anyhow::Result<()> {
        assert_eq!(names(&["--all"])?.len(), ROWS.len());
        Ok(())
    }
}
