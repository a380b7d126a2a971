"""Charts and descriptions of a job, made from the ledger's records."""
