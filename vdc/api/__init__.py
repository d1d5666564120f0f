"""The wire contract between the command line, the agents and scripts: routes, models, client, OpenAPI."""
