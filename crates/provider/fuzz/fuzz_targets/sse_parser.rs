//! Feeds arbitrary bytes, cut into pieces, to the parser. It must give the same
//! events as for the bytes in one piece. The first byte of the input is the
//! length of the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minichat_provider::sse::{Parser, TooLarge};

type Events = Vec<(Vec<u8>, Vec<u8>)>;

fuzz_target!(|input: &[u8]| {
    let Some((&length, stream)) = input.split_first() else {
        return;
    };
    let whole = events(std::iter::once(stream));
    let pieces = events(stream.chunks(usize::from(length).max(1)));
    assert_eq!(whole, pieces);
});

fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Events, TooLarge> {
    let mut parser = Parser::default();
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece);
        while let Some(event) = parser.next_event()? {
            events.push((event.name.to_vec(), event.data.to_vec()));
        }
    }
    Ok(events)
}
