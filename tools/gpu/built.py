"""From cargo's messages of a test build to lines of package, test and program."""

import json
import sys

for line in sys.stdin:
    message = json.loads(line) if line.startswith("{") else {}
    program = message.get("executable")
    if program and message["target"]["kind"] == ["test"]:
        package = message["package_id"].split("#")[0].rsplit("/", 1)[-1]
        print(package, message["target"]["name"], program)
