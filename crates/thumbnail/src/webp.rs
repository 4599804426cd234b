//! What the decoder of WebP does not check: it panics at a frame without pixels,
//! allocates for the size that a frame claims to have, and for the length that a
//! chunk claims to have, before it reads them.

use memchr::memmem;

/// The name of a chunk with a lossy frame.
const LOSSY: &[u8] = b"VP8 ";

/// The name of a chunk with the transparency of a lossy frame, which follows it
/// under whatever name.
const ALPHA: &[u8] = b"ALPH";

/// What begins a frame, behind its tag.
const START: &[u8] = &[0x9D, 0x01, 0x2A];

/// Width and height of the lossy frames of a file. What only looks like a frame is
/// taken for one.
pub(super) fn lossy_frames(file: &[u8]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let named = memmem::find_iter(file, LOSSY);
    let behind_alpha = memmem::find_iter(file, ALPHA).filter_map(|at| {
        let length = length(file.get(at + 4..)?)?;
        at.checked_add(8)?.checked_add(length + length % 2)
    });
    named
        .chain(behind_alpha)
        .filter_map(|chunk| size_of_frame(file.get(chunk.checked_add(8)?..)?))
}

/// The two highest bits of width and height are no part of them.
fn size_of_frame(frame: &[u8]) -> Option<(u32, u32)> {
    let &[a, b, c, width, wide, height, high] = frame.get(3..10)? else {
        return None;
    };
    let pixels = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3FFF);
    ([a, b, c] == START).then(|| (pixels(width, wide), pixels(height, high)))
}

/// The EXIF chunk of a file, if all of it is there.
pub(super) fn exif(file: &[u8]) -> Option<&[u8]> {
    // Behind the head of the file, which has no data of its own.
    let mut rest = file.get(12..)?;
    loop {
        let (head, data) = rest.split_at_checked(8)?;
        let length = length(&head[4..])?;
        if head.starts_with(b"EXIF") {
            return data.get(..length);
        }
        rest = data.get(length.checked_add(length % 2)?..)?;
    }
}

fn length(bytes: &[u8]) -> Option<usize> {
    let bytes = bytes.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*bytes)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_exif_chunk_is_read() {
        let whole = b"RIFF\x20\0\0\0WEBPVP8X\x03\0\0\0abc\0EXIF\x02\0\0\0de";
        assert_eq!(exif(whole), Some(&b"de"[..]));
        for end in 0..whole.len() {
            assert_eq!(exif(&whole[..end]), None, "{end}");
        }
        let mut longer = whole.to_vec();
        longer[31] = 0xFF;
        assert_eq!(exif(&longer), None);
    }

    #[test]
    fn a_frame_is_found_by_its_name_and_behind_transparency() {
        for (size, expected) in [
            ([16, 0, 16, 0], (16, 16)),
            ([16, 0, 0, 0xC0], (16, 0)),
            ([0, 1, 0xFF, 0xFF], (256, 0x3FFF)),
        ] {
            let frame = [&b"\x50\x01\0\x9d\x01\x2a"[..], &size].concat();
            for head in [&b"VP8 \x0a\0\0\0"[..], b"ALPH\x03\0\0\0abc\0WHAT\x0a\0\0\0"] {
                let file = [b"RIFF\0\0\0\0WEBP", head, &frame].concat();
                assert_eq!(lossy_frames(&file).collect::<Vec<_>>(), [expected]);
                let cut = &file[..file.len() - 1];
                assert_eq!(lossy_frames(cut).count(), 0);
            }
        }
    }
}
