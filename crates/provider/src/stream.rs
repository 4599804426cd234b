//! The events of one call.

use crate::event::ProviderEvent;

/// The answer to one call. Dropping it closes the connection at once, unless
/// the terminal event was seen: then the rest of the body is read in the
/// background so that the connection serves another call (PLAT-105).
#[derive(Debug)]
pub struct ProviderStream {}

impl ProviderStream {
    /// The next event; `None` after [`ProviderEvent::Terminal`]. Cancel-safe:
    /// a dropped future loses no event.
    pub async fn next(&mut self) -> Option<ProviderEvent<'_>> {
        todo!()
    }

    /// An event that has already arrived, without waiting. Call it until it
    /// says `None` after each [`next`](Self::next), and write what they gave at
    /// once: a burst then costs one write.
    pub fn try_next(&mut self) -> Option<ProviderEvent<'_>> {
        todo!()
    }
}
