'use strict';
// Uploads files as people do: they choose a file in a form of a page, whose script sends the form with `fetch`. The page
// is of another origin than the API. It gets the address of the attachments of a chat and the headers of a caller as JSON,
// finds the files in its working directory, and prints one line of JSON per upload.
// `MINICHAT_TEST_UPLOAD_CLIENTS_CHROMIUM` is the path of the browser.

const http = require('node:http');
const path = require('node:path');
const { chromium } = require('playwright-core');

const [url, headers] = [process.argv[2], JSON.parse(process.argv[3])];

const PAGE = `<!doctype html>
<meta charset="utf-8">
<form><input type="file" name="file"><button>Upload</button></form>
<script>
const form = document.querySelector('form');
form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const { url, headers } = window.place;
  try {
    const answer = await fetch(url, { method: 'POST', headers, body: new FormData(form) });
    window.tell({ status: answer.status, answer: await answer.json() });
  } catch (error) {
    window.tell({ status: 0, answer: String(error) });
  }
});
</script>
`;

const CASES = [
  ['text', 'notes.txt'],
  ['name', 'grüße 🦀.md'],
  ['empty', 'empty.txt'],
  ['type', 'a.zip'],
  ['large', 'large.txt'],
  ['picture', 'picture.png'],
];

/** Serves the page; returns its address. */
async function serve() {
  const server = http.createServer((_, response) => {
    response.writeHead(200, { 'content-type': 'text/html', 'cache-control': 'no-store' }).end(PAGE);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  server.unref();
  return `http://127.0.0.1:${server.address().port}/`;
}

/** The size in pixels at which the browser shows a thumbnail; null if it cannot. */
function shown(thumbnail) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve([image.naturalWidth, image.naturalHeight]);
    image.onerror = () => resolve(null);
    image.src = `data:${thumbnail.content_type};base64,${thumbnail.data_base64}`;
  });
}

async function upload(page, told, name, filename) {
  await page.setInputFiles('input', path.resolve(filename));
  const next = told();
  await page.click('button');
  const line = { client: 'browser', case: name, ...(await next) };
  const thumbnail = line.answer.img_thumbnail;
  if (thumbnail) {
    line.shown = await page.evaluate(shown, thumbnail);
  }
  console.log(JSON.stringify(line));
}

async function main() {
  const address = await serve();
  const browser = await chromium.launch({
    executablePath: process.env.MINICHAT_TEST_UPLOAD_CLIENTS_CHROMIUM,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-sync'],
  });
  try {
    const page = await browser.newPage();
    let tell;
    const told = () => new Promise((resolve) => (tell = resolve));
    await page.exposeFunction('tell', (answer) => tell(answer));
    await page.addInitScript((place) => (window.place = place), { url, headers });
    await page.goto(address);
    for (const [name, filename] of CASES) {
      await upload(page, told, name, filename);
    }
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
