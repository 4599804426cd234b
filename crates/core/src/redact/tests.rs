use std::time::Instant;

use super::*;

fn check(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(redact(text), *expected, "{text}");
    }
}

fn check_untouched(texts: &[&str]) {
    for text in texts {
        assert!(
            matches!(redact(text), Cow::Borrowed(_)),
            "{text} became {}",
            redact(text)
        );
    }
}

/// PLAT-86
#[test]
fn private_keys_are_replaced_to_their_end() {
    const RSA: &str =
        "-----BEGIN RSA PRIVATE KEY-----\r\nMIIEowIBAAKCAQ\r\n-----END RSA PRIVATE KEY-----";
    check(&[
        (
            &format!("before\n{RSA}\nafter"),
            "before\n[REDACTED_PRIVATE_KEY]\nafter",
        ),
        (
            &RSA.repeat(2),
            "[REDACTED_PRIVATE_KEY][REDACTED_PRIVATE_KEY]",
        ),
        (
            r#"{"private_key":"-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\n","id":1}"#,
            r#"{"private_key":"[REDACTED_PRIVATE_KEY]\n","id":1}"#,
        ),
        // Without an end, or with a false one.
        (
            "-----BEGIN PRIVATE KEY-----\n> MIIEowIBAAKCAQ\n> Zm9v\n\nThat was all.",
            "[REDACTED_PRIVATE_KEY]\n\nThat was all.",
        ),
        (
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow==\n-----END CERTIFICATE-----",
            "[REDACTED_PRIVATE_KEY]\n-----END CERTIFICATE-----",
        ),
        (
            "-----BEGIN PRIVATE KEY----- MIIEowIBAAKCAQEAtJ3MIIEowIBAAKCAQEAtJ3 is it",
            "[REDACTED_PRIVATE_KEY] is it",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\neyJhbGciOiJIUzI1NiJ9IUzI1NiJ9.e30.c2ln",
            "[REDACTED_PRIVATE_KEY]\n[REDACTED_JWT]",
        ),
    ]);
    check_untouched(&[
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "the line BEGIN PRIVATE KEY has five dashes before it",
        "-----END PRIVATE KEY-----",
    ]);
}

/// PLAT-86
#[test]
fn bearer_tokens_are_replaced() {
    check(&[
        (
            "Authorization: Bearer abc.def-1",
            "Authorization: Bearer [REDACTED]",
        ),
        (
            r#"curl -H "authorization: bearer hunter" https://h"#,
            r#"curl -H "authorization: Bearer [REDACTED]" https://h"#,
        ),
        ("use BEARER\tsecret, then", "use Bearer [REDACTED], then"),
        ("a bearer 9f8e7d.", "a Bearer [REDACTED]."),
        ("Bearer%2012|xyz&b=1", "Bearer [REDACTED]&b=1"),
        ("Bearer\r\n abc", "Bearer [REDACTED]"),
    ]);
    check_untouched(&[
        "the bearer of bad news",
        "bearer authentication, bearer token",
        "Authorization: Bearer $TOKEN",
        "Authorization: Bearer <token>",
        "Bearer",
        "forbearance abc123",
    ]);
}

/// PLAT-86
#[test]
fn json_web_tokens_are_replaced() {
    check(&[
        (
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
            "[REDACTED_JWT]",
        ),
        (
            "x.eyJhbGciOiJIUzI1NiJ9.e30.c2ln. Next",
            "x.[REDACTED_JWT]. Next",
        ),
        // Encrypted, and not signed.
        ("(eyJhbGciOiJSU0EifQ.a.b.c.d)", "([REDACTED_JWT])"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.", "[REDACTED_JWT]."),
    ]);
    check_untouched(&[
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJhbGciOiJIUzI1NiJ9.e30",
        "heyJude.mp3.bak",
        "a.b.c",
    ]);
}

/// PLAT-86
#[test]
fn keys_of_openai_and_aws_are_replaced() {
    check(&[
        ("sk-abcdefgh", "[REDACTED_OPENAI_KEY]"),
        ("key 'sk-proj-A1b2_C3d4-e5'", "key '[REDACTED_OPENAI_KEY]'"),
        ("xsk-0123456789abcdef0123", "x[REDACTED_OPENAI_KEY]"),
        ("AKIAIOSFODNN7EXAMPLE", "[REDACTED_AWS_ACCESS_KEY_ID]"),
        (
            "AKIAIOSFODNN7EXAMPLEsk-abcdefgh",
            "[REDACTED_AWS_ACCESS_KEY_ID][REDACTED_OPENAI_KEY]",
        ),
    ]);
    check_untouched(&[
        "sk-SK",
        "sk-learn",
        "risk-management-planning",
        "task-force-meeting-2024",
        "AKIAIOSFODNN7EXAMPL",
        "akiaiosfodnn7example",
        "AKIA iosfodnn7example",
    ]);
}

/// PLAT-86
#[test]
fn values_of_headers_of_azure_are_replaced() {
    check(&[
        (
            "api-key: 0123abcd\r\nHost: h",
            "api-key: [REDACTED_AZURE_KEY]\r\nHost: h",
        ),
        (
            "-H 'Ocp-Apim-Subscription-Key: 0123abcd'",
            "-H 'Ocp-Apim-Subscription-Key: [REDACTED_AZURE_KEY]'",
        ),
        (
            r#"{"API-Key" : "0123 abcd", "a": 1}"#,
            r#"{"API-Key" : "[REDACTED_AZURE_KEY]", "a": 1}"#,
        ),
    ]);
    check_untouched(&["an api-key is needed", "api-key:", "api-keys: two"]);
}

/// PLAT-86
#[test]
fn values_of_fields_are_replaced() {
    check(&[
        (
            "https://h/?api_key=abc&x=1",
            "https://h/?api_key=[REDACTED]&x=1",
        ),
        ("X-Api-Key: abc", "X-Api-Key: [REDACTED]"),
        ("OPENAI_API_KEY = 'abc'", "OPENAI_API_KEY = '[REDACTED]'"),
        (
            r#"{"client_secret":"a\"b","n":1}"#,
            r#"{"client_secret":"[REDACTED]","n":1}"#,
        ),
        (
            r#"{"body":"{\"access_token\": \"a\\\"b\", \"n\": 1}"}"#,
            r#"{"body":"{\"access_token\": \"[REDACTED]\", \"n\": 1}"}"#,
        ),
        (
            "refresh_token: abc, and more.",
            "refresh_token: [REDACTED], and more.",
        ),
        (
            "{\"access_token\":\r\n  \"abc\"}",
            "{\"access_token\":\r\n  \"[REDACTED]\"}",
        ),
        ("access_token: Bearer abc", "access_token: [REDACTED]"),
        ("accessToken=abc", "accessToken=[REDACTED]"),
    ]);
    check_untouched(&[
        "which api_key do I need?",
        "api_key:",
        "api_key=\"\"",
        "the access_token expires",
        "client_secret_id = 7",
        "access_tokens: 3",
    ]);
}

/// PLAT-86
#[test]
fn passwords_are_replaced() {
    check(&[
        ("password=hunter2", "password=[REDACTED]"),
        (
            "Password : hunter2!, he said (password: x).",
            "Password : [REDACTED], he said (password: [REDACTED]).",
        ),
        (
            "postgres://h/d?user=u&password=p&sslmode=require",
            "postgres://h/d?user=u&password=[REDACTED]&sslmode=require",
        ),
        ("DB_PASSWORD='p w'", "DB_PASSWORD='[REDACTED]'"),
        (
            r#"let password: &str = "p";"#,
            r#"let password: [REDACTED] = "[REDACTED]";"#,
        ),
        (
            r#"password := String::from("p")"#,
            r#"password := String::from("[REDACTED]")"#,
        ),
        ("password=b\"p\"", "password=b\"[REDACTED]\""),
        ("password: [\"p\"]", "password: [\"[REDACTED]\"]"),
        // Unfinished, and one within another.
        ("password: 'p q\nr", "password: '[REDACTED]\nr"),
        ("password: api_key: abc", "password: api_key: [REDACTED]"),
        (
            "password: xpassword=abc",
            "password: [REDACTED]password=[REDACTED]",
        ),
        (
            "password: \"api_key: \"abc\"",
            "password: \"api_key: \"[REDACTED]\"",
        ),
    ]);
    check_untouched(&[
        "I forgot my password. What now?",
        "passwords: never the same twice",
        "password_hash=abc",
        "password=&user=u",
        "password: ",
        "password:\nnext line",
        "the password is secret",
    ]);
}

/// PLAT-86
#[test]
fn long_runs_of_base64_are_replaced() {
    let long = "Ab1+/_-=".repeat(26);
    let line = &long[..76];
    let in_lines = [line, line, &long[..50]].join("\r\n");
    let escaped = [line, line, &long[..50]].join("\\n");
    check(&[
        (&format!("<{long}>"), "<…[TRUNCATED_LONG_TOKEN]>"),
        (&"a".repeat(201), "…[TRUNCATED_LONG_TOKEN]"),
        (
            &format!("a\n{in_lines}\nb"),
            "a\n…[TRUNCATED_LONG_TOKEN]\nb",
        ),
        (&format!("\"{escaped}\""), "\"…[TRUNCATED_LONG_TOKEN]\""),
    ]);
    let hashes = ["0123456789abcdef".repeat(4).as_str(); 5].join("\n");
    check_untouched(&[
        &"a".repeat(200),
        &"-".repeat(300),
        &"=".repeat(300),
        &"word ".repeat(100),
        &hashes,
        &format!("hashes\n{hashes}"),
        &[&long[..50]; 5].join("\n"),
    ]);
}

/// PLAT-86: what a field becomes that is longer than its bound.
#[test]
fn a_field_is_cut_between_characters() {
    assert_eq!(field("short", 8), "short");
    assert_eq!(field("12345678", 8), "12345678");
    assert_eq!(field("123456789", 8), "12345678…[TRUNCATED]");
    assert_eq!(field("1234567é", 8), "1234567…[TRUNCATED]");
    let long = "a word ".repeat(3000);
    let cut = field(&long, MAX_FIELD_BYTES);
    assert_eq!(cut.len(), MAX_FIELD_BYTES + TRUNCATED.len());
    assert!(cut.ends_with(TRUNCATED));
}

/// A secret across the bound is replaced before the cut.
#[test]
fn a_secret_at_the_cut_does_not_survive() {
    for before in 60..90 {
        let text = format!(
            "{} sk-0123456789abcdef {}",
            "x".repeat(before),
            "y ".repeat(90)
        );
        let cut = field(&text, 80);
        assert!(!cut.contains("sk-"), "{cut}");
    }
}

/// A text that shrinks is read further, up to a bound.
#[test]
fn a_field_is_filled_from_a_long_text() {
    let key = "A".repeat(SEARCHED[0]);
    let text = format!("{key} {}", "a word ".repeat(3000));
    let cut = field(&text, MAX_FIELD_BYTES);
    assert!(cut.starts_with("…[TRUNCATED_LONG_TOKEN] a word"));
    assert_eq!(cut.len(), MAX_FIELD_BYTES + TRUNCATED.len());
    let endless = "A".repeat(3 * SEARCHED[1]);
    let cut = field(&endless, MAX_FIELD_BYTES);
    assert_eq!(cut, format!("…[TRUNCATED_LONG_TOKEN]{TRUNCATED}"));
}

/// Texts that would take minutes if a pass began again and again.
#[test]
fn hostile_texts_take_linear_time() {
    let patterns = [
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nMIIE\n",
        "-----BEGIN PRIVATE KEY----- MIIEowIBAAKCAQEAtJ3MIIEowIBAA",
        "-----BEGIN ",
        "-----END ",
        "-----BEGIN PRIVATE KEY----------END X",
        "bearer ",
        "bearer",
        "Bearer%20",
        "Authorization",
        "eyJ",
        "eyJhbGciOiJIUzI1NiJ9.",
        "eyJhbGciOiJIUzI1NiJ9..",
        "sk-",
        "ask-",
        "AKIA",
        "password:",
        "password: ",
        "password=\"",
        "password=\\\"",
        "password='x\"",
        "password: password",
        "password: (",
        "password: [\"",
        "api_key=api-key:",
        "api-key:\n",
        "x = ",
        "=",
        ":",
        "\\",
        "\"",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n",
        "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\n-\n",
        "Proc-Type:\n",
    ];
    for pattern in patterns {
        let text = pattern.repeat(200_000 / pattern.len());
        for text in [
            &text,
            &format!("password=\"-----BEGIN PRIVATE KEY-----{text}"),
        ] {
            let at = Instant::now();
            let redacted = redact(text);
            assert!(at.elapsed().as_secs() < 10, "{pattern:?}");
            drop(redacted);
        }
    }
}
