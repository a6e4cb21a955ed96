"""Write down what an installed orderflow consists of, as CycloneDX, and look what is missing.

As a program: `python tests/sbom.py PYTHON FILE`, of the environment of PYTHON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from orderflow import __version__

ROOT = Path(__file__).parents[1]


def write(python: Path, file: Path, *options: str) -> dict[str, Any]:
    """Write the SBOM of an environment, without a date, and return it."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(python)]
    project = ("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application")
    subprocess.run(
        [*command, *project, "--output-reproducible", *options, "-o", str(file)], check=True
    )
    sbom: dict[str, Any] = json.loads(file.read_text("utf-8"))
    # Which it cannot read in pyproject.toml, where it says that the code has it.
    sbom["metadata"]["component"] |= {
        "version": __version__,
        "purl": f"pkg:pypi/orderflow@{__version__}",
    }
    file.write_text(json.dumps(sbom, indent=1), "utf-8")
    return sbom


def missing(sbom: dict[str, Any]) -> list[str]:
    """Return what is installed with orderflow, by requirements/app.txt, and not in the SBOM."""
    named = {canonicalize_name(one["name"]): one for one in sbom["components"]}
    faults = []
    for pin in _pins():
        found = named.get(canonicalize_name(pin.name))
        if found is None or not pin.specifier.contains(found["version"]):
            faults.append(f"{pin}: not in the SBOM")
        elif found.get("purl") != f"pkg:pypi/{canonicalize_name(pin.name)}@{found['version']}":
            faults.append(f"{pin}: it is not said where it comes from")
    return faults


def _pins() -> list[Requirement]:
    lines = (ROOT / "requirements" / "app.txt").read_text().splitlines()
    pins = [Requirement(line.removesuffix(" \\")) for line in lines if line[:1] not in (" ", "#")]
    return [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]


def main(python: Path, file: Path) -> int:
    """Write it and print what is wrong with it; return 1 if anything is."""
    sbom = write(python, file)
    faults = missing(sbom)
    print("\n".join(faults) or f"{file}: {len(sbom['components'])} packages")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
