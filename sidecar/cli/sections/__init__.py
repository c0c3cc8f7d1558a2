"""The commands, a module for each section of `--help`: options, help texts and what is printed."""
