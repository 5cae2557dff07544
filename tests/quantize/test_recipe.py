from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam_edge.errors import ExportError
from sam_edge.quantize.recipe import PRECISIONS, Recipe, from_dict, read_recipe

names = st.text("abcdefghij_.0123456789", min_size=1, max_size=30)


@given(names, st.sampled_from(sorted(PRECISIONS)), st.lists(names, max_size=5), st.dictionaries(names, st.integers()))
def test_a_recipe_is_read_back_as_it_was(target: str, precision: str, units: list[str], why: dict[str, int]) -> None:
    recipe = Recipe(target, precision, tuple(units), why)
    assert from_dict(json.loads(recipe.to_json()), "here") == recipe


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as a recipe"),
        ("[]", "is no recipe"),
        ('{"schema": 1, "target": "onnx"}', "is no recipe"),
        ('{"schema": 9, "target": "onnx", "precision": "int8"}', "has schema 9, this version reads 1"),
        ('{"schema": 1, "target": "onnx", "precision": "int3"}', "precision is 'int3', expected one of: fp32"),
        ('{"schema": 1, "target": "onnx", "precision": "int8", "float_units": "stem"}', "must be a list of names"),
        ('{"schema": 1, "target": "onnx", "precision": "int8", "more": 1}', "is no recipe"),
        ('{"schema": 1, "target": 5, "precision": "int8"}', "target and precision must be names"),
        ("[" * 100_000, "cannot be read as a recipe"),
    ],
)
def test_a_file_that_is_no_recipe_gives_one_line(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(ExportError, match=reason):
        read_recipe(path)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.json cannot be read as a recipe"):
        read_recipe(tmp_path / "none.json")
