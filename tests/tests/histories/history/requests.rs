//! Chooses the requests of clients, and their targets.

use anyhow::Context as _;
use http::Method;
use serde_json::json;
use uuid::Uuid;

use super::History;
use crate::client::{Client, Request};
use crate::model::Command;
use crate::world::{Life, World};

impl History {
    pub(super) async fn client_step(
        &mut self,
        world: &mut World,
        life: &Life,
    ) -> anyhow::Result<()> {
        let chat = self.chat().context("no chat")?;
        let command = self.command(chat);
        let number = self.model.begin(chat, command);
        let operation = &self.model.operations[number];
        let request = request(chat, &operation.command);
        self.note(format!(
            "op-{number}: {}",
            self.named(&format!("{:?} in {chat}", operation.command))
        ));
        let before = life.turnstile.waiting();
        let client = Client::send(
            life.router.clone(),
            self.who,
            &format!("op-{number}"),
            &request,
        );
        self.clients.insert(number, client);
        self.settle(world, life, false).await?;
        let waiting = life.turnstile.waiting();
        let new = waiting.iter().find(|waiter| !before.contains(waiter));
        self.model.operations[number].transaction = new.map(|waiter| waiter.number);
        Ok(())
    }

    /// Any of the chats, rarely a deleted one.
    fn chat(&mut self) -> Option<Uuid> {
        let deleted = &self.model.facts.deleted_chats;
        let weight = |chat| if deleted.contains(chat) { 1 } else { 4 };
        let weights: Vec<u32> = self.chats.iter().map(weight).collect();
        Some(self.chats[self.choices.weighted(&weights)?])
    }

    fn command(&mut self, chat: Uuid) -> Command {
        let content = format!("message {}", self.steps.len());
        match self.choices.weighted(&[40, 10, 12, 12, 8, 10, 8, 3, 6, 8]) {
            Some(0) => {
                let request = Uuid::new_v4();
                self.requests.push(request);
                let files = self.files(chat);
                Command::Send {
                    request,
                    content,
                    files,
                    searches_web: self.choices.chance(30),
                }
            }
            Some(1) => Command::Send {
                request: self.target(chat),
                content,
                files: self.files(chat),
                searches_web: self.choices.chance(30),
            },
            Some(2) => Command::Retry {
                target: self.target(chat),
            },
            Some(3) => Command::Edit {
                target: self.target(chat),
                content,
            },
            Some(4) => Command::Delete {
                target: self.target(chat),
            },
            Some(5) => Command::Cancel {
                target: self.target(chat),
            },
            Some(6) => Command::Status {
                target: self.target(chat),
            },
            Some(7) => Command::DeleteChat,
            Some(9) => self.delete_file(),
            _ => Command::Messages,
        }
    }

    /// The deletion of any file.
    fn delete_file(&mut self) -> Command {
        let files: Vec<Uuid> = self.model.facts.files.keys().copied().collect();
        let file = self.choices.one_of(&files).copied();
        Command::DeleteFile {
            file: file.unwrap_or_default(),
        }
    }

    /// Files for a message: often none, and rarely one of another chat.
    fn files(&mut self, chat: Uuid) -> Vec<Uuid> {
        if !self.choices.chance(35) {
            return Vec::new();
        }
        let of_another = self.choices.chance(10);
        let files = self.model.facts.files.iter();
        let files = files.filter(|(_, file)| (file.chat != chat) == of_another);
        let files: Vec<Uuid> = files.map(|(id, _)| *id).collect();
        let count = 1 + self.choices.below(3);
        (0..count)
            .filter_map(|_| self.choices.one_of(&files).copied())
            .collect()
    }

    /// A request id as the target: usually that of the chat's newest turn,
    /// otherwise any that the chat has or that was sent to any chat.
    fn target(&mut self, chat: Uuid) -> Uuid {
        let newest = self.model.facts.newest_turn(chat).map(|turn| turn.request);
        if let Some(newest) = newest.filter(|_| !self.choices.chance(35)) {
            return newest;
        }
        for turn in self.model.facts.turns.values() {
            if !self.requests.contains(&turn.request) {
                self.requests.push(turn.request);
            }
        }
        let known = self.choices.one_of(&self.requests).copied();
        known.unwrap_or_else(|| {
            let unknown = Uuid::new_v4();
            self.requests.push(unknown);
            unknown
        })
    }
}

fn request(chat: Uuid, command: &Command) -> Request {
    let turn = |target: &Uuid| format!("/chats/{chat}/turns/{target}");
    let (method, path, body) = match command {
        Command::Send {
            request,
            content,
            files,
            searches_web,
        } => (
            Method::POST,
            format!("/chats/{chat}/messages:stream"),
            Some(json!({
                "content": content, "request_id": request, "attachment_ids": files,
                "web_search": {"enabled": searches_web},
            })),
        ),
        Command::Retry { target } => (Method::POST, format!("{}/retry", turn(target)), None),
        Command::Edit { target, content } => (
            Method::PATCH,
            turn(target),
            Some(json!({"content": content})),
        ),
        Command::Delete { target } => (Method::DELETE, turn(target), None),
        Command::Cancel { target } => (Method::POST, format!("{}/cancel", turn(target)), None),
        Command::Status { target } => (Method::GET, turn(target), None),
        Command::Messages => (Method::GET, format!("/chats/{chat}/messages"), None),
        Command::DeleteFile { file } => {
            let path = format!("/chats/{chat}/attachments/{file}");
            (Method::DELETE, path, None)
        }
        Command::DeleteChat => (Method::DELETE, format!("/chats/{chat}"), None),
    };
    Request { method, path, body }
}
