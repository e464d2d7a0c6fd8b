# p2 distilled from the p1 teacher at the operator token (paper figures 2b, 3 and 4b).
rule train_students:
    input:
        ancient(made_from),
    output:
        touch(marker("students")),
    log:
        log_of("students"),
    resources:
        gpu=1,
    shell:
        "python -m grokdistill train {PLAN} {wildcards.fingerprint} --threads {threads} 2>&1 | tee {log}"


rule students:
    input:
        manifests("students"),
        ancient(markers("students")),
    output:
        directory(published("students")[0]),
        directory(published("students")[1]),
        published("students")[2],
    log:
        f"{RESULTS}/logs/students.log",
    params:
        code=code_of("publish"),
        measures=str(PARAMS.evaluation),
    shell:
        "python -m grokdistill publish {PLAN} students 2>&1 | tee {log}"
