"""Deployment files for each platform, made from the user's own configuration.

Pure but for the package's own files: from a `plan.Plan` to text. Each module owns one platform's files and the facts
about that platform; `grants` owns the IAM grants. The texts are in `templates/`, each readable in its own language,
and `templates` fills them in. deploy/ holds their results for deploy/config.yaml.
"""
