//! YAML as JSON values: the only file that names the YAML parser.

use serde_json::Value;

use crate::fault::Fault;

/// One document of a multi-document text.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Position in the text, 1 for the first; empty documents count.
    pub number: usize,
    /// The value, or why there is none. Line numbers are the whole text's.
    pub value: Result<Value, Fault>,
}

/// The documents of `text` that are not empty, each parsed on its own, so that
/// a syntax error spoils only the document it stands in.
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

fn parse(text: &str, first_line: usize) -> Result<Value, Fault> {
    serde_saphyr::from_str::<Value>(text).map_err(|error| {
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
/// begins with `---` is a document marker wherever it stands: YAML forbids it
/// inside scalars.
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
