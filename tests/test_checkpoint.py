"""The checkpoint file: same content, same bytes; and nothing gets in that does not belong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from tiling.faults import Fault, NumericsError, UsageFault, WriteError
from unet2015.checkpoint import (
    Checkpoint,
    build_network,
    copy_weights,
    describe_network,
    load,
    require_safe_torch,
    save,
)
from unet2015.net import UNet, init_paper_weights
from unet2015.recipe import quick
from unet2015.variants.release import ReleaseUNet


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same images in each test, whatever ran before."""
    torch.manual_seed(0)


def tiny(seed=0, **changes) -> Checkpoint:
    net = UNet(base_channels=1, depth=1)
    init_paper_weights(net, seed)
    checkpoint = Checkpoint(
        network=describe_network(net),
        weights={name: tensor.clone() for name, tensor in net.state_dict().items()},
        recipe=dataclasses.asdict(quick()),
        step=1500,
        measures={"v_info": 0.97, "pixel_error": None},
        provenance={"images": "sha256:0", "note": "Zürich \udcff \N{MICROSCOPE}"},
        optimiser={
            "momentum/score.weight": torch.randn(2, 1, 1, 1),
            "step": torch.tensor(1500),
            "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
            "flags": torch.tensor([True, False, True]),
            "nothing": torch.empty(0, 3),
        },
        averaged={name: tensor.clone() * 0.5 for name, tensor in net.state_dict().items()},
    )
    return dataclasses.replace(checkpoint, **changes)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(
        torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a
    )


def test_everything_comes_back(tmp_path):
    checkpoint = tiny()
    save(tmp_path / "a", checkpoint)
    back = load(tmp_path / "a")
    for group in ("weights", "optimiser", "averaged"):
        assert same(getattr(back, group), getattr(checkpoint, group))
    for name in ("network", "recipe", "preprocessing", "step", "measures", "provenance"):
        assert getattr(back, name) == getattr(checkpoint, name)


def test_save_load_save_is_byte_identical_whatever_the_order_of_keys(tmp_path):
    checkpoint = tiny()
    save(tmp_path / "a", checkpoint)
    save(tmp_path / "b", load(tmp_path / "a"))
    backwards = {
        field.name: dict(reversed(value.items()))
        for field in dataclasses.fields(checkpoint)
        if isinstance(value := getattr(checkpoint, field.name), dict)
    }
    save(tmp_path / "c", dataclasses.replace(checkpoint, **backwards))
    bytes_a = (tmp_path / "a").read_bytes()
    assert bytes_a == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_strided_expanded_and_shared_tensors_are_stored_as_what_they_show(tmp_path):
    checkpoint = tiny()
    odd = {
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "expanded": torch.tensor([2.0]).expand(4),
        "step-2": torch.arange(10.0)[::2],
        "leaf": torch.ones(2, requires_grad=True),
    }
    save(tmp_path / "a", dataclasses.replace(checkpoint, optimiser=odd))
    back = load(tmp_path / "a").optimiser
    assert all(torch.equal(back[name], odd[name]) for name in odd)
    assert not back["leaf"].requires_grad


def test_the_file_is_plain_safetensors(tmp_path):
    checkpoint = tiny()
    save(tmp_path / "a.safetensors", checkpoint)
    others = safetensors.torch.load_file(tmp_path / "a.safetensors")
    ours = {f"weights/{name}": tensor for name, tensor in checkpoint.weights.items()}
    assert all(torch.equal(others[name], tensor) for name, tensor in ours.items())
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata()["format"] == "unet2015/1"
        assert json.loads(file.metadata()["content"])["step"] == 1500


def test_built_network_computes_what_the_saved_one_did(tmp_path):
    net = UNet(2, 3, base_channels=2, depth=2, dropout=0.25)
    init_paper_weights(net, seed=4)
    save(tmp_path / "a", Checkpoint(network=describe_network(net), weights=net.state_dict()))
    checkpoint = load(tmp_path / "a")
    again = build_network(checkpoint)
    image = torch.rand(1, 2, 60, 64)
    with torch.no_grad():
        assert torch.equal(net.eval()(image), again.eval()(image))
    assert again.dropout.p == 0.25
    assert all(p.requires_grad for p in again.parameters())
    with torch.no_grad():
        again.score.weight.zero_()
    assert torch.equal(checkpoint.weights["score.weight"], net.score.weight)


def test_averaged_weights_are_used_unless_others_are_asked_for():
    checkpoint = tiny()
    net = build_network(checkpoint, use_averaged=True)
    assert torch.equal(net.score.weight, checkpoint.weights["score.weight"] * 0.5)
    assert torch.equal(build_network(checkpoint).score.weight, net.score.weight)  # as predict does
    last = build_network(checkpoint, use_averaged=False)
    assert torch.equal(last.score.weight, checkpoint.weights["score.weight"])
    with pytest.raises(ValueError, match="holds no averaged weights"):
        build_network(dataclasses.replace(checkpoint, averaged={}), use_averaged=True)


def test_release_form_travels_too(tmp_path):
    net = ReleaseUNet(base_channels=1)
    save(tmp_path / "a", Checkpoint(network=describe_network(net), weights=net.state_dict()))
    assert isinstance(build_network(load(tmp_path / "a")), ReleaseUNet)


def test_existing_file_is_kept_unless_overwrite(tmp_path):
    save(tmp_path / "a", tiny(0))
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(WriteError, match="overwrite"):
        save(tmp_path / "a", tiny(1))
    assert (tmp_path / "a").read_bytes() == before
    save(tmp_path / "a", tiny(1), overwrite=True)
    assert (tmp_path / "a").read_bytes() != before
    assert os.listdir(tmp_path) == ["a"]


def test_what_cannot_be_saved_is_refused_before_the_file_is_touched(tmp_path):
    checkpoint = tiny()
    network, weights = checkpoint.network, checkpoint.weights
    missing = {name: tensor for name, tensor in weights.items() if name != "score.bias"}
    cases = {
        "kind 'vgg' is none of": {"network": {**network, "kind": "vgg"}},
        "depth = 99": {"network": {**network, "depth": 99}},
        "dropout = 10": {"network": {**network, "dropout": 10**400}},
        "preprocessing: 'scale'": {"preprocessing": {}},
        "score.bias .* missing": {"weights": missing},
        "float64 in the weights": {"weights": {n: t.double() for n, t in weights.items()}},
        "unknown field 'colour'": {"recipe": {"colour": 1}},
        "not JSON compliant|Out of range": {"measures": {"v_rand": float("nan")}},
        "step = -1": {"step": -1},
        "network is a list": {"network": []},
    }
    for words, changes in cases.items():
        with pytest.raises(ValueError, match=words):
            save(tmp_path / "a", dataclasses.replace(checkpoint, **changes))
    strange = {"x": torch.zeros(2, dtype=torch.complex64)}
    with pytest.raises(TypeError, match="complex64"):
        save(tmp_path / "a", dataclasses.replace(checkpoint, optimiser=strange))
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(tmp_path / "a", dataclasses.replace(checkpoint, provenance={"x": object()}))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("group", ["weights", "averaged", "optimiser"])
def test_a_state_that_is_not_finite_is_never_published(tmp_path, group, value):
    save(tmp_path / "a", tiny())
    before = (tmp_path / "a").read_bytes()
    checkpoint = tiny()
    next(iter(getattr(checkpoint, group).values())).view(-1)[0] = value
    with pytest.raises(NumericsError, match=f"{group} .* has 1 values of NaN or Inf"):
        save(tmp_path / "a", checkpoint, overwrite=True)
    assert (tmp_path / "a").read_bytes() == before


def test_copy_weights_names_the_first_layer_that_differs_and_copies_nothing():
    net = UNet(base_channels=4, depth=3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    other = UNet(base_channels=2, depth=2).state_dict()
    with pytest.raises(ValueError, match=r"contracting.0.conv1.weight is \(2, 1, 3, 3\) .*"
                       r"\(4, 1, 3, 3\) .*base_channels=2, depth=2"):  # fmt: skip
        copy_weights(net, other)
    extra = {**net.state_dict(), "norm.weight": torch.ones(4)}
    with pytest.raises(ValueError, match=r"norm.weight is in the weights but not in the network"):
        copy_weights(net, extra)
    with pytest.raises(ValueError, match="another architecture"):
        copy_weights(net, {"encoder.weight": torch.ones(4)})
    with pytest.raises(ValueError, match="release2015"):
        copy_weights(net, ReleaseUNet(base_channels=4).state_dict())
    assert same(before, net.state_dict())


def test_describe_network_refuses_strangers():
    with pytest.raises(TypeError, match="Linear has no place"):
        describe_network(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0+cpu", "2.6.0a0", "unknown"])
def test_a_torch_older_than_the_floor_is_refused_with_the_cve(version, tmp_path, monkeypatch):
    with pytest.raises(UsageFault, match=r"CVE-2026-24747.*install torch >= 2\.10"):
        require_safe_torch(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0.dev2027", torch.__version__])
def test_a_torch_at_or_above_the_floor_is_accepted(version):
    require_safe_torch(version)


def test_a_failing_write_at_any_call_leaves_the_predecessor(tmp_path, monkeypatch):
    """Fault A2 in process: the N-th write, sync or rename of `save` raises, for every N."""
    save(tmp_path / "a", tiny(0))
    before = (tmp_path / "a").read_bytes()
    real = {name: getattr(os, name) for name in ("write", "fsync", "replace", "pwrite")}
    for n in range(100):
        calls = 0

        def counted(name, n=n):
            def call(*arguments, **keywords):
                nonlocal calls
                calls += 1
                if calls == n + 1:
                    raise OSError(28, "No space left on device")
                return real[name](*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            for name in real:
                patch.setattr(os, name, counted(name))
            try:
                save(tmp_path / "a", tiny(1), overwrite=True)
            except Fault:
                pass
            else:
                break
        now = (tmp_path / "a").read_bytes()
        # The last call is the sync of the folder, after the rename: the new file is whole.
        assert now == before or load(tmp_path / "a").step == 1500
        assert os.listdir(tmp_path) == ["a"]
    assert n >= 3
    assert (tmp_path / "a").read_bytes() != before


def test_building_a_network_needs_no_slow_import(tmp_path):
    save(tmp_path / "a.safetensors", tiny())
    code = (
        "import sys; from unet2015.checkpoint import build_network, load\n"
        "build_network(load(sys.argv[1])); print('sympy' in sys.modules)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "a.safetensors")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
