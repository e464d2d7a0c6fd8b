# A grokked p1 model trained further on p2 (paper figure 6).
rule train_continual:
    input:
        ancient(made_from),
    output:
        touch(marker("continual")),
    log:
        log_of("continual"),
    resources:
        gpu=1,
    shell:
        "python -m grokdistill train {PLAN} {wildcards.fingerprint} --threads {threads} 2>&1 | tee {log}"


rule continual:
    input:
        manifests("continual"),
        ancient(markers("continual")),
    output:
        directory(published("continual")[0]),
        directory(published("continual")[1]),
        published("continual")[2],
    log:
        f"{RESULTS}/logs/continual.log",
    params:
        code=code_of("publish"),
        measures=str(PARAMS.evaluation),
    shell:
        "python -m grokdistill publish {PLAN} continual 2>&1 | tee {log}"
