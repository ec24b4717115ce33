"""Values that do not fit each other, or the data, are refused before the first stage starts."""

import json
import time
from urllib.error import URLError

import pytest

from wsss import cli
from wsss.cli.project import PROJECT
from wsss.errors import InputError
from wsss.lab import plan, stages
from wsss.models import state_dicts


@pytest.fixture
def check(tmp_path, tiny_shapes, monkeypatch):
    """Check the whole chain on 12 photos, with these overrides."""
    monkeypatch.setenv("WSSS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    common = {"dataset": "shapes", "data_root": str(tiny_shapes)}
    experiment = {"name": "x", "common": common, "smoke": {}, "sweep": {}}
    experiment["stages"] = {name: {} for name in stages.read_stages()}

    def check(*overrides):
        planned = plan.plan(experiment, plan.parse_overrides(overrides), project=PROJECT)
        PROJECT.check_values(planned)

    check.experiment = tmp_path / "x.yaml"
    check.experiment.write_text(json.dumps(experiment))
    return check


NO_RUN = "_run: expected the folder of a completed"
REFUSED = {  # overrides to the message after the stage's name
    "train_cam.resize_min=64": "train_cam: resize_min 64, resize_max 0: expected a range",
    "train_affinity.resize_max=64": "train_affinity: resize_min 0, resize_max 64: expected a range",
    "train_segmentation.resize_min=9 train_segmentation.resize_max=8": "resize_min 9, resize_max 8",
    "train_cam.frozen_stages=5": "frozen_stages 5: small has 4 stages; freeze fewer",
    "train_segmentation.frozen_stages=7": "frozen_stages 7: small has 4 stages",
    "train_affinity.reduced=[8,8,8,8,8]": "reduced lists 5 stages, but small has 4; list fewer",
    "train_affinity.norm_group=5": r"norm_group 5 does not divide all of reduced \[32, 64, 64\]",
    "train_segmentation.low_level_channels=[8,8,8,8]": "lists 4 levels, but small has 3 before its",
    "train_cam.output_stride=32": "output_stride 32 is not supported by small; .*: 8, 16",
    "infer_cam.output_stride=32": "infer_cam: output_stride 32 is not supported by small",
    "random_walk.output_stride=32": "random_walk: output_stride 32 is not supported by small",
    "evaluate.output_stride=32": "evaluate: output_stride 32 is not supported by small",
    "train_affinity.border_pairs=false train_affinity.radius=7": "radius 7, border_pairs False, "
    "crop of 11 cells: no pair of cells fits; set crop to 104 or more",
    "affinity_labels.alpha_low=17": "alpha_low 17, alpha_high 16: expected alpha_low not to exceed",
    "infer_cam.tuning_photos=12": "infer_cam: tuning_photos 12: score_split train has 12 photos",
    "random_walk.tuning_photos=99": "random_walk: tuning_photos 99: .*; leave some to be scored",
    "train_cam.train_processes=3": "train_processes 3: .* of 8 crops; change it, batch_size or",
    "train_segmentation.rare_photos=1 train_segmentation.batch_size=99 "
    "train_segmentation.accumulation_steps=5 train_segmentation.train_processes=2": r"of 3 \+ 3",
    "train_affinity.cell_labels=probabilities": "'probabilities' needs affinity_labels.marginals=",
    "train_affinity.backbone=mobilenet_v2": "start_from_cam needs a train_cam of backbone mobile",
    "train_cam.head_channels=8 train_segmentation.low_level_channels=[8]": "of head_channels 0",
    "train_segmentation.random_walk_run=none": f"train_segmentation: random_walk{NO_RUN}",
    "train_segmentation.train_cam_run=none": f"train_segmentation: train_cam{NO_RUN}",
    "evaluate.walk_steps=4": f"evaluate: train_affinity{NO_RUN}",
    "train_segmentation.start_from=/no/net.pt": "train_segmentation: /no/net.pt: no such weight",
    "common.weights=/no/w.pth common.backbone=resnet50": "train_cam: /no/w.pth: no such weight",
    "train_cam.weights=/no/w.pth": "Small has no ImageNet weights; leave weights empty",
    "common.weights=download common.backbone=vgg16": "torchvision has none that fit; give a file",
}


@pytest.mark.parametrize("overrides", REFUSED)
def test_values_that_do_not_fit_are_refused(check, overrides):
    with pytest.raises(InputError, match=REFUSED[overrides]) as fault:
        check(*overrides.split())
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "train_cam.frozen_stages=4 train_affinity.reduced=[8] train_cam.resize_min=9 "
        "train_cam.resize_max=9 affinity_labels.alpha_low=16 infer_cam.tuning_photos=11",
        "train_affinity.border_pairs=false train_affinity.radius=6 infer_cam.output_stride=16",
        "affinity_labels.marginals=true train_affinity.cell_labels=probabilities",
        "train_affinity.backbone=mobilenet_v2 train_affinity.start_from_cam=false "
        "train_segmentation.low_level_channels=[8,8,8] evaluate.train_affinity_run= "
        "evaluate.walk_steps=4 train_cam.train_processes=2",
    ],
)
def test_values_that_fit_are_taken(check, overrides):
    check(*overrides.split())


def test_the_values_of_completed_stages_count(check, tmp_path):
    trained = stages.read_stages()["train_cam"].resolve({"backbone": "resnet38"})
    record = {"stage": "train_cam", "fingerprint": "0a", "data_digest": "d", "metrics": {}}
    record |= {"parameters": trained, "inputs": {}, "ended": 1.0}
    (tmp_path / "complete.json").write_text(json.dumps(record))
    check(f"infer_cam.train_cam_run={tmp_path}", "infer_cam.output_stride=8")
    with pytest.raises(InputError, match="infer_cam: output_stride 16 is not supported by resnet"):
        check(f"infer_cam.train_cam_run={tmp_path}", "infer_cam.output_stride=16")


@pytest.mark.parametrize("several", ["", "random_walk.beta=4,8"])
def test_nothing_has_started_by_then(check, tmp_path, capsys, several):
    words = ["affinity_labels.alpha_low=17", *several.split()]
    assert cli.main(["run", str(check.experiment), *words]) == 2
    assert "wsss: affinity_labels: alpha_low 17, alpha_high 16" in capsys.readouterr().err
    assert not list((tmp_path / "outputs").glob("*/*"))


DOWNLOAD = ("common.weights=download", "common.backbone=mobilenet_v2")


@pytest.mark.parametrize("fault", [URLError("no such host"), TimeoutError("timed out"), None])
def test_a_download_out_of_reach_is_refused_with_the_way_around_it(check, monkeypatch, fault):
    def unreachable(request, timeout):
        if fault:
            raise fault
        time.sleep(0.3)  # a look-up of the name, which knows no timeout

    monkeypatch.setattr(state_dicts, "urlopen", unreachable)
    monkeypatch.setattr(state_dicts, "ANSWER_SECONDS", 0.1)
    why = "no answer in 0.1 s" if fault is None else str(fault.args[0])
    address = r"https://download.pytorch.org/models/mobilenet_v2-\w+.pth"
    with pytest.raises(InputError, match=rf"train_cam: .*{address} cannot .*{why}") as refused:
        check(*DOWNLOAD)
    assert str(refused.value).endswith("or give it as common.weights=FILE")


def test_a_download_within_reach_or_at_hand_is_taken(check, monkeypatch, tmp_path):
    asked = []

    class Answer:
        def close(self):
            asked.append("closed")

    monkeypatch.setattr(state_dicts, "urlopen", lambda request, timeout: Answer())
    check(*DOWNLOAD)
    assert asked == ["closed"] * 3  # by each stage that trains
    kept = tmp_path / "torch" / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    (kept / "mobilenet_v2-b0353104.pth").write_bytes(b"")
    check(*DOWNLOAD)
    assert len(asked) == 3
