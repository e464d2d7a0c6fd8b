# The paper's claims, each with a verdict from the runs.
rule claims:
    input:
        wanted("claims"),
        made("tables"),
        runs=ancient(rules.tables.output.runs),
        curves=ancient(rules.tables.output.curves),
        claims=ancient(PARAMS.paths.claims),
        plan=ancient(PLAN),
    output:
        table=report(
            f"{RESULTS}/claims.csv",
            caption="../report/claims.rst",
            category="Claims",
            labels={"table": "verdicts"},
        ),
        stamp=stamp("claims"),
        made=touch(made("claims")),
    log:
        f"{RESULTS}/logs/claims.log",
    conda:
        "../envs/grokdistill.yaml"
    shell:
        "python -m grokdistill claims {input.plan} 2>&1 | tee {log}"
