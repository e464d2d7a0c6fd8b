# Every variant beside the default that it departs from.
rule readings:
    input:
        wanted("readings"),
        made("tables"),
        runs=ancient(rules.tables.output.runs),
        curves=ancient(rules.tables.output.curves),
        plan=ancient(PLAN),
    output:
        table=report(
            f"{RESULTS}/readings.csv",
            caption="../report/readings.rst",
            category="Tables",
            labels={"table": "readings and sweeps"},
        ),
        picture=report(
            f"{RESULTS}/figures/readings.png",
            caption="../report/readings.rst",
            category="Figures",
            labels={"figure": "readings"},
        ),
        curves=report(
            f"{RESULTS}/figures/readings-curves.png",
            caption="../report/readings.rst",
            category="Figures",
            labels={"figure": "readings, curves"},
        ),
        stamp=stamp("readings"),
        made=touch(made("readings")),
    log:
        f"{RESULTS}/logs/readings.log",
    conda:
        "../envs/grokdistill.yaml"
    shell:
        "python -m grokdistill readings {input.plan} 2>&1 | tee {log}"
