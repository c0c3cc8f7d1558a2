"""Cloud Run's Service and Job as a JSON Schema, written down from the API's own message classes.

`python tests/deploy/cloud_run_schema.py GCLOUD_LIB` prints it; GCLOUD_LIB is the `lib` folder of a gcloud installation,
whose client for run v1 is generated from the API's discovery document. Fields that it does not know are refused, as
`gcloud run services replace` does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

ROOTS = ("Service", "Job")
OUTPUT_ONLY = {"status"}


def schema() -> dict[str, Any]:
    """The schema; needs the gcloud libraries on the path."""
    from apitools.base.protorpclite import messages
    from googlecloudsdk.generated_clients.apis.run.v1 import run_v1_messages as run

    definitions: dict[str, Any] = {}

    def field(item: Any) -> dict[str, Any]:
        if isinstance(item, messages.MessageField):
            kind = item.message_type
            visit(kind)
            found: dict[str, Any] = {"$ref": f"#/$defs/{name_of(kind)}"}
        elif isinstance(item, messages.EnumField):
            found = {"enum": sorted(item.type.names())}
        elif isinstance(item, messages.IntegerField):
            found = {"type": "integer"}
        elif isinstance(item, messages.BooleanField):
            found = {"type": "boolean"}
        else:
            found = {"type": "string"}
        return {"type": "array", "items": found} if item.repeated else found

    def name_of(kind: Any) -> str:
        return str(kind.definition_name()).removeprefix("run.")

    def visit(kind: Any) -> None:
        name = name_of(kind)
        if name in definitions:
            return
        fields = {item.name: item for item in kind.all_fields()}
        definitions[name] = {}
        if set(fields) == {"additionalProperties"}:
            entry = {item.name: item for item in fields["additionalProperties"].message_type.all_fields()}
            definitions[name] = {"type": "object", "additionalProperties": field(entry["value"])}
        else:
            definitions[name] = {
                "type": "object",
                "additionalProperties": False,
                "properties": {key: field(item) for key, item in fields.items() if key not in OUTPUT_ONLY},
            }

    for root in ROOTS:
        visit(getattr(run, root))
    kinds = {"Service": "serving.knative.dev/v1", "Job": "run.googleapis.com/v1"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "oneOf": [
            {
                "$ref": f"#/$defs/{root}",
                "properties": {"kind": {"const": root}, "apiVersion": {"const": kinds[root]}},
                "required": ["apiVersion", "kind", "metadata", "spec"],
            }
            for root in ROOTS
        ],
        "$defs": dict(sorted(definitions.items())),
    }


if __name__ == "__main__":
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/third_party"]
    print(json.dumps(schema(), indent=1))
