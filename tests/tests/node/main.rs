//! Claims that need pods, checked on a cluster with a node.

#[cfg(test)]
mod pods;
