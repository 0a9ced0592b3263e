"""Training: the same energy however a step is cut, the same bits however a run is cut."""

from __future__ import annotations

import errno
import io
import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny_run import TINY, tiny_training
from tiling.faults import InputError, LockedError, ModelFileError, UsageFault, WriteError
from tiling.lock import check_held, holding
from tiling.safe_write import OutputLock
from unet2015 import checkpoint as checkpoints
from unet2015 import step as steps
from unet2015.cli import main
from unet2015.data import batches
from unet2015.energy import energy
from unet2015.recipe import Recipe
from unet2015.scaled_stack import scaled_stack
from unet2015.train import network_of, train
from unet2015.training_log import Log
from unet2015.validate import BEST_BY


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses_of(recipe, out, **options):
    stack, validation = tiny_training(recipe)
    run = train(recipe, stack, out, validation=validation, **options)
    return run.log.column("loss")[1]


def files(folder):
    names = ("last.safetensors", "best.safetensors", "log.csv", "recipe.json")
    return {name: (folder / name).read_bytes() for name in names}


def stop_after(step, error=KeyboardInterrupt):
    def on_step(run):
        if run.step == step:
            raise error

    return on_step


# -- learning -------------------------------------------------------------------------------------


def test_it_learns_and_leaves_its_files(tmp_path):
    recipe = replace(TINY, base_channels=8, steps=100, keep_every=50)
    stack, validation = tiny_training()
    seen = []
    run = train(recipe, stack, tmp_path / "run", validation=validation,
                on_step=lambda run: seen.append(run.step))  # fmt: skip
    assert seen == list(range(1, 101))
    loss = run.log.column("loss")[1]
    assert np.mean(loss[-2:]) < 0.4 * loss[0]
    assert run.measures[BEST_BY] < 0.05
    assert run.best == min(run.log.column(BEST_BY)[1])
    assert run.example is not None
    assert run.example.shape == (48, 48)
    assert {p.name for p in (tmp_path / "run").iterdir() if not p.name.startswith(".")} == {
        "last.safetensors", "best.safetensors", "step-000050.safetensors",
        "step-000100.safetensors", "log.csv", "recipe.json",
    }  # fmt: skip
    last = checkpoints.load(tmp_path / "run" / "last.safetensors")
    kept = checkpoints.load(tmp_path / "run" / "step-000100.safetensors")
    assert last.step == 100
    assert all(torch.equal(last.weights[k], v) for k, v in run.net.state_dict().items())
    assert all(torch.equal(kept.weights[k], v) for k, v in last.weights.items())
    assert Recipe.from_json((tmp_path / "run" / "recipe.json").read_text()) == recipe
    assert run.log.column(BEST_BY)[0] == [20, 40, 60, 80, 100]
    assert Log.from_csv((tmp_path / "run" / "log.csv").read_text(), up_to=100) == run.log


def test_initial_weights_and_network_are_the_recipes():
    net = network_of(replace(TINY, classes=3, in_channels=2, dropout=0.25))
    assert (net.classes, net.in_channels, net.dropout.p) == (3, 2, 0.25)
    other = network_of(replace(TINY, seed=1))
    assert not torch.equal(net.contracting[0].conv2.weight, other.contracting[0].conv2.weight)


def test_two_runs_are_equal_to_the_last_bit(tmp_path):
    recipe = replace(TINY, steps=12, dropout=0.5)
    for name, workers in (("a", 0), ("b", 2)):
        losses_of(recipe, tmp_path / name, workers=workers)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    losses_of(replace(recipe, seed=1), tmp_path / "c")
    assert files(tmp_path / "a") != files(tmp_path / "c")


# -- the energy of a step -------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["weights", "mean", "sum"])
@pytest.mark.parametrize("ignore", [None, 9])
def test_energy_of_a_step_is_that_of_eq_1(tmp_path, normalisation, ignore):
    recipe = replace(TINY, batch=2, normalisation=normalisation)
    stack, _ = tiny_training(recipe)
    _, *tiles = next(iter(batches(stack, recipe)))
    recipe = replace(recipe, ignore_label=ignore)
    if ignore is not None:
        tiles[1][:, ::3] = ignore
    run = _run(recipe, stack, tmp_path)
    found = steps.gradients(run, run.net, tiles, torch.device("cpu"))
    ours = [p.grad.clone() for p in run.net.parameters()]
    run.net.zero_grad()
    expected = energy(
        run.net(tiles[0]), *tiles[1:], normalisation=normalisation, ignore_label=ignore
    )
    expected.backward()
    assert float(found) == pytest.approx(float(expected.detach()), rel=1e-6)
    for a, p in zip(ours, run.net.parameters(), strict=True):
        assert torch.allclose(a, p.grad, rtol=1e-4, atol=1e-6 * float(p.grad.abs().max()))


def _run(recipe, stack, out):
    from unet2015.train import _new_run

    return _new_run(recipe, stack, out, None, torch.device("cpu"))


@pytest.mark.parametrize("normalisation", ["weights", "mean", "sum"])
def test_accumulated_parts_make_the_step_of_the_whole_batch(tmp_path, normalisation):
    rate = 1e-2 if normalisation != "sum" else 1e-5
    recipe = replace(TINY, optimiser="sgd", momentum=0.9, schedule="constant", steps=10,
                     normalisation=normalisation, learning_rate=rate)  # fmt: skip
    curves = [
        losses_of(replace(recipe, batch=batch, accumulate=parts), tmp_path / str(batch))
        for batch, parts in ((4, 1), (2, 2), (1, 4))
    ]
    whole = checkpoints.load(tmp_path / "4" / "last.safetensors").weights
    for curve, batch in zip(curves[1:], (2, 1), strict=True):
        assert curve == pytest.approx(curves[0], rel=1e-5)
        for name, tensor in checkpoints.load(
            tmp_path / str(batch) / "last.safetensors"
        ).weights.items():
            assert torch.allclose(tensor, whole[name], rtol=1e-4, atol=1e-6), name


def test_bf16_follows_the_curve_of_fp32(tmp_path):
    """The stated bound: rows of ten steps within 20 % of the first loss, 6 % on average."""
    recipe = replace(TINY, base_channels=8, steps=100)
    full = np.array(losses_of(recipe, tmp_path / "fp32"))
    half = np.array(losses_of(replace(recipe, precision="bf16"), tmp_path / "bf16"))
    assert full[-1] < 0.3 * full[0]
    assert not np.array_equal(full, half)
    assert abs(full[0] - half[0]) < 0.01 * full[0]
    assert np.abs(full - half).max() < 0.20 * full[0]
    assert np.abs(full - half).mean() < 0.06 * full[0]
    stored = checkpoints.load(tmp_path / "bf16" / "last.safetensors")
    assert {t.dtype for t in stored.weights.values()} == {torch.float32}  # master weights


def test_compiled_network_is_asked_for_by_the_recipe(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda net: asked.append(net) or net)
    losses_of(replace(TINY, steps=1), tmp_path / "plain")
    assert asked == []
    losses_of(replace(TINY, steps=1, compile=True), tmp_path / "compiled")
    assert len(asked) == 1


# -- resume ---------------------------------------------------------------------------------------

KINDS = {
    "adam": TINY,
    "sgd": replace(TINY, optimiser="sgd", momentum=0.99, learning_rate=1e-3, dropout=0.5),
    "adamw, averaged": replace(TINY, optimiser="adamw", average_decay=0.9, weight_decay=0.01,
                               batch=2, accumulate=2, schedule="cosine"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [7, 20])
def test_a_run_interrupted_and_resumed_is_the_uninterrupted_one(tmp_path, kind, stop):
    recipe = replace(KINDS[kind], steps=24)
    losses_of(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt) as caught:
        losses_of(recipe, tmp_path / "cut", on_step=stop_after(stop))
    assert caught.value.__notes__ == [f"{stop} of 24 steps are saved; add --resume to go on"]
    assert checkpoints.load(tmp_path / "cut" / "last.safetensors").step == stop
    losses_of(recipe, tmp_path / "cut", resume=True, workers=2)
    whole, cut = files(tmp_path / "whole"), files(tmp_path / "cut")
    whole.pop("log.csv"), cut.pop("log.csv")  # has one row more, of the interrupted step
    assert cut == whole


@pytest.mark.parametrize("steps", [20, 24])
@pytest.mark.parametrize("killed_at", ["", "log", "last"])
def test_a_validation_cut_short_is_made_up_for(tmp_path, monkeypatch, steps, killed_at):
    """Also where the run that makes up for it is killed before its files agree."""
    recipe = replace(TINY, steps=steps)
    losses_of(recipe, tmp_path / "whole")
    from unet2015 import train, validate

    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    def killed(*_args, **_options):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(validate, "measured", stopped)
        with pytest.raises(KeyboardInterrupt):
            losses_of(recipe, tmp_path / "cut")
    assert checkpoints.load(tmp_path / "cut" / "last.safetensors").step == 20
    if killed_at:
        with monkeypatch.context() as patch:
            patch.setattr(train, "_save_what_is_there", lambda *_: None)
            patch.setattr(train, {"log": "write_log", "last": "save_run"}[killed_at], killed)
            with pytest.raises(SystemExit):
                losses_of(recipe, tmp_path / "cut", resume=True)
    losses_of(recipe, tmp_path / "cut", resume=True)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize("how", ["moved", "another run", "link"])
def test_b8_a_run_whose_folder_went_writes_into_no_other(tmp_path, how):
    """Its lock went with the folder, so that another run may hold the name."""
    recipe, out = replace(TINY, steps=6, checkpoint_every=2), tmp_path / "run"
    losses_of(recipe, tmp_path / "whole")
    there = {}

    def gone(run):
        if run.step != 3:
            return
        out.rename(tmp_path / "old")
        if how == "another run":
            losses_of(replace(recipe, seed=7), out)
            there.update(files(out))
        elif how == "link":
            out.symlink_to(tmp_path / "old")

    if how == "link":
        losses_of(recipe, out, on_step=gone)
        assert files(out) == files(tmp_path / "whole")
        return
    with pytest.raises(WriteError, match="was moved or replaced meanwhile") as caught:
        losses_of(recipe, out, on_step=gone)
    assert not getattr(caught.value, "__notes__", [])
    assert out.exists() == (how == "another run")
    assert not there or files(out) == there
    losses_of(recipe, tmp_path / "old", resume=True)
    assert files(tmp_path / "old") == files(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["best", "step", "validation"])
def test_a_run_stopped_while_it_saves_leaves_every_file_in_the_end(tmp_path, monkeypatch, moment):
    recipe = replace(TINY, steps=6, validate_every=2, checkpoint_every=3, keep_every=2)
    losses_of(recipe, tmp_path / "whole")
    from unet2015 import validate

    save, measured = checkpoints.save, validate.measured

    def stopped_save(path, *args, **options):
        if path.name.startswith(moment):
            signal.raise_signal(signal.SIGINT)
        save(path, *args, **options)

    def stopped_measures(*args):
        if moment == "validation":
            signal.raise_signal(signal.SIGINT)
        return measured(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", stopped_save)
        patch.setattr(validate, "measured", stopped_measures)
        with pytest.raises(KeyboardInterrupt):
            losses_of(recipe, tmp_path / "cut")
    assert checkpoints.load(tmp_path / "cut" / "last.safetensors").step == 2
    losses_of(recipe, tmp_path / "cut", resume=True)
    whole, cut = ({p.name: p.read_bytes() for p in folder.glob("*.safetensors")}
                  for folder in (tmp_path / "whole", tmp_path / "cut"))  # fmt: skip
    assert sorted(cut) == sorted(whole)
    assert cut == whole


@pytest.mark.parametrize("early", ["best.safetensors", "step-000002.safetensors"])
def test_checkpoints_of_a_run_killed_before_its_first_last_are_a_run(tmp_path, early):
    recipe = replace(TINY, steps=2, validate_every=2, keep_every=2)
    losses_of(recipe, tmp_path)
    whole = files(tmp_path)
    for name in {"best.safetensors", "step-000002.safetensors", "last.safetensors"} - {early}:
        (tmp_path / name).unlink()
    with pytest.raises(WriteError, match=f"holds a run, killed after {early} .*--resume"):
        losses_of(recipe, tmp_path)
    with pytest.raises(UsageFault, match=r"another recipe \(base_channels 2 -> 3\)"):
        losses_of(replace(recipe, base_channels=3), tmp_path, resume=True)
    losses_of(recipe, tmp_path, resume=True)
    assert files(tmp_path) == whole


def test_a_finished_run_is_resumed_to_itself(tmp_path):
    recipe = replace(TINY, steps=10)
    losses_of(recipe, tmp_path)
    before = files(tmp_path)
    losses_of(recipe, tmp_path, resume=True)
    assert files(tmp_path) == before


def test_more_steps_may_be_asked_for_and_the_new_curve_is_told(tmp_path):
    stack, _ = tiny_training()
    train(replace(TINY, steps=10), stack, tmp_path)
    run = train(replace(TINY, steps=12), stack, tmp_path, resume=True)
    assert run.step == 12
    assert "steps 10 -> 12: the learning rate follows another curve now" in run.warnings
    written = Recipe.from_json((tmp_path / "recipe.json").read_text())
    assert written == run.recipe  # what a further --resume --recipe is pointed to
    with pytest.raises(UsageFault, match="has 12 steps already; --steps 10 is less"):
        train(replace(TINY, steps=10), stack, tmp_path, resume=True)


def test_e10_another_recipe_data_network_or_scaling_is_refused(tmp_path):
    recipe = replace(TINY, steps=2)
    stack, validation = tiny_training()
    train(recipe, stack, tmp_path)
    with pytest.raises(UsageFault, match=r"another recipe \(scale 'dtype-range' -> 'none'\)"):
        train(replace(recipe, scale="none"), stack, tmp_path, resume=True)
    with pytest.raises(UsageFault, match=r"learning_rate 0\.01 -> 0\.1; momentum|momentum .*0\.1"):
        train(replace(recipe, learning_rate=0.1, momentum=0.5), stack, tmp_path, resume=True)
    other = replace(stack, images=[255 - image for image in stack.images])
    with pytest.raises(InputError, match="was started on other images, labels or weights"):
        train(recipe, other, tmp_path, resume=True)
    with pytest.raises(ModelFileError, match="holds another network"):
        train(recipe, stack, tmp_path, network_of(replace(recipe, dropout=0.3)), resume=True)
    last = tmp_path / "last.safetensors"
    state = checkpoints.load(last)
    checkpoints.save(last, replace(state, preprocessing={"scale": "none"}), overwrite=True)
    with pytest.raises(ModelFileError, match="trained on images scaled by 'none'"):
        train(recipe, stack, tmp_path, resume=True)
    checkpoints.save(last, replace(state, optimiser={}), overwrite=True)
    with pytest.raises(ModelFileError, match="holds no state of the optimiser"):
        train(recipe, stack, tmp_path, resume=True)
    versions = {**state.provenance["versions"], "torch": "2.10.0"}
    older = {**state.provenance, "versions": versions}
    checkpoints.save(last, replace(state, provenance=older), overwrite=True)
    run = train(recipe, stack, tmp_path, validation=validation, resume=True)
    assert "started with torch 2.10.0: the same bits cannot be expected" in run.warnings
    for name in ("best", "skipped", "held_out", "data", "versions"):
        strange = {**state.provenance, name: [1]}
        checkpoints.save(last, replace(state, provenance=strange), overwrite=True)
        with pytest.raises(ModelFileError, match=rf"{name} = \[1\] was not written by us"):
            train(recipe, stack, tmp_path, validation=validation, resume=True)


@pytest.mark.parametrize("change", ["edited", "torn", "gone"])
def test_a_recipe_file_that_was_edited_is_not_its_own_remedy(tmp_path, change):
    recipe = replace(TINY, steps=2)
    stack, _ = tiny_training()
    train(recipe, stack, tmp_path)
    edited = replace(recipe, learning_rate=0.1)
    with pytest.raises(UsageFault, match=r"resume it with --recipe .*recipe\.json$"):
        train(edited, stack, tmp_path, resume=True)
    path = tmp_path / "recipe.json"
    if change == "gone":
        path.unlink()
    else:
        path.write_text(edited.to_json() if change == "edited" else '{"seed": ')
    with pytest.raises(UsageFault, match=r"recipe\.json has been changed .*`unet2015 info .*last"):
        train(edited, stack, tmp_path, resume=True)


def test_other_held_out_slices_are_other_data(tmp_path):
    recipe = replace(TINY, steps=2)
    stack, validation = tiny_training()
    train(recipe, stack, tmp_path, validation=validation)
    mended = replace(validation, labels=[1 - label for label in validation.labels])
    with pytest.raises(InputError, match="was started on other images, labels or weights"):
        train(recipe, stack, tmp_path, validation=mended, resume=True)
    assert train(recipe, stack, tmp_path, validation=validation, resume=True).step == 2


def test_a_flipped_bit_in_the_last_checkpoint_is_refused(tmp_path):
    recipe = replace(TINY, steps=2)
    losses_of(recipe, tmp_path)
    last = tmp_path / "last.safetensors"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    last.write_bytes(damaged)
    with pytest.raises(ModelFileError, match=r"damaged|SHA-256|hash"):
        losses_of(recipe, tmp_path, resume=True)


@pytest.mark.parametrize("steps", [20, 40])
@pytest.mark.parametrize("kind", ["missing", "damaged", "of another run", "kept"])
def test_a_best_that_is_lost_is_told_and_made_again(tmp_path, kind, steps):
    recipe = replace(TINY, steps=40)
    stack, validation = tiny_training()
    losses_of(replace(recipe, seed=1, steps=20), tmp_path / "other")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, stack, tmp_path, validation=validation, on_step=stop_after(steps))
    best, last = tmp_path / "best.safetensors", checkpoints.load(tmp_path / "last.safetensors")
    if kind == "missing":
        best.unlink()
    elif kind == "damaged":
        best.write_bytes(best.read_bytes()[:-1] + b"\xff")
    elif kind == "of another run":
        best.write_bytes((tmp_path / "other" / best.name).read_bytes())
    run = train(recipe, stack, tmp_path, validation=validation, resume=True)
    told = [line for line in run.warnings if "the best checkpoint so far is lost" in line]
    assert len(told) == (kind != "kept")
    found = checkpoints.load(best)
    assert found.recipe == recipe.to_dict()
    assert found.provenance["best"] == run.best
    assert last.step == steps


@pytest.mark.parametrize("name", ["best.safetensors", "log.csv", "recipe.json"])
def test_a_file_of_the_run_that_cannot_be_read_just_now_is_kept(tmp_path, monkeypatch, name):
    recipe = replace(TINY, steps=20)
    losses_of(recipe, tmp_path)
    before = files(tmp_path)
    for module, call in ((os, "open"), (io, "open")):
        real = getattr(module, call)

        def failing(path, *args, real=real, **options):
            if str(path) == str(tmp_path / name):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(path, *args, **options)

        monkeypatch.setattr(module, call, failing)
    with pytest.raises(InputError, match=rf"{name}: cannot be .*: Input/output error"):
        losses_of(recipe, tmp_path, resume=True)
    monkeypatch.undo()
    assert files(tmp_path) == before


def test_a_trained_network_knows_how_its_images_were_scaled(tmp_path):
    recipe = replace(TINY, steps=2, scale="percentile")
    stack, _ = tiny_training(recipe)
    stack = scaled_stack(stack, recipe.scale)
    net = network_of(recipe)
    vars(net)["scale"] = "dtype-range"  # of an earlier training
    run = train(recipe, stack, tmp_path, net=net)
    assert run.net.scale == checkpoints.load(tmp_path / "last.safetensors").preprocessing["scale"]


@pytest.mark.parametrize(
    "lost", ["kept", "bom", "absent", "empty", "zeros", "head", "semicolons", "huge"]
)
def test_a_lost_log_is_told_and_never_read_whole(tmp_path, lost):
    recipe = replace(TINY, steps=20)
    losses_of(recipe, tmp_path)
    log, before = tmp_path / "log.csv", files(tmp_path)
    log_text = log.read_bytes()
    if lost == "absent":
        log.unlink()
    changed = {
        "bom": "\ufeff".encode() + log_text, "empty": b"", "zeros": bytes(1000),
        "head": log_text.partition(b"\n")[0] + b"\n", "semicolons": log_text.replace(b",", b";"),
    }  # fmt: skip
    if lost in changed:
        log.write_bytes(changed[lost])
    if lost == "huge":
        os.truncate(log, 1 << 40)
        os.truncate(tmp_path / "recipe.json", 1 << 40)
    stack, _ = tiny_training(recipe)
    run = train(replace(recipe, steps=40), stack, tmp_path, resume=True)
    told = [line for line in run.warnings if "log.csv of the steps so far is lost" in line]
    assert len(told) == (lost not in ("kept", "bom"))
    assert sorted(run.log.rows) == ([30, 40] if told else [10, 20, 30, 40])
    assert files(tmp_path).keys() == before.keys()
    assert log.stat().st_size < 1000


@pytest.mark.parametrize("name", ["log.csv", "report.html", "last.safetensors"])
def test_what_lies_where_a_file_will_is_refused_before_the_work(tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    words = ("train", "no.tif", "no.tif", "--out", f"{tmp_path}/run", "--resume")
    assert main(words) == 5


def test_a_folder_with_a_run_or_in_use_is_refused(tmp_path):
    recipe = replace(TINY, steps=1)
    losses_of(recipe, tmp_path / "run")
    with pytest.raises(WriteError, match="already holds a run; add --resume"):
        losses_of(recipe, tmp_path / "run")
    with OutputLock(tmp_path / "run" / "run"), pytest.raises(LockedError):
        losses_of(recipe, tmp_path / "run", resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="cannot be made a folder"):
        losses_of(recipe, tmp_path / "file")


def test_a_tile_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    stack, _ = tiny_training()
    with pytest.raises(UsageFault, match=r"tile_px 45 does not fit .* nearest: 44 or 46"):
        train(replace(TINY, tile_px=45), stack, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- a network that says the same everywhere ------------------------------------------------------


def test_the_constant_solution_is_called_out_after_three_evaluations(tmp_path):
    stack, validation = tiny_training()
    recipe = replace(TINY, steps=6, validate_every=1, learning_rate=0.0)
    net = network_of(recipe)
    with torch.no_grad():
        net.score.weight.zero_()
    told = []
    run = train(recipe, stack, tmp_path, net, validation=validation,
                on_step=lambda run: told.append(len(run.warnings)))  # fmt: skip
    assert run.constant_evaluations == 6
    assert told == [1, 1, 2, 2, 2, 2]
    assert "predicted the same class everywhere for 3 evaluations" in run.warnings[1]
    assert "learning rate is 0" in run.warnings[0]
    assert math.isclose(run.loss, math.log(2), rel_tol=1e-5)


def test_b8_a_folder_held_twice_is_looked_after_once(tmp_path):
    with holding(tmp_path / "run"), holding(tmp_path / "run"):
        check_held(tmp_path / "run")
        (tmp_path / ".run.lock").rename(tmp_path / "elsewhere")
        with pytest.raises(WriteError, match="was moved or replaced"):
            check_held(tmp_path / "run")
        (tmp_path / "elsewhere").unlink()
        with pytest.raises(WriteError, match=r"removed meanwhile, or its lock \.run\.lock was, so"):
            check_held(tmp_path / "run")


def test_a_foreign_network_is_refused_before_the_first_step(tmp_path):
    net = torch.nn.Conv2d(1, 2, 3)
    with pytest.raises(UsageFault, match="Conv2d has no place in a checkpoint; use a UNet, or add"):
        train(TINY, tiny_training()[0], tmp_path / "run", net=net)
    assert not (tmp_path / "run").exists()
