"""`python -m loramux_server`: the `loramux` command, for use without the installed script."""

from loramux_server.cli.main import main

if __name__ == "__main__":  # vLLM's processes import this module again
    main()
