# All pairs of a prime, both operators, one nested split per seed (paper section 3).
rule generate_datasets:
    input:
        plan=ancient(PLAN),
    output:
        touch(marker("datasets")),
    log:
        log_of("datasets"),
    conda:
        "../envs/grokdistill.yaml"
    shell:
        "python -m grokdistill dataset {input.plan} {wildcards.fingerprint} 2>&1 | tee {log}"


rule datasets:
    input:
        wanted("datasets"),
        ancient(markers("datasets")),
        plan=ancient(PLAN),
    output:
        view=directory(PARAMS.paths.datasets),
        stamp=stamp("datasets"),
        made=touch(made("datasets")),
    log:
        f"{RESULTS}/logs/datasets.log",
    conda:
        "../envs/grokdistill.yaml"
    shell:
        "python -m grokdistill publish {input.plan} datasets 2>&1 | tee {log}"
