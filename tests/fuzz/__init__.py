"""Every parser of outside input under generated input: by hypothesis in tests/unit, by atheris from here."""
