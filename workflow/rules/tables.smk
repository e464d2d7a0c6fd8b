# One row per training run: what came of it, and what it cost; and all curves in one file.
rule tables:
    input:
        wanted("tables"),
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
        curves=f"{RESULTS}/curves.parquet",
        stamp=stamp("tables"),
        made=touch(made("tables")),
    log:
        f"{RESULTS}/logs/tables.log",
    conda:
        "../envs/grokdistill.yaml"
    shell:
        "python -m grokdistill tables {input.plan} 2>&1 | tee {log}"
