//! What clients ask, and about what.

use anyhow::Context as _;
use http::Method;
use serde_json::json;
use uuid::Uuid;

use super::History;
use crate::client::{Client, Question};
use crate::model::Wish;
use crate::world::{Life, World};

impl History {
    pub(super) async fn client_step(
        &mut self,
        world: &mut World,
        life: &Life,
    ) -> anyhow::Result<()> {
        let chat = self.chat().context("no chat")?;
        let wish = self.wish(chat);
        let number = self.model.begin(chat, wish);
        let operation = &self.model.operations[number];
        let question = question(chat, &operation.wish);
        self.note(format!(
            "op-{number}: {}",
            self.named(&format!("{:?} in {chat}", operation.wish))
        ));
        let before = life.turnstile.waiting();
        let client = Client::ask(
            life.router.clone(),
            self.who,
            &format!("op-{number}"),
            &question,
        );
        self.clients.insert(number, client);
        self.settle(world, life, false).await?;
        let waiting = life.turnstile.waiting();
        let new = waiting.iter().find(|waiter| !before.contains(waiter));
        self.model.operations[number].transaction = new.map(|waiter| waiter.number);
        Ok(())
    }

    /// Any of the chats; seldom one that is deleted.
    fn chat(&mut self) -> Option<Uuid> {
        let deleted = &self.model.facts.deleted_chats;
        let weight = |chat| if deleted.contains(chat) { 1 } else { 4 };
        let weights: Vec<u32> = self.chats.iter().map(weight).collect();
        Some(self.chats[self.choices.weighted(&weights)?])
    }

    fn wish(&mut self, chat: Uuid) -> Wish {
        let content = format!("message {}", self.steps.len());
        match self.choices.weighted(&[40, 10, 12, 12, 8, 10, 8, 3, 6]) {
            Some(0) => {
                let request = Uuid::new_v4();
                self.requests.push(request);
                Wish::Send { request, content }
            }
            Some(1) => Wish::Send {
                request: self.target(chat),
                content,
            },
            Some(2) => Wish::Retry {
                target: self.target(chat),
            },
            Some(3) => Wish::Edit {
                target: self.target(chat),
                content,
            },
            Some(4) => Wish::Delete {
                target: self.target(chat),
            },
            Some(5) => Wish::Cancel {
                target: self.target(chat),
            },
            Some(6) => Wish::Status {
                target: self.target(chat),
            },
            Some(7) => Wish::DeleteChat,
            _ => Wish::Messages,
        }
    }

    /// A request to be about: mostly of the chat's newest turn, else any that
    /// the chat knows or that was sent somewhere.
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

fn question(chat: Uuid, wish: &Wish) -> Question {
    let turn = |target: &Uuid| format!("/chats/{chat}/turns/{target}");
    let (method, path, body) = match wish {
        Wish::Send { request, content } => (
            Method::POST,
            format!("/chats/{chat}/messages:stream"),
            Some(json!({"content": content, "request_id": request})),
        ),
        Wish::Retry { target } => (Method::POST, format!("{}/retry", turn(target)), None),
        Wish::Edit { target, content } => (
            Method::PATCH,
            turn(target),
            Some(json!({"content": content})),
        ),
        Wish::Delete { target } => (Method::DELETE, turn(target), None),
        Wish::Cancel { target } => (Method::POST, format!("{}/cancel", turn(target)), None),
        Wish::Status { target } => (Method::GET, turn(target), None),
        Wish::Messages => (Method::GET, format!("/chats/{chat}/messages"), None),
        Wish::DeleteChat => (Method::DELETE, format!("/chats/{chat}"), None),
    };
    Question { method, path, body }
}
