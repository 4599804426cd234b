//! The files that are uploaded. Each is as large as a file may be by default.

use png::{BitDepth, ColorType, DeflateCompression, Encoder, EncodingError, Filter};

/// A file to upload.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) content: Vec<u8>,
}

/// Maximum size of a document in bytes.
const DOCUMENT: usize = 25 << 20;
/// Pixels of the image. With three bytes each, it is a little smaller than 5 MiB.
const WIDTH: u32 = 1280;
const HEIGHT: u32 = 1360;

/// A text of 25 MiB.
pub(super) fn document() -> File {
    let line = b"Each line of this text is as long as all the others, to its end.\r\n";
    File {
        name: "notes.txt",
        content_type: "text/plain",
        content: line.iter().copied().cycle().take(DOCUMENT).collect(),
    }
}

/// A PNG of noise, which cannot be compressed.
pub(super) fn image() -> Result<File, EncodingError> {
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let pixels = usize::try_from(WIDTH * HEIGHT * 3).unwrap_or_default();
    let pixels: Vec<u8> = (0..pixels).map(|_| noise.next()).collect();
    let mut content = Vec::new();
    let mut encoder = Encoder::new(&mut content, WIDTH, HEIGHT);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_deflate_compression(DeflateCompression::Level(1));
    // What costs a decoder most.
    encoder.set_filter(Filter::Paeth);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(File {
        name: "noise.png",
        content_type: "image/png",
        content,
    })
}

/// Numbers without a pattern (xorshift).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 56).to_le_bytes()[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_as_large_as_they_may_be() {
        assert_eq!(document().content.len(), 25 * 1024 * 1024);
        let image = image().unwrap().content.len();
        assert!((5_200_000..=5 * 1024 * 1024).contains(&image), "{image}");
    }
}
