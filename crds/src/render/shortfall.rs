//! Quotas that do not apply to all users whom they name (D45).

use std::collections::BTreeMap;

use minichat_core::UserId;

use super::quota::{Subjects, name};
use crate::ChatQuota;

/// Longer lists only say how many there are.
const MAX_NAMED: usize = 5;

/// How far a quota falls short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    pub kind: ShortfallKind,
    /// Who applies instead and what to do, without the names of users.
    pub message: String,
}

/// Whom the quota does not apply to, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShortfallKind {
    /// It applies to no user: other quotas win.
    Conflict,
    /// It applies to no user: no issuer is known whose tokens have such names.
    NoIssuer,
    /// Some of its subjects do not get it.
    PartlyApplied,
}

/// A subject that does not get the quota.
struct Lost<'a> {
    /// Position among the subjects.
    subject: usize,
    /// The quota that applies instead; `None` if no user has such a name.
    winner: Option<&'a ChatQuota>,
}

/// How far `quota` falls short, given the `default` quota of its tenant and the
/// quota that applies to each user who is named.
pub(super) fn shortfall(
    quota: &ChatQuota,
    subjects: &Subjects<'_>,
    default: Option<&ChatQuota>,
    by_user: &BTreeMap<UserId, &ChatQuota>,
) -> Option<Shortfall> {
    if quota.spec.subjects.is_empty() {
        return loses_to(quota, default);
    }
    let mut applies = false;
    let mut lost = Vec::new();
    for (subject, named) in quota.spec.subjects.iter().enumerate() {
        let users = subjects.users(&named.name);
        let winner = |user| {
            by_user
                .get(user)
                .copied()
                .filter(|other| name(other) != name(quota))
        };
        let winners: Vec<_> = users.iter().filter_map(winner).collect();
        applies |= winners.len() < users.len();
        if users.is_empty() || !winners.is_empty() {
            let winner = winners.first().copied();
            lost.push(Lost { subject, winner });
        }
    }
    let kind = match (applies, lost.iter().any(|lost| lost.winner.is_some())) {
        _ if lost.is_empty() => return None,
        (true, _) => ShortfallKind::PartlyApplied,
        (false, true) => ShortfallKind::Conflict,
        (false, false) => ShortfallKind::NoIssuer,
    };
    let message = message(kind, quota, &lost);
    Some(Shortfall { kind, message })
}

/// A quota without subjects that is not the default one.
fn loses_to(quota: &ChatQuota, default: Option<&ChatQuota>) -> Option<Shortfall> {
    let winner = default.filter(|default| name(default) != name(quota))?;
    Some(Shortfall {
        kind: ShortfallKind::Conflict,
        message: format!(
            "applies to nobody: ChatQuota {} ({}) is the tenant's default quota already; raise spec.priority above that, name spec.subjects, or delete one of the two",
            name(winner),
            rank(winner),
        ),
    })
}

fn message(kind: ShortfallKind, quota: &ChatQuota, lost: &[Lost<'_>]) -> String {
    let mut by_winner: BTreeMap<&str, (&ChatQuota, Vec<usize>)> = BTreeMap::new();
    let mut unknown = Vec::new();
    for Lost { subject, winner } in lost {
        match winner {
            Some(winner) => {
                let entry = by_winner
                    .entry(name(winner))
                    .or_insert((winner, Vec::new()));
                entry.1.push(*subject);
            }
            None => unknown.push(*subject),
        }
    }
    let whole = match kind {
        ShortfallKind::PartlyApplied => "does not apply to all of its subjects",
        ShortfallKind::Conflict | ShortfallKind::NoIssuer => "applies to nobody",
    };
    let mut parts = Vec::new();
    if !by_winner.is_empty() {
        let winners = by_winner.values().map(|(winner, lost)| {
            let (name, rank) = (name(winner), rank(winner));
            format!("ChatQuota {name} ({rank}) applies to {}", fields(lost))
        });
        let winners = listed(winners.collect(), ", ");
        parts.push(format!(
            "{winners}; raise spec.priority above that, or name each user in one quota"
        ));
    }
    if !unknown.is_empty() {
        let tenant = &quota.spec.tenant_ref.name;
        parts.push(format!(
            "{} cannot be the name of a user: it is no UUID, and neither ChatTenant {tenant} (spec.auth.issuers) nor the process (auth.issuer) has an issuer whose tokens have names; write the user's UUID, or add the issuer",
            fields(&unknown)
        ));
    }
    format!("{whole}: {}", parts.join("; "))
}

/// Why a quota wins, as far as it is not by its name.
fn rank(quota: &ChatQuota) -> String {
    format!("priority {}", quota.spec.priority)
}

fn fields(subjects: &[usize]) -> String {
    let subjects = subjects.iter();
    let paths = subjects.map(|subject| format!("spec.subjects[{subject}]"));
    listed(paths.collect(), ", ")
}

fn listed(mut all: Vec<String>, separator: &str) -> String {
    let more = all.len().saturating_sub(MAX_NAMED);
    all.truncate(MAX_NAMED);
    all.extend((more > 0).then(|| format!("{more} more")));
    all.join(separator)
}
