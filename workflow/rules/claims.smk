# The paper's claims, each with a verdict from the runs.
rule claims:
    input:
        runs=rules.tables.output.runs,
        curves=ancient(curves_of_all_stages()),
        claims="data/paper/claims.yaml",
        plan=ancient(PLAN),
    output:
        report(
            f"{RESULTS}/claims.csv",
            caption="../report/claims.rst",
            category="Claims",
            labels={"table": "verdicts"},
        ),
    log:
        f"{RESULTS}/logs/claims.log",
    conda:
        "../envs/grokdistill.yaml"
    params:
        code=code_of("claims"),
        judging=str(PARAMS.claims),
        pair=PARAMS.primes.pair,
    shell:
        "python -m grokdistill claims {input.plan} --claims {input.claims} 2>&1 | tee {log}"
