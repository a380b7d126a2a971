"""Jobs for their users: one interface, with a ledger's and a service's implementation."""
