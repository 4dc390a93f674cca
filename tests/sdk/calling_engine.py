"""An engine that somebody else runs, whose model calls tools: the small model of the tests has not learned to.

Answers as llama-server does with a model that has.

    calling_engine.py PORT MODEL
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, MODEL = int(sys.argv[1]), sys.argv[2]
# Two calls at once, their arguments cut where a tokenizer would.
PIECES = [
    {"role": "assistant", "content": None},
    *(
        {"tool_calls": [call]}
        for call in (
            {"index": 0, "id": "call_a", "type": "function", "function": {"name": "get_weather", "arguments": ""}},
            {"index": 0, "function": {"arguments": '{"city":'}},
            {"index": 0, "function": {"arguments": '"Delft"}'}},
            {"index": 1, "id": "call_b", "type": "function", "function": {"name": "get_weather", "arguments": ""}},
            {"index": 1, "function": {"arguments": '{"city":"Utrecht"}'}},
        )
    ),
]


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, "application/json", json.dumps({"object": "list", "data": [{"id": MODEL}]}))

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            assert request["tool_choice"] == "required" and request["parallel_tool_calls"] is True
            assert request["tools"][0]["function"]["parameters"]["properties"]["city"]["enum"]
        except (AssertionError, KeyError, TypeError) as wrong:
            said = {"code": 400, "message": f"the tools did not arrive: {wrong!r}", "type": "invalid_request_error"}
            self.answer(400, "application/json", json.dumps({"error": said}))
            return
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
        choices = [{"index": 0, "delta": piece, "finish_reason": None} for piece in PIECES]
        choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
        chunks = [{**head, "choices": [choice]} for choice in choices]
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        chunks.append({**head, "choices": [], "usage": usage})
        events = [*(json.dumps(chunk) for chunk in chunks), "[DONE]"]
        self.answer(200, "text/event-stream", "".join(f"data: {event}\n\n" for event in events))

    def answer(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Engine).serve_forever()
