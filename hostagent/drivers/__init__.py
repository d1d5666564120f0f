"""The only code of the agent that touches the outside: one package per thing that is driven."""
