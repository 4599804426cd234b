//! The files that are uploaded. Each is as large as a file may be by default.

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
const WIDTH: usize = 1280;
const HEIGHT: usize = 1360;
/// The filter of PNG that costs a decoder most (Paeth).
const FILTER: u8 = 4;
/// Maximum size of a block of data that is not compressed.
const BLOCK: usize = 65_535;

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
pub(super) fn image() -> File {
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let mut lines = Vec::with_capacity(HEIGHT * (WIDTH * 3 + 1));
    for _ in 0..HEIGHT {
        lines.push(FILTER);
        lines.extend((0..WIDTH * 3).map(|_| noise.next()));
    }
    File {
        name: "noise.png",
        content_type: "image/png",
        content: png(&lines),
    }
}

fn png(lines: &[u8]) -> Vec<u8> {
    let number = |value: usize| u32::try_from(value).unwrap_or_default().to_be_bytes();
    let mut header = [number(WIDTH), number(HEIGHT)].concat();
    // Eight bits for each of red, green and blue.
    header.extend([8, 2, 0, 0, 0]);
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, content) in [
        (b"IHDR", header),
        (b"IDAT", stored(lines)),
        (b"IEND", Vec::new()),
    ] {
        png.extend(number(content.len()));
        let chunk = [kind.as_slice(), &content].concat();
        png.extend(&chunk);
        png.extend(crc32(&chunk).to_be_bytes());
    }
    png
}

/// A zlib stream of blocks that are not compressed (RFC 1950, RFC 1951).
fn stored(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let mut blocks = data.chunks(BLOCK).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        stream.push(u8::from(blocks.peek().is_none()));
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend(block);
    }
    stream.extend(adler32(data).to_be_bytes());
    stream
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1, 0), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (a + b) % 65_521)
    });
    b << 16 | a
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
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
        let image = image().content.len();
        assert!((5_200_000..=5 * 1024 * 1024).contains(&image), "{image}");
    }

    #[test]
    fn the_checksums_are_those_of_the_specifications() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(adler32(b"Wikipedia"), 0x11E6_0398);
    }
}
