"""Answers requests from a file by LMDeploy's pipeline, without a server.

Each line of prompts.jsonl is a request, as the server takes it: `messages`, or `prompt` for a text that
is continued as it is, and if wanted one of the fields in SAMPLING, `seed`, and a `custom_id`. Each line
of answers.jsonl is an answer, with the number of its request's line; answers appear as they are done.
One that failed has an `error` in place of `choices`, and the script then ends with status 1. A run that
was killed goes on where it stopped. PROMPTS and ANSWERS in the environment name other files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

SETTINGS = Path(__file__).with_name("pipeline.json")
SAMPLING = {
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "random_seed",
    "stop": "stop_words",
    "ignore_eos": "ignore_eos",
}
"""A field of a request, and of LMDeploy's GenerationConfig."""
KNOWN = {"messages", "prompt", "custom_id", "model", *SAMPLING}


def main() -> None:
    settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    prompts = Path(os.environ.get("PROMPTS", "prompts.jsonl"))
    answers = Path(os.environ.get("ANSWERS", "answers.jsonl"))
    requests = read_requests(prompts)
    for line in read_answers(answers):
        requests.pop(line, None)
    if requests:
        answer(settings, requests, answers)
    found = read_answers(answers)
    failed = [line for line, entry in found.items() if "error" in entry]
    lost = len(requests.keys() - found.keys())
    print(f"{answers}: {len(found)} answers, {len(failed)} of them errors.", file=sys.stderr)
    if lost:
        sys.exit(f"{lost} requests were not answered: run this again.")
    if failed:
        sys.exit(f"The first error is of line {failed[0]}: {found[failed[0]]['error']['message']}")


def read_requests(path: Path) -> dict[int, dict]:
    """By the number of the line. All of them, before any work begins."""
    if not path.exists():
        sys.exit(f"There is no {path}: write a request on each line of it, as JSON.")
    with path.open("rb") as lines:
        return {number: read_request(line, number) for number, line in enumerate(lines, 1)}


def read_request(line: bytes, number: int) -> dict:
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    if not isinstance(request, dict):
        sys.exit(f"Line {number} is not a JSON object in UTF-8.")
    if is_chat(request) == (isinstance(request.get("prompt"), str) and request["prompt"] != ""):
        sys.exit(f"Line {number} needs a list `messages` or a text `prompt`, one of them.")
    unknown = sorted(set(request) - KNOWN)
    if unknown:
        sys.exit(f"Line {number}: {unknown[0]} is not known here.")
    return request


def is_chat(request: dict) -> bool:
    return isinstance(request.get("messages"), list) and request["messages"] != []


def read_answers(path: Path) -> dict[int, dict]:
    """By the number of the request's line. Half a line at the end, of a run that was killed, is cut
    off."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    try:
        found = {entry["line"]: entry for entry in map(json.loads, whole.splitlines())}
    except (ValueError, KeyError, TypeError):
        sys.exit(f"{path} is there already, and holds no answers of this script.")
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return found


def answer(settings: dict, requests: dict[int, dict], answers: Path) -> None:
    from lmdeploy import PytorchEngineConfig, pipeline

    # Checked before the model is loaded, which takes long.
    configs = {line: sampling(request, line) for line, request in requests.items()}
    options = {}
    if settings["drafts"]:
        from lmdeploy.messages import SpeculativeConfig

        options["speculative_config"] = SpeculativeConfig(**settings["drafts"])
    engine = PytorchEngineConfig(**settings["engine"])
    pipe = pipeline(settings["model"], backend_config=engine, **options)
    with answers.open("ab") as sink:
        for chat in (True, False):
            lines = [line for line, request in requests.items() if is_chat(request) is chat]
            for line, response in infer(pipe, requests, configs, lines, chat):
                sink.write(as_line(line, requests[line], response))
                sink.flush()
    pipe.close()


def sampling(request: dict, line: int):
    """As long as the context allows and the likeliest token, unless the request says otherwise."""
    from lmdeploy import GenerationConfig

    fields = {SAMPLING[name]: value for name, value in request.items() if name in SAMPLING}
    if isinstance(fields.get("stop_words"), str):
        fields["stop_words"] = [fields["stop_words"]]
    chosen = bool(fields.get("temperature"))
    try:
        return GenerationConfig(**{"max_new_tokens": None, **fields, "do_sample": chosen})
    except (AssertionError, TypeError, ValueError) as error:
        sys.exit(f"Line {line} cannot be sampled so: {error}")


def infer(pipe, requests: dict[int, dict], configs: dict, lines: list[int], chat: bool):
    """(line, response), in the order in which they are done. Pieces come of a response that the
    engine does not hold back; the last one says why it ended."""
    if not lines:
        return
    responses = pipe.stream_infer(
        [requests[line]["messages" if chat else "prompt"] for line in lines],
        gen_config=[configs[line] for line in lines],
        do_preprocess=chat,
        stream_response=False,
    )
    begun = {}
    for response in responses:
        text = begun.pop(response.index, "") + (response.text or "")
        if response.finish_reason is None:
            begun[response.index] = text
        else:
            response.text = text
            yield lines[response.index], response


def as_line(line: int, request: dict, response) -> bytes:
    entry = {"line": line, "custom_id": request.get("custom_id")}
    if response.finish_reason in ("error", "abort"):
        message = getattr(response, "error_message", None) or response.text
        entry["error"] = {"message": message or "LMDeploy says no more than that it failed."}
    else:
        entry |= completion(request, response)
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def completion(request: dict, response) -> dict:
    said = {"message": {"role": "assistant", "content": response.text}}
    choice = said if is_chat(request) else {"text": response.text}
    asked, answered = response.input_token_len, response.generate_token_len
    return {
        "choices": [{"index": 0, **choice, "finish_reason": response.finish_reason}],
        "usage": {
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        },
    }


if __name__ == "__main__":
    main()
