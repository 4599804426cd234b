"""A receiver of events as a customer would write it, with the public libraries:
`standardwebhooks` verifies the signature, `cloudevents` reads the events.

It gets the secret as its argument, prints the port on which it listens, and then one
line of JSON per request. A request that does not verify is answered with 401, one that
cannot be read with 400.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks.webhooks import Webhook

ONE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


def read_cloud_event(headers, body):
    event = from_http(HTTPMessage(headers=headers, body=body), JSONFormat())
    time = event.get_time()
    return {
        "specversion": event.get_specversion(),
        "id": event.get_id(),
        "source": event.get_source(),
        "type": event.get_type(),
        "subject": event.get_subject(),
        "time": time and time.isoformat(),
        "traceparent": event.get_extension("traceparent"),
        "data": event.get_data(),
    }


def read_events(headers, body):
    content_type = headers["content-type"]
    if content_type == ONE:
        return [read_cloud_event(headers, body)]
    if content_type == BATCH:
        # The library reads no batches, so each element is given to it.
        one = {**headers, "content-type": ONE}
        return [read_cloud_event(one, json.dumps(it).encode()) for it in json.loads(body)]
    events = json.loads(body)
    return events if isinstance(events, list) else [events]


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        line = {"path": self.path, "key": headers.get("idempotency-key")}
        status = 401
        try:
            Webhook(sys.argv[1]).verify(body, headers)
            status = 400
            line["events"] = read_events(headers, body)
            status = 204
        except Exception as error:
            line["error"] = repr(error)
        # In one piece, because each connection has its own thread.
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
