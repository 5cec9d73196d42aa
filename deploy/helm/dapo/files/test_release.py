"""`helm test`: the run service answers, refuses who has no token, and trains a toy where a spec is given."""

import argparse
import os
import sys
import time

from dapo.client import RunClient, ServiceError

_OVER = ("succeeded", "failed", "stopped", "cancelled")
_POLL_S = 2.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spec", help="of the run; none: only the service is asked")
    parser.add_argument("--seconds", type=float, required=True, help="for all of it")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds
    with RunClient.from_env({**os.environ, "DAPO_API_TOKEN": ""}) as stranger:
        try:
            stranger.list()
        except ServiceError as error:
            print(f"without a token: {error}")
        else:
            print("the service lists its runs to who has no token")
            return 1
    with RunClient.from_env() as client:
        print(f"the token is of scope {client.whoami()['scope']}")
        return 0 if arguments.spec is None else train(client, arguments.spec, deadline)


def train(client: RunClient, spec: str, deadline: float) -> int:
    with open(spec, encoding="utf-8") as file:
        run = client.create(file.read(), labels={"made-by": "helm-test"})
    shown = ""
    while run["state"] not in _OVER:
        now = f"{run['id']}: {run['state']}, step {run['step']} of {run['steps_total']} {run['message']}".rstrip()
        if now != shown:
            print(shown := now, flush=True)
        if time.monotonic() >= deadline:
            print("the run is not over in time, and is cancelled")
            client.cancel(run["id"])
            return 1
        time.sleep(_POLL_S)
        run = client.get(run["id"])
    print(f"{run['id']}: {run['state']} {run['message']}".rstrip())
    return 0 if run["state"] == "succeeded" else 1


if __name__ == "__main__":
    sys.exit(main())
