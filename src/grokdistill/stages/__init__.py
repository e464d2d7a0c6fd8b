"""One module per stage: what its runs train on what. A run's fingerprint covers its stage's module and what that imports."""
