"""Fetches and checks data sets, weights of trained networks, and texts.

Run: python -m experiments.data fetch mnist
"""

import argparse
import sys

from experiments.config import data_catalogue


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, or 1 where something is missing or wrong."""
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
        description=__doc__.splitlines()[0],
        epilog=f"data sets: {', '.join(catalogue['NAMES'])}; weights: "
        f"{', '.join(catalogue['WEIGHTS'])}; texts: {', '.join(catalogue['TEXTS'])}",
    )
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument("--data_dir", help="default: $JAXPRUNE_DATA or ~/.cache/jaxprune/data")
    names = argparse.ArgumentParser(add_help=False)
    names.add_argument("names", nargs="+", metavar="NAME")
    commands = parser.add_subparsers(required=True, metavar="list|fetch|check")
    command = commands.add_parser("list", parents=[folder], help="what there is, what is ready")
    command.set_defaults(command=list_all, names=[])
    command = commands.add_parser("fetch", parents=[names, folder], help="prepare what is named")
    command.add_argument("--archives", help="folder with archives; default: $JAXPRUNE_ARCHIVES")
    command.add_argument("--allow_network", action="store_true", help="try the official URL too")
    command.add_argument("--anew", action="store_true", help="even if they are prepared already")
    command.set_defaults(command=fetch)
    command = commands.add_parser("check", parents=[names, folder], help="verify what is prepared")
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

    row = "{:<16}{:>9}{:>9}{:>8}{:>8}  {}".format
    print(row("name", "inputs", "classes", "train", "test", "prepared"))
    for name, entry in catalogue.REAL.items():
        folder = prepared.folder_of(name, args.data_dir)
        shape = "x".join(map(str, entry.input_shape))
        ready = folder if prepared.is_prepared(folder) else "no"
        print(row(name, shape, entry.num_classes, sum(entry.train), sum(entry.test), ready))
    print(f"Each has a synthetic twin, {catalogue.PREFIX}<name>, that needs no files.")
    for module, known in ((pretrained, pretrained.WEIGHTS), (texts, texts.TEXTS)):
        for name, archive in known.items():
            path = files.path_of(archive, module.FOLDER, args.data_dir)
            ready = path if path.is_file() else "no"
            print(f"{name:<16}{module.FOLDER:<34}  {ready}")
    return 0


def fetch(args: argparse.Namespace) -> int:
    """Prepares the data sets, weights and texts named."""
    from jaxprune.data import catalogue, fetch_text, fetch_weights, prepared

    for name in args.names:
        if name in (*catalogue.WEIGHTS, *catalogue.TEXTS):
            bring = fetch_weights if name in catalogue.WEIGHTS else fetch_text
            path = bring(name, data_dir=args.data_dir, archives=args.archives)
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
    """Compares what is named with what is known of it."""
    from jaxprune.data import catalogue, load
    from jaxprune.data.pretrained import verified_weights
    from jaxprune.data.texts import verified_text

    wrong = False
    for name in args.names:
        if name in (*catalogue.WEIGHTS, *catalogue.TEXTS):
            verified = verified_weights if name in catalogue.WEIGHTS else verified_text
            print(f"{name}: ok; {verified(name, data_dir=args.data_dir)}")
        else:
            wrong |= _check(name, load(name, data_dir=args.data_dir))
    return int(wrong)


def _check(name: str, data) -> int:
    import numpy as np

    from jaxprune.data import arrays, catalogue

    entry, synthetic = catalogue.find(name), name.startswith(catalogue.PREFIX)
    found = {"input shape": data.input_shape}
    wanted = {"input shape": entry.input_shape}
    for part in () if synthetic else ("train", "test"):
        labels = getattr(data, part).labels
        found[f"{part} examples per class"] = tuple(
            np.bincount(labels, minlength=entry.num_classes).tolist()
        )
        wanted[f"{part} examples per class"] = getattr(entry, part)
    for part, digest in zip(("train", "test"), () if synthetic else entry.sha256, strict=False):
        found[f"{part} sha256"] = arrays.sha256(getattr(data, part).inputs)
        wanted[f"{part} sha256"] = digest
    wrong = [key for key in wanted if found[key] != wanted[key]]
    sizes = f"{len(data.train.labels)} train, {len(data.test.labels)} test"
    shape = "x".join(map(str, data.input_shape))
    moments = "; ".join(
        f"{key} {' '.join(f'{value:.4f}' for value in getattr(data, key))}"
        for key in ("mean", "std")
    )
    print(f"{name}: {'WRONG' if wrong else 'ok'}; {shape}, {sizes}; {moments}")
    for key in wrong:
        print(f"  {key}: found {found[key]}, expected {wanted[key]}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
