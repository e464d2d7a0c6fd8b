# Figures 1 to 7 of the paper.
rule draw_figure:
    input:
        wanted("figure-{number}"),
        made("tables"),
        runs=ancient(rules.tables.output.runs),
        curves=ancient(rules.tables.output.curves),
        plan=ancient(PLAN),
    output:
        png=report(
            f"{RESULTS}/figures/figure-{{number}}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{number}"},
        ),
        pdf=f"{RESULTS}/figures/figure-{{number}}.pdf",
        stamp=stamp("figure-{number}"),
        made=touch(made("figure-{number}")),
    log:
        f"{RESULTS}/logs/figures/{{number}}.log",
    conda:
        "../envs/grokdistill.yaml"
    shell:
        "python -m grokdistill figures {input.plan} {wildcards.number} 2>&1 | tee {log}"


rule figures:
    input:
        expand(rules.draw_figure.output, number=range(1, 8)),
