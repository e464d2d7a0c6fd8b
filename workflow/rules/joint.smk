# The larger model f_M on p1 and p2 together (paper figure 5).
use rule train_teachers as train_joint with:
    output:
        touch(marker("joint")),
    log:
        log_of("joint"),


use rule teachers as joint with:
    input:
        wanted("joint"),
        ancient(markers("joint")),
        plan=ancient(PLAN),
    output:
        view=directory(f"{RESULTS}/joint"),
        records=directory(f"{RESULTS}/records/joint"),
        curves=directory(f"{RESULTS}/curves/joint"),
        metrics=f"{RESULTS}/metrics/joint.json",
        stamp=stamp("joint"),
        made=touch(made("joint")),
    log:
        f"{RESULTS}/logs/joint.log",
    params:
        stage="joint",
