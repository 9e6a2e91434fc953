//! Our table as `nft` lists it: enough of it to tell whether it still is what was written.

use super::render::Table;
use super::tool::{self, ToolError};
use crate::model::FIREWALL_TABLE;
use serde_json::Value;

/// The table, as the program that is installed here prints it, numbers of table and rules included: whatever is removed, added or replaced
/// shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing(Vec<Value>);

/// Reads the table; `None`: there is none.
pub(super) async fn read() -> Result<Option<Listing>, ToolError> {
    match tool::run("nft", &["-j", "list", "table", "ip", FIREWALL_TABLE], "").await {
        Ok(text) => Ok(Some(Listing::parse(&text))),
        Err(ToolError::Refused { reason, .. }) if reason.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

impl Listing {
    /// From what `nft -j` prints. What cannot be read is no table of ours.
    fn parse(text: &str) -> Self {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let objects = value["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self(objects.iter().filter(|object| object.get("metainfo").is_none()).cloned().collect())
    }

    /// Whether this is `table`, whole. A rule that was replaced by another while no agent ran is not seen.
    pub(super) fn is(&self, table: &Table) -> bool {
        let mut rules = self.0.iter().filter_map(|object| object.get("rule"));
        let first = rules.next().and_then(|rule| rule["comment"].as_str());
        first.is_some_and(|comment| comment.starts_with(&table.fingerprint)) && rules.count() + 1 == table.rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 prints it, shortened.
    const TEXT: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"table": {"family": "ip", "name": "overlay", "handle": 3}},
        {"chain": {"family": "ip", "table": "overlay", "name": "postrouting", "handle": 1, "type": "nat", "hook": "postrouting", "prio": 110}},
        {"rule": {"family": "ip", "table": "overlay", "chain": "postrouting", "handle": 2, "comment": "overlay-agent 12: only", "expr": []}},
        {"rule": {"family": "ip", "table": "overlay", "chain": "postrouting", "handle": 5, "expr": [{"return": null}]}}]}"#;

    fn table(fingerprint: &str, rules: usize) -> Table {
        Table { text: String::new(), fingerprint: fingerprint.to_owned(), rules }
    }

    #[test]
    fn a_table_is_known_by_its_fingerprint_and_its_rules() {
        let listing = Listing::parse(TEXT);
        assert!(listing.is(&table("overlay-agent 12", 2)));
        assert!(!listing.is(&table("overlay-agent 13", 2)));
        assert!(!listing.is(&table("overlay-agent 12", 3)));
    }

    #[test]
    fn what_is_replaced_shows_and_what_cannot_be_read_is_not_ours() {
        assert_eq!(Listing::parse(TEXT), Listing::parse(&TEXT.replace("1.0.6", "1.0.9")));
        for (old, new) in [("\"handle\": 5", "\"handle\": 6"), ("return", "accept"), ("110", "100")] {
            assert_ne!(Listing::parse(TEXT), Listing::parse(&TEXT.replace(old, new)), "{new}");
        }
        for text in ["", "{}", "[]", "{\"nftables\": [1, {\"rule\": 2}]}"] {
            assert!(!Listing::parse(text).is(&table("overlay-agent 12", 2)), "{text}");
        }
    }
}
