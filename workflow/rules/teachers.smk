# Models that grok p1 on 35% of its pairs (paper section 4).
rule train_teachers:
    input:
        ancient(made_from),
    output:
        touch(marker("teachers")),
    log:
        log_of("teachers"),
    resources:
        gpu=1,
    shell:
        "python -m grokdistill train {PLAN} {wildcards.fingerprint} --threads {threads} 2>&1 | tee {log}"


rule teachers:
    input:
        manifests("teachers"),
        ancient(markers("teachers")),
    output:
        directory(published("teachers")[0]),
        directory(published("teachers")[1]),
        published("teachers")[2],
    log:
        f"{RESULTS}/logs/teachers.log",
    params:
        code=code_of("publish"),
        measures=str(PARAMS.evaluation),
    shell:
        "python -m grokdistill publish {PLAN} teachers 2>&1 | tee {log}"
