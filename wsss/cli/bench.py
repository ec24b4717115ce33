"""``wsss bench``: the hot steps timed."""

from wsss.cli.command import add_command


def _bench(arguments):
    from wsss import bench  # slow to import

    folder = bench.run(arguments.only, repeats=arguments.repeats, out=arguments.out)
    print("\n" + (folder / "bench.md").read_text())
    print(f"{folder}: bench.md, bench.json, bench.png; also in MLflow's experiment `bench`")


def add(commands):
    bench = add_command(
        commands,
        "bench",
        _bench,
        help="time the hot steps beside their plain definitions",
        description="Run each hot step and its plain definition in turns; tell time, memory and "
        "the difference of their results.",
        epilog='example: wsss bench --only "random walk"',
    )
    bench.add_argument("--only", default="", metavar="TEXT", help="pairs whose name holds this")
    bench.add_argument(
        "--repeats", type=int, default=7, metavar="N", help="of each way, fewer of slow ones (7)"
    )
    bench.add_argument("--out", metavar="DIR", help="folder for table and plot (outputs/bench)")
