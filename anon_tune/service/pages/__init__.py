"""Pages for a browser: what the routes of the API give, drawn by the templates of `dashboards.pages`."""
