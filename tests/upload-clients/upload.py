"""Uploads files as customers do: with `httpx`, with `requests`, and with nothing but the
standard library. It gets the address of the attachments of a chat and the headers of a
caller as JSON, and prints one line of JSON per upload.
"""

import http.client
import json
import sys
import tempfile
from urllib.parse import urlsplit

import httpx
import requests

URL, HEADERS = sys.argv[1], json.loads(sys.argv[2])
LIMIT = 1 << 20


def say(client, case, status, answer):
    print(json.dumps({"client": client, "case": case, "status": status, "answer": answer}), flush=True)


def with_httpx(case, name, content, content_type):
    files = {"file": (name, content, content_type)}
    answer = httpx.post(URL, headers=HEADERS, files=files, timeout=30)
    say("httpx", case, answer.status_code, answer.json())


def with_requests(case, name, content, content_type):
    files = {"file": (name, content, content_type)}
    answer = requests.post(URL, headers=HEADERS, files=files, timeout=30)
    say("requests", case, answer.status_code, answer.json())


def with_standard_library(case, name, content, content_type):
    boundary = "a boundary"
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    parts = [head.encode(), content, f"\r\n--{boundary}--\r\n".encode()]
    address = urlsplit(URL)
    connection = http.client.HTTPConnection(address.netloc, timeout=30)
    headers = {**HEADERS, "Content-Type": f'multipart/form-data; boundary="{boundary}"'}
    # An iterator is sent in chunks, so that the server does not know the length.
    connection.request("POST", address.path, body=iter(parts), headers=headers, encode_chunked=True)
    answer = connection.getresponse()
    say("http.client", case, answer.status, json.loads(answer.read()))


def generated():
    for _ in range(100):
        yield b"line\n" * 100


for upload in (with_httpx, with_requests, with_standard_library):
    upload("text", "notes.txt", b"a text\r\n", "text/plain")
    upload("name", "grüße 🦀.md", b"# title", "text/markdown")
    upload("empty", "a.txt", b"", "text/plain")
    upload("type", "a.zip", b"PK\x03\x04", "application/zip")
    upload("large", "a.txt", b"x" * (20 * LIMIT), "text/plain")

with tempfile.TemporaryFile() as file:
    file.write(b"".join(generated()))
    file.seek(0)
    with_httpx("file", "lines.txt", file, "text/plain")
