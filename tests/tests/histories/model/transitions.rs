//! The changes that a transaction may make to the rows.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use minichat_core::Timestamp;
use uuid::Uuid;

use super::rules::{daily, monthly};
use super::{
    Cancel, Command, DAILY_LIMIT, Ending, FLOOR, Live, MAX_OUTPUT, MONTHLY_LIMIT, Model,
    OUTPUT_PRICE, OVERSHOOT_PCT, Operation, Presence, WATCHDOG_TIMEOUT, Winner, micros, signed,
};
use crate::facts::{Calls, Cell, Facts, Message, Turn, UsageEvent};
use crate::provider::Usage;

/// When `turn` becomes stale (TURN-57).
pub(crate) fn stale_at(turn: &Turn) -> i64 {
    turn.last_progress_at + micros(WATCHDOG_TIMEOUT)
}

/// The change that one write makes.
#[derive(Clone, Copy, Debug)]
enum Change {
    Inserted(Uuid),
    /// Calls of tools ended.
    Called(Uuid),
    Finished(Uuid),
    Progressed(Uuid),
    Deleted(Uuid),
    ChatDeleted(Uuid),
    FileDeleted(Uuid),
}

/// The changes from `before` to `after`.
fn changes(before: &Facts, after: &Facts) -> Vec<Change> {
    let mut changes = Vec::new();
    for (id, turn) in &after.turns {
        let Some(old) = before.turns.get(id) else {
            changes.push(Change::Inserted(*id));
            continue;
        };
        if turn.calls != old.calls {
            changes.push(Change::Called(*id));
        }
        if old.is_running() && !turn.is_running() {
            changes.push(Change::Finished(*id));
        }
        if turn.last_progress_at != old.last_progress_at {
            changes.push(Change::Progressed(*id));
        }
        if turn.is_deleted && !old.is_deleted && turn.replaced_by.is_none() {
            changes.push(Change::Deleted(*id));
        }
    }
    let deleted = after.deleted_chats.difference(&before.deleted_chats);
    changes.extend(deleted.map(|chat| Change::ChatDeleted(*chat)));
    let was_there = |id| before.files.get(id).is_some_and(|file| !file.is_deleted);
    let deleted = after.files.iter();
    let deleted = deleted.filter(|(id, file)| file.is_deleted && was_there(*id));
    changes.extend(deleted.map(|(id, _)| Change::FileDeleted(*id)));
    changes
}

impl Model {
    /// Checks the rows after a transaction against the model. If two writes
    /// shared the transaction, their order is not known.
    pub(crate) fn observe(&mut self, after: &Facts) -> anyhow::Result<()> {
        let mut changes = changes(&self.facts, after);
        if self.happening.len() > 1 && changes.len() > 1 {
            let mut one_way = self.clone();
            if one_way.apply(&changes, after).is_ok() {
                *self = one_way;
                return Ok(());
            }
            changes.reverse();
        }
        self.apply(&changes, after)
    }

    fn apply(&mut self, changes: &[Change], after: &Facts) -> anyhow::Result<()> {
        if self.facts == *after {
            return Ok(());
        }
        let mut expected = self.facts.clone();
        for (number, change) in changes.iter().enumerate() {
            if number > 0 {
                self.facts = expected.clone();
                self.live_on();
            }
            self.change(&mut expected, after, *change)?;
        }
        expected.cells.retain(|_, cell| *cell != Cell::default());
        expected.audits.sort();
        if expected != *after {
            bail!(
                "the rows are not as they must be: {}",
                expected.differs(after)
            );
        }
        self.facts = expected;
        self.check_invariants()?;
        self.live_on();
        Ok(())
    }

    fn change(
        &mut self,
        expected: &mut Facts,
        after: &Facts,
        change: Change,
    ) -> anyhow::Result<()> {
        match change {
            Change::Inserted(id) => self.inserted(expected, after, id, &after.turns[&id]),
            Change::Called(id) => self.called(expected, id, &after.turns[&id]),
            Change::Finished(id) => self.finished(expected, after, id, &after.turns[&id]),
            Change::Progressed(id) => self.progressed(expected, id, &after.turns[&id]),
            Change::Deleted(id) => self.deleted(expected, id),
            Change::ChatDeleted(chat) => self.chat_deleted(expected, chat),
            Change::FileDeleted(file) => self.file_deleted(expected, file),
        }
    }

    /// A new running turn, possibly a replacement (TURN-11, TURN-55).
    fn inserted(
        &mut self,
        expected: &mut Facts,
        after: &Facts,
        id: Uuid,
        turn: &Turn,
    ) -> anyhow::Result<()> {
        let number = self.opener(expected, after, turn)?;
        let operation = &self.operations[number];
        let content = operation.message(expected)?;
        let files = operation.files(expected);
        ensure!(
            expected.are_usable(turn.chat, &files),
            "linked to {files:?}"
        );
        if let Some(target) = operation.command.replaced() {
            let (old, _) = expected
                .turn_of(turn.chat, target)
                .context("no turn to replace")?;
            let kind = match operation.command {
                Command::Retry { .. } => "turn_retry",
                _ => "turn_edit",
            };
            expected.remove(old, Some(turn.request), kind)?;
        }
        let is_deleted = expected.deleted_chats.contains(&turn.chat);
        ensure!(!is_deleted, "a turn is opened in a chat that is deleted");
        let running = expected.running_in(turn.chat);
        ensure!(running.is_none(), "a second turn runs in its chat");
        ensure!(
            operation.reserves.contains(&turn.reserve_tokens),
            "reserved {} tokens; right would be one of {:?}",
            turn.reserve_tokens,
            operation.reserves
        );
        let searches_web = operation.searches_web(expected);
        let credits = turn.reserve_tokens - MAX_OUTPUT + MAX_OUTPUT * OUTPUT_PRICE;
        let day = Timestamp::from_micros(turn.started_at).date();
        let new = Turn {
            chat: operation.chat,
            request: turn.request,
            state: "running".to_owned(),
            error_code: None,
            answer: None,
            is_deleted: false,
            replaced_by: None,
            reserve_tokens: turn.reserve_tokens,
            reserved_credits: credits,
            max_output: MAX_OUTPUT,
            floor: FLOOR,
            day: turn.day.clone(),
            searches_web,
            calls: Calls::default(),
            started_at: turn.started_at,
            last_progress_at: turn.started_at,
        };
        ensure!(
            turn.started_at >= expected.next_instant(turn.chat),
            "a turn does not begin after everything else in its chat"
        );
        ensure!(turn.day == day.to_string(), "reserved on {}", turn.day);
        let offered = expected.offered(turn.chat, searches_web);
        let has_calls = expected.has_calls_left(&turn.day, offered);
        ensure!(has_calls, "beyond the calls of the day: {offered:?}");
        for (key, limit) in [
            (daily(&turn.day), DAILY_LIMIT),
            (monthly(&turn.day), MONTHLY_LIMIT),
        ] {
            let cell = expected.cells.entry(key).or_default();
            cell.reserved += credits;
            ensure!(cell.reserved + cell.spent <= limit, "beyond the limit");
        }
        let (message_id, message) = after
            .message_of_turn(turn, "user")
            .context("a turn without message")?;
        ensure!(
            message.created_at > expected.newest_in(turn.chat),
            "a message does not follow everything else in its chat"
        );
        expected.messages.insert(
            message_id,
            Message {
                chat: turn.chat,
                request: turn.request,
                role: "user".to_owned(),
                content,
                is_deleted: false,
                tokens: (0, 0),
                created_at: message.created_at,
            },
        );
        if !files.is_empty() {
            expected.links.insert(message_id, files);
        }
        expected.turns.insert(id, new);
        self.opened(number, id);
        Ok(())
    }

    /// The operation that may have opened `turn`.
    fn opener(&self, expected: &Facts, after: &Facts, turn: &Turn) -> anyhow::Result<usize> {
        let replaced = after
            .turns
            .values()
            .find(|old| old.chat == turn.chat && old.replaced_by == Some(turn.request))
            .map(|old| old.request);
        let is_opener = |operation: &Operation| {
            let fits = match replaced {
                None => {
                    matches!(&operation.command, Command::Send { request, .. } if *request == turn.request)
                }
                Some(target) => {
                    operation.command.replaced() == Some(target)
                        && expected.refusal(operation.chat, target).is_none()
                }
            };
            fits && operation.chat == turn.chat
                && operation.life == self.life
                && operation.turn.is_none()
                && operation.presence != Presence::Over
                && !operation.is_refused
        };
        let said = after
            .message_of_turn(turn, "user")
            .map(|(_, message)| &message.content);
        let says_it = |operation: &Operation| operation.message(expected).ok().as_ref() == said;
        let found: Vec<usize> = (0..self.operations.len())
            .filter(|&number| {
                let operation = &self.operations[number];
                is_opener(operation) && says_it(operation)
            })
            .collect();
        // If several could have opened it, the transaction decides, or
        // otherwise the one that gets the stream. One that still waits is
        // chosen.
        let waits = |number: &&usize| self.operations[**number].presence == Presence::Waiting;
        let happens = |number: &&usize| self.operations[**number].happens_in(&self.happening);
        let chosen = found.iter().find(happens);
        let chosen = chosen.or_else(|| found.iter().find(waits).or(found.first()));
        chosen.copied().context("nobody may open this turn now")
    }

    fn opened(&mut self, number: usize, turn: Uuid) {
        let operation = &mut self.operations[number];
        operation.turn = Some(turn);
        let has_left = operation.presence == Presence::Left;
        if has_left {
            operation.presence = Presence::Over;
        }
        self.counts.started += 1;
        let ending = if self.is_cut() {
            Some(Ending::Cancelled(Cancel::Drain))
        } else {
            has_left.then_some(Ending::Cancelled(Cancel::Disconnect))
        };
        self.live.insert(
            turn,
            Live {
                life: self.life,
                text: String::new(),
                begun: Calls::default(),
                ended: Calls::default(),
                tool_events: 0,
                provider_called: false,
                refused: false,
                attempts: 0,
                usage: None,
                ending,
                winner: None,
                silence_ends: i64::MAX,
                call_ends: i64::MAX,
            },
        );
    }

    /// Calls of a turn were counted (TURN-29). If the database fails, a call may be
    /// missing, but none is there that did not end.
    fn called(&self, expected: &mut Facts, id: Uuid, turn: &Turn) -> anyhow::Result<()> {
        let live = self.live.get(&id).context("no process has the turn")?;
        ensure!(live.life == self.life, "a call of a dead process");
        let old = expected.turns.get_mut(&id).context("no such turn")?;
        ensure!(old.is_running(), "a call of a turn that has ended");
        for (before, now, ended) in [
            (
                old.calls.web_search,
                turn.calls.web_search,
                live.ended.web_search,
            ),
            (
                old.calls.code_interpreter,
                turn.calls.code_interpreter,
                live.ended.code_interpreter,
            ),
        ] {
            ensure!(
                (before..=ended).contains(&now),
                "{now} calls are counted, of which {ended} ended"
            );
        }
        old.calls = turn.calls;
        Ok(())
    }

    /// A turn moved out of `running` (TURN-33).
    fn finished(
        &mut self,
        expected: &mut Facts,
        after: &Facts,
        id: Uuid,
        turn: &Turn,
    ) -> anyhow::Result<()> {
        let old = expected.turns.get(&id).context("no such turn")?.clone();
        let is_orphan = turn.error_code.as_deref() == Some("orphan_timeout");
        let settled = if is_orphan {
            self.orphaned(id, &old)?
        } else {
            self.ended(id, turn)?
        };
        let mut new = old.clone();
        settled.state.clone_into(&mut new.state);
        new.error_code = settled.error_code.map(str::to_owned);
        if let Some(text) = &settled.text {
            let answer = turn.answer.context("the answer is not linked")?;
            let stored = after.messages.get(&answer).context("no answer")?;
            ensure!(
                stored.created_at > expected.newest_in(old.chat),
                "the answer is not the newest message of its chat"
            );
            new.answer = Some(answer);
            expected.messages.insert(
                answer,
                Message {
                    chat: old.chat,
                    request: old.request,
                    role: "assistant".to_owned(),
                    content: text.clone(),
                    is_deleted: false,
                    tokens: settled.usage.map_or((0, 0), signed),
                    created_at: stored.created_at,
                },
            );
        }
        let credits = settled.credits(&old);
        for key in [daily(&old.day), monthly(&old.day)] {
            let cell = expected.cells.entry(key).or_default();
            cell.reserved -= old.reserved_credits;
            cell.spent += credits;
            cell.calls += 1;
            if settled.method != "released" {
                cell.tools.web_search += old.calls.web_search;
                cell.tools.code_interpreter += old.calls.code_interpreter;
            }
            if settled.method == "actual" {
                let (input, output) = settled.usage.map_or((0, 0), signed);
                cell.input_tokens += input;
                cell.output_tokens += output;
            }
        }
        expected.usage.insert(
            id,
            UsageEvent {
                state: settled.state.to_owned(),
                error_code: settled.error_code.map(str::to_owned),
                billing: settled.billing.to_owned(),
                method: settled.method.to_owned(),
                credits,
                reserved: old.reserved_credits,
                tools: old.calls,
            },
        );
        let audit = match settled.state {
            "completed" => "turn_completed",
            _ => "turn_failed",
        };
        expected.audits.push((audit.to_owned(), id));
        expected.turns.insert(id, new);
        self.count(&settled);
        Ok(())
    }

    /// The process of a turn won (TURN-31, TURN-40).
    fn ended(&mut self, id: Uuid, turn: &Turn) -> anyhow::Result<Settled> {
        let life = self.life;
        let opener = self.operations.iter().find(|it| it.turn == Some(id));
        let may_be_refused = opener.is_some_and(|opener| opener.may_be_refused);
        let live = self.live.get_mut(&id).context("no process has the turn")?;
        ensure!(live.life == life, "its process is gone");
        ensure!(live.winner.is_none(), "its process had ended it before");
        live.winner = Some(Winner::Process);
        if may_be_refused
            && !live.provider_called
            && turn.error_code.as_deref() == Some("provider_error")
        {
            live.ending = Some(Ending::Failed("provider_error"));
        }
        let ending = live.ending.context("nothing ended the turn")?;
        let usage = live.usage;
        let method = match usage {
            _ if !live.provider_called || live.refused => "released",
            Some(_) => "actual",
            None => "estimated",
        };
        let (state, error_code, billing) = match ending {
            Ending::Completed => ("completed", None, "completed"),
            Ending::Failed(code) => ("failed", Some(code), "failed"),
            Ending::Cancelled(_) => ("cancelled", None, "aborted"),
        };
        let is_kept = match ending {
            Ending::Completed => true,
            Ending::Failed(_) => false,
            Ending::Cancelled(_) => !live.text.is_empty(),
        };
        Ok(Settled {
            state,
            error_code,
            billing,
            method,
            usage,
            text: is_kept.then(|| live.text.clone()),
            trigger: match ending {
                Ending::Cancelled(Cancel::Drain) => "internal_abort",
                _ => "client_disconnect",
            },
        })
    }

    /// Number of turns that a watchdog would find now (TURN-57).
    pub(crate) fn orphans(&self) -> usize {
        let turns = self.facts.turns.values();
        turns.filter(|turn| self.is_orphan(turn)).count()
    }

    fn is_orphan(&self, turn: &Turn) -> bool {
        turn.is_running() && stale_at(turn) <= self.now && !turn.is_deleted
    }

    /// A watchdog or the start-up recovery won (TURN-60, TURN-63).
    fn orphaned(&mut self, id: Uuid, old: &Turn) -> anyhow::Result<Settled> {
        ensure!(
            self.recovers || (self.watchdogs > 0 && self.is_orphan(old)),
            "not an orphan: last progress {} at {}, {} watchdogs",
            old.last_progress_at,
            self.now,
            self.watchdogs
        );
        if let Some(live) = self.live.get_mut(&id) {
            live.winner = Some(Winner::Other);
        }
        Ok(Settled {
            state: "failed",
            error_code: Some("orphan_timeout"),
            billing: "aborted",
            method: "estimated",
            usage: None,
            text: None,
            trigger: if self.recovers {
                "pod_crash"
            } else {
                "orphan_timeout"
            },
        })
    }

    /// The winner records the end once (D1).
    fn count(&mut self, settled: &Settled) {
        let counts = &mut self.counts;
        if settled.state == "completed" {
            counts.completed += 1;
        } else {
            let code = settled.error_code.unwrap_or("cancelled");
            *counts.failed.entry(code.to_owned()).or_default() += 1;
        }
        if settled.billing == "aborted" {
            *counts.aborted.entry(settled.trigger).or_default() += 1;
        }
        if settled.trigger == "orphan_timeout" {
            counts.orphans_finalized += 1;
        }
        if settled.method == "actual" {
            counts.settled_actual += 1;
        }
    }

    /// A deletion without a replacement (TURN-55).
    fn deleted(&mut self, expected: &mut Facts, id: Uuid) -> anyhow::Result<()> {
        let turn = expected.turns.get(&id).context("no such turn")?;
        let refusal = expected.refusal(turn.chat, turn.request);
        ensure!(refusal.is_none(), "deleted, but {refusal:?}");
        let request = turn.request;
        let command = Command::Delete { target: request };
        let may_delete = self.may_have_deleted(|operation| operation.command == command);
        ensure!(may_delete, "nobody may delete this turn now");
        expected.remove(id, None, "turn_delete")
    }

    /// Its turns stay as they are, even a running one (API-55, TURN-53).
    fn chat_deleted(&mut self, expected: &mut Facts, chat: Uuid) -> anyhow::Result<()> {
        let may_delete = self.may_have_deleted(|operation| {
            operation.command == Command::DeleteChat && operation.chat == chat
        });
        ensure!(may_delete, "nobody may delete this chat now");
        expected.deleted_chats.insert(chat);
        expected.cleanups.push(chat);
        expected.cleanups.sort();
        Ok(())
    }

    /// No message is linked to it (CONT-70, CONT-73).
    fn file_deleted(&mut self, expected: &mut Facts, id: Uuid) -> anyhow::Result<()> {
        let command = Command::DeleteFile { file: id };
        let may_delete = self.may_have_deleted(|operation| operation.command == command);
        ensure!(may_delete, "nobody may delete this file now");
        ensure!(!expected.is_linked(id), "a file of a message is deleted");
        let file = expected.files.get_mut(&id).context("no such file")?;
        let is_gone = expected.deleted_chats.contains(&file.chat);
        ensure!(!is_gone, "a file of a deleted chat is deleted");
        file.is_deleted = true;
        expected.cleanups.push(id);
        expected.cleanups.sort();
        Ok(())
    }

    /// Whether one of the operations that `want` it may have made the deletion:
    /// it is the first of those in progress.
    fn may_have_deleted(&mut self, want: impl Fn(&Operation) -> bool) -> bool {
        let life = self.life;
        let mut any = false;
        for operation in &mut self.operations {
            if want(operation) && operation.presence != Presence::Over && operation.life == life {
                operation.allowed.insert("deleted".to_owned());
                any = true;
            }
        }
        let mut happening = self.happening.iter();
        let first = happening.find_map(|&number| {
            let begun = |it: &Operation| it.life == life && it.transaction == Some(number);
            let place = self.operations.iter().position(begun)?;
            want(&self.operations[place]).then_some(place)
        });
        if let Some(place) = first {
            self.operations[place].has_deleted = true;
        }
        any
    }

    /// Progress (TURN-7).
    fn progressed(&self, expected: &mut Facts, id: Uuid, turn: &Turn) -> anyhow::Result<()> {
        let live = self.live.get(&id).context("no process has the turn")?;
        ensure!(live.life == self.life, "progress of a dead process");
        let old = expected.turns.get_mut(&id).context("no such turn")?;
        ensure!(
            old.is_running() && turn.last_progress_at == self.now,
            "progress noted at {} of a turn that is {}",
            turn.last_progress_at,
            old.state
        );
        old.last_progress_at = turn.last_progress_at;
        Ok(())
    }

    /// Invariants that hold at every moment.
    fn check_invariants(&self) -> anyhow::Result<()> {
        let facts = &self.facts;
        let mut reserved = BTreeMap::<_, i64>::new();
        for turn in facts.turns.values().filter(|turn| turn.is_running()) {
            for key in [daily(&turn.day), monthly(&turn.day)] {
                *reserved.entry(key).or_default() += turn.reserved_credits;
            }
        }
        for (key, cell) in &facts.cells {
            let sum = reserved.get(key).copied().unwrap_or(0);
            ensure!(cell.reserved == sum, "{key:?} reserves {}", cell.reserved);
        }
        for (id, turn) in &facts.turns {
            let is_settled = facts.usage.contains_key(id);
            ensure!(is_settled != turn.is_running(), "usage event of {turn:?}");
        }
        Ok(())
    }

    /// Invariants that hold when nothing is in progress any more.
    pub(crate) fn check_end(&self) -> anyhow::Result<()> {
        let running = self.facts.turns.values().find(|turn| turn.is_running());
        ensure!(running.is_none(), "left running: {running:?}");
        let reserved = self.facts.cells.values().find(|cell| cell.reserved != 0);
        ensure!(reserved.is_none(), "a reserve is left: {reserved:?}");
        Ok(())
    }
}

/// How a turn is settled.
struct Settled {
    state: &'static str,
    error_code: Option<&'static str>,
    billing: &'static str,
    method: &'static str,
    usage: Usage,
    text: Option<String>,
    trigger: &'static str,
}

impl Operation {
    /// Whether one of the writes being made is its own.
    fn happens_in(&self, happening: &[u64]) -> bool {
        let transaction = self.transaction;
        transaction.is_some_and(|number| happening.contains(&number))
    }

    /// The message of the turn that it opens.
    fn message(&self, before: &Facts) -> anyhow::Result<String> {
        Ok(match &self.command {
            Command::Send { content, .. } | Command::Edit { content, .. } => content.clone(),
            Command::Retry { target } => before
                .message_of(self.chat, *target, "user")
                .context("a retry of a turn without message")?
                .content
                .clone(),
            other => bail!("{other:?} opened a turn"),
        })
    }
}

impl Operation {
    /// Whether the turn that it opens searches the web.
    fn searches_web(&self, before: &Facts) -> bool {
        match &self.command {
            Command::Send { searches_web, .. } => *searches_web,
            command => command
                .replaced()
                .is_some_and(|target| before.searches_web(self.chat, target)),
        }
    }

    /// The files of the message of the turn that it opens.
    fn files(&self, before: &Facts) -> Vec<Uuid> {
        match &self.command {
            Command::Send { files, .. } => files.clone(),
            command => command
                .replaced()
                .map(|target| before.files_of(self.chat, target))
                .unwrap_or_default(),
        }
    }
}

impl Settled {
    /// QUOTA-58 to QUOTA-60, at the prices of `std`.
    fn credits(&self, turn: &Turn) -> i64 {
        let estimate = turn.reserve_tokens - turn.max_output + turn.floor * OUTPUT_PRICE;
        match (self.method, self.usage) {
            ("released", _) => 0,
            ("actual", Some(usage)) => {
                let (input, output) = signed(usage);
                let price = input + output * OUTPUT_PRICE;
                let tolerated = turn.reserve_tokens * (100 + OVERSHOOT_PCT);
                if (input + output) * 100 <= tolerated {
                    price
                } else {
                    price.min(turn.reserved_credits)
                }
            }
            _ => estimate.min(turn.reserved_credits),
        }
    }
}
