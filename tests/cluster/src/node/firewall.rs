//! Firewall chains that the kubelet, kube-proxy and network plugins leave when they end.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::command;

/// Prefixes of the chains that parts of a node create.
const PREFIXES: [&str; 2] = ["KUBE-", "CNI-"];

/// A table of the firewall, or a chain of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Chain {
    /// Family and name: `ip filter`.
    table: String,
    /// `None` is the table itself.
    chain: Option<String>,
}

impl Chain {
    /// Whether a part of a node created it.
    pub(super) fn is_ours(&self) -> bool {
        let name = self.chain.as_deref().unwrap_or_default();
        PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.chain {
            Some(chain) => write!(f, "chain {} {chain}", self.table),
            None => write!(f, "table {}", self.table),
        }
    }
}

/// All tables and chains that exist.
pub(super) fn chains() -> anyhow::Result<BTreeSet<Chain>> {
    let ruleset = command::run("nft", &["--stateless", "list", "ruleset"])?;
    Ok(lines(&ruleset).map(|line| line.chain).collect())
}

/// Removes the chains of node parts that are not in `before`, with the rules that jump to them. Then removes new tables
/// without rules.
pub(super) fn remove_since(before: &BTreeSet<Chain>) -> anyhow::Result<()> {
    let ruleset = command::run("nft", &["--handle", "--stateless", "list", "ruleset"])?;
    let script = removal(&ruleset, before);
    if !script.is_empty() {
        command::run_with_input("nft", &["-f", "-"], &script)?;
    }
    let ruleset = command::run("nft", &["--stateless", "list", "ruleset"])?;
    let script = removal_of_tables(&ruleset, before);
    if !script.is_empty() {
        command::run_with_input("nft", &["-f", "-"], &script)?;
    }
    Ok(())
}

/// A line of a listing, with its table and chain.
struct Line<'a> {
    chain: Chain,
    /// Empty for the first line of a table or chain.
    rule: &'a str,
}

fn lines(ruleset: &str) -> impl Iterator<Item = Line<'_>> {
    let (mut table, mut chain) = (String::new(), None);
    ruleset.lines().filter_map(move |line| {
        let line = line.trim();
        let mut words = line.split_whitespace();
        let rule = match (words.next()?, line.contains('{')) {
            ("table", true) => {
                table = format!("{} {}", words.next()?, words.next()?);
                chain = None;
                ""
            }
            ("chain", true) => {
                chain = Some(words.next()?.to_owned());
                ""
            }
            // The end of a chain or table, or a comment.
            ("}" | "#", _) => return None,
            _ => line,
        };
        let chain = Chain {
            table: table.clone(),
            chain: chain.clone(),
        };
        Some(Line { chain, rule })
    })
}

/// The nft input that removes the chains of node parts from a listing with handles.
fn removal(ruleset: &str, before: &BTreeSet<Chain>) -> String {
    let all: BTreeSet<_> = lines(ruleset).map(|line| line.chain).collect();
    let new: Vec<_> = all
        .iter()
        .filter(|chain| chain.is_ours() && !before.contains(chain))
        .collect();
    let leads_to_ours = |line: &Line<'_>| {
        let target = line
            .rule
            .split_whitespace()
            .skip_while(|word| !matches!(*word, "jump" | "goto"))
            .nth(1);
        let target = Chain {
            table: line.chain.table.clone(),
            chain: target.map(str::to_owned),
        };
        target.chain.is_some() && new.contains(&&target) && !new.contains(&&line.chain)
    };
    let mut script = Vec::new();
    for line in lines(ruleset).filter(leads_to_ours) {
        let Some((_, handle)) = line.rule.rsplit_once("# handle ") else {
            continue;
        };
        let chain = line.chain.chain.as_deref().unwrap_or_default();
        script.push(format!(
            "delete rule {} {chain} handle {handle}",
            line.chain.table
        ));
    }
    for action in ["flush", "delete"] {
        for chain in &new {
            script.push(format!("{action} {chain}"));
        }
    }
    statements(&script)
}

/// Statements in nft syntax, one per line.
fn statements(statements: &[String]) -> String {
    statements
        .iter()
        .flat_map(|statement| [statement, "\n"])
        .collect()
}

/// The nft input that removes new tables without rules. iptables creates such tables even when it only lists rules.
fn removal_of_tables(ruleset: &str, before: &BTreeSet<Chain>) -> String {
    let is_base = |rule: &str| rule.is_empty() || rule.starts_with("type ");
    let used: BTreeSet<_> = lines(ruleset)
        .filter(|line| !is_base(line.rule))
        .map(|line| line.chain.table)
        .collect();
    let tables: BTreeSet<_> = lines(ruleset)
        .map(|line| line.chain)
        .filter(|chain| chain.chain.is_none() && !before.contains(chain))
        .filter(|chain| !used.contains(&chain.table))
        .collect();
    let tables: Vec<_> = tables
        .iter()
        .map(|table| format!("delete {table}"))
        .collect();
    statements(&tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules that a kubelet leaves.
    const LEFT: &str = "table ip mangle { # handle 1
\tchain KUBE-KUBELET-CANARY { # handle 1
\t}
}
table ip filter { # handle 2
\tchain INPUT { # handle 1
\t\ttype filter hook input priority filter; policy accept;
\t\tcounter jump KUBE-FIREWALL # handle 7
\t\ttcp dport 22 accept # handle 3
\t}
\tchain KUBE-FIREWALL { # handle 2
\t\tip saddr != 127.0.0.0/8 ip daddr 127.0.0.0/8 counter drop # handle 8
\t\tjump KUBE-OTHER # handle 9
\t}
\tchain KUBE-OTHER { # handle 4
\t}
}
";

    fn before(chains: &[(&str, Option<&str>)]) -> BTreeSet<Chain> {
        let chain = |(table, chain): &(&str, Option<&str>)| Chain {
            table: (*table).to_owned(),
            chain: chain.map(str::to_owned),
        };
        chains.iter().map(chain).collect()
    }

    #[test]
    fn our_chains_go_with_the_rules_that_lead_to_them_and_rules_of_others_stay() {
        let before = before(&[("ip filter", None), ("ip filter", Some("INPUT"))]);
        assert_eq!(
            removal(LEFT, &before),
            "delete rule ip filter INPUT handle 7
flush chain ip filter KUBE-FIREWALL
flush chain ip filter KUBE-OTHER
flush chain ip mangle KUBE-KUBELET-CANARY
delete chain ip filter KUBE-FIREWALL
delete chain ip filter KUBE-OTHER
delete chain ip mangle KUBE-KUBELET-CANARY
"
        );
    }

    #[test]
    fn chains_that_were_there_before_stay() {
        let all: BTreeSet<_> = lines(LEFT).map(|line| line.chain).collect();
        assert_eq!(removal(LEFT, &all), "");
        assert_eq!(removal_of_tables(LEFT, &all), "");
    }

    #[test]
    fn new_tables_go_unless_they_have_a_rule() {
        let empty = "table ip nat {\n\tchain POSTROUTING {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\t}\n}\n";
        assert_eq!(
            removal_of_tables(empty, &before(&[])),
            "delete table ip nat\n"
        );
        assert_eq!(removal_of_tables(empty, &before(&[("ip nat", None)])), "");
        assert_eq!(
            removal_of_tables(LEFT, &before(&[])),
            "delete table ip mangle\n"
        );
    }
}
