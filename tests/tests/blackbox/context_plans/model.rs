//! The rules of the context plan, written down once more: slowly, and without any code
//! under test.

use minichat_tests::sent_files::StoredFile;
use serde_json::{Value, json};
use uuid::Uuid;

/// What the tenant says of its model and of contexts.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a setting of its own"
)]
pub(super) struct Settings {
    pub(super) limit: usize,
    pub(super) system_prompt: String,
    pub(super) web_guard: String,
    pub(super) file_guard: String,
    pub(super) is_file_search_off: bool,
    pub(super) is_code_interpreter_off: bool,
    pub(super) has_file_search: bool,
    pub(super) has_web_search: bool,
    pub(super) has_code_interpreter: bool,
    pub(super) context_window: u32,
    pub(super) max_input: u32,
    pub(super) max_output: u32,
    pub(super) budgets: Budgets,
}

/// Tokens, except for bytes per token and the margin in per cent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budgets {
    pub(super) bytes_per_token: u32,
    pub(super) overhead: u32,
    pub(super) margin: u32,
    pub(super) image: u32,
    pub(super) file_search: u32,
    pub(super) web_search: u32,
    pub(super) code_interpreter: u32,
}

#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a column of its own")]
pub(super) struct Message {
    pub(super) id: Uuid,
    /// Microseconds since the chat was created.
    pub(super) at: u32,
    pub(super) role: &'static str,
    pub(super) text: String,
    pub(super) is_of_turn: bool,
    pub(super) is_deleted: bool,
    pub(super) is_compressed: bool,
    /// Not in another chat.
    pub(super) is_here: bool,
}

#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) stored: StoredFile,
    /// Microseconds since the chat was created.
    pub(super) at: u32,
    pub(super) is_searched: bool,
    pub(super) is_for_code: bool,
    pub(super) is_deleted: bool,
}

/// A chat before a message is sent.
#[derive(Clone, Debug)]
pub(super) struct Situation {
    pub(super) settings: Settings,
    pub(super) messages: Vec<Message>,
    /// Those of the chat.
    pub(super) files: Vec<File>,
    /// The chat's vector store, if its provider runs the model.
    pub(super) store: Option<String>,
}

/// A message to send.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) text: String,
    pub(super) wants_web_search: bool,
    pub(super) files: Vec<StoredFile>,
}

/// What the provider must be sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) instructions: Value,
    pub(super) input: Value,
    pub(super) tools: Value,
    pub(super) feature: String,
    pub(super) is_truncated: bool,
}

#[derive(Debug)]
pub(super) enum Refusal {
    InputTooLong,
    Context { required: u64, available: u64 },
}

impl Refusal {
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::InputTooLong => "input_too_long",
            Self::Context { .. } => "context_budget_exceeded",
        }
    }

    /// The numbers of the refusal.
    pub(super) fn context(&self) -> Value {
        match self {
            Self::InputTooLong => Value::Null,
            Self::Context {
                required,
                available,
            } => json!({"required_tokens": required, "available_tokens": available}),
        }
    }
}

impl Budgets {
    /// CONT-7
    fn text(self, text: &str) -> u64 {
        let bytes = text.len() as u64;
        let per_token = u64::from(self.bytes_per_token.max(1));
        let base = bytes.div_ceil(per_token) + u64::from(self.overhead);
        (base * (100 + u64::from(self.margin))).div_ceil(100)
    }
}

impl Message {
    /// A message of a turn that followed `earlier` ones.
    pub(super) fn newest(role: &'static str, text: String, earlier: usize) -> Self {
        let turn = u32::try_from(earlier).unwrap_or(u32::MAX);
        Self {
            id: Uuid::new_v4(),
            at: 1_000 + 2 * turn + u32::from(role == "assistant"),
            role,
            text,
            is_of_turn: true,
            is_deleted: false,
            is_compressed: false,
            is_here: true,
        }
    }

    fn sent(&self) -> Value {
        let part = match self.role {
            "assistant" => "output_text",
            _ => "input_text",
        };
        let parts = json!([{"type": part, "text": self.text}]);
        json!({"type": "message", "role": self.role, "content": parts})
    }
}

impl File {
    pub(super) fn is_image(&self) -> bool {
        self.stored.kind == "image"
    }

    pub(super) fn is_usable(&self) -> bool {
        self.stored.status == "ready" && !self.is_deleted
    }
}

impl Situation {
    /// CONT-5
    fn window(&self) -> Vec<&Message> {
        let mut window: Vec<_> = self.messages.iter().collect();
        window.retain(|message| message.is_here && message.is_of_turn);
        window.retain(|message| !message.is_deleted && !message.is_compressed);
        window.sort_by_key(|message| (message.at, message.id));
        window.drain(..window.len().saturating_sub(self.settings.limit));
        window.retain(|message| message.role != "system");
        window
    }

    /// CONT-100: the tools with what each costs, in the order of CONT-33
    fn tools(&self, question: &Question) -> Vec<(&'static str, u32, Value)> {
        let Settings { budgets, .. } = self.settings;
        let mut tools = Vec::new();
        let is_searched = self.files.iter().any(|it| it.is_usable() && it.is_searched);
        if let Some(store) = &self.store
            && is_searched
            && self.settings.has_file_search
            && !self.settings.is_file_search_off
        {
            let tool =
                json!({"type": "file_search", "vector_store_ids": [store], "max_num_results": 5});
            tools.push(("file_search", budgets.file_search, tool));
        }
        if question.wants_web_search && self.settings.has_web_search {
            let tool = json!({"type": "web_search", "search_context_size": "low"});
            tools.push(("web_search", budgets.web_search, tool));
        }
        let mut files: Vec<_> = self.files.iter().collect();
        files.retain(|it| it.is_usable() && it.is_for_code && it.stored.backend == "main");
        files.sort_by_key(|file| (file.at, file.stored.id));
        let files: Vec<_> = files.iter().map(|file| &file.stored.file_id).collect();
        if !files.is_empty()
            && self.settings.has_code_interpreter
            && !self.settings.is_code_interpreter_off
        {
            let tool = json!({"type": "code_interpreter", "container": {"type": "auto", "file_ids": files}});
            tools.push(("code_interpreter", budgets.code_interpreter, tool));
        }
        tools
    }

    /// CONT-2, CONT-8, CONT-9. A summary would be paid after what is mandatory and before
    /// the window.
    pub(super) fn request(&self, question: &Question) -> Result<Request, Refusal> {
        let settings = &self.settings;
        let budgets = settings.budgets;
        let tools = self.tools(question);
        let is_offered = |name| tools.iter().any(|(tool, ..)| *tool == name);

        let mut instructions = vec![settings.system_prompt.as_str()];
        if is_offered("web_search") {
            instructions.push(&settings.web_guard);
        }
        if is_offered("file_search") {
            instructions.push(&settings.file_guard);
        }
        instructions.retain(|part| !part.is_empty());
        let instructions = instructions.join("\n\n");

        if budgets.text(&question.text) > u64::from(settings.max_input) {
            return Err(Refusal::InputTooLong);
        }
        let window = i64::from(settings.context_window);
        let budget = i64::from(settings.max_input).min(window - i64::from(settings.max_output));
        let surcharges: u32 = tools.iter().map(|(_, surcharge, _)| surcharge).sum();
        let deductions = budgets.overhead + surcharges;
        let available = budget - i64::from(deductions);
        if available <= 0 {
            return Err(Refusal::Context {
                required: deductions.into(),
                available: settings.context_window.into(),
            });
        }
        let available = available.unsigned_abs();

        let images = question.files.iter().filter(|file| file.kind == "image");
        let mut spent = budgets.text(&question.text);
        spent += u64::from(budgets.image) * images.clone().count() as u64;
        if !instructions.is_empty() {
            spent += budgets.text(&instructions);
        }
        if spent > available {
            return Err(Refusal::Context {
                required: spent,
                available,
            });
        }

        let window = self.window();
        let mut input = Vec::new();
        let mut is_truncated = false;
        for message in window.iter().rev() {
            spent += budgets.text(&message.text);
            if spent > available {
                is_truncated = true;
                break;
            }
            input.insert(0, message.sent());
        }
        let mut parts = vec![json!({"type": "input_text", "text": question.text})];
        parts.extend(images.map(|file| json!({"type": "input_image", "file_id": file.file_id})));
        input.push(json!({"type": "message", "role": "user", "content": parts}));

        let names: Vec<_> = tools.iter().map(|(name, ..)| *name).collect();
        let feature = match names.join("+") {
            none if none.is_empty() => "none".to_owned(),
            names => names,
        };
        let tools: Vec<_> = tools.into_iter().map(|(.., tool)| tool).collect();
        let or_absent = |is_empty: bool, value: Value| if is_empty { Value::Null } else { value };
        Ok(Request {
            instructions: or_absent(instructions.is_empty(), json!(instructions)),
            input: json!(input),
            tools: or_absent(tools.is_empty(), json!(tools)),
            feature,
            is_truncated,
        })
    }
}
