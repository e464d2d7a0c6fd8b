# The entry: `snakemake --cores 1 --resources gpu=1` runs the paper. Everything lies in workflow/Snakefile.
include: "workflow/Snakefile"


workflow.default_target = "all"
