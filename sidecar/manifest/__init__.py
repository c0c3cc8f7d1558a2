"""What a platform wants to be told, written from the user's own configuration.

Pure: from a `plan.Plan` to text. Each module owns one platform's files and the facts about that platform which shape
them; `grants` owns who must be allowed what. deploy/ holds what these write for deploy/config.yaml.
"""
