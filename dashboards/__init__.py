"""Charts and pages of a job, drawn from the ledger's records."""
