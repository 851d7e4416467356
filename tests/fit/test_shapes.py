"""Built-in shapes and which model a name means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.model.tiny import write_model
from tests.paths import STORIES, needs_shared
from toolchain.fit.options import BUNDLED
from toolchain.fit.shapes import find_model, list_shapes, load_shape
from toolchain.fit.sizes import config_parameters
from toolchain.model.config import read_config
from toolchain.model.errors import CheckpointError, ConfigError

# Counted by hand from published shapes, in millions.
MILLIONS = {
    "stories260k": 0.260032,
    "stories15m": 15.191712,
    "stories42m": 41.6896,
    "stories110m": 109.529856,
    "smollm2-135m": 134.515008,
    "smollm2-360m": 361.82112,
    "tinyllama-1.1b": 1100.048384,
    "llama-3.2-1b": 1235.8144,
    BUNDLED: 1.894368,
}


def test_shapes_have_the_parameters_of_their_names() -> None:
    found = {name: config_parameters(load_shape(name).config) / 1e6 for name in list_shapes()}
    assert found == MILLIONS


@pytest.mark.parametrize("name", list_shapes())
def test_every_shape_has_a_source(name: str) -> None:
    assert len(load_shape(name).source) > 20


@needs_shared
def test_stories260k_is_the_published_model() -> None:
    assert load_shape("stories260k").config == read_config(STORIES)


def test_no_name_is_the_bundled_model() -> None:
    assert find_model(None).name == BUNDLED


def test_names_ignore_case() -> None:
    assert find_model("Llama-3.2-1B") == load_shape("llama-3.2-1b")


def test_an_existing_path_comes_before_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "stories15m", num_layers=1)
    monkeypatch.chdir(tmp_path)
    assert find_model("stories15m").config.num_layers == 1
    assert find_model("stories15m/config.json") != load_shape("stories15m")


def test_a_path_is_called_after_its_directory(tmp_path: Path) -> None:
    model = write_model(tmp_path / "my.model")
    assert find_model(str(model)).name == "my.model"
    assert find_model(str(model / "config.json")).name == "my.model"
    other = tmp_path / "wide.json"
    other.write_bytes((model / "config.json").read_bytes())
    assert find_model(str(other)).name == "wide"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'gpt-5'.*llama-3\.2-1b"):
        find_model("gpt-5")


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("nowhere.json", "bundled, llama-3.2-1b"),
        ("no/where", "bundled, llama-3.2-1b"),
        ("models/stories15/config.json", "like: stories15m"),
        ("smollm2-135", "like: smollm2-135m"),
        ("Llama3.2-1b", "like: llama-3.2-1b"),
    ],
)
def test_paths_that_do_not_exist(name: str, close: str) -> None:
    with pytest.raises(ConfigError, match=r"a path that does not exist") as caught:
        find_model(name)
    assert close in str(caught.value)


def test_a_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read"):
        find_model(str(tmp_path))


def test_files_are_hugging_face_configs() -> None:
    folder = Path(__file__).parent.parent.parent / "toolchain" / "fit" / "builtin"
    for path in folder.glob("*.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        assert values["architectures"] == ["LlamaForCausalLM"]
        assert read_config(path) == load_shape(path.stem).config
