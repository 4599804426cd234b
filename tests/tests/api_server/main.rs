//! Tests of the custom resources on a real API server.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod columns;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod rules;
