"""Stands in for an engine: its log, its phases, its probes and the ways in which it fails.

    python stand_in.py ENGINE PORT FAILURE

Real engines are in tests/engines; this one fails when it is told to.
"""

import json
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOGS = {
    "vllm": (
        "(EngineCore pid=7) INFO 11-26 18:18:15 [core.py:133] Initializing a V1 LLM engine (v0.32.0)",
        "\rLoading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00, 39.97it/s]",
        "\rLoading safetensors checkpoint shards: 100% Completed | 2/2 [00:00<00:00, 39.97it/s]\n",
        "(EngineCore pid=7) INFO 11-26 18:18:26 [kv_cache_utils.py:2327] GPU KV cache size: 233,008 tokens",
        "INFO:     Application startup complete.",
    ),
    "sglang": (
        "[2026-11-26 18:22:01 TP0] Load weight begin. avail mem=78.58 GB",
        "\rLoading safetensors checkpoint shards: 100% Completed | 2/2 [00:00<00:00, 39.97it/s]\n",
        "[2026-11-26 18:22:03 TP0] Capture cuda graph begin. This can take up to several minutes.",
        "[2026-11-26 18:22:05] INFO:     Application startup complete.",
        "[2026-11-26 18:22:06] The server is fired up and ready to roll!",
    ),
    "lmdeploy": (
        "\rLoading weights from safetensors: 100%|##########| 2/2 [00:00<00:00,  3.97it/s]\n",
        "HINT:    Please open http://127.0.0.1:23333 in a browser for detailed api usage!!!",
    ),
    "tensorrt-llm": (
        "Loading weights: 100%|##########| 1110/1110 [00:35<00:00, 31.25it/s]",
        "[11/26/2026-18:22:05] [TRT-LLM] [I] Run autotuning warmup for 2 batches",
        "INFO:     Application startup complete.",
    ),
    "mindie": ("Daemon start success!",),
}
OUT_OF_MEMORY = {
    "vllm": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.75 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.02 GiB is free.",
    "sglang": "[2026-11-26 18:22:01 TP0] Scheduler hit an exception: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.11 GiB",
    "lmdeploy": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.75 GiB. GPU 0 has a total capacity of 79.11 GiB",
    "tensorrt-llm": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.75 GiB. GPU 0 has a total capacity of 79.11 GiB",
    "mindie": "RuntimeError: NPU out of memory. Tried to allocate 448.00 MiB (NPU 0; 60.97 GiB total capacity)",
}
HEALTH = {
    "mindie": ("/v2/health/ready", "/v2/health/live"),
    "lmdeploy": ("/health",),
    "sglang": ("/health",),
    "vllm": ("/health",),
    "tensorrt-llm": ("/health",),
}
WORDS = [
    "",
    "Paris",
    ",",
    "Lyon",
    "and",
    "Marse",
    "ille",
    ".",
    "What",
    "is",
    "the",
    "capit",
    "al",
    "of",
    "it",
    "?",
]
AFTER = 0.7
"""Seconds for which it is well before it fails."""

engine, port, failure = sys.argv[1], int(sys.argv[2]), sys.argv[3]
ready = threading.Event()
state = {"tokens": 0}


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if failure == "slow probe":
            time.sleep(0.4)
        if self.path in HEALTH[engine]:
            self.answer({}, 200 if ready.is_set() else 503)
        elif self.path == "/metrics":
            self.send(metrics().encode(), 200)
        else:
            self.answer({"error": "not found"}, 404)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if failure == "wants a key" and self.headers["authorization"] != "Bearer a-very-secret-key":
            return self.answer({"error": {"message": "Unauthorized"}}, 401)
        if failure == "answers 500":
            return self.answer({"error": {"message": "EngineCore encountered an issue."}}, 500)
        if failure == "hangs behind the port" and state["tokens"]:
            time.sleep(60)
        if failure == "no logprobs" and "logprobs" in asked:
            return self.answer({"error": {"message": "logprobs is not supported"}}, 400)
        return self.answer(completion(asked), 200)

    def answer(self, document, status):
        self.send(json.dumps(document).encode(), status)

    def send(self, body, status):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def completion(asked):
    count = asked["max_tokens"]
    tokens = [WORDS[i % len(WORDS)] for i in range(count)]
    if failure == "repeats itself":
        tokens = [" the"] * count
    if failure == "says nothing":
        tokens = []
    state["tokens"] += len(tokens)
    logprobs = [-0.5] * len(tokens)
    if failure == "nan":
        logprobs[1] = float("nan")
    choice = {"index": 0, "text": " ".join(tokens), "finish_reason": "length"}
    if "logprobs" in asked:
        choice["logprobs"] = {"tokens": tokens, "token_logprobs": logprobs}
    return {"choices": [choice], "usage": {"completion_tokens": len(tokens)}}


def metrics():
    prefix = {"sglang": "sglang:num_running_reqs", "vllm": "vllm:num_requests_running"}
    generated = f"{engine}:generation_tokens_total"
    return (
        f'{prefix.get(engine, "other")}{{model_name="m"}} 0\n'
        f'{generated}{{model_name="m"}} {state["tokens"]}\n'
    )


def say(line):
    print(line, end="" if line.startswith("\r") else "\n", flush=True)


def worker(*more):
    """A process of the engine, as its executors are."""
    code = (
        "import signal, time\n" + "\n".join(more) + "\nprint('worker', flush=True)\ntime.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    return process


def start():
    if failure == "crash at start":
        say("vllm: error: unrecognized arguments: --enable-warp-drive")
        sys.exit(2)
    workers = [worker()]
    if failure == "orphans":
        workers += [worker("signal.signal(signal.SIGTERM, signal.SIG_IGN)") for _ in range(2)]
    signal.signal(signal.SIGTERM, lambda *_: leave(workers))
    if failure in ("ignores TERM", "orphans"):
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN if failure == "ignores TERM" else signal.SIG_DFL
        )
    for line in LOGS[engine]:
        say(line)
        time.sleep(0.02)
        if failure == "crash in the load":
            say(OUT_OF_MEMORY[engine])
            os._exit(1)
        if failure == "killed in the load":
            os.kill(os.getpid(), signal.SIGKILL)
        if failure == "never ready":
            time.sleep(60)
    if failure == "leaves semaphores":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        state["queues"] = [multiprocessing.get_context("spawn").Queue() for _ in range(3)]
    if failure == "leaves shared memory":
        with open(f"/dev/shm/stand_in_{port}", "w+b") as file:
            file.truncate(4096)
            state["mapped"] = mmap.mmap(file.fileno(), 4096)
    if failure == "prints its secrets":
        say(f"args: Namespace(api_key='{os.environ['API_KEY']}', token={os.environ['HF_TOKEN']})")


def leave(workers):
    say("Shutting down")
    for process in workers:
        process.terminate()
        process.wait()
    os._exit(0)


def fail_later():
    time.sleep(AFTER)
    if failure == "crash while serving":
        say(OUT_OF_MEMORY[engine])
        os._exit(1)
    if failure == "ends well":
        os._exit(0)
    if failure == "killed while serving":
        os.kill(os.getpid(), signal.SIGKILL)
    if failure == "hangs":
        os.kill(os.getpid(), signal.SIGSTOP)
    if failure == "leaves shared memory":
        os._exit(1)
    if failure.startswith("floods"):
        line = "x" * 1023 + "\n"
        for _ in range(int(failure.split()[1]) * 1024):
            sys.stdout.write(line)
        say("the flood is over")
        while True:
            time.sleep(1)


if __name__ == "__main__":
    servers = [ThreadingHTTPServer(("127.0.0.1", port), Answers)]
    if engine == "mindie":
        servers.append(ThreadingHTTPServer(("127.0.0.1", port + 1), Answers))
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
    start()
    ready.set()
    threading.Thread(target=fail_later, daemon=True).start()
    while True:
        time.sleep(1)
