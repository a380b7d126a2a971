"""The queue: a daemon that takes jobs from the ledger and starts a driver for each."""
