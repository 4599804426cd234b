//! What the decoder of WebP does not check: it panics at a frame without pixels,
//! and allocates as many bytes as a chunk claims to have before it reads them.

use memchr::memmem;

/// The name of a chunk with a lossy frame.
const LOSSY: &[u8] = b"VP8 ";

/// What begins a frame, behind its tag.
const START: &[u8] = &[0x9D, 0x01, 0x2A];

/// Whether a lossy frame has a width or a height of 0. The decoder refuses such
/// an image, but panics at such a frame of an animation.
pub(super) fn has_empty_frame(file: &[u8]) -> bool {
    memmem::find_iter(file, LOSSY).any(|at| is_empty_frame(&file[at + LOSSY.len()..]))
}

/// `chunk` begins with its length. The two highest bits of width and height are
/// no part of them.
fn is_empty_frame(chunk: &[u8]) -> bool {
    let Some(&[a, b, c, width, wide, height, high]) = chunk.get(7..14) else {
        return false;
    };
    let is_none = |low, high| u16::from_le_bytes([low, high]) << 2 == 0;
    [a, b, c] == START && (is_none(width, wide) || is_none(height, high))
}

/// Whether a chunk claims to be longer than the rest of the file.
pub(super) fn is_cut(file: &[u8]) -> bool {
    // Behind the head of the file, which has no data of its own.
    let mut rest = file.get(12..).unwrap_or_default();
    while let Some((head, data)) = rest.split_at_checked(8) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let Some(padded) = usize::try_from(length)
            .ok()
            .filter(|length| *length <= data.len())
            .map(|length| length + length % 2)
        else {
            return true;
        };
        rest = data.get(padded..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_within_a_chunk() {
        let whole = b"RIFF\x20\0\0\0WEBPVP8X\x03\0\0\0abc\0EXIF\x02\0\0\0de";
        assert!(!is_cut(whole));
        for end in [23, 34] {
            assert!(is_cut(&whole[..end - 1]), "{end}");
            assert!(!is_cut(&whole[..end]), "{end}");
        }
        let mut longer = whole.to_vec();
        longer[31] = 0xFF;
        assert!(is_cut(&longer));
        assert!(!is_cut(b"RIFF"));
    }

    #[test]
    fn a_frame_is_empty_without_width_or_height() {
        for (size, is_empty) in [
            ([16, 0, 16, 0], false),
            ([16, 0, 0, 0], true),
            ([0, 0, 16, 0], true),
            ([16, 0, 0, 0xC0], true),
            ([0, 1, 0, 1], false),
        ] {
            let mut file = b"RIFF\0\0\0\0WEBPVP8 \x0a\0\0\0\x50\x01\0\x9d\x01\x2a".to_vec();
            file.extend(size);
            assert_eq!(has_empty_frame(&file), is_empty, "{size:?}");
            assert!(!has_empty_frame(&file[..file.len() - 1]));
        }
    }
}
