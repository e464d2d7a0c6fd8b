# p2 from scratch (paper figures 2a, 3 and 4a).
rule train_baselines:
    input:
        ancient(made_from),
    output:
        touch(marker("baselines")),
    log:
        log_of("baselines"),
    resources:
        gpu=1,
    shell:
        "python -m grokdistill train {PLAN} {wildcards.fingerprint} --threads {threads} 2>&1 | tee {log}"


rule baselines:
    input:
        manifests("baselines"),
        ancient(markers("baselines")),
    output:
        directory(published("baselines")[0]),
        directory(published("baselines")[1]),
        published("baselines")[2],
    log:
        f"{RESULTS}/logs/baselines.log",
    params:
        code=code_of("publish"),
        measures=str(PARAMS.evaluation),
    shell:
        "python -m grokdistill publish {PLAN} baselines 2>&1 | tee {log}"
