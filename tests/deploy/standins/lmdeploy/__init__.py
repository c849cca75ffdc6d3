"""What pipeline.py uses of LMDeploy, with its names and arguments, without a GPU: the answer to a
request is its own last text, in capitals. Requests are answered from the last to the first.
"""

import os
import signal
from dataclasses import dataclass


@dataclass
class PytorchEngineConfig:
    tp: int
    session_len: int
    max_batch_size: int
    cache_max_entry_count: float
    enable_prefix_caching: bool
    distributed_executor_backend: str | None = None


@dataclass
class GenerationConfig:
    max_new_tokens: int | None = 512
    do_sample: bool = False
    top_p: float = 1.0
    top_k: int = 50
    temperature: float = 0.8
    ignore_eos: bool = False
    random_seed: int | None = None
    stop_words: list[str] | None = None

    def __post_init__(self):
        assert 0 <= self.temperature <= 2


@dataclass
class Response:
    text: str
    index: int
    finish_reason: str | None
    input_token_len: int = 3
    generate_token_len: int = 2
    error_message: str | None = None


class Pipeline:
    def stream_infer(self, prompts, gen_config, do_preprocess, stream_response):
        assert len(prompts) == len(gen_config)
        assert not stream_response
        for index in reversed(range(len(prompts))):
            yield from responses(
                index, prompts[index] if not do_preprocess else said(prompts[index])
            )

    def close(self):
        pass


def said(messages):
    return messages[-1]["content"]


def responses(index, text):
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "fail":
        yield Response("", index, "error", error_message="too long")
    elif text != "vanish":
        yield Response(text[:1].upper(), index, None)
        yield Response(text[1:].upper(), index, "stop")


def pipeline(model_path, backend_config, speculative_config=None):
    print("loaded", model_path, backend_config, speculative_config)
    return Pipeline()
