//! Small pictures of images that users upload (CONT-66, API-107): PNG, JPEG,
//! GIF or WebP in, WebP out. Pure: no I/O, no thread, no clock.
//!
//! Images are hostile input. What a decoder may cost is decided from the header,
//! before anything is decoded. A panic of a decoder is an error like any other.
//! Of the original only its pixels are kept: the orientation of EXIF is applied,
//! and places, names and colour profiles are dropped.

mod jpeg;
mod webp;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::webp::WebPEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageError, ImageFormat, ImageReader};
use thiserror::Error;

/// Limits of one thumbnail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Pixels; the thumbnail is not wider.
    pub width: u32,
    /// Pixels; the thumbnail is not higher.
    pub height: u32,
    /// Maximum size of the thumbnail in bytes.
    pub max_bytes: usize,
    /// Maximum number of pixels of the original.
    pub max_pixels: u64,
    /// Maximum size in bytes of the file, and of its pixels at 4 bytes each.
    /// A decoder needs up to three times as much while it works.
    pub max_decode_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            width: 128,
            height: 128,
            max_bytes: 131_072,
            max_pixels: 100_000_000,
            max_decode_bytes: 33_554_432,
        }
    }
}

/// A thumbnail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thumbnail {
    /// A WebP file.
    pub webp: Vec<u8>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// Why an image has no thumbnail.
#[derive(Debug, Error)]
pub enum NoThumbnail {
    /// The file, its pixels, or what a decoder needs for them exceed a limit.
    #[error("the image is too large")]
    TooLarge,
    /// The file is none of the four formats.
    #[error("the format is not known")]
    UnknownFormat,
    /// The file is damaged, or uses something that the decoder cannot read.
    #[error("the image cannot be decoded: {0}")]
    Undecodable(ImageError),
    /// A frame of the file is none.
    #[error("a frame has no pixels")]
    NoPixels,
    /// The decoder has a fault.
    #[error("the decoder panicked")]
    Panicked,
    /// The thumbnail exceeds `max_bytes`.
    #[error("the thumbnail is too large")]
    TooManyBytes,
}

impl From<ImageError> for NoThumbnail {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooLarge,
            other => Self::Undecodable(other),
        }
    }
}

/// Makes a thumbnail of `file`. It takes up to a second of processor time, and
/// cannot be interrupted.
pub fn thumbnail(file: &[u8], limits: &Limits) -> Result<Thumbnail, NoThumbnail> {
    // What a decoder leaves behind is dropped, whatever state it is in.
    catch_unwind(AssertUnwindSafe(|| make(file, limits))).unwrap_or(Err(NoThumbnail::Panicked))
}

fn make(file: &[u8], limits: &Limits) -> Result<Thumbnail, NoThumbnail> {
    if u64::try_from(file.len()).is_ok_and(|length| length > limits.max_decode_bytes) {
        return Err(NoThumbnail::TooLarge);
    }
    let (image, orientation) = decode(file, limits)?;
    let mut image = fit(image, orientation, limits);
    image.apply_orientation(orientation);
    encode(&image, limits)
}

/// Checks the header, then decodes the image, or the first of an animation.
fn decode(file: &[u8], limits: &Limits) -> Result<(DynamicImage, Orientation), NoThumbnail> {
    let format = image::guess_format(file).map_err(|_| NoThumbnail::UnknownFormat)?;
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(limits.max_decode_bytes);
    match format {
        ImageFormat::Jpeg => {
            let cost = jpeg::cost(file).ok_or(NoThumbnail::TooLarge)?;
            allowed.reserve(cost)?;
        }
        ImageFormat::Png | ImageFormat::Gif | ImageFormat::WebP => {}
        _ => return Err(NoThumbnail::UnknownFormat),
    }
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    reader.limits(allowed.clone());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.max_pixels || pixels.saturating_mul(4) > limits.max_decode_bytes {
        return Err(NoThumbnail::TooLarge);
    }
    if format == ImageFormat::WebP {
        check_frames(file, width, height)?;
    }
    allowed.reserve(decoder.total_bytes())?;
    decoder.set_limits(allowed)?;
    // Damaged metadata does not spoil the image.
    let orientation = if format == ImageFormat::WebP {
        webp::exif(file).and_then(Orientation::from_exif_chunk)
    } else {
        decoder.orientation().ok()
    };
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder)?, orientation))
}

/// Refuses an image with a frame that has no pixels or does not fit into it.
fn check_frames(file: &[u8], width: u32, height: u32) -> Result<(), NoThumbnail> {
    for (wide, high) in webp::lossy_frames(file) {
        if wide == 0 || high == 0 {
            return Err(NoThumbnail::NoPixels);
        }
        if wide > width || high > height {
            return Err(NoThumbnail::TooLarge);
        }
    }
    Ok(())
}

/// Scales an image down to the size that it may have once it is turned. A small
/// one keeps its size.
fn fit(image: DynamicImage, orientation: Orientation, limits: &Limits) -> DynamicImage {
    let is_turned = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (width, height) = if is_turned {
        (limits.height, limits.width)
    } else {
        (limits.width, limits.height)
    };
    if image.width() <= width && image.height() <= height {
        image
    } else {
        image.thumbnail(width, height)
    }
}

fn encode(image: &DynamicImage, limits: &Limits) -> Result<Thumbnail, NoThumbnail> {
    let (width, height) = (image.width(), image.height());
    let mut webp = Vec::new();
    let encoder = WebPEncoder::new_lossless(&mut webp);
    if image.color().has_alpha() {
        encoder.encode(&image.to_rgba8(), width, height, ExtendedColorType::Rgba8)?;
    } else {
        encoder.encode(&image.to_rgb8(), width, height, ExtendedColorType::Rgb8)?;
    }
    if webp.len() > limits.max_bytes {
        return Err(NoThumbnail::TooManyBytes);
    }
    Ok(Thumbnail {
        webp,
        width,
        height,
    })
}
