//! The calls of tools of a running turn (TURN-28, TURN-29).

use std::sync::Arc;
use std::time::Duration;

use minichat_core::stream::{ToolEvent, ToolPhase};
use minichat_core::turn::TurnErrorCode;
use minichat_core::{HostedTool, TenantId, TurnId};
use tokio::task::JoinSet;

use super::open::OpenTurn;
use crate::app::App;

/// How long the end of a turn waits for the counts of its calls.
const PATIENCE: Duration = Duration::from_secs(2);

/// File searches of one turn. No provider needs so many.
const FILE_SEARCHES: u32 = 1000;

/// Calls that ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct CallCounts {
    pub(crate) file_search: u32,
    pub(crate) web_search: u32,
    pub(crate) code_interpreter: u32,
}

impl CallCounts {
    const fn of_mut(&mut self, tool: HostedTool) -> &mut u32 {
        match tool {
            HostedTool::FileSearch => &mut self.file_search,
            HostedTool::WebSearch => &mut self.web_search,
            HostedTool::CodeInterpreter => &mut self.code_interpreter,
        }
    }
}

/// The model began more calls of a tool than one turn may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooManyCalls(HostedTool);

impl TooManyCalls {
    pub(super) const fn code(self) -> TurnErrorCode {
        match self.0 {
            HostedTool::CodeInterpreter => TurnErrorCode::CodeInterpreterCallsExceeded,
            HostedTool::WebSearch => TurnErrorCode::WebSearchCallsExceeded,
            HostedTool::FileSearch => TurnErrorCode::ProviderError,
        }
    }

    /// For people.
    pub(super) const fn message(self) -> &'static str {
        match self.0 {
            HostedTool::CodeInterpreter => {
                "The model ran code more often than one message may. Ask for less at once."
            }
            HostedTool::WebSearch => {
                "The model searched the web more often than one message may. Ask for less at once."
            }
            HostedTool::FileSearch => "The provider searched in files without end.",
        }
    }
}

/// Counts calls, and stores those that ended, in parallel to the stream.
pub(super) struct ToolCalls {
    app: Arc<App>,
    tenant_id: TenantId,
    turn_id: TurnId,
    counter: Counter,
    writes: JoinSet<()>,
}

impl ToolCalls {
    pub(super) fn new(turn: &OpenTurn) -> Self {
        let limits = turn.caller.tenant.config.limits_for(turn.caller.user_id);
        Self {
            app: Arc::clone(&turn.app),
            tenant_id: turn.caller.tenant_id,
            turn_id: turn.ids().turn_id,
            counter: Counter::new(|tool| limits.max_calls_per_message(tool)),
            writes: JoinSet::new(),
        }
    }

    /// Counts an event, before it is shown. A call beyond the limit is not shown.
    pub(super) fn note(&mut self, event: &ToolEvent) -> Result<(), TooManyCalls> {
        self.counter.note(event)?;
        if event.phase == ToolPhase::Done && event.name != HostedTool::FileSearch {
            let (tenant, turn, tool) = (self.tenant_id, self.turn_id, event.name);
            let app = Arc::clone(&self.app);
            self.writes.spawn(count(app, tenant, turn, tool));
        }
        Ok(())
    }

    /// Calls that ended, as this process saw them.
    pub(super) const fn ended(&self) -> CallCounts {
        self.counter.ended
    }

    /// Waits a moment until the calls are stored: what is charged is what the turn's row
    /// says (TURN-35). A call that is not stored by then may not be charged.
    pub(super) async fn stored(&mut self) {
        let app = Arc::clone(&self.app);
        let all = async { while self.writes.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = tokio::time::sleep(PATIENCE) => {}
            () = app.turns.abandoned() => {}
        }
        self.writes.detach_all();
    }
}

async fn count(app: Arc<App>, tenant: TenantId, turn: TurnId, tool: HostedTool) {
    let counted = app
        .store
        .write(move |tx| Box::pin(async move { tx.turn_count_call(tenant, turn, tool) }))
        .await;
    if let Err(error) = counted {
        tracing::warn!(turn.id = %turn, %tool, %error, "a call of a tool could not be counted");
    }
}

/// The calls of each tool, and how many of them there may be.
struct Counter {
    most: [u32; 3],
    begun: [u32; 3],
    ended: CallCounts,
}

impl Counter {
    fn new(most: impl FnMut(HostedTool) -> Option<u32>) -> Self {
        Self {
            most: HostedTool::ALL
                .map(most)
                .map(|most| most.unwrap_or(FILE_SEARCHES)),
            begun: [0; 3],
            ended: CallCounts::default(),
        }
    }

    /// A call that only ended has begun as well, so that no more calls end than may
    /// begin.
    fn note(&mut self, event: &ToolEvent) -> Result<(), TooManyCalls> {
        let tool = event.name;
        let begun = &mut self.begun[tool as usize];
        let ended = self.ended.of_mut(tool);
        match event.phase {
            ToolPhase::Start => *begun = begun.saturating_add(1),
            ToolPhase::Done => *begun = (*begun).max(ended.saturating_add(1)),
        }
        if *begun > self.most[tool as usize] {
            return Err(TooManyCalls(tool));
        }
        if event.phase == ToolPhase::Done {
            *ended = ended.saturating_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minichat_core::stream::ToolDetails;

    use super::*;

    fn start(tool: HostedTool) -> ToolEvent {
        ToolEvent::start(tool)
    }

    fn done(tool: HostedTool) -> ToolEvent {
        ToolEvent::done(tool, ToolDetails::default())
    }

    /// CONT-103: calls are counted for each tool by itself.
    #[test]
    fn the_call_beyond_the_limit_is_refused() {
        let most = |tool| (tool != HostedTool::FileSearch).then_some(2);
        let mut counter = Counter::new(most);
        for tool in HostedTool::ALL {
            for _ in 0..2 {
                assert_eq!(counter.note(&start(tool)), Ok(()));
                assert_eq!(counter.note(&done(tool)), Ok(()));
            }
        }
        for tool in [HostedTool::WebSearch, HostedTool::CodeInterpreter] {
            assert_eq!(counter.note(&start(tool)), Err(TooManyCalls(tool)));
        }
        assert_eq!(counter.note(&start(HostedTool::FileSearch)), Ok(()));
        assert_eq!(counter.ended.web_search, 2);
    }

    /// QUOTA-71: only calls that ended are counted.
    #[test]
    fn ends_without_a_beginning_count_against_the_limit() {
        let tool = HostedTool::WebSearch;
        let mut counter = Counter::new(|_| Some(2));
        assert_eq!(counter.note(&done(tool)), Ok(()));
        assert_eq!(counter.note(&start(tool)), Ok(()));
        assert_eq!(counter.ended.web_search, 1);
        assert_eq!(counter.note(&done(tool)), Ok(()));
        assert_eq!(counter.note(&done(tool)), Err(TooManyCalls(tool)));
        assert_eq!(counter.ended.web_search, 2);
    }
}
