"""A search space as a unit cube: what goes in comes out, and only legal values come out."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

from histories import generator
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
import pytest
import torch

from optuna_arrl.sampler.cube import Cube
from optuna_arrl.sampler.families import FAMILIES
from optuna_arrl.sampler.families import name_family
from optuna_arrl.sampler.space import Space


@st.composite
def distributions(draw: st.DrawFn) -> BaseDistribution:
    """Any distribution that Optuna allows, single-valued ones included."""
    kind = draw(st.sampled_from(["float", "log", "step", "int", "int step", "int log", "choice"]))
    if kind == "float":
        low = draw(st.floats(-1e6, 1e6))
        return FloatDistribution(low, low + draw(st.sampled_from([0.0, 1.0, 1e9])))
    if kind == "log":
        low = draw(st.floats(1e-9, 1e3))
        return FloatDistribution(low, low * draw(st.sampled_from([1.0, 1.5, 1e6])), log=True)
    if kind == "step":
        low, step = draw(st.integers(-50, 50)) / 10, draw(st.sampled_from([0.1, 0.25, 3.0]))
        high = round(low + step * draw(st.integers(0, 40)), 9)
        return FloatDistribution(low, high, step=step)
    if kind == "int":
        low = draw(st.integers(-1000, 1000))
        return IntDistribution(low, low + draw(st.integers(0, 5000)))
    if kind == "int step":
        low, step = draw(st.integers(-1000, 1000)), draw(st.integers(1, 7))
        return IntDistribution(low, low + step * draw(st.integers(0, 30)), step=step)
    if kind == "int log":
        low = draw(st.integers(1, 100))
        return IntDistribution(low, low + draw(st.integers(0, 5000)), log=True)
    choices = [None, True, 3, 2.5, "a", "b", "c"]
    return CategoricalDistribution(draw(st.permutations(choices))[: draw(st.integers(1, 7))])


spaces = st.lists(distributions(), max_size=6).map(
    lambda ds: Space({f"slot {i}": d for i, d in enumerate(ds)})
)
seeds = st.integers(0, 2**32 - 1)


def is_legal(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, IntDistribution) and type(value) is not int:
        return False
    if isinstance(distribution, FloatDistribution) and type(value) is not float:
        return False
    return distribution._contains(distribution.to_internal_repr(value))


@given(spaces, seeds)
def test_every_point_decodes_to_legal_values(space: Space, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-0.2, 1.2, (20, space.dim))
    for point in points:
        params = space.decode(point)
        assert list(params) == list(space.names)
        assert all(is_legal(d, params[name]) for name, d in space.distributions.items())


@given(spaces, seeds)
def test_a_value_survives_encoding_and_decoding(space: Space, seed: int) -> None:
    params = space.decode(np.random.default_rng(seed).random(space.dim))
    again = space.decode(space.encode(params))
    for name, d in space.distributions.items():
        if isinstance(d, FloatDistribution) and d.step is None:
            wide = abs(params[name]) if d.log else d.high - d.low
            assert again[name] == pytest.approx(params[name], rel=1e-12, abs=2e-9 * wide)
        else:
            assert again[name] == params[name] and type(again[name]) is type(params[name])


@given(spaces, seeds)
def test_snapping_is_idempotent_and_agrees_with_decoding(space: Space, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-0.2, 1.2, (10, space.dim))
    snapped = space.snap(points)
    assert ((snapped >= 0.0) & (snapped <= 1.0)).all()
    np.testing.assert_array_equal(space.snap(snapped), snapped)
    for point, legal in zip(points, snapped, strict=True):
        assert space.decode(legal) == space.decode(point)
        np.testing.assert_allclose(space.encode(space.decode(point)), legal, atol=1e-7)


@given(distributions(), seeds)
def test_numbers_lie_where_optuna_puts_them(distribution: BaseDistribution, seed: int) -> None:
    space = Space({"x": distribution})
    if space.is_categorical[0] or distribution.single():  # they have no room to lie elsewhere
        return
    params = space.decode(np.random.default_rng(seed).random(1))
    theirs = _SearchSpaceTransform({"x": distribution}, transform_0_1=True).transform(params)
    np.testing.assert_allclose(space.encode(params), theirs, atol=1e-9)


@given(distributions())
def test_the_ends_of_a_range_can_be_reached(distribution: BaseDistribution) -> None:
    low, high = (Space({"x": distribution}).decode(np.array([end]))["x"] for end in (0.0, 1.0))
    if isinstance(distribution, CategoricalDistribution):
        assert (low, high) == (distribution.choices[0], distribution.choices[-1])
    else:
        assert (low, high) == (distribution.low, distribution.high)


def test_levels_of_a_grid_share_the_axis_equally_and_choices_too() -> None:
    space = Space(
        {
            "choice": CategoricalDistribution(["a", "b", "c", "d"]),
            "grid": FloatDistribution(0.1, 0.7, step=0.2),
            "whole": IntDistribution(10, 40, step=10),
        }
    )
    middles = np.array([0.125, 0.375, 0.625, 0.875])
    for i, middle in enumerate(middles):
        params = space.decode(np.full(3, middle))
        assert params == {
            "choice": "abcd"[i],
            "grid": round(0.1 + 0.2 * i, 1),
            "whole": 10 + 10 * i,
        }
        np.testing.assert_allclose(space.encode(params), middle)
    assert space.levels.tolist() == [4, 4, 4] and space.cube.size == 64


@pytest.mark.parametrize(
    "distribution",
    [
        IntDistribution(0, 2**63 - 1),
        IntDistribution(-(2**63), 2**64),
        IntDistribution(1, 2**63 - 1, log=True),
        IntDistribution(0, 3 * 2**60, step=3),
        FloatDistribution(0.0, 1.0, step=1e-17),
    ],
)
def test_a_grid_too_fine_to_count_is_a_continuum_of_legal_values(
    distribution: IntDistribution | FloatDistribution,
) -> None:
    space = Space({"x": distribution})
    assert space.levels.tolist() == [0]
    points = np.linspace(0.0, 1.0, 9)[:, None]
    values = [space.decode(point)["x"] for point in points]
    assert (values[0], values[-1]) == (distribution.low, distribution.high)
    assert all(distribution.low <= v <= distribution.high for v in values)
    if isinstance(distribution, IntDistribution):
        assert all((v - distribution.low) % distribution.step == 0 for v in values)
    assert {type(v) for v in values} == {type(distribution.low)}
    inside = space.encode_all([{"x": v} for v in values[1:-1]])
    np.testing.assert_allclose(inside, points[1:-1], atol=1e-3)


def test_numbers_are_written_without_rounding_dust() -> None:
    space = Space(
        {
            "grid": FloatDistribution(0.0, 1.0, step=0.1),
            "rate": FloatDistribution(1e-5, 1.0, log=True),
            "share": FloatDistribution(0.0, 1.0),
        }
    )
    values = {"grid": 0.3, "rate": 0.0003, "share": 0.1}
    assert repr(space.decode(space.encode(values))) == repr(values)


def test_untouched_slots_keep_the_parent_s_own_digits() -> None:
    space = Space({"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)})
    parent = {"x": 1 / 3, "y": 0.2}
    point = space.encode(parent)
    point[1] = 0.9
    assert space.decode(point, parent) == {"x": 1 / 3, "y": 0.9}


def test_a_parent_s_illegal_value_is_not_kept() -> None:
    space = Space({"n": IntDistribution(0, 10, step=2), "m": IntDistribution(0, 4)})
    params = space.decode(space.snap(np.array([[0.5, 0.5]]))[0], {"n": 5, "m": 99})
    assert params == {"n": 4, "m": 2} or params == {"n": 6, "m": 2}


def test_what_cannot_be_placed_is_nan() -> None:
    space = Space(
        {
            "choice": CategoricalDistribution(["a", "b"]),
            "missing": FloatDistribution(0.0, 1.0),
            "outside": FloatDistribution(0.0, 1.0),
            "text": IntDistribution(0, 3),
            "well": FloatDistribution(0.0, 1.0),
        }
    )
    point = space.encode({"choice": "z", "outside": 1.5, "text": "2", "well": 0.25, "other": 1})
    np.testing.assert_array_equal(np.isnan(point), [True, True, True, True, False])
    assert np.isnan(space.snap(point[None])).tolist() == [[True, True, True, True, False]]


def cube_features(space: Space, points: np.ndarray) -> np.ndarray:
    features: np.ndarray = space.cube.features(torch.from_numpy(points)[None])[0].numpy()
    return features


def test_choices_are_equally_far_apart_and_single_values_have_no_feature() -> None:
    space = Space(
        {
            "a": CategoricalDistribution(["x", "y", "z"]),
            "b": IntDistribution(3, 3),
            "c": FloatDistribution(0.0, 1.0),
        }
    )
    points = np.array([[1 / 6, 0.5, 0.0], [0.5, 0.5, 0.0], [5 / 6, 0.5, 1.0]])
    features = cube_features(space, points)
    assert space.cube.column_slot.tolist() == [[0, 0, 0, 2]] and features.shape == (3, 4)
    assert np.linalg.norm(features[0] - features[1]) == pytest.approx(1.0)
    assert np.linalg.norm(features[0] - features[2]) == pytest.approx(math.sqrt(2.0))


def test_neighbours_are_one_level_away_and_turn_round_at_the_ends() -> None:
    space = Space({"g": IntDistribution(1, 3), "l": IntDistribution(1, 1000, log=True)})

    def neighbour(g: int, size: int, direction: float) -> dict[str, int]:
        point = torch.from_numpy(space.encode({"g": g, "l": size}))[None, None]
        moved = space.cube.neighbours(point, torch.full((1, 1, 2), direction))
        return space.decode(moved[0, 0].numpy())

    assert neighbour(1, 500, 1.0) == {"g": 2, "l": 501}
    assert neighbour(3, 1000, 1.0) == {"g": 2, "l": 999}
    assert neighbour(1, 1, -1.0) == {"g": 2, "l": 2}


def test_an_empty_space_has_one_point() -> None:
    space = Space({})
    assert space.cube.size == 1 and space.decode(space.encode({"x": 1})) == {}
    assert cube_features(space, np.empty((3, 0))).shape == (3, 0)


@settings(max_examples=50)
@given(st.lists(spaces, min_size=2, max_size=4), seeds)
def test_spaces_padded_into_one_batch_keep_their_points_features_and_keys(
    several: list[Space], seed: int
) -> None:
    batch = batched([space.cube for space in several])
    points = (
        torch.rand(len(several), 6, batch.slots, generator=generator(seed)).double() * 1.4 - 0.2
    )
    snapped = batch.snap(points)
    features, keys = batch.features(snapped), batch.keys(snapped)
    for i, space in enumerate(several):
        alone = points[i : i + 1, :, : space.dim]
        legal = space.cube.snap(alone)
        torch.testing.assert_close(snapped[i : i + 1, :, : space.dim], legal, rtol=0, atol=0)
        assert (snapped[i, :, space.dim :] == 0.5).all()
        own = space.cube.features(legal)[0]
        torch.testing.assert_close(features[i, :, : own.shape[1]], own, rtol=0, atol=0)
        assert (features[i, :, own.shape[1] :] == 0.0).all()
        same = keys[i][:, None] == keys[i][None]
        decoded = [space.decode(point.numpy()) for point in legal[0]]
        assert same.tolist() == [[a == b for b in decoded] for a in decoded]


def batched(cubes: list[Cube]) -> Cube:
    most = max(cube.slots for cube in cubes)
    columns = {
        name: torch.cat(
            [
                torch.nn.functional.pad(
                    getattr(cube, name), (0, most - cube.slots), value=float(name == "levels")
                )
                for cube in cubes
            ]
        )
        for name in (
            *("levels", "categorical", "logarithmic", "integer"),
            *("low", "start", "end", "family"),
        )
    }
    return Cube.of(**columns)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("EMBEDDING_LR", "learning_rate"),
        ("learning_rate_init", "learning_rate"),
        ("DEVICE_BATCH_SIZE", "batch"),
        ("model.n_layer", "depth"),
        ("hiddenDim", "width"),
        ("d_model", "width"),
        ("maxNorm", "clipping"),
        ("WEIGHT_DECAY", "weight_decay"),
        ("x0", "unknown"),
    ],
)
def test_names_tell_families(name: str, family: str) -> None:
    assert FAMILIES[name_family(name)] == family


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_digests_tell_spaces_apart_whatever_their_order() -> None:
    a, b = FloatDistribution(0.0, 1.0), CategoricalDistribution([object, len])
    assert Space({"x": a, "y": b}).digest() == Space({"y": b, "x": a}).digest()
    assert Space({"x": a}).digest() != Space({"x": FloatDistribution(0.0, 2.0)}).digest()


def test_a_space_does_not_load_torch() -> None:
    script = "import sys, optuna_arrl.sampler.space; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
