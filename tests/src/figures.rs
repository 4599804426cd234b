//! Prints the results of benchmarks and writes them into `docs/benchmarks.md`.

use std::path::Path;
use std::time::Duration;

/// The 50th, 90th, 99th and 100th percentile of `times` in milliseconds; zeros if `times` is empty.
pub fn quantiles(mut times: Vec<Duration>) -> [u128; 4] {
    times.sort();
    [50, 90, 99, 100].map(|percent| {
        let rank = (times.len() * percent).div_ceil(100).max(1);
        times.get(rank - 1).map_or(0, Duration::as_millis)
    })
}

/// Whether a goal is reached, as a word.
pub fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

/// Replaces the section `## <title>` of `page`, up to the next heading, or appends it. The sections of other benchmarks
/// stay.
pub fn replace_section(page: &Path, title: &str, body: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(page)?;
    Ok(std::fs::write(page, with_section(&text, title, body))?)
}

fn with_section(text: &str, title: &str, body: &str) -> String {
    let heading = format!("\n## {title}\n");
    let begin = text.find(&heading).unwrap_or(text.len());
    let rest = text.get(begin + heading.len()..).unwrap_or_default();
    let end = rest.find("\n## ").map_or("", |at| &rest[at..]);
    let before = text[..begin].trim_end();
    format!("{before}\n{heading}\n{}\n{end}", body.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_where_it_stands_and_added_where_it_does_not() {
        let page = "# Page\n\n## A\n\nold\n\n## B\n\nkept\n";
        let replaced = "# Page\n\n## A\n\nnew\n\n## B\n\nkept\n";
        assert_eq!(with_section(page, "A", "new"), replaced);
        assert_eq!(with_section(replaced, "A", "new"), replaced);
        let added = "# Page\n\n## A\n\nold\n\n## B\n\nkept\n\n## C\n\nnew\n";
        assert_eq!(with_section(page, "C", "new\n"), added);
    }
}
