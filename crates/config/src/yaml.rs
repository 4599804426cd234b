//! Reads YAML as JSON values. Only this file uses the YAML parser.

use serde_json::Value;

use crate::fault::Fault;

/// One document of a multi-document text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Position in the text, from 1; empty documents count.
    pub number: usize,
    /// The value, or the error. Line numbers refer to the whole text.
    pub value: Result<Value, Fault>,
}

/// The documents of `text` that are not empty. Each is parsed separately, so that a
/// syntax error affects only its own document.
pub fn documents(text: &str) -> Vec<Document> {
    split(text)
        .into_iter()
        .enumerate()
        .filter_map(|(i, (first_line, text))| {
            let value = match parse(text, first_line) {
                Ok(Value::Null) => return None,
                Ok(value) => Ok(value),
                Err(fault) => Err(fault),
            };
            Some(Document {
                number: i + 1,
                value,
            })
        })
        .collect()
}

/// The single document of `text`; an empty text is `Null`.
pub fn document(text: &str) -> Result<Value, Fault> {
    parse(text, 0)
}

/// `value` as one YAML document.
pub fn to_string(value: &Value) -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(value)
}

fn parse(text: &str, first_line: usize) -> Result<Value, Fault> {
    let options = serde_saphyr::options! {
        // YAML 1.2: `no` and `on` are texts, such as a country code or a label.
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options::<Value>(text, options).map_err(|error| {
        let line = error
            .location()
            .map(|at| first_line + usize::try_from(at.line()).unwrap_or(0));
        let message = error.without_snippet().to_string();
        Fault {
            path: String::new(),
            message: match line {
                Some(line) => format!("not valid YAML near line {line}: {message}"),
                None => format!("not valid YAML: {message}"),
            },
        }
    })
}

/// The documents' texts, each with the number of lines before it. A line that
/// begins with `---` always separates documents, because YAML forbids it inside
/// scalars.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.trim().is_empty());
        if marker {
            documents.push((start_line, &text[start..offset]));
            start = offset + line.len();
            start_line = number + 1;
        }
        offset += line.len();
    }
    documents.push((start_line, &text[start..]));
    if documents.len() > 1
        && documents[0]
            .1
            .lines()
            .all(|l| l.trim().is_empty() || l.starts_with('#'))
    {
        documents.remove(0);
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_syntax_error_spoils_only_its_own_document() {
        let text = "# head\n---\na: 1\n---\nb: [\n---\n# nothing\n---\nc: \"3\"\n";
        let documents = documents(text);
        let numbers: Vec<_> = documents.iter().map(|d| d.number).collect();
        assert_eq!(numbers, [1, 2, 4]);
        assert_eq!(documents[0].value, Ok(json!({"a": 1})));
        assert!(documents[1].value.is_err());
        assert_eq!(documents[2].value, Ok(json!({"c": "3"})));
    }

    #[test]
    fn words_that_look_like_booleans_stay_text_and_long_numbers_exact() {
        let value =
            document("a: no\nb: on\nc: true\nd: 1e3\ne: 750u\nf: 9007199254740993\ng: ~\nh: 0x10")
                .unwrap();
        assert_eq!(value["a"], json!("no"));
        assert_eq!(value["b"], json!("on"));
        assert_eq!(value["c"], json!(true));
        assert_eq!(value["e"], json!("750u"));
        assert_eq!(value["f"], json!(9_007_199_254_740_993_u64));
        assert_eq!(value["g"], Value::Null);
    }

    #[test]
    fn a_key_given_twice_is_an_error() {
        assert!(document("a: 1\na: 2").is_err());
    }

    #[test]
    fn an_error_tells_the_line_in_the_whole_text() {
        let documents = documents("a: 1\n---\nb: 2\nc: }\n");
        let fault = documents[1].value.as_ref().unwrap_err();
        assert!(fault.message.contains("line 4"), "{}", fault.message);
    }
}
