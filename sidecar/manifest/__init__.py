"""What a platform wants to be told, written from the user's own configuration.

Pure but for the package's own files: from a `plan.Plan` to text. Each module owns one platform's files and the facts
about that platform which shape them; `grants` owns who must be allowed what. What is written stands in `templates/`,
readable as what it becomes, and `templates` fills it in. deploy/ holds what these write for deploy/config.yaml.
"""
