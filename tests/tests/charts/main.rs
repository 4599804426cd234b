//! Tests of the charts with Helm: what they render, what they refuse, and what a real API server accepts.

#[cfg(test)]
mod access;
#[cfg(test)]
mod database;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod helm;
#[cfg(test)]
mod installed;
#[cfg(test)]
mod managed;
#[cfg(test)]
mod migration;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod outbound;
#[cfg(test)]
mod pods;
#[cfg(test)]
mod rendered;
#[cfg(test)]
mod scaling;
#[cfg(test)]
mod values;
