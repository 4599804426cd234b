//! Ids that a provider gives to files and vector stores (PLAT-19).

use std::fmt;

/// Maximum length in bytes: that of the columns that store ids.
const MAX_BYTES: usize = 128;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Servers only: clients never see or send it. It has 1 to 128 letters,
        /// digits, `.`, `_` and `-`, so that it is one segment of a path.
        /// `Debug` does not show it.
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(String);

        impl $name {
            /// Reads an id as it was stored or answered; `None` if it is too
            /// long or would change a path.
            pub fn new(text: impl Into<String>) -> Option<Self> {
                let text = text.into();
                is_segment(&text).then_some(Self(text))
            }

            /// The id, to be stored or sent to the provider.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    };
}

id! {
    /// A file at a provider.
    ProviderFileId
}
id! {
    /// A vector store at a provider.
    VectorStoreId
}

fn is_segment(text: &str) -> bool {
    (1..=MAX_BYTES).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PLAT-19
    #[test]
    fn what_would_change_a_path_or_a_column_is_no_id() {
        for id in ["file-9aXz_1", "vs_68f.b", "a", &"x".repeat(MAX_BYTES)] {
            assert_eq!(ProviderFileId::new(id).unwrap().as_str(), id);
            assert_eq!(VectorStoreId::new(id).unwrap().as_str(), id);
        }
        let long = "x".repeat(MAX_BYTES + 1);
        let refused = [
            "",
            ".",
            "..",
            "../files/x",
            "a/b",
            "a?b",
            "a#b",
            "a%2Fb",
            "a b",
            "a\r\nb",
            "ä",
            &long,
        ];
        for text in refused {
            assert_eq!(ProviderFileId::new(text), None, "{text:?}");
        }
    }

    #[test]
    fn logs_do_not_show_it() {
        let id = ProviderFileId::new("file-secret").unwrap();
        assert_eq!(format!("{id:?}"), "ProviderFileId");
    }
}
