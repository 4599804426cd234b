//! PLAT-86: no secret of a class survives, whatever surrounds it.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A secret, and the text in which it is recognised.
#[derive(Clone, Debug)]
struct Canary {
    secret: String,
    text: String,
}

fn any_case(name: &'static str) -> impl Strategy<Value = String> {
    select(vec![
        name.to_owned(),
        name.to_ascii_uppercase(),
        name[..1].to_ascii_uppercase() + &name[1..],
    ])
}

fn line_break() -> impl Strategy<Value = &'static str> {
    select(vec!["\n", "\r\n", "\\n", "\\r\\n"])
}

fn private_key() -> impl Strategy<Value = Canary> {
    let label = select(vec!["", "RSA ", "EC ", "ENCRYPTED ", "OPENSSH "]);
    let lines = prop::collection::vec("[A-Za-z0-9+/]{64}", 1..5);
    (label, lines, line_break(), any::<bool>()).prop_map(|(label, lines, line_break, ends)| {
        let mut parts = vec![format!("-----BEGIN {label}PRIVATE KEY-----")];
        parts.extend(lines.iter().cloned());
        parts.push(if ends {
            format!("-----END {label}PRIVATE KEY-----")
        } else {
            String::new()
        });
        Canary {
            secret: lines[0].clone(),
            text: parts.join(line_break),
        }
    })
}

fn bearer_token() -> impl Strategy<Value = Canary> {
    let scheme = select(vec![
        "Bearer ",
        "bearer ",
        "BEARER  ",
        "Bearer\t",
        "Bearer \"",
    ]);
    (scheme, "[A-Za-z0-9._~+/-]{20}[0-9]{2}").prop_map(|(scheme, token)| Canary {
        text: format!("{scheme}{token}"),
        secret: token,
    })
}

fn json_web_token() -> impl Strategy<Value = Canary> {
    (
        "eyJ[A-Za-z0-9_-]{12,90}",
        "[A-Za-z0-9_-]{8,90}",
        "[A-Za-z0-9_-]{8,90}",
    )
        .prop_map(|(header, claims, signature)| Canary {
            text: format!("{header}.{claims}.{signature}"),
            secret: claims,
        })
}

fn openai_key() -> impl Strategy<Value = Canary> {
    let project = select(vec!["", "proj-", "svcacct-"]);
    (project, "[A-Za-z]{12}[0-9]{4}[A-Za-z0-9]{12}").prop_map(|(project, key)| Canary {
        text: format!("sk-{project}{key}"),
        secret: key,
    })
}

fn aws_key_id() -> impl Strategy<Value = Canary> {
    "AKIA[A-Z0-9]{16}".prop_map(|id| Canary {
        secret: id.clone(),
        text: id,
    })
}

/// A value behind a name, as a header, in a query, in YAML or in JSON.
fn field(name: &'static str) -> impl Strategy<Value = Canary> {
    let form = select(vec![
        ("", "=", ""),
        ("", ": ", ""),
        ("", " = ", ""),
        ("", ":", ""),
        ("", "=", "'"),
        ("", " : ", "\""),
        ("\"", ":", "\""),
        ("\"", " :\r\n  ", "\""),
        ("\\\"", ": ", "\\\""),
        ("'", "=>", "'"),
    ]);
    (
        any_case(name),
        form,
        "[A-Za-z0-9!#$%^*_+./-]{12}[A-Za-z0-9]{4}",
    )
        .prop_map(|(name, (quote, separator, around), value)| Canary {
            text: format!("{quote}{name}{quote}{separator}{around}{value}{around}"),
            secret: value,
        })
}

fn long_token() -> impl Strategy<Value = Canary> {
    let lines = prop::collection::vec("[G-Zg-z+/]{2}[A-Za-z0-9+/]{74}", 5..8);
    (lines, select(vec!["", "\n", "\r\n", "\\n"])).prop_map(|(lines, line_break)| Canary {
        secret: lines[1].clone(),
        text: lines.join(line_break),
    })
}

fn canary() -> impl Strategy<Value = Canary> {
    prop_oneof![
        private_key(),
        bearer_token(),
        json_web_token(),
        openai_key(),
        aws_key_id(),
        field("api-key"),
        field("ocp-apim-subscription-key"),
        field("api_key"),
        field("x-api-key"),
        field("client_secret"),
        field("access_token"),
        field("refresh_token"),
        field("password"),
        long_token(),
    ]
}

fn noise() -> impl Strategy<Value = String> {
    let known = select(vec![
        "",
        " ",
        "\n",
        "\r\n",
        "\"",
        "'",
        "`",
        "\\",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        ";",
        ":",
        "=",
        ".",
        "&",
        "<",
        ">",
        "-",
        "_",
        "…",
        "é",
        "\u{a0}",
        "x",
        "0",
        "A",
        "sk-",
        "AKIA",
        "eyJ",
        "Bearer ",
        "bearer",
        "password",
        "password: ",
        "api_key=",
        "\"password\":\"",
        "api-key",
        "-----",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "[REDACTED]",
        "[REDACTED_JWT]",
        "…[TRUNCATED]",
        "Authorization: ",
        "{\"a\":\"",
        "\"}",
        "\\\"",
        "%20",
    ]);
    prop_oneof![
        4 => known.prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[a-z ]{0,40}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![noise(), canary().prop_map(|canary| canary.text)];
    prop::collection::vec(part, 0..10).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_canary_survives(
        before in prop::collection::vec(noise(), 0..3),
        canaries in prop::collection::vec((canary(), "[ \\n]|, |\r\n|; "), 1..5),
        after in noise(),
    ) {
        let mut text = before.concat();
        for (canary, between) in &canaries {
            text.push_str(&canary.text);
            text.push_str(between);
        }
        text.push_str(&after);
        let redacted = redact(&text);
        for (canary, _) in &canaries {
            prop_assert!(!redacted.contains(&canary.secret), "{text:?}\n{redacted:?}");
        }
    }

    /// Back to back, without anything between.
    #[test]
    fn no_canary_hides_another(canaries in prop::collection::vec(canary(), 1..5)) {
        let text: String = canaries.iter().map(|canary| canary.text.as_str()).collect();
        let redacted = redact(&text);
        for canary in &canaries {
            prop_assert!(!redacted.contains(&canary.secret), "{text:?}\n{redacted:?}");
        }
    }

    /// One as the value of another, and all of them in JSON in JSON.
    #[test]
    fn no_canary_survives_in_a_value(
        name in select(vec!["password", "api_key", "api-key"]),
        canary in canary(),
        quote in select(vec!["", "\""]),
        times in 0..3,
    ) {
        let mut text = format!("{name}: {quote}{}{quote}", canary.text);
        for _ in 0..times {
            text = format!("{{\"text\":{}}}", serde_json::Value::from(text));
        }
        let redacted = redact(&text);
        prop_assert!(!redacted.contains(&canary.secret), "{text:?}\n{redacted:?}");
    }

    #[test]
    fn a_field_is_bounded_and_has_no_canary(
        before in "[a-z ]{0,300}",
        canary in canary(),
        after in "[a-z ]{1,300}",
        max in 1_usize..600,
    ) {
        let text = format!("{before} {} {after}", canary.text);
        let field = super::field(&text, max);
        prop_assert!(field.len() <= max + TRUNCATED.len());
        prop_assert!(!field.contains(&canary.secret), "{text:?}\n{field:?}");
        if field.len() > max {
            prop_assert!(field.ends_with(TRUNCATED));
        }
    }

    #[test]
    fn redacting_twice_is_redacting_once(text in text()) {
        let once = redact(&text).into_owned();
        prop_assert_eq!(redact(&once), once.as_str(), "of {:?}", text);
    }
}
