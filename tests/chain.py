"""A chain whose stages take a blink: in place of papermill, a script that counts its runs and makes
figures of the parameters.
"""

import json

from wsss.lab.run import notebook

# Writes to ``trace`` beside the outputs what it was and what it was kept to. Beta 13 is bad luck:
# that walk fails; 99 is killed once it is complete; those above 100 take minutes.
SCRIPT = (
    notebook.EXECUTE.partition("sys.modules")[0]
    + """
import time
from pathlib import Path
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
values, folder = json.loads(Path(sys.argv[3]).read_text()), Path(sys.argv[3]).parent
stage = folder.parent.name
def trace(what):
    kept = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    line = {"what": what, "stage": stage, "beta": values.get("beta"), "at": time.monotonic(),
            "cores": sorted(os.sched_getaffinity(0))} | kept
    with open(folder.parents[1] / "trace", "a") as file:
        file.write(json.dumps(line) + "\\n")
trace("begin")
time.sleep(600 if values.get("beta", 0) > 100 else 0.5 if stage == "random_walk" else 0)
if values.get("beta") == 13:
    print("bad luck")
    sys.exit(1)
figure = {"infer_cam": "cam_miou", "random_walk": "labels_miou"}.get(stage)
score = 40 + values.get("beta", 0) / 3 + values.get("seed", 0)
record = {
    "stage": stage, "fingerprint": folder.name, "parameters": values, "data_digest": "d",
    "inputs": {name[:-4]: Path(values[name]).name for name in values if name.endswith("_run")},
    "metrics": {figure + "/train": score} if figure else {}, "ended": time.time(),
}
(folder / "complete.json").write_text(json.dumps(record))
trace("end")
if values.get("beta") == 99:
    os.kill(os.getpid(), 9)
"""
)


def experiment(data_root):
    """Five stages, from maps to walks."""
    names = ("train_cam", "infer_cam", "affinity_labels", "train_affinity", "random_walk")
    return {
        "name": "toys",
        "common": {"dataset": "shapes", "data_root": str(data_root)},
        "stages": {name: {} for name in names},
        "smoke": {},
        "sweep": {},
    }


def trace(outputs):
    """What the script wrote, in order; nothing before a stage began."""
    path = outputs / "trace"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def begun(outputs):
    """``(stage, beta)`` of what was begun, in order."""
    return [(each["stage"], each["beta"]) for each in trace(outputs) if each["what"] == "begin"]
