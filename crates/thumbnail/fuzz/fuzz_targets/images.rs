//! Feeds arbitrary bytes to the thumbnailer. No decoder may panic, and a
//! thumbnail keeps its limits. Run it with `-rss_limit_mb` to find what uses too
//! much memory, and with a corpus of small images of all four formats.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minichat_thumbnail::{Limits, NoThumbnail, thumbnail};

const LIMITS: Limits = Limits {
    width: 32,
    height: 32,
    max_bytes: 8 * 1024,
    max_pixels: 100_000_000,
    max_decode_bytes: 2 * 1024 * 1024,
};

fuzz_target!(|file: &[u8]| {
    match thumbnail(file, &LIMITS) {
        Ok(made) => {
            assert!(made.width <= LIMITS.width && made.height <= LIMITS.height);
            assert!(made.webp.len() <= LIMITS.max_bytes);
        }
        Err(error) => assert!(!matches!(error, NoThumbnail::Panicked)),
    }
});
