//! Claims that need a cluster with a node for themselves, since what they do is felt by every pod of it.

#[cfg(test)]
mod outages;
