"""The configuration of one run: every field that decides its result, and nothing else."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from grokdistill import params as p

Stage = Literal["datasets", "teachers", "baselines", "students", "joint", "continual"]
# What a run is, and what its cell decides: a variant cannot change these.
IDENTITY = frozenset(
    (
        "stage",
        "seed",
        "p1",
        "p2",
        "p1_fraction",
        "fraction",
        "op",
        "optimizer",
        "method",
        "numbers",
        "threshold",
        "hold",
        "until",
    )
)
STAGES: tuple[Stage, ...] = ("datasets", "teachers", "baselines", "students", "joint", "continual")


class RunConfig(BaseModel):
    """One run with one seed, flat, so that a variant is a field and a value.

    A field that does not apply to a run is None: a run from scratch has no `alpha`, so changing alpha cannot change its
    fingerprint. `steps`, `warmup_steps`, `eval_every` and `early_stop` are in optimizer updates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    seed: p.Seed
    p1: p.Int | None = None
    p2: p.Int | None = None
    p1_fraction: p.Fraction | None = None
    fraction: p.Fraction | None = None
    op: p.Operator | None = None
    optimizer: p.Optimizer | None = None
    method: Literal["scratch", "supervised", "distilled"] | None = None

    numbers: p.Int | None = None
    d_model: p.Int | None = Field(None, ge=1, le=8192)
    n_heads: p.Int | None = Field(None, ge=1, le=512)
    d_mlp: p.Int | None = Field(None, ge=1, le=65536)
    n_layers: p.Int | None = Field(None, ge=1, le=48)
    norm: Literal["none", "before", "after"] | None = None
    dropout: p.Float | None = Field(None, ge=0, lt=1)
    init_scale: p.Float | None = Field(None, gt=0)

    loss: p.Loss | None = None
    learning_rate: p.Float | None = Field(None, gt=0)
    beta1: p.Float | None = Field(None, ge=0, lt=1)
    beta2: p.Float | None = Field(None, ge=0, lt=1)
    warmup_steps: p.Int | None = Field(None, ge=0)
    weight_decay: p.Float | None = Field(None, ge=0)

    steps: p.Int | None = Field(None, ge=1, le=10_000_000)
    batch_size: p.Int | None = Field(None, ge=1)
    short_batch: Literal["keep", "drop", "full"] | None = None
    precision: Literal["float32", "tf32", "float64"] | None = None
    eval_every: p.Int | None = Field(None, ge=1)
    early_stop: p.Int | None = Field(None, ge=0)
    threshold: p.Float | None = Field(None, gt=0, lt=1)  # only with early_stop; otherwise a matter of the tables
    hold: p.Int | None = Field(None, ge=0)  # likewise
    until: Literal["memorized"] | None = None  # the ungrokked teacher stops as soon as it has memorized

    alpha: p.Float | None = Field(None, ge=0, le=1)
    temperature_reading: Literal["absolute", "relative", "matched"] | None = None
    temperature: p.Float | None = Field(None, gt=0)
    position: p.Position | None = None
    teacher: Literal["grokked", "ungrokked", "random", "oracle"] | None = None
    teacher_optimizer: p.Optimizer | None = None
    batches: Literal["halves", "shuffled"] | None = None
    modulus_token: Literal["old", "new"] | None = None
    kl_inputs: Literal["p1_pairs", "p2_pairs"] | None = None

    @property
    def pair(self) -> str:
        """The prime or primes as they stand in names, such as "p113-p107"."""
        return "-".join(f"p{prime}" for prime in (self.p1, self.p2) if prime)

    @property
    def cell(self) -> tuple[str, ...]:
        """What the run is apart from seed and variant, in the words of names and metrics keys."""
        if self.stage == "datasets":
            return (self.pair,)
        fractions = {"teachers": (self.p1_fraction,), "joint": (self.p1_fraction, self.fraction)}
        fraction = "-".join(p.percent(value) for value in fractions.get(self.stage, (self.fraction,)))
        return self.op, self.pair, fraction, self.optimizer, self.method
