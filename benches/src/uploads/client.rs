//! A client that uploads files one after the other, over blocking sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::Kind;
use super::file::File;
use crate::interrupt;
use crate::subject::Upload;

/// Bytes that are sent at once.
const PIECE: usize = 64 * 1024;
const BOUNDARY: &str = "----benchmark";

/// What came of the uploads of one client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) thumbnails: usize,
    pub(super) elapsed: Duration,
}

/// Uploads all files of one client. Each must be stored.
pub(super) fn send(
    target: SocketAddr,
    place: &Upload,
    file: &File,
    kind: Kind,
) -> anyhow::Result<Sent> {
    let began = Instant::now();
    let (request, tail) = around(target, place, file);
    let mut thumbnails = 0;
    for number in 0..kind.files() {
        let mut socket = TcpStream::connect(target)?;
        socket.set_nodelay(true)?;
        socket.write_all(request.as_bytes())?;
        for (at, piece) in file.content.chunks(PIECE).enumerate() {
            if let Some(duration) = kind.duration() {
                let bytes = number * file.content.len() + at * PIECE;
                let all = kind.files() * file.content.len();
                let due = began + duration.mul_f64(share(bytes, all));
                thread::sleep(due.saturating_duration_since(Instant::now()));
                interrupt::check()?;
            }
            socket.write_all(piece)?;
        }
        socket.write_all(tail.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        ensure!(
            answer.starts_with("HTTP/1.1 201"),
            "an upload was answered with {answer}"
        );
        thumbnails += usize::from(answer.contains("\"img_thumbnail\""));
    }
    Ok(Sent {
        thumbnails,
        elapsed: began.elapsed(),
    })
}

/// The head of the request with that of the form, and the end of the form.
fn around(target: SocketAddr, place: &Upload, file: &File) -> (String, String) {
    let head = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
         Content-Type: {}\r\n\r\n",
        file.name, file.content_type
    );
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let length = head.len() + file.content.len() + tail.len();
    let Upload { path, identity } = place;
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {target}\r\n{identity}connection: close\r\n\
         content-type: multipart/form-data; boundary={BOUNDARY}\r\ncontent-length: {length}\r\n\r\n{head}"
    );
    (request, tail)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "files stay far below 2^52 bytes"
)]
fn share(part: usize, all: usize) -> f64 {
    part as f64 / all as f64
}
