"""docs/reliability.md, section H: training whose numbers go wrong stops; nothing bad appears."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny_run import TINY, tiny_stack, tiny_training, write_tiny
from tiling.command import finish
from tiling.faults import NumericsError
from unet2015 import checkpoint as checkpoints
from unet2015 import cli
from unet2015.data import Stack, weigh
from unet2015.run_folder import save_run
from unet2015.step import update
from unet2015.train import MAX_SKIPPED, _book_keeping, _new_run, network_of, train

RECIPE = replace(TINY, steps=30, checkpoint_every=5)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def poisoned_at(step, value=float("nan")):
    """A weight turns bad after this step."""

    def on_step(run):
        if run.step == step:
            with torch.no_grad():
                next(run.net.parameters()).view(-1)[0] = value

    return on_step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_h1_a_loss_that_is_not_finite_names_step_and_slices(tmp_path, value):
    stack, _ = tiny_training(RECIPE)
    good = {}

    def on_step(run):
        if run.step == 10:
            good["last"] = (tmp_path / "last.safetensors").read_bytes()
        poisoned_at(12, value)(run)

    (slice_12,) = stack.drawn(RECIPE, 12)
    pattern = rf"step 12: the loss is nan on slice {slice_12}; .*last\.safetensors of an earlier"
    with pytest.raises(NumericsError, match=pattern) as caught:
        train(RECIPE, stack, tmp_path, on_step=on_step)
    assert caught.value.exit_code == 8
    assert (tmp_path / "last.safetensors").read_bytes() == good["last"]
    assert checkpoints.load(tmp_path / "last.safetensors").step == 10
    run = train(RECIPE, stack, tmp_path, resume=True)  # and the run can go on from there
    assert run.step == 30


def test_h1_before_the_first_checkpoint_nothing_is_claimed_to_be_kept(tmp_path):
    stack, _ = tiny_training(RECIPE)
    with pytest.raises(NumericsError, match=r"step 1: .* nothing was saved yet"):
        train(RECIPE, stack, tmp_path, on_step=poisoned_at(1))
    assert not list(tmp_path.glob("*.safetensors"))


def test_h1_an_interrupted_run_does_not_save_a_bad_state(tmp_path):
    stack, _ = tiny_training(RECIPE)

    def on_step(run):
        poisoned_at(6)(run)
        if run.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(RECIPE, stack, tmp_path, on_step=on_step)
    assert caught.value.__notes__[0].startswith("not saved: step 6: the loss is nan")
    assert checkpoints.load(tmp_path / "last.safetensors").step == 5


def test_h1_exit_code_is_8_with_one_line(tmp_path):
    stack, _ = tiny_training(RECIPE)
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        code = finish("unet2015", lambda: train(RECIPE, stack, tmp_path, on_step=poisoned_at(3)))
    assert code == 8
    assert words.getvalue().count("\n") == 1


# -- H2: fp16 -------------------------------------------------------------------------------------


@pytest.fixture
def half(tmp_path):
    """A run with a loss scaler, as fp16 on a GPU has it."""
    stack, _ = tiny_training(RECIPE)
    run = _new_run(RECIPE, stack, tmp_path, None, torch.device("cpu"))
    run.scaler = torch.amp.GradScaler("cpu", enabled=True)
    return run


def give(run, value):
    for parameter in run.net.parameters():
        parameter.grad = torch.full_like(parameter, value)
    run.scaler.scale(torch.zeros(()))  # a scaler starts with its first loss


def test_h2_an_overflow_is_left_out_counted_and_answered_by_a_smaller_scale(half):
    before = {k: v.clone() for k, v in half.net.state_dict().items()}
    scale = half.scaler.get_scale() or 65_536.0
    give(half, float("inf"))
    assert update(half) is False
    assert all(torch.equal(before[k], v) for k, v in half.net.state_dict().items())
    assert (half.skipped, half.skipped_in_row) == (1, 1)
    assert half.scaler.get_scale() == scale / 2
    give(half, 1.0)
    assert update(half) is True
    assert (half.skipped, half.skipped_in_row) == (1, 0)
    assert not all(torch.equal(before[k], v) for k, v in half.net.state_dict().items())


def test_h2_overflow_again_and_again_stops(half):
    half.step = 1
    for k in range(MAX_SKIPPED):
        _book_keeping(half, None, [])
        give(half, float("nan"))
        assert update(half) is False, k
        half.step += 1
    with pytest.raises(NumericsError, match=rf"overflowed in fp16 {MAX_SKIPPED} times in a row on"):
        _book_keeping(half, None, [])


def test_h2_the_scaler_is_resumed(tmp_path, half):
    from unet2015.run_folder import opened

    give(half, float("inf"))
    update(half)
    half.step = 1
    save_run(half)
    again = _new_run(RECIPE, half.stack, tmp_path, None, torch.device("cpu"))
    again.scaler = torch.amp.GradScaler("cpu", enabled=True)
    with opened(again, resume=True):
        assert again.scaler.state_dict() == half.scaler.state_dict()
        assert again.skipped == 1


# -- H3, H4, H5 -----------------------------------------------------------------------------------


def test_h3_weights_that_are_all_zero_are_refused(tmp_path):
    stack, _ = tiny_training(RECIPE)
    nothing = replace(stack, weights=[np.zeros_like(w) for w in stack.weights])
    with pytest.raises(ValueError, match="every weight of the training slices is 0"):
        train(RECIPE, nothing, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("normalisation", ["weights", "mean", "sum"])
def test_h3_one_slice_without_weight_changes_nothing_and_is_no_nan(tmp_path, normalisation):
    recipe = replace(RECIPE, steps=10, normalisation=normalisation, optimiser="sgd",
                     momentum=0.0, schedule="constant", learning_rate=1e-5)  # fmt: skip
    stack, _ = tiny_training(recipe)
    weights = [stack.weights[0], np.zeros_like(stack.weights[1]), stack.weights[2]]
    before = {}

    def on_step(run):
        now = {k: v.clone() for k, v in run.net.state_dict().items()}
        if stack.drawn(recipe, run.step - 1) == ["1"] and before:
            assert all(torch.equal(before[k], now[k]) for k in now)
        before.update(now)

    run = train(recipe, replace(stack, weights=weights), tmp_path, on_step=on_step)
    assert "1" in {stack.drawn(recipe, step)[0] for step in range(1, 10)}
    assert np.isfinite(run.loss)


def test_h4_a_huge_learning_rate_stops_and_publishes_nothing_bad(tmp_path):
    stack, validation = tiny_training(RECIPE)
    recipe = replace(RECIPE, optimiser="sgd", momentum=0.99, learning_rate=1e3,
                     schedule="constant", normalisation="sum", checkpoint_every=1)  # fmt: skip
    with pytest.raises(NumericsError, match=r"NaN or Inf|the loss is"):
        train(recipe, stack, tmp_path, validation=validation)
    for file in tmp_path.glob("*.safetensors"):
        assert all(torch.isfinite(t).all() for t in checkpoints.load(file).weights.values())


def test_h4_a_learning_rate_of_0_is_told_and_changes_nothing(tmp_path):
    stack, _ = tiny_training(RECIPE)
    run = train(replace(RECIPE, steps=3, learning_rate=0.0), stack, tmp_path)
    assert run.warnings == ["the learning rate is 0: the network will stay as it is"]
    first = network_of(RECIPE).state_dict()
    assert all(torch.equal(first[k], v) for k, v in run.net.state_dict().items())


@pytest.mark.parametrize("part", ["weights", "averaged", "moments"])
def test_h4_a_state_that_is_not_finite_is_never_saved(tmp_path, part):
    stack, _ = tiny_training(RECIPE)
    recipe = replace(RECIPE, steps=5, average_decay=0.9)
    run = train(recipe, stack, tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    tensors = {
        "weights": lambda: run.net.score.weight.data,
        "averaged": lambda: run.averaged["score.weight"],
        "moments": lambda: run.optimiser.state[run.net.score.weight]["exp_avg"],
    }[part]()
    tensors.view(-1)[0] = float("inf")
    with pytest.raises(
        NumericsError, match=r"step 5: .*Inf; a bad state is not saved; .*untouched"
    ):
        save_run(run)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_h4_weights_are_looked_at_before_they_are_measured(tmp_path):
    recipe = replace(RECIPE, validate_every=3, checkpoint_every=1000)
    stack, validation = tiny_training(recipe)

    def on_step(run):
        if run.step == 2:  # a weight whose unit is silent: the loss stays finite
            run.net.score.bias.data[0] = -float("inf")

    with pytest.raises(NumericsError, match=r"step (2|3): "):
        train(recipe, stack, tmp_path, validation=validation, on_step=on_step)
    assert not list(tmp_path.glob("*.safetensors"))


def test_h5_training_slices_without_foreground_are_learnt_or_refused_in_words(tmp_path):
    held_out = tiny_stack().take([3])
    dark = Stack(held_out.images, [np.zeros_like(held_out.labels[0])])
    run = train(replace(RECIPE, steps=10), weigh(dark, RECIPE), tmp_path, validation=dark)
    assert run.measures["classes_true"] == 1
    assert run.constant_evaluations == 0 or run.measures["spread"] < 1e-3


def test_h5_the_command_refuses_a_split_of_one_class(tmp_path):
    images, labels = write_tiny(tmp_path)
    import tifffile

    stack = tifffile.imread(labels)
    stack[3] = 0
    tifffile.imwrite(labels, stack, photometric="minisblack", metadata=None)
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        code = cli.main(["train", str(images), str(labels), "--out", str(tmp_path / "run"),
                         "--recipe", "quick", "--val", "3"])  # fmt: skip
    assert code == 3
    assert "class" in words.getvalue()
