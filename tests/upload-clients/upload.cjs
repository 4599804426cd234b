'use strict';
// Uploads files as programs on Node do: with `fetch` and `FormData`, and with `http` and a stream. It gets the address of
// the attachments of a chat and the headers of a caller as JSON, and prints one line of JSON per upload.

const http = require('node:http');
const { Readable } = require('node:stream');

const [url, headers] = [process.argv[2], JSON.parse(process.argv[3])];
const LIMIT = 1 << 20;
const PIECE = 64 * 1024;
const BOUNDARY = 'a-boundary';

const CASES = [
  ['text', 'notes.txt', Buffer.from('a text\r\n'), 'text/plain'],
  ['name', 'grüße 🦀.md', Buffer.from('# title'), 'text/markdown'],
  ['empty', 'a.txt', Buffer.alloc(0), 'text/plain'],
  ['type', 'a.zip', Buffer.from('PK\x03\x04'), 'application/zip'],
  ['large', 'a.txt', Buffer.alloc(20 * LIMIT, 'x'), 'text/plain'],
];

function say(client, name, status, answer) {
  console.log(JSON.stringify({ client, case: name, status, answer }));
}

async function withFetch(name, filename, content, type) {
  const form = new FormData();
  form.append('file', new Blob([content], { type }), filename);
  const answer = await fetch(url, { method: 'POST', headers, body: form });
  say('fetch', name, answer.status, await answer.json());
}

/** The form in pieces. */
function* formOf(filename, content, type) {
  const disposition = `form-data; name="file"; filename="${filename}"`;
  yield `--${BOUNDARY}\r\nContent-Disposition: ${disposition}\r\nContent-Type: ${type}\r\n\r\n`;
  for (let at = 0; at < content.length; at += PIECE) {
    yield content.subarray(at, at + PIECE);
  }
  yield `\r\n--${BOUNDARY}--\r\n`;
}

/** Without a length, so that Node sends chunks. */
async function withHttp(name, filename, content, type) {
  const contentType = `multipart/form-data; boundary=${BOUNDARY}`;
  const request = http.request(url, { method: 'POST', headers: { ...headers, 'content-type': contentType } });
  // A refusal may come before the form is sent, and the connection may then be closed.
  const answered = new Promise((resolve, reject) => request.on('response', resolve).on('error', reject));
  Readable.from(formOf(filename, content, type)).pipe(request);
  const response = await answered;
  let text = '';
  for await (const piece of response.setEncoding('utf8')) {
    text += piece;
  }
  say('http', name, response.statusCode, JSON.parse(text));
}

async function main() {
  for (const it of CASES) {
    await withFetch(...it);
    await withHttp(...it);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
