# The first page of the results, and of the report.
rule overview:
    input:
        wanted("overview"),
        made("tables", "phase", "claims"),
        runs=ancient(rules.tables.output.runs),
        claims=ancient(rules.claims.output.table),
        picture=ancient(rules.phase.output.picture),
        plan=ancient(PLAN),
    output:
        page=f"{RESULTS}/overview.html",
        stamp=stamp("overview"),
        made=touch(made("overview")),
    log:
        f"{RESULTS}/logs/overview.log",
    conda:
        "../envs/grokdistill.yaml"
    shell:
        "python -m grokdistill overview {input.plan} 2>&1 | tee {log}"
