"""Fetches and checks data sets, weights of trained networks, and texts.

Run: python -m experiments.data fetch mnist
"""

import argparse
import sys
from typing import Any

from experiments.config import data_catalogue


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 1 if something is missing or wrong."""
    args = parse(argv)
    try:
        return args.command(args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parses arguments and refuses unknown names, without importing JAX or TFDS."""
    catalogue = data_catalogue()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.data",
        description=(__doc__ or "").partition("\n")[0],
        epilog=f"data sets: {', '.join(catalogue['NAMES'])}; weights: "
        f"{', '.join(catalogue['WEIGHTS'])}; texts: {', '.join(catalogue['TEXTS'])}",
    )
    folder_options = argparse.ArgumentParser(add_help=False)
    folder_options.add_argument(
        "--data_dir",
        help="folder of prepared data; default: $JAXPRUNE_DATA or ~/.cache/jaxprune/data",
    )
    name_options = argparse.ArgumentParser(add_help=False)
    name_options.add_argument("names", nargs="+", metavar="NAME")
    commands = parser.add_subparsers(required=True, metavar="list|fetch|check")
    command = commands.add_parser(
        "list", parents=[folder_options], help="list what can be fetched, and what is prepared"
    )
    command.set_defaults(command=list_all, names=[])
    command = commands.add_parser(
        "fetch", parents=[name_options, folder_options], help="prepare data sets, weights or texts"
    )
    command.add_argument("--archives", help="folder with archives; default: $JAXPRUNE_ARCHIVES")
    command.add_argument(
        "--allow_network", action="store_true", help="try the official URL of a data set too"
    )
    command.add_argument(
        "--anew", action="store_true", help="prepare again what is prepared already"
    )
    command.set_defaults(command=fetch)
    command = commands.add_parser(
        "check",
        parents=[name_options, folder_options],
        help="verify prepared data sets, weights or texts",
    )
    command.set_defaults(command=check)
    args = parser.parse_args(argv)
    for name in args.names:
        if name in (*catalogue["WEIGHTS"], *catalogue["TEXTS"]):
            continue
        try:
            catalogue["find"](name)
        except ValueError as error:
            parser.error(str(error))
    return args


def list_all(args: argparse.Namespace) -> int:
    """Prints a table of the data sets, and of weights and texts."""
    from jaxprune.data import catalogue, files, prepared, pretrained, texts

    format_row = "{:<16}{:>9}{:>9}{:>8}{:>8}  {}".format
    print(format_row("name", "inputs", "classes", "train", "test", "prepared"))
    for name, entry in catalogue.REAL.items():
        folder = prepared.folder_of(name, args.data_dir)
        shape_text = "x".join(map(str, entry.input_shape))
        location = folder if prepared.is_prepared(folder) else "no"
        print(
            format_row(
                name, shape_text, entry.num_classes, sum(entry.train), sum(entry.test), location
            )
        )
    print(f"Each has a synthetic twin, {catalogue.PREFIX}<name>, that needs no files.")
    for module, archives in ((pretrained, pretrained.WEIGHTS), (texts, texts.TEXTS)):
        for name, archive in archives.items():
            path = files.path_of(archive, module.FOLDER, args.data_dir)
            location = path if path.is_file() else "no"
            print(f"{name:<16}{module.FOLDER:<34}  {location}")
    return 0


def fetch(args: argparse.Namespace) -> int:
    """Prepares the data sets, weights and texts that `args.names` lists."""
    from jaxprune.data import catalogue, fetch_text, fetch_weights, prepared

    for name in args.names:
        if name in (*catalogue.WEIGHTS, *catalogue.TEXTS):
            fetch_archive = fetch_weights if name in catalogue.WEIGHTS else fetch_text
            path = fetch_archive(name, data_dir=args.data_dir, archives=args.archives)
            print(f"{name}: ready, {path}")
            continue
        prepared.fetch(
            name,
            data_dir=args.data_dir,
            archives=args.archives,
            allow_network=args.allow_network,
            anew=args.anew,
        )
        folder = prepared.folder_of(name, args.data_dir)
        print(f"{name}: ready{f' in {folder}' if prepared.is_prepared(folder) else ''}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Compares data sets, weights and texts with their known shapes and checksums; returns the exit code."""
    from jaxprune.data import catalogue, load
    from jaxprune.data.pretrained import verified_weights
    from jaxprune.data.texts import verified_text

    any_wrong = False
    for name in args.names:
        if name in (*catalogue.WEIGHTS, *catalogue.TEXTS):
            verify = verified_weights if name in catalogue.WEIGHTS else verified_text
            print(f"{name}: ok; {verify(name, data_dir=args.data_dir)}")
        else:
            any_wrong |= _check_dataset(name, load(name, data_dir=args.data_dir))
    return int(any_wrong)


def _check_dataset(name: str, data: Any) -> int:
    """Prints whether a data set is as the catalogue says; returns 1 if it is not, else 0."""
    import numpy as np

    from jaxprune.data import arrays, catalogue

    entry = catalogue.find(name)
    is_synthetic = name.startswith(catalogue.PREFIX)
    actual: dict[str, Any] = {"input shape": data.input_shape}
    expected: dict[str, Any] = {"input shape": entry.input_shape}
    for split_name in () if is_synthetic else ("train", "test"):
        labels = getattr(data, split_name).labels
        actual[f"{split_name} examples per class"] = tuple(
            np.bincount(labels, minlength=entry.num_classes).tolist()
        )
        expected[f"{split_name} examples per class"] = getattr(entry, split_name)
    for split_name, digest in zip(
        ("train", "test"), () if is_synthetic else entry.sha256, strict=False
    ):
        actual[f"{split_name} sha256"] = arrays.sha256(getattr(data, split_name).inputs)
        expected[f"{split_name} sha256"] = digest
    wrong_keys = [key for key in expected if actual[key] != expected[key]]
    sizes_text = f"{len(data.train.labels)} train, {len(data.test.labels)} test"
    shape_text = "x".join(map(str, data.input_shape))
    moments_text = "; ".join(
        f"{key} {' '.join(f'{value:.4f}' for value in getattr(data, key))}"
        for key in ("mean", "std")
    )
    print(f"{name}: {'WRONG' if wrong_keys else 'ok'}; {shape_text}, {sizes_text}; {moments_text}")
    for key in wrong_keys:
        print(f"  {key}: found {actual[key]}, expected {expected[key]}")
    return bool(wrong_keys)


if __name__ == "__main__":
    sys.exit(main())
