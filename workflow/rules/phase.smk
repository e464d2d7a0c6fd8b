# The share of seeds that grok against the fraction of data, and the critical thresholds.
rule phase:
    input:
        wanted("phase"),
        made("tables"),
        runs=ancient(rules.tables.output.runs),
        plan=ancient(PLAN),
    output:
        table=report(
            f"{RESULTS}/phase.csv",
            caption="../report/phase.rst",
            category="Tables",
            labels={"table": "critical thresholds"},
        ),
        picture=report(
            f"{RESULTS}/figures/phase.png",
            caption="../report/phase.rst",
            category="Figures",
            labels={"figure": "phase diagram"},
        ),
        pdf=f"{RESULTS}/figures/phase.pdf",
        stamp=stamp("phase"),
        made=touch(made("phase")),
    log:
        f"{RESULTS}/logs/phase.log",
    conda:
        "../envs/grokdistill.yaml"
    shell:
        "python -m grokdistill phase {input.plan} 2>&1 | tee {log}"
