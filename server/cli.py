"""`ugmcl-assist`: serve scans, watch the demo, train or predict without a server, make sample data."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from server.settings import ServerSettings
from server.stock_host import StartError

ABOUT = """\
A MONAI Label server for 3D segmentation that learns from every label you submit together with the scans
nobody has labeled yet, and shows where it is unsure. For research, not a medical device."""

FIRST_STEPS = """\
first steps:
  ugmcl-assist sample-data --out build/sample      make a folder of artificial heart scans
  ugmcl-assist serve --studies build/sample/studies
                                                   serve it on http://127.0.0.1:8000
  ugmcl-assist demo                                watch labels become a better model
then connect 3D Slicer (extension "MONAILabel") to http://127.0.0.1:8000.

`ugmcl-assist COMMAND --help` explains each command."""

SERVE = """\
Serve a folder of scans (.nii.gz, .nii, .nrrd), or the MR and CT series of a PACS (its DICOMweb address), to
3D Slicer, OHIF or the stock MONAI Label client. Labels are stored beside the scans, or in the PACS; models,
rounds and maps in <studies>/.ugmcl, or for a PACS in ~/.local/share/ugmcl-assist. Every submitted label
starts a training round in the background. Stop with Ctrl-C; the next start goes on where this one ended."""

TRAIN = """\
Run one training round on a folder with labels in labels/final, without a server, and print how it went. A
better model is published, so a later `serve` on the folder answers with it."""

PREDICT = """\
Segment every scan of a folder with a model, without a server. Writes <id>.nii.gz (the segmentation) and
<id>_uncertainty.nii.gz (0 = sure, 1 = unsure) for each scan."""


def parser() -> argparse.ArgumentParser:
    """The command line with all its commands."""
    top = argparse.ArgumentParser(
        "ugmcl-assist",
        description=ABOUT,
        epilog=FIRST_STEPS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, short: str, about: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=short, description=about, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    _serve_options(command("serve", "serve a folder of scans", SERVE))
    _demo_options(
        command("demo", "watch labels become a better model, in this terminal", "Watch the main job.")
    )
    _project_options(command("train", "run one training round without a server", TRAIN))
    _predict_options(command("predict", "segment a folder of scans with a model", PREDICT))
    _export_options(command("export", "write labels and images into a folder", "Export a data set."))
    _sample_options(
        command("sample-data", "make a folder of artificial scans", "Make artificial heart scans.")
    )
    _experiment_options(command("experiment", "compare methods on packed scans", "Compare methods."))
    _simulate_options(
        command("simulate", "how many labels a strategy needs", "Reveal labels round by round.")
    )
    return top


def _project_options(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--studies", metavar="DIR", help="folder of scans, or a PACS's address (required, or UGMCL_STUDIES)"
    )
    options.add_argument(
        "--labels",
        metavar="NAMES",
        help="class names, as in liver,spleen; their values are 1, 2, ... (default: one)",
    )
    options.add_argument(
        "--workspace", metavar="DIR", help="folder for models and rounds (default: <studies>/.ugmcl)"
    )
    options.add_argument(
        "--conf",
        nargs=2,
        action="append",
        metavar=("KEY", "VALUE"),
        help="a setting of the app, as in --conf round_seconds 60; can be repeated",
    )


def _serve_options(options: argparse.ArgumentParser) -> None:
    _project_options(options)
    options.add_argument("--port", metavar="N", help="port (default: 8000; 0 takes a free one)")
    options.add_argument(
        "--host", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    options.add_argument(
        "--allow-origin",
        action="append",
        metavar="URL",
        help="web page origin that may call this server; can be repeated",
    )
    options.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="further name of this server in requests; can be repeated",
    )
    options.add_argument(
        "--ohif", metavar="DIR", help="folder of the OHIF viewer (default: what make ohif fetched)"
    )
    options.add_argument("--max-body-mib", metavar="MIB", help="largest upload (default: 1024)")


def _predict_options(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--model", required=True, metavar="FILE_OR_VERSION", help="a model.pt, or a version (with --studies)"
    )
    options.add_argument("--input", required=True, type=Path, metavar="DIR", help="folder of scans")
    options.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for the results")
    options.add_argument("--studies", metavar="DIR", help="project in which --model is a version")
    options.add_argument(
        "--workspace", metavar="DIR", help="that project's workspace, if not <studies>/.ugmcl"
    )
    options.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    options.add_argument(
        "--mc-samples",
        type=int,
        default=8,
        metavar="N",
        help="random passes for the uncertainty (default: 8)",
    )


def _export_options(options: argparse.ArgumentParser) -> None:
    from server import export_command

    options.description = export_command.ABOUT
    _project_options(options)
    export_command.add_arguments(options)


def _demo_options(options: argparse.ArgumentParser) -> None:
    # The demo needs the plotting and terminal libraries; the other commands must not wait for them.
    if _asked("demo"):
        from server import demo

        options.description = demo.__doc__
        demo.add_arguments(options)


def _sample_options(options: argparse.ArgumentParser) -> None:
    if _asked("sample-data"):
        from sample_data import __main__ as sample

        options.description = (
            "Make a folder of artificial heart MR scans to try the server on: `studies/` to serve, and\n"
            "`reference/` with labels the server cannot see. The same seed gives the same scans."
        )
        sample.add_arguments(options)


def _experiment_options(options: argparse.ArgumentParser) -> None:
    if _asked("experiment"):
        from server import experiment_command

        options.description = experiment_command.ABOUT
        experiment_command.add_arguments(options)


def _simulate_options(options: argparse.ArgumentParser) -> None:
    if _asked("simulate"):
        from server import simulation_command

        options.description = simulation_command.ABOUT
        simulation_command.add_arguments(options)


_ARGUMENTS: Sequence[str] = ()


def _asked(command: str) -> bool:
    return next((argument for argument in _ARGUMENTS if not argument.startswith("-")), "") == command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 when the work failed, or 2 when it could not be done as asked."""
    # Before torch is imported: its waiting threads then sleep instead of spinning beside a training round.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    global _ARGUMENTS
    _ARGUMENTS = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(_ARGUMENTS)
    try:
        return _run(options)
    except StartError as error:
        print(f"ugmcl-assist: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    if options.command == "demo":
        from server import demo

        return int(demo.main(options) or 0)
    if options.command == "sample-data":
        from sample_data import __main__ as sample

        return int(sample.main(options) or 0)
    if options.command == "experiment":
        from server import experiment_command

        return experiment_command.main(options)
    if options.command == "simulate":
        from server import simulation_command

        return simulation_command.main(options)
    if options.command == "predict":
        from server.offline import predict_folder

        asked = options.studies or options.workspace
        workspace = settings_from(options).workspace_folder() if asked else None
        return predict_folder(
            options.model, options.input, options.output, workspace, options.device, options.mc_samples
        )
    settings = settings_from(options)
    if options.command == "train":
        from server.log_setup import set_up
        from server.offline import train_once

        set_up(None)
        return train_once(settings, lambda line: print(line, flush=True))
    if options.command == "export":
        from server.export_command import export

        return export(settings, options)
    from server.serving import leave, serve

    leave(serve(settings))


def settings_from(options: argparse.Namespace) -> ServerSettings:
    """The settings of a command line, over those of the environment.

    Raises:
        StartError: a value is not acceptable.
    """
    given = {
        "studies": options.studies,
        "workspace": options.workspace,
        "labels": getattr(options, "labels", None),
        "port": getattr(options, "port", None),
        "host": getattr(options, "host", None),
        "cors_origins": getattr(options, "allow_origin", None),
        "allowed_hosts": getattr(options, "allow_host", None),
        "ohif": getattr(options, "ohif", None),
        "max_body_mib": getattr(options, "max_body_mib", None),
        "conf": dict(getattr(options, "conf", None) or {}) or None,
    }
    try:
        return ServerSettings(**{key: value for key, value in given.items() if value not in (None, [])})
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"])
        message = str(problem["msg"]).removeprefix("Value error, ")
        raise StartError(f"The setting {name} was given as {problem['input']!r}: {message}.") from None
    except ValueError as error:
        raise StartError(f"The settings in the environment cannot be read: {error}.") from None


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
