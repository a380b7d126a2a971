"""What a job looks like: charts and pages, drawn from the ledger's records."""
