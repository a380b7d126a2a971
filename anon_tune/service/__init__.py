"""The service: jobs over HTTP, for people who are not at the machine that runs them."""
