//! No bytes make a thumbnail panic or allocate more than its limit. This is a
//! program of its own, because its allocator counts for the whole process.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what it expects by panicking"
)]

use std::alloc::System;
use std::io::Cursor;

use cap::Cap;
use image::{ImageFormat, Rgb, RgbImage};
use minichat_thumbnail::{Limits, NoThumbnail, thumbnail};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const MIB: usize = 1024 * 1024;

/// Small, so that what exceeds it is found in little time.
const LIMITS: Limits = Limits {
    width: 32,
    height: 32,
    max_bytes: 8 * 1024,
    max_pixels: 100_000_000,
    max_decode_bytes: 2 * 1024 * 1024,
};

/// Three times the limit for a decoder, and room for its tables and for the
/// files.
const MAX_ALLOCATED: usize = 3 * 2 * MIB + 2 * MIB;

/// Files that the fuzz target found.
const FOUND: [&[u8]; 2] = [
    include_bytes!("files/animation-without-pixels.webp"),
    include_bytes!("files/exif-longer-than-its-file.webp"),
];

/// A chunk, and what it says its length is.
fn chunk(name: &[u8], length: u32, data: &[u8]) -> Vec<u8> {
    [name, &length.to_le_bytes(), data].concat()
}

/// Files that make the decoder of WebP allocate for what they claim.
fn claims() -> [Vec<u8>; 2] {
    let file = |flags: u8, chunks: &[u8]| {
        let head = chunk(b"VP8X", 10, &[flags, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let body = [b"WEBP", &head[..], chunks].concat();
        chunk(b"RIFF", u32::try_from(body.len()).unwrap(), &body)
    };
    let exif = chunk(b"EXIF", 0xFFFF_FFF0, &[0; 16]);
    let frame = [&[0; 16][..], &exif].concat();
    let anim = chunk(b"ANIM", 6, &[0; 6]);
    let anmf = chunk(b"ANMF", u32::try_from(frame.len()).unwrap(), &frame);
    let lossy = b"\x50\x01\0\x9d\x01\x2a\xFF\x3F\xFF\x3F\0\0\0\0\0\0";
    [
        file(0b0000_1010, &[anim, anmf].concat()),
        file(
            0,
            &chunk(b"VP8 ", u32::try_from(lossy.len()).unwrap(), lossy),
        ),
    ]
}

fn files() -> Vec<Vec<u8>> {
    let formats = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Gif,
        ImageFormat::WebP,
    ];
    let image = RgbImage::from_fn(40, 24, |x, y| {
        let [x, y] = [x, y].map(|it| u8::try_from(it * 5).unwrap());
        Rgb([x, y, x ^ y])
    });
    let file = |format| {
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    formats.map(file).to_vec()
}

/// One change of a file.
#[derive(Clone, Debug)]
enum Change {
    /// A byte, mostly of the header.
    Byte(usize, u8),
    /// Two bytes, as a size or a length.
    Pair(usize, u16),
    Cut(usize),
    Repeat(usize, usize),
    Insert(usize, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let place = prop_oneof![3 => 0..64_usize, 1 => 0..4096_usize];
    let extreme = prop_oneof![Just(0), Just(u16::MAX), Just(0x7FFF), any::<u16>()];
    prop_oneof![
        4 => (place.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        3 => (place.clone(), extreme).prop_map(|(at, pair)| Change::Pair(at, pair)),
        1 => place.clone().prop_map(Change::Cut),
        1 => (place.clone(), 1..64_usize).prop_map(|(at, times)| Change::Repeat(at, times)),
        1 => (place, vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ]
}

fn apply(file: &mut Vec<u8>, change: Change) {
    let length = file.len().max(1);
    match change {
        Change::Byte(at, byte) => {
            if let Some(place) = file.get_mut(at % length) {
                *place = byte;
            }
        }
        Change::Pair(at, pair) => {
            let at = at % length;
            for (place, byte) in file.iter_mut().skip(at).zip(pair.to_be_bytes()) {
                *place = byte;
            }
        }
        Change::Cut(at) => file.truncate(at % length),
        Change::Repeat(at, times) => {
            let part = file.split_off(at % length);
            let part = &part[..part.len().min(256)];
            for _ in 0..times {
                file.extend_from_slice(part);
            }
        }
        Change::Insert(at, bytes) => {
            let at = (at % length).min(file.len());
            file.splice(at..at, bytes);
        }
    }
}

/// PNG checks sums before it looks at sizes.
fn with_valid_sum(file: &mut [u8]) {
    if file.starts_with(b"\x89PNG") && file.len() > 33 {
        let sum = !file[12..29].iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        });
        file[29..33].copy_from_slice(&sum.to_be_bytes());
    }
}

/// CONT-66
#[test]
fn no_bytes_make_it_panic_or_allocate_more_than_its_limit() {
    let files = files();
    let changed = (0..files.len(), vec(change(), 1..6), any::<bool>());
    let changed = changed.prop_map(move |(file, changes, has_valid_sum)| {
        let mut file = files[file].clone();
        for change in changes {
            apply(&mut file, change);
        }
        if has_valid_sum {
            with_valid_sum(&mut file);
        }
        file
    });
    let magics = [
        &b"\x89PNG\r\n\x1a\n"[..],
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBPVP8",
    ];
    let arbitrary = (0..magics.len(), vec(any::<u8>(), 0..512));
    let arbitrary = arbitrary.prop_map(move |(magic, rest)| [magics[magic], &rest].concat());
    let inputs = prop_oneof![4 => changed, 1 => arbitrary];
    let config = Config {
        cases: 4000,
        failure_persistence: None,
        ..Config::default()
    };
    // A panic that is caught would print a message for each case.
    std::panic::set_hook(Box::new(|_| {}));
    let before = ALLOCATOR.allocated();
    let found = FOUND.map(<[u8]>::to_vec);
    for file in found.into_iter().chain(claims()) {
        let made = thumbnail(&file, &LIMITS);
        assert!(!matches!(made, Err(NoThumbnail::Panicked)));
    }
    let tried = TestRunner::new(config).run(&inputs, |file| {
        let made = thumbnail(&file, &LIMITS);
        prop_assert!(!matches!(made, Err(NoThumbnail::Panicked)));
        if let Ok(made) = made {
            prop_assert!(made.width <= 32 && made.height <= 32);
            prop_assert!(made.webp.len() <= 8 * 1024);
        }
        Ok(())
    });
    let _ = std::panic::take_hook();
    tried.unwrap();
    let most = ALLOCATOR.max_allocated() - before;
    assert!(most < MAX_ALLOCATED, "{most} bytes were allocated");
}
