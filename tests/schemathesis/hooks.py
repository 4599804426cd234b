"""Teaches schemathesis to read event streams, so that their events are checked like any other answer."""

import json

import schemathesis


@schemathesis.deserializer("text/event-stream")
def event_stream(context, response):
    """The events of a stream, as the schema `EventStream` describes them."""
    events = []
    for frame in response.content.decode("utf-8").split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in frame.split("\n") if line and not line.startswith(":")
        )
        if fields:
            events.append({"event": fields["event"], "data": json.loads(fields["data"])})
    return events
