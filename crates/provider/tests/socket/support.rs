//! Sends a request and collects the answer.

use std::time::Duration;

use minichat_config::outbound::Outbound;
use minichat_config::tenant::{
    ApiParams, Provider, ProviderAuth, ProviderKind, ProviderTimeouts, Scheme, Storage, StorageApi,
};
use minichat_config::{AllowPrivate, Secret};
use minichat_core::{ChatId, TenantId, UserId};
use minichat_provider::{
    ClientSettings, DeltaKind, Failure, InputMessage, ProviderCall, ProviderClient, ProviderEvent,
    ProviderStream, RequestMetadata, RequestType, Role, StartedFlag, Terminal, Tools, TurnRequest,
};

use minichat_scripted_provider::ScriptedProvider;

pub(crate) struct Setup {
    pub(crate) server: ScriptedProvider,
    pub(crate) client: ProviderClient,
    pub(crate) provider: Provider,
    pub(crate) credential: Secret,
    pub(crate) params: ApiParams,
    pub(crate) model: &'static str,
    pub(crate) started: StartedFlag,
}

/// The parts of a whole stream.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) deltas: usize,
    pub(crate) terminal: Terminal,
}

impl Setup {
    pub(crate) async fn new(kind: ProviderKind) -> Self {
        let server = ScriptedProvider::start().await.unwrap();
        let provider = provider(kind, server.addr.port());
        Self {
            server,
            client: client(Outbound {
                allow_private: AllowPrivate::everything(),
                ..Outbound::default()
            }),
            provider,
            credential: Secret::new("sk-test-0123456789"),
            params: ApiParams::default(),
            model: "gpt-5",
            started: StartedFlag::default(),
        }
    }

    pub(crate) async fn responses() -> Self {
        Self::new(ProviderKind::OpenAiResponses).await
    }

    pub(crate) async fn open(&self, text: &str) -> Result<ProviderStream, Failure> {
        let messages = [InputMessage {
            role: Role::User,
            text,
            image_file_ids: &[],
        }];
        self.client.open(&self.call(&messages)).await
    }

    pub(crate) async fn send(&self, text: &str) -> Result<Answer, Failure> {
        let mut stream = self.open(text).await?;
        Ok(read(&mut stream).await)
    }

    pub(crate) fn call<'a>(&'a self, messages: &'a [InputMessage<'a>]) -> ProviderCall<'a> {
        ProviderCall {
            provider: &self.provider,
            credential: Some(&self.credential),
            client_request_id: Some("request-1"),
            traceparent: None,
            request: TurnRequest {
                is_streamed: true,
                provider_model_id: self.model,
                instructions: Some("Be brief."),
                messages,
                tools: Tools::default(),
                max_output_tokens: 256,
                max_tool_calls: Some(2),
                api_params: &self.params,
                user: "user-hash",
                metadata: RequestMetadata {
                    tenant_id: TenantId::from(uuid(1)),
                    user_id: Some(UserId::from(uuid(2))),
                    chat_id: ChatId::from(uuid(3)),
                    request_type: RequestType::Chat,
                },
            },
            started: self.started.clone(),
        }
    }
}

pub(crate) fn client(outbound: Outbound) -> ProviderClient {
    ProviderClient::new(&ClientSettings {
        outbound,
        ..ClientSettings::default()
    })
}

fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

pub(crate) fn provider(kind: ProviderKind, port: u16) -> Provider {
    Provider {
        id: "scripted".to_owned(),
        kind,
        scheme: Scheme::Http,
        host: "127.0.0.1".to_owned(),
        port,
        api_path: kind.default_api_path().to_owned(),
        auth: Some(ProviderAuth {
            header: "Authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
            secret_ref: "scripted/key".to_owned(),
        }),
        timeouts: ProviderTimeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(20),
            idle: Duration::from_secs(20),
            total: Duration::from_mins(1),
        },
        send_penalties: kind.sends_penalties(),
        send_metadata: true,
        storage: Some(Storage {
            api: StorageApi::OpenAi,
            backend: "scripted".to_owned(),
            supports_file_search_filters: true,
        }),
    }
}

pub(crate) async fn read(stream: &mut ProviderStream) -> Answer {
    let (mut text, mut reasoning, mut deltas) = (String::new(), String::new(), 0);
    loop {
        match stream.next().await.expect("a terminal event comes first") {
            ProviderEvent::Delta {
                kind: DeltaKind::Text,
                text: piece,
            } => {
                deltas += 1;
                text.push_str(piece);
            }
            ProviderEvent::Delta {
                kind: DeltaKind::Reasoning,
                text: piece,
            } => {
                reasoning.push_str(piece);
            }
            ProviderEvent::TextWasReasoning => reasoning.push_str(&std::mem::take(&mut text)),
            ProviderEvent::Progress | ProviderEvent::Tool(_) => {}
            ProviderEvent::Terminal(terminal) => {
                assert!(stream.next().await.is_none(), "nothing follows the end");
                assert!(stream.try_next().is_none(), "nothing follows the end");
                return Answer {
                    text,
                    reasoning,
                    deltas,
                    terminal,
                };
            }
        }
    }
}

impl Answer {
    pub(crate) fn failure(self) -> Failure {
        match self.terminal {
            Terminal::Failed(failure) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }
}
