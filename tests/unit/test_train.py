"""Optimizer updates of every stage against an independent loop: textbook model, PyTorch's AdamW, losses written out."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from torch.nn.functional import kl_div, log_softmax

from grokdistill.config import RunConfig
from grokdistill.data import generate
from grokdistill.model import Shape, initial_weights, load
from grokdistill.stages import baselines, continual, joint, students, teachers
from grokdistill.stages.setup import Material, Teacher
from grokdistill.train import Trainer

STAGES = {"teachers": teachers, "baselines": baselines, "students": students, "joint": joint, "continual": continual}
SIZES = {
    "numbers": 11,
    "d_model": 12,
    "n_heads": 3,
    "d_mlp": 20,
    "n_layers": 1,
    "norm": "none",
    "dropout": 0.0,
    "init_scale": 1.0,
}
COMMON = {
    **SIZES,
    **{"op": "add", "optimizer": "adamw", "loss": "stablemax", "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.98},
    **{"warmup_steps": 2, "weight_decay": 1.0, "steps": 3, "batch_size": 8, "short_batch": "keep"},
    **{"precision": "float64", "eval_every": 1, "seed": 3, "p1": 7, "p2": 5},
}
KD = {"method": "distilled", "alpha": 0.7, "temperature_reading": "relative", "temperature": 3.0, "position": "operator"}
STUDENT = KD | {"stage": "students", "fraction": 0.6, "teacher": "grokked", "teacher_optimizer": "adamw"}
JOINT = KD | {"stage": "joint", "fraction": 0.6, "p1_fraction": 0.4, "batches": "halves", "alpha": 1.0, "position": "modulus"}
CONTINUAL = KD | {"stage": "continual", "fraction": 0.6, "position": "modulus", "modulus_token": "old", "kl_inputs": "p1_pairs"}

CASES = {
    "teacher": {"stage": "teachers", "p1_fraction": 0.5, "method": "scratch", "p2": None},
    "teacher with softmax and Adam": {
        **{"stage": "teachers", "p1_fraction": 0.5, "method": "scratch", "p2": None},
        **{"loss": "softmax", "optimizer": "adam", "weight_decay": 0.0},
    },
    "baseline": {"stage": "baselines", "fraction": 0.6, "method": "scratch", "op": "sub"},
    "baseline of two layers": {"stage": "baselines", "fraction": 0.6, "method": "scratch", "n_layers": 2, "norm": "before"},
    "student": STUDENT,
    "student with Adam": STUDENT | {"optimizer": "adam", "weight_decay": 0.0, "op": "sub"},
    "student with LayerNorm": STUDENT | {"norm": "before"},
    "student of a smaller modulus": STUDENT | {"p1": 5, "p2": 7, "temperature_reading": "absolute", "temperature": 0.5},
    "student at the modulus": STUDENT | {"position": "modulus"},
    "student of a smaller modulus at the modulus": STUDENT | {"p1": 5, "p2": 7, "position": "modulus"},
    "student at a matched entropy": STUDENT | {"temperature_reading": "matched", "temperature": 1.0},
    "student of the oracle": STUDENT | {"teacher": "oracle", "p1": 5, "p2": 7},
    "student that sees the teacher alone": STUDENT | {"alpha": 1.0},
    "joint, supervised": {**JOINT, **dict.fromkeys(KD), "method": "supervised"},
    "joint, distilled": JOINT,
    "joint, distilled and labelled": JOINT | {"alpha": 0.4, "batches": "shuffled"},
    "joint at the operator": JOINT | {"alpha": 0.4, "position": "operator"},
    "joint, absolute": JOINT | {"temperature_reading": "absolute", "temperature": 0.7},
    "joint at a matched entropy": JOINT | {"temperature_reading": "matched", "temperature": 1.0},
    "continual, supervised": {**CONTINUAL, **dict.fromkeys((*KD, "modulus_token", "kl_inputs")), "method": "supervised"},
    "continual": CONTINUAL,
    "continual on p2's pairs": CONTINUAL | {"kl_inputs": "p2_pairs"},
    "continual on p2's pairs with the new token": CONTINUAL | {"kl_inputs": "p2_pairs", "modulus_token": "new"},
    "continual to a larger modulus": CONTINUAL | {"p1": 5, "p2": 7, "kl_inputs": "p2_pairs"},
    "continual at the operator": CONTINUAL | {"position": "operator"},
}


CPU = torch.device("cpu")


def sharp(seed):
    """A model to learn from, with logits far apart."""
    weights = {name: value.double() for name, value in initial_weights(Shape(**SIZES), 100 + seed).items()}
    weights["unembedding.weight"] = weights["unembedding.weight"] * 8 * (1 + seed)
    return weights


def build(fields, device=CPU):
    """The stage's experiment for one seed, and what it is made from."""
    config = RunConfig(**{name: value for name, value in (COMMON | fields).items() if value is not None})
    data = {prime: generate(prime, config.seed) for prime in (config.p1, config.p2) if prime}
    material = Material(
        configs=[config],
        p1=[data[config.p1]],
        p2=[data[config.p2]] if config.p2 else None,
        teacher=Teacher(Shape(**SIZES), [sharp(0)]),
        p2_teacher=Teacher(Shape(**SIZES), [sharp(1)]),
        device=device,
    )
    return config, data, STAGES[config.stage].experiment(material)


class Reference:
    """The same training, told example by example."""

    def __init__(self, config, data):
        self.config, self.data = config, data
        goes_on = config.stage == "continual"
        self.shape = Shape(**(SIZES if goes_on else {name: getattr(config, name) for name in SIZES}))
        start = (
            sharp(0)
            if goes_on
            else initial_weights(self.shape, config.seed, {"teachers": "p1", "joint": "f_M"}.get(config.stage, "p2"))
        )
        self.model = load({name: value.double().clone() for name, value in start.items()}, self.shape)
        self.parameters = dict(self.model.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
        )

    def tokens(self, a, b, modulus):
        names = {name: place for place, name in enumerate(self.shape.vocabulary)}
        return [a, b, names[self.config.op], names[f"mod {modulus}"]]

    def pairs(self, prime, fraction=None):
        """Training pairs of a prime in the order of its dataset; all its pairs without a fraction."""
        count = prime * prime if fraction is None else math.floor(round(fraction * prime * prime, 9))
        numbers = range(count) if fraction is None else self.data[prime].order[:count].tolist()
        return [divmod(number, prime) for number in numbers]

    def answer(self, a, b, prime):
        return (a + b) % prime if self.config.op == "add" else (a - b) % prime

    def labelled(self):
        """(tokens, label) of every training example."""
        config = self.config
        if config.stage == "joint" and config.method == "distilled" and config.alpha == 1:
            return None
        sides = {"teachers": ((config.p1, config.p1_fraction),)}.get(config.stage, ((config.p2, config.fraction),))
        if config.stage == "joint":
            sides = ((config.p1, config.p1_fraction), *sides)
        return [(self.tokens(a, b, p), self.answer(a, b, p)) for p, f in sides for a, b in self.pairs(p, f)]

    def taught(self):
        """(student's tokens, position, teacher's probabilities, whether it knows them, temperature) of every KL example."""
        config = self.config
        if config.method != "distilled":
            return None
        place = 2 if config.position == "operator" else 3
        own, p1, p2 = self.shape.numbers, config.p1, config.p2
        if config.stage == "students":
            pools = [(sharp(0), p1, p1, p2, self.pairs(p2, config.fraction))]
        elif config.stage == "joint":
            pools = [(sharp(0), p1, p1, p1, self.pairs(p1, config.p1_fraction))]
            pools += [(sharp(1), p2, p2, p2, self.pairs(p2, config.fraction))]
        else:
            modulus = p1 if config.modulus_token == "old" else p2
            pairs = self.pairs(p1) if config.kl_inputs == "p1_pairs" else self.pairs(p2, config.fraction)
            pools = [(sharp(0), p1, modulus, modulus, pairs)]
        found = []
        for weights, knows, teachers_modulus, students_modulus, pairs in pools:
            teacher = load(weights, Shape(**SIZES))
            with torch.no_grad():
                logits = teacher(torch.tensor([self.tokens(a, b, teachers_modulus) for a, b in pairs]))[
                    :, place, :knows
                ].numpy()
            covered = np.array([a < knows and b < knows for a, b in pairs])
            soft, temperature = self.soften(logits, covered)
            for (a, b), row, known in zip(pairs, soft, covered, strict=True):
                if config.teacher == "oracle":
                    row, temperature = np.eye(knows)[self.answer(a, b, knows)], 1.0
                padded = np.concatenate([row, np.zeros(own - knows)])
                found.append((self.tokens(a, b, students_modulus), place, padded, known, temperature))
        return found

    def soften(self, logits, covered):
        reading, value = self.config.temperature_reading, self.config.temperature
        if reading != "absolute":
            z = (logits - logits.mean(-1, keepdims=True)) / logits.std(-1, keepdims=True)
            if reading == "matched":

                def excess(log_scale):
                    soft = scipy.special.softmax(z[covered] * math.exp(log_scale), -1)
                    return scipy.stats.entropy(soft, axis=-1).mean() - self.config.temperature

                value = math.exp(scipy.optimize.brentq(excess, -8, 8, xtol=1e-13))
            return scipy.special.softmax(value * z, -1), 1.0
        return scipy.special.softmax(logits / value, -1), value

    def cross_entropy(self, logits, labels):
        picked = torch.arange(len(labels)), torch.tensor(labels)
        if self.config.loss == "softmax":
            return -(logits[picked] - logits.exp().sum(-1).log())
        positive = logits >= 0
        s = torch.where(positive, logits.clamp_min(0) + 1, 1 / (1 - logits.clamp_max(0)))
        return -torch.log(s[picked] / s.sum(-1))

    def step(self, number, picks, kl_picks):
        config, labelled, taught = self.config, self.labelled(), self.taught()
        alpha = config.alpha if taught else 0.0
        cross = divergence = torch.zeros((), dtype=torch.float64)
        if labelled:
            batch = [labelled[i] for i in picks]
            logits = self.model(torch.tensor([tokens for tokens, _ in batch]))[:, 3]
            cross = self.cross_entropy(logits, [label for _, label in batch]).mean()
        if taught:
            total = 0
            for i in kl_picks:
                tokens, place, probabilities, known, temperature = taught[i]
                logits = self.model(torch.tensor(tokens))[place]
                target = torch.from_numpy(probabilities)
                total = total + kl_div(log_softmax(logits / temperature, -1), target, reduction="sum") * float(known)
            divergence = total / len(kl_picks)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, number / config.warmup_steps)
        self.optimizer.zero_grad()
        ((1 - alpha) * cross + alpha * divergence).backward()
        # PyTorch skips parameters without a gradient; a parameter that a loss does not reach still decays.
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.optimizer.step()
        return cross.item(), divergence.item()


@pytest.mark.parametrize("case", CASES)
def test_three_updates(case):
    config, data, experiment = build(CASES[case])
    trainer, reference = Trainer(experiment, torch.device("cpu")), Reference(config, data)
    seen = set()
    for number in range(1, 4):
        picks = experiment.batches[0](number - 1).tolist()
        kl_picks = experiment.kl_batches[0](number - 1).tolist() if experiment.kl_batches else picks
        found = trainer.train(number - 1, number)[:, 0].tolist()
        assert found == pytest.approx(reference.step(number, picks, kl_picks), rel=1e-9, abs=1e-12)
        for name, expected in reference.parameters.items():
            assert (trainer.weights[name][0] - expected).abs().max() < 1e-9, (name, number)
        seen |= set(picks)
    labelled, taught = reference.labelled(), reference.taught()
    assert seen <= set(range(len(labelled or taught)))
    if config.stage == "continual" and config.kl_inputs == "p1_pairs":
        assert len(taught) == config.p1**2
    elif taught and labelled:
        assert len(taught) == len(labelled)


def test_the_reference_would_notice():
    """The cases differ from each other after three updates, so none of them passes for another's reason."""
    ends = {}
    for case, fields in CASES.items():
        if not {"n_layers", "norm"} & set(fields):
            _, _, experiment = build(fields)
            trainer = Trainer(experiment, torch.device("cpu"))
            for number in range(1, 4):
                trainer.train(number - 1, number)
            ends[case] = trainer.weights["unembedding.weight"].detach()
    names = list(ends)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert (ends[one] - ends[other]).abs().max() > 1e-6, (one, other)


def test_halves_take_half_of_each_batch_from_each_prime():
    config, _, experiment = build(JOINT | {"p1_fraction": 0.5, "fraction": 0.8})
    first = math.floor(0.5 * config.p1**2)
    for step in range(10):
        picks = experiment.batches[0](step)
        from_p1 = int((picks < first).sum())
        assert 0 < from_p1 <= config.batch_size // 2
        assert 0 < len(picks) - from_p1 <= config.batch_size // 2
    whole = experiment.batches[0](0)
    assert ((whole < first).sum(), len(whole)) == (4, 8)


def test_shuffled_batches_cover_both_primes_in_every_epoch():
    config, _, experiment = build(JOINT | {"batches": "shuffled"})
    size = math.floor(0.4 * config.p1**2) + math.floor(0.6 * config.p2**2)
    epoch = np.concatenate([experiment.batches[0](step) for step in range(math.ceil(size / 8))])
    assert sorted(epoch.tolist()) == list(range(size))


def test_a_scratch_and_a_distilled_run_of_one_seed_are_a_pair():
    """The same initial weights, split and batches, so that they differ by the teacher alone."""
    _, _, scratch = build({"stage": "baselines", "fraction": 0.6, "method": "scratch"})
    _, _, taught = build(STUDENT)
    assert all(torch.equal(scratch.weights[name], taught.weights[name]) for name in scratch.weights)
    assert torch.equal(scratch.labelled.rows.a, taught.labelled.rows.a)
    assert torch.equal(scratch.labelled.rows.b, taught.labelled.rows.b)
    assert torch.equal(scratch.labelled.labels, taught.labelled.labels)
    for step in range(6):
        assert np.array_equal(scratch.batches[0](step), taught.batches[0](step))


def test_the_untrained_teacher_is_not_the_students_own_beginning():
    _, _, experiment = build(STUDENT | {"teacher": "random", "temperature_reading": "absolute", "temperature": 1.0})
    own = torch.softmax(experiment.engine.logits(experiment.weights, experiment.taught.rows)[..., :7], -1)
    assert (experiment.taught.targets.probabilities[..., :7] - own).abs().max() > 1e-3
    assert experiment.taught.targets.covered.all()


def test_updates_of_stacked_seeds_are_those_of_each_alone():
    """Three seeds side by side take the steps that each takes by itself."""
    configs = [RunConfig(**(COMMON | STUDENT | {"seed": seed})) for seed in (3, 8, 11)]

    def trainer(chosen):
        material = Material(
            configs=chosen,
            p1=None,
            p2=[generate(5, config.seed) for config in chosen],
            teacher=Teacher(Shape(**SIZES), [sharp(config.seed) for config in chosen]),
            p2_teacher=None,
            device=torch.device("cpu"),
        )
        return Trainer(students.experiment(material), torch.device("cpu"))

    together, alone = trainer(configs), [trainer([config]) for config in configs]
    for number in range(1, 6):
        losses = together.train(number - 1, number)
        for seed, one in enumerate(alone):
            assert torch.allclose(one.train(number - 1, number)[:, 0], losses[:, seed], rtol=1e-10)
    for name, value in together.weights.items():
        for seed, one in enumerate(alone):
            assert torch.allclose(value[seed], one.weights[name][0], rtol=1e-9, atol=1e-12), name


def test_updates_can_be_taken_back_before_the_first():
    """What a GPU does while it sets itself up for a capture leaves no trace."""
    _, _, experiment = build(STUDENT)
    fresh, tried = (Trainer(experiment, torch.device("cpu")) for _ in range(2))
    with tried.untouched():
        tried.train(0, 3)
        assert not torch.equal(tried.weights["embedding.weight"], fresh.weights["embedding.weight"])
    assert torch.equal(tried.train(0, 5), fresh.train(0, 5))
    assert all(torch.equal(value, fresh.weights[name]) for name, value in tried.weights.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", ["teacher", "student", "joint, distilled", "continual"])
def test_updates_replayed_on_a_gpu_are_those_of_a_processor(case):
    """Also with a short last batch, which has a graph of its own."""
    device = torch.device("cuda")
    here, there = build(CASES[case])[2], build(CASES[case], device)[2]
    one, two = Trainer(here, torch.device("cpu")), Trainer(there, device)
    set_rate = one.set_rate
    one.set_rate = lambda rate: set_rate(float(np.float32(rate)))  # as precise as a GPU's optimizer reads it
    assert torch.allclose(one.train(0, 12), two.train(0, 12).cpu(), rtol=1e-9)
    for name, value in one.weights.items():
        assert torch.allclose(value, two.weights[name].cpu(), rtol=1e-8, atol=1e-10), name


def test_a_diverged_seed_is_reported_and_its_neighbour_goes_on():
    """The curve ends before the first evaluation with weights that are not finite."""
    configs = [
        RunConfig(**(COMMON | {"stage": "baselines", "fraction": 0.6, "method": "scratch", "seed": s, "steps": 6}))
        for s in (1, 2)
    ]
    material = Material(configs, None, [generate(5, 1), generate(5, 2)], None, None, torch.device("cpu"))
    trainer = Trainer(baselines.experiment(material), torch.device("cpu"))
    train = trainer.train

    def poisoned(start, stop, keeper):
        if start < 3 <= stop:
            with torch.no_grad():
                trainer.weights["unembedding.weight"][0] = float("nan")
        return train(start, stop, keeper)

    trainer.train = poisoned
    first, second = trainer.run()
    assert first.diverged == 3
    assert first.curve["step"] == [0, 1, 2]
    assert all(math.isfinite(value) for name in ("train_acc", "test_acc", "weight_norm") for value in first.curve[name])
    assert second.diverged is None
    assert second.curve["step"] == list(range(7))


def test_evaluations_fall_on_their_steps_and_on_the_last():
    config = RunConfig(**(COMMON | {"stage": "baselines", "fraction": 0.6, "method": "scratch", "steps": 11, "eval_every": 4}))
    material = Material([config], None, [generate(5, 3)], None, None, torch.device("cpu"))
    seen = []
    (outcome,) = Trainer(baselines.experiment(material), torch.device("cpu")).run(seen.append)
    assert outcome.curve["step"] == [0, 4, 8, 11]
    assert [progress.step for progress in seen] == [4, 8, 11]


def test_the_divergence_reported_is_the_mean_since_the_last_evaluation():
    config, _, experiment = build(STUDENT | {"steps": 7, "eval_every": 3})
    (outcome,) = Trainer(experiment, torch.device("cpu")).run()
    trainer = Trainer(experiment, torch.device("cpu"))
    each = [trainer.train(step, step + 1)[1, 0].item() for step in range(config.steps)]
    assert math.isnan(outcome.curve["kl"][0])
    assert outcome.curve["kl"][1:] == pytest.approx([np.mean(each[:3]), np.mean(each[3:6]), each[6]], rel=1e-12)


def test_the_covered_share_is_reported():
    _, data, experiment = build(STUDENT | {"p1": 5, "p2": 7})
    (outcome,) = Trainer(experiment, torch.device("cpu")).run()
    pairs = [divmod(number, 7) for number in data[7].order[:29].tolist()]
    assert outcome.facts["covered_share"] == pytest.approx(sum(a < 5 and b < 5 for a, b in pairs) / 29)
