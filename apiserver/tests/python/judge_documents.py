"""Runs schemathesis against one OpenAPI document of a server: no answer may be a server's error or differ from the document.

Arguments: kubeconfig, a folder for files, the document's path below /openapi/v3/, seed, examples an operation, seconds in all.
"""

import base64
import subprocess
import sys
from pathlib import Path

import yaml

CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance,content_type_conformance"


def main():
    kubeconfig, folder, document, seed, examples, seconds = sys.argv[1:]
    folder = Path(folder)
    settings = yaml.safe_load(Path(kubeconfig).read_text())
    cluster, user = settings["clusters"][0]["cluster"], settings["users"][0]["user"]

    def keep(name, data):
        path = folder / name
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(data))
        return str(path)

    # A watch answers as long as one listens.
    rules = folder / "schemathesis.toml"
    rules.write_text('[parameters]\nwatch = "false"\n')
    server = cluster["server"]
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(rules),
        "run", f"{server}/openapi/v3/{document}", "--url", server,
        "--tls-verify", keep("ca.pem", cluster["certificate-authority-data"]),
        "--request-cert", keep("cert.pem", user["client-certificate-data"]),
        "--request-cert-key", keep("key.pem", user["client-key-data"]),
        "--checks", CHECKS, "--phases", "coverage,fuzzing", "--seed", seed, "--max-examples", examples,
        "--max-time", seconds, "--request-timeout", "10", "--warnings", "off", "--no-color",
    ]  # fmt: skip
    sys.exit(subprocess.run(command, check=False, cwd=folder).returncode)


main()
