"""Making a release: see CONTRIBUTING.md."""
