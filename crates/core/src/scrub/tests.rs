use proptest::prelude::*;

use super::issued::{LIKELY_PREFIXES, PREFIXES};
use super::*;

/// API-5, CONT-39, PLAT-117, TURN-23
#[test]
fn what_a_provider_issued_is_replaced() {
    let cases = [
        ("no resp_abc here", "no [provider_id] here"),
        ("batch_4, call_9-x", "[provider_id], [provider_id]"),
        ("(file-AbC_1)", "([provider_id])"),
        ("\\nresp_abc", "\\n[provider_id]"),
        ("resp_", "resp_"),
        (
            "for gpt-4o in organization org-Ab3dEfGh1jKlMn0p on tokens",
            "for gpt-4o in organization [provider_id] on tokens",
        ),
        (
            "project proj_x9Y8z7W6 and user-Q1w2E3r4.",
            "project [provider_id] and [provider_id].",
        ),
        ("account 123456789012 is", "account [provider_id] is"),
        (
            "id 0f8fad5b-d9cb-469f-a165-70867728950e",
            "id [provider_id]",
        ),
        ("request 7f3a9c1e5b2d4f60", "request [provider_id]"),
        ("ray 8c1f2a3b4c5d6e7f-FRA", "ray [provider_id]"),
        (
            "arn:aws:iam::123456789012:role",
            "arn:aws:iam::[provider_id]:role",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(scrub(text), expected);
    }
}

/// API-5
#[test]
fn hosts_and_people_of_a_provider_are_replaced() {
    let cases = [
        ("see https://a.b/c?d=e for more", "see [url] for more"),
        (r#"{"url":"HTTP://x"}"#, r#"{"url":"[url]"}"#),
        ("grpc://10.0.0.1:50051", "[url]"),
        ("https://", "https://"),
        ("write to help@example.com.", "write to [email]."),
        ("upstream 10.12.0.7:8000 reset", "upstream [host] reset"),
        ("from 10.12.0.7.", "from [host]."),
        ("at fe80::1 and [2001:db8::2]:443/x", "at [host] and [host]"),
        ("my-res.openai.azure.com says", "[host] says"),
        ("(vllm.prod.svc.cluster.local:8000/v1)", "([host])"),
        (
            "localhost refused, gpu-01:8000 too",
            "[host] refused, [host] too",
        ),
        ("API.EXAMPLE.COM", "[host]"),
    ];
    for (text, expected) in cases {
        assert_eq!(scrub(text), expected, "{text}");
    }
}

/// PLAT-117
#[test]
fn credentials_of_known_shapes_are_replaced() {
    let cases = [
        ("key sk-abcdefghij.", "key [credential]."),
        ("key sk-proj-abcdef", "key [credential]"),
        ("key sk-ab****yz12", "key [credential]"),
        ("key AbCd****wxyz.", "key [credential]."),
        ("sk-short", "sk-short"),
        (
            "Authorization: Bearer x.y.z now",
            "Authorization: [credential] now",
        ),
        ("Basic dXNlcjpwYXNz now", "[credential] now"),
        ("Basic authentication", "Basic authentication"),
        ("eyJhbGciOiJIUzI1NiJ9.e30.x", "[credential]"),
        ("Bearer ", "Bearer "),
    ];
    for (text, expected) in cases {
        assert_eq!(scrub(text), expected);
    }
}

/// Words of an error that are not identifiers must stay.
#[test]
fn words_that_nobody_issued_are_left() {
    for text in [
        "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.",
        "The model claude-3-5-sonnet-20241022 does not exist, use gpt-4.1-mini or qwen2.5-72b.",
        "Invalid type for 'input[0].content': expected a string.",
        "messages.0.content.1.text: maximum context length is 128000 tokens (12.5%), e.g. v1.2.3",
        "Error code: 400, at 2025-11-30T12:30:45Z; retry in 1.5s: user_id, org_name, std::vec",
        "größe *** nothing to hide ***",
    ] {
        assert!(matches!(scrub(text), Cow::Borrowed(_)), "{}", scrub(text));
    }
}

/// CONT-39, PLAT-117
#[test]
fn every_prefix_is_known_with_both_separators() {
    for prefix in PREFIXES.iter().chain(&LIKELY_PREFIXES) {
        for separator in ['-', '_'] {
            let text = format!("at {prefix}{separator}1a2B3c4D end");
            assert_eq!(scrub(&text), "at [provider_id] end");
        }
    }
}

/// PLAT-117
#[test]
fn error_details_keep_identifiers_but_not_credentials() {
    let text = "resp_1 at https://h/ refused sk-0123456789";
    assert_eq!(
        scrub_credentials(text),
        "resp_1 at https://h/ refused [credential]"
    );
}

fn fragments() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "resp_",
        "file-",
        "org-",
        "sk-",
        "Bearer ",
        "bearer",
        "Basic ",
        "https://",
        "[url]",
        "[provider_id]",
        "[credential]",
        "[host]",
        "abcdefghijk",
        "A1b2C3d4E5f6",
        "123456789",
        "10.0.0.1",
        "fe80::1",
        "a.example.com",
        ":8000",
        "me@",
        "****",
        "-",
        "_",
        ".",
        ":",
        "/",
        " ",
        "\"",
        "é",
        "\u{a0}",
    ]);
    let fragment = prop_oneof![known.prop_map(str::to_owned), any::<String>()];
    prop::collection::vec(fragment, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn scrubbing_twice_is_scrubbing_once(text in fragments()) {
        let once = scrub(&text).into_owned();
        prop_assert_eq!(scrub(&once), once.as_str());
    }

    #[test]
    fn no_identifier_survives_any_surroundings(
        before in any::<String>(),
        prefix in prop::sample::select(PREFIXES.to_vec()),
        id in "[A-Za-z0-9]{12}",
        after in any::<String>(),
    ) {
        let text = format!("{before}{prefix}_{id}{after}");
        prop_assert!(!scrub(&text).contains(&id) || before.contains(&id) || after.contains(&id));
    }
}
