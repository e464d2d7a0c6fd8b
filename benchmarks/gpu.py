"""What a GPU makes of it: run-steps per second of stacked seeds, one student configuration, and the whole grid.

python benchmarks/gpu.py                 # stacked seeds and jobs at a time against one eager process; 5 seeds for 15,000 steps
python benchmarks/gpu.py --grid          # also the paper's whole grid with 5 seeds, stage by stage, as users train it
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from about import about, save

from grokdistill.config import STAGES, RunConfig
from grokdistill.data import generate
from grokdistill.lanes import Lanes
from grokdistill.losses import distillation_loss, stablemax_cross_entropy
from grokdistill.model import initial_weights, load
from grokdistill.params import read, validate
from grokdistill.runs import enumerate_runs
from grokdistill.stages import students
from grokdistill.stages.setup import Material
from grokdistill.train import Trainer

ROOT = Path(__file__).resolve().parents[1]


def configuration(steps: int) -> RunConfig:
    """A student at 35%, taught by an untrained model: as costly as any other teacher, since its answers are computed once."""
    study = enumerate_runs(validate(read([ROOT / "params.yaml"])))
    chosen = next(run.config for run in study.of("students") if run.config.optimizer == "adamw")
    return chosen.model_copy(update={"teacher": "random", "teacher_optimizer": None, "steps": steps})


def trainer(config: RunConfig, seeds: int, device: torch.device) -> Trainer:
    """That many seeds of the configuration as one stacked model."""
    configs = [config.model_copy(update={"seed": seed}) for seed in range(seeds)]
    datasets = [generate(config.p2, seed) for seed in range(seeds)]
    return Trainer(students.experiment(Material(configs, None, datasets, None, None, device)), device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall seconds until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def stacked(config: RunConfig, seeds: int, steps: int, device: torch.device) -> float:
    """Run-steps per second of stacked seeds."""
    made = trainer(config, seeds, device)
    made.train(0, 10)  # warm up and capture
    return seeds * steps / seconds(lambda: made.train(10, 10 + steps), device)


def side_by_side(config: RunConfig, seeds: int, jobs: int, steps: int, device: torch.device) -> float:
    """Run-steps per second of jobs at a time, each with that many stacked seeds."""
    lanes, begin, end = Lanes(jobs), threading.Barrier(jobs + 1), threading.Barrier(jobs + 1)

    def job() -> None:
        try:
            with lanes.lane(device):
                made = trainer(config, seeds, device)
                with lanes.adapted(made):
                    made.train(0, 10)
                    begin.wait()
                    made.train(10, 10 + steps)
                    if device.type == "cuda":
                        torch.cuda.current_stream(device).synchronize()
                    end.wait()
        except BaseException:
            begin.abort()
            end.abort()
            raise

    together = threading.Thread(target=lanes.run, args=([job] * jobs, lambda _: True))
    together.start()
    begin.wait()
    start = time.perf_counter()
    end.wait()
    taken = time.perf_counter() - start
    together.join()
    return jobs * seeds * steps / taken


def eager(config: RunConfig, steps: int, device: torch.device) -> float:
    """Run-steps per second of the textbook full-sequence model, one run in a process, distilled at the operator."""
    made = trainer(config, 1, device)
    experiment = made.experiment
    shape, pool = experiment.engine.shape, experiment.labelled
    model = load({name: value.to(device) for name, value in initial_weights(shape, 0).items()}, shape).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0, fused=True)
    ends = torch.tensor([shape.token(config.op), shape.token(f"mod {config.p2}")], device=device)
    tokens = torch.cat([pool.rows.a[0, :, None], pool.rows.b[0, :, None], ends.expand(pool.rows.a.shape[1], 2)], 1)
    soft = experiment.taught.targets.probabilities[0].clamp_min(1e-30).log()

    def train(count: int) -> None:
        for picks in made.draw(experiment.batches, 0, count):
            picks = picks[0]
            logits = model(tokens[picks])
            cross = stablemax_cross_entropy(logits[:, 3], pool.labels[0, picks])
            loss = (1 - config.alpha) * cross + config.alpha * distillation_loss(logits[:, 2], soft[picks], 1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    train(10)
    return steps / seconds(lambda: train(steps), device)


def grid(device: torch.device) -> dict[str, float]:
    """Seconds of each stage of the paper's whole grid, eight jobs of five seeds at a time, by the commands that users type."""
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "overlay.yaml"
        overlay.write_text("execution: {seeds_per_job: 5}\n")
        command = [sys.executable, "-m", "grokdistill"]
        planned = subprocess.run(
            [*command, "plan", ROOT / "params.yaml", overlay], cwd=folder, check=True, text=True, stdout=subprocess.PIPE
        )
        plan, found = planned.stdout.strip(), {}
        for stage in STAGES:
            which = (
                ["dataset", plan, "--all"]
                if stage == "datasets"
                else ["train", plan, "--stage", stage, "--device", str(device), "--jobs", "8"]
            )
            found[stage] = seconds(lambda which=which: subprocess.run([*command, *which], cwd=folder, check=True), device)
            print(f"  {stage:10} {found[stage]:8.1f} s")
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=15000, help="of the one student configuration (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 5, 20], help="stacked (default: 1 5 20)")
    parser.add_argument("--jobs", type=int, nargs="+", default=[4, 8], help="jobs of 5 seeds at a time (default: 4 8)")
    parser.add_argument("--grid", action="store_true", help="also train the whole grid: minutes on a large GPU")
    options = parser.parse_args()
    device = torch.device(options.device)
    config, few = configuration(options.steps), max(10, options.steps // 15)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    document = {"about": about(device=name)}
    document["run-steps per second"] = rates = {"one eager process per run": eager(config, few, device)}
    rates |= {f"{seeds} stacked": stacked(config, seeds, few, device) for seeds in options.seeds}
    rates |= {f"5 stacked, {jobs} jobs at a time": side_by_side(config, 5, jobs, few, device) for jobs in options.jobs}
    for what, rate in rates.items():
        print(f"{what:28} {rate:10.0f} run-steps/s {rate / rates['one eager process per run']:8.1f} times")
    five = trainer(config, 5, device)
    document["5 seeds of one student"] = {"steps": config.steps, "seconds": (taken := seconds(five.run, device))}
    print(f"5 seeds for {config.steps:,} steps, with every evaluation: {taken:.1f} s")
    if options.grid:
        document["the whole grid with 5 seeds, seconds"] = parts = grid(device)
        print(f"the whole grid with 5 seeds: {sum(parts.values()) / 60:.1f} minutes")
    save("gpu", document)


if __name__ == "__main__":
    main()
