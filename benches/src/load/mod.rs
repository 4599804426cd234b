//! The load generator: kept-alive clients that read event streams and time every chunk.

mod body;
mod connection;
mod events;
mod leave;
mod reading;
mod run;

pub use connection::{Connection, Exchange};
pub use events::{EventReader, Terminal};
pub use leave::{Stoppable, leave, stop};
pub use reading::Reading;
pub use run::{Plan, run};
