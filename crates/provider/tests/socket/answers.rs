//! Every protocol's answers (PLAT-113, PLAT-114, PLAT-110).

use minichat_config::tenant::ProviderKind;
use minichat_core::turn::{IncompleteReason, TurnErrorCode, Usage};
use minichat_provider::{Completion, FailureKind, Terminal};

use crate::support::Setup;
use minichat_scripted_provider::{Call, Ending, Scenario, Tokens, UsageDetails};
use serde_json::json;

const KINDS: [ProviderKind; 3] = [
    ProviderKind::OpenAiResponses,
    ProviderKind::OpenAiChatCompletions,
    ProviderKind::VllmResponses,
];

fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage {
        input_tokens,
        output_tokens,
        ..Usage::default()
    }
}

/// PLAT-113, PLAT-114
#[tokio::test]
async fn a_plain_answer_arrives_in_pieces_with_usage_and_id() {
    for kind in KINDS {
        let setup = Setup::new(kind).await;
        let answer = setup.send("Hi").await.unwrap();
        assert_eq!(
            (answer.text.as_str(), answer.deltas),
            ("Hello! How can I help?", 2)
        );
        let Terminal::Completed(Completion {
            usage: reported,
            response_id,
            citations: _,
        }) = answer.terminal
        else {
            panic!("{kind:?}: {:?}", answer.terminal);
        };
        let input = if kind == ProviderKind::OpenAiChatCompletions {
            100
        } else {
            50
        };
        assert_eq!(reported, Some(usage(input, 12)), "{kind:?}");
        assert!(response_id.is_some(), "{kind:?}");
        assert!(setup.started.get());
    }
}

/// PLAT-113, PLAT-114, PLAT-122
#[tokio::test]
async fn the_short_and_the_whole_order_are_read_alike() {
    for kind in KINDS {
        let setup = Setup::new(kind).await;
        for short_order in [false, true] {
            setup.server.push_scenario(Scenario {
                short_order,
                reasoning: Some(vec!["why ".to_owned(), "not".to_owned()]),
                calls: Some(vec![
                    Call::WebSearch {
                        query: "q".to_owned(),
                    },
                    Call::Function {
                        name: "f".to_owned(),
                        arguments: "{}".to_owned(),
                    },
                ]),
                annotations: Some(vec![json!({"type": "url_citation", "url": "u"})]),
                usage: Some(Tokens {
                    input: 9,
                    output: 8,
                }),
                usage_details: UsageDetails {
                    cached: 7,
                    reasoning: Some(6),
                },
                ..Scenario::deltas(&["caf", "\u{e9}\u{0} <b>"], Ending::Completed)
            });
            let answer = setup.send("Hi").await.unwrap();
            let case = format!("{kind:?}, short: {short_order}");
            assert_eq!(
                (answer.text.as_str(), answer.deltas),
                ("café\u{fffd} <b>", 2),
                "{case}"
            );
            // The short order and chat completions do not show it.
            let is_shown = !short_order && kind != ProviderKind::OpenAiChatCompletions;
            assert_eq!(
                answer.reasoning,
                if is_shown { "why not" } else { "" },
                "{case}"
            );
            let Terminal::Completed(completion) = answer.terminal else {
                panic!("{case}: {:?}", answer.terminal);
            };
            let expected = Usage {
                cache_read_input_tokens: 7,
                reasoning_tokens: 6,
                ..usage(9, 8)
            };
            assert_eq!(completion.usage, Some(expected), "{case}");
            assert!(completion.response_id.is_some(), "{case}");
        }
    }
}

/// TURN-30
#[tokio::test]
async fn a_truncated_answer_is_incomplete_in_every_shape() {
    for kind in KINDS {
        let setup = Setup::new(kind).await;
        let shapes = ["max_output_tokens", "max_tokens", "length"].map(str::to_owned);
        for reason in shapes {
            setup.server.push_scenario(Scenario::deltas(
                &["a"],
                Ending::Incomplete {
                    reason: reason.clone(),
                },
            ));
            setup
                .server
                .push_scenario(Scenario::deltas(&["a"], Ending::IncompleteFlat { reason }));
            for _ in 0..2 {
                let answer = setup.send("Hi").await.unwrap();
                let Terminal::Incomplete { reason, completion } = answer.terminal else {
                    panic!("{kind:?}: {:?}", answer.terminal);
                };
                assert_eq!(reason, IncompleteReason::MaxTokens);
                assert!(completion.usage.is_some() && completion.response_id.is_some());
            }
        }
    }
}

/// TURN-20
#[tokio::test]
async fn reported_failures_are_read_nested_and_flat_and_scrubbed() {
    let code = "server_error".to_owned();
    let message = "resp_x1 failed, see https://example.com with sk-abcdefghijkl".to_owned();
    let endings = [
        Ending::Failed {
            code: code.clone(),
            message: message.clone(),
        },
        Ending::FailedFlat {
            code: code.clone(),
            message: message.clone(),
        },
        Ending::Error {
            code: code.clone(),
            message: message.clone(),
        },
        Ending::ErrorFlat { code, message },
    ];
    for kind in KINDS {
        let setup = Setup::new(kind).await;
        for ending in &endings {
            let mut scenario = Scenario::deltas(&["Partial"], ending.clone());
            scenario.usage = Some(Tokens {
                input: 7,
                output: 3,
            });
            setup.server.push_scenario(scenario);
            let answer = setup.send("Hi").await.unwrap();
            assert_eq!(answer.text, "Partial");
            let failure = answer.failure();
            assert_eq!(failure.kind, FailureKind::Reported, "{kind:?} {ending:?}");
            assert_eq!(failure.error_code(), TurnErrorCode::ProviderError);
            let scrubbed = "[provider_id] failed, see [url] with [credential]";
            assert_eq!(&*failure.message, scrubbed, "{kind:?} {ending:?}");
            assert!(
                failure.detail.starts_with("server_error: resp_x1"),
                "{}",
                failure.detail
            );
            assert!(!failure.detail.contains("sk-abc"), "{}", failure.detail);
            let has_usage = matches!(ending, Ending::Failed { .. } | Ending::FailedFlat { .. })
                && kind != ProviderKind::OpenAiChatCompletions;
            assert_eq!(
                failure.usage,
                has_usage.then(|| usage(7, 3)),
                "{kind:?} {ending:?}"
            );
        }
    }
}

/// D26
#[tokio::test]
async fn an_answer_without_usage_has_unknown_usage() {
    for kind in KINDS {
        let setup = Setup::new(kind).await;
        setup.server.push_scenario(Scenario {
            without_usage: true,
            ..Scenario::default()
        });
        let answer = setup.send("Hi").await.unwrap();
        assert!(
            matches!(
                answer.terminal,
                Terminal::Completed(Completion { usage: None, .. })
            ),
            "{kind:?}: {:?}",
            answer.terminal
        );
    }
}

/// TURN-19
#[tokio::test]
async fn the_type_inside_the_data_names_an_event_without_a_name() {
    let setup = Setup::responses().await;
    setup.server.push_scenario(Scenario {
        without_event_names: true,
        ..Scenario::default()
    });
    let answer = setup.send("PING").await.unwrap();
    assert_eq!(answer.text, "PONG");
    assert!(matches!(answer.terminal, Terminal::Completed(_)));
}

/// PLAT-113
#[tokio::test]
async fn unknown_events_are_ignored_and_unreadable_known_ones_fail() {
    let setup = Setup::responses().await;
    let stream = "event: response.future\ndata: {broken\n\n\
        event: response.output_text.delta\ndata: {\"delta\":\"caf\\u00e9\\n\"}\n\n\
        event: response.completed\ndata: {\"response\":[1]}\n\n";
    setup.server.push_scenario(Scenario::raw(stream));
    let answer = setup.send("Hi").await.unwrap();
    assert_eq!(answer.text, "café\n");
    assert_eq!(answer.failure().kind, FailureKind::Unreadable);
}

/// TURN-21
#[tokio::test]
async fn vllm_reasoning_is_told_apart_also_with_cut_tags() {
    let setup = Setup::new(ProviderKind::VllmResponses).await;
    let deltas = [
        "<th",
        "ink>because",
        " of that</thi",
        "nk>",
        "Yes",
        " <",
        "3",
        " <th",
    ];
    setup
        .server
        .push_scenario(Scenario::deltas(&deltas, Ending::Completed));
    let answer = setup.send("Hi").await.unwrap();
    assert_eq!(answer.reasoning, "because of that");
    assert_eq!(answer.text, "Yes <3 <th");
}

/// PLAT-115
#[tokio::test]
async fn a_body_without_a_terminal_event_is_a_failure() {
    for kind in KINDS {
        let setup = Setup::new(kind).await;
        for ending in [Ending::Missing, Ending::Cut] {
            setup
                .server
                .push_scenario(Scenario::deltas(&["Partial"], ending));
            let answer = setup.send("Hi").await.unwrap();
            assert_eq!(answer.text, "Partial");
            let failure = answer.failure();
            assert_eq!(failure.kind, FailureKind::Broken);
            assert_eq!(failure.error_code(), TurnErrorCode::ProviderError);
        }
    }
}
