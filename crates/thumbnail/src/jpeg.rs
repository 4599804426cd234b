//! What a JPEG costs beyond its pixels. Its decoder keeps the coefficients of a
//! progressive image until the end, without a limit, and a file may contain
//! thousands of passes over the same pixels.

use memchr::memmem;

/// Maximum number of passes over the pixels. Encoders make about 10.
const MAX_SCANS: usize = 64;

/// The marker that begins a pass. In data of pixels, another byte follows FF.
const START_OF_SCAN: [u8; 2] = [0xFF, 0xDA];

/// Bytes that are allocated for coefficients; `None` if there are too many
/// passes. A header that cannot be read costs nothing, because the decoder
/// cannot read it either.
pub(super) fn cost(file: &[u8]) -> Option<u64> {
    let scans = memmem::find_iter(file, &START_OF_SCAN).take(MAX_SCANS + 1);
    if scans.count() > MAX_SCANS {
        return None;
    }
    Some(Header::read(file).map_or(0, |header| header.coefficient_bytes()))
}

/// What the header says, up to the first pass.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    is_progressive: bool,
    width: u16,
    height: u16,
    components: u8,
    /// Number of components in the first pass.
    scan_components: u8,
}

impl Header {
    fn read(file: &[u8]) -> Option<Self> {
        let mut header = Self::default();
        // Behind the marker that begins the file.
        let mut rest = file.get(2..)?;
        loop {
            let at = memchr::memchr(0xFF, rest)?;
            let marker = *rest.get(at + 1)?;
            rest = &rest[at + 1..];
            match marker {
                // Padding, escaped data and markers without a length.
                0xFF => continue,
                0x00 | 0x01 | 0xD0..=0xD8 => {
                    rest = &rest[1..];
                    continue;
                }
                0xD9 => return None,
                _ => {}
            }
            let length = usize::from(u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]));
            let segment = rest.get(3..(1 + length).max(3))?;
            match marker {
                0xC0..=0xC2 => header.frame(marker, segment)?,
                0xDA => {
                    header.scan_components = *segment.first()?;
                    return (header.components > 0).then_some(header);
                }
                _ => {}
            }
            rest = rest.get(1 + length..)?;
        }
    }

    fn frame(&mut self, marker: u8, segment: &[u8]) -> Option<()> {
        let (size, components) = segment.get(1..6)?.split_at(4);
        self.is_progressive = marker == 0xC2;
        self.height = u16::from_be_bytes([size[0], size[1]]);
        self.width = u16::from_be_bytes([size[2], size[3]]);
        self.components = components[0];
        Some(())
    }

    /// Two bytes per pixel and component, rounded up to whole blocks.
    fn coefficient_bytes(&self) -> u64 {
        if !self.is_progressive && self.scan_components >= self.components {
            return 0;
        }
        let blocks = |length: u16| (u64::from(length) / 64 + 1) * 64;
        blocks(self.width) * blocks(self.height) * 2 * u64::from(self.components)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The markers of a file with this frame and this first pass.
    fn file(frame: u8, components: u8, scan_components: u8) -> Vec<u8> {
        let mut file = vec![0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 0xFF, 0xDB];
        file.extend([0xFF, frame, 0, 8, 8, 0x03, 0xE8, 0x07, 0xD0, components]);
        file.extend([0xFF, 0xFF, 0xDA, 0, 3, scan_components]);
        file
    }

    #[test]
    fn only_images_whose_coefficients_are_kept_cost_more_than_pixels() {
        // 1000 by 2000 pixels, as 1024 by 2048.
        let kept = 1024 * 2048 * 2;
        for (frame, components, scan_components, bytes) in [
            (0xC0, 3, 3, 0),
            (0xC1, 1, 1, 0),
            (0xC2, 3, 3, 3 * kept),
            (0xC2, 1, 1, kept),
            (0xC0, 3, 1, 3 * kept),
        ] {
            let file = file(frame, components, scan_components);
            let cost = cost(&file);
            assert_eq!(
                cost,
                Some(bytes),
                "{frame:x} {components} {scan_components}"
            );
        }
    }

    #[test]
    fn a_header_that_is_cut_costs_nothing() {
        let whole = file(0xC2, 3, 3);
        for end in 0..whole.len() {
            assert_eq!(cost(&whole[..end]), Some(0), "{end}");
        }
    }

    #[test]
    fn thousands_of_passes_are_refused() {
        let mut file = file(0xC2, 3, 3);
        let passes = |file: &mut Vec<u8>, count: usize| {
            for _ in 0..count {
                file.extend([0xFF, 0xDA, 0, 3, 1]);
            }
        };
        passes(&mut file, MAX_SCANS - 1);
        assert!(cost(&file).is_some());
        passes(&mut file, 1);
        assert_eq!(cost(&file), None);
    }
}
