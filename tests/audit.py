"""``make audit``: are there known security flaws in the installed packages?"""

import json
import subprocess
import sys


def main():
    """Ask the advisory database; exit code 1 for a flaw, 0 where there is none or it is away."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable"]
    command += ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip() or "no answer").splitlines()[-1]
        print(f"audit skipped: the advisory database does not answer ({reason[:200]})")
        return 0
    flawed = [package for package in packages if package.get("vulns")]
    known = [package for package in packages if "skip_reason" not in package]
    if not known:
        print(f"audit skipped: the advisory database knows none of {len(packages)} packages here")
        return 0
    for package in flawed:
        for flaw in package["vulns"]:
            fixed = ", ".join(flaw["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {flaw['id']}, mended in {fixed}")
    print(f"audited {len(known)} of {len(packages)} packages: {len(flawed)} with known flaws")
    return 1 if flawed else 0


if __name__ == "__main__":
    sys.exit(main())
