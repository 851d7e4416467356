"""The float forward pass against transformers, the network of a build against its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codegen.bundle import LoadedBundle
from sim.generate import LOGIT_UNIT
from tests.bundles import compile_tiny
from tests.model.tiny import write_model
from toolchain.evaluate.float_run import FloatSession
from toolchain.evaluate.network import Network, network_of_build, network_of_float, network_of_quant
from toolchain.evaluate.scoring import Query
from toolchain.evaluate.session_model import SessionModel, model_of_build
from toolchain.model.checkpoint import load_model
from toolchain.model.names import HEAD
from toolchain.model.program import ActMode
from toolchain.model.quantize import QuantConfig, QuantTensor, quantize_model

TOKENS = np.array([1, 5, 9, 33, 2, 8, 8, 70, 12, 60])
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def logits_of(network: Network, tokens: np.ndarray[Any, Any] = TOKENS) -> np.ndarray[Any, Any]:
    return FloatSession(network).forward(tokens)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"tied": False, "num_heads": 8, "num_kv_heads": 2, "head_dim": 10},
        {"num_kv_heads": 4, "rope_scaling": LLAMA3, "rms_norm_eps": 1e-2},
    ],
)
def test_logits_are_those_of_transformers(tmp_path: Path, shape: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    write_model(tmp_path, **shape)
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)[None]).logits[0].numpy()
    found = logits_of(network_of_float(load_model(tmp_path)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_tokens_one_by_one_and_after_a_step_back(tmp_path: Path) -> None:
    session = FloatSession(network_of_float(load_model(write_model(tmp_path))))
    whole = session.forward(TOKENS)
    session.position = 4
    np.testing.assert_allclose(session.forward(TOKENS[4:7]), whole[4:7], atol=1e-5)
    session.position = 0
    single = np.concatenate([session.forward(TOKENS[i : i + 1]) for i in range(len(TOKENS))])
    np.testing.assert_allclose(single, whole, atol=1e-5)
    with pytest.raises(IndexError):
        session.forward(np.zeros(23, np.int64))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> LoadedBundle:
    return compile_tiny(tmp_path_factory.mktemp("build"), context=24)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mode", list(ActMode))
def test_the_network_of_a_build_is_that_of_its_weights(
    tmp_path: Path, tied: bool, mode: ActMode
) -> None:
    """Scales, norm units, eps and rotary factors come back from integers: the function agrees."""
    built = compile_tiny(tmp_path, tied=tied, mode=mode, context=24)
    quant = quantize_model(load_model(tmp_path / "model"), QuantConfig(bits=4, group_size=16))
    network = network_of_build(built)
    expected, found = logits_of(network_of_quant(quant)), logits_of(network)
    assert np.abs(found - expected).max() < 5e-4 * np.abs(expected).max()
    integers = network.matrices["l01.mlp.down_proj"]
    assert isinstance(integers, QuantTensor)
    np.testing.assert_array_equal(integers.values, quant.linears["l01.mlp.down_proj"].values)
    head = network.matrices[HEAD]
    assert isinstance(head, QuantTensor)
    assert head.bits == 8


def test_the_simulator_comes_close_to_the_network_of_its_build(bundle: LoadedBundle) -> None:
    reference = logits_of(network_of_build(bundle))
    found = np.array([model_of_build(bundle).next_logits(TOKENS[:n].tolist()) for n in (1, 5, 10)])
    error = np.abs(found - reference[[0, 4, 9]]).max()
    assert error < 0.03 * np.abs(reference).max()


def test_a_shared_beginning_is_not_computed_again(bundle: LoadedBundle) -> None:
    """The answers of one question: same scores as alone, bit for bit, for less work."""
    beginning = TOKENS[:6].tolist()
    queries = [Query(np.array([*beginning, *tail]), 6) for tail in ([4, 7], [4, 8, 9], [30])]
    alone = [model_of_build(bundle).score([query])[0] for query in queries]
    model = model_of_build(bundle)
    for scores, expected in zip(model.score(queries), alone, strict=True):
        np.testing.assert_array_equal(scores.log_probs, expected.log_probs)
    # 7 inputs; then from the last token of the beginning on, whose logits are needed again.
    assert model.computed_tokens == 7 + 3 + 1


def test_a_failed_pass_leaves_no_half_sequence(bundle: LoadedBundle) -> None:
    model = model_of_build(bundle)
    expected = model.next_logits([1, 2, 3])
    with pytest.raises(IndexError):
        model.next_logits([1, 2, *range(3, 40)])
    np.testing.assert_array_equal(model.next_logits([1, 2, 3]), expected)


def test_logits_have_their_unit(bundle: LoadedBundle) -> None:
    logits = model_of_build(bundle).next_logits([1]) / LOGIT_UNIT
    np.testing.assert_array_equal(logits, np.rint(logits))


def test_float_and_build_answer_through_one_interface(tmp_path: Path) -> None:
    session = FloatSession(network_of_float(load_model(write_model(tmp_path))))
    model = SessionModel(session, session.context)
    (scores,) = model.score([Query(TOKENS)])
    assert scores.log_probs.shape == (9,)
    assert model.context == 32
