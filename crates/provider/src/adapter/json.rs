//! Reads JSON as providers write it. Only the requested members are read, each
//! one separately, so that a fault in one costs no other. A key may occur
//! twice, a number may replace a text, and an escape may name half a surrogate
//! pair.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A text that may contain surrogates, each as three bytes (WTF-8). The rest is
/// UTF-8.
pub(super) type Wtf8<'a> = Cow<'a, [u8]>;

/// The raw values of the members `names` of the object `json`. `None` if a
/// member is absent or null. If a key occurs several times, the last value that
/// is not null counts.
pub(super) fn members<'a, const N: usize>(
    json: &'a str,
    names: [&'static str; N],
) -> Result<[Option<&'a str>; N], serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let found = deserializer.deserialize_map(Members(names))?;
    deserializer.end()?;
    Ok(found)
}

/// The same for a value that may be absent or not an object; then every member
/// is `None`.
pub(super) fn members_of<'a, const N: usize>(
    json: Option<&'a str>,
    names: [&'static str; N],
) -> [Option<&'a str>; N] {
    json.and_then(|json| members(json, names).ok())
        .unwrap_or([None; N])
}

/// The raw elements of a list. Empty if `json` is not a list.
pub(super) fn elements(json: &str) -> Vec<&str> {
    let list: Result<Vec<&RawValue>, _> = serde_json::from_str(json);
    list.map(|list| list.into_iter().map(RawValue::get).collect())
        .unwrap_or_default()
}

/// The first element of a list.
pub(super) fn first_element(json: &str) -> Option<&str> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_seq(First).ok().flatten()
}

/// The text of a string, number or boolean.
pub(super) fn text(json: &str) -> Option<Wtf8<'_>> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<Text<'_>>(json)
            .ok()
            .map(|text| text.0),
        b'{' | b'[' => None,
        _ if json == "null" => None,
        _ => Some(Cow::Borrowed(json.as_bytes())),
    }
}

/// Whether `json` is truthy: an object, a list, a text that is not empty, a
/// number other than 0, or `true`.
pub(super) fn is_truthy(json: &str) -> bool {
    !matches!(json, "false" | "null" | "\"\"" | "0" | "{}" | "[]")
}

struct Text<'a>(Wtf8<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        Ok(Text(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Text(Cow::Owned(bytes.to_vec())))
    }
}

struct Members<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = [Option<&'de str>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(key) = map.next_key::<Text<'de>>()? {
            let wanted = self.0.iter().position(|name| name.as_bytes() == &*key.0);
            let Some(at) = wanted else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = map.next_value::<&'de RawValue>()?.get();
            if value != "null" {
                found[at] = Some(value);
            }
        }
        Ok(found)
    }
}

struct First;

impl<'de> Visitor<'de> for First {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let first = list.next_element::<&'de RawValue>()?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first.map(RawValue::get))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_key_is_its_last_value_that_is_not_null() {
        let json = r#"{"a": 1, "b": null, "a": [2], "a": null, "\ud83d": 3, "c": {"a": 4}}"#;
        assert_eq!(members(json, ["a", "b"]).unwrap(), [Some("[2]"), None]);
    }

    #[test]
    fn only_an_object_has_members_and_only_a_list_elements() {
        for json in ["[1]", "7", "\"a\"", "null", "{\"a\":1}x", "{", ""] {
            assert!(members(json, ["a"]).is_err(), "{json}");
        }
        assert_eq!(elements(r#"[1, {"a": []}]"#), ["1", r#"{"a": []}"#]);
        assert_eq!(first_element("[ [2], 3]"), Some("[2]"));
        for json in ["{}", "7", "[", "[1,"] {
            assert_eq!(elements(json), [""; 0], "{json}");
            assert_eq!(first_element(json), None, "{json}");
        }
    }

    #[test]
    fn whatever_is_a_scalar_has_a_text() {
        let rows = [
            (r#""a\n""#, Some(&b"a\n"[..])),
            (r#""\ud83d""#, Some(b"\xED\xA0\xBD")),
            ("-1.50", Some(b"-1.50")),
            ("true", Some(b"true")),
            ("null", None),
            ("{}", None),
            ("[]", None),
        ];
        for (json, expected) in rows {
            assert_eq!(text(json).as_deref(), expected, "{json}");
        }
    }
}
