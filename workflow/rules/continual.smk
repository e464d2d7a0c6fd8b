# A grokked p1 model trained further on p2 (paper figure 6).
use rule train_teachers as train_continual with:
    output:
        touch(marker("continual")),
    log:
        log_of("continual"),


use rule teachers as continual with:
    input:
        wanted("continual"),
        ancient(markers("continual")),
        plan=ancient(PLAN),
    output:
        view=directory(f"{RESULTS}/continual"),
        records=directory(f"{RESULTS}/records/continual"),
        curves=directory(f"{RESULTS}/curves/continual"),
        metrics=f"{RESULTS}/metrics/continual.json",
        stamp=stamp("continual"),
        made=touch(made("continual")),
    log:
        f"{RESULTS}/logs/continual.log",
    params:
        stage="continual",
