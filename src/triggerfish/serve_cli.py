"""The command `triggerfish serve`: parse, build the settings, serve. It needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triggerfish.options import METHOD, MODEL, POLICIES, SERVICE, UPSTREAM, parse_policies


def serve(
    findings: Annotated[
        Path,
        typer.Option(
            help="The scan.json whose triggers are looked for. It is read again when it changes.",
            rich_help_panel=METHOD,
        ),
    ],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder or tokenizer.json. Default: the tokenizer of the model that scan.json "
            "names.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help=f"What happens to a text with a trigger: {', '.join(POLICIES)}.",
            rich_help_panel=METHOD,
        ),
    ] = "reject",
    set_policy: Annotated[
        list[str] | None,
        typer.Option(
            help="TRIGGER=POLICY for a trigger that is treated differently. Repeat for more.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on.", rich_help_panel=SERVICE)
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            help="TCP port. 0 takes any free one and names it in the log.", rich_help_panel=SERVICE
        ),
    ] = 8080,
    workers: Annotated[int, typer.Option(help="Number of processes.", rich_help_panel=SERVICE)] = 1,
    upstream: Annotated[
        str | None,
        typer.Option(
            help="URL of a model. Guarded requests are passed on to it.", rich_help_panel=UPSTREAM
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            help="Where the texts are in its requests: a path of keys with dots between them. "
            "Repeat for more. Default: text.",
            rich_help_panel=UPSTREAM,
        ),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            help="Guard only this URL path and those below it. Repeat for more. Default: all.",
            rich_help_panel=UPSTREAM,
        ),
    ] = None,
    max_body: Annotated[
        int, typer.Option(help="Largest request, in bytes.", rich_help_panel=SERVICE)
    ] = 262_144,
    max_batch: Annotated[
        int, typer.Option(help="Largest number of texts in a request.", rich_help_panel=SERVICE)
    ] = 256,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds in which a client must send its request.", rich_help_panel=SERVICE
        ),
    ] = 10.0,
    upstream_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds that the model may take between two parts of its answer.",
            rich_help_panel=UPSTREAM,
        ),
    ] = 30.0,
    fail_open: Annotated[
        bool,
        typer.Option(
            "--fail-open",
            help="Let texts pass unchecked if the monitor fails.",
            rich_help_panel=SERVICE,
        ),
    ] = False,
    log_texts: Annotated[
        bool,
        typer.Option(
            "--log-texts", help="Write texts with alarms to the log.", rich_help_panel=SERVICE
        ),
    ] = False,
) -> None:
    """Check inputs for triggers over HTTP: POST /check, GET /healthz, GET /metrics.

    Logs are JSON lines on stderr. SIGTERM finishes open requests and stops.
    With --upstream, all other requests are guarded and passed on.
    """
    try:
        import prometheus_client  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"serve: needs {error.name}; install the extra: pip install 'triggerfish[serve]'"
        ) from error
    from triggerfish.monitor.asgi import GuardSettings
    from triggerfish.monitor.service import ServeSettings
    from triggerfish.monitor.service.server import serve as run

    chosen = parse_policies(set_policy)
    guard = GuardSettings(
        fields=tuple(field or GuardSettings.fields),
        paths=tuple(path or GuardSettings.paths),
        max_body=max_body,
        max_batch=max_batch,
        body_seconds=timeout,
        fail_open=fail_open,
    )
    run(
        ServeSettings(
            findings=findings,
            tokenizer=tokenizer,
            policy=policy,  # type: ignore[arg-type]  # the monitor checks it
            policies=chosen,  # type: ignore[arg-type]
            host=host,
            port=port,
            workers=workers,
            guard=guard,
            upstream=upstream,
            upstream_seconds=upstream_timeout,
            header_seconds=timeout,
            log_texts=log_texts,
        )
    )
