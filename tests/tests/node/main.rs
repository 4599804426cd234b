//! Tests that need pods, on a cluster with a node.

#[cfg(test)]
mod backup;
#[cfg(test)]
mod chart;
#[cfg(test)]
mod images;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod sqlite;
#[cfg(test)]
mod tls;
