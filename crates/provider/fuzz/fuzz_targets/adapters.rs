//! Feeds arbitrary events to each protocol's adapter. It must never give an
//! empty text, give at most one end, and give nothing after the end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minichat_config::tenant::ProviderKind;
use minichat_provider::sse::Parser;
use minichat_provider::{ProviderEvent, Translator};

fuzz_target!(|stream: &[u8]| {
    for kind in [
        ProviderKind::OpenAiResponses,
        ProviderKind::OpenAiChatCompletions,
        ProviderKind::VllmResponses,
    ] {
        translate(kind, stream);
    }
});

fn translate(kind: ProviderKind, stream: &[u8]) {
    let mut parser = Parser::default();
    let mut translator = Translator::new(kind);
    let mut has_ended = false;
    parser.push(stream);
    while let Ok(Some(event)) = parser.next_event() {
        translator.feed(event);
        while let Some(event) = translator.take() {
            assert!(!has_ended);
            match event {
                ProviderEvent::Delta { text, .. } => assert!(!text.is_empty()),
                ProviderEvent::TextWasReasoning | ProviderEvent::Progress | ProviderEvent::Tool(_) => {}
                ProviderEvent::Terminal(_) => has_ended = true,
            }
        }
    }
}
