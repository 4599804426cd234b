//! Stops that are asked for (D3). The turn may run in any process: this one is
//! asked first, then all others that share the database.

use minichat_core::TurnId;
use minichat_store::{StopRequests, StoreError};

use crate::app::App;
use crate::open_turns::OpenTurns;

/// Asks `turn`, which was just seen running, to end. It does so in its own time,
/// as any other ending: the first terminal wins.
pub async fn stop(app: &App, turn: TurnId) -> Result<(), StoreError> {
    if app.turns.stop(turn) {
        return Ok(());
    }
    app.store
        .write(move |tx| Box::pin(async move { tx.turn_request_stop(turn) }))
        .await
}

/// Stops the turns of this process that other processes were asked about. Never
/// ends.
pub(crate) async fn obey(turns: OpenTurns, mut requests: StopRequests) {
    loop {
        let turn = requests.next().await;
        if turns.stop(turn) {
            tracing::debug!(turn.id = %turn, "another process was asked to stop a turn of this one");
        }
    }
}
