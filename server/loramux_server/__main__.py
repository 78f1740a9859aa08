"""`python -m loramux_server`: the `loramux` command where it was not installed, as on a machine without a network."""

from loramux_server.cli.main import main

if __name__ == "__main__":  # vLLM's processes import this module again
    main()
