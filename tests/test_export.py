"""Exported files compute what the network does, in the programs that read them."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile

import numpy as np
import pytest
import torch

from tiling.faults import ModelFileError, UsageFault, WriteError
from unet2015 import cli
from unet2015.checkpoint import Checkpoint, build_network, describe_network, save
from unet2015.export import export_bioimageio, export_onnx, export_pt2
from unet2015.net import UNet, init_paper_weights, margin, output_side
from unet2015.traced import SizeLaw, difference
from unet2015.zoo_package import zoo_package

# torch, onnxscript and bioimageio leave files open and use what their successors deprecate.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same images in each test, whatever ran before."""
    torch.manual_seed(0)


def checkpoint(depth: int, **changes: object) -> Checkpoint:
    net = UNet(base_channels=2, depth=depth)
    init_paper_weights(net, seed=depth)
    averaged = {name: 0.9 * tensor for name, tensor in net.state_dict().items()}
    return Checkpoint(
        network=describe_network(net),
        weights=net.state_dict(),
        averaged=averaged,
        **{"step": 5, **changes},
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_the_stated_size_laws_are_those_of_the_network(depth):
    law = SizeLaw.of_network(depth)
    assert output_side(law.smallest, depth) == law.smallest - law.shrink
    assert (law.smallest - law.rest) % law.period == 0
    same = SizeLaw.of_same_size(depth)
    halo = (same.smallest - same.period) // 2
    assert halo == margin(depth) + 4 == 6 * 2**depth
    assert output_side(same.smallest - 4, depth) == same.period + 4


def test_onnx_states_its_size_law_and_equals_torch(tmp_path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    ours = checkpoint(4)
    worst = export_onnx(ours, tmp_path / "a.onnx")
    assert worst < 1e-4
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model)
    sides = [
        [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0])
    ]
    assert sides == [["n", 1, "16*k + 12", "16*m + 12"], ["n", 2, "16*k - 172", "16*m - 172"]]
    about = json.loads({p.key: p.value for p in model.metadata_props}["unet2015"])
    assert about == {"network": ours.network, "preprocessing": ours.preprocessing}
    assert b"net.py" not in (tmp_path / "a.onnx").read_bytes()  # nor whose folder it was made in
    session = runtime.InferenceSession(str(tmp_path / "a.onnx"))
    image = torch.rand(1, 1, 188, 252)
    (found,) = session.run(None, {"image": image.numpy()})
    with torch.no_grad():
        wanted = build_network(ours).eval()(image).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * wanted.std()


def test_pt2_equals_torch_and_refuses_illegal_sizes(tmp_path):
    ours = checkpoint(2)
    assert export_pt2(ours, tmp_path / "a.pt2", use_averaged=True) < 1e-5
    assert b"net.py" not in (tmp_path / "a.pt2").read_bytes()
    program = torch.export.load(io.BytesIO((tmp_path / "a.pt2").read_bytes())).module()
    image = torch.rand(3, 1, 60, 44)
    with torch.no_grad():
        wanted = build_network(ours, use_averaged=True).eval()(image)
        assert torch.allclose(program(image), wanted, atol=1e-5)
        with pytest.raises((AssertionError, RuntimeError)):
            program(torch.rand(1, 1, 61, 44))


def test_the_order_of_hashes_changes_no_byte_of_a_pt2(tmp_path, monkeypatch):
    real = torch.export.export

    def reversed_ranges(*args, **options):
        traced = real(*args, **options)
        ranges = list(traced.range_constraints.items())
        traced.range_constraints.clear()
        traced.range_constraints.update(reversed(ranges))
        return traced

    export_pt2(checkpoint(1), tmp_path / "a.pt2")
    monkeypatch.setattr(torch.export, "export", reversed_ranges)
    export_pt2(checkpoint(1), tmp_path / "b.pt2")
    assert (tmp_path / "a.pt2").read_bytes() == (tmp_path / "b.pt2").read_bytes()


def test_bioimageio_package_passes_the_zoos_test_and_tiles_like_ours(tmp_path, monkeypatch):
    core = pytest.importorskip("bioimageio.core")
    pytest.importorskip("onnxscript")
    ours = checkpoint(3, measures={"v_info": 0.9})
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", f"{tmp_path}/temporary")
    card = {"authors": ["Ann Author"], "licence": "CC-BY-4.0"}
    export_bioimageio(ours, tmp_path / "a.zip", **card)
    assert {path.name[:6] for path in (tmp_path / "temporary").iterdir()} <= {"torchi"}
    with zipfile.ZipFile(tmp_path / "a.zip") as package:
        assert {"README.md", "weights.onnx", "test_input.npy"} <= set(package.namelist())
        assert {entry.date_time[0] for entry in package.infolist()} == {1980}  # the same bytes
        assert b"mode: reflect" in package.read("rdf.yaml")
        assert b'"v_info": 0.9' in package.read("README.md")
        package.extractall(tmp_path / "a")  # bioimageio leaves a zip file open
    image = np.random.default_rng(0).integers(0, 256, (1, 1, 160, 200), dtype=np.uint8)
    sample = core.predict(model=tmp_path / "a" / "rdf.yaml", inputs=image, blocksize_parameter=6)
    (tensor,) = sample.members.values()
    found = np.asarray(tensor.data)
    # One pass over the whole image, mirrored by the margin and up to the next legal side.
    net = build_network(ours).eval()
    more = net.margin + 4  # 160 and 200 are multiples of 8, legal sides are 8k + 4
    whole = np.pad(image[0, 0], (net.margin, more), mode="reflect").astype(np.float32) / 255
    with torch.no_grad():
        wanted = net(torch.from_numpy(whole)[None, None]).softmax(dim=1).numpy()
    assert found.shape == (1, 2, 160, 200)
    assert np.abs(found - wanted[..., :160, :200]).max() < 1e-5


def test_what_the_zoos_classes_leave_behind_is_removed_also_when_interrupted(tmp_path, monkeypatch):
    before = tempfile.gettempdir()

    def leaves(*_args):
        tempfile.mkdtemp()
        raise KeyboardInterrupt

    monkeypatch.setattr("unet2015.zoo_package._described", leaves)
    with pytest.raises(KeyboardInterrupt):
        zoo_package("a.zip", tmp_path, checkpoint(1), {}, 1.0)
    assert len(list(tmp_path.iterdir())) == 1
    assert tempfile.gettempdir() == before


@pytest.mark.parametrize(
    ("export", "package", "extra"),
    [
        (export_onnx, "onnxscript", "onnx"),
        (export_onnx, "onnxruntime", "onnx"),
        (export_bioimageio, "bioimageio.core", "bioimageio"),
    ],
)
def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch, export, package, extra):
    import importlib.util

    real = importlib.util.find_spec
    missing = {package}
    monkeypatch.setattr(
        "unet2015.traced.importlib.util.find_spec",
        lambda name: None if name in missing else real("json"),
    )
    words = rf"needs the package {package}.*pip install 'unet2015\[{extra}\]'"
    with pytest.raises(UsageFault, match=words):
        export(checkpoint(1), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(WriteError, match="overwrite"):
        export_pt2(checkpoint(1), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_the_command_exports_the_weights_that_predict_uses(tmp_path):
    ours = checkpoint(2)
    save(tmp_path / "a.safetensors", ours)
    words = ["export", f"{tmp_path}/a.safetensors", "--to", "pt2", "--out", f"{tmp_path}/a.pt2"]
    assert cli.main(words) == 0
    program = torch.export.load(io.BytesIO((tmp_path / "a.pt2").read_bytes())).module()
    image = torch.rand(1, 1, 60, 44)
    with torch.no_grad():
        averaged, last = (build_network(ours, use_averaged=k).eval()(image) for k in (True, False))
        assert torch.allclose(program(image), averaged, atol=1e-5)
        assert not torch.allclose(program(image), last, atol=1e-5)


@pytest.mark.parametrize("words", [["export", "--to", "pt2"], ["import-caffe"]])
def test_b6_the_only_weights_are_never_the_output(words, tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.safetensors", checkpoint(1))
    before = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "b").symlink_to(tmp_path / "a.safetensors")
    monkeypatch.setattr("unet2015.caffe.load_caffemodel", lambda _: checkpoint(2))
    for out in ("a.safetensors", "b"):
        verb, *rest = words
        given = [verb, f"{tmp_path}/a.safetensors", *rest, "--out", f"{tmp_path}/{out}"]
        assert cli.main([*given, "--overwrite"]) == 5
        assert "is also the input" in capsys.readouterr().err
        assert (tmp_path / "a.safetensors").read_bytes() == before


def test_the_type_of_the_images_goes_with_the_zoo_only(tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.safetensors", checkpoint(1))
    given = {}
    monkeypatch.setattr("unet2015.export.export_bioimageio", lambda *_, **k: given.update(k))
    words = ["export", f"{tmp_path}/a.safetensors", "--out", f"{tmp_path}/a", "--input-dtype"]
    assert cli.main([*words, "uint16", "--to", "bioimageio"]) == 0
    assert given == {"input_dtype": "uint16", "overwrite": False}
    assert cli.main([*words, "uint16", "--to", "onnx"]) == 2
    assert "it goes with --to bioimageio only" in capsys.readouterr().err


def test_a_scaling_the_zoo_cannot_express_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("unet2015.export.require", lambda *_: None)
    odd = checkpoint(1, preprocessing={"scale": "percentile"})
    with pytest.raises(UsageFault, match="cannot be told to the Model Zoo"):
        export_bioimageio(odd, tmp_path / "a.zip")
    with pytest.raises(UsageFault, match="int64"):
        export_bioimageio(checkpoint(1), tmp_path / "a.zip", input_dtype="int64")


def test_an_export_that_computes_something_else_is_refused():
    wanted = np.random.default_rng(0).normal(size=(1, 2, 4, 4))
    assert difference("a", wanted, wanted) == 0
    with pytest.raises(ModelFileError, match="differs from torch"):
        difference("a", wanted + 1e-3, wanted)
    with pytest.raises(ModelFileError, match="differs from torch"):
        difference("a", wanted * np.nan, wanted)
    with pytest.raises(ModelFileError, match="gives"):
        difference("a", wanted[..., 1:], wanted)


def test_info_of_a_zoo_package_names_who_reads_it(tmp_path):
    from tiling.faults import InputError
    from unet2015.info import describe

    with zipfile.ZipFile(tmp_path / "unet.zip", "w") as package:
        package.writestr("bioimageio.yaml", "name: a")
    with pytest.raises(InputError, match="Model Zoo package; ask `bioimageio test`"):
        describe(tmp_path / "unet.zip")
