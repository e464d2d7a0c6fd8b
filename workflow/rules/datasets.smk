# All pairs of a prime, both operators, one nested split per seed (paper section 3).
rule generate_datasets:
    output:
        touch(marker("datasets")),
    log:
        log_of("datasets"),
    shell:
        "python -m grokdistill dataset {PLAN} {wildcards.fingerprint} 2>&1 | tee {log}"


rule datasets:
    input:
        manifests("datasets"),
        ancient(markers("datasets")),
    output:
        directory(published("datasets")[0]),
    log:
        f"{RESULTS}/logs/datasets.log",
    params:
        code=code_of("publish"),
    shell:
        "python -m grokdistill publish {PLAN} datasets 2>&1 | tee {log}"
