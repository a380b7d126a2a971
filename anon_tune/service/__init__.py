"""The service: jobs over HTTP, for users on other machines."""
