"""Recipes: every number named, with its origin, checked, and the same after a journey as text."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import replace

import numpy as np
import pytest

from unet2015.net import output_side
from unet2015.recipe import Recipe, dic_hela, isbi2012, isbi2012_modern, phc_u373, quick

ALL = [isbi2012, isbi2012_modern, dic_hela, phc_u373, quick]
FIELDS = dataclasses.fields(Recipe)


@pytest.mark.parametrize("field", [field.name for field in FIELDS])
def test_every_field_says_whose_number_it_is(field):
    (line,) = re.findall(rf"^    {field}: .*$", inspect.getsource(Recipe), re.MULTILINE)
    assert re.search(r"#.*\[(P|R|F|open|run)\]", line), line


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_recipes_travel_as_text_and_fit_their_network(make):
    recipe = make()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert output_side(recipe.tile_px, recipe.depth) > 0


def test_the_papers_numbers():
    recipe = isbi2012()
    assert (recipe.base_channels, recipe.depth, recipe.in_channels, recipe.classes) == (64, 4, 1, 2)
    assert (recipe.tile_px, recipe.batch, recipe.momentum) == (572, 1, 0.99)
    assert (recipe.w0, recipe.sigma_px, recipe.optimiser) == (10.0, 5.0, "sgd")
    assert (recipe.displacement_std_px, recipe.displacement_grid, recipe.dropout) == (10.0, 3, 0.5)


def test_modern_recipe_sees_as_many_tiles_as_the_papers():
    modern = isbi2012_modern()
    assert modern.steps * modern.batch * modern.accumulate == isbi2012().steps
    assert replace(isbi2012(), **_network(modern)) == isbi2012()


def _network(recipe):
    return {k: getattr(recipe, k) for k in ("base_channels", "depth", "tile_px", "dropout", "w0")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 1.0}, r"momentum = 1\.0 is outside 0 \.\. 0\.99999"),
        ({"learning_rate": float("nan")}, "learning_rate = nan is outside"),
        ({"steps": 0}, "steps = 0 is outside 1"),
        ({"seed": True}, "seed = True is not of type int"),
        ({"steps": 2.5}, r"steps = 2\.5 is not of type int"),
        ({"seed": np.int64(1)}, r"seed = .*1.* is not of type int"),
        ({"mirror": "no"}, "mirror = 'no' is not of type bool"),
        ({"w0": "9"}, "w0 = '9' is not of type float"),
        ({"ignore_label": 2.0}, r"ignore_label = 2\.0 is not of type int"),
        ({"optimiser": "lion"}, "optimiser = 'lion'; choose one of sgd, adam, adamw"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(isbi2012(), **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a JSON object was expected, not list"),
        ('{"lerning_rate": 1}', "unknown field 'lerning_rate'"),
        ('{"steps": "many"}', "steps = 'many' is not of type int"),
        ('{"mirror": 1}', "mirror = 1 is not of type bool"),
        ('{"steps": true}', "steps = True is not of type int"),
        ('{"steps": 1.5}', "steps = 1.5 is not of type int"),
    ],
)
def test_broken_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Recipe.from_json(text)


def test_the_smallest_label_that_is_no_class_may_be_ignored():
    assert Recipe(classes=2, ignore_label=2).ignore_label == 2
    with pytest.raises(ValueError, match="ignore_label = 1 is one of the classes"):
        Recipe(classes=2, ignore_label=1)


@pytest.mark.parametrize("names", ["cell", "background,cell,border"])
def test_each_class_has_its_name_or_none_has(names):
    with pytest.raises(ValueError, match="are not 2"):
        Recipe(classes=2, class_names=names)


def test_every_numeric_field_has_a_range_and_every_choice_its_list():
    from unet2015 import recipe as module

    bounded = {name for name, _, _ in module._RANGES}
    for field in FIELDS:
        own_rule = ("name", "ignore_label", "scale", "class_names")
        free = field.name in own_rule or isinstance(field.default, bool)
        assert free or (field.name in bounded) != (field.name in module._CHOICES), field.name
