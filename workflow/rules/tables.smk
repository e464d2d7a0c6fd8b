# One row per training run: what came of it, and what it cost.
rule tables:
    input:
        manifests(*STAGES[1:]),
        ancient(markers(*STAGES[1:])),
        plan=ancient(PLAN),
    output:
        runs=report(
            f"{RESULTS}/runs.csv",
            caption="../report/runs.rst",
            category="Tables",
            labels={"table": "all runs"},
        ),
        costs=f"{RESULTS}/costs.csv",
    log:
        f"{RESULTS}/logs/tables.log",
    conda:
        "../envs/grokdistill.yaml"
    params:
        code=code_of("publish"),
        measures=str(PARAMS.evaluation),
    shell:
        "python -m grokdistill tables {input.plan} 2>&1 | tee {log}"
