"""What is chosen, what is refused and why, and the ways out when nothing fits."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.errors import UsageError
from dsdeploy.hardware.profiles import load_machine
from dsdeploy.model.formats import FORMATS
from dsdeploy.planning.layout import Layout
from dsdeploy.planning.memory import device_memory, fraction_value
from dsdeploy.planning.models import KNOWN, find_model
from dsdeploy.planning.plan import dump_plan, load_plan, make_plan
from dsdeploy.planning.planner import Sizes, Wish, plan
from dsdeploy.planning.speed import Roofline
from dsdeploy.planning.streaming import streamed_run
from dsdeploy.planning.ways_out import shortage, ways_out

from .conftest import RULES
from .published import PUBLISHED, fits, speeds

DISAGREEMENTS = {
    # The engine's own NPU quantisation, which is not among our formats.
    ("1xatlas-a3", "sglang", "w4a8"),
    # One short request fits with nothing to spare: the source calls it out of memory beyond that.
    ("8xl40s", "vllm", "int4"),
}


def test_what_is_published_to_run_fits_and_what_is_not_does_not():
    differ = {
        (row["machine"], row["backend"], row["precision"])
        for row, verdict in fits(PUBLISHED["fits"])
        if row["runs"] != (verdict != "no")
    }
    assert differ == DISAGREEMENTS


def test_published_limits_are_kept(planned):
    checked = 0
    for row in PUBLISHED["limits"]:
        if "layout" not in row or row["backend"] not in RULES or "machine" not in row:
            continue
        sizes = Sizes(**row["layout"])
        outcome = planned(row["machine"], row["backend"], precision=row["precision"], sizes=sizes)
        legacy = RULES[row["backend"]].legacy(FORMATS[row["precision"]])
        assert outcome.chosen is None or "reported broken" in legacy, row
        checked += 1
    assert checked >= 3


def test_what_is_legacy_is_planned_only_when_it_is_asked_for():
    model, engines = find_model("DeepSeek-V3"), {"tensorrt-llm": RULES["tensorrt-llm"]}
    asked = plan(model, load_machine("8xh100"), engines, Wish(precision="int4")).chosen
    assert "reported broken" in asked.reason
    outcome = plan(model, load_machine("8xh100"), engines, Wish())
    assert outcome.chosen is None
    assert not any("int4" in way.change for way in ways_out(outcome, engines, engines))
    bf16 = replace(model, config=replace(model.config, quantization=None))
    [refused, *_] = plan(bf16, load_machine("4x8xh100"), engines, Wish()).candidates
    assert (refused.precision, refused.verdict) == ("bf16", "impossible")


def test_most_published_speeds_lie_in_the_interval():
    found = list(speeds(PUBLISHED["speed"]))
    assert len(found) > 150
    assert sum(comparison.inside for comparison in found) > 0.6 * len(found)
    for comparison in found:
        assert 0 < comparison.interval.low <= comparison.interval.high


def test_the_cache_of_a_token_is_the_known_number_of_bytes(v3):
    machine, rules = load_machine("8xh200"), RULES["vllm"]
    setting = (v3.config, machine, rules, FORMATS["fp8"])
    assert device_memory(*setting, Layout(8), "bf16", False).cache_per_token == 70_272
    assert device_memory(*setting, Layout(8), "bf16", True).cache_per_token == 71_424
    assert device_memory(*setting, Layout(8), "fp8", False).cache_per_token == 35_136
    # Tensor parallelism copies it, stages divide it: here 31 and 30 layers, of which the last
    # stage has less room, with the head and no dense layer.
    assert device_memory(*setting, Layout(4, 2), "bf16", False).cache_per_token == 30 * 1152


def test_the_simplest_of_equals_is_chosen(planned):
    outcome = planned("8xh200")
    chosen = outcome.chosen
    assert (chosen.backend, chosen.precision, chosen.layout) == ("vllm", "fp8", Layout(8))
    running = [c for c in outcome.candidates if c.verdict == "fits"]
    best = max(running, key=lambda c: c.speed.decode.middle)
    assert best is not chosen
    assert best.speed.decode.overlaps(chosen.speed.decode)


@pytest.mark.parametrize(
    ("machine", "backend", "precision"),
    [
        ("8xmi300x", "rocm", "fp8"),
        ("4xatlas-800i-a2", "mindie", "bf16"),
        ("4xb200", "vllm", "fp8"),
        ("2x8xa100", "vllm", "fp8"),
    ],
)
def test_each_kind_of_machine_has_its_engine(planned, machine, backend, precision):
    chosen = planned(machine, context=4096, concurrency=1).chosen
    assert (chosen.backend, chosen.precision) == (backend, precision)


@pytest.mark.parametrize(
    ("machine", "backend", "why"),
    [
        ("8xa100", "tensorrt-llm", "Ampere is not supported"),
        ("8xa100", "sglang", "8.9"),
        ("8xh200", "mindie", "does not load FP8"),
        ("colab-t4", "vllm", "compute capability"),
        ("8xh200", "rocm", "CDNA 3"),
    ],
)
def test_a_refusal_says_why(planned, machine, backend, why):
    outcome = planned(machine, backend, precision="fp8")
    assert outcome.chosen is None
    assert any(why in candidate.reason for candidate in outcome.candidates)


def test_layouts_that_an_engine_does_not_have_are_not_planned(planned):
    replicas = [c for c in planned("8xh200", "tensorrt-llm").candidates if c.runs]
    assert {c.layout.tensor for c in replicas if c.layout.data > 1} == {1}
    powers = [c.layout for c in planned("2xatlas-800i-a2", "mindie").candidates if c.runs]
    assert all(layout.tensor & (layout.tensor - 1) == 0 for layout in powers)
    assert {layout.pipeline for layout in powers} == {1}


def test_what_an_engine_cannot_load_is_planned_in_what_it_can(planned):
    precisions = {c.precision for c in planned("2x8xa100", "sglang").candidates}
    assert precisions == {"fp8", "bf16", "int8-block", "int8", "int4"}


def test_fixed_sizes_are_kept(planned):
    outcome = planned("8xh200", "vllm", sizes=Sizes(tensor=4))
    assert {candidate.layout.tensor for candidate in outcome.candidates} == {4}
    assert {candidate.layout.devices for candidate in outcome.candidates} == {8}
    outcome = planned("2x8xh200", "vllm", sizes=Sizes(tensor=8, pipeline=1, data=1))
    assert [candidate.layout for candidate in outcome.candidates if candidate.runs] == [
        Layout(8),
        Layout(8, expert=8),
    ]


def test_more_context_never_leaves_more_room(planned):
    rooms = [
        planned("8xh200", "vllm", context=context).chosen.memory.free.low
        for context in (1024, 8192, 65536)
    ]
    assert rooms[0] >= rooms[1] >= rooms[2]


@pytest.mark.parametrize("backend", ["vllm", "sglang", "tensorrt-llm", "lmdeploy"])
def test_the_engines_fraction_leaves_the_cache_that_is_asked_for(v3, backend):
    """Each engine's own arithmetic gives back the bytes that were wanted, to the digit it is told."""
    machine, rules = load_machine("8xh200"), RULES[backend]
    memory = device_memory(v3.config, machine, rules, FORMATS["fp8"], Layout(8), "bf16", False)
    _, value = fraction_value(rules, memory, memory.cache_bytes(32768, 8))
    share = float(value)
    if rules.memory.fraction.of == "total":
        cache = share * memory.total - memory.weight_bytes
        cache -= memory.runtime.high + memory.activations.high
    elif rules.memory.fraction.of == "static":
        cache = share * memory.total - memory.weight_bytes
    else:
        cache = share * (memory.total - memory.weight_bytes - memory.runtime.low)
    assert cache >= memory.cache_bytes(32768, 8)
    assert cache <= memory.free.high


@given(
    concurrency=st.integers(1, 512), context=st.integers(128, 65536),
    tensor=st.sampled_from([1, 2, 4, 8]), mtp=st.booleans(),
)  # fmt: skip
def test_more_requests_never_decode_fewer_tokens(concurrency, context, tensor, mtp):
    model, machine = find_model("DeepSeek-V3"), load_machine("8xh200")
    layout = Layout(tensor, 1, 8 // tensor, 8 if tensor < 8 else 1)
    roofline = Roofline(model.config, machine, RULES["sglang"], FORMATS["fp8"], layout, "bf16")
    few, more = (roofline.decode(n, context, mtp) for n in (concurrency, 2 * concurrency))
    assert 0 < few.low <= few.high
    assert more.low >= 0.999 * few.low
    assert more.high >= 0.999 * few.high


def test_a_faster_machine_is_never_slower(v3):
    slow = load_machine("8xh200")
    chip = slow.accelerator
    fast = slow.model_copy(
        update={"accelerator": chip.model_copy(update={"bandwidth": 2 * chip.bandwidth})}
    )
    speeds = [
        Roofline(v3.config, machine, RULES["vllm"], FORMATS["fp8"], Layout(8), "bf16").decode(
            64, 8192, False
        )
        for machine in (slow, fast)
    ]
    assert speeds[1].low > speeds[0].low
    assert speeds[1].high > speeds[0].high


def test_a_token_on_one_device_takes_what_its_bytes_take_to_read(v3):
    """37.7 GB at batch 1: attention, dense, shared and eight experts a layer, and the head."""
    machine = load_machine("8xh200")
    rules = RULES["vllm"]
    ideal = {"low": 1.0, "high": 1.0}
    speed = rules.speed.model_copy(
        update={
            "memory": rules.speed.memory.model_copy(update=ideal),
            "layer_microseconds": rules.speed.layer_microseconds.model_copy(
                update={"low": 0.0, "high": 0.0}
            ),
        }
    )
    memory = rules.memory.model_copy(update={"kv_b_copies": 0})
    rules = rules.model_copy(update={"speed": speed, "memory": memory})
    roofline = Roofline(v3.config, machine, rules, FORMATS["fp8"], Layout(), "bf16")
    seconds = 1 / roofline.decode(1, 1, False).high
    assert seconds * machine.accelerator.bandwidth == pytest.approx(37.7e9, rel=0.02)


class TestWaysOut:
    def test_each_of_them_fits(self, planned):
        outcome = planned("8xh100", mtp=True)
        assert outcome.chosen is None
        assert shortage(outcome) > 10e9
        found = {way.change: way.result for way in ways_out(outcome, RULES, RULES)}
        assert any(change.startswith("--precision int4") for change in found)
        assert any(change.startswith("2 nodes") for change in found)
        streamed = next(change for change in found if "streamed" in change)
        assert "GB of memory" in found[streamed]
        assert not any("--precision bf16" in change for change in found)

    def test_less_context_or_fewer_requests(self, planned):
        outcome = planned("8xh200", "vllm", context=131072, concurrency=64)
        changes = [way.change for way in ways_out(outcome, {"vllm": RULES["vllm"]}, RULES)]
        context = next(c for c in changes if c.startswith("--context"))
        again = planned("8xh200", "vllm", context=int(context.split()[1]), concurrency=64)
        assert again.chosen.verdict == "fits"
        requests = next(c for c in changes if c.startswith("--concurrency"))
        again = planned("8xh200", "vllm", context=131072, concurrency=int(requests.split()[1]))
        assert again.chosen.verdict == "fits"

    def test_another_backend(self, planned):
        outcome = planned("8xmi300x", "vllm")
        changes = [way.change for way in ways_out(outcome, {"vllm": RULES["vllm"]}, RULES)]
        assert "another backend" in changes

    def test_nothing_helps_a_machine_without_a_disk_for_it(self, planned):
        assert list(ways_out(planned("colab-t4"), RULES, RULES)) == []

    def test_experts_stream_from_a_disk_that_holds_them(self, v3):
        laptop = load_machine("laptop")
        run = streamed_run(v3, laptop)
        assert run.expert_bytes == pytest.approx(20.4e9, rel=0.01)
        assert run.memory_bytes < laptop.host_memory
        assert not run.fits(laptop)
        disk = laptop.disk.model_copy(update={"space": 10**12})
        assert run.fits(laptop.model_copy(update={"disk": disk}))


def test_a_plan_is_saved_and_loads_again(planned, tmp_path):
    for machine, backend in (("8xh200", "vllm"), ("2xatlas-800i-a2", "mindie")):
        outcome = planned(machine, backend)
        chosen = outcome.chosen
        made = make_plan(outcome, chosen, RULES[chosen.backend])
        file = tmp_path / "plan.yaml"
        file.write_text(dump_plan(made))
        assert load_plan(file) == made


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("tensor: 8", "tensor: eight"), "layout.tensor"),
        (("backend: vllm\n", ""), "backend"),
        (("model:", "modell:"), "model"),
        (("stored:", "model:"), "written twice"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_in_a_sentence(planned, tmp_path, change, why):
    outcome = planned("8xh200", "vllm")
    text = dump_plan(make_plan(outcome, outcome.chosen, RULES["vllm"]))
    assert change[0] in text
    file = tmp_path / "plan.yaml"
    file.write_text(text.replace(*change, 1))
    with pytest.raises(UsageError) as error:
        load_plan(file)
    assert why in error.value.message


class TestModels:
    def test_known_names_need_no_network(self):
        for name in KNOWN:
            assert find_model(name).config.num_hidden_layers == 61
            assert find_model(f"hf://{name}").name == name
            assert find_model(name.rpartition("/")[2].lower()).name == name

    def test_a_folder_is_read(self, synth, tmp_path):
        folder = synth(tmp_path / "bf16", "--precision", "bf16")
        assert find_model(str(folder)).stored == "bf16"

    def test_a_typo_is_answered_with_what_is_near(self):
        with pytest.raises(UsageError) as error:
            find_model("DeepSeek-V3.11")
        assert "DeepSeek-V3.1" in error.value.hint

    def test_a_model_without_mtp_cannot_draft(self, planned):
        machine = load_machine("2x8xh200")
        outcome = plan(find_model("Kimi-K2-Instruct"), machine, RULES, Wish(mtp=True))
        assert outcome.chosen is None
        assert all("has no MTP layer" in c.reason for c in outcome.candidates)


def test_small_models_use_fewer_devices_than_there_are(synth, tmp_path):
    model = find_model(str(synth(tmp_path / "small")))
    chosen = plan(model, load_machine("8xh200"), {"vllm": RULES["vllm"]}, Wish(context=256)).chosen
    assert chosen.layout.devices <= 8
    assert replace(chosen.layout, tensor=1) == Layout() or chosen.layout.data > 1
