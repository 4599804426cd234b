//! `Secret` documents, with `data` or `stringData` (D33).

use std::collections::BTreeMap;

use minichat_config::{Faults, Secret};
use serde_json::Value;

use crate::validation;

/// The values of a Secret by key. Faults never show a value.
pub(super) fn values(object: &Value) -> Result<BTreeMap<String, Secret>, Faults> {
    let mut faults = Faults::default();
    let mut values = BTreeMap::new();
    validation::metadata(object.get("metadata"), &mut faults);
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" => faults.require(value == "v1", "apiVersion", "must be v1"),
            "kind" | "metadata" | "type" | "immutable" => {}
            "data" => entries(value, "data", &mut faults, |text| {
                decode(text).ok_or("must be base64 of UTF-8 text; use stringData for plain text")
            })
            .into_iter()
            // As on the API server, stringData wins over data.
            .for_each(|(key, secret)| {
                values.entry(key).or_insert(secret);
            }),
            "stringData" => {
                values.extend(entries(value, "stringData", &mut faults, |text| {
                    Ok(text.to_owned())
                }));
            }
            _ => faults.add(
                key,
                "unknown field; known are data, stringData, type and immutable",
            ),
        }
    }
    faults.into_result(values)
}

fn entries(
    map: &Value,
    field: &str,
    faults: &mut Faults,
    read: impl Fn(&str) -> Result<String, &'static str>,
) -> Vec<(String, Secret)> {
    let Some(map) = map.as_object() else {
        faults.require(map.is_null(), field, "must map keys to texts");
        return Vec::new();
    };
    let mut values = Vec::new();
    for (key, value) in map {
        match value.as_str().ok_or("must be a text").and_then(&read) {
            Ok(text) => values.push((key.clone(), Secret::new(text))),
            Err(message) => faults.add(format!("{field}.{key}"), message),
        }
    }
    values
}

/// Standard base64 with padding, as the API server reads it.
fn decode(text: &str) -> Option<String> {
    let text: Vec<u8> = text
        .bytes()
        .filter(|b| !matches!(b, b'\n' | b'\r'))
        .collect();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take_while(|b| **b == b'=').count();
    let digits = text.get(..text.len() - padding)?;
    let (mut bits, mut count, mut out) = (0_u32, 0_u32, Vec::new());
    for byte in digits {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    if padding > 2 {
        return None;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn base64_is_decoded_exactly_and_nonsense_refused() {
        for (written, text) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9v\nYmFy", "foobar"),
            ("4oKs", "€"),
        ] {
            assert_eq!(decode(written).as_deref(), Some(text), "{written}");
        }
        for written in ["Z", "Zg", "Zg=", "====", "Zm9v!", "/w=="] {
            assert_eq!(decode(written), None, "{written}");
        }
    }

    #[test]
    fn string_data_wins_over_data_and_faults_show_no_value() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"},
            "data": {"k": "Zg==", "l": "Zg=="}, "stringData": {"k": "plain"}});
        let values = values(&secret).unwrap();
        assert_eq!(values["k"].expose(), "plain");
        assert_eq!(values["l"].expose(), "f");
        let broken = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"k": "sk-visible"}, "dta": {}});
        let faults = super::values(&broken).unwrap_err().to_string();
        assert!(
            faults.contains("data.k: must be base64") && faults.contains("dta: unknown field"),
            "{faults}"
        );
        assert!(!faults.contains("sk-visible"));
    }
}
