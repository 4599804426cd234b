//! What everybody sees, against what the model says.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::History;
use crate::client::Seen;
use crate::model::{Cancel, Ending, Presence, TIMED_OUT, Winner};
use crate::provider::CallView;
use crate::world::Life;

impl History {
    pub(super) fn watch_provider(&mut self, life: &Life) -> anyhow::Result<()> {
        let refusals = life.provider.refusals();
        if refusals > self.refusals_seen {
            self.refusals_seen = refusals;
            self.model.refused();
        }
        let calls = life.provider.calls();
        for call in &calls[self.calls_seen..] {
            let operation = operation_of(call)?;
            self.note(format!("  the provider is asked by {}", call.caller));
            self.model.asked(operation)?;
        }
        self.calls_seen = calls.len();
        // A turn that has ended holds no connection (TURN-48).
        for call in calls.iter().filter(|call| call.is_open()) {
            let turn = self.model.operations[operation_of(call)?].turn;
            let live = turn.and_then(|turn| self.model.live.get(&turn));
            let ending = live.and_then(|live| live.ending);
            ensure!(
                ending.is_none(),
                "the call of {} is still open after {ending:?}",
                call.caller
            );
        }
        Ok(())
    }

    pub(super) async fn watch_watchdogs(&mut self) -> anyhow::Result<()> {
        let watchdogs = std::mem::take(&mut self.watchdogs);
        let (ended, going): (Vec<_>, Vec<_>) =
            watchdogs.into_iter().partition(JoinHandle::is_finished);
        self.watchdogs = going;
        for watchdog in ended {
            let report = watchdog.await?;
            self.model.watchdogs -= 1;
            let is_whole = report.detected == report.finalized + report.skipped;
            ensure!(report.is_success() && is_whole, "{report:?}");
            self.note(format!("  a watchdog ends: {report:?}"));
        }
        Ok(())
    }

    pub(super) fn watch_clients(&mut self) -> anyhow::Result<()> {
        for number in 0..self.model.operations.len() {
            let Some(client) = self.clients.get(&number) else {
                continue;
            };
            let operation = &self.model.operations[number];
            let seen = client.seen();
            if operation.answer.as_deref() == Some(TIMED_OUT) {
                ensure!(
                    answer(&seen).as_deref() == Some(TIMED_OUT),
                    "op-{number} is too late, but got {:?}",
                    seen.status
                );
                continue;
            }
            if operation.presence != Presence::Waiting {
                continue;
            }
            if operation.answer.is_none()
                && let Some(answer) = answer(&seen)
            {
                self.note(format!("  op-{number}: {}", self.named(&answer)));
                self.model
                    .answered(number, answer)
                    .with_context(|| format!("op-{number}"))?;
            }
            self.check_stream(number, &seen)
                .with_context(|| format!("the stream of op-{number}"))?;
        }
        Ok(())
    }

    /// A stream never says more than what is committed (TURN-35).
    fn check_stream(&self, number: usize, seen: &Seen) -> anyhow::Result<()> {
        let operation = &self.model.operations[number];
        let (Some(turn), Some(_)) = (operation.turn, &operation.answer) else {
            return Ok(());
        };
        let live = &self.model.live[&turn];
        let row = &self.model.facts.turns[&turn];
        let text = text_of(&seen.events);
        ensure!(live.text.starts_with(&text), "says {text:?}");
        let Some((name, data)) = seen.events.last() else {
            return Ok(());
        };
        let code = data["code"].as_str().unwrap_or_default();
        let is_right = match (name.as_str(), code) {
            ("stream_started" | "delta", _) => true,
            ("done", _) => row.state == "completed" && live.winner == Some(Winner::Process),
            ("error", "stream_interrupted") => live.winner == Some(Winner::Other),
            ("error", "cancelled") => {
                row.state == "cancelled"
                    && live.ending == Some(Ending::Cancelled(Cancel::Stop))
                    && live.winner == Some(Winner::Process)
            }
            ("error", code) => row.error_code.as_deref() == Some(code),
            _ => false,
        };
        ensure!(is_right, "ends with {name} {data} for {row:?}, {live:?}");
        if name == "done" {
            let message = announced(&seen.events);
            ensure!(row.answer == message, "announced {message:?}");
            ensure!(live.text == text, "kept {text:?} back");
        }
        Ok(())
    }

    /// What holds when nothing waits at the turnstile: everybody has learned
    /// what there is to learn.
    pub(super) fn check_quiet(&self, life: &Life) -> anyhow::Result<()> {
        for (number, operation) in self.model.operations.iter().enumerate() {
            if operation.presence != Presence::Waiting {
                continue;
            }
            ensure!(
                operation.answer.is_some(),
                "op-{number} gets no answer: {operation:?}"
            );
            let Some(live) = operation.turn.and_then(|turn| self.model.live.get(&turn)) else {
                continue;
            };
            let seen = self.clients[&number].seen();
            let text = text_of(&seen.events);
            ensure!(
                text == live.text || live.ending.is_some(),
                "op-{number} waits for text: {text:?} of {:?}",
                live.text
            );
            ensure!(
                live.ending.is_some() == seen.has_ended,
                "the stream of op-{number} has ended: {}, but its turn is {live:?}",
                seen.has_ended
            );
            if seen.has_ended {
                let terminals = seen.events.iter().filter(|(name, _)| name != "delta");
                ensure!(terminals.count() == 2, "op-{number}: {:?}", seen.events);
            }
        }
        for (turn, live) in &self.model.live {
            let row = &self.model.facts.turns[turn];
            ensure!(
                live.life != self.model.life || live.ending.is_none() || !row.is_running(),
                "nobody ends {row:?}, {live:?}"
            );
        }
        self.check_metrics(life)
    }

    fn check_metrics(&self, life: &Life) -> anyhow::Result<()> {
        let counts = &self.model.counts;
        let metrics = &life.metrics;
        let mut expected = vec![
            ("stream_started", counts.started),
            ("stream_completed", counts.completed),
            ("stream_failed", counts.failed.values().sum()),
            ("streams_aborted", counts.aborted.values().sum()),
            ("orphan_finalized", counts.orphans_finalized),
            ("quota_reserve", 2 * counts.started),
            ("quota_commit", 2 * counts.settled_actual),
        ];
        let found = |name| metrics.counter_sum(name);
        expected.retain(|(name, count)| found(name) != *count);
        ensure!(
            expected.is_empty(),
            "counters must be {expected:?}, but are {:?}",
            expected
                .iter()
                .map(|(name, _)| found(name))
                .collect::<Vec<_>>()
        );
        for (code, count) in &counts.failed {
            let found = metrics.counter("stream_failed", &["llm", "std", code]);
            ensure!(
                found == *count,
                "stream_failed {code}: {found}, not {count}"
            );
        }
        for (trigger, count) in &counts.aborted {
            let found = metrics.counter("streams_aborted", &[trigger]);
            ensure!(
                found == *count,
                "streams_aborted {trigger}: {found}, not {count}"
            );
        }
        let live = self.model.live.values();
        let active = live
            .filter(|live| live.life == self.model.life && live.ending.is_none())
            .count();
        let found = metrics.gauge("active_streams", &[]);
        ensure!(
            i64::try_from(active)? == found,
            "active_streams: {found}, not {active}"
        );
        Ok(())
    }
}

pub(super) fn operation_of(call: &CallView) -> anyhow::Result<usize> {
    let number = call.caller.strip_prefix("op-");
    let number = number.with_context(|| format!("a call of {:?}", call.caller))?;
    Ok(number.parse()?)
}

fn text_of(events: &[(String, Value)]) -> String {
    let deltas = events.iter().filter(|(name, _)| name == "delta");
    deltas
        .map(|(_, data)| data["content"].as_str().unwrap_or_default())
        .collect()
}

/// What a client was told, in the words of the model; `None` until enough has
/// come.
fn answer(seen: &Seen) -> Option<String> {
    let status = seen.status?;
    if seen.is_stream {
        return stream_answer(seen);
    }
    if status == 204 {
        return Some("deleted".to_owned());
    }
    let body = seen.body.as_ref()?;
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    Some(if let Some(code) = body["code"].as_str() {
        format!("{status} {code}")
    } else if let Some(items) = body["items"].as_array() {
        let items = items.iter().map(|item| {
            let text = |name: &str| item[name].as_str().unwrap_or_default();
            format!("{}:{}", text("role"), text("content"))
        });
        format!("{status} {}", items.collect::<Vec<_>>().join("|"))
    } else {
        let (state, code) = (text("state"), text("error_code"));
        format!("{status} {state} {code} {}", text("assistant_message_id"))
    })
}

fn stream_answer(seen: &Seen) -> Option<String> {
    let (_, started) = seen.events.first()?;
    let text = |name: &str| started[name].as_str().unwrap_or_default();
    let request = text("request_id");
    if started["is_new_turn"] == true {
        return Some(format!("stream {request}"));
    }
    if !seen.has_ended {
        return None;
    }
    let (name, done) = seen.events.last()?;
    let tokens = |name: &str| done["usage"][name].as_u64().unwrap_or(0);
    Some(format!(
        "{} {request} {} {}+{} {}",
        if name == "done" { "replay" } else { name },
        text("message_id"),
        tokens("input_tokens"),
        tokens("output_tokens"),
        text_of(&seen.events)
    ))
}

/// The id under which a stream says that its answer will be stored.
fn announced(events: &[(String, Value)]) -> Option<Uuid> {
    events.first()?.1["message_id"].as_str()?.parse().ok()
}
