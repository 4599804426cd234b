//! A tenant as every part of the operator sees it: its names and what it lists, whose an id
//! is, which versions its policies have, and what was decided about it.

mod decision;
mod listed;
mod ownership;
mod policy_versions;
mod subject;

pub(crate) use decision::{Decision, Decisions, Delivery, QuotaSeen};
pub(crate) use listed::{Listed, exclude_each_other};
pub(crate) use ownership::{Known, MadeOf, RecordedOwners, holder, source_of};
pub(crate) use policy_versions::{KnownVersions, PolicyVersion, PolicyVersions};
pub(crate) use subject::{Subject, full_name, serving_has_changed};
