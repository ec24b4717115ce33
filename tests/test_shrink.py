"""A small copy of a devkit keeps ids, labels and masks' values, and goes on where it was cut."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from wsss.cli import main
from wsss.datasets.prepare import shrink as module
from wsss.datasets.prepare.shrink import shrink
from wsss.datasets.voc import Devkit
from wsss.errors import InputError
from wsss.io.artifacts import save_labels


def test_photos_masks_labels_and_lists_come_along(tiny_shapes, tmp_path, capsys):
    command = ["data", "small", "--from", str(tiny_shapes), "--root", str(tmp_path / "s")]
    assert main([*command, "--long", "60"]) == 0
    assert "common.data_root=" in capsys.readouterr().out
    large, small = Devkit(tiny_shapes), Devkit(tmp_path / "s")
    assert small.classes == large.classes
    for split in ("train", "train_aug", "val"):
        assert small.ids(split) == large.ids(split)
    assert small.check(["train", "val"], masks=["train", "val"]) == []
    for id in large.ids("train"):
        photo, mask = small.image(id), small.mask(id)
        assert small.labels(id) == large.labels(id)
        assert max(photo.shape[:2]) == 60 and mask.shape == photo.shape[:2]
        # the nearest pixel: of the large mask at each small pixel's centre
        whole = large.mask(id)
        rows, columns = (
            ((np.arange(n) + 0.5) * w / n).astype(int)
            for n, w in zip(mask.shape, whole.shape, strict=True)
        )
        assert (mask == whole[np.ix_(rows, columns)]).mean() > 0.99
        mean = Image.fromarray(large.image(id)).resize(photo.shape[1::-1], Image.Resampling.BOX)
        assert np.abs(photo.astype(int) - np.asarray(mean).astype(int)).mean() < 8


def test_a_copy_cut_short_goes_on_and_has_no_list_before(tiny_shapes, tmp_path, monkeypatch):
    copied = []
    real = module._copy

    def cut(kit, id, *rest):
        if len(copied) == 3:
            raise KeyboardInterrupt
        copied.append(id)
        real(kit, id, *rest)

    monkeypatch.setattr(module, "_copy", cut)
    with pytest.raises(KeyboardInterrupt):
        shrink(tiny_shapes, tmp_path / "s", long_side=60)
    with pytest.raises(InputError, match="no such id list"):
        Devkit(tmp_path / "s").ids("train")
    monkeypatch.setattr(module, "_copy", real)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "s/JPEGImages").iterdir()}
    assert len(done) == 3
    kit = shrink(tiny_shapes, tmp_path / "s", long_side=60)
    assert kit.check(["train", "val"], masks=["train", "val"]) == []
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    with pytest.raises(InputError, match="name another folder or delete this one"):
        shrink(tiny_shapes, tmp_path / "s", long_side=40)


def test_what_was_put_right_is_copied_again(tiny_shapes, tmp_path):
    shutil.copytree(tiny_shapes, tmp_path / "kit")
    large, (changed, unmasked, kept, *_) = (
        Devkit(tmp_path / "kit"),
        Devkit(tiny_shapes).ids("train"),
    )
    small = shrink(large.root, tmp_path / "s", long_side=60)
    times = small.image_path(kept).stat().st_mtime_ns, small.mask_path(kept).stat().st_mtime_ns
    before = small.image(changed)
    save_labels(large.mask_path(changed), np.full(large.mask(changed).shape, 3))
    Image.fromarray(255 - large.image(changed)).save(large.image_path(changed), quality=95)
    os.utime(large.image_path(changed), ns=(0, 0))  # as an older file that was put in its place
    large.mask_path(unmasked).unlink()
    small = shrink(large.root, tmp_path / "s", long_side=60)
    assert (small.mask(changed) == 3).all()
    assert np.abs(small.image(changed) - (255.0 - before)).mean() < 5
    assert not small.mask_path(unmasked).exists()
    assert times == (
        small.image_path(kept).stat().st_mtime_ns,
        small.mask_path(kept).stat().st_mtime_ns,
    )


def test_names_with_commas_and_quotes_come_along(tiny_shapes, tmp_path):
    shutil.copytree(tiny_shapes, tmp_path / "kit")
    listed, names = tmp_path / "kit" / "classes.txt", list(Devkit(tiny_shapes).classes)
    listed.write_text("\n".join(['a "round", red one', *names[1:], ""]))
    labels = tmp_path / "kit" / "image_labels.csv"
    rows = [f"{id},{names[0]}" for id in {*Devkit(tiny_shapes).labelled()}]
    quoted = [row.replace(names[0], '"a ""round"", red one"') for row in rows]
    labels.write_text("\n".join(["id,labels", *quoted, ""]))
    small = shrink(tmp_path / "kit", tmp_path / "s", long_side=60)
    assert all(small.labels(id) == [1] for id in small.ids("train"))


@pytest.mark.parametrize(
    ("target", "long", "reason"),
    [("copy", 8, "at least 32"), ("kit", 60, "the devkit to copy from")],
)
def test_what_cannot_be_copied_is_refused(tiny_shapes, tmp_path, target, long, reason):
    (tmp_path / "kit").symlink_to(tiny_shapes)
    with pytest.raises(InputError, match=reason):
        shrink(tmp_path / "kit", tmp_path / target, long_side=long)
    assert not (tmp_path / "copy").exists()
