"""What the files of deploy/ have in common: which programs they start, and with which settings."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from orderflow.settings import Settings

DEPLOY = Path(__file__).parents[1] / "deploy"
#: What stands for a secret that only the place of a deploy knows.
SECRETS = {
    "DATABASE_URL": "postgresql://orderflow:p@postgres/orderflow",
    "REDIS_URL": "redis://:p@redis:6379/0",
    "JWT_SECRET": "a secret that is long enough for a test",
    "SMTP_USERNAME": "shop",
    "SMTP_PASSWORD": "p",
    "GATEWAY_API_KEY": "sk_test_1",
    "GATEWAY_WEBHOOK_SECRET": "whsec_1",
    "TWILIO_ACCOUNT_SID": f"AC{'0' * 32}",
    "TWILIO_AUTH_TOKEN": "t",
    "TWILIO_FROM": "Shop",
}


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Return the settings that a program reads there. Fails where a variable is none of them."""
    fields = Settings.model_fields
    unknown = [name for name in environment if name.lower() not in fields]
    assert not unknown, f"no settings: {', '.join(unknown)}"
    return Settings(_env_file=None, **{name.lower(): v for name, v in environment.items()})


def entrypoint() -> list[str]:
    """Return what the image runs before its arguments."""
    [line] = [
        line
        for line in (DEPLOY / "Containerfile").read_text("utf-8").splitlines()
        if line.startswith("ENTRYPOINT ")
    ]
    words = line.removeprefix("ENTRYPOINT ")
    assert words == '["python", "-m"]', "a program that is not process 1 hears no signal"
    return [sys.executable, "-m"]


@cache
def said_of(*args: str) -> str:
    """Return what the program of the image says of a command line, with `--help` at its end."""
    told = subprocess.run(
        [*entrypoint(), *args, "--help"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, f"{shlex.join(args)}: {told.stderr}"
    return told.stdout
