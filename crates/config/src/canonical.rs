//! The canonical bytes of a JSON value: keys sorted, no insignificant whitespace
//! (QUOTA-26). They do not depend on the order of the value's maps.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// `value` with sorted keys and without insignificant whitespace.
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

/// Lower-case hex SHA-256 of the canonical form of `value`, with the prefix
/// `sha256:`.
pub fn hash(value: &Value) -> String {
    let digest = Sha256::digest(to_string(value));
    let mut out = String::from("sha256:");
    for byte in digest {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
    out
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_str());
            separated(out, ['{', '}'], &entries, |(key, value), out| {
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            });
        }
        Value::Array(items) => separated(out, ['[', ']'], items, write),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn separated<T>(
    out: &mut String,
    [open, close]: [char; 2],
    items: &[T],
    each: impl Fn(&T, &mut String),
) {
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        each(item, out);
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// QUOTA-26
    #[test]
    fn keys_are_sorted_at_every_level_and_strings_escaped() {
        let value = json!({"b": [1, {"z": null, "a": "q\"\n"}], "a": 0.5});
        assert_eq!(
            to_string(&value),
            r#"{"a":0.5,"b":[1,{"a":"q\"\n","z":null}]}"#
        );
    }

    #[test]
    fn hash_is_sha256_of_the_canonical_bytes() {
        assert_eq!(
            hash(&json!({})),
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }
}
