//! Tests that need a cluster with a node for themselves, because they disturb every pod on it.

#[cfg(test)]
mod outages;
