# Models that grok p1 on 35% of its pairs (paper section 4). The other training stages use these two rules with their own
# outputs: one trains a run into the store, one lays out the stage for people and for DVC.
rule train_teachers:
    input:
        ancient(made_from),
        plan=ancient(PLAN),
    output:
        touch(marker("teachers")),
    log:
        log_of("teachers"),
    priority: 50  # all that learns from a teacher waits for it
    conda:
        "../envs/grokdistill.yaml"
    resources:
        gpu=1,
    shell:
        "python -m grokdistill train {input.plan} {wildcards.fingerprint} --threads {threads} 2>&1 | tee {log}"


rule teachers:
    input:
        wanted("teachers"),
        ancient(markers("teachers")),
        plan=ancient(PLAN),
    output:
        view=directory(f"{RESULTS}/teachers"),
        records=directory(f"{RESULTS}/records/teachers"),
        curves=directory(f"{RESULTS}/curves/teachers"),
        metrics=f"{RESULTS}/metrics/teachers.json",
        stamp=stamp("teachers"),
        made=touch(made("teachers")),
    log:
        f"{RESULTS}/logs/teachers.log",
    conda:
        "../envs/grokdistill.yaml"
    params:
        stage="teachers",
    shell:
        "python -m grokdistill publish {input.plan} {params.stage} 2>&1 | tee {log}"
