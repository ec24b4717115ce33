"""``wsss doctor``: what is missing on this machine."""

from wsss.cli.command import add_command


def _doctor(arguments):
    from wsss.cli import doctor_checks

    lines = doctor_checks.examine()
    print(doctor_checks.report(lines))
    missing = sum(line.mark == doctor_checks.MISSING for line in lines)
    if missing:
        print(f"\n{missing} missing: the demo will not run before that is mended")
    return 1 if missing else 0


def add(commands):
    add_command(
        commands,
        "doctor",
        _doctor,
        help="say what is missing on this machine",
        description="Check Python, packages, compiler, dense CRF, torch, memory, disk, tracking "
        "store, data, weights, browser and git. Nothing is changed. Exit code 1 if the demo cannot "
        "run.",
        epilog="example: wsss doctor",
    )
