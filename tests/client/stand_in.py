"""A small endpoint that says what a test tells it to, over real HTTP."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DONE = b"data: [DONE]\n\n"


def event(document):
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def piece(**delta):
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def finish(reason="stop", tokens=2, **usage):
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    counts = {"completion_tokens": tokens, **usage}
    return last + event({"choices": [], "usage": counts}) + DONE


def says(*words, **usage):
    return [*(piece(content=word) for word in words), finish(tokens=len(words), **usage)]


class StandIn:
    """`answers` are sent in turn: a list of pieces of a stream, or (status, document).

    A threading.Event or Barrier among the pieces is waited for, a number of seconds slept.
    A function makes its answer of the request's body. `asked` holds (path, headers, body).
    """

    def __init__(self):
        self.models, self.answers, self.asked = ["first", "second"], [], []
        self.gone = threading.Event()
        """Set when a client has left in the middle of a stream."""

    def serve(self):
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True  # a piece leaves when it is written

            def do_GET(self):
                stand_in.asked.append((self.path, self.headers, None))
                self.document(200, {"data": [{"id": name} for name in stand_in.models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                stand_in.asked.append((self.path, self.headers, body))
                answer = stand_in.answers.pop(0)
                if callable(answer):
                    answer = answer(body)
                if isinstance(answer, tuple):
                    self.document(*answer)
                else:
                    self.stream(answer)

            def document(self, status, document):
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def stream(self, pieces):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                try:
                    for each in pieces:
                        if isinstance(each, threading.Event):
                            self.wait_for(each)
                        elif isinstance(each, threading.Barrier):
                            each.wait()
                        elif isinstance(each, float):
                            time.sleep(each)
                        else:
                            self.wfile.write(each)
                except (OSError, threading.BrokenBarrierError):
                    stand_in.gone.set()

            def wait_for(self, told):
                while not told.wait(0.02):
                    self.wfile.write(b": still here\n\n")

            def log_message(self, *_):
                pass

        return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextlib.contextmanager
def standing_in(tls=None):
    """With an ssl.SSLContext it speaks HTTPS, as localhost."""
    stand_in = StandIn()
    server = stand_in.serve()
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        stand_in.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
