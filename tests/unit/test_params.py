"""What params.yaml may say, and how it is refused when it says something else."""

import copy
from pathlib import Path

import pytest
import yaml

from grokdistill.params import ParamsError, percent, read, validate
from grokdistill.runs import enumerate_runs


def put(raw, path, value):
    """Set the value at a dotted path, where whole numbers are places in lists."""
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in above:
        raw = raw.setdefault(part, {}) if isinstance(raw, dict) else raw[part]
    raw[last] = value


def mappings(value, path=()):
    """Every mapping in a document, with its path; a variant's fields are free and left out."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            if not (len(path) == 3 and path[1] == "variants" and key == "fields"):
                yield from mappings(inner, (*path, str(key)))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from mappings(inner, (*path, str(place)))


def refused(raw):
    with pytest.raises(ParamsError) as caught:
        validate(raw)
    return str(caught.value)


def test_the_paper_scale_is_what_the_design_says(full):
    params = validate(full)
    assert params.pairs == ((113, 107), (107, 113), (113, 97))
    assert params.seeds == (0, 1, 2)
    assert params.students.fractions == (0.35, 0.30, 0.25, 0.20, 0.10)
    assert (params.training.steps, params.training.steps_scarce, params.continual.steps) == (15_000, 30_000, 30_000)
    assert (params.training.batch_size, params.optim.learning_rate, params.optim.weight_decay) == (2048, 1e-3, 1.0)
    assert (params.optim.beta1, params.optim.beta2, params.optim.warmup_steps) == (0.9, 0.98, 10)
    assert (params.model.numbers, params.model.d_model, params.model.n_heads, params.model.d_mlp) == (128, 128, 4, 512)
    assert (params.model.norm, params.model.n_layers, params.training.early_stop) == ("after", 1, None)
    assert (params.students.alpha, params.students.position, params.students.teacher) == (0.98, "operator", "grokked")
    assert (params.joint.alpha, params.joint.position) == (1.0, "modulus")  # distilled only


@pytest.mark.parametrize(
    ("overlay", "pair"),
    [
        *((name, (113, 107)) for name in ("quick", "readings", "readings-after", "readings-check", "readings-length")),
        *((f"readings-check-{p1}-{p2}", (p1, p2)) for p1, p2 in ((107, 113), (113, 97))),
    ],
)
def test_an_overlay_validates_and_writes_elsewhere(repository, overlay, pair):
    whole = validate(read([repository / "params.yaml"]))
    quick = validate(read([repository / "params.yaml", repository / f"config/{overlay}.yaml"]))
    assert quick.pairs == (pair,)
    assert {run.config.seed for run in enumerate_runs(quick).runs} == set(quick.seeds)
    assert overlay == "quick" or min(quick.seeds) >= 100  # no claim is judged by them
    assert quick.model.numbers == whole.model.numbers
    full_scale, small = ({Path(paths.results), Path(paths.datasets)} for paths in (whole.paths, quick.paths))
    for one in small:
        assert one.parts[0] == quick.paths.results
        assert not any(one.is_relative_to(other) or other.is_relative_to(one) for other in full_scale)


def test_an_overlay_merges_mappings_and_replaces_everything_else(tmp_path):
    (tmp_path / "a.yaml").write_text("seeds: [0, 1]\nprimes: {p1: 7, p2: 5}\noptim: {beta1: 0.5}\n")
    (tmp_path / "b.yaml").write_text("seeds: [2]\nprimes: {p2: 3}\n")
    (tmp_path / "c.yaml").write_text("")
    merged = read([tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml")])
    assert merged == {"seeds": [2], "primes": {"p1": 7, "p2": 3}, "optim": {"beta1": 0.5}}


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "\t"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path, text):
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"broken\.yaml"):
        read([tmp_path / "broken.yaml"])
    with pytest.raises(ParamsError, match=r"absent\.yaml"):
        read([tmp_path / "absent.yaml"])


def test_unknown_keys_are_refused_at_every_level(full):
    """At every mapping of the document, an unknown key is named with its path and with the keys that are allowed there."""
    whole = validate(full).model_dump(mode="json")
    levels = list(mappings(whole))
    paths = {".".join(path) for path, _ in levels}
    assert {"", "primes", "students.temperature", "joint.cells.0", "other_pairs.pairs.1", "teachers.variants.0"} <= paths
    for path, level in levels:
        raw = copy.deepcopy(whole)
        put(raw, ".".join((*path, "surprise")), 1)
        message = refused(raw)
        line = next(line for line in message.splitlines() if "unknown key" in line)
        assert line.strip().startswith(".".join((*path, "surprise")) + ":")
        allowed = line.partition("allowed here: ")[2].split(", ")
        assert sorted(level) == sorted(allowed)


def test_every_problem_is_listed(full):
    put(full, "training.steps", 0)
    put(full, "optim.beta1", 2.0)
    put(full, "figures.dots", 3)
    message = refused(full)
    assert all(key in message for key in ("training.steps", "optim.beta1", "figures.dots", "3 problem"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("primes.p1", 111),  # 3 * 37
        ("primes.p2", 121),  # 11 * 11
        ("primes.p1", 1),
        ("primes.p1", 0),
        ("primes.p1", -7),
        ("primes.p2", 2),
        ("primes.p2", 10_007),
        ("other_pairs.pairs.0.p1", 91),  # 7 * 13
        ("teachers.fraction", 0.0),
        ("teachers.fraction", 1.0),
        ("teachers.fraction", 1),
        ("teachers.fraction", -0.2),
        ("teachers.fraction", 1.5),
        ("baselines.fractions.0", 0),
        ("joint.cells.0.p1_fraction", 1.0),
        ("training.scarce_fraction", 0.0),
        ("seeds.1", -1),
        ("seeds.1", True),
        ("seeds.1", 1.5),
        ("seeds.1", "1"),
        ("training.steps", "15000"),
        ("training.steps", True),
        ("training.steps", 0),
        ("training.steps", 100.5),
        ("training.batch_size", 0),
        ("training.early_stop", -1),
        ("training.short_batch", "sometimes"),
        ("training.unit", "passes"),
        ("training.precision", "bfloat16"),
        ("optim.learning_rate", "1e-3"),
        ("optim.learning_rate", True),
        ("optim.learning_rate", 0.0),
        ("optim.learning_rate", float("nan")),
        ("optim.learning_rate", float("inf")),
        ("optim.beta2", 1.0),
        ("optim.weight_decay", -1.0),
        ("model.d_model", True),
        ("model.d_model", 128.0),
        ("model.norm", "pre"),
        ("model.dropout", 1.0),
        ("model.init_scale", float("nan")),
        ("evaluation.every", 0),
        ("evaluation.threshold", 1.0),
        ("evaluation.hold", "500"),
        ("students.alpha", 1.5),
        ("students.alpha", float("nan")),
        ("students.alpha", "0.9"),
        ("students.alpha", False),
        ("students.temperature.value", 0.0),
        ("students.temperature.value", float("nan")),
        ("students.temperature.reading", "hot"),
        ("students.teacher", "tired"),
        ("continual.modulus_token", "both"),
        ("joint.batches", "thirds"),
        ("execution.seeds_per_job", 0),
        ("execution.seeds_per_job", True),
    ],
)
def test_a_wrong_value_is_refused_by_key_and_value(full, path, value):
    put(full, path, value)
    message = refused(full)
    line = next(line for line in message.splitlines() if line.strip().startswith(f"{path}:"))
    assert line.rstrip().endswith(f"found {value!r}")


@pytest.mark.parametrize(
    "value", ["/tmp/out", "../out", "a/../../out", "./out", "a//b", ".", "..", "", "out/", "a b", "~/out", 7, None]
)
@pytest.mark.parametrize("key", ["results", "datasets"])
def test_a_path_that_could_leave_the_repository_is_refused(full, key, value):
    put(full, f"paths.{key}", value)
    message = refused(full)
    assert f"paths.{key}:" in message
    assert repr(value) in message


@pytest.mark.parametrize(
    ("results", "datasets"),
    [("out", "out"), ("out/results", "out"), ("out", "out/store"), ("out", "out/teachers"), ("out", "out/curves")],
)
def test_a_dataset_folder_that_publishing_would_wipe_results_from_is_refused(full, results, datasets):
    """The folder of datasets is replaced as a whole when it is published: nothing else may lie in it."""
    full["paths"] = {"results": results, "datasets": datasets}
    assert "paths" in refused(full)


def test_two_equal_moduli_are_refused(full):
    put(full, "primes", {"p1": 107, "p2": 107})
    message = refused(full)
    assert "primes" in message
    assert "107" in message


def test_a_pair_of_moduli_listed_twice_is_refused(full):
    put(full, "other_pairs.pairs", [{"p1": 113, "p2": 107}])
    assert "other_pairs.pairs" in refused(full)
    put(full, "other_pairs.pairs", [{"p1": 107, "p2": 113}])
    validate(full)


@pytest.mark.parametrize("path", ["primes.p1", "primes.p2", "other_pairs.pairs.0.p2", "other_pairs.pairs.1.p1"])
def test_a_modulus_beyond_the_number_tokens_is_told_by_its_key(full, path):
    put(full, path, 131)
    assert f"{path}: modulus 131 needs as many number tokens, and model.numbers is 128" in refused(full)


@pytest.mark.parametrize(
    ("path", "values", "twice"),
    [
        ("seeds", [0, 1, 0], "0"),
        ("baselines.fractions", [0.3, 0.25, 0.3], "0.3"),
        ("students.operators", ["add", "add"], "'add'"),
        ("continual.methods", ["distilled", "distilled"], "'distilled'"),
        ("teachers.optimizers", ["adamw", "adamw"], "'adamw'"),
    ],
)
def test_a_value_listed_twice_is_refused(full, path, values, twice):
    put(full, path, values)
    message = refused(full)
    assert f"{path}: {twice} is listed twice" in message


def test_an_empty_list_of_seeds_is_refused(full):
    put(full, "seeds", [])
    assert "seeds" in refused(full)


def test_fractions_that_would_share_a_name_are_refused(full):
    put(full, "students.fractions", [0.25, 0.25000000001])
    message = refused(full)
    assert "students.fractions" in message
    assert "0.25000000001" in message


def test_a_mixture_listed_twice_is_refused(full):
    put(full, "joint.cells", [{"p1_fraction": 0.35, "fraction": 0.3}] * 2)
    assert "joint" in refused(full)


@pytest.mark.parametrize(
    ("path", "fraction", "kind"),
    [
        ("teachers.fraction", 0.01, "training"),
        ("teachers.fraction", 0.02, "training"),  # 0.98 of a pair
        ("teachers.fraction", 0.99, None),  # 48 of 49 pairs
        ("baselines.fractions", 0.03, "training"),
        ("students.fractions", 0.039, "training"),
        ("students.fractions", 0.04, None),  # exactly one of 25 pairs
        ("continual.fractions", 0.02, "training"),
        ("joint.cells.fraction", 0.02, "training"),
        ("joint.cells.p1_fraction", 0.02, "training"),
    ],
)
def test_a_fraction_that_leaves_no_pair_is_refused(tiny, path, fraction, kind):
    if path.startswith("joint"):
        tiny["joint"]["cells"][0][path.rpartition(".")[2]] = fraction
    else:
        put(tiny, path, [fraction] if path.endswith("s") else fraction)
    if kind is None:
        validate(tiny)
    else:
        message = refused(tiny)
        assert path in message
        assert f"{fraction} " in message
        assert f"no {kind} pair" in message


def test_a_fraction_that_leaves_no_test_pair_is_refused(tiny):
    tiny["baselines"]["fractions"] = [0.99999999999]  # of 25 pairs: all of them but for rounding
    assert "no test pair" in refused(tiny)


@pytest.mark.parametrize("section", ["model", "joint"])
def test_heads_must_divide_the_width(full, section):
    put(full, f"{section}.n_heads", 5)
    message = refused(full)
    assert section in message
    assert "n_heads 5" in message


def test_a_modulus_above_the_number_tokens_is_refused(full):
    put(full, "model.numbers", 112)
    message = refused(full)
    assert "model.numbers" in message
    assert "112" in message
    assert "113" in message
    put(full, "model.numbers", 113)
    validate(full)


def test_a_document_that_is_no_mapping_is_refused():
    for raw in (None, [], "params", 3):
        assert "mapping" in refused(raw)


@pytest.mark.parametrize(
    ("fraction", "name"),
    [(0.35, "f35"), (0.3, "f30"), (0.1, "f10"), (0.05, "f5"), (0.125, "f12p5"), (0.29, "f29"), (0.007, "f0p7")],
)
def test_a_fraction_in_names(fraction, name):
    assert percent(fraction) == name


def test_whole_numbers_stand_for_real_ones(full):
    put(full, "optim.weight_decay", 1)
    one = validate(full)
    put(full, "optim.weight_decay", 1.0)
    assert one.model_dump_json() == validate(full).model_dump_json()


def test_params_cannot_be_changed_after_validation(full):
    params = validate(full)
    with pytest.raises(Exception, match="frozen"):
        params.seeds = (7,)


def test_params_survive_a_round_trip_through_yaml(full):
    params = validate(full)
    assert validate(yaml.safe_load(yaml.safe_dump(params.model_dump(mode="json")))) == params


def test_null_in_a_variant_means_all(full):
    """`operators: null` is what leaving it out says."""
    without = validate(full)
    full["teachers"]["variants"][0] |= {"operators": None, "fractions": None}
    assert validate(full) == without


def test_a_variant_lists_nothing_twice(full):
    full["teachers"]["variants"][0]["operators"] = ["add", "add"]
    assert "teachers.variants.0.operators: 'add' is listed twice" in refused(full)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"alpha": []}, "alpha: an empty list of values"),
        ({"alpha": [0.5, 0.7, 0.5]}, "alpha: 0.5 is listed twice"),
        (
            {name: list(range(100)) for name in ("steps", "d_mlp", "eval_every")},
            "a grid of 1,000,000 combinations; at most 10,000",
        ),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused(full, fields, message):
    full["students"]["variants"] = [{"fields": fields}]
    assert f"students.variants.0.fields: {message}" in refused(full)
