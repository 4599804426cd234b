//! A tenant as the whole operator sees it: its names, whose an id is, and which numbers its policies have.

mod ownership;
mod policy_versions;
mod subject;

pub(crate) use ownership::{Known, MadeOf, RecordedOwners, holder, named_for, source_of};
pub(crate) use policy_versions::{KnownVersions, PolicyVersion, PolicyVersions};
pub(crate) use subject::{age, full_name, is_asking, secret_names, serving_has_changed};
