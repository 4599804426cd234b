//! Feeds arbitrary texts to the redaction of audit events. It must be idempotent, and
//! a field must be within its bound. The first byte of the input is the bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minichat_core::redact::{TRUNCATED, field, redact};

fuzz_target!(|input: &[u8]| {
    let Some((&max, text)) = input.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let once = redact(&text).into_owned();
    assert_eq!(redact(&once), once);
    let max = usize::from(max);
    assert!(field(&text, max).len() <= max + TRUNCATED.len());
});
