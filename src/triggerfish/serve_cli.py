"""The command `triggerfish serve`: parse, build the settings, serve. It needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from triggerfish.options import POLICIES, parse_policies


def serve(
    findings: Annotated[Path, typer.Option(help="The scan.json to guard with; it may change.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Folder or tokenizer.json. Default: of the model that scan.json names."),
    ] = None,
    policy: Annotated[str, typer.Option(help=f"One of {', '.join(POLICIES)}.")] = "reject",
    set_policy: Annotated[
        list[str] | None,
        typer.Option(help="TRIGGER=POLICY where it differs; repeat for more."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port; 0: any free one, named in the log.")] = 8080,
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    upstream: Annotated[
        str | None, typer.Option(help="URL of a model: guarded requests are passed on to it.")
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            help="Where texts stand in its requests: a dotted path of keys; repeat for more. "
            "Default: text."
        ),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(help="Guard only this path of it and what is below; repeat. Default: all."),
    ] = None,
    max_body: Annotated[int, typer.Option(help="Bytes of a request, at most.")] = 262_144,
    max_batch: Annotated[int, typer.Option(help="Texts in a request, at most.")] = 256,
    timeout: Annotated[
        float, typer.Option(help="Seconds that a client may take for a request.")
    ] = 10.0,
    upstream_timeout: Annotated[
        float, typer.Option(help="Seconds that the model may be silent.")
    ] = 30.0,
    fail_open: Annotated[
        bool, typer.Option("--fail-open", help="Pass texts unchecked when the monitor fails.")
    ] = False,
    log_texts: Annotated[
        bool, typer.Option("--log-texts", help="Write texts with alarms to the log.")
    ] = False,
) -> None:
    """Guard inputs over HTTP: POST /check, GET /healthz, GET /metrics.

    Logs are JSON lines on stderr. SIGTERM finishes open requests and stops. With --upstream, all
    other requests are guarded and passed on.
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
