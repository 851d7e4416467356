"""What the engine is worth: four models on Siracusa, by the cycle model (an estimate).

    python -m benchmarks.engine

Per model and activation width: bytes and bits per weight as stored, busy cycles of each lane, the
share of the engine's busy cycles in which it reads weights (1 is its bandwidth bound), the token,
and the share of the token in the bound of all memories. No weights are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.shapes import shapes
from memory_planner.engines import EngineChoice
from memory_planner.target import Reading
from memory_planner.target_file import load_target
from sim.profile import profile
from toolchain.fit.design import Design
from toolchain.fit.planning import plan_design
from toolchain.model.config import ModelConfig
from toolchain.model.engine_packing import EngineLayout
from toolchain.model.outline import SITES
from toolchain.model.program import ActMode, Kind
from toolchain.model.quant_settings import PER_CHANNEL, QuantConfig


@dataclass(frozen=True)
class Case:
    """A model in one activation width, on the engine or not."""

    name: str
    config: ModelConfig
    mode: ActMode
    engine: EngineChoice

    def row(self) -> str:
        """One line of the table."""
        target = load_target("siracusa")
        modes = dict.fromkeys(SITES, self.mode)
        quant = QuantConfig(4, PER_CHANNEL)
        context = self.config.max_position_embeddings
        design = Design(self.config, quant, context, modes, engine=self.engine)
        outcome = plan_design(design, target)
        assert outcome.fits, self.name
        program, plan = outcome.program, outcome.plan
        profiles = {
            reading: profile(program, plan, target, context // 2, reading) for reading in Reading
        }
        usual, careful = (profiles[r].latency for r in (Reading.SIMULATOR, Reading.CONSERVATIVE))
        energy = profiles[Reading.SIMULATOR].energy
        assert energy is not None, "the target has [energy]"
        weights = [s for s in program.tensors.values() if s.kind is Kind.WEIGHT and s.layout]
        stored = sum(spec.size for spec in weights)
        words = [spec for spec in weights if isinstance(spec.layout, EngineLayout)]
        count = sum(spec.layout.rows * spec.layout.columns for spec in words if spec.layout)
        bits = f"{8 * sum(spec.size for spec in words) / count:.2f}" if count else "-"
        lanes = usual.lanes()
        shares = [each.engine_port_share for each in (usual, careful)]
        port = " / ".join(f"{100 * share:.0f} %" for share in shares if share) or "-"
        cells = (
            self.name,
            self.mode.value.upper(),
            self.engine.value,
            f"{stored:,}",
            bits,
            f"{lanes.get('engine', 0):,}",
            f"{lanes['cores']:,}",
            f"{lanes['dma']:,}",
            port,
            f"{usual.cycles_per_token:,} / {careful.cycles_per_token:,}",
            f"{usual.tokens_per_second:,.0f}",
            f"{energy.total.nominal:.0f}",
            f"{100 * usual.bound_share:.1f} %",
        )
        return "| " + " | ".join(cells) + " |"


def cases() -> list[Case]:
    """All of them, the small models first."""
    return [
        Case(name, config, mode, engine)
        for name, config in shapes().items()
        for mode in (ActMode.A16, ActMode.A8)
        for engine in (EngineChoice.CORES, EngineChoice.AUTO)
    ]


def main() -> None:
    """Print the table."""
    print("int4 per channel, half of the context; two figures: simulator / conservative reading")
    print()
    print(
        "| model | activations | engine | weight bytes | bits per engine weight | engine cycles "
        "| core cycles | DMA cycles | engine's share of its bound | cycles per token "
        "| tokens/s | uJ | bound |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for case in cases():
        print(case.row())


if __name__ == "__main__":
    main()
