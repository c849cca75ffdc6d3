"""Flag catalogues as they are shipped, the check of a command line, and the tool that makes them."""

import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsdeploy.deploy import flags
from dsdeploy.deploy.flag_check import check_arguments
from dsdeploy.deploy.flags import history, load_catalogue, order, spelling
from dsdeploy.errors import UsageError

TOOL = Path(__file__).parents[2] / "tools" / "flag_catalogue.py"
ENGINES = ("vllm", "sglang", "lmdeploy", "tensorrt_llm")
VLLM, SGLANG, LMDEPLOY, TENSORRT_LLM = (f"dsdeploy.backends.{name}" for name in ENGINES)


def catalogue(package, release=None, command="serve"):
    return load_catalogue(package, release, command).catalogue


def kinds(package, release, *words, **environment):
    found = check_arguments(catalogue(package, release), words, environment)
    return [problem.kind for problem in found]


@pytest.mark.parametrize(
    ("package", "release", "command", "spellings"),
    [
        (VLLM, "0.33.0", "serve", 483 + 2),
        (SGLANG, "0.5.23", "serve", 559 + 2),
        (LMDEPLOY, "0.18.0", "serve", 77 + 2),
        (LMDEPLOY, "0.18.0", "proxy", 12 + 2),
        (TENSORRT_LLM, "1.1.0", "serve", 22 + 1),
        (TENSORRT_LLM, "1.4.0rc1", "serve", 59 + 1),
    ],
)
def test_a_release_has_all_its_spellings(package, release, command, spellings):
    """As many as its real parser, with --help, and -h where it has one."""
    assert len(catalogue(package, release, command).flags) == spellings


GONE = [
    (VLLM, "--enable-reasoning", "0.9.2", "0.10.0"),
    (VLLM, "--device", "0.9.2", "0.10.0"),
    (VLLM, "--num-scheduler-steps", "0.8.5", "0.10.2"),
    (VLLM, "--guided-decoding-backend", "0.11.2", "0.12.0"),
    (VLLM, "--rope-scaling", "0.10.2", "0.11.2"),
    (VLLM, "--rope-theta", "0.10.2", "0.11.2"),
    (VLLM, "--preemption-mode", "0.10.0", "0.11.2"),
    (VLLM, "--max-seq-len-to-capture", "0.10.2", "0.11.2"),
    (VLLM, "--cuda-graph-sizes", "0.12.0", "0.13.0"),
    (VLLM, "--num-redundant-experts", "0.10.0", "0.12.0"),
    (VLLM, "--eplb-window-size", "0.10.0", "0.12.0"),
    (VLLM, "--task", "0.12.0", "0.13.0"),
    (VLLM, "--swap-space", "0.17.1", "0.18.1"),
    (VLLM, "--disable-log-requests", "0.8.5", "0.17.1"),
    (VLLM, "--disable-frontend-multiprocessing", "0.18.1", "0.19.1"),
    (VLLM, "--calculate-kv-scales", "0.24.0", "0.28.0"),
    (VLLM, "--max-num-partial-prefills", "0.24.0", "0.28.0"),
    (VLLM, "VLLM_ATTENTION_BACKEND", "0.11.2", "0.20.2"),
    (VLLM, "VLLM_ALL2ALL_BACKEND", "0.11.2", "0.20.2"),
    (VLLM, "VLLM_USE_FLASHINFER_MOE_FP8", "0.20.2", "0.24.0"),
    (VLLM, "VLLM_USE_FLASHINFER_MOE_FP4", "0.20.2", "0.24.0"),
    (VLLM, "VLLM_RPC_TIMEOUT", "0.20.2", "0.24.0"),
    (VLLM, "VLLM_USE_V1", "0.10.2", "0.11.2"),
    (SGLANG, "--enable-flashmla", "0.4.6", "0.4.9"),
    (SGLANG, "--enable-flashinfer-mla", "0.4.6", "0.4.9"),
    (SGLANG, "--enable-ep-moe", "0.4.10", "0.5.5"),
    (SGLANG, "--enable-deepep-moe", "0.4.10", "0.5.5"),
    (SGLANG, "--enable-flashinfer-cutlass-moe", "0.5.1", "0.5.5"),
    (SGLANG, "--enable-flashinfer-trtllm-moe", "0.5.1", "0.5.5"),
    (SGLANG, "--max-micro-batch-size", "0.5.3", "0.5.4"),
    (SGLANG, "--nsa-prefill-backend", "0.5.13", "0.5.20"),
    (SGLANG, "--nsa-decode-backend", "0.5.13", "0.5.20"),
    (SGLANG, "--cuda-graph-bs", "0.5.14", "0.5.20"),
    (SGLANG, "--cuda-graph-max-bs", "0.5.14", "0.5.20"),
    (SGLANG, "--stream-output", "0.5.14", "0.5.20"),
    (SGLANG, "--torchao-config", "0.5.14", "0.5.18"),
]


@pytest.mark.parametrize(("package", "name", "present", "absent"), GONE)
def test_what_is_gone(package, name, present, absent):
    known = [catalogue(package, release) for release in (present, absent)]
    assert [name in {*one.flags, *one.environment} for one in known] == [True, False]


@pytest.mark.parametrize(
    ("name", "absent", "present"),
    [
        ("--data-parallel-address", "0.8.5", "0.9.0.1"),
        ("--headless", "0.8.5", "0.9.0.1"),
        ("--data-parallel-hybrid-lb", "0.9.2", "0.10.0"),
        ("--decode-context-parallel-size", "0.10.0", "0.10.2"),
        ("--safetensors-load-strategy", "0.10.0", "0.10.2"),
        ("--eplb-config", "0.10.0", "0.10.2"),
        ("--nnodes", "0.10.2", "0.11.2"),
        ("--node-rank", "0.10.2", "0.11.2"),
        ("--master-addr", "0.10.2", "0.11.2"),
        ("--all2all-backend", "0.10.2", "0.11.2"),
        ("--cudagraph-capture-sizes", "0.10.2", "0.11.2"),
        ("--attention-backend", "0.12.0", "0.13.0"),
        ("--moe-backend", "0.13.0", "0.17.1"),
        ("--distributed-timeout-seconds", "0.17.1", "0.18.1"),
        ("--linear-backend", "0.20.2", "0.22.1"),
        ("--device-ids", "0.22.1", "0.24.0"),
        ("--no-trust-remote-code", "0.8.5", "0.11.2"),
        ("--disable-log-requests", "0.32.0", "0.33.0"),
    ],
)
def test_what_vllm_added(name, absent, present):
    assert name not in catalogue(VLLM, absent).flags
    assert name in catalogue(VLLM, present).flags


@pytest.mark.parametrize(
    ("name", "since"),
    [
        ("--enable-ep-moe", "0.5.1"),
        ("--enable-deepep-moe", "0.5.1"),
        ("--nsa-prefill-backend", "0.5.13"),
        ("--cuda-graph-bs", "0.5.14"),
        ("--disable-cuda-graph", "0.5.14"),
        ("--enable-dp-attention", "0.5.22"),
    ],
)
def test_what_sglang_deprecated(name, since):
    assert catalogue(SGLANG, since).flags[name].deprecated is not None


def test_values_of_sglang_that_are_gone():
    assert kinds(SGLANG, "0.5.14", "--attention-backend", "cutlass_mla") == []
    assert kinds(SGLANG, "0.5.20", "--attention-backend", "cutlass_mla") == ["value"]
    assert kinds(SGLANG, "0.4.6", "--quantization", "marlin") == []
    assert kinds(SGLANG, "0.5.20", "--quantization", "marlin") == ["value"]


def test_releases_sort_as_numbers():
    names = ["0.9.2", "0.10.2", "1.2.0rc5", "1.2.0rc10", "1.2.0", "1.2.0.post1", "1.10"]
    assert sorted(set(names), key=order) == names
    assert order("0.32.0+cpu") == order("0.32.0")


def test_a_release_in_between_takes_the_older_one():
    choice = load_catalogue(VLLM, "0.17.99")
    assert choice.catalogue.release == "0.17.1"
    assert "0.17.99" in choice.note
    assert "0.17.1" in choice.note
    assert load_catalogue(VLLM, "0.17.1").note == ""
    assert load_catalogue(VLLM).catalogue.release == load_catalogue(VLLM, "99").catalogue.release


def test_a_release_that_is_too_old_is_refused():
    with pytest.raises(UsageError, match=r"0\.2\.0 is too old") as refusal:
        load_catalogue(VLLM, "0.2.0")
    assert "0.8.5" in refusal.value.hint


def test_a_history():
    found = history(VLLM, "--enable-reasoning")
    assert [found.spans[0].first, found.spans[0].last, found.gone] == ["0.8.5", "0.9.2", "0.10.0"]
    assert found.instead == "--reasoning-parser alone"
    assert history(VLLM, "--nnodes").spans[0].last is None
    assert len(history(VLLM, "--disable-log-requests").spans) == 2
    assert history(VLLM, "--no-such-flag") is None


def test_the_first_spelling_that_a_release_knows():
    both = ("--cudagraph-capture-sizes", "--cuda-graph-sizes")
    assert spelling(catalogue(VLLM, "0.10.0"), *both) == both[1]
    assert spelling(catalogue(VLLM, "0.33.0"), *both) == both[0]
    with pytest.raises(UsageError) as refusal:
        spelling(catalogue(VLLM, "0.10.0"), "--nnodes")
    assert "vLLM >= 0.11" in refusal.value.hint


@pytest.mark.parametrize(
    "words",
    [
        ["some/model", "--max-model-len", "128k", "-tp", "8", "--trust-remote-code"],
        ["--max-model-len=auto", "--max_num_batched_tokens", "25.6k"],
        ["--hf-overrides", '{"a": 1}', "--api-key", "one", "two", "--", "--anything"],
        ["--compilation-config.mode", "3", "--speculative_config.method=mtp", "-O3", "-O", "2"],
        ["--seed", "-1", "--no-enable-prefix-caching", "--moe-backend", "DEEP-GEMM"],
        ["--kv-transfer-config", '{"kv_buffer_size": 80m}', "--device-ids", "0,1"],
    ],
)
def test_vllm_takes(words):
    assert kinds(VLLM, "0.33.0", *words) == []


@pytest.mark.parametrize(
    ("package", "release", "words", "kind"),
    [
        (VLLM, "0.33.0", ["--no-such-flag", "x"], "unknown"),
        (VLLM, "0.33.0", ["--enable-reasoning"], "removed"),
        (VLLM, "0.10.0", ["--nnodes", "2"], "not yet"),
        (VLLM, "0.33.0", ["--tensor-parallel-s", "8"], "abbreviation"),
        (VLLM, "0.33.0", ["--data-parallel", "8"], "ambiguous"),
        (VLLM, "0.33.0", ["--port", "http"], "value"),
        (VLLM, "0.33.0", ["--port"], "value"),
        (VLLM, "0.33.0", ["--port", "--host", "here"], "value"),
        (VLLM, "0.33.0", ["--headless=yes"], "value"),
        (VLLM, "0.33.0", ["--dtype", "fp99"], "value"),
        (VLLM, "0.33.0", ["--speculative-config", "{broken"], "value"),
        (VLLM, "0.33.0", ["--gpu-memory-utilization", "most"], "value"),
        (VLLM, "0.33.0", ["--max-model-len", "128q"], "value"),
        (VLLM, "0.33.0", ["--port.number", "1"], "value"),
        (SGLANG, "0.5.23", ["--tp", "8"], "abbreviation"),
        (SGLANG, "0.5.23", ["--pp", "2"], "ambiguous"),
        (SGLANG, "0.5.14", ["--cuda-graph-m", "8"], "ambiguous"),
        (SGLANG, "0.5.23", ["--tp_size", "8"], "unknown"),
        (SGLANG, "0.5.23", ["--enable-dp-attention"], "deprecated"),
        (LMDEPLOY, "0.18.0", ["model", "--dtype", "fp8"], "value"),
        (TENSORRT_LLM, "1.1.0", ["model", "--tensor_parallel_size", "8"], "not yet"),
        (TENSORRT_LLM, "1.1.0", ["model", "--config", "x.yaml"], "not yet"),
        (TENSORRT_LLM, "1.1.0", ["model", "--reasoning_parser", "qwen3"], "value"),
        (TENSORRT_LLM, "1.2.0", ["model", "--tp", "8"], "unknown"),
        (TENSORRT_LLM, "1.2.0", ["model", "--served_model_name", "x"], "not yet"),
    ],
)
def test_a_problem(package, release, words, kind):
    assert kinds(package, release, *words) == [kind]


def test_what_to_write_instead():
    newest = catalogue(SGLANG)
    [found] = check_arguments(newest, ["--stream-output"])
    assert found.instead == "--incremental-streaming-output"
    assert "gone since 0.5." in found.message
    [found] = check_arguments(newest, ["--enable-dp-attention"])
    assert found.instead == "--attn-dp-size <dp-size>"
    [found] = check_arguments(catalogue(SGLANG, "0.5.1"), ["--enable-ep-moe"])
    assert found.instead == "--ep-size"
    [found] = check_arguments(newest, ["--tensor-paralel-size", "8"])
    assert found.instead == "--tensor-parallel-size"


def test_environment_variables():
    given = {"VLLM_ATTENTION_BACKEND": "FLASHMLA", "VLLM_HOST_IP": "10.0.0.1", "HOME": "/root"}
    [found] = check_arguments(catalogue(VLLM, "0.33.0"), [], given)
    assert (found.kind, found.argument) == ("environment", "VLLM_ATTENTION_BACKEND")
    assert found.instead == "--attention-backend"


def test_a_catalogue_loads_quickly():
    load_catalogue(VLLM)
    flags._contents.cache_clear()
    flags._catalogue.cache_clear()
    start = time.process_time()
    load_catalogue(VLLM)
    assert time.process_time() - start < 0.1


VALUES = {"int": "8", "float": "0.5", "json": "{}", "size": "16k", "size or auto": "auto"}


@st.composite
def command_lines(draw):
    """Flags of a release with values that fit."""
    package = draw(st.sampled_from([VLLM, SGLANG, LMDEPLOY, TENSORRT_LLM]))
    known = catalogue(package, draw(st.sampled_from(flags._contents(package)["releases"])))
    names = [name for name, flag in known.flags.items() if flag.deprecated is None]
    words = []
    for name in draw(st.lists(st.sampled_from(names), max_size=8)):
        flag = known.flags[name]
        fits = VALUES.get(flag.type.removesuffix("?"), "x")
        value = str(draw(st.sampled_from(flag.choices))) if flag.choices else fits
        if flag.takes == "none":
            words.append(name)
        elif draw(st.booleans()) and flag.takes in ("one", "optional", "many"):
            words.append(f"{name}={value}")
        else:
            number = int(flag.takes) if flag.takes.isdigit() else 1
            words += [name, *[value] * number]
    return known, words


@settings(deadline=None)
@given(command_lines())
def test_what_the_catalogue_holds_has_no_problems(line):
    known, words = line
    assert check_arguments(known, words) == []


SERVE = """
from .cli_args import make_arg_parser
class ServeSubcommand:
    name = "serve"
    def subparser_init(self, subparsers):
        return make_arg_parser(subparsers.add_parser(self.name))
"""
CLI_ARGS = """
import argparse
from typing import Literal, get_args
KINDS = Literal["a", "b"]
class Old(argparse.Action):
    def __init__(self, option_strings, dest, nargs=0, **kwargs):
        super().__init__(option_strings, dest, nargs=nargs, **kwargs)
def make_arg_parser(parser):
    group = parser.add_argument_group("all")
    group.add_argument("model")
    group.add_argument("--kind", "-k", choices=get_args(KINDS), default="a")
    group.add_argument("--many", nargs="+", type=int)
    group.add_argument("--fast", action=argparse.BooleanOptionalAction)
    group.add_argument("--slow", action=Old, help="Deprecated. Use --no-fast instead.")
    for name in ("one", "two"):
        group.add_argument(f"--{name}", type=float, default=float("1"))
    return parser
"""
ENVIRONMENT = "import os\nos.environ.get('VLLM_A')\nos.environ['VLLM_B'] = '1'\n"


@pytest.fixture
def made_up(tmp_path):
    """`made_up(release, **extra)`: a wheel of some bytes."""

    def make(release, arguments=CLI_ARGS):
        path = tmp_path / f"vllm-{release}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("vllm/__init__.py", "raise RuntimeError('This was imported.')")
            wheel.writestr("vllm/worker.py", ENVIRONMENT)
            wheel.writestr("vllm/entrypoints/cli/serve.py", SERVE)
            wheel.writestr("vllm/entrypoints/cli/cli_args.py", arguments)
            metadata = f"Name: vllm\nVersion: {release}\n"
            wheel.writestr(f"vllm-{release}.dist-info/METADATA", metadata)
        return path

    return make


def run(output, *wheels):
    command = [sys.executable, TOOL, "vllm", "--output", output, *wheels]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


def test_the_tool_reads_a_wheel(made_up, tmp_path, monkeypatch):
    package = tmp_path / "made_up_backend"
    package.mkdir()
    (package / "__init__.py").touch()
    changed = CLI_ARGS.replace('"a", "b"', '"a", "c"').replace('("one", "two")', '("one",)')
    run(package / "flags.json", made_up("0.9.0"))
    run(package / "flags.json", made_up("0.10.0", changed))
    monkeypatch.syspath_prepend(str(tmp_path))
    old, new = (catalogue("made_up_backend", release) for release in ("0.9.0", "0.10.0"))
    names = {"-h", "--help", "--kind", "-k", "--many", "--fast", "--no-fast", "--slow", "--one"}
    assert set(new.flags) == names
    assert set(old.flags) == {*names, "--two"}
    assert (old.flags["--kind"].choices, new.flags["-k"].choices) == (("a", "b"), ("a", "c"))
    assert (old.flags["--many"].takes, old.flags["--many"].type) == ("many", "int")
    assert (old.flags["--slow"].takes, old.flags["--slow"].deprecated) == ("none", "--no-fast")
    assert old.flags["--one"].default == 1.0
    assert old.environment == {"VLLM_A"}
    assert history("made_up_backend", "--two").gone == "0.10.0"


def test_the_tool_keeps_what_is_written_by_hand(made_up, tmp_path):
    output = tmp_path / "flags.json"
    run(output, made_up("0.9.0"))
    text = output.read_text().replace('"renames": {}', '"renames": {"--old": {"instead": "--one"}}')
    output.write_text(text)
    run(output, made_up("0.9.0"))
    assert json.loads(output.read_text()) == json.loads(text)
