//! The right answers for a state of the rows.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use minichat_core::Timestamp;
use uuid::Uuid;

use super::{
    CODE_INTERPRETER_TOKENS, Command, DAILY_CALLS, DAILY_LIMIT, IMAGE_TOKENS, MAX_IMAGES,
    MAX_OUTPUT, MONTHLY_LIMIT, NO_CHAT, OUTPUT_PRICE, Operation, WEB_SEARCH_TOKENS,
};
use crate::facts::{Facts, Message, Turn};

impl Operation {
    /// Adds the answers that would be right now.
    pub(super) fn live_through(&mut self, facts: &Facts, now: i64) {
        self.states += 1;
        let chat = self.chat;
        if self.is_refused {
            return;
        }
        if facts.deleted_chats.contains(&chat) {
            self.allowed.insert(NO_CHAT.to_owned());
            return;
        }
        let day = Timestamp::from_micros(now).date().to_string();
        match &self.command {
            Command::Send {
                request,
                content,
                files,
                searches_web,
            } => {
                let images = facts.images(chat, files).len();
                let offered = facts.offered(chat, *searches_web);
                let need = self::need(content, images, offered, facts.prior_context(chat, None));
                self.reserves.insert(need);
                let answer = match facts.turn_of(chat, *request) {
                    Some((_, turn)) => facts.replay(turn),
                    None if facts.running_in(chat).is_some() => "409 generation_in_progress".into(),
                    None if images > MAX_IMAGES => "400 too_many_images".into(),
                    None if !facts.admits(&day, need, offered) => "429 quota_exceeded".into(),
                    None if !facts.are_usable(chat, files) => "400 invalid_attachment".into(),
                    None => return,
                };
                self.allowed.insert(answer);
            }
            Command::Retry { target } | Command::Edit { target, .. } => {
                if let Some(refusal) = facts.refusal(chat, *target) {
                    self.allowed.insert(refusal.to_owned());
                } else {
                    let old = facts.message_of(chat, *target, "user");
                    let content = match (&self.command, old) {
                        (Command::Edit { content, .. }, _) => content.as_str(),
                        (_, Some(message)) => message.content.as_str(),
                        (_, None) => "",
                    };
                    let images = facts.images(chat, &facts.files_of(chat, *target)).len();
                    let prior_context = facts.prior_context(chat, Some(*target));
                    let searches_web = facts.searches_web(chat, *target);
                    let offered = facts.offered(chat, searches_web);
                    let need = self::need(content, images, offered, prior_context);
                    self.reserves.insert(need);
                    if !facts.admits(&day, need, offered) {
                        self.allowed.insert("429 quota_exceeded".to_owned());
                    }
                }
                // In a race with a send, either answer is right (TURN-55).
                if self.states > 1 && facts.running_in(chat).is_some() {
                    self.allowed.insert("409 generation_in_progress".to_owned());
                }
            }
            Command::Delete { target } => {
                if let Some(refusal) = facts.refusal(chat, *target) {
                    self.allowed.insert(refusal.to_owned());
                }
            }
            Command::Cancel { target } => {
                let answer = match facts.turn_of(chat, *target) {
                    None => "404 turn_not_found".to_owned(),
                    Some((_, turn)) if turn.is_running() => format!("202 {}", turn.status()),
                    Some((_, turn)) => format!("200 {}", turn.status()),
                };
                self.allowed.insert(answer);
            }
            Command::Status { target } => {
                let answer = match facts.turn_of(chat, *target) {
                    None => "404 turn_not_found".to_owned(),
                    Some((_, turn)) => format!("200 {}", turn.status()),
                };
                self.allowed.insert(answer);
            }
            Command::Messages => {
                self.allowed.insert(facts.list(chat));
            }
            Command::DeleteFile { file } => {
                let answer = match facts.files.get(file) {
                    Some(file) if file.chat != chat => "404 attachment_not_found",
                    None => "404 attachment_not_found",
                    Some(file) if file.is_deleted => "deleted",
                    Some(_) if facts.is_linked(*file) => "409 attachment_locked",
                    Some(_) => return,
                };
                self.allowed.insert(answer.to_owned());
            }
            Command::DeleteChat => {}
        }
    }
}

impl Turn {
    /// The turn status of TURN-8 as text.
    pub(crate) fn status(&self) -> String {
        let state = match self.state.as_str() {
            "completed" => "done",
            "failed" => "error",
            other => other,
        };
        let answer = self.answer.map(|id| id.to_string()).unwrap_or_default();
        let code = self.error_code.as_deref().unwrap_or_default();
        format!("{state} {code} {answer}")
    }
}

impl Facts {
    pub(crate) fn turn_of(&self, chat: Uuid, request: Uuid) -> Option<(Uuid, &Turn)> {
        let mut turns = self.turns.iter();
        turns
            .find(|(_, turn)| turn.chat == chat && turn.request == request)
            .map(|(id, turn)| (*id, turn))
    }

    pub(super) fn running_in(&self, chat: Uuid) -> Option<&Turn> {
        let mut turns = self.turns.values();
        turns.find(|turn| turn.chat == chat && turn.is_running() && !turn.is_deleted)
    }

    /// The chat's newest turn that is not deleted.
    pub(crate) fn newest_turn(&self, chat: Uuid) -> Option<&Turn> {
        let turns = self.turns.values();
        turns
            .filter(|turn| turn.chat == chat && !turn.is_deleted)
            .max_by_key(|turn| turn.started_at)
    }

    pub(super) fn message_of(&self, chat: Uuid, request: Uuid, role: &str) -> Option<&Message> {
        self.messages.values().find(|message| {
            message.chat == chat
                && message.request == request
                && message.role == role
                && !message.is_deleted
        })
    }

    pub(super) fn message_of_turn(&self, turn: &Turn, role: &str) -> Option<(Uuid, &Message)> {
        let mut messages = self.messages.iter();
        messages
            .find(|(_, message)| {
                message.chat == turn.chat && message.request == turn.request && message.role == role
            })
            .map(|(id, message)| (*id, message))
    }

    /// The files that a turn's message is linked to and that are not deleted.
    pub(super) fn files_of(&self, chat: Uuid, request: Uuid) -> Vec<Uuid> {
        let mut messages = self.messages.iter();
        let message = messages.find(|(_, message)| {
            message.chat == chat
                && message.request == request
                && message.role == "user"
                && !message.is_deleted
        });
        let links = message.and_then(|(id, _)| self.links.get(id));
        let mut files = links.cloned().unwrap_or_default();
        files.retain(|id| self.is_usable(chat, *id));
        files
    }

    /// Whether a message is linked to the file, deleted or not (CONT-73).
    pub(super) fn is_linked(&self, file: Uuid) -> bool {
        self.links.values().flatten().any(|linked| *linked == file)
    }

    fn is_usable(&self, chat: Uuid, file: Uuid) -> bool {
        let file = self.files.get(&file);
        file.is_some_and(|file| file.chat == chat && !file.is_deleted)
    }

    /// Whether a message may be linked to `files` (CONT-70).
    pub(super) fn are_usable(&self, chat: Uuid, files: &[Uuid]) -> bool {
        let distinct: BTreeSet<_> = files.iter().collect();
        distinct.len() == files.len() && files.iter().all(|id| self.is_usable(chat, *id))
    }

    /// The images of `files` that can be sent, once each.
    pub(super) fn images(&self, chat: Uuid, files: &[Uuid]) -> Vec<Uuid> {
        let mut images = Vec::new();
        for &id in files {
            let is_image = self.files.get(&id).is_some_and(|file| file.is_image);
            if is_image && self.is_usable(chat, id) && !images.contains(&id) {
                images.push(id);
            }
        }
        images
    }

    pub(super) fn newest_in(&self, chat: Uuid) -> i64 {
        let messages = self.messages.values();
        messages
            .filter(|message| message.chat == chat && !message.is_deleted)
            .map(|message| message.created_at)
            .max()
            .unwrap_or(0)
    }

    /// The earliest instant of a new turn in `chat` (TURN-6).
    pub(super) fn next_instant(&self, chat: Uuid) -> i64 {
        let turns = self.turns.values();
        turns
            .filter(|turn| turn.chat == chat && !turn.is_deleted)
            .map(|turn| turn.started_at + 1)
            .max()
            .unwrap_or(0)
            .max(self.newest_in(chat) + 1)
    }

    /// Why a mutation of the turn is refused (TURN-54).
    pub(super) fn refusal(&self, chat: Uuid, target: Uuid) -> Option<&'static str> {
        if self.deleted_chats.contains(&chat) {
            return Some(NO_CHAT);
        }
        let Some((_, turn)) = self.turn_of(chat, target) else {
            return Some("404 turn_not_found");
        };
        if turn.is_running() {
            return Some("400 invalid_turn_state");
        }
        let is_newest = self
            .newest_turn(chat)
            .is_some_and(|newest| newest.request == target);
        (!is_newest).then_some("409 not_latest_turn")
    }

    /// Soft-deletes a turn with its messages, and reports it (TURN-55).
    pub(super) fn remove(&mut self, id: Uuid, by: Option<Uuid>, audit: &str) -> anyhow::Result<()> {
        let turn = self.turns.get_mut(&id).context("no such turn")?;
        ensure!(!turn.is_deleted, "deleted twice");
        turn.is_deleted = true;
        turn.replaced_by = by;
        let (chat, request) = (turn.chat, turn.request);
        for message in self.messages.values_mut() {
            if message.chat == chat && message.request == request {
                message.is_deleted = true;
            }
        }
        self.audits.push((audit.to_owned(), id));
        Ok(())
    }

    /// The tokens of the newest answer with a token count (QUOTA-37).
    pub(super) fn prior_context(&self, chat: Uuid, without: Option<Uuid>) -> i64 {
        let messages = self.messages.values();
        messages
            .filter(|message| {
                message.chat == chat
                    && message.role == "assistant"
                    && !message.is_deleted
                    && Some(message.request) != without
                    && message.tokens != (0, 0)
            })
            .max_by_key(|message| message.created_at)
            .map_or(0, |message| message.tokens.0 + message.tokens.1)
    }

    /// Whether the turn with this request asked for a search of the web.
    pub(super) fn searches_web(&self, chat: Uuid, request: Uuid) -> bool {
        let turn = self.turn_of(chat, request);
        turn.is_some_and(|(_, turn)| turn.searches_web)
    }

    /// The tools that a request offers (CONT-100).
    pub(super) fn offered(&self, chat: Uuid, web_search: bool) -> Offered {
        let mut files = self.files.values();
        Offered {
            web_search,
            code_interpreter: files
                .any(|file| file.chat == chat && file.is_for_code && !file.is_deleted),
        }
    }

    /// Whether the day has calls left of what is offered (QUOTA-50).
    pub(super) fn has_calls_left(&self, day: &str, offered: Offered) -> bool {
        let cell = self.cells.get(&daily(day)).copied().unwrap_or_default();
        (!offered.web_search || cell.tools.web_search < DAILY_CALLS)
            && (!offered.code_interpreter || cell.tools.code_interpreter < DAILY_CALLS)
    }

    /// Whether the cells of `day` have room for a turn (QUOTA-12, QUOTA-13, QUOTA-50).
    pub(super) fn admits(&self, day: &str, reserve_tokens: i64, offered: Offered) -> bool {
        let credits = reserve_tokens - MAX_OUTPUT + MAX_OUTPUT * OUTPUT_PRICE;
        let admits = |key, limit| {
            let cell = self.cells.get(&key).copied().unwrap_or_default();
            cell.reserved + cell.spent + credits <= limit
        };
        admits(daily(day), DAILY_LIMIT)
            && admits(monthly(day), MONTHLY_LIMIT)
            && self.has_calls_left(day, offered)
    }

    /// The answer to a send with a request id that the chat has (TURN-43,
    /// TURN-44).
    pub(super) fn replay(&self, turn: &Turn) -> String {
        match turn.answer.and_then(|id| self.messages.get(&id)) {
            Some(message) if turn.state == "completed" && !turn.is_deleted => {
                let id = turn.answer.unwrap_or_default();
                let (input, output) = message.tokens;
                format!(
                    "replay {} {id} {input}+{output} {}",
                    turn.request, message.content
                )
            }
            _ => "409 request_id_conflict".to_owned(),
        }
    }

    /// The messages of a chat as text.
    pub(super) fn list(&self, chat: Uuid) -> String {
        let messages = self.messages.iter();
        let mut listed: Vec<(&Uuid, &Message)> = messages
            .filter(|(_, message)| message.chat == chat && !message.is_deleted)
            .collect();
        listed.sort_by_key(|(_, message)| message.created_at);
        let texts = listed.iter().map(|(id, message)| {
            let files = self.links.get(id).into_iter().flatten();
            let files: Vec<_> = files.map(|file| format!("[{file}]")).collect();
            format!("{}:{}{}", message.role, message.content, files.concat())
        });
        format!("200 {}", texts.collect::<Vec<_>>().join("|"))
    }

    /// The differences to `other`, as text.
    pub(super) fn differs(&self, other: &Self) -> String {
        let mut lines = Vec::new();
        let mut compare = |name: &str, expected: String, found: String| {
            if expected != found {
                lines.push(format!("{name}\n  must be {expected}\n  but are {found}"));
            }
        };
        compare(
            "turns",
            format!("{:?}", self.turns),
            format!("{:?}", other.turns),
        );
        compare(
            "messages",
            format!("{:?}", self.messages),
            format!("{:?}", other.messages),
        );
        compare(
            "files",
            format!("{:?}", (&self.files, &self.links)),
            format!("{:?}", (&other.files, &other.links)),
        );
        compare(
            "cells",
            format!("{:?}", self.cells),
            format!("{:?}", other.cells),
        );
        compare(
            "usage events",
            format!("{:?}", self.usage),
            format!("{:?}", other.usage),
        );
        compare(
            "audit events",
            format!("{:?}", self.audits),
            format!("{:?}", other.audits),
        );
        compare(
            "deleted chats",
            format!("{:?}", (&self.deleted_chats, &self.cleanups)),
            format!("{:?}", (&other.deleted_chats, &other.cleanups)),
        );
        lines.join("\n")
    }
}

/// Tools in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offered {
    web_search: bool,
    code_interpreter: bool,
}

/// QUOTA-35, QUOTA-38 and QUOTA-43 with the default budgets for texts.
fn need(content: &str, images: usize, offered: Offered, prior_context: i64) -> i64 {
    let bytes = i64::try_from(content.len()).unwrap_or(i64::MAX);
    let base = bytes.unsigned_abs().div_ceil(4) + 100;
    let text = i64::try_from((base * 110).div_ceil(100)).unwrap_or(i64::MAX);
    let images = i64::try_from(images).unwrap_or(i64::MAX) * IMAGE_TOKENS;
    let tools = i64::from(offered.web_search) * WEB_SEARCH_TOKENS
        + i64::from(offered.code_interpreter) * CODE_INTERPRETER_TOKENS;
    text + images + tools + prior_context + MAX_OUTPUT
}

pub(crate) fn daily(day: &str) -> (String, String, String) {
    ("daily".to_owned(), day.to_owned(), "total".to_owned())
}

pub(crate) fn monthly(day: &str) -> (String, String, String) {
    let first = format!("{}01", &day[..day.len() - 2]);
    ("monthly".to_owned(), first, "total".to_owned())
}
