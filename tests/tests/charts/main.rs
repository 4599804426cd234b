//! Claims about the charts, by Helm itself: what they render, what they refuse, and what a
//! real API server makes of them.

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
