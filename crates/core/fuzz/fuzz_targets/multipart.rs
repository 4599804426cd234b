//! Feeds arbitrary forms to the reader of uploads, whole and in pieces. It must find the
//! same in both, keep little, and end. The first byte of the input is the size of the
//! pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use minichat_core::attachment::multipart::{Event, Multipart};

fuzz_target!(|input: &[u8]| {
    let Some((&size, form)) = input.split_first() else {
        return;
    };
    let pieces = read(form, usize::from(size).max(1));
    assert_eq!(pieces, read(form, usize::MAX));
});

/// The heads and the data of all parts, or the fault.
fn read(form: &[u8], size: usize) -> String {
    let mut reader = Multipart::new("b");
    let mut pieces = form.chunks(size);
    let mut heads = Vec::new();
    let mut data = Vec::new();
    loop {
        match reader.read() {
            Ok(Event::More) => match pieces.next() {
                Some(piece) => reader.feed(piece),
                None => reader.complete(),
            },
            Ok(Event::Part(head)) => heads.push(head),
            Ok(Event::Data(piece)) => data.extend_from_slice(piece),
            Ok(Event::PartEnd) => data.push(0),
            Ok(Event::End) => return format!("{heads:?} {data:?}"),
            Err(fault) => return format!("{heads:?} {data:?} {fault}"),
        }
    }
}
