# The paper's claims, each with a verdict from the runs.
rule claims:
    input:
        runs=rules.tables.output.runs,
        curves=ancient([published(stage)[1] for stage in STAGES[1:]]),
        claims="data/paper/claims.yaml",
    output:
        report(
            f"{RESULTS}/claims.csv",
            caption="../report/claims.rst",
            category="Claims",
            labels={"table": "verdicts"},
        ),
    log:
        f"{RESULTS}/logs/claims.log",
    params:
        code=code_of("claims"),
        judging=str(PARAMS.claims),
        pair=PARAMS.primes.pair,
    shell:
        "python -m grokdistill claims {PLAN} --claims {input.claims} 2>&1 | tee {log}"
