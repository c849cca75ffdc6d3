"""Each known failure by its own line, its fix in the flags of a release, and quiet in good logs."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.deploy import diagnose as module
from dsdeploy.deploy.diagnose import diagnose, guess_engine, load_diagnoses

ALL = {each.name: each for each in load_diagnoses()}
HEALTHY = """\
(APIServer pid=13081) WARNING 11-26 18:18:07 [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.
(EngineCore pid=13184) INFO 11-26 18:18:15 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: trust_remote_code=False, quantization=fp8
(EngineCore pid=13184) WARNING 11-26 18:18:30 [cpu.py:224] Triton is not installed. triton-cpu is expected on x86 CPUs.
Loading safetensors checkpoint shards: 100% Completed | 5/5 [00:00<00:00, 49.55it/s]
(EngineCore pid=13184) INFO 11-26 18:18:26 [kv_cache_utils.py:2327] GPU KV cache size: 233,008 tokens, Maximum concurrency for 2,048 tokens per request: 113.77x
INFO:     Application startup complete.
UserWarning: resource_tracker: There appear to be 2 leaked shared_memory objects to clean up at shutdown
[2026-11-26 18:22:01 TP0] Load weight begin. avail mem=78.58 GB
[2026-11-26 18:22:05 TP0] Capture cuda graph begin. This can take up to several minutes. avail mem=9.1 GB
[2026-11-26 18:22:06] The server is fired up and ready to roll!
nanobind: leaked 518 functions!
node1:77:91 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>
node1:77:91 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB [RO]; OOB eth0:10.0.0.1<0>
[TRT-LLM] [I] Run autotuning warmup for 2 batches
Daemon start success!
"""


def engine_of(diagnosis):
    return diagnosis.engines[0] if diagnosis.engines else "vllm"


def test_there_are_enough():
    assert len(ALL) >= 40


@pytest.mark.parametrize("name", ALL)
def test_a_line_is_known_by_its_own_diagnosis(name):
    known = ALL[name]
    (found,) = diagnose(["before", known.sample, "after"], engine_of(known), None)
    assert found.diagnosis.name == name
    assert (found.line, found.line_number) == (known.sample.strip(), 2)


@pytest.mark.parametrize("name", ALL)
def test_a_diagnosis_is_written_whole(name):
    known = ALL[name]
    assert known.meaning.endswith(".")
    assert known.fix.endswith((".", "again")) or "=" in known.fix or known.fix
    assert set(re.findall(r"\{(.*?)\}", known.fix)) <= set(module._catalogue().flags)
    assert known.source


@pytest.mark.parametrize("engine", ["vllm", "sglang", "lmdeploy", "tensorrt-llm", "native", None])
def test_a_healthy_log_says_nothing(engine):
    assert diagnose(HEALTHY.splitlines(), engine, None) == ()


def test_flags_are_those_of_the_engine_and_its_release():
    line = ALL["out-of-memory-at-graphs"].sample
    (found,) = diagnose([line], "vllm", "0.33.0")
    assert "--gpu-memory-utilization" in found.fix
    assert "--max-cudagraph-capture-size" in found.fix
    (found,) = diagnose([line], "rocm", "0.5.23")
    assert "--mem-fraction-static" in found.fix


@pytest.mark.parametrize("part", module._catalogue().flags)
def test_every_flag_is_one_that_some_release_knows(part):
    from dsdeploy.deploy.backend import load_backend
    from dsdeploy.deploy.flags import history

    for engine, flag in module._catalogue().flags[part].items():
        lines = load_backend(engine).command_lines
        known = not lines or any(history(line.package, flag, line.command) for line in lines)
        assert known, (engine, flag)


def test_a_cause_stands_before_what_is_general_and_what_is_a_symptom():
    symptom, general = ALL["core-failed"].sample, ALL["out-of-memory"].sample
    cause = ALL["port-in-use"].sample
    names = lambda lines: [each.diagnosis.name for each in diagnose(lines, "vllm", None)]  # noqa: E731
    assert names([symptom]) == ["core-failed"]
    assert names([symptom, general]) == ["out-of-memory"]
    assert names([symptom, general, cause]) == ["port-in-use"]


def test_the_first_of_many_lines_counts():
    line = ALL["port-in-use"].sample
    (found,) = diagnose(["fine", line, line, line], "vllm", None)
    assert found.line_number == 2


def test_colours_and_prefixes_do_not_hinder():
    line = "\x1b[1;36m(Worker_TP3 pid=7)\x1b[0;0m ERROR 11-26 \x1b[31mtorch.OutOfMemoryError\x1b[0m: CUDA out of memory."
    (found,) = diagnose([line], "vllm", None)
    assert found.diagnosis.name == "out-of-memory"


def test_a_log_is_read_once_and_a_line_at_a_time():
    """Of a million lines no more than one is held."""
    alive = set()

    class Line(str):
        __slots__ = ("__weakref__",)

        def __del__(self):
            alive.discard(id(self))

    def lines():
        for number in range(20_000):
            line = Line(f"INFO step {number}")
            alive.add(id(line))
            assert len(alive) <= 3
            yield line
        yield ALL["port-in-use"].sample

    (found,) = diagnose(lines(), "vllm", None)
    assert found.line_number == 20_001


@given(st.lists(st.text(max_size=200), max_size=20))
def test_any_text_is_read(lines):
    for found in diagnose(lines, None, None):
        assert found.fix


@pytest.mark.parametrize(
    ("line", "engine"),
    [
        ("(EngineCore_DP0 pid=13184) INFO 11-26 18:18:15 [core.py:133]", "vllm"),
        ("[2026-11-26 18:22:01 TP0] Load weight begin.", "sglang"),
        ("[11/26/2026-18:22:05] [TRT-LLM] [I] Run autotuning", "tensorrt-llm"),
        ("lmdeploy - ERROR - engine.py:55", "lmdeploy"),
        ("hello", None),
    ],
)
def test_whose_log_it_is(line, engine):
    assert guess_engine(["", line]) == engine


def test_explain_prints_the_line_its_meaning_and_the_fix(dsdeploy, tmp_path):
    log = tmp_path / "log"
    log.write_text("vllm serve\n" + ALL["no-memory-for-the-cache"].sample + "\n")
    result = dsdeploy("explain", log)
    assert result.exit_code == 1
    assert result.stdout.startswith("line 2: ValueError: No available memory")
    assert "fix: Raise --gpu-memory-utilization" in result.stdout
    document = json.loads(dsdeploy("explain", log, "--json").stdout)
    assert [each["name"] for each in document["found"]] == ["no-memory-for-the-cache"]
    assert document["engine"] == "vllm"


def test_explain_says_when_it_knows_nothing(dsdeploy, tmp_path):
    (tmp_path / "log").write_text("all is well\nan Error that nobody knows\n")
    result = dsdeploy("explain", tmp_path / "log")
    assert result.exit_code == 0
    assert "No failure that is known" in result.stdout
    assert "| an Error that nobody knows" in result.stdout
    assert dsdeploy("explain", tmp_path / "none").exit_code == 1
    assert dsdeploy("explain", tmp_path / "log", "--backend", "none").exit_code == 2
