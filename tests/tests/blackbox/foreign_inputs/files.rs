//! Whole answers, one per file of `tests/foreign-inputs`.

use std::path::Path;

use minichat_tests::on_each_database;

use super::{CHAT, End, Place, RESPONSES, UNKNOWN, USUAL, VLLM};

/// Answers of the chat completions API: file, text, end.
const CHAT_FILES: &[(&str, &str, End)] = &[
    ("cc-ok", "Hello world", USUAL),
    ("cc-id-129", "Hello world", USUAL),
    ("cc-id-long", "Hello world", USUAL),
    ("cc-nul", "a\u{FFFD}b", USUAL),
    ("cc-usage-placeholder-nochoice", "Hello world", USUAL),
    ("cc-usage-prompt-first", "Hello world", USUAL),
    ("cc-surrogate-split", "Hi 😀 there", USUAL),
    ("cc-surrogate-lone", "Hi \u{FFFD} there", USUAL),
    ("cc-usage-negative", "Hello world", UNKNOWN),
    ("cc-usage-huge", "Hello world", UNKNOWN),
    ("cc-usage-huge63", "Hello world", UNKNOWN),
    ("cc-number-content", "1 + 1 = 2", USUAL),
    ("cc-empty-data", "Hello world", USUAL),
    ("cc-empty-data-mid", "Hello world", USUAL),
    ("cc-refusal", "I can't help with that.", USUAL),
    (
        "cc-invalid-utf8",
        "Hi \u{FFFD}\u{FFFD}\u{FFFD} there",
        USUAL,
    ),
    ("cc-no-done", "Hello world", UNKNOWN),
    ("cc-429-org", "", End::Failed("rate_limited", "released")),
    (
        "cc-error-org",
        "",
        End::Failed("provider_error", "estimated"),
    ),
];

/// Answers of the Responses API, which vLLM supports too.
const RESPONSES_FILES: &[(&str, &str, End)] = &[
    ("rs-ok", "Hello world", USUAL),
    ("vl-ok", "Hello world", USUAL),
    ("rs-id-long", "Hello world", USUAL),
    ("rs-nul", "a\u{FFFD}b", USUAL),
    ("rs-surrogate", "Hi 😀", USUAL),
    ("rs-usage-negative", "Hello world", UNKNOWN),
    ("rs-usage-huge", "Hello world", UNKNOWN),
    ("rs-done-only", "Hello world", USUAL),
    ("rs-fake-stream", "Hello world", USUAL),
    ("rs-refusal", "I can't help", USUAL),
];

pub(super) fn file(name: &str) -> anyhow::Result<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign-inputs");
    Ok(std::fs::read(folder.join(format!("{name}.http")))?)
}

async fn check_files(
    env: &minichat_tests::harness::Env,
    kind: &'static str,
    files: &[(&str, &str, End)],
) -> anyhow::Result<()> {
    let place = Place::new(env, kind).await?;
    for (name, text, end) in files {
        let events = place.check(name, file(name)?, text, *end).await?;
        let shown = format!("{events:?}");
        for hidden in ["org-Ab3", "example.com", "chatcmpl", "resp_"] {
            assert!(!shown.contains(hidden), "{name}: {shown}");
        }
    }
    let stored = "SELECT count(*) FROM chat_turns WHERE state = 'completed' \
        AND (provider_response_id IS NULL OR length(provider_response_id) > 128)";
    assert_eq!(
        place.stack.database.number(stored).await?,
        0,
        "ids are kept, cut"
    );
    Ok(())
}

on_each_database! {
    /// D42, TURN-20, TURN-22, D26, D27
    async fn answers_of_chat_completions_end_well(env) {
        check_files(&env, CHAT, CHAT_FILES).await?;
    }

    /// D42, TURN-20, D26
    async fn answers_of_the_responses_api_end_well(env) {
        check_files(&env, RESPONSES, RESPONSES_FILES).await?;
    }

    /// D42, TURN-20, TURN-21, D26
    async fn answers_of_vllm_end_well(env) {
        check_files(&env, VLLM, RESPONSES_FILES).await?;
    }
}

/// Every file is in a table.
#[test]
fn no_file_is_forgotten() -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign-inputs");
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let is_input = path
            .extension()
            .is_some_and(|extension| extension == "http");
        let tables = CHAT_FILES.iter().chain(RESPONSES_FILES);
        let is_listed = tables.into_iter().any(|(listed, ..)| *listed == name);
        assert!(!is_input || is_listed, "{name} is in no table");
    }
    Ok(())
}
