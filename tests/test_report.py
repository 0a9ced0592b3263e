"""The report: pictures that show what they claim, a page that loads nothing and runs nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiling.faults import WriteError
from unet2015 import report
from unet2015.report import Column, KeyFigure, ReportData, SliceView, Table
from unet2015.report_colours import (
    BLUE,
    VERMILION,
    error_rgb,
    grey_rgb,
    instances_rgb,
    overlay_rgb,
    shrunk,
    unit_probability,
)
from unet2015.report_numbers import column_texts, text


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture(scope="module")
def cells():
    """Image, instances, truth and probability of 2 x 3 cells with walls of one pixel."""
    truth = np.zeros((41, 61), np.uint8)
    instances = np.zeros(truth.shape, np.uint16)
    for k in range(6):
        window = np.s_[(k // 3) * 20 + 1 : (k // 3) * 20 + 20, (k % 3) * 20 + 1 : (k % 3) * 20 + 20]
        truth[window], instances[window] = 255, k + 1
    image = np.where(truth > 0, 180, 60).astype(np.uint8)
    return image, instances, truth, np.where(truth > 0, 0.9, 0.2).astype(np.float32)


@pytest.fixture(scope="module")
def full(cells):
    image, instances, truth, probability = cells
    rows = {step: {"loss": 1 / step, "v_info": 1 - 1 / step} for step in range(10, 60, 10)}
    return ReportData(
        "Cells & <walls>",
        lead="A lead.",
        warnings=("Careful: <nothing> learnt.",),
        key_figures=(KeyFigure("wrong pixels", 0.0612, "constant 0.2"), KeyFigure("seam", 2e-7)),
        measures=Table(
            (Column("wrong pixels", "lower"), Column("V_Info", "higher")),
            (("ours", 0.06, 0.97), ("blurred threshold", 0.15, 0.9), ("constant", 0.2, None)),
            caption="Held out.",
        ),
        figure3=report.figure3_panel(image, instances, truth, (truth == 0) * 5.0),
        curves=report.learning_curves(rows),
        slices=report.best_and_worst([image, image], [probability, 1 - probability], [truth] * 2),
        seams={"tiles": 6, "largest difference": 2.4e-7, "passed": True},
        seam_picture=report.seam_picture(probability, 16),
        recipe={"w0": 10.0, "sigma_px": 5.0, "border_weight": True, "ignore_label": None},
        commands=("unet2015 sample 'a <b>'", "unet2015 demo"),
        versions={"numpy": np.__version__},
        provenance={"images": "0" * 64},
    )


# --- colours -------------------------------------------------------------------------------------


def test_error_map_colours_each_kind_of_error():
    image = np.full((2, 2), 100)
    probability = np.array([[0.9, 0.1], [0.9, 0.1]])  # inside, membrane / inside, membrane
    truth = np.array([[0, 255], [255, 0]])
    picture = error_rgb(image, probability, truth)
    assert tuple(picture[0, 0]) == VERMILION  # membrane called inside: merges
    assert tuple(picture[0, 1]) == BLUE  # inside called membrane: splits
    for right in (picture[1, 0], picture[1, 1]):
        assert np.ptp(right.astype(int)) == 0  # grey where it is right
    assert picture[1, 1].sum() < picture[1, 0].sum()  # the true membrane is darker


def test_overlay_is_stronger_where_membrane_is_surer():
    image = np.array([[0, 255, 128, 128, 128]])
    picture = overlay_rgb(image, np.array([[1, 1, 1.0, 0.5, 0.0]])).astype(int)
    tint = picture[0, 2:, 0] - picture[0, 2:, 2]  # red minus blue
    assert tint[0] == 0 < tint[1] < tint[2]
    assert (overlay_rgb(image, np.ones((1, 5))) == grey_rgb(image)).all()


def test_integer_probabilities_use_their_whole_range():
    assert unit_probability(np.array([0, 65535], np.uint16)).tolist() == [0, 1]
    as_bytes = overlay_rgb(np.eye(3), (255 * np.eye(3)).astype(np.uint8))
    assert (as_bytes == overlay_rgb(np.eye(3), np.eye(3))).all()


def test_facing_instances_differ_in_colour():
    rng = np.random.default_rng(3)
    points = rng.integers(0, 96, (40, 2))
    grid = np.stack(np.mgrid[:96, :96], -1)
    near = np.argsort(((grid[:, :, None] - points) ** 2).sum(-1), axis=-1)
    ids = near[..., 0] * 1000 + 5  # not consecutive, no background
    ids[:, ::7] = 0
    picture = instances_rgb(np.full(ids.shape, 200), ids).astype(int)
    for a, b in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        border = (ids[a] != ids[b]) & (ids[a] > 0) & (ids[b] > 0)
        assert (picture[a] != picture[b]).any(axis=-1)[border].all()


def test_background_and_empty_slices_stay_grey():
    for ids in (np.zeros((4, 5), int), np.array([[0, 3, 3, 3, 0]] * 4)):
        picture = instances_rgb(np.arange(20).reshape(4, 5), ids).astype(int)
        assert (np.ptp(picture, axis=-1)[ids == 0] == 0).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int32", "bool"])
def test_grey_is_stretched_whatever_the_type(dtype):
    values = np.array([[0, 1], [1, 0]]).astype(dtype)
    if dtype in ("uint16", "int32"):
        values = values * 4000
    assert grey_rgb(values)[..., 0].tolist() == [[0, 255], [255, 0]]


def test_a_constant_or_broken_image_is_drawn_without_warning():
    assert grey_rgb(np.full((3, 3), 7)).shape == (3, 3, 3)
    assert grey_rgb(np.array([[np.nan, np.inf], [0, 1]])).dtype == np.uint8


def test_inputs_are_not_modified(cells):
    copies = [array.copy() for array in cells]
    for array in copies:
        array.setflags(write=False)
    image, instances, truth, probability = copies
    report.figure3_panel(image, instances, truth, probability)
    report.prediction_panel(image, probability, truth)
    for copy, array in zip(copies, cells, strict=True):
        assert (copy == array).all()


def test_large_slices_are_thinned_to_the_limit():
    assert shrunk(np.zeros((5000, 100)), 1100).shape == (1000, 20)
    large = np.ones((3000, 3000))
    assert pixels(report.prediction_panel(large, large, large)).shape[0] < 1500


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match=r"truth has shape \(3, 4\), image has \(4, 4\)"):
        report.prediction_panel(np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"one slice \(H, W\)"):
        report.figure3_panel(np.zeros((2, 4, 4)), np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="weights has shape"):
        report.figure3_panel(np.zeros((4, 4)), np.zeros((4, 4), int), None, np.zeros((5, 5)))


# --- pictures ------------------------------------------------------------------------------------


def test_figure3_has_a_panel_for_each_given_part(cells):
    image, instances, truth, probability = cells
    two = pixels(report.figure3_panel(image, instances))
    four = pixels(report.figure3_panel(image, instances, truth, probability))
    assert two.shape[0] > four.shape[0]  # fewer panels are larger
    columns = (four < 250).any(axis=(0, 2))  # white columns part the panels
    starts = np.flatnonzero(np.diff(np.r_[0, columns.astype(int)]) == 1)
    assert len(starts) >= 5  # four panels and the colour bar


def test_pictures_are_the_same_every_time(cells):
    image, instances, truth, probability = cells
    for draw in (
        lambda: report.figure3_panel(image, instances, truth, probability),
        lambda: report.learning_curves({10: {"loss": 1.0}, 20: {"loss": 0.5}}),
        lambda: report.seam_picture(probability, 16, difference=probability * 1e-7),
    ):
        assert draw() == draw()


def test_drawing_leaves_pyplot_alone():
    code = (
        "import sys, numpy as np; from unet2015 import report;"
        "assert 'matplotlib' not in sys.modules and 'jinja2' not in sys.modules;"
        "report.figure3_panel(np.eye(8), np.eye(8, dtype=int));"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(report.__file__).parents[1])


def test_learning_curves_take_any_mix_of_columns():
    long = {step: {"loss": 1 / step, "learning_rate": 1e-3} for step in range(1, 200)}
    long[100]["wrong_pixels"] = long[199]["wrong_pixels"] = 0.1
    drawn = report.learning_curves(long, baselines={"wrong_pixels": {"constant": 0.2}})
    assert drawn != report.learning_curves(long)
    with pytest.raises(ValueError, match="nothing to draw"):
        report.learning_curves({1: {"learning_rate": 0.1}})


@pytest.mark.parametrize("shape", [(40, 50), (16, 16), (10, 300), (1, 1)])
def test_seams_are_drawn_for_any_size(shape):
    assert report.seam_picture(np.zeros(shape), 16).startswith(b"\x89PNG")


def test_a_step_of_zero_is_refused():
    with pytest.raises(ValueError, match="step_px = 0"):
        report.seam_picture(np.zeros((8, 8)), 0)


def test_best_and_worst_are_found(cells):
    image, _, truth, probability = cells
    half = probability.copy()
    half[:20] = 1 - half[:20]
    views = report.best_and_worst(
        [image] * 3, [half, probability, 1 - probability], [truth] * 3, names=["x", "y", "z"]
    )
    assert [view.title for view in views] == ["Best: y", "Worst: z"]
    assert [view.figures["wrong pixels, membrane or inside"] for view in views] == [0, 1]
    assert views[1].figures["membrane called inside"] == pytest.approx((truth == 0).mean())
    (only,) = report.best_and_worst([image], [probability], [truth])
    assert only.title == "Held out: slice 0"
    with pytest.raises(ValueError, match="no held-out slice"):
        report.best_and_worst([], [], [])


# --- numbers -------------------------------------------------------------------------------------


def test_numbers_are_shown_with_meaningful_digits():
    minus = "\N{MINUS SIGN}"
    assert text(0.000353) == "0.000353"
    assert text(-1.25e-7).startswith(minus + "1.2")
    assert text(-1.25e-7).endswith("10^{" + minus + "7}")
    assert text(float("nan")) == text(None) == "\N{EN DASH}"
    assert text(np.float32(0.5)) == "0.5000"
    assert text(np.int64(12345)) == "12\N{NARROW NO-BREAK SPACE}345"
    assert text(np.True_) == "yes"
    assert text(float("inf")) == "inf"


def test_columns_align():
    assert column_texts([0.000353, 0.00503]) == ["0.000353", "0.005030"]
    assert column_texts([0.12, 34.5, None])[:2] == ["0.1200", "34.5000"]
    assert column_texts([2e-8, 0.5])[1] == "0.5000"


def test_best_of_a_column_is_marked():
    table = Table(
        (Column("a", "lower"), Column("b", "higher"), Column("c")),
        (("x", 1.0, 1.0, 1.0), ("y", 2.0, 2.0, 2.0), ("z", float("nan"), 2.0, None)),
    )
    best = [[is_best for _, is_best in row] for row in table.cells()]
    assert best == [[True, False, False], [False, True, False], [False, True, False]]
    with pytest.raises(ValueError, match="1 values; the table has 3 columns"):
        Table(table.columns, (("x", 1),))


# --- page ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with attributes, and ids, of a page; fails on tags left open."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.words = [], [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_is_self_contained(full):
    html = report.report_html(full)
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/png;base64,", "#"))
    assert "url(" not in html
    assert "@import" not in html


def test_content_policy_allows_exactly_this_style(full):
    html = report.report_html(full)
    (policy,) = [m["content"] for m in Page(html).all("meta") if "http-equiv" in m]
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_values_are_escaped(full):
    html = report.report_html(full)
    assert "<walls>" not in html
    assert "Cells &amp; &lt;walls&gt;" in html
    assert "&lt;nothing&gt; learnt" in html
    assert "&#39;a &lt;b&gt;&#39;" in html
    words = " ".join(Page(html).words)
    assert "unet2015 sample 'a <b>'" in words


def test_style_cannot_be_left_by_a_value():
    html = report.report_html(ReportData("</style><script>alert(1)</script>", lead="</title>"))
    assert "script" not in {tag for tag, _ in Page(html).tags}


def test_pictures_are_inline_with_their_size_and_words(full):
    images = Page(report.report_html(full)).all("img")
    assert len(images) == 5  # Fig. 3, curves, two slices, seams
    for image in images:
        png = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        assert pixels(png).shape[:2] == (int(image["height"]), int(image["width"]))
        assert len(image["alt"]) > 10


def test_figures_are_numbered_in_order(full):
    assert re.findall(r"Figure (\d)\.", report.report_html(full)) == list("12345")


def test_navigation_leads_to_the_sections_that_exist(full):
    for data in (full, ReportData("Only a title"), ReportData("x", commands=["unet2015 demo"])):
        page = Page(report.report_html(data))
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert [a["href"] for a in page.all("a")] == [f"#{name}" for name in ids]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("name", "section"),
    [("figure3", "weights"), ("curves", "training"), ("slices", "slices"), ("recipe", "recipe"),
     ("measures", "measures")],
)  # fmt: skip
def test_absent_parts_leave_their_section_out(full, name, section):
    from dataclasses import fields, replace

    default = {f.name: f for f in fields(ReportData)}[name]
    empty = default.default_factory() if name == "recipe" else default.default
    assert f'id="{section}"' in report.report_html(full)
    assert f'id="{section}"' not in report.report_html(replace(full, **{name: empty}))


def test_best_values_are_bold_and_settings_as_typed(full):
    html = report.report_html(full)
    assert html.count('class="best"') == 2
    assert "<dd>10</dd>" in html  # w0, not 10.0000
    assert "10<sup>\N{MINUS SIGN}7</sup>" in html


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="not PNG bytes"):
        report.report_html(ReportData("x", slices=(SliceView("s", b"GIF89a"),)))


def test_page_appears_whole_and_keeps_what_is_there(tmp_path):
    path = tmp_path / "report.html"
    report.write_report(path, ReportData("First", commands=["name with \udcff byte"]))
    first = path.read_text(encoding="utf-8")
    assert first.startswith("<!DOCTYPE html>")
    assert "\\udcff" in first
    with pytest.raises(WriteError, match="exists"):
        report.write_report(path, ReportData("Second"))
    assert path.read_text(encoding="utf-8") == first
    report.write_report(path, ReportData("Second"), overwrite=True)
    assert "<h1>Second</h1>" in path.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
