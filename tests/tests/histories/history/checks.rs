//! Compares what clients, database, provider and metrics show with the model.

use anyhow::{Context as _, ensure};
use minichat_store::testing::{Access, Moment, Waiter};
use serde_json::Value;
use uuid::Uuid;

use super::{History, WatchdogRun};
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
            self.model.provider_called(operation)?;
            let (sent, right) = (image_ids(call)?, self.model.image_ids(operation));
            ensure!(sent == right, "images {sent:?} were sent, not {right:?}");
            let searches = call.prompt.contains(r#""type":"web_search""#);
            ensure!(
                searches == self.model.searches_web(operation),
                "a search of the web is offered: {searches}"
            );
        }
        self.calls_seen = calls.len();
        // A turn that has ended has no connection (TURN-48).
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
        let now = self.model.orphans();
        for watchdog in &mut self.watchdogs {
            let (fewest, most) = watchdog.orphans;
            watchdog.orphans = (fewest.min(now), most.max(now));
        }
        let watchdogs = std::mem::take(&mut self.watchdogs);
        let (ended, going): (Vec<_>, Vec<_>) =
            watchdogs.into_iter().partition(|it| it.run.is_finished());
        self.watchdogs = going;
        for WatchdogRun { run, orphans } in ended {
            let report = run.await?;
            self.model.watchdogs -= 1;
            let is_whole = report.detected == report.finalized + report.skipped;
            ensure!(report.is_success() && is_whole, "{report:?}");
            let (fewest, most) = orphans;
            ensure!(
                (fewest..=most).contains(&usize::try_from(report.detected)?),
                "{report:?}, but there were {fewest} to {most} orphans"
            );
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

    /// A stream contains nothing that is not committed (TURN-35).
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
            ("stream_started" | "delta" | "tool", _) => true,
            ("done", _) => row.state == "completed" && live.winner == Some(Winner::Process),
            ("error", "stream_interrupted") => match live.winner {
                Some(Winner::Process) => {
                    row.state == "cancelled"
                        && live.ending == Some(Ending::Cancelled(Cancel::Drain))
                }
                winner => winner.is_some(),
            },
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

    /// Checks that hold when nothing waits at the turnstile, so that everyone
    /// has an answer.
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
            let shown = seen
                .events
                .iter()
                .filter(|(name, _)| name == "tool")
                .count();
            ensure!(
                shown == live.tool_events || live.ending.is_some(),
                "op-{number} waits for a call: {shown} of {} events",
                live.tool_events
            );
            ensure!(
                shown <= live.tool_events,
                "op-{number} sees a call too many"
            );
            ensure!(
                live.ending.is_some() == seen.has_ended,
                "the stream of op-{number} has ended: {}, but its turn is {live:?}",
                seen.has_ended
            );
            if seen.has_ended {
                let is_terminal = |(name, _): &&(String, Value)| name != "delta" && name != "tool";
                let terminals = seen.events.iter().filter(is_terminal);
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
        if let Some(drain) = &self.drain {
            let is_over = self.model.refuses() && !self.model.has_open_turns();
            ensure!(
                drain.run.is_finished() == is_over,
                "the drain is over: {}, but {:?}",
                drain.run.is_finished(),
                self.model.drain
            );
        }
        let live = self.model.live.values();
        let active = live
            .filter(|live| live.life == self.model.life && live.ending.is_none())
            .count();
        let found = life.metrics.gauge("active_streams", &[]);
        ensure!(
            i64::try_from(active)? == found,
            "active_streams: {found}, not {active}"
        );
        Ok(())
    }

    /// The counters equal the commits, as far as the process knows of them
    /// (D1). Checked after every step, because a crash loses the counters.
    pub(super) fn check_counters(&self, life: &Life) -> anyhow::Result<()> {
        let waiting = life.turnstile.waiting();
        let is_unacknowledged =
            |it: &&Waiter| (it.access, it.moment) == (Access::Write, Moment::Answer);
        let mut unacknowledged = u64::try_from(waiting.iter().filter(is_unacknowledged).count())?;
        if !waiting.is_empty() {
            unacknowledged += self.model.losses;
        }
        let counts = &self.model.counts;
        let metrics = &life.metrics;
        let check = |name: &str, found: u64, committed: u64, each: u64| {
            let least = committed.saturating_sub(each * unacknowledged);
            ensure!(
                (least..=committed).contains(&found),
                "{name}: {found}, but {committed} are committed, of which {unacknowledged} may be unknown"
            );
            Ok(())
        };
        for (name, committed, each) in [
            ("stream_started", counts.started, 1),
            ("stream_completed", counts.completed, 1),
            ("stream_failed", counts.failed.values().sum(), 1),
            ("streams_aborted", counts.aborted.values().sum(), 1),
            ("orphan_finalized", counts.orphans_finalized, 1),
            ("quota_reserve", 2 * counts.started, 2),
            ("quota_commit", 2 * counts.settled_actual, 2),
        ] {
            check(name, metrics.counter_sum(name), committed, each)?;
        }
        for (code, committed) in &counts.failed {
            let found = metrics.counter("stream_failed", &["llm", "std", code]);
            check(&format!("stream_failed {code}"), found, *committed, 1)?;
        }
        for (trigger, committed) in &counts.aborted {
            let found = metrics.counter("streams_aborted", &[trigger]);
            check(&format!("streams_aborted {trigger}"), found, *committed, 1)?;
        }
        Ok(())
    }
}

pub(super) fn operation_of(call: &CallView) -> anyhow::Result<usize> {
    let number = call.caller.strip_prefix("op-");
    let number = number.with_context(|| format!("a call of {:?}", call.caller))?;
    Ok(number.parse()?)
}

/// The ids of the images in the request, wherever they are.
fn image_ids(call: &CallView) -> anyhow::Result<Vec<String>> {
    let body: Value = serde_json::from_str(&call.prompt)?;
    let messages = body["input"].as_array().into_iter().flatten();
    let parts = messages.flat_map(|message| message["content"].as_array().into_iter().flatten());
    let ids = parts.filter_map(|part| part["file_id"].as_str().map(str::to_owned));
    Ok(ids.collect())
}

fn text_of(events: &[(String, Value)]) -> String {
    let deltas = events.iter().filter(|(name, _)| name == "delta");
    deltas
        .map(|(_, data)| data["content"].as_str().unwrap_or_default())
        .collect()
}

/// A client's answer in the words of the model; `None` until enough was
/// received.
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
            let files = item["attachments"].as_array().into_iter().flatten();
            let id = |file: &Value| file["attachment_id"].as_str().map(str::to_owned);
            let files: Vec<_> = files.filter_map(id).map(|id| format!("[{id}]")).collect();
            format!("{}:{}{}", text("role"), text("content"), files.concat())
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

/// The message id that a stream announces for its answer.
fn announced(events: &[(String, Value)]) -> Option<Uuid> {
    events.first()?.1["message_id"].as_str()?.parse().ok()
}
