# p2 distilled from the p1 teacher at the operator token (paper figures 2b, 3 and 4b).
use rule train_teachers as train_students with:
    output:
        touch(marker("students")),
    log:
        log_of("students"),


use rule teachers as students with:
    input:
        wanted("students"),
        ancient(markers("students")),
        plan=ancient(PLAN),
    output:
        view=directory(f"{RESULTS}/students"),
        records=directory(f"{RESULTS}/records/students"),
        curves=directory(f"{RESULTS}/curves/students"),
        metrics=f"{RESULTS}/metrics/students.json",
        stamp=stamp("students"),
        made=touch(made("students")),
    log:
        f"{RESULTS}/logs/students.log",
    params:
        stage="students",
