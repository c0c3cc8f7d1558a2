"""`python -m sidecar`: the command, for where its script is not on the path."""

from sidecar.cli.commands import main

if __name__ == "__main__":
    main(prog_name="idtoken-sidecar")
