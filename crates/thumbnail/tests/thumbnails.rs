//! Thumbnails of whole files.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what it expects by panicking"
)]

use std::io::Cursor;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{DynamicImage, Frame, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use minichat_thumbnail::{Limits, NoThumbnail, Thumbnail, thumbnail};

const FORMATS: [ImageFormat; 4] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::Gif,
    ImageFormat::WebP,
];

const RED: Rgb<u8> = Rgb([200, 10, 10]);
const BLUE: Rgb<u8> = Rgb([10, 10, 200]);

/// The left half is red, the right half blue.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { RED } else { BLUE })
}

fn file(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.into().write_to(&mut file, format).unwrap();
    file.into_inner()
}

fn made(file: &[u8]) -> Thumbnail {
    thumbnail(file, &Limits::default()).unwrap()
}

fn pixels(thumbnail: &Thumbnail) -> RgbaImage {
    assert_eq!(&thumbnail.webp[8..12], b"WEBP");
    let image = image::load_from_memory_with_format(&thumbnail.webp, ImageFormat::WebP);
    let image = image.unwrap();
    assert_eq!(
        (image.width(), image.height()),
        (thumbnail.width, thumbnail.height)
    );
    image.to_rgba8()
}

fn is_reddish(pixel: Rgba<u8>) -> bool {
    pixel[0] > 150 && pixel[2] < 60
}

/// CONT-66, API-107
#[test]
fn every_format_is_scaled_down_and_keeps_its_aspect() {
    for format in FORMATS {
        for (size, expected) in [
            ((1000, 500), (128, 64)),
            ((300, 600), (64, 128)),
            ((128, 128), (128, 128)),
            ((20, 10), (20, 10)),
            ((1000, 1), (128, 1)),
            ((1, 1), (1, 1)),
        ] {
            let thumbnail = made(&file(picture(size.0, size.1), format));
            let found = (thumbnail.width, thumbnail.height);
            assert_eq!(found, expected, "{format:?} of {size:?}");
            let pixels = pixels(&thumbnail);
            if expected.0 > 1 {
                assert!(is_reddish(*pixels.get_pixel(0, 0)), "{format:?}");
                assert!(
                    !is_reddish(*pixels.get_pixel(expected.0 - 1, 0)),
                    "{format:?}"
                );
            }
        }
    }
}

#[test]
fn transparency_is_kept() {
    let image = RgbaImage::from_pixel(200, 200, Rgba([1, 2, 3, 0]));
    let thumbnail = made(&file(image, ImageFormat::Png));
    assert_eq!(pixels(&thumbnail).get_pixel(5, 5)[3], 0);
}

#[test]
fn of_an_animation_the_first_image_counts() {
    let frame = |color| Frame::new(RgbaImage::from_pixel(300, 200, color));
    let mut animation = Vec::new();
    let mut encoder = GifEncoder::new(&mut animation);
    encoder.set_repeat(Repeat::Infinite).unwrap();
    let frames = [Rgba([200, 10, 10, 255]), Rgba([10, 10, 200, 255])].map(frame);
    encoder.encode_frames(frames).unwrap();
    drop(encoder);
    let thumbnail = made(&animation);
    assert_eq!((thumbnail.width, thumbnail.height), (128, 85));
    assert!(is_reddish(*pixels(&thumbnail).get_pixel(60, 40)));
}

/// A JPEG with an EXIF segment that has this orientation and a place.
fn turned(orientation: u8) -> Vec<u8> {
    let jpeg = file(picture(1000, 500), ImageFormat::Jpeg);
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    exif.extend(b"GPS 52.5200 13.4050");
    let mut turned = jpeg[..2].to_vec();
    turned.extend([0xFF, 0xE1]);
    turned.extend(u16::try_from(exif.len() + 2).unwrap().to_be_bytes());
    turned.extend(exif);
    turned.extend(&jpeg[2..]);
    turned
}

/// CONT-66: cameras store which side is up.
#[test]
fn the_orientation_is_applied_and_nothing_else_is_kept() {
    for (orientation, size, red_at) in [
        (1, (128, 64), (0, 0)),
        (2, (128, 64), (127, 0)),
        (3, (128, 64), (127, 63)),
        (6, (64, 128), (0, 0)),
        (8, (64, 128), (0, 127)),
    ] {
        let file = turned(orientation);
        let thumbnail = made(&file);
        let found = (thumbnail.width, thumbnail.height);
        assert_eq!(found, size, "orientation {orientation}");
        let pixels = pixels(&thumbnail);
        let (x, y) = red_at;
        assert!(
            is_reddish(*pixels.get_pixel(x, y)),
            "orientation {orientation}"
        );
        let opposite = pixels.get_pixel(size.0 - 1 - x, size.1 - 1 - y);
        assert!(!is_reddish(*opposite), "orientation {orientation}");
        let kept = |text: &[u8]| thumbnail.webp.windows(text.len()).any(|it| it == text);
        assert!(!kept(b"GPS") && !kept(b"Exif") && !kept(b"EXIF"));
    }
    assert_eq!(made(&turned(77)).width, 128);
}

/// A PNG whose header claims a size that its data does not have.
fn claiming(width: u32, height: u32) -> Vec<u8> {
    let mut png = file(picture(8, 8), ImageFormat::Png);
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

/// CONT-66
#[test]
fn what_a_header_claims_is_judged_before_anything_is_decoded() {
    let all = |file: &[u8]| thumbnail(file, &Limits::default());
    for (width, height) in [(65_535, 65_535), (100_000, 1001), (8_388_609, 1)] {
        let refused = all(&claiming(width, height));
        assert!(matches!(refused, Err(NoThumbnail::TooLarge)), "{refused:?}");
    }
    // At the limit, the missing data is the fault.
    let refused = all(&claiming(8_388_608, 1));
    assert!(
        matches!(refused, Err(NoThumbnail::Undecodable(_))),
        "{refused:?}"
    );
}

/// CONT-66: every number is a limit.
#[test]
fn limits_are_exact() {
    let png = file(picture(40, 30), ImageFormat::Png);
    let with = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        thumbnail(&png, &limits)
    };
    let is_too_large = |made| matches!(made, Err(NoThumbnail::TooLarge));
    assert!(with(|it| it.max_pixels = 1200).is_ok());
    assert!(is_too_large(with(|it| it.max_pixels = 1199)));
    assert!(with(|it| it.max_decode_bytes = 4800).is_ok());
    assert!(is_too_large(with(|it| it.max_decode_bytes = 4799)));
    let size = with(|_| {}).unwrap().webp.len();
    let limits = |max_bytes| Limits {
        max_bytes,
        ..Limits::default()
    };
    assert!(thumbnail(&png, &limits(size)).is_ok());
    let refused = thumbnail(&png, &limits(size - 1));
    assert!(
        matches!(refused, Err(NoThumbnail::TooManyBytes)),
        "{refused:?}"
    );
    let wide = with(|it| (it.width, it.height) = (20, 100)).unwrap();
    assert_eq!((wide.width, wide.height), (20, 15));
    let long = vec![0; 4801];
    let limits = Limits {
        max_decode_bytes: 4800,
        ..Limits::default()
    };
    assert!(is_too_large(thumbnail(&long, &limits)));
}

#[test]
fn damaged_and_foreign_files_have_no_thumbnail() {
    for format in FORMATS {
        let whole = file(picture(64, 48), format);
        for end in [0, 1, 4, 8, 12, 16, 20, 24, 30] {
            let made = thumbnail(&whole[..end], &Limits::default());
            assert!(made.is_err(), "{format:?} of {end} bytes");
        }
    }
    for foreign in [&b"%PDF-1.7"[..], b"BM6\0\0\0", b"II*\0\x08\0\0\0", b"hello"] {
        let made = thumbnail(foreign, &Limits::default());
        assert!(matches!(made, Err(NoThumbnail::UnknownFormat)), "{made:?}");
    }
}

/// CONT-66: found by the fuzz target; the decoder panics at such a file.
#[test]
fn an_animation_with_a_frame_without_pixels_has_no_thumbnail() {
    let file = include_bytes!("files/animation-without-pixels.webp");
    let made = thumbnail(file, &Limits::default());
    assert!(matches!(made, Err(NoThumbnail::NoPixels)), "{made:?}");
}
