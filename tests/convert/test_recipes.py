"""Any range of an output tensor can be made alone, and is the same as in the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsdeploy.checkpoint.reader import open_checkpoint
from dsdeploy.convert import recipes
from dsdeploy.convert.recipes import BlockScales, Copy, Dequantise, Quantise, part_of, whole

WEIGHT = "model.layers.0.mlp.down_proj.weight"
"""64 x 192: a partial block of rows, and of columns."""


@pytest.fixture(scope="module")
def made(fp8, bf16):
    """Name -> (recipe, bytes of its tensor)."""
    codes, values = (open_checkpoint(folder).tensors for folder in (fp8, bf16))
    slabs = {"whole": (whole, 192), "columns": (lambda tensor: part_of(tensor, 1, 1, 3), 64)}
    found = {}
    for name, (slab, columns) in slabs.items():
        found |= {
            f"copy {name}": (Copy(slab(codes[WEIGHT])), 64 * columns),
            f"copy {name} of BF16": (Copy(slab(values[WEIGHT])), 128 * columns),
            f"dequantise {name}": (
                Dequantise(slab(codes[WEIGHT]), codes[WEIGHT + "_scale_inv"]),
                128 * columns,
            ),
            f"quantise {name}": (Quantise(slab(values[WEIGHT])), 64 * columns),
            f"scales {name}": (BlockScales(slab(values[WEIGHT])), 4 * -(-columns // 128)),
        }
    return found


def filled(recipe, start, stop):
    target = np.empty(stop - start, np.uint8)
    recipe.fill(target, start)
    return target


@given(st.data())
def test_any_range_is_the_same_as_in_the_whole(made, data):
    recipe, nbytes = made[data.draw(st.sampled_from(sorted(made)))]
    step = 2 if isinstance(recipe, Dequantise) else 1
    position = st.integers(0, nbytes // step).map(lambda element: element * step)
    start, stop = sorted([data.draw(position), data.draw(position)])
    assert np.array_equal(filled(recipe, start, stop), filled(recipe, 0, nbytes)[start:stop])


@pytest.mark.parametrize("chunk", [7, 200, 5000])
def test_scratch_memory_of_any_size_gives_the_same(made, chunk):
    with pytest.MonkeyPatch.context() as patch:
        for recipe, nbytes in made.values():
            patch.setattr(recipes, "_CHUNK", 4 << 20)
            expected = filled(recipe, 0, nbytes)
            patch.setattr(recipes, "_CHUNK", chunk)
            assert np.array_equal(filled(recipe, 0, nbytes), expected)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(1, 300), st.data())
def test_rectangles_cover_a_range_once_in_order(rows, columns, limit, data):
    first, last = sorted(data.draw(st.integers(0, rows * columns)) for _ in "ab")
    covered = [
        (row + r) * columns + column + c
        for row, count, column, width in recipes.rectangles(first, last, columns, limit)
        for r in range(count)
        for c in range(width)
    ]
    assert covered == list(range(first, last))
