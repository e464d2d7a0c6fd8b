# Figures 1 to 7 of the paper.
rule draw_figure:
    input:
        rules.tables.output.runs,
        ancient([published(stage)[1] for stage in STAGES[1:]]),
    output:
        png=report(
            f"{RESULTS}/figures/figure-{{number}}.png",
            caption="../report/figure-{number}.rst",
            category="Figures",
            labels={"figure": "{number}"},
        ),
        pdf=f"{RESULTS}/figures/figure-{{number}}.pdf",
    log:
        f"{RESULTS}/logs/figures/{{number}}.log",
    params:
        code=code_of("figures"),
        look=str(PARAMS.figures),
        pair=PARAMS.primes.pair,
    shell:
        "python -m grokdistill figures {PLAN} {wildcards.number} 2>&1 | tee {log}"


rule figures:
    input:
        expand(rules.draw_figure.output, number=range(1, 8)),
