//! Masks the credential of a call, in every form in which the provider received
//! it. A provider may repeat it in an error, in an id or in the answer. The
//! place cannot be predicted, but the value is known (PLAT-102, PLAT-117).

mod text;

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use memchr::memmem;
use minichat_config::Secret;
use minichat_config::tenant::Provider;
use minichat_core::scrub::{CREDENTIAL, HOST};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

pub(crate) use self::text::TextMask;
use self::text::{ByteSet, masked_in_answers};

/// Minimum length of a form that is masked inside words of an error. A shorter
/// form is masked only as a whole word.
const SHORTEST_IN_WORD: usize = 4;

/// Minimum number of credential characters beside stars with which a provider
/// hid the rest.
const SHORTEST_REMAINDER: usize = 2;

/// Maximum number of bytes of an error's text that are masked and kept.
const LONGEST_WORDS: usize = 16 * 1024;

/// RFC 3986's unreserved characters are not escaped.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Replaces the credential and the address of one call. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Mask(Arc<Known>);

#[derive(Default)]
struct Known {
    /// Every form of the credential, longest first.
    forms: Vec<String>,
    /// First bytes of the forms that are masked in an answer.
    first_bytes: ByteSet,
    /// The provider's authority and its host.
    hosts: Vec<String>,
}

impl Mask {
    /// The mask for a call of `provider` with `credential`.
    pub(crate) fn new(provider: &Provider, credential: Option<&Secret>) -> Self {
        let values = match (&provider.auth, credential) {
            (Some(auth), Some(secret)) => values(&auth.prefix, secret.expose()),
            _ => Vec::new(),
        };
        Self::of(&values, vec![provider.authority(), provider.host.clone()])
    }

    /// The mask for a request whose headers contain `secrets`, each as a whole
    /// value.
    pub(crate) fn of_headers(secrets: &[&Secret], hosts: Vec<String>) -> Self {
        let values = secrets.iter().flat_map(|it| values("", it.expose()));
        Self::of(&values.collect::<Vec<_>>(), hosts)
    }

    fn of(values: &[String], hosts: Vec<String>) -> Self {
        let mut forms = Vec::new();
        for value in values {
            add_forms(value, &mut forms);
        }
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        let mut first_bytes = ByteSet::default();
        for form in masked_in_answers(&forms) {
            first_bytes.insert(form.as_bytes()[0]);
        }
        Self(Arc::new(Known {
            forms,
            first_bytes,
            hosts,
        }))
    }

    /// Masks the credential only; for texts that clients never see.
    pub(crate) fn credential_in<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for form in &self.0.forms {
            text = replace_all(text, form, CREDENTIAL, form.len() < SHORTEST_IN_WORD);
        }
        self.remainders_in(text)
    }

    /// The beginning of `text`, limited so that a long text costs little. A
    /// credential at the cut is left out.
    pub(crate) fn bounded<'t>(&self, text: &'t str) -> &'t str {
        self.cut(text, LONGEST_WORDS)
    }

    /// The same with another limit, in bytes.
    pub(crate) fn cut<'t>(&self, text: &'t str, limit: usize) -> &'t str {
        let Some(mut end) = (text.len() > limit).then_some(limit) else {
            return text;
        };
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        let cut = self.0.forms.iter().map(|form| longest_start(text, form));
        &text[..end - cut.max().unwrap_or(0)]
    }

    /// Masks the credential and the provider's address.
    pub(crate) fn all_in<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = self.credential_in(text);
        for host in &self.0.hosts {
            text = replace_all(text, host, HOST, true);
        }
        text
    }

    /// Masks the part of a credential that a provider left beside stars or
    /// dots: `abcd****wxyz`.
    fn remainders_in<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        let is_remainder = |word: &str| {
            let is_end = |part: &str, is_part_of: fn(&str, &str) -> bool| {
                part.len() >= SHORTEST_REMAINDER
                    && self.0.forms.iter().any(|form| is_part_of(form, part))
            };
            let Some((start, end)) = hidden(word) else {
                return false;
            };
            is_end(&word[..start], |form, part| form.starts_with(part))
                || is_end(word[end..].trim_end_matches(['.', ':']), |form, part| {
                    form.ends_with(part)
                })
        };
        let is_between = |c: char| c.is_whitespace() || "\"'`,;()<>".contains(c);
        let (mut masked, mut copied, mut at) = (String::new(), 0, 0);
        for piece in text.split_inclusive(is_between) {
            let word = piece.trim_end_matches(is_between);
            if is_remainder(word) {
                masked.push_str(&text[copied..at]);
                masked.push_str(CREDENTIAL);
                copied = at + word.len();
            }
            at += piece.len();
        }
        if copied == 0 {
            return text;
        }
        masked.push_str(&text[copied..]);
        Cow::Owned(masked)
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

/// The texts that reveal the credential: the credential, the header value, and
/// the values that the schemes of RFC 9110 and RFC 7617 build from them.
fn values(prefix: &str, secret: &str) -> Vec<String> {
    if secret.is_empty() {
        return Vec::new();
    }
    let header = format!("{prefix}{secret}");
    let mut values = vec![secret.to_owned()];
    if let Some((scheme, token)) = header.trim().split_once(' ') {
        let token = token.trim();
        values.push(token.to_owned());
        if scheme.eq_ignore_ascii_case("basic") {
            values.extend(parts_of_basic(token));
        }
    }
    values.push(header);
    values
}

/// `user:password`, the password, and the user if it is long enough. A short
/// user name is a common word such as `api`.
fn parts_of_basic(token: &str) -> Vec<String> {
    let decoded = STANDARD
        .decode(token)
        .or_else(|_| STANDARD_NO_PAD.decode(token));
    let Some(pair) = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Vec::new();
    };
    let Some((user, password)) = pair.split_once(':') else {
        return vec![pair];
    };
    let user = (user.len() >= SHORTEST_IN_WORD).then_some(user);
    let password = (!password.is_empty()).then_some(password);
    let parts = user.into_iter().chain(password).map(str::to_owned);
    parts.chain([pair.clone()]).collect()
}

fn add_forms(value: &str, forms: &mut Vec<String>) {
    let escaped = utf8_percent_encode(value, RESERVED).to_string();
    forms.push(lower_escapes(&escaped));
    forms.push(escaped);
    let json = serde_json::Value::from(value).to_string();
    let json = json.trim_matches('"').to_owned();
    forms.push(json.replace('/', "\\/"));
    forms.push(json);
    for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
        forms.push(engine.encode(value));
    }
    forms.push(value.to_owned());
}

/// `%2F` written as `%2f`.
fn lower_escapes(escaped: &str) -> String {
    let mut after_percent = 3;
    escaped
        .chars()
        .map(|c| {
            after_percent = if c == '%' { 0 } else { after_percent + 1 };
            if after_percent <= 2 {
                c.to_ascii_lowercase()
            } else {
                c
            }
        })
        .collect()
}

/// Range of the first run of at least three stars or dots.
fn hidden(word: &str) -> Option<(usize, usize)> {
    let is_hiding = |c: char| matches!(c, '*' | '.' | '•' | '…');
    let start = ["***", "...", "•••", "…"]
        .iter()
        .filter_map(|run| word.find(run))
        .min()?;
    let rest = &word[start..];
    let len = rest.find(|c| !is_hiding(c)).unwrap_or(rest.len());
    Some((start, start + len))
}

/// Replaces each `form` in `text`. With `as_word`, only where no letter or
/// digit is next to it.
fn replace_all<'t>(text: Cow<'t, str>, form: &str, with: &str, as_word: bool) -> Cow<'t, str> {
    if form.is_empty() {
        return text;
    }
    let is_beside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let found: Vec<usize> = memmem::find_iter(text.as_bytes(), form.as_bytes())
        .filter(|&at| {
            let (before, after) = (&text[..at], &text[at + form.len()..]);
            !as_word || !(is_beside(before.chars().next_back()) || is_beside(after.chars().next()))
        })
        .collect();
    if found.is_empty() {
        return text;
    }
    let mut masked = String::with_capacity(text.len());
    let mut copied = 0;
    for at in found {
        masked.push_str(&text[copied..at]);
        masked.push_str(with);
        copied = at + form.len();
    }
    masked.push_str(&text[copied..]);
    Cow::Owned(masked)
}

/// Length of the longest proper prefix of `form` with which `text` ends.
fn longest_start(text: &str, form: &str) -> usize {
    let (text, form) = (text.as_bytes(), form.as_bytes());
    let tail = &text[text.len().saturating_sub(form.len() - 1)..];
    let starts = memchr::memchr_iter(form[0], tail);
    starts
        .map(|at| &tail[at..])
        .find(|end| form.starts_with(end))
        .map_or(0, <[u8]>::len)
}

#[cfg(test)]
mod tests;
