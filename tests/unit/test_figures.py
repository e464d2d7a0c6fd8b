"""The figures show the runs that they are given, in the paper's conventions, and say what they lack."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy
import pandas
import pytest
from matplotlib.colors import to_rgba

from grokdistill import figures, style
from grokdistill.figures import FIGURES, draw, draw_figure

PAIR = (13, 11)
FRACTIONS = (0.35, 0.30, 0.25, 0.20, 0.10)
STEPS = numpy.arange(0, 2001, 50)
COLUMNS = [
    *("stage", "name", "variant", "op", "p1", "p2", "p1_fraction", "fraction", "optimizer", "method"),
    *("loss", "teacher", "seed", "steps", "status", "t_mem", "t_grok", "norm_grok"),
]


class Study:
    """Synthetic runs: the table, and curves in which every run differs from every other."""

    def __init__(self, ops=("add", "sub"), optimizers=("adamw", "adam"), fractions=FRACTIONS, seeds=(0,)):
        self.frames, rows = {}, []
        everywhere = list(itertools.product(ops, fractions, seeds))
        for (op, fraction, seed), optimizer in itertools.product(everywhere, optimizers):
            rows.append(self.run("baselines", op, optimizer, fraction, "scratch", seed))
            rows.append(self.run("students", op, optimizer, fraction, "distilled", seed))
        for (op, fraction, seed), method in itertools.product(everywhere, ("supervised", "distilled")):
            rows.append(self.run("continual", op, "adamw", fraction, method, seed))
            if fraction > 0.15:
                rows.append(self.run("joint", op, "adamw", fraction, method, seed, p1_fraction=0.35))
        self.runs = pandas.DataFrame(rows).reindex(columns=COLUMNS)

    def run(self, stage, op, optimizer, fraction, method, seed, *, p1_fraction=numpy.nan):
        number = len(self.frames)
        name = f"run-{number}"
        rise = 1 / (1 + numpy.exp(-(STEPS - 400 - 3 * number) / 80))
        frame = {"step": STEPS, "test_acc": rise, "train_acc": rise**0.5, "weight_norm": 40 + number + STEPS / 100}
        if stage in ("joint", "continual"):
            frame["p1_acc"] = 1 - rise / 2
        if stage == "joint":
            frame["p1_train_acc"] = 1 - rise / 3
        self.frames[stage, name] = pandas.DataFrame(frame)
        grokked = STEPS[rise >= 0.95][0]
        fields = {"stage": stage, "name": name, "op": op, "p1": PAIR[0], "p2": PAIR[1], "p1_fraction": p1_fraction}
        fields |= {"fraction": fraction, "optimizer": optimizer, "method": method, "seed": seed, "steps": 2000}
        return fields | {"status": "grokked", "t_grok": grokked}

    def curves(self, stage, name):
        return self.frames[stage, name]

    def only(self, **values):
        """The same study with only these runs in its table."""
        kept = self.runs
        for field, value in values.items():
            kept = kept[kept[field].eq(value)]
        return kept

    def figure(self, number, runs=None):
        with style.context():
            return draw_figure(FIGURES[number], self.runs if runs is None else runs, self.curves, PAIR)


@pytest.fixture(scope="module")
def study():
    return Study()


def lines(ax, column):
    return [line for line in ax.lines if line.get_label() == column]


def drawn(ax, column):
    """What a panel shows of a column, as a set of (colour, dashed, values)."""
    return {(line.get_color(), line.is_dashed(), tuple(numpy.round(line.get_ydata(), 9))) for line in lines(ax, column)}


def supplied(study, column, colour, dashed, **values):
    """What that panel should show, from the table and the frames."""
    return {
        (style.COLOURS[colour(run)], dashed(run), tuple(numpy.round(study.curves(run.stage, run.name)[column], 9)))
        for run in study.only(**values).itertuples()
    }


def face(figure):
    """All that is written on a figure, legends included."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    return " ".join(text.get_text() for text in (*texts, *(text for ax in figure.axes for text in ax.texts)))


def legend(figure):
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def of_op(run):
    return run.op


def of_fraction(run):
    return run.fraction


@pytest.mark.parametrize("column", ["test_acc", "train_acc"])
@pytest.mark.parametrize(("number", "fraction"), [(2, 0.30), (4, 0.20)])
def test_figures_2_and_4_show_each_operator_and_optimizer_from_scratch_and_distilled(study, number, fraction, column):
    scratch, distilled = study.figure(number).axes
    for ax, stage in ((scratch, "baselines"), (distilled, "students")):
        expected = supplied(study, column, of_op, lambda run: run.optimizer == "adam", stage=stage, fraction=fraction)
        assert len(expected) == 4
        assert drawn(ax, column) == expected


def test_figure_3_has_a_panel_per_operator_dashed_from_scratch_and_solid_distilled(study):
    for ax, op in zip(study.figure(3).axes, ("add", "sub"), strict=True):
        expected = set()
        for stage in ("baselines", "students"):
            expected |= supplied(
                study, "test_acc", of_fraction, lambda run: run.stage == "baselines", stage=stage, op=op, optimizer="adamw"
            )
        assert len(expected) == 10
        assert drawn(ax, "test_acc") == expected
        assert drawn(ax, "weight_norm") == set()


def test_figure_1_shows_the_student_and_the_joint_model_at_25_percent(study):
    axes = study.figure(1).axes
    for row, op in enumerate(("add", "sub")):
        student, joint = axes[2 * row : 2 * row + 2]
        cells = [("baselines", True), ("students", False)]
        expected = set()
        for stage, dashed in cells:
            expected |= supplied(
                study, "test_acc", lambda _: "p2", lambda _, d=dashed: d, stage=stage, op=op, fraction=0.2, optimizer="adamw"
            )
        assert drawn(student, "test_acc") == expected
        assert "20%" in axes[0].get_title(loc="left")
        for column, prime in (("test_acc", "p2"), ("p1_acc", "p1"), ("p1_train_acc", "p1")):
            assert drawn(joint, column) == supplied(
                study, column, lambda _, p=prime: p, lambda run: run.method == "supervised", stage="joint", op=op, fraction=0.25
            )
        assert "25%" in axes[1].get_title(loc="left")


def test_figure_1_falls_back_on_the_smallest_joint_fraction_and_says_so(study):
    runs = study.runs[~(study.runs["stage"].eq("joint") & study.runs["fraction"].eq(0.25))]
    figure = study.figure(1, runs)
    assert "20%" in figure.axes[1].get_title(loc="left")
    assert "part of the grid: 4 of 8 runs" in face(figure)
    assert len(lines(figure.axes[1], "p1_acc")) == 2


def test_figure_1_ignores_the_joint_runs_with_scarce_p1(study):
    other = study.only(stage="joint", fraction=0.25).assign(p1_fraction=0.25, seed=7)
    figure = study.figure(1, pandas.concat([study.runs, other]))
    assert len(lines(figure.axes[1], "test_acc")) == 2
    assert "n = 1 seed" in face(figure)


def test_figure_5_shows_both_primes_at_four_fractions(study):
    axes = study.figure(5).axes
    for ax, (op, method) in zip(axes, itertools.product(("add", "sub"), ("supervised", "distilled")), strict=True):
        for column, dotted in (("test_acc", False), ("p1_acc", True), ("train_acc", False), ("p1_train_acc", True)):
            expected = supplied(study, column, of_fraction, lambda _, d=dotted: d, stage="joint", op=op, method=method)
            assert len(expected) == 4
            assert drawn(ax, column) == expected


def test_figure_6_shows_old_and_new_prime_solid_with_distillation(study):
    axes = study.figure(6).axes
    for ax, (op, column) in zip(axes, itertools.product(("add", "sub"), ("p1_acc", "test_acc")), strict=True):
        expected = supplied(study, column, of_fraction, lambda run: run.method == "supervised", stage="continual", op=op)
        assert len(expected) == 10
        assert drawn(ax, column) == expected


@pytest.mark.parametrize(("p1", "p2"), [(13, 11), (11, 13), (113, 107)])
def test_figure_6_floors_equal_a_count_over_all_pairs(p1, p2):
    for op, answer in (("add", lambda a, b: a + b), ("sub", lambda a, b: a - b)):
        pairs = list(itertools.product(range(p1), repeat=2))
        same = sum(answer(a, b) % p1 == answer(a, b) % p2 for a, b in pairs)
        assert figures.same_answer_share(p1, p2, op) == pytest.approx(same / len(pairs))
    covered = sum(a < p2 and b < p2 for a, b in pairs)
    assert figures.covered_share(p1, p2) == pytest.approx(covered / len(pairs))


def test_figure_6_draws_and_labels_its_floors_on_the_old_prime_only(study):
    axes = study.figure(6).axes
    for ax, op in ((axes[0], "add"), (axes[2], "sub")):
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        for share in (figures.same_answer_share(*PAIR, op), figures.covered_share(*PAIR)):
            (name,) = [name for name in names if f"{share:.3f}" in name]
            (line,) = lines(ax, name)
            assert set(line.get_ydata()) == {share}
    assert axes[1].get_legend() is None


def test_figure_7_marks_t_grok_on_each_runs_own_curve():
    study = Study(seeds=(0, 1, 2))
    censored = study.runs["name"].eq(study.only(stage="students", op="add", optimizer="adam", seed=1)["name"].iloc[0])
    study.runs.loc[censored, ["t_grok", "status"]] = [numpy.nan, "censored"]
    axes = study.figure(7).axes
    for ax, (optimizer, op) in zip(axes, itertools.product(("adamw", "adam"), ("add", "sub")), strict=True):
        expected = set()
        for run in study.only(stage="students", op=op, optimizer=optimizer).dropna(subset="t_grok").itertuples():
            frame = study.curves(run.stage, run.name).set_index("step")
            expected.add((run.t_grok, frame["weight_norm"][run.t_grok], style.COLOURS[run.fraction]))
        marks = {(line.get_xdata()[0], line.get_ydata()[0], line.get_color()) for line in lines(ax, "t_grok")}
        assert marks == expected
        assert len(marks) == 14 if (optimizer, op) == ("adam", "add") else 15
        assert len(lines(ax, "weight_norm")) == 5


def test_train_accuracy_is_fainter_than_test_accuracy_and_shares_its_colour(study):
    for ax in study.figure(3).axes:
        for column, alphas in (("test_acc", {None}), ("train_acc", {style.FAINT["alpha"]})):
            assert {line.get_alpha() for line in lines(ax, column)} == alphas
        assert {line.get_color() for line in lines(ax, "train_acc")} == {line.get_color() for line in lines(ax, "test_acc")}
    assert style.FAINT["alpha"] < 0.5


def test_several_seeds_are_a_median_with_a_band_over_their_range():
    study = Study(ops=("add",), optimizers=("adamw",), fractions=(0.2,), seeds=(0, 1, 2, 3, 4))
    figure = study.figure(4)
    students = [study.curves(run.stage, run.name)["test_acc"] for run in study.only(stage="students").itertuples()]
    (line,) = lines(figure.axes[1], "test_acc")
    assert line.get_ydata() == pytest.approx(numpy.median(students, axis=0))
    (band,) = figure.axes[1].collections
    corners = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices}
    for place, step in enumerate(STEPS):
        values = [values[place] for values in students]
        assert {(step, round(min(values), 9)), (step, round(max(values), 9))} <= corners
    assert "median" in face(figure) and "range, n = 5 seeds" in face(figure)


def test_a_run_that_outlasts_the_others_goes_on_alone():
    study = Study(ops=("add",), optimizers=("adamw",), fractions=(0.2,), seeds=(0, 1, 2))
    first, *others = [(run.stage, run.name) for run in study.only(stage="students").itertuples()]
    study.frames[first] = study.frames[first].iloc[:10]
    ax = study.figure(4).axes[1]
    (line,) = lines(ax, "test_acc")
    assert list(line.get_xdata()) == list(STEPS[:10])
    for key, seed in zip(others, (1, 2), strict=True):
        (alone,) = lines(ax, f"test_acc of seed {seed}")
        assert alone.get_ydata() == pytest.approx(study.frames[key]["test_acc"].iloc[9:])


def test_a_diverged_run_is_crossed_at_its_last_evaluation(study):
    runs = study.runs.copy()
    runs.loc[runs["name"].eq("run-0"), "status"] = "diverged"
    number = {0.35: 3}[runs.loc[runs["name"].eq("run-0"), "fraction"].item()]
    figure = study.figure(number, runs)
    (cross,) = lines(figure.axes[0], "diverged")
    last = study.curves("baselines", "run-0").iloc[-1]
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (last["step"], last["test_acc"])
    assert "diverged" in legend(figure)
    assert "diverged" not in legend(study.figure(number))


@pytest.mark.parametrize("number", FIGURES)
def test_the_full_grid_has_no_note_of_missing_runs_and_one_missing_run_has(study, number):
    assert "part of the grid" not in face(study.figure(number))
    assert "not run" not in face(study.figure(number))
    needed = {1: "joint", 5: "joint", 6: "continual"}.get(number, "students")
    fraction = {1: 0.25, 2: 0.30}.get(number, 0.20)
    lost = study.only(stage=needed, fraction=fraction, optimizer="adamw", op="add", method="distilled")["name"]
    assert len(lost) == 1
    assert "part of the grid" in face(study.figure(number, study.runs[~study.runs["name"].isin(lost)]))


@pytest.mark.parametrize(
    ("number", "counts", "present"),
    [
        (1, "4 of 8", "fraction 20%"),
        (2, "0 of 8", ""),
        (3, "4 of 20", "fraction 20%"),
        (4, "4 of 8", "optimizer AdamW"),
        (5, "2 of 16", "operator add; fraction 20%"),
        (6, "2 of 20", "operator add; fraction 20%"),
        (7, "2 of 20", "optimizer AdamW; fraction 20%"),
    ],
)
def test_part_of_the_grid_is_counted_and_named(number, counts, present):
    study = Study(optimizers=("adamw",), fractions=(0.20,))
    runs = study.runs[~(study.runs["stage"].isin(["joint", "continual"]) & study.runs["op"].eq("sub"))]
    figure = study.figure(number, runs)
    note = face(figure).replace("\n", " ")
    assert f"part of the grid: {counts} runs of the full figure" in note
    assert present in note
    assert ("seed 0" in note) == (number != 2)
    panels = {1: 4}.get(number, 2)  # rows of which nothing was run take no space
    assert len(figure.axes) == panels
    assert face(figure).count("not run") == {1: 1, 2: 2}.get(number, 0)


def test_a_missing_seed_makes_a_part_too():
    study = Study(optimizers=("adamw",), seeds=(0, 1))
    lost = study.only(stage="students", op="sub", fraction=0.20, seed=1)["name"]
    note = face(study.figure(3, study.runs[~study.runs["name"].isin(lost)])).replace("\n", " ")
    assert "n = 1 to 2 seeds" in note and "39 of 40 runs" in note and "seeds 0, 1" in note


def test_an_absent_panel_says_so_and_keeps_its_neighbour(study):
    add, sub = study.figure(3, study.only(op="add")).axes
    assert [text.get_text() for text in sub.texts] == ["not run"] and not sub.lines
    assert add.lines and not add.texts


@pytest.mark.parametrize("number", FIGURES)
def test_nothing_but_the_main_pairs_default_runs_is_drawn(study, number):
    others = [study.runs.assign(**fields) for fields in ({"variant": "alpha=0.5"}, {"p1": 17}, {"p2": 17})]
    datasets = pandas.DataFrame([{"stage": "teachers", "name": "t", "op": "add", "p1": PAIR[0], "seed": 0}])
    mixed = pandas.concat([study.runs, *others, datasets], ignore_index=True)
    ours, theirs = study.figure(number), study.figure(number, mixed)
    assert face(ours) == face(theirs)
    for mine, other in zip(ours.axes, theirs.axes, strict=True):
        assert len(mine.lines) == len(other.lines) > 1


def test_two_runs_of_one_condition_and_seed_are_refused(study):
    twice = study.only(stage="students", op="add", fraction=0.2, optimizer="adamw").assign(name="impostor")
    with pytest.raises(ValueError, match="impostor"):
        study.figure(4, pandas.concat([study.runs, twice]))


def test_curves_may_lack_columns(study):
    bare = Study(ops=("add",), optimizers=("adamw",), fractions=(0.25,))
    for key, frame in bare.frames.items():
        bare.frames[key] = frame[["step", "test_acc"]]
    figure = bare.figure(5)
    assert {line.get_label() for line in figure.axes[0].lines} == {"test_acc", "threshold"}
    assert "faint: train" not in legend(figure)


def test_every_value_has_its_own_colour_and_its_own_marker():
    for values in (FRACTIONS, ("add", "sub"), ("p1", "p2")):
        for look in (style.COLOURS, style.MARKERS):
            assert len({look[value] for value in values}) == len(values)
    assert style.DASHES["distilled"] == "solid" != style.DASHES["scratch"] == style.DASHES["supervised"]
    assert style.DASHES["adam"] != style.DASHES["adamw"]


@pytest.mark.parametrize("number", FIGURES)
def test_no_text_is_smaller_than_seven_points_or_leaves_the_figure(study, number):
    with style.context():
        figure = study.figure(number)
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(match=lambda item: hasattr(item, "get_fontsize")) if text.get_text().strip()]
        width, height = figure.bbox.size
        for text in (text for text in texts if text.get_visible()):
            assert text.get_fontsize() >= 7
        for text in (*figure.texts, *(text for one in figure.legends for text in one.get_texts()), figure._suptitle):
            box = text.get_window_extent()
            assert min(box.x0, box.y0) >= 0 and box.x1 <= width and box.y1 <= height
        boxes = [one.get_window_extent() for one in figure.legends] + [text.get_window_extent() for text in figure.texts[:1]]
        boxes += [ax.get_tightbbox() for ax in figure.axes]
        note_and_legends, panels = boxes[: -len(figure.axes)], boxes[-len(figure.axes) :]
        assert not any(one.overlaps(panel) for one in note_and_legends for panel in panels)
        assert not any(one.overlaps(two) for one, two in itertools.combinations(note_and_legends, 2))


def test_colours_are_those_of_the_style_file(study, monkeypatch):
    monkeypatch.setitem(style.COLOURS, "add", "#123456")
    figure = study.figure(4)
    assert to_rgba("#123456") in {to_rgba(line.get_color()) for line in lines(figure.axes[1], "test_acc")}


SCRIPT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from test_figures import PAIR, Study
from grokdistill.figures import draw
study = Study(seeds=(0, 1), fractions=(0.25, 0.2))
for number in map(int, sys.argv[3:]):
    draw(number, study.runs, study.curves, pathlib.Path(sys.argv[2]), main_pair=PAIR)
"""


def test_the_same_runs_give_the_same_bytes_also_in_another_process(tmp_path):
    numbers = (1, 7)
    for place in ("1", "2"):
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / place), *map(str, numbers)]
        path = os.pathsep.join(filter(None, sys.path))
        settings = {"PYTHONHASHSEED": place, "SOURCE_DATE_EPOCH": place, "PYTHONPATH": path}
        subprocess.run(command, check=True, env=os.environ | settings)
    for number, kind in itertools.product(numbers, ("png", "pdf")):
        one, two = ((tmp_path / place / f"figure-{number}.{kind}").read_bytes() for place in ("1", "2"))
        assert one == two
        for stamp in (b"Software", b"CreationDate", b"Creator", b"Producer", b"atplotlib"):
            assert stamp not in one


@pytest.mark.parametrize("number", FIGURES)
def test_draw_writes_both_files_into_a_new_folder(tmp_path, number):
    study = Study(ops=("add",), optimizers=("adamw",), fractions=(0.3, 0.2))
    paths = draw(number, study.runs, study.curves, tmp_path / "new" / "folder", main_pair=PAIR)
    assert [path.name for path in paths] == [f"figure-{number}.png", f"figure-{number}.pdf"]
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG", b"%PDF"]


def test_the_resolution_can_be_chosen(study, tmp_path):
    width = style.WIDTH * 100
    png, _ = draw(2, study.runs, study.curves, tmp_path, main_pair=PAIR, dpi=100)
    assert int.from_bytes(png.read_bytes()[16:20], "big") == width


def test_the_callers_own_settings_change_nothing(study, tmp_path):
    paths = draw(4, study.runs, study.curves, tmp_path / "one", main_pair=PAIR)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5, "font.family": "serif", "figure.dpi": 50}):
        again = draw(4, study.runs, study.curves, tmp_path / "two", main_pair=PAIR)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
