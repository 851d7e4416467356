"""The command line: every option takes effect or is refused, and every error leaves nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import load_file, save_file

from codegen.bundle import TOKENIZER
from tests.model.tiny import write_model
from toolchain.cli import main
from toolchain.model.tokenizer import read_tokenizer

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "num_kv_heads": 2,
    "context": 24,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("checkpoint") / "tiny", **TINY)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def build(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("build") / "tiny"
    assert edgec("compile", str(model), "-o", str(output)).exit_code == 0
    return output


def edgec(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def edgec_json(*args: str) -> Any:
    result = edgec(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_compile_prints_json(model: Path, tmp_path: Path) -> None:
    value = edgec_json("compile", str(model), "-o", str(tmp_path / "out"))
    assert value["model"] == "tiny"
    assert value["fit"]["fits"] is True
    assert value["latency"]["cycles_per_token"] > 0
    assert value["files"] == len(tree(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "report" / "fit.json").read_text()) == value["fit"]


def test_compile_tables_name_every_region(model: Path, tmp_path: Path) -> None:
    result = edgec("compile", str(model), "-o", str(tmp_path / "out"))
    for word in ("mram", "tile_sram", "l2", "l1", "kv_cache", "estimate", "tokens/s"):
        assert word in result.stdout


def test_without_a_model_the_bundled_one_is_compiled(tmp_path: Path) -> None:
    value = edgec_json("compile", "-o", str(tmp_path / "out"))
    assert value["model"] == "the bundled model"


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--bits", "8"], "weights/mram.bin"),
        (["--bits", "3"], "weights/mram.bin"),
        (["--bits", "*.down_proj=3"], "weights/mram.bin"),
        (["--group-size", "-1"], "weights/mram.bin"),
        (["--embed-bits", "4"], "weights/mram.bin"),
        (["--head-bits", "8", "--embed-bits", "5"], None),
        (["--layer", "l01.mlp.*=2"], "weights/mram.bin"),
        (["--layer", "l00.attn.q_proj=:8"], "weights/mram.bin"),
        (["--context", "9"], "plan.json"),
        (["--activations", "a8"], "src/edgec_model.c"),
        (["--activations", "down_in=a8"], "src/edgec_model.c"),
        (["--prefix", "story"], "src/story_model.c"),
        (["--golden-steps", "3"], "golden/golden.json"),
        (["--target", "rv32"], "weights/flash.bin"),
        (["--engine", "cores"], "weights/mram.bin"),
        (["--arithmetic", "fast"], "runtime/include/edgec_arithmetic.h"),
        (["--prefill-batch", "2"], "src/edgec_model.c"),
        (["--pin", "kv.*=l2"], "plan.json"),
        (["--region", "l1=64KiB"], "plan.json"),
        (["--l1", "64KiB"], "plan.json"),
    ],
)
def test_every_compile_option_changes_the_bundle(
    model: Path, build: Path, tmp_path: Path, options: list[str], changed: str | None
) -> None:
    result = edgec("compile", str(model), "-o", str(tmp_path / "out"), *options)
    if changed is None:  # a tied head cannot have bits of its own
        assert result.exit_code == 2
        assert not (tmp_path / "out").exists()
        return
    assert result.exit_code == 0, result.output
    assert tree(tmp_path / "out")[changed] != tree(build).get(changed)


def test_bits_by_pattern(model: Path) -> None:
    """The same as --layer, which comes behind; the last number is that of the rest."""
    one, two = (
        edgec_json("fit", str(model), *options)
        for options in (
            ["--bits", "8", "--bits", "l0?.mlp.*=5", "--bits", "3", "--layer", "l01.mlp.*=2"],
            ["--bits", "3", "--layer", "l0?.mlp.*=5", "--layer", "l01.mlp.*=2"],
        )
    )
    assert one == two
    assert one["settings"]["bits"] == 3


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--bits", "9"], 2, ["bits", "9", "2..8"]),
        (["--bits", "1"], 2, ["2..8"]),
        (["--bits", "l00.*=9"], 2, ["l00.*", "9", "2..8"]),
        (["--bits", "nothing=4"], 2, ["nothing", "l00.attn.q_proj"]),
        (["--bits", "=4"], 2, ["--bits", "PATTERN=BITS"]),
        (["--group-size", "0"], 2, ["group_size", "0"]),
        (["--layer", "nothing=4"], 2, ["nothing", "l00.attn.q_proj"]),
        (["--layer", "l00"], 2, ["--layer", "PATTERN=BITS"]),
        (["--context", "0"], 2, ["--context", "1..24"]),
        (["--context", "25"], 2, ["--context", "25", "1..24"]),
        (["--activations", "a12"], 2, ["a12", "attn_in"]),
        (["--target", "pdp11"], 2, ["pdp11", "siracusa"]),
        (["--prefix", "9x"], 2, ["9x", "identifier"]),
        (["--golden-steps", "0"], 2, ["--golden-steps", "1..24"]),
        (["--golden-steps", "25"], 2, ["--golden-steps", "25", "1..24"]),
        (["--arithmetic", "exact"], 2, ["--arithmetic", "exact", "precise", "fast"]),
        (["--prefill-batch", "3"], 2, ["--prefill-batch", "'3'", "auto, 1, 2, 4, 8, 16"]),
        (["--prefill-batch", "8", "--context", "7"], 2, ["--prefill-batch", "8", "auto, 1, 2, 4"]),
        (["--prefill-batch", "4", "--target", "rv32"], 2, ["4 tokens: rv32 has no costs of"]),
    ],
)
def test_bad_options_are_refused(
    model: Path, tmp_path: Path, options: list[str], code: int, words: list[str]
) -> None:
    result = edgec("compile", str(model), "-o", str(tmp_path / "out"), *options)
    assert result.exit_code == code, result.output
    assert all(word in result.output for word in words), result.output
    assert not list(tmp_path.iterdir())


def test_errors_are_json_too(tmp_path: Path) -> None:
    result = edgec("compile", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out"), "--json")
    assert result.exit_code == 5
    error = json.loads(result.stdout)
    assert error["error"] == "checkpoint"
    assert error["exit_code"] == 5


def test_a_failed_compile_leaves_the_older_bundle_alone(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert edgec("compile", str(model), "-o", str(output)).exit_code == 0
    before = tree(output)
    broken = write_model(tmp_path / "broken", num_layers=1)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert edgec("compile", str(broken), "-o", str(output)).exit_code == 5
    assert tree(output) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "out"]


def test_a_directory_that_is_no_bundle_is_not_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    result = edgec("compile", str(model), "-o", str(tmp_path))
    assert result.exit_code == 2
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_equal_input_gives_equal_trees(model: Path, tmp_path: Path) -> None:
    """Another directory, hash seed, locale and working directory: the same bytes."""
    outputs = []
    for seed, locale in (("0", "C"), ("4711", "C.UTF-8")):
        work = tmp_path / f"work{seed}"
        work.mkdir()
        command = [sys.executable, "-m", "toolchain.cli", "compile", str(model), "-o", "bundle"]
        root = Path(__file__).parent.parent
        env = {"PYTHONHASHSEED": seed, "LC_ALL": locale, "PYTHONPATH": str(root), "PATH": ""}
        subprocess.run(command, cwd=work, env=env, check=True, capture_output=True)
        outputs.append(tree(work / "bundle"))
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 30


def test_fit_says_what_a_compile_uses(model: Path, build: Path) -> None:
    """Byte for byte, from config.json alone."""
    fit = edgec_json("fit", str(model / "config.json"))
    assert fit == json.loads((build / "report" / "fit.json").read_text())
    for region in fit["regions"]:
        rows = [row["bytes"] for row in fit["rows"] if row["region"] == region["name"]]
        assert sum(rows) == region["used"] == region["capacity"] - region["free"]


def test_fit_refuses_what_does_not_fit(tmp_path: Path) -> None:
    huge = {"hidden_size": 2048, "intermediate_size": 8192, "num_layers": 16, "num_heads": 32}
    config = write_model(tmp_path / "small").joinpath("config.json")
    values = json.loads(config.read_text())
    values |= {"num_hidden_layers": 16, "num_attention_heads": 32, "head_dim": 64}
    values |= {k: v for k, v in huge.items() if k.endswith("_size")} | {"vocab_size": 128256}
    config.write_text(json.dumps(values))
    result = edgec("fit", str(config), "--json")
    assert result.exit_code == 3, result.output
    problems = json.loads(result.stdout)["problems"]
    assert any("hyperram" in problem["where"] for problem in problems)


def test_simulate_speaks(build: Path) -> None:
    args = ("simulate", str(build), "--prompt", "the", "--max-new-tokens", "6")
    value = edgec_json(*args)
    expected = {"text", "token_ids", "cycles_per_token", "tokens_per_second"}
    assert expected | {"bound_tokens_per_second"} <= set(value)
    assert len(value["token_ids"]) == 6
    assert value["text"] in edgec(*args).stdout
    assert edgec_json(*args)["token_ids"] == value["token_ids"]


def test_simulate_samples_from_a_seed(build: Path) -> None:
    def sampled(seed: int, temperature: str = "2.5") -> list[int]:
        args = ("--temperature", temperature, "--seed", str(seed), "--max-new-tokens", "12")
        ids: list[int] = edgec_json("simulate", str(build), "--prompt", "the", *args)["token_ids"]
        return ids

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert sampled(1, "0") == sampled(2, "0")


def test_simulate_ends_with_the_context(build: Path) -> None:
    value = edgec_json("simulate", str(build), "--prompt", "the", "--max-new-tokens", "500")
    assert len(value["token_ids"]) <= 24
    result = edgec("simulate", str(build), "--prompt", "the " * 40)
    assert result.exit_code == 2
    assert "1..24 tokens" in result.output


def test_profile_is_the_report_of_the_compile(build: Path) -> None:
    stored = json.loads((build / "report" / "latency.json").read_text(encoding="utf-8"))
    assert edgec_json("simulate", str(build), "--profile") == stored
    estimate = json.loads((build / "report" / "fit.json").read_text(encoding="utf-8"))["estimate"]
    assert estimate["cycles_per_token"] == stored["cycles_per_token"]
    slower = stored["readings"]["conservative"]["cycles_per_token"]
    assert estimate["conservative_cycles_per_token"] == slower
    assert estimate["energy_uj_per_token"] == stored["energy"]["total"]


def test_profile_options_take_effect(build: Path) -> None:
    args = ("simulate", str(build), "--profile", "--context", "24", "--reading", "conservative")
    value = edgec_json(*args)
    assert (value["position"], value["reading"]) == (23, "conservative")
    assert value["cycles_per_token"] == value["readings"]["conservative"]["cycles_per_token"]
    assert value["curve"][-1]["cycles"] == value["cycles_per_token"]
    text = edgec(*args).stdout
    for word in ("conservative", "bound by", "prefill of 24 tokens", "uJ", "167 mW", "assumed: "):
        assert word in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--profile", "--prompt", "a"), "--prompt: found given, allowed only without --profile"),
        (("--profile", "--seed", "0"), "--seed: found given"),
        (("--prompt", "a", "--context", "3"), "--context: found given, allowed only with --prof"),
        (("--profile", "--reading", "best"), "allowed simulator or conservative"),
        (("--profile", "--context", "0"), "--context: found 0, allowed 1..24"),
        (("--profile", "--context", "25"), "--context: found 25, allowed 1..24"),
        ((), "--prompt: found nothing"),
    ],
)
def test_profile_options_without_effect(build: Path, args: tuple[str, ...], message: str) -> None:
    result = edgec("simulate", str(build), *args)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("name", ["weights/mram.bin", "plan.json", "golden/golden.bin"])
def test_a_flipped_byte_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "out"
    assert edgec("compile", str(model), "-o", str(output)).exit_code == 0
    data = bytearray((output / name).read_bytes())
    data[len(data) // 2] ^= 0x10
    (output / name).write_bytes(data)
    for command in (["simulate", str(output), "--prompt", "a"], ["verify", str(output)]):
        result = edgec(*command)
        assert result.exit_code == 8, result.output
        assert name in result.output


def test_targets_are_listed() -> None:
    names = [target["name"] for target in edgec_json("targets")["targets"]]
    assert names == ["rv32", "siracusa"]
    assert "0x10400000" in edgec("targets").stdout


def test_help_shows_an_example_and_imports_nothing_heavy() -> None:
    for name in main.list_commands(click.Context(main)):
        assert "Example: edgec" in edgec(name, "--help").output
    code = (
        "import sys; from click.testing import CliRunner; from toolchain.cli import main;"
        "CliRunner().invoke(main, ['--help']);"
        "print(sorted({'numpy', 'rich', 'jinja2', 'tokenizers', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"


def test_a_target_of_the_users_own(model: Path, tmp_path: Path) -> None:
    """The bundle carries the description, so that it can be simulated where the file is not."""
    packaged = Path(__file__).parent.parent / "memory_planner" / "targets" / "rv32.toml"
    own = tmp_path / "board.toml"
    own.write_text(packaged.read_text().replace('name = "rv32"', 'name = "board"', 1))
    output = tmp_path / "out"
    value = edgec_json("compile", str(model), "--target", str(own), "-o", str(output))
    assert value["fit"]["target"] == "board"
    own.unlink()
    assert edgec_json("simulate", str(output), "--prompt", "the")["target"] == "board"


@pytest.mark.parametrize(
    "args",
    [
        ["compile", "x", "-o", "y", "--bits", "many"],
        ["simulate", "x", "--prompt", "a", "--max-new-tokens", "0"],
        ["simulate", "x", "--prompt", "a", "--seed", "-1"],
        ["simulate", "x"],
    ],
)
def test_usage_errors_are_json_too(args: list[str]) -> None:
    result = edgec(*args, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["exit_code"] == 2
    assert edgec(*args).exit_code == 2


def test_prompts_and_temperatures_that_are_none(build: Path) -> None:
    for args in (["--prompt", "caf\udce9"], ["--prompt", "a", "--temperature", "nan"]):
        result = edgec("simulate", str(build), *args)
        assert result.exit_code == 2, result.output
        assert args[-2] in result.output


def test_text_has_all_that_the_tokens_say(build: Path) -> None:
    """What the stream decoder holds back comes out at the end."""
    args = ("--temperature", "30", "--max-new-tokens", "20", "--seed", "7")
    value = edgec_json("simulate", str(build), "--prompt", "the", *args)
    tokenizer = read_tokenizer(build / TOKENIZER, vocab_size=97, bos_token_id=None)
    whole = tokenizer.decode([*tokenizer.encode("the"), *value["token_ids"]])
    assert whole == "the" + value["text"]


def scaled(directory: Path, match: str, factor: float) -> Path:
    """A tiny model some of whose weights are multiplied by `factor`."""
    write_model(directory, **TINY)  # type: ignore[arg-type]
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file({n: w * np.float32(factor if match in n else 1) for n, w in tensors.items()}, path)
    return directory


@pytest.mark.parametrize(
    ("match", "factor", "named"),
    [
        ("embed_tokens", 1e-9, "zero for every token"),
        ("gate_proj", 1e6, "l00.mlp.gate_proj: found"),
        ("v_proj", 1e9, "saturated values"),
    ],
)
def test_models_outside_the_range_of_the_integers_are_refused(
    tmp_path: Path, match: str, factor: float, named: str
) -> None:
    """They would compile, verify bit-exactly, and say nothing."""
    model = scaled(tmp_path / "model", match, factor)
    result = edgec("compile", str(model), "-o", str(tmp_path / "out"))
    assert result.exit_code == 9, result.output
    assert named in result.output
    assert not (tmp_path / "out").exists()


def test_unused_files_beside_the_weights_do_not_matter(model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    (copy / "notes.safetensors").mkdir()
    (copy / "consolidated.safetensors").symlink_to("nowhere")
    hashes = []
    for name, source in (("a", model), ("b", copy)):
        assert edgec("compile", str(source), "-o", str(tmp_path / name)).exit_code == 0
        hashes.append(json.loads((tmp_path / name / "manifest.json").read_text())["model_hash"])
    assert hashes[0] == hashes[1]


def test_what_does_not_fit_is_refused_before_the_work(tmp_path: Path) -> None:
    """The plan reads weights for their zeros only: without that NaN weights stay unseen."""
    directory = write_model(tmp_path / "big", hidden_size=32, vocab_size=120, context=32)
    target = (Path(__file__).parent.parent / "memory_planner/targets/rv32.toml").read_text()
    small = target.replace("value = 16777216", "value = 135168", 1)
    assert small != target
    (tmp_path / "small.toml").write_text(small)
    weights = directory / "model.safetensors"
    save_file({n: w * np.float32("nan") for n, w in load_file(weights).items()}, weights)
    args = (
        "--sparse",
        "off",
        "--target",
        str(tmp_path / "small.toml"),
        "-o",
        str(tmp_path / "out"),
    )
    assert edgec("compile", str(directory), *args).exit_code == 3


def test_compare_wants_all_that_is_golden(build: Path, tmp_path: Path) -> None:
    """A dump of nothing, or cut off, is no proof; what a board lacks on purpose is --partial."""
    command = ["make", "-s", "-C", str(build), "tracer", f"OUT={tmp_path}"]
    subprocess.run(command, check=True, capture_output=True)
    whole = subprocess.run([tmp_path / "edgec_tracer", "1"], check=True, capture_output=True).stdout
    dump, golden = tmp_path / "dump", str(build / "golden")

    def compare(data: bytes, *options: str) -> Result:
        dump.write_bytes(data)
        return edgec("compare", str(dump), golden, *options)

    assert compare(whole).exit_code == 0
    assert compare(b"").exit_code == 6
    assert "make tracer" in compare(b"").output
    first = 20 + int.from_bytes(whole[16:20], "little")  # one record: five words and the bytes
    assert compare(whole[:first]).exit_code == 6
    assert compare(whole[:first], "--partial").exit_code == 0
    wrong = bytearray(whole)
    wrong[first - 1] ^= 1
    result = compare(bytes(wrong))
    assert result.exit_code == 6
    assert "op embed" in result.output
    assert json.loads(edgec("compare", str(dump), golden, "--json").stdout)["equal"] is False
