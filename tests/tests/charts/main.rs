//! Tests of the charts with Helm: what they render, what they refuse, and what a real API server accepts.

#[cfg(test)]
mod database;
#[cfg(test)]
mod helm;
#[cfg(test)]
mod installed;
#[cfg(test)]
mod outbound;
#[cfg(test)]
mod rendered;
#[cfg(test)]
mod values;
