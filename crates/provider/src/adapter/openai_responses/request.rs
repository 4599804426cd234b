//! The request body (CONT-31). vLLM gets some of its fields (CONT-36).

use minichat_config::tenant::{Provider, SearchContextSize};
use minichat_core::{ChatId, HostedTool, TenantId};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::adapter::sampling::{Reasoning, Sampling, non_empty};
use crate::request::{InputMessage, RequestMetadata, RequestType, Role, Tools, TurnRequest};

/// The request body.
#[derive(Serialize)]
pub(in crate::adapter) struct RequestJson<'a> {
    model: &'a str,
    stream: bool,
    store: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_response_id: Option<Null>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'a str>,
    #[serde(skip_serializing_if = "Input::is_empty")]
    input: Input<'a>,
    #[serde(skip_serializing_if = "ToolList::is_empty")]
    tools: ToolList<'a>,
    max_output_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tool_calls: Option<u32>,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[serde(flatten)]
    sampling: Sampling<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra_body: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Reasoning<'a>>,
}

impl<'a> RequestJson<'a> {
    pub(in crate::adapter) fn new(provider: &Provider, request: &TurnRequest<'a>) -> Self {
        Self {
            model: request.provider_model_id,
            stream: request.is_streamed,
            store: false,
            previous_response_id: Some(Null),
            instructions: non_empty(request.instructions),
            input: Input {
                messages: request.messages,
                has_plain_answers: false,
            },
            tools: ToolList(request.tools),
            max_output_tokens: request.max_output_tokens,
            max_tool_calls: request.max_tool_calls,
            user: request.user,
            metadata: provider
                .send_metadata
                .then(|| Metadata::new(request.metadata, request.tools)),
            sampling: Sampling::new(provider, request.api_params),
            extra_body: request.api_params.extra_body.as_ref(),
            reasoning: Reasoning::new(request.api_params),
        }
    }

    /// Omits the fields that vLLM does not know, and sends answers as plain
    /// strings (CONT-36).
    pub(in crate::adapter) fn for_vllm(mut self) -> Self {
        self.previous_response_id = None;
        self.tools = ToolList::default();
        self.max_tool_calls = None;
        self.metadata = None;
        self.input.has_plain_answers = true;
        self
    }
}

/// `null`.
#[derive(Serialize)]
struct Null;

struct Input<'a> {
    messages: &'a [InputMessage<'a>],
    has_plain_answers: bool,
}

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let item = |message| Item::new(message, self.has_plain_answers);
        serializer.collect_seq(self.messages.iter().map(item))
    }
}

#[derive(Serialize)]
struct Item<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    role: Role,
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Parts(Parts<'a>),
    Plain(&'a str),
}

/// A text, and the images that follow it.
struct Parts<'a> {
    kind_of_text: &'static str,
    text: &'a str,
    image_file_ids: &'a [String],
}

impl Serialize for Parts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Part::Text {
            kind: self.kind_of_text,
            text: self.text,
        };
        let images = self.image_file_ids.iter().map(|file_id| Part::Image {
            kind: "input_image",
            file_id,
        });
        serializer.collect_seq(std::iter::once(text).chain(images))
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Text {
        #[serde(rename = "type")]
        kind: &'static str,
        text: &'a str,
    },
    Image {
        #[serde(rename = "type")]
        kind: &'static str,
        file_id: &'a str,
    },
}

impl<'a> Item<'a> {
    fn new(message: &InputMessage<'a>, has_plain_answers: bool) -> Self {
        let InputMessage {
            role,
            text,
            image_file_ids,
        } = *message;
        let parts = |kind_of_text| {
            Content::Parts(Parts {
                kind_of_text,
                text,
                image_file_ids,
            })
        };
        Self {
            kind: "message",
            role,
            content: match role {
                Role::User => parts("input_text"),
                Role::Assistant if has_plain_answers => Content::Plain(text),
                Role::Assistant => parts("output_text"),
            },
        }
    }
}

/// The tools in the order of CONT-33.
#[derive(Default)]
struct ToolList<'a>(Tools<'a>);

impl ToolList<'_> {
    fn is_empty(&self) -> bool {
        HostedTool::ALL.into_iter().all(|tool| !self.0.has(tool))
    }
}

impl Serialize for ToolList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tools = self.0;
        let present = HostedTool::ALL.into_iter().filter(|&tool| tools.has(tool));
        serializer.collect_seq(present.map(|tool| ToolJson::new(tool, tools)))
    }
}

#[derive(Serialize)]
struct ToolJson<'a> {
    #[serde(rename = "type")]
    kind: HostedTool,
    #[serde(skip_serializing_if = "Option::is_none")]
    vector_store_ids: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_num_results: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    search_context_size: Option<SearchContextSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Container<'a>>,
}

/// Where code runs.
#[derive(Serialize)]
struct Container<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    file_ids: &'a [String],
}

impl<'a> ToolJson<'a> {
    fn new(kind: HostedTool, tools: Tools<'a>) -> Self {
        let file_search = tools.file_search.filter(|_| kind == HostedTool::FileSearch);
        let web_search = tools.web_search.filter(|_| kind == HostedTool::WebSearch);
        Self {
            kind,
            vector_store_ids: file_search.map(|search| [search.vector_store_id]),
            max_num_results: file_search.map(|search| search.max_num_results),
            search_context_size: web_search.map(|search| search.context_size),
            container: (kind == HostedTool::CodeInterpreter).then_some(Container {
                kind: "auto",
                file_ids: tools.code_interpreter_files,
            }),
        }
    }
}

/// PLAT-109
#[derive(Serialize)]
struct Metadata {
    tenant_id: TenantId,
    user_id: MetadataUser,
    chat_id: ChatId,
    request_type: RequestType,
    feature: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum MetadataUser {
    Person(minichat_core::UserId),
    System(&'static str),
}

impl Metadata {
    fn new(metadata: RequestMetadata, tools: Tools<'_>) -> Self {
        Self {
            tenant_id: metadata.tenant_id,
            user_id: metadata
                .user_id
                .map_or(MetadataUser::System("system"), MetadataUser::Person),
            chat_id: metadata.chat_id,
            request_type: metadata.request_type,
            feature: tools.feature(),
        }
    }
}
