"""The enumeration: how many runs there are, what they are called, and which edits change which fingerprints."""

import copy
import json
import math
import re
from collections import Counter
from functools import cache
from itertools import product

import pytest

from grokdistill.params import ParamsError, validate
from grokdistill.runs import enumerate_runs

TRAINING = ("teachers", "baselines", "students", "joint", "continual")


def study(raw):
    return enumerate_runs(validate(raw))


def enumerated(raw):
    """(stage, name) -> fingerprint."""
    return {(run.config.stage, run.name): run.fingerprint for run in study(raw).runs}


@cache
def _remembered(text):
    return enumerated(json.loads(text))


def fingerprints(raw):
    """The same, told once per parameters."""
    return _remembered(json.dumps(raw))


def changed(before, after):
    """Names in both studies whose fingerprints differ."""
    old, new = fingerprints(before), fingerprints(after)
    return {key for key in old.keys() & new.keys() if old[key] != new[key]}


def edited(raw, path, value):
    """A copy with the value at a dotted path set."""
    raw = copy.deepcopy(raw)
    *above, last = path.split(".")
    place = raw
    for part in above:
        place = place.setdefault(part, {})
    place[last] = value
    return raw


def of(raw, stage):
    return {key for key in fingerprints(raw) if key[0] == stage}


def hand_count():
    """The runs of one seed at the paper's scale, from the design's table: (stage, name without seed)."""
    ops, optimizers, percents = ("add", "sub"), ("adam", "adamw"), (35, 30, 25, 20, 10)
    main, others = "p113-p107", ("p107-p113", "p113-p97")
    names = [("datasets", f"p{prime}") for prime in (113, 107, 97)]
    for op in ops:
        # Teachers of p1 with each optimizer, the softmax comparison, and the teacher of the reversed pair.
        names += [("teachers", f"{op}-p113-f35-{optimizer}-scratch") for optimizer in optimizers]
        names += [("teachers", f"{op}-p113-f35-adamw-scratch-loss_softmax-steps_30000")]
        names += [("teachers", f"{op}-p107-f35-adamw-scratch")]
        for stage, method in (("baselines", "scratch"), ("students", "distilled")):
            names += [(stage, f"{op}-{main}-f{f}-{optimizer}-{method}") for f in percents for optimizer in optimizers]
            names += [(stage, f"{op}-{pair}-f{f}-adamw-{method}") for pair in others for f in (25, 20)]
        names += [("students", f"{op}-{main}-f{f}-adamw-distilled-position_modulus") for f in (25, 20)]
        for method in ("supervised", "distilled"):
            cells = ((35, 35), (35, 30), (35, 25), (35, 20), (25, 35))
            names += [("joint", f"{op}-{main}-f{one}-f{two}-adamw-{method}") for one, two in cells]
            names += [("continual", f"{op}-{main}-f{f}-adamw-{method}") for f in percents]
    return names


def test_the_paper_scale_is_the_designs_table(full):
    """Every run by name, once per seed; those of the other prime pairs once."""
    found, other = fingerprints(full), re.compile("p97|^(add|sub)-p107")
    named = [(stage, f"{name}-s{seed}") for stage, name in hand_count() for seed in range(1 if other.search(name) else 3)]
    assert sorted(found) == sorted(named)
    assert Counter(stage for stage, _ in found) == {
        "datasets": 7,
        "teachers": 20,
        "baselines": 68,
        "students": 80,
        "joint": 60,
        "continual": 60,
    }
    whole = fingerprints(edited(full, "other_pairs.max_seeds", None))
    assert found.items() < whole.items()
    assert sorted(whole) == sorted((stage, f"{name}-s{seed}") for stage, name in hand_count() for seed in range(3))
    assert fingerprints(edited(full, "other_pairs.max_seeds", 9)) == whole


def test_names_and_fingerprints_are_unique(full):
    runs = study(full).runs
    assert len({(run.config.stage, run.name) for run in runs}) == len(runs)
    assert len({run.fingerprint for run in runs}) == len(runs)
    assert all(len(run.fingerprint) == 20 and set(run.fingerprint) <= set("0123456789abcdef") for run in runs)


def test_parents_come_first_and_have_the_childs_seed(full):
    """Student seed k learns from teacher seed k, on the same operator."""
    seen = set()
    for run in study(full).runs:
        for parent in run.parents.values():
            assert parent.fingerprint in seen
            assert parent.config.seed == run.config.seed
            assert parent.config.op in (None, run.config.op)
        seen.add(run.fingerprint)


def test_what_each_stage_is_made_from(full):
    """Roles, and the prime, fraction and optimizer of what fills them."""
    for run in study(full).runs:
        config = run.config
        found = {
            role: (p.config.stage, p.config.p1, p.config.p2, p.config.fraction, p.config.optimizer)
            for role, p in run.parents.items()
        }
        p1_data, p2_data = ("datasets", config.p1, None, None, None), ("datasets", config.p2, None, None, None)
        teacher = ("teachers", config.p1, None, None, "adamw")
        expected = {
            "datasets": {},
            "teachers": {"p1_dataset": p1_data},
            "baselines": {"p2_dataset": p2_data},
            "students": {"p2_dataset": p2_data, "teacher": teacher},
            "continual": {"p1_dataset": p1_data, "p2_dataset": p2_data, "teacher": teacher},
            "joint": {"p1_dataset": p1_data, "p2_dataset": p2_data},
        }[config.stage]
        if config.stage == "joint" and config.method == "distilled":
            student = ("students", config.p1, config.p2, config.fraction, "adamw")
            expected = expected | {"teacher": teacher, "p2_teacher": student}
        assert found == expected
        assert all(parent.variant == "" for parent in run.parents.values())


def test_configurations_say_what_the_design_says(full):
    """Length, weight decay, sizes and the fields that a run does not have."""
    for run in study(full).runs:
        config = run.config
        if config.stage == "datasets":
            assert config.model_dump(exclude_none=True) == {"stage": "datasets", "seed": config.seed, "p1": config.p1}
            continue
        scarce = min(f for f in (config.fraction, config.p1_fraction) if f) <= 0.20
        long = config.stage == "continual" or scarce or config.loss == "softmax"
        assert config.steps == (30_000 if long else 15_000)
        assert config.weight_decay == (1.0 if config.optimizer == "adamw" else 0.0)
        sizes = {"joint": (192, 6, 768), "continual": (None, None, None)}.get(config.stage, (128, 4, 512))
        assert (config.d_model, config.n_heads, config.d_mlp) == sizes  # a continual run goes on with its teacher's
        assert (config.early_stop, config.threshold, config.hold) == (None, None, None)
        taught = (config.alpha, config.temperature_reading, config.temperature, config.position)
        if config.method == "distilled":
            position = "operator" if config.stage == "students" and not run.variant else "modulus"
            temperature = ("matched", 4.4) if config.stage in ("students", "joint") else ("relative", 3.0)
            assert taught == (full[config.stage]["alpha"], *temperature, position)
        else:
            assert taught == (None,) * 4
        assert (config.teacher is not None) == (config.stage == "students")
        assert (config.kl_inputs, config.modulus_token) == (
            ("p1_pairs", "old") if (config.stage, config.method) == ("continual", "distilled") else (None, None)
        )


def distilled(full):
    """Students, and the joint runs that a student teaches."""
    return of(full, "students") | {key for key in of(full, "joint") if "distilled" in key[1]}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("students.alpha", 0.5),
        ("students.temperature", {"reading": "absolute", "value": 2.0}),
        ("students.teacher_optimizer", "adam"),
        ("students.teacher", "oracle"),
    ],
)
def test_how_students_are_taught_changes_students_and_the_joint_runs_they_teach(full, path, value):
    assert changed(full, edited(full, path, value)) == distilled(full)


@pytest.mark.parametrize(
    ("path", "value", "stage"),
    [
        ("joint.alpha", 0.5, "joint"),
        ("joint.position", "operator", "joint"),
        ("continual.alpha", 0.5, "continual"),
        ("continual.modulus_token", "new", "continual"),
        ("continual.kl_inputs", "p2_pairs", "continual"),
    ],
)
def test_how_a_stage_is_taught_changes_its_distilled_runs_alone(full, path, value, stage):
    assert changed(full, edited(full, path, value)) == {key for key in of(full, stage) if "distilled" in key[1]}


def test_the_size_of_the_joint_model_and_the_length_of_continual_runs_stay_in_their_stages(full):
    assert changed(full, edited(full, "joint.d_model", 96)) == of(full, "joint")
    assert changed(full, edited(full, "joint.batches", "shuffled")) == of(full, "joint")
    assert changed(full, edited(full, "continual.steps", 20_000)) == of(full, "continual")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optim.learning_rate", 2e-3),
        ("model.init_scale", 0.5),
        ("training.batch_size", 512),
        ("training.precision", "float64"),
        ("evaluation.every", 50),
    ],
)
def test_a_shared_setting_changes_every_training_run_and_no_dataset(full, path, value):
    assert changed(full, edited(full, path, value)) == set(fingerprints(full)) - of(full, "datasets")


def test_an_early_stop_changes_every_training_run_but_the_teachers(full):
    """Teachers train to their end; what they teach keeps its teacher and changes by itself."""
    stopping = changed(full, edited(full, "training.early_stop", 500))
    assert stopping == set(fingerprints(full)) - of(full, "datasets") - of(full, "teachers")


def test_the_size_of_the_model_changes_all_but_the_joint_runs_that_nobody_teaches(full):
    """f_M has sizes of its own; distilled, it learns from models that changed."""
    alone = {key for key in of(full, "joint") if "supervised" in key[1]}
    assert changed(full, edited(full, "model.d_mlp", 256)) == set(fingerprints(full)) - of(full, "datasets") - alone


def test_weight_decay_spares_what_adam_alone_makes(full):
    """Adam has none: its teachers and baselines stay; Adam's students have AdamW teachers."""
    changes = changed(full, edited(full, "optim.weight_decay", 0.5))
    spared = set(fingerprints(full)) - changes
    assert spared == of(full, "datasets") | {key for key in of(full, "teachers") | of(full, "baselines") if "-adam-" in key[1]}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("evaluation.threshold", 0.9),
        ("evaluation.hold", 1000),
        ("evaluation.memorized", 0.999),
        ("teachers.min_accuracy", 0.5),
        ("execution.seeds_per_job", 5),
        ("figures.dpi", 300),
        ("claims.min_n", 1),
        ("paths", {"results": "results-elsewhere", "datasets": "data/elsewhere"}),
    ],
)
def test_what_is_no_part_of_a_result_changes_no_fingerprint(full, path, value):
    assert fingerprints(edited(full, path, value)) == fingerprints(full)


def test_the_threshold_counts_where_it_ends_a_run(full):
    stopping = edited(full, "training.early_stop", 500)
    training = set().union(*(of(full, stage) for stage in TRAINING if stage != "teachers"))
    assert changed(stopping, edited(stopping, "evaluation.threshold", 0.9)) == training
    assert changed(stopping, edited(stopping, "evaluation.hold", 100)) == training
    assert changed(stopping, edited(stopping, "evaluation.memorized", 0.9)) == set()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seeds", [0, 1, 2, 17]),
        ("seeds", [0, 7, 2, 1]),
        ("baselines.fractions", [0.05, 0.35, 0.30, 0.25, 0.20, 0.10]),
        ("students.fractions", [0.35, 0.30, 0.25, 0.20, 0.10, 0.5]),
        ("continual.fractions", [0.4, 0.35, 0.30, 0.25, 0.20, 0.10]),
        ("other_pairs.pairs", [{"p1": 127, "p2": 109}, {"p1": 107, "p2": 113}, {"p1": 113, "p2": 97}]),
        ("other_pairs.fractions", [0.1, 0.25, 0.2]),
        ("other_pairs.optimizers", ["adam", "adamw"]),
        ("other_pairs.max_seeds", 2),
        ("students.variants", [{"fields": {"position": "modulus"}}, {"fields": {"teacher": "random"}}]),
    ],
)
def test_adding_keeps_every_fingerprint(full, path, value):
    old, new = fingerprints(full), fingerprints(edited(full, path, value))
    assert old.items() < new.items()


def test_an_edit_taken_back_gives_the_old_fingerprints(full):
    before = fingerprints(full)
    assert fingerprints(edited(full, "optim.weight_decay", 1)) == before
    assert fingerprints(edited(edited(full, "students.alpha", 0.1), "students.alpha", 0.98)) == before


def test_sources_are_part_of_the_recipe(full, monkeypatch):
    """A changed digest of one stage changes that stage's runs and those made from them."""
    from grokdistill import sources

    before, digest = enumerated(full), sources.digest
    monkeypatch.setattr(sources, "digest", lambda module: "other" if module.endswith(".students") else digest(module))
    after = enumerated(full)
    assert {key for key in before if before[key] != after[key]} == distilled(full)


def test_jobs_hold_seeds_of_one_cell(full):
    for size in (1, 2, 3, 8):
        batches = study(edited(full, "execution.seeds_per_job", size)).batches()
        assert sum(len(batch) for batch in batches) == 92 * 3 + 19
        assert len(batches) == 92 * math.ceil(3 / size) + 19
        for batch in batches:
            assert len(batch) <= size
            assert len({(run.config.stage, run.cell) for run in batch}) == 1
            same = [run.config.model_dump(exclude={"seed"}) for run in batch]
            assert all(one == same[0] for one in same)
            seeds = [run.config.seed for run in batch]
            assert sorted(set(seeds)) == seeds


def test_the_run_ahead_in_a_job(full):
    """The first run of a job waits for none of it, each other for the one before it."""
    whole = study(edited(full, "execution.seeds_per_job", 5))
    for batch in whole.batches():
        assert [whole.ahead.get(run.fingerprint) for run in batch] == [None, *batch[:-1]]
    assert study(full).ahead == {}


class TestVariants:
    """Departures from the defaults, run beside them."""

    def runs(self, tiny, stage, variants):
        tiny[stage]["variants"] = variants
        return [run for run in study(tiny).runs if run.config.stage == stage]

    def test_the_name_spells_every_field_that_differs(self, tiny):
        fields = {"temperature_reading": "absolute", "temperature": 2.0, "alpha": 0.9}
        runs = self.runs(tiny, "students", [{"fields": fields, "operators": ["add"]}])
        departed = {run.name: run for run in runs if run.variant}
        assert set(departed) == {
            f"add-p7-p5-f40-adamw-distilled-temperature_2-temperature_reading_absolute-s{s}" for s in (0, 1)
        }
        for run in departed.values():
            assert run.variant == "temperature=2,temperature_reading=absolute"
            assert (run.config.temperature_reading, run.config.temperature, run.config.alpha) == ("absolute", 2.0, 0.9)

    def test_the_defaults_stay_beside_it_with_the_same_fingerprints(self, tiny):
        before = fingerprints(tiny)
        self.runs(tiny, "students", [{"fields": {"alpha": 0.5}}])
        assert before.items() < fingerprints(tiny).items()

    def test_a_departure_that_is_none_adds_nothing(self, tiny):
        before = fingerprints(tiny)
        self.runs(tiny, "students", [{"fields": {"alpha": 0.9, "position": "operator"}}, {"fields": {}}])
        assert fingerprints(tiny) == before

    def test_two_spellings_of_a_value_are_one_run(self, tiny):
        self.runs(tiny, "students", [{"fields": {"alpha": 1}}, {"fields": {"alpha": 1.0}}])
        assert sum(run.config.alpha == 1.0 for run in study(tiny).of("students")) == 4

    def test_a_list_of_values_is_a_sweep_and_several_are_a_grid(self, tiny):
        """Every combination is the run that spelling it out gives; the defaults' own adds nothing."""
        grid = self.runs(tiny, "students", [{"fields": {"alpha": [0.5, 0.7, 0.9], "position": ["operator", "modulus"]}}])
        values = [(alpha, position) for alpha in (0.5, 0.7, 0.9) for position in ("operator", "modulus")]
        one_by_one = [{"fields": {"alpha": alpha, "position": position}} for alpha, position in values]
        spelled_out = self.runs(tiny, "students", one_by_one)
        assert [run.fingerprint for run in grid] == [run.fingerprint for run in spelled_out]
        assert {(run.config.alpha, run.config.position) for run in grid} == set(values)
        assert len(grid) == 6 * 4

    def test_every_combination_of_a_grid_must_be_possible(self, tiny):
        with pytest.raises(ParamsError, match=r"baselines.variants: \{'alpha': 0.5\} applies to no run"):
            self.runs(tiny, "baselines", [{"fields": {"alpha": [0.5]}}])
        with pytest.raises(ParamsError, match=r"students.*n_heads 3 does not divide d_model"):
            self.runs(tiny, "students", [{"fields": {"n_heads": [1, 3]}}])

    def test_only_on_the_cells_it_names(self, tiny):
        tiny["students"] |= {"fractions": [0.4, 0.32], "optimizers": ["adam", "adamw"]}
        tiny["baselines"]["fractions"] = [0.4, 0.32]
        runs = self.runs(
            tiny, "students", [{"fields": {"alpha": 0.5}, "operators": ["sub"], "optimizers": ["adam"], "fractions": [0.32]}]
        )
        found = [(run.config.op, run.config.optimizer, run.config.fraction, run.config.seed) for run in runs if run.variant]
        assert found == [("sub", "adam", 0.32, 0), ("sub", "adam", 0.32, 1)]

    def test_only_with_the_seeds_it_names(self, tiny):
        runs = self.runs(tiny, "students", [{"fields": {"alpha": 0.5}, "seeds": [1]}])
        assert {run.config.seed for run in runs if run.variant} == {1}
        with pytest.raises(ParamsError, match=r"students.variants.0.seeds: 7 is not one of the study's seeds"):
            self.runs(tiny, "students", [{"fields": {"alpha": 0.5}, "seeds": [7]}])

    @pytest.mark.parametrize("stage", ["students", "joint"])
    def test_a_stage_cut_down_cuts_its_variants_down(self, tiny, stage):
        tiny["students"]["fractions"] = [0.32]
        tiny["joint"]["cells"] = [{"p1_fraction": 0.5, "fraction": 0.32}]
        runs = self.runs(tiny, stage, [{"fields": {"learning_rate": 0.5}, "fractions": [0.4, 0.32]}])
        assert {run.config.fraction for run in runs if run.variant} == {0.32}
        with pytest.raises(ParamsError, match="applies to no run"):
            self.runs(tiny, stage, [{"fields": {"learning_rate": 0.5}, "fractions": [0.4]}])

    @pytest.mark.parametrize("teacher", ["grokked", "ungrokked", "random", "oracle"])
    def test_the_teachers_of_students(self, tiny, teacher):
        """The ungrokked control has a teacher of its own that stops once it has memorized; two controls have none."""
        tiny["students"]["teacher"] = teacher
        runs = study(tiny)
        parents = [run.parents for run in runs.of("students")]
        if teacher in ("oracle", "random"):
            assert all(set(roles) == {"p2_dataset"} for roles in parents)
        else:
            assert {roles["teacher"].config.until for roles in parents} == {None if teacher == "grokked" else "memorized"}
            assert len({roles["teacher"].fingerprint for roles in parents}) == 4
        default = enumerate_runs(validate(edited(tiny, "students.teacher", "grokked")))
        assert {run.fingerprint for run in default.of("baselines")} == {run.fingerprint for run in runs.of("baselines")}

    def test_a_teacher_as_a_variant(self, tiny):
        fields = [{"fields": {"teacher": "random"}}, {"fields": {"teacher_optimizer": "adam"}}]
        runs = self.runs(tiny, "students", fields)
        by_variant = {run.variant: run for run in runs if run.config.op == "add" and run.config.seed == 0}
        assert set(by_variant) == {"", "teacher=random", "teacher_optimizer=adam"}
        assert "teacher" not in by_variant["teacher=random"].parents
        assert by_variant["teacher_optimizer=adam"].parents["teacher"].config.optimizer == "adam"

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"alfa": 0.5}, "alfa"),
            ({"alpha": 1.5}, "alpha"),
            ({"alpha": "much"}, "alpha"),
            ({"position": "last"}, "position"),
            ({"n_heads": 3}, "n_heads"),
            ({"temperature_reading": "matched"}, "nats"),
            ({"temperature": 0.0}, "temperature"),
            ({"learning_rate": float("nan")}, "learning_rate"),
            ({"alpha": [0.1, [0.5]]}, "alpha"),
            ({"alpha": {"value": 0.5}}, "alpha"),
            ({"alpha": None}, "alpha"),
            ({"alpha": True}, "alpha"),
            ({"steps": "300"}, "steps"),
            ({"numbers": 4}, "numbers"),
        ],
    )
    def test_a_field_or_value_that_a_run_cannot_have_is_refused(self, tiny, fields, name):
        with pytest.raises(ParamsError) as caught:
            self.runs(tiny, "students", [{"fields": fields}])
        assert "students" in str(caught.value)
        assert name in str(caught.value)

    @pytest.mark.parametrize(
        "fields",
        [
            {"stage": "baselines"},
            {"seed": 9},
            {"p1": 3},
            {"p2": 7},
            {"fraction": 0.2},
            {"op": "sub"},
            {"optimizer": "adam"},
            {"method": "scratch"},
        ],
    )
    def test_a_variant_does_not_change_which_cell_it_is(self, tiny, fields):
        """Datasets, teachers, lengths and weight decay follow from these, so a run that only says otherwise would lie."""
        with pytest.raises(ParamsError, match=next(iter(fields))):
            self.runs(tiny, "students", [{"fields": fields, "operators": ["add"]}])

    @pytest.mark.parametrize(("stage", "answers"), [("students", 7), ("joint", 5), ("continual", 7)])
    def test_a_matched_entropy_is_below_that_of_all_answers_alike(self, tiny, stage, answers):
        """A teacher of 113 and one of 107 both teach f_M; the p1 teacher alone teaches the others."""
        tiny[stage]["temperature"] = {"reading": "matched", "value": math.log(answers) - 1e-6}
        enumerate_runs(validate(tiny))
        tiny[stage]["temperature"]["value"] = math.log(answers) + 1e-6
        with pytest.raises(ParamsError, match=f"{stage}.temperature.* {answers} answers"):
            enumerate_runs(validate(tiny))

    def test_a_variant_that_stops_early_knows_what_it_waits_for(self, tiny):
        """A threshold and a hold come with it, or it is refused."""
        try:
            runs = self.runs(tiny, "students", [{"fields": {"early_stop": 2}}])
        except ParamsError as error:
            assert "early_stop" in str(error)
            return
        departed = [run.config for run in runs if run.variant]
        assert {(config.early_stop, config.threshold, config.hold) for config in departed} == {(2, 0.95, 2)}

    def test_the_name_does_not_depend_on_how_a_value_was_typed(self, tiny):
        one = {run.name for run in self.runs(tiny, "students", [{"fields": {"alpha": 1}}])}
        assert one == {run.name for run in self.runs(tiny, "students", [{"fields": {"alpha": 1.0}}])}

    @pytest.mark.parametrize(
        ("stage", "fields"),
        [
            ("baselines", {"alpha": 0.5}),
            ("teachers", {"temperature": 2.0}),
            ("joint", {"alpha": 0.5}),
            ("joint", {"temperature": 2.0}),
            ("continual", {"modulus_token": "new"}),
            ("continual", {"kl_inputs": "p2_pairs"}),
        ],
    )
    def test_a_run_without_a_teacher_has_no_field_of_distillation(self, tiny, stage, fields):
        """Such a variant is refused, or leaves the runs with labels only alone (an alpha would scale down their loss)."""
        try:
            runs = self.runs(tiny, stage, [{"fields": fields}])
        except ParamsError as error:
            assert next(iter(fields)) in str(error)
            return
        for run in runs:
            assert run.config.method == "distilled" or getattr(run.config, next(iter(fields))) is None, run.name
        assert stage in ("joint", "continual")
        assert any(run.variant for run in runs)


@pytest.mark.parametrize("short", ["keep", "drop", "full"])
def test_epochs_are_passes_over_the_data(tiny, short):
    """60 epochs of 10 of 25 pairs in batches of 8: 2 batches a pass with the short one, 1 without, 1.25 when filled up."""
    tiny["training"] |= {"unit": "epochs", "steps": 60, "short_batch": short}
    (run, *_) = study(tiny).of("baselines")
    assert run.config.steps == {"keep": 120, "drop": 60, "full": 75}[short]


def test_updates_are_updates_whatever_the_batches(tiny):
    for short, size in product(("keep", "drop", "full"), (1, 8, 100)):
        tiny["training"] |= {"short_batch": short, "batch_size": size}
        assert {run.config.steps for stage in TRAINING for run in study(tiny).of(stage)} == {6}


def test_scarce_data_is_trained_longer_in_every_stage(full):
    """30,000 steps at 20% and below, also for a teacher."""
    raw = edited(full, "teachers.fraction", 0.20)
    teachers = [run for run in study(raw).of("teachers") if not run.variant]
    assert {run.config.steps for run in teachers} == {30_000}
    raw = edited(full, "training.scarce_fraction", 0.30)
    steps = {run.config.fraction: run.config.steps for run in study(raw).of("baselines")}
    assert steps == {0.35: 15_000, 0.30: 30_000, 0.25: 30_000, 0.20: 30_000, 0.10: 30_000}


def test_two_runs_that_would_share_a_name_are_refused(full):
    raw = edited(full, "other_pairs.pairs", [])
    raw["joint"]["cells"] = [{"p1_fraction": 0.35, "fraction": 0.2000000001}, {"p1_fraction": 0.35, "fraction": 0.2}]
    with pytest.raises(ParamsError, match="named"):
        study(raw)
