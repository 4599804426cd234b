//! The name under which a file is shown (CONT-52).

/// Maximum length of a name in characters.
pub const MAX_CHARS: usize = 255;

/// The name of a file whose client gave none.
const UNNAMED: &str = "upload";

/// The name has a character that must not be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("must not contain {} (U+{:04X})", self.what(), u32::from(self.0))]
pub struct UnusableCharacter(char);

impl UnusableCharacter {
    fn what(self) -> &'static str {
        if self.0.is_control() {
            "a control character"
        } else {
            "a character that turns the direction of writing"
        }
    }
}

/// The name to keep of the client's: without directories, and at most
/// [`MAX_CHARS`] characters long, where the extension is kept if possible.
pub fn kept(name: Option<&str>) -> Result<String, UnusableCharacter> {
    let name = name.unwrap_or_default();
    if let Some(character) = name.chars().find(|c| c.is_control() || turns_direction(*c)) {
        return Err(UnusableCharacter(character));
    }
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    Ok(match last.trim() {
        "" | "." | ".." => UNNAMED.to_owned(),
        _ => cut(last),
    })
}

/// Text behind such a character can be shown in front of it, so that an extension
/// looks like another one.
const fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn cut(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_CHARS {
        return name.to_owned();
    }
    let extension = name.rfind('.').map_or("", |dot| &name[dot..]);
    let extension = if extension == "." { "" } else { extension };
    let kept = extension.chars().count();
    if kept >= MAX_CHARS {
        return name.chars().skip(length - MAX_CHARS).collect();
    }
    let stem = name.chars().take(MAX_CHARS - kept);
    stem.chain(extension.chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: &str) -> String {
        super::kept(Some(name)).unwrap()
    }

    /// API-101, CONT-52
    #[test]
    fn a_long_name_keeps_its_extension() {
        let long = "ä".repeat(300);
        assert_eq!(
            kept(&format!("{long}.txt")),
            format!("{}.txt", &long[..2 * 251])
        );
        assert_eq!(kept(&long), long[..2 * 255]);
        assert_eq!(kept(&format!("{long}.")), long[..2 * 255]);
        assert_eq!(kept(&format!("a.{long}")), long[..2 * 255]);
        let exact = format!("{}.md", "b".repeat(252));
        assert_eq!(kept(&exact), exact);
        let emoji = format!("{}.md", "\u{1f980}".repeat(300));
        assert_eq!(kept(&emoji).chars().count(), MAX_CHARS);
        assert!(kept(&emoji).ends_with("\u{1f980}.md"));
    }

    /// CONT-52
    #[test]
    fn directories_are_no_part_of_a_name() {
        for (name, expected) in [
            ("../../etc/passwd", "passwd"),
            (r"C:\Users\me\notes.txt", "notes.txt"),
            ("/", "upload"),
            ("..", "upload"),
            ("a/..", "upload"),
            ("  ", "upload"),
            ("notes .txt", "notes .txt"),
            ("שלום\u{200f}.txt", "שלום\u{200f}.txt"),
        ] {
            assert_eq!(kept(name), expected, "{name}");
        }
        assert_eq!(super::kept(None).unwrap(), "upload");
    }

    /// CONT-52
    #[test]
    fn what_must_not_be_shown_is_refused() {
        for (name, text) in [
            ("a\0.txt", "must not contain a control character (U+0000)"),
            ("a\u{7f}", "must not contain a control character (U+007F)"),
            ("a\u{85}", "must not contain a control character (U+0085)"),
            (
                "gpj\u{202e}.exe",
                "must not contain a character that turns the direction of writing (U+202E)",
            ),
        ] {
            assert_eq!(super::kept(Some(name)).unwrap_err().to_string(), text);
        }
    }
}
