//! Stop requests (D3). The turn may run in any process: this one is checked
//! first, then all others that share the database are notified.

use minichat_core::TurnId;
use minichat_store::{StopRequests, StoreError};

use super::instrumentation;
use crate::app::App;
use crate::open_turns::OpenTurns;

/// Asks `turn`, which was just seen running, to end. It may end otherwise
/// first: the first terminal state wins.
pub async fn stop(app: &App, turn: TurnId) -> Result<(), StoreError> {
    if app.turns.stop(turn) {
        return Ok(());
    }
    instrumentation::step("request_stop");
    app.store
        .write(move |tx| Box::pin(async move { tx.turn_request_stop(turn) }))
        .await
}

/// Stops the turns of this process for which other processes request it. Never
/// returns.
pub(crate) async fn obey(turns: OpenTurns, mut requests: StopRequests) {
    loop {
        let turn = requests.next().await;
        if turns.stop(turn) {
            tracing::debug!(turn.id = %turn, "another process requested that a turn of this process stop");
        }
    }
}
