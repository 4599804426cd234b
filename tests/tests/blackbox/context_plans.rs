//! What requests to providers contain, compared with what the rules say of random
//! chats.

mod model;

use anyhow::Context as _;
use minichat_tests::client::Api;
use minichat_tests::database::{Database, DatabaseKind};
use minichat_tests::harness::Scene;
use minichat_tests::on_each_database;
use minichat_tests::sent_files::StoredFile;
use serde_json::{Value, json};
use uuid::Uuid;

use model::{Budgets, File, Message, Question, Settings, Situation};

/// Settings of the tenant, and chats with each of them.
const ROUNDS: usize = 6;
const CHATS: usize = 7;

/// A small random generator, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(bound)).unwrap_or_default()
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        let index = self.below(u32::try_from(items.len()).unwrap_or(1));
        items[index as usize]
    }

    /// A text whose bytes are more than its characters.
    fn text(&mut self, fewest: u32, most: u32) -> String {
        let length = fewest + self.below(most - fewest + 1);
        (0..length).map(|_| self.one_of(&['a', 'é', '🏔'])).collect()
    }

    fn settings(&mut self) -> Settings {
        Settings {
            limit: self.one_of(&[0, 1, 3, 10]),
            system_prompt: self.text(0, 6),
            web_guard: self.one_of(&["", "web guard"]).to_owned(),
            file_guard: self.one_of(&["", "file guard"]).to_owned(),
            is_file_search_off: self.chance(20),
            is_code_interpreter_off: self.chance(20),
            has_file_search: self.chance(85),
            has_web_search: self.chance(85),
            has_code_interpreter: self.chance(85),
            context_window: 62 + self.below(160),
            max_input: 8 + self.below(160),
            max_output: 1 + self.below(60),
            budgets: Budgets {
                bytes_per_token: 1 + self.below(5),
                overhead: self.below(4),
                margin: self.below(60),
                image: 1 + self.below(12),
                file_search: self.below(9),
                web_search: self.below(9),
                code_interpreter: self.below(9),
            },
        }
    }

    fn message(&mut self) -> Message {
        Message {
            id: Uuid::new_v4(),
            // Few instants, so that ids decide.
            at: self.below(5),
            role: self.one_of(&["user", "assistant", "user", "assistant", "system"]),
            text: self.text(0, 24),
            is_of_turn: self.chance(85),
            is_deleted: self.chance(15),
            is_compressed: self.chance(15),
            is_here: self.chance(85),
        }
    }

    fn file(&mut self, chat: &str) -> File {
        let kind = self.one_of(&["image", "document", "document", "sheet"]);
        let stored = StoredFile {
            status: self.one_of(&["ready", "ready", "ready", "pending", "failed"]),
            backend: self.one_of(&["main", "main", "main", "elsewhere"]),
            ..match kind {
                "image" => StoredFile::image(chat),
                _ => StoredFile::document(chat),
            }
        };
        File {
            stored,
            at: self.below(3),
            is_searched: kind == "document",
            is_for_code: kind == "sheet",
            is_deleted: self.chance(15),
        }
    }
}

/// Serves the tenant with `settings`.
async fn apply(scene: &Scene, settings: &Settings) -> anyhow::Result<()> {
    let mut tenant = scene.tenant.clone();
    let budgets = &settings.budgets;
    let model = tenant.model("std");
    model["systemPrompt"] = json!(settings.system_prompt);
    model["contextWindow"] = json!(settings.context_window);
    model["maxInputTokens"] = json!(settings.max_input);
    model["maxOutputTokens"] = json!(settings.max_output);
    model["multimodalCapabilities"] = json!(["VISION_INPUT"]);
    model["toolSupport"] = json!({
        "webSearch": settings.has_web_search,
        "fileSearch": settings.has_file_search,
        "codeInterpreter": settings.has_code_interpreter,
    });
    model["estimationBudgets"] = json!({
        "bytesPerTokenConservative": budgets.bytes_per_token,
        "fixedOverheadTokens": budgets.overhead,
        "safetyMarginPct": budgets.margin,
        "imageTokenBudget": budgets.image,
        "toolSurchargeTokens": budgets.file_search,
        "webSearchSurchargeTokens": budgets.web_search,
        "codeInterpreterSurchargeTokens": budgets.code_interpreter,
        "minimalGenerationFloor": 1,
    });
    tenant.spec()["context"] = json!({
        "recentMessagesLimit": settings.limit,
        "webSearchGuard": settings.web_guard,
        "fileSearchGuard": settings.file_guard,
    });
    tenant.spec()["killSwitches"] = json!({
        "disableFileSearch": settings.is_file_search_off,
        "disableCodeInterpreter": settings.is_code_interpreter_off,
    });
    // The model is asked for answers alone.
    tenant.spec()["threadSummary"] = json!({"enabled": false});
    scene.stack.apply(&tenant).await
}

/// The instant of the chat's creation and `micros`, as SQL.
fn later(database: &Database, micros: u32) -> String {
    match database.kind() {
        DatabaseKind::Sqlite => format!("created_at + {micros}"),
        DatabaseKind::Postgres => format!("created_at + INTERVAL '{micros} microseconds'"),
    }
}

async fn insert_message(database: &Database, chat: &str, message: &Message) -> anyhow::Result<()> {
    let Message { id, role, text, .. } = message;
    let request = if message.is_of_turn {
        format!("'{}'", Uuid::new_v4())
    } else {
        "NULL".to_owned()
    };
    let at = later(database, message.at);
    let deleted = if message.is_deleted { &at } else { "NULL" };
    let sql = format!(
        "INSERT INTO messages (id, tenant_id, chat_id, request_id, role, content, is_compressed, \
         created_at, deleted_at) SELECT '{id}', tenant_id, id, {request}, '{role}', '{text}', {}, \
         {at}, {deleted} FROM chats WHERE id = '{chat}'",
        message.is_compressed
    );
    database.query(&sql).await?;
    Ok(())
}

async fn insert_file(database: &Database, file: &File) -> anyhow::Result<()> {
    file.stored.clone().insert(database).await?;
    let deleted = if file.is_deleted {
        "created_at"
    } else {
        "NULL"
    };
    let changes = format!(
        "for_file_search = {}, for_code_interpreter = {}, deleted_at = {deleted}, created_at = {}",
        file.is_searched,
        file.is_for_code,
        later(database, file.at)
    );
    file.stored.set(database, &changes).await
}

async fn insert_store(
    database: &Database,
    chat: &str,
    store: Option<&str>,
    backend: &str,
) -> anyhow::Result<()> {
    let id = Uuid::new_v4();
    let store = store.map_or_else(|| "NULL".to_owned(), |store| format!("'{store}'"));
    let sql = format!(
        "INSERT INTO chat_vector_stores (id, tenant_id, chat_id, vector_store_id, provider, \
         created_at) SELECT '{id}', tenant_id, id, {store}, '{backend}', created_at \
         FROM chats WHERE id = '{chat}'"
    );
    database.query(&sql).await?;
    Ok(())
}

/// A random chat, beside another one of the same user, and a message for it.
async fn random_chat(
    scene: &Scene,
    user: &Api,
    dice: &mut Dice,
    settings: &Settings,
) -> anyhow::Result<(String, Situation)> {
    let database = scene.database();
    let chat = user.create_chat(Some("std")).await?;
    let other = user.create_chat(Some("std")).await?;
    let mut situation = Situation {
        settings: settings.clone(),
        messages: (0..dice.below(13)).map(|_| dice.message()).collect(),
        files: Vec::new(),
        store: None,
    };
    for message in &situation.messages {
        let chat = if message.is_here { &chat } else { &other };
        insert_message(database, chat, message).await?;
    }
    for _ in 0..dice.below(6) {
        let chat = if dice.chance(85) { &chat } else { &other };
        let file = dice.file(chat);
        insert_file(database, &file).await?;
        situation.files.push(file);
    }
    situation.files.retain(|file| file.stored.chat == chat);
    if dice.chance(80) {
        let id = format!("vs_{}", chat.replace('-', ""));
        let (is_known, backend) = (dice.chance(80), dice.one_of(&["main", "main", "elsewhere"]));
        insert_store(database, &chat, is_known.then_some(&id), backend).await?;
        situation.store = (is_known && backend == "main").then_some(id);
    }
    Ok((chat, situation))
}

fn question(dice: &mut Dice, situation: &Situation) -> Question {
    let mut question = Question {
        text: dice.text(1, 20),
        wants_web_search: dice.chance(50),
        files: Vec::new(),
    };
    for file in situation.files.iter().filter(|file| file.is_usable()) {
        let is_there = !file.is_image() || file.stored.backend == "main";
        if is_there && question.files.len() < 4 && dice.chance(60) {
            question.files.push(file.stored.clone());
        }
    }
    if dice.chance(50) {
        question.files.reverse();
    }
    question
}

fn bodies(scene: &Scene) -> Vec<Value> {
    let requests = scene.provider.requests().into_iter();
    requests.map(|request| request.body).collect()
}

/// Sends `question`, and compares the request or the refusal with the rules. Returns
/// what was sent and answered, if anything was.
async fn check(
    scene: &Scene,
    user: &Api,
    chat: &str,
    (situation, question): (&Situation, &Question),
) -> anyhow::Result<Option<[Message; 2]>> {
    let before = bodies(scene).len();
    let ids: Vec<_> = question.files.iter().map(|file| file.id).collect();
    let body = json!({
        "content": question.text,
        "attachment_ids": ids,
        "web_search": {"enabled": question.wants_web_search},
    });
    let expected = match situation.request(question) {
        Ok(expected) => expected,
        Err(refusal) => {
            let answer = user.refused(chat, &body).await?;
            let problem = answer.problem(422, refusal.code())?;
            assert_eq!(problem["context"], refusal.context(), "{problem}");
            assert_eq!(bodies(scene).len(), before, "no call");
            return Ok(None);
        }
    };
    let events = user.open(chat, &body).await?.collect().await?;
    events.only("done")?;
    let sent = bodies(scene).pop().context("no request")?;
    for (name, expected) in [
        ("instructions", &expected.instructions),
        ("input", &expected.input),
        ("tools", &expected.tools),
    ] {
        assert_eq!(&sent[name], expected, "{name}");
    }
    assert_eq!(sent["metadata"]["feature"], expected.feature);

    let request = events.only("stream_started")?["request_id"].clone();
    let request = request.as_str().context("no id")?;
    let again = user.open_retry(chat, request).await?.collect().await?;
    again.only("done")?;
    assert_eq!(
        bodies(scene).pop().context("no request")?,
        sent,
        "the same plan"
    );
    let said = |role, text| Message::newest(role, text, situation.messages.len());
    Ok(Some([
        said("user", question.text.clone()),
        said("assistant", again.answer()),
    ]))
}

on_each_database! {
    /// CONT-2 to CONT-10, CONT-12, CONT-33, CONT-38, CONT-72, CONT-100: nothing that is deleted,
    /// compressed, of no turn or of another chat enters a request; system instructions, the
    /// message and its images are always there; the newest messages that fit are, without gaps;
    /// a retry sends the same bytes. Checks 1 to 3, 5 to 8 and 10 of chapter 04
    async fn every_request_is_as_the_rules_say(env) {
        let scene = env.scene().await?;
        let user = scene.new_user()?;
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let (mut sent, mut refused, mut truncated) = (0, 0, 0);
        for round in 0..ROUNDS {
            let settings = dice.settings();
            apply(&scene, &settings).await?;
            for number in 0..CHATS {
                let (chat, mut situation) = random_chat(&scene, &user, &mut dice, &settings).await?;
                // The second message has the first one in its history, without its images.
                for _ in 0..2 {
                    let question = question(&mut dice, &situation);
                    let is_truncated = situation.request(&question).is_ok_and(|it| it.is_truncated);
                    let turn = check(&scene, &user, &chat, (&situation, &question)).await;
                    let turn = turn.with_context(|| {
                        format!("chat {number} of round {round}: {question:?} in {situation:#?}")
                    })?;
                    match turn {
                        Some(messages) => {
                            sent += 1;
                            truncated += u32::from(is_truncated);
                            situation.messages.extend(messages);
                        }
                        None => refused += 1,
                    }
                }
            }
        }
        assert!(sent > 40 && refused > 5 && truncated > 5, "{sent} {refused} {truncated}");
    }
}
