"""Invariants of docs/reliability.md that no other file holds: for any input, not those we know."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.faults.invariants import invariant
from tests.label_maps import some
from tiling.faults import ModelFileError, WriteError
from tiling.journal import journal_lines, numbered_records, read_journal
from tiling.partial import Partial
from tiling.safe_write import write_bytes
from tiling.strict_tiff import read_stack
from tiling.tiff_sink import TiffSink
from unet2015.checkpoint import Checkpoint, describe_network, load, save
from unet2015.counter import generator
from unet2015.deformation import draw_deformation
from unet2015.energy import energy
from unet2015.net import UNet, init_paper_weights
from unet2015.recipe import Recipe, isbi2012
from unet2015.training_log import Log


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is such a place: an fsync costs nothing there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


# -- files --------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip
json_records = st.lists(st.dictionaries(st.text(max_size=5), json_values, max_size=3), max_size=6)


@invariant("journal", "what is written is read back")
@given(json_records)
def test_a_journal_gives_back_what_was_written(records: list[dict]) -> None:
    lines, chain = journal_lines(records)
    assert read_journal(lines) == (records, len(lines), chain)


@invariant("journal", "cut at any byte, a beginning of whole records is read back")
@given(json_records, st.data())
def test_a_journal_cut_anywhere_gives_back_a_beginning(records: list[dict], data) -> None:
    lines, _ = journal_lines(records)
    found, end, _ = read_journal(lines[: data.draw(st.integers(0, len(lines)))])
    assert found == records[: len(found)]
    assert lines[:end] == journal_lines(found)[0]


@invariant("journal", "any flipped bit hides its record and all after it, and no other")
@given(json_records.filter(len), st.data())
def test_a_journal_changed_anywhere_gives_back_a_beginning(records: list[dict], data) -> None:
    lines = bytearray(journal_lines(records)[0])
    lines[data.draw(st.integers(0, len(lines) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    found, _, _ = read_journal(bytes(lines))
    assert found == records[: len(found)]
    assert len(found) < len(records)


@invariant("journal", "numbered records are a run from zero, whatever order they came in")
@given(st.lists(st.integers(-1, 6), max_size=20), st.integers(0, 6))
def test_numbered_records_are_a_run_from_zero(numbers: list[int], count: int) -> None:
    found = numbered_records([{"n": n, "at": k} for k, n in enumerate(numbers)], count)
    assert [record["n"] for record in found] == list(range(len(found)))
    assert [record["at"] for record in found] == sorted(record["at"] for record in found)
    assert len(found) <= count


@invariant("files", "a file holds the last bytes that were published, and nothing lies beside it")
@given(st.lists(st.tuples(st.binary(max_size=2000), st.booleans()), min_size=1, max_size=4))
def test_a_file_holds_the_last_bytes_that_were_published(writes: list[tuple[bytes, bool]]) -> None:
    with scratch() as folder:
        expected: bytes | None = None
        for data, overwrite in writes:
            if expected is None or overwrite:
                write_bytes(folder / "a", data, overwrite=overwrite)
                expected = data
            else:
                with pytest.raises(WriteError):
                    write_bytes(folder / "a", data, overwrite=overwrite)
            assert (folder / "a").read_bytes() == expected
            assert [path.name for path in folder.iterdir()] == ["a"]


@invariant(
    "files",
    "resume = fresh: an output interrupted any number of times ends with the same bytes",
)
@given(st.lists(st.binary(min_size=1, max_size=500), max_size=6), st.data())
def test_an_output_interrupted_anywhere_ends_with_the_same_bytes(blocks: list, data) -> None:
    ends = np.cumsum([0, *map(len, blocks)]).tolist()
    stops = data.draw(st.lists(st.integers(0, len(blocks)), max_size=3))
    with scratch() as folder:
        for stop in [*sorted(stops), None]:
            with Partial(folder / "out", identity={"blocks": len(blocks)}) as partial:
                for n in range(len(partial.records), len(blocks) if stop is None else stop):
                    partial.file.seek(ends[n])
                    partial.file.write(blocks[n])
                    partial.append({"n": n})
                if stop is None:
                    partial.publish()
        assert (folder / "out").read_bytes() == b"".join(blocks)
        assert len(list(folder.iterdir())) == 1


kinds = st.sampled_from(["u1", "u2", "u4", "i2", "f4", "f8"])


@some(40)
@given(st.data(), kinds, st.sampled_from(["deflate", "none"]))
def test_a_tiff_gives_back_what_was_written_in_any_bands(data, kind: str, compression: str) -> None:
    pages, channels = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    pixels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        0, 200, (pages, channels, height, width)
    ).astype(kind)  # fmt: skip
    with scratch() as folder:
        shape = (pages, channels, height, width)
        with TiffSink(folder / "a.tif", shape, kind, compression=compression) as sink:
            for page in range(pages):
                top = 0
                while top < height:
                    end = data.draw(st.integers(top + 1, height))
                    sink.page(page)[..., top:end, 0:width] = pixels[page, :, top:end]
                    top = end
        found = read_stack(folder / "a.tif")
    assert found.dtype == pixels.dtype
    assert (found.reshape(shape) == pixels).all()


@invariant("loader", "write-read identity for each type, layout, byte order, tile and compression")
@given(
    hnp.arrays(
        st.sampled_from(["u1", "u2", "u4", "i2", "i4", "f4", "f8", "?"]).map(np.dtype),
        st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
        elements=st.integers(0, 1),
    ),
    st.sampled_from([None, "zlib"]),
    st.sampled_from("<>"),
    st.sampled_from([{}, {"tile": (16, 32)}, {"rowsperstrip": 5}, {"bigtiff": True}]),
)
def test_the_strict_reader_reads_what_tifffile_writes(pixels, codec, order, layout) -> None:
    with scratch() as folder:
        tifffile.imwrite(folder / "a.tif", pixels, photometric="minisblack", metadata=None,
                         compression=codec, byteorder=order, **layout)  # fmt: skip
        found = read_stack(folder / "a.tif")
    assert found.shape == pixels.shape
    assert found.dtype == pixels.dtype
    assert (found == pixels).all()


# -- checkpoints, recipes, logs -----------------------------------------------------------------


def tiny(provenance: dict, step: int) -> Checkpoint:
    net = UNet(base_channels=1, depth=1)
    init_paper_weights(net, step)
    return Checkpoint(network=describe_network(net), weights=net.state_dict(), step=step,
                      provenance=provenance)  # fmt: skip


objects = st.dictionaries(st.text(max_size=6), json_values, max_size=4)


@invariant("checkpoint", "save-load-save is byte-identical")
@given(objects, st.integers(0, 10**9))
def test_a_checkpoint_saved_loaded_and_saved_is_the_same_file(provenance: dict, step: int) -> None:
    with scratch() as folder:
        save(folder / "a", tiny(provenance, step))
        back = load(folder / "a")
        save(folder / "b", back)
        assert back.provenance == provenance
        assert back.step == step
        assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


@invariant("checkpoint", "the order of keys changes no byte")
@given(objects, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(provenance: dict, draw) -> None:
    state = tiny(provenance, 1)
    names = list(state.weights)
    draw.shuffle(names)
    keys = list(provenance)
    draw.shuffle(keys)
    other = replace(
        state,
        weights={name: state.weights[name] for name in names},
        provenance={key: provenance[key] for key in keys},
    )
    with scratch() as folder:
        save(folder / "a", state)
        save(folder / "b", other)
        assert (folder / "a").read_bytes() == (folder / "b").read_bytes()


@invariant("checkpoint", "any flipped bit is refused")
@given(st.integers(0, 2**40), st.integers(0, 7))
def test_any_flipped_bit_of_a_checkpoint_is_refused(place: int, bit: int) -> None:
    with scratch() as folder:
        save(folder / "a", tiny({"data": "ä"}, 3))
        data = bytearray((folder / "a").read_bytes())
        data[place % len(data)] ^= 1 << bit
        (folder / "a").write_bytes(data)
        with pytest.raises(ModelFileError):
            load(folder / "a")


@invariant("checkpoint", "unknown keys of a recipe are refused")
@given(st.text(max_size=12).filter(lambda name: not hasattr(isbi2012(), name)), json_values)
def test_a_recipe_knows_its_fields_and_no_others(name: str, value: object) -> None:
    known = json.loads(isbi2012().to_json())
    assert Recipe.from_json(json.dumps(known)) == isbi2012()
    with pytest.raises(ValueError, match="unknown"):
        Recipe.from_json(json.dumps(known | {name: value}))


finite = st.floats(allow_nan=False, allow_infinity=False)
names = st.text("abc_", min_size=1, max_size=3)


@invariant("checkpoint", "the log of a resumed run is that of the steps that were saved")
@given(
    st.dictionaries(st.integers(0, 50), st.dictionaries(names, finite, min_size=1, max_size=3)),
    st.integers(0, 50),
)
def test_a_log_comes_back_up_to_the_step_that_was_saved(rows: dict, step: int) -> None:
    log = Log()
    for number, figures in rows.items():
        log.add(number, **figures)
    back = Log.from_csv(log.to_csv(), up_to=step)
    assert back.rows == {n: figures for n, figures in rows.items() if n <= step}
    text = log.to_csv()
    for end in range(len(text)):  # a number cut short would be another number
        cut = Log.from_csv(text[:end], up_to=step).rows
        assert all(figures == rows[number] for number, figures in cut.items())


# -- model, loss, augmentation ------------------------------------------------------------------


def fits(side: int, depth: int) -> bool:
    """Whether every map that is pooled has even sides, walked level by level."""
    for _ in range(depth):
        side -= 4
        if side < 2 or side % 2:
            return False
        side //= 2
    side -= 4
    for _ in range(depth):
        side = 2 * side - 4
    return side > 0


@invariant(
    "model",
    "legal inputs are those whose maps halve evenly; others are refused with the nearest two",
)
@given(st.integers(1, 5), st.integers(1, 3000))
def test_legal_inputs_are_those_whose_maps_halve_evenly(depth: int, side: int) -> None:
    with torch.device("meta"):
        net = UNet(base_channels=1, depth=depth)
    if fits(side, depth):
        assert net.output_size(side) == side - 2 * net.margin
        return
    above = next(n for n in range(side, side + 10_000) if fits(n, depth))
    below = next((n for n in range(side, 0, -1) if fits(n, depth)), above)
    with pytest.raises(ValueError, match=rf"\b{above}\b") as refused:
        net.output_size(side)
    assert str(below) in str(refused.value)


@invariant("model", "a shift by a period commutes with the network")
@given(st.integers(0, 99), st.integers(0, 3), st.integers(0, 3))
def test_a_shift_by_a_period_is_a_shift_of_the_result(seed: int, down: int, right: int) -> None:
    net = UNet(base_channels=2, depth=2).eval()
    init_paper_weights(net, seed)
    period, side = net.period, 44
    image = torch.from_numpy(
        generator(seed, 1).normal(size=(1, 1, side + 3 * period, side + 3 * period))
    ).float()  # fmt: skip
    with torch.inference_mode():
        whole = net(image)
        y, x = down * period, right * period
        part = net(image[..., y : y + side, x : x + side])
    height, width = part.shape[-2:]
    torch.testing.assert_close(part, whole[..., y : y + height, x : x + width])


@invariant("model", "images of a batch do not touch each other")
@given(st.integers(0, 99), st.integers(1, 4))
def test_images_of_a_batch_do_not_touch_each_other(seed: int, count: int) -> None:
    net = UNet(base_channels=2, depth=1).eval()
    init_paper_weights(net, seed)
    net.double()  # so that only touching shows, not the order of sums
    images = torch.from_numpy(generator(seed, 2).normal(size=(count, 1, 20, 24)))
    with torch.inference_mode():
        together = net(images)
        apart = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(together, apart)


@invariant("loss", "finite and not negative for logits up to +-1e4")
@given(
    hnp.arrays(np.float32, (1, 3, 4, 5), elements=st.floats(-1e4, 1e4, width=32)),
    hnp.arrays(np.int64, (1, 4, 5), elements=st.integers(0, 2)),
)
def test_the_energy_of_any_logits_is_finite_and_not_negative(logits, labels) -> None:
    found = energy(torch.from_numpy(logits), torch.from_numpy(labels), None)
    assert torch.isfinite(found)
    assert found >= 0


@invariant("augmentation", "a deformation is a function of seed, step and sample only")
@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(0, 99))
def test_a_deformation_is_a_function_of_seed_step_and_sample(seed, step, sample) -> None:
    first, again = (draw_deformation(isbi2012(), seed, step, sample) for _ in range(2))
    other = draw_deformation(isbi2012(), seed, step, sample + 1)
    assert np.array_equal(first.displacement, again.displacement)
    assert not np.array_equal(first.displacement, other.displacement)


@invariant("augmentation", "each counter gives a stream of its own")
@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=4), st.integers(0, 3))
def test_counters_give_streams_of_their_own(counters: list[int], which: int) -> None:
    def drawn(numbers: list[int]) -> bytes:
        return generator(*numbers).bytes(16)

    other = list(counters)
    other[which % len(other)] += 1
    assert drawn(counters) == drawn(counters)
    assert drawn(counters) != drawn(other)
