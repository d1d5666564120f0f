"""The agent's API: the routes of vdc.api over a unix socket and the management network."""
