# p2 from scratch (paper figures 2a, 3 and 4a).
use rule train_teachers as train_baselines with:
    output:
        touch(marker("baselines")),
    log:
        log_of("baselines"),
    priority: 0  # nothing waits for a baseline


use rule teachers as baselines with:
    input:
        wanted("baselines"),
        ancient(markers("baselines")),
        plan=ancient(PLAN),
    output:
        view=directory(f"{RESULTS}/baselines"),
        records=directory(f"{RESULTS}/records/baselines"),
        curves=directory(f"{RESULTS}/curves/baselines"),
        metrics=f"{RESULTS}/metrics/baselines.json",
        stamp=stamp("baselines"),
        made=touch(made("baselines")),
    log:
        f"{RESULTS}/logs/baselines.log",
    params:
        stage="baselines",
