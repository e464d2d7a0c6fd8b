# The larger model f_M on p1 and p2 together (paper figure 5).
rule train_joint:
    input:
        ancient(made_from),
    output:
        touch(marker("joint")),
    log:
        log_of("joint"),
    resources:
        gpu=1,
    shell:
        "python -m grokdistill train {PLAN} {wildcards.fingerprint} --threads {threads} 2>&1 | tee {log}"


rule joint:
    input:
        manifests("joint"),
        ancient(markers("joint")),
    output:
        directory(published("joint")[0]),
        directory(published("joint")[1]),
        published("joint")[2],
    log:
        f"{RESULTS}/logs/joint.log",
    params:
        code=code_of("publish"),
        measures=str(PARAMS.evaluation),
    shell:
        "python -m grokdistill publish {PLAN} joint 2>&1 | tee {log}"
