"""The parameters of a study: what `params.yaml` may say, checked before any job starts.

Every model here is frozen and refuses unknown keys. Descriptions give the unit and the source: "paper §3" is section 3 of
*When Data Falls Short: Grokking Below the Critical Threshold* (arXiv 2511.04760); "assumed" marks what the paper leaves open.
The JSON schema for editors is generated from this module (`python -m grokdistill schema`).
"""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise, product
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, field_validator, model_validator

from grokdistill.data import train_size

Int = Annotated[int, Strict()]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Positive = Annotated[Float, Field(gt=0)]
Fraction = Annotated[Float, Field(gt=0, lt=1)]
Seed = Annotated[Int, Field(ge=0, lt=2**31)]
Steps = Annotated[Int, Field(ge=1, le=10_000_000)]
Operator = Literal["add", "sub"]
Optimizer = Literal["adam", "adamw"]
Loss = Literal["stablemax", "softmax"]
Position = Literal["operator", "modulus"]
Method = Literal["supervised", "distilled"]


LARGEST = 1_000_000  # bytes of a file of parameters, and values in it
LARGEST_SWEEP = 10_000  # combinations in one grid


class ParamsError(ValueError):
    """Parameters that cannot be used; the message names each key, what was found and what is allowed."""


def is_prime(n: int) -> bool:
    """Whether `n` is prime (trial division; moduli are small)."""
    return n >= 2 and all(n % k for k in range(2, int(n**0.5) + 1))


def _prime(value: int) -> int:
    if value > 10_000:
        raise ValueError("a modulus is at most 10000, since its dataset has p*p pairs")
    if not is_prime(value):
        raise ValueError("a modulus must be prime (the paper trains on primes only)")
    if value == 2:
        raise ValueError("modulus 2 has four pairs: too few for a training and a test set")
    return value


def _unique(values: tuple) -> tuple:
    for first, second in pairwise(sorted(values)):
        if first == second:
            raise ValueError(f"{first!r} is listed twice")
    return values


def percent(fraction: float) -> str:
    """A fraction as it stands in names: 0.35 -> "f35", 0.125 -> "f12p5" (no dots, since metrics keys have none)."""
    return "f" + f"{round(100 * fraction, 6):g}".replace(".", "p")


class Section(BaseModel):
    """A frozen section of the parameters that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("seeds", "fractions", "operators", "optimizers", "methods", check_fields=False)
    @classmethod
    def _no_duplicates(cls, values: tuple | None) -> tuple | None:
        return None if values is None else _unique(values)

    @field_validator("fractions", check_fields=False)
    @classmethod
    def _distinct_names(cls, values: tuple | None) -> tuple | None:
        _unique(tuple(percent(value) for value in values or ()))
        return values


class Paths(Section):
    """Where a study is written, relative to the repository root."""

    results: str = Field("results", description="Folder for everything that runs write.")
    datasets: str = Field("data/datasets", description="Folder for the generated datasets (a view, tracked by DVC).")
    claims: str = Field("data/paper/claims.yaml", description="The file with the paper's claims.")

    @field_validator("claims")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*(/[A-Za-z0-9_-]+)*\.ya?ml", value):
            raise ValueError("a path below the repository's root to a .yaml file; its parts are letters, digits, - and _")
        return value

    @field_validator("results", "datasets")
    @classmethod
    def _inside(cls, value: str) -> str:
        # What lies there is replaced by views of the store, so a slip must not name a folder of sources.
        if not re.fullmatch(r"(results|data)[A-Za-z0-9_-]*(/[A-Za-z0-9_-]+)*", value) or PurePosixPath(value).is_relative_to(
            "data/paper"
        ):
            raise ValueError(
                "a path begins with results or data (but not data/paper) and its parts are letters, digits, - and _"
            )
        return value

    @model_validator(mode="after")
    def _apart(self) -> Paths:
        results, datasets = PurePosixPath(self.results), PurePosixPath(self.datasets)
        if results.is_relative_to(datasets):
            raise ValueError(f"datasets ({datasets}) must not hold results ({results})")
        if datasets.is_relative_to(results) and datasets != results / "datasets":
            raise ValueError(f"inside results, datasets can only be {results}/datasets")
        if str(datasets) == "data":
            raise ValueError("datasets must be a folder of its own, such as data/datasets")
        return self


class Primes(Section):
    """The two moduli: p1's model teaches, p2's learns."""

    p1: Int = Field(113, description="Modulus of the first distribution, the teacher's (paper §4: 113).")
    p2: Int = Field(107, description="Modulus of the second distribution, the student's (paper §4: 107).")

    @field_validator("p1", "p2")
    @classmethod
    def _is_prime(cls, value: int) -> int:
        return _prime(value)

    @model_validator(mode="after")
    def _differ(self) -> Primes:
        if self.p1 == self.p2:
            raise ValueError(f"p1 and p2 are both {self.p1}; a distribution shift needs two moduli (paper §3)")
        return self

    @property
    def pair(self) -> tuple[int, int]:
        return self.p1, self.p2


class OtherPairs(Section):
    """Further prime pairs, for the claim that the choice of primes does not matter (paper §3)."""

    pairs: tuple[Primes, ...] = Field((), description="Prime pairs beside the main one.")
    operators: tuple[Operator, ...] = Field(("add", "sub"), description="Operators to run on them.")
    optimizers: tuple[Optimizer, ...] = Field(("adamw",), description="Optimizers of their baselines and students.")
    fractions: tuple[Fraction, ...] = Field((0.25, 0.20), description="Training fractions of p2.")
    max_seeds: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="At most this many of the study's seeds, the first ones; null: all."
    )


class Model(Section):
    """The decoder-only transformer (paper §3 says one layer; sizes are those of Nanda et al. 2023, assumed)."""

    numbers: Annotated[Int, Field(ge=3, le=10_000)] = Field(
        128, description="Number tokens, and as many logits, in every run; every modulus must be at most this."
    )
    d_model: Annotated[Int, Field(ge=1, le=8192)] = Field(128, description="Width of the residual stream.")
    n_heads: Annotated[Int, Field(ge=1, le=512)] = Field(4, description="Attention heads; divides d_model.")
    d_mlp: Annotated[Int, Field(ge=1, le=65536)] = Field(512, description="Hidden units of the MLP (ReLU).")
    n_layers: Annotated[Int, Field(ge=1, le=48)] = Field(1, description="Transformer blocks (paper §3: one).")
    norm: Literal["none", "before", "after"] = Field(
        "after", description="LayerNorm: none, before each block's parts and the output (pre), or after them (post)."
    )
    dropout: Annotated[Float, Field(ge=0, lt=1)] = Field(0.0, description="Dropout on attention and MLP outputs.")
    init_scale: Positive = Field(1.0, description="Factor on every initial weight (1: standard deviation 1/sqrt(d_model)).")

    @model_validator(mode="after")
    def _heads_divide(self) -> Model:
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide d_model {self.d_model}")
        return self


class Optim(Section):
    """Adam without and AdamW with weight decay (paper §3)."""

    learning_rate: Positive = Field(1e-3, description="Step size gamma (paper §3: 1e-3).")
    beta1: Annotated[Float, Field(ge=0, lt=1)] = Field(0.9, description="Decay of the first moment (assumed).")
    beta2: Annotated[Float, Field(ge=0, lt=1)] = Field(0.98, description="Decay of the second moment (assumed).")
    warmup_steps: Annotated[Int, Field(ge=0)] = Field(10, description="Linear warm-up of the rate, in updates (assumed).")
    weight_decay: Annotated[Float, Field(ge=0)] = Field(
        1.0, description="AdamW's decoupled weight decay lambda (paper §3: 1); Adam has none."
    )


class Training(Section):
    """Length and batches of every run."""

    steps: Steps = Field(15_000, description="Length of a run, in `unit` (paper §3: 15,000 to 30,000).")
    steps_scarce: Steps = Field(30_000, description="Length at or below `scarce_fraction` (paper fig. 4: 30,000).")
    scarce_fraction: Fraction = Field(0.20, description="Fractions up to this one get `steps_scarce` (paper §4).")
    unit: Literal["updates", "epochs"] = Field(
        "updates", description="What the paper's 'epochs' and 'iterations' count: optimizer updates or passes over the data."
    )
    batch_size: Annotated[Int, Field(ge=1, le=1_000_000)] = Field(2048, description="Examples per update (paper §3: 2048).")
    short_batch: Literal["keep", "drop", "full"] = Field(
        "keep",
        description="The short last batch of an epoch: keep it, drop it, or fill it from the next epoch (paper silent).",
    )
    early_stop: Annotated[Int, Field(ge=0)] | None = Field(
        None,
        description="Stop this many updates after t_grok, at least `evaluation.hold`; null never stops (paper scale). Teachers "
        "never do: their targets gain structure long after they grokked.",
    )
    precision: Literal["float32", "tf32", "float64"] = Field(
        "float32",
        description="Type of weights and activations; tf32: float32 with a GPU's shortened products (elsewhere: float32).",
    )


class Evaluation(Section):
    """When a run is measured, and what counts as grokked."""

    every: Annotated[Int, Field(ge=1)] = Field(100, description="Updates between evaluations on all pairs.")
    threshold: Fraction = Field(0.95, description="Test accuracy that counts as grokked.")
    hold: Annotated[Int, Field(ge=0)] = Field(500, description="Updates for which it must stay there.")
    memorized: Fraction = Field(0.99, description="Training accuracy that counts as memorized (t_mem).")


class Temperature(Section):
    """How teacher logits become soft targets (paper eq. 3 leaves t open; see config/README.md)."""

    reading: Literal["absolute", "relative", "matched"] = Field(
        "relative",
        description="absolute: softmax(f/t) on both sides (eq. 3). relative: teacher logits standardised per example, "
        "times `value`; the student at t = 1. matched: relative, with the one scale per teacher that gives its targets a "
        "mean entropy of `value` nats.",
    )
    value: Positive = Field(3.0, description="t (absolute), the scale (relative), or the mean entropy in nats (matched).")


class Distillation(Section):
    """Paper eq. 3 and 4: (1 - alpha) * cross-entropy + alpha * KL(teacher || student)."""

    alpha: Annotated[Float, Field(ge=0, le=1)] = Field(0.9, description="Share of the KL term (paper eq. 4; value open).")
    temperature: Temperature = Field(Temperature(), description="How targets are softened.")
    position: Position = Field("operator", description="Where outputs are distilled (paper §4: the operator token).")


class Variant(Section):
    """Departures from the defaults, run beside them: single fields set to other values, on some of the cells."""

    fields: dict[str, Any] = Field(
        description="Run fields to set, e.g. {position: modulus}; the names are those of a run's record, under `config`. "
        "A list of values is a sweep: {alpha: [0.5, 0.7]}; several lists are a grid of all their combinations."
    )
    operators: tuple[Operator, ...] | None = Field(None, description="Instead of the stage's; null: the stage's.")
    optimizers: tuple[Optimizer, ...] | None = Field(None, description="Instead of the stage's; null: the stage's.")
    fractions: tuple[Fraction, ...] | None = Field(None, description="Those of these that are the stage's; null: all.")
    seeds: tuple[Seed, ...] | None = Field(None, description="Only these of the study's seeds; null: all.")

    @field_validator("fields")
    @classmethod
    def _sweep(cls, fields: dict[str, Any]) -> dict[str, Any]:
        for name, values in fields.items():
            if isinstance(values, list):
                if not values:
                    raise ValueError(f"{name}: an empty list of values")
                for place, value in enumerate(values):
                    if value in values[:place]:
                        raise ValueError(f"{name}: {value!r} is listed twice")
        size = math.prod(len(values) for values in fields.values() if isinstance(values, list))
        if size > LARGEST_SWEEP:
            raise ValueError(f"a grid of {size:,} combinations; at most {LARGEST_SWEEP:,} are allowed")
        return fields

    @property
    def departures(self) -> list[dict[str, Any]]:
        """Each combination of values, as fields to set."""
        values = (value if isinstance(value, list) else [value] for value in self.fields.values())
        return [dict(zip(self.fields, combination)) for combination in product(*values)]


class Teachers(Section):
    """Models that grok p1 (paper §4)."""

    fraction: Fraction = Field(0.35, description="Training fraction of p1 (paper §3: 35%).")
    operators: tuple[Operator, ...] = Field(("add", "sub"), description="Operators (paper §3).")
    optimizers: tuple[Optimizer, ...] = Field(("adam", "adamw"), description="Optimizers (paper §3).")
    loss: Loss = Field("stablemax", description="Cross-entropy of every stage's labels (paper eq. 1 and 2).")
    min_accuracy: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.999, description="Test accuracy, on its own p1 and at the end of its training, without which a teacher may not teach."
    )
    variants: tuple[Variant, ...] = Field((), description="Departures to run beside the defaults.")


class Baselines(Section):
    """p2 from scratch (paper fig. 2a, 3, 4a)."""

    operators: tuple[Operator, ...] = Field(("add", "sub"), description="Operators.")
    optimizers: tuple[Optimizer, ...] = Field(("adam", "adamw"), description="Optimizers.")
    fractions: tuple[Fraction, ...] = Field((0.35, 0.30, 0.25, 0.20, 0.10), description="Training fractions of p2.")
    variants: tuple[Variant, ...] = Field((), description="Departures to run beside the defaults.")


class Students(Distillation):
    """p2 distilled from the p1 teacher (paper fig. 2b, 3, 4b)."""

    alpha: Annotated[Float, Field(ge=0, le=1)] = Field(0.98, description="Share of the KL term (paper eq. 4; value open).")
    operators: tuple[Operator, ...] = Field(("add", "sub"), description="Operators.")
    optimizers: tuple[Optimizer, ...] = Field(("adam", "adamw"), description="Optimizers.")
    fractions: tuple[Fraction, ...] = Field((0.35, 0.30, 0.25, 0.20, 0.10), description="Training fractions of p2.")
    temperature: Temperature = Field(
        Temperature(reading="matched", value=4.4), description="How targets are softened: alike for every seed's teacher."
    )
    teacher: Literal["grokked", "ungrokked", "random", "oracle"] = Field(
        "grokked",
        description="grokked: the trained p1 model. Controls: ungrokked (only memorized), random (untrained), "
        "oracle (p1's hard labels, no model).",
    )
    teacher_optimizer: Optimizer = Field("adamw", description="Optimizer of the teacher, also for Adam students.")
    variants: tuple[Variant, ...] = Field((), description="Departures to run beside the defaults.")


class JointCell(Section):
    """One mixture for f_M."""

    p1_fraction: Fraction = Field(description="Training fraction of p1.")
    fraction: Fraction = Field(description="Training fraction of p2.")


class Joint(Distillation):
    """The larger model f_M on p1 and p2 together (paper §5, fig. 5)."""

    operators: tuple[Operator, ...] = Field(("add", "sub"), description="Operators.")
    methods: tuple[Method, ...] = Field(("supervised", "distilled"), description="With labels only, or distilled only.")
    cells: tuple[JointCell, ...] = Field(description="Fractions of p1 and p2 (paper fig. 5: 35% of p1 with 35, 30, 25%).")
    alpha: Annotated[Float, Field(ge=0, le=1)] = Field(1.0, description="Share of the KL term (paper §5: KD only).")
    temperature: Temperature = Field(
        Temperature(reading="matched", value=4.4), description="How targets are softened: alike for both primes' teachers."
    )
    position: Position = Field("modulus", description="Where outputs are distilled; both primes share the operator token.")
    batches: Literal["halves", "shuffled"] = Field(
        "halves", description="Half of each batch from each prime, or batches of the shuffled union (paper silent)."
    )
    d_model: Annotated[Int, Field(ge=1, le=8192)] = Field(192, description="Width of f_M ('a larger model', paper §5).")
    n_heads: Annotated[Int, Field(ge=1, le=512)] = Field(6, description="Heads of f_M.")
    d_mlp: Annotated[Int, Field(ge=1, le=65536)] = Field(768, description="MLP units of f_M.")
    variants: tuple[Variant, ...] = Field((), description="Departures to run beside the defaults.")

    @model_validator(mode="after")
    def _cells_differ(self) -> Joint:
        if len(set(self.cells)) < len(self.cells):
            raise ValueError("cells: a mixture is listed twice")
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide d_model {self.d_model}")
        return self


class Continual(Distillation):
    """A grokked p1 model trained further on p2 (paper §5, fig. 6)."""

    operators: tuple[Operator, ...] = Field(("add", "sub"), description="Operators.")
    methods: tuple[Method, ...] = Field(("supervised", "distilled"), description="Without and with distillation.")
    fractions: tuple[Fraction, ...] = Field((0.35, 0.30, 0.25, 0.20, 0.10), description="Training fractions of p2.")
    steps: Steps = Field(30_000, description="Length, in `training.unit` (paper fig. 6: 30,000).")
    alpha: Annotated[Float, Field(ge=0, le=1)] = Field(
        0.7, description="Share of the KL term (value open; with 0.5 p1 dips while p2 is learned, with 0.9 p2 comes late)."
    )
    position: Position = Field("modulus", description="Where outputs are distilled (the operator protects nothing).")
    modulus_token: Literal["old", "new"] = Field(
        "old", description="Whose modulus token teacher and student see under the KL (paper silent)."
    )
    kl_inputs: Literal["p1_pairs", "p2_pairs"] = Field(
        "p1_pairs", description="Inputs of the KL: p2's training pairs, or all of p1's pairs, unlabelled (paper silent)."
    )
    variants: tuple[Variant, ...] = Field((), description="Departures to run beside the defaults.")


class Figures(Section):
    """How figures are drawn; changes here train nothing."""

    dpi: Annotated[Int, Field(ge=50, le=1200)] = Field(200, description="Resolution of the PNGs, in dots per inch.")


class Claims(Section):
    """How the paper's claims are judged; changes here train nothing."""

    min_n: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="Seeds per cell below which a claim is 'not run'; null: each claim's own."
    )


class Execution(Section):
    """How jobs are cut; never part of a result's identity."""

    seeds_per_job: Annotated[Int, Field(ge=1, le=1024)] = Field(
        1, description="Seeds that one training job trains side by side as one stacked model."
    )
    keep_seconds: Annotated[Float, Field(ge=0, le=86400)] = Field(
        20.0, description="Seconds between two saved states of a training job: what a stop can cost at most."
    )


class Params(Section):
    """A whole study."""

    paths: Paths = Field(Paths(), description="Where it is written.")
    seeds: tuple[Seed, ...] = Field((0, 1, 2), description="Seeds; each covers initialisation, batches and split.")
    primes: Primes = Field(Primes(), description="The main pair of moduli.")
    other_pairs: OtherPairs = Field(OtherPairs(), description="Further pairs of moduli.")
    model: Model = Field(Model(), description="The transformer of teachers, baselines, students and continual runs.")
    optim: Optim = Field(Optim(), description="Adam and AdamW.")
    training: Training = Field(Training(), description="Length and batches.")
    evaluation: Evaluation = Field(Evaluation(), description="Measures.")
    teachers: Teachers = Field(Teachers(), description="Stage: teachers.")
    baselines: Baselines = Field(Baselines(), description="Stage: baselines.")
    students: Students = Field(Students(), description="Stage: students.")
    joint: Joint = Field(description="Stage: joint.")
    continual: Continual = Field(Continual(), description="Stage: continual.")
    figures: Figures = Field(Figures(), description="Stage: figures.")
    claims: Claims = Field(Claims(), description="Stage: claims.")
    execution: Execution = Field(Execution(), description="How jobs are cut.")

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """All prime pairs, the main one first."""
        return (self.primes.pair, *(pair.pair for pair in self.other_pairs.pairs))

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        if not self.seeds:
            raise ValueError("seeds: at least one seed is needed")
        for stage in ("teachers", "baselines", "students", "joint", "continual"):
            for place, variant in enumerate(getattr(self, stage).variants):
                for seed in set(variant.seeds or ()) - set(self.seeds):
                    raise ValueError(
                        f"{stage}.variants.{place}.seeds: {seed} is not one of the study's seeds {list(self.seeds)}"
                    )
        if len(set(self.pairs)) < len(self.pairs):
            raise ValueError("other_pairs.pairs: a pair of primes is listed twice")
        pairs = {"primes": self.primes} | {
            f"other_pairs.pairs.{place}": pair for place, pair in enumerate(self.other_pairs.pairs)
        }
        moduli = {f"{key}.{name}": prime for key, pair in pairs.items() for name, prime in zip(("p1", "p2"), pair.pair)}
        largest = max(moduli, key=moduli.__getitem__)
        if moduli[largest] > self.model.numbers:
            raise ValueError(
                f"{largest}: modulus {moduli[largest]} needs as many number tokens, and model.numbers is {self.model.numbers}"
            )
        for pair in self.pairs:
            main = pair == self.primes.pair
            on_p1 = {"teachers.fraction": (self.teachers.fraction,)}
            on_p2 = {"other_pairs.fractions": () if main else self.other_pairs.fractions}
            if main:
                on_p1["joint.cells.p1_fraction"] = tuple(cell.p1_fraction for cell in self.joint.cells)
                on_p2["joint.cells.fraction"] = tuple(cell.fraction for cell in self.joint.cells)
                for stage in ("baselines", "students", "continual"):
                    on_p2[f"{stage}.fractions"] = getattr(self, stage).fractions
            for prime, sections in ((pair[0], on_p1), (pair[1], on_p2)):
                for key, fractions in sections.items():
                    for fraction in fractions:
                        if not 0 < train_size(prime, fraction) < prime * prime:
                            kind = "training" if train_size(prime, fraction) == 0 else "test"
                            raise ValueError(
                                f"{key}: {fraction} of the {prime * prime} pairs of modulus {prime} leaves no {kind} pair"
                            )
        return self


def validate(raw: object, source: str = "params.yaml") -> Params:
    """Checked parameters from parsed YAML.

    Raises:
        ParamsError: naming every wrong key, what was found and what is allowed.
    """
    if not isinstance(raw, dict):
        raise ParamsError(f"{source}: expected a mapping of sections, found {type(raw).__name__}")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"]) or "(top level)"
            found = "" if isinstance(item["input"], dict | BaseModel) else f", found {_shown(item['input'])}"
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                message, found = f"unknown key; allowed here: {', '.join(_allowed(item['loc']))}", ""
            elif item["type"] == "missing":
                found = ""
            lines.append(f"  {key}: {message}{found}")
        raise ParamsError(f"{source}: {len(lines)} problem(s)\n" + "\n".join(lines)) from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _allowed(location: tuple) -> list[str]:
    """Names that the section around an unknown key knows."""
    section: Any = Params
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = section.model_fields[part].annotation
            inner = [kind for kind in getattr(section, "__args__", ()) if isinstance(kind, type)]
            section = inner[0] if inner and issubclass(inner[0], BaseModel) else section
    return sorted(section.model_fields)


def schema() -> str:
    """The JSON schema of params.yaml, for editors, as text."""
    document = Params.model_json_schema()
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    document["title"] = "grokdistill parameters"
    return json.dumps(document, indent=2) + "\n"


def read(paths: list[Path]) -> dict[str, Any]:
    """Parsed parameters: the first file, with every later file's keys laid over it as Snakemake does.

    Mappings are merged key by key; anything else is replaced.

    Raises:
        ParamsError: where a file is not YAML, gives a key twice, or is larger than any study's parameters.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        document = _parse(path)
        if not isinstance(document, dict):
            raise ParamsError(f"{path}: expected a mapping of sections, found {type(document).__name__}")
        _overlay(merged, document)
    return merged


def _parse(path: Path) -> Any:
    """A file as plain YAML of bounded size, where aliases count as often as they occur."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Counts what it makes, and refuses a key that is given twice."""

        def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
            keys = [key.value for key, _ in getattr(node, "value", ()) if isinstance(key, yaml.ScalarNode)]
            twice = [key for key in keys if keys.count(key) > 1 and key != "<<"]
            if twice:
                raise ParamsError(f"{path}: the key {twice[0]} is given twice, at{node.start_mark}")
            return super().construct_mapping(node, deep)

    def count(node: yaml.Node, seen: dict[int, int], above: frozenset[int]) -> int:
        """How many values a node stands for, once every alias is written out."""
        if id(node) in above:
            raise ParamsError(f"{path}: a value contains itself, at{node.start_mark}")
        if id(node) not in seen:
            inside = above | {id(node)}
            parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
            parts = [] if isinstance(node, yaml.ScalarNode) else parts
            seen[id(node)] = 1 + sum(count(part, seen, inside) for part in parts)
        return seen[id(node)]

    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise ParamsError(f"{path}: {size:,} bytes; parameters have at most {LARGEST:,}")
        loader = Loader(path.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            values = count(node, {}, frozenset()) if node else 0
            if values > LARGEST:
                raise ParamsError(f"{path}: {values:,} values once its aliases are written out; at most {LARGEST:,}")
            return (loader.construct_document(node) if node else None) or {}
        finally:
            loader.dispose()
    except ParamsError:
        raise
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {error}") from None


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _overlay(below[key], value)
        else:
            below[key] = value
