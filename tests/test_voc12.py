"""VOC 2012 and SBD made ready: on a tiny devkit and a tiny SBD, as folders and as archives."""

import hashlib
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from wsss import cli, datasets
from wsss.datasets.prepare import unpack, voc12
from wsss.errors import InputError
from wsss.io.artifacts import save_labels, voc_palette

SIZE = (20, 30)  # of every photo: height, width
TRAIN, VAL = ["p_b", "p_a"], ["p_c", "p_d"]  # not sorted: VOC's own lists keep their order
SBD_TRAIN, SBD_VAL = ["p_a", "p_c", "p_f"], ["p_e", "p_d"]
TRAIN_AUG = ["p_a", "p_b", "p_e", "p_f"]  # by hand: all of the above, less VAL
COUNTS = {"train": 2, "val": 2, "train_aug": 4, "test": 1}
BOXES = {"p_a": ["person", "dog", "person"], "p_b": ["cat"], "p_x": []}  # others: a tvmonitor


def official(id):
    """VOC's mask of a photo: a class of its own, and a border to ignore."""
    mask = np.full(SIZE, 1 + (TRAIN + VAL).index(id), np.uint8)
    mask[0] = 255
    return mask


def coarse(id):
    """SBD's mask of a photo, which no official mask equals."""
    mask = np.zeros(SIZE, np.uint8)
    mask[5:, 5:] = 11 + sorted({*SBD_TRAIN, *SBD_VAL}).index(id)
    return mask


def save_mat(path, mask):
    """As SBD's files are: a struct of masks, outlines in a cell of sparse matrices, and classes."""
    outlines = np.empty((20, 1), object)
    for number in range(20):
        outlines[number, 0] = scipy.sparse.csc_matrix(SIZE, dtype=np.float64)
    content = {"Boundaries": outlines, "Segmentation": mask, "CategoriesPresent": np.unique(mask)}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"GTcls": content}, do_compression=True)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def save_photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(path)


def make_voc(folder):
    """Six listed photos and p_x on no list, whose boxes are empty."""
    for id in ("p_a", "p_b", "p_c", "p_d", "p_e", "p_f", "p_x"):
        save_photo(folder / f"JPEGImages/{id}.jpg")
        objects = "".join(
            f"<object><name>{name}</name><difficult>1</difficult>"
            "<part><name>head</name></part></object>"
            for name in BOXES.get(id, ["tvmonitor"])
        )
        write(folder / f"Annotations/{id}.xml", f"<annotation>{objects}</annotation>")
    for id in TRAIN + VAL:
        save_labels(folder / f"SegmentationClass/{id}.png", official(id))
    write(folder / "SegmentationObject/p_a.png", "not needed")
    for split, ids in {"train": TRAIN, "val": VAL, "trainval": TRAIN + VAL}.items():
        write(folder / f"ImageSets/Segmentation/{split}.txt", "\n".join(ids) + "\n")


def make_sbd(folder):
    for id in {*SBD_TRAIN, *SBD_VAL}:
        save_mat(folder / f"cls/{id}.mat", coarse(id))
        save_photo(folder / f"img/{id}.jpg")
    write(folder / "train.txt", "\n".join(SBD_TRAIN) + "\n")
    write(folder / "val.txt", "\n".join(SBD_VAL) + "\n")


def pack(folder, archive, mode):
    with tarfile.open(archive, mode) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return archive


@pytest.fixture
def voc(tmp_path):
    make_voc(tmp_path / "got_voc/VOCdevkit/VOC2012")
    return tmp_path / "got_voc"


@pytest.fixture
def sbd(tmp_path):
    make_sbd(tmp_path / "got_sbd/benchmark_RELEASE/dataset")
    return tmp_path / "got_sbd"


@pytest.fixture
def archives(voc, sbd, tmp_path):
    """Both downloads as published: a tar, and a tar that is compressed."""
    return {
        "voc": pack(voc, tmp_path / "VOCtrainval_11-May-2012.tar", "w"),
        "sbd": pack(sbd, tmp_path / "benchmark.tgz", "w:gz"),
    }


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


PUBLISHED = dict(voc12.EXPECTED)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The counts of the tiny tree."""
    for split, count in COUNTS.items():
        monkeypatch.setitem(voc12.EXPECTED, split, count)


def prepare(root, **arguments):
    return voc12.prepare(root, any_digest=True, **arguments)


def snapshot(folder):
    """``{path: (content, time of change)}`` of all files below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder):
    return {name: content for name, (content, _) in snapshot(folder).items()}


def check_tree(root):
    """What the tiny tree must come to, through the reader that the experiments use."""
    data = datasets.open("voc", root)
    assert data.ids("train") == TRAIN and data.ids("val") == VAL
    assert data.ids("train_aug") == TRAIN_AUG
    for id in {*TRAIN_AUG, *VAL}:
        wanted = official(id) if id in TRAIN + VAL else coarse(id)
        assert (data.mask(id) == wanted).all(), id
        with Image.open(data.mask_path(id)) as file:
            assert file.mode == "P" and file.getpalette() == voc_palette().ravel().tolist()
    assert (data.root / "image_labels.csv").read_text().splitlines() == [
        "id,labels",
        "p_a,dog;person",  # in VOC's order, not the annotation's
        "p_b,cat",
        *(f"p_{letter},tvmonitor" for letter in "cdef"),
        "p_x,",
    ]
    splits = ["train", "val", "train_aug"]
    (fault,) = data.check(splits, masks=splits)
    assert "6 of 6 masks show a class that their photo is not tagged with" in fault  # as made here


def test_archives_become_a_devkit(archives, root):
    report = prepare(root, **archives)
    check_tree(root)
    assert report.lists == {"train": 2, "val": 2, "train_aug": 4}
    assert report.masks == {"VOC": 4, "SBD": 2}
    assert report.labelled == 6 and report.unlabelled == ["p_x"] and not report.lacking
    kept = {path.name for path in (root / "VOCdevkit/VOC2012").iterdir()}
    assert "SegmentationObject" not in kept
    assert not (root / "benchmark_RELEASE/dataset/img").exists()


def test_folders_are_copied_and_left_as_they_are(voc, sbd, root):
    before = snapshot(voc) | snapshot(sbd)
    prepare(root, voc=voc / "VOCdevkit/VOC2012", sbd=sbd / "benchmark_RELEASE/dataset")
    check_tree(root)
    assert snapshot(voc) | snapshot(sbd) == before


@pytest.mark.parametrize("inner", ["", "benchmark_RELEASE", "benchmark_RELEASE/dataset"])
def test_a_devkit_in_place_is_used(voc, sbd, inner):
    prepare(voc, sbd=sbd / inner)
    check_tree(voc)


def test_a_bare_devkit_folder_is_used_in_place(voc, sbd):
    bare = voc / "VOCdevkit/VOC2012"
    prepare(bare, voc=bare, sbd=sbd)
    check_tree(bare)
    assert not (bare / "VOCdevkit").exists()


def test_a_second_run_changes_nothing(archives, root):
    prepare(root, **archives)
    before = snapshot(root)
    assert prepare(root, **archives).masks == {"kept": 6}
    assert snapshot(root) == before


def test_a_run_goes_on_where_another_stopped(archives, root):
    prepare(root, **archives)
    before = snapshot(root)
    home = root / "VOCdevkit/VOC2012"
    broken = [
        home / "JPEGImages/p_a.jpg",
        home / "SegmentationClassAug/p_a.png",
        home / "SegmentationClassAug/p_e.png",
        root / "benchmark_RELEASE/dataset/cls/p_f.mat",
    ]
    for path in broken:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    gone = [home / "Annotations/p_b.xml", home / "ImageSets/Segmentation/train_aug.txt"]
    gone += [home / "SegmentationClassAug/p_f.png", home / "image_labels.csv"]
    for path in gone:
        path.unlink()
    (home / "JPEGImages/.p_c.jpg.7.999999999.partial").write_bytes(b"of a run that was killed")

    prepare(root, **archives)
    after = snapshot(root)
    assert contents(root) == {name: content for name, (content, _) in before.items()}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {str(path.relative_to(root)) for path in broken + gone}


def test_a_file_is_whole_or_not_there(archives, root, monkeypatch):
    def stop(source, target, length):
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(unpack.shutil, "copyfileobj", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(root, **archives)
    assert contents(root) == {}


def test_photos_without_annotation_are_named_those_on_a_list_first(voc, sbd):
    for id in ("p_c", "p_x"):
        (voc / f"VOCdevkit/VOC2012/Annotations/{id}.xml").unlink()
    save_photo(voc / "VOCdevkit/VOC2012/JPEGImages/a_first.jpg")
    report = prepare(voc, sbd=sbd)
    assert report.unlabelled == ["p_c", "a_first", "p_x"]
    assert "3 photos have no image labels: p_c, a_first, p_x;" in voc12.table(report)


def test_labels_that_are_there_are_kept(voc, sbd):
    labels = voc / "VOCdevkit/VOC2012/image_labels.csv"
    labels.write_text("id,labels\np_a,bus\n")
    assert prepare(voc, sbd=sbd).unlabelled == ["p_b", "p_c", "p_d", "p_e", "p_f", "p_x"]
    assert labels.read_text() == "id,labels\np_a,bus\n"


def test_the_test_archive_is_unpacked_where_it_lies(archives, root, tmp_path, monkeypatch):
    test = tmp_path / "got_test/VOCdevkit/VOC2012"
    save_photo(test / "JPEGImages/t_a.jpg")
    write(test / "ImageSets/Segmentation/test.txt", "t_a\n")
    root.mkdir()
    pack(tmp_path / "got_test", root / "VOC2012test.tar", "w")
    assert prepare(root, **archives).lists == COUNTS
    assert datasets.open("voc", root).image("t_a").shape == (*SIZE, 3)
    (fault,) = datasets.open("voc", root).check(["test"])
    assert "no labels for photo t_a" in fault
    monkeypatch.setitem(voc12.EXPECTED, "test", 1456)
    with pytest.raises(InputError, match=r"test.txt: expected 1,456 ids but found 1;"):
        prepare(root)


def test_digests_are_checked(archives, root, monkeypatch):
    found = hashlib.md5(archives["voc"].read_bytes()).hexdigest()
    with pytest.raises(InputError, match="6cd6e144f989b92b3379bac3b3de84fd.*" + found) as fault:
        voc12.prepare(root, **archives)
    assert "--any-digest" in str(fault.value) and not root.exists()

    for name, archive in (("VOC", archives["voc"]), ("SBD", archives["sbd"])):
        digest = hashlib.md5(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(voc12, name, replace(getattr(voc12, name), md5=digest))
    voc12.prepare(root, **archives)
    check_tree(root)


def test_a_digest_that_is_not_checked_is_reported(archives, root, capsys):
    prepare(root, **archives)
    output = capsys.readouterr().out
    for archive in archives.values():
        assert f"{archive}: digest not checked" in output


def test_a_link_in_the_target_leads_nowhere(archives, root, tmp_path):
    (tmp_path / "outside").mkdir()
    (root / "VOCdevkit/VOC2012").mkdir(parents=True)
    (root / "VOCdevkit/VOC2012/JPEGImages").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match=r"JPEGImages/p_a.jpg' is refused, .*outside"):
        prepare(root, **archives)
    assert not list((tmp_path / "outside").iterdir())


@pytest.mark.parametrize("which", ["voc", "sbd"])
def test_an_archive_that_is_cut_off_is_refused_wherever_the_cut_is(archives, root, which):
    whole = archives[which].read_bytes()
    with tarfile.open(archives[which]) as tar:
        ends = [entry.offset for entry in tar][5]  # between two members
    cuts = [0, 100, len(whole) // 2, len(whole) * 3 // 4]
    cuts += [ends, ends + 100, ends + 512] if which == "voc" else [len(whole) - 9, len(whole) - 1]
    for cut in cuts:
        archives[which].write_bytes(whole[:cut])
        with pytest.raises(InputError, match=r"whole .*download it again") as fault:
            prepare(root, **archives)
        assert str(archives[which]) in str(fault.value) and "\n" not in str(fault.value)
    archives[which].write_bytes(whole)
    prepare(root, **archives)
    check_tree(root)


def test_what_is_no_archive_and_no_folder_is_refused(voc, root, tmp_path):
    (tmp_path / "page.html").write_text("<html>Access denied</html>")
    for given, reason in {
        tmp_path / "page.html": "download it again",
        tmp_path / "nowhere.tar": "no such file or folder",
        voc / "VOCdevkit/VOC2012/JPEGImages": "found no JPEGImages in it",
    }.items():
        with pytest.raises(InputError, match=reason):
            prepare(root, voc=given)
    with pytest.raises(InputError, match="but it is a file"):
        prepare(tmp_path / "page.html")
    assert not root.exists()


def test_a_root_that_cannot_be_filled_is_reported(archives, tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/VOCdevkit").write_text("a file where a folder must be")
    with pytest.raises(InputError, match="cannot be made ready"):
        prepare(tmp_path / "root", **archives)


def test_a_mask_of_sbd_is_read_as_it_is(tmp_path):
    wanted = np.arange(6, dtype=np.uint8).reshape(2, 3) * 4  # 0 to 20
    save_mat(tmp_path / "a.mat", wanted)
    mask = voc12.read_sbd_mask(tmp_path / "a.mat")
    assert mask.dtype == np.uint8 and (mask == wanted).all()


def test_a_bad_mask_stops_the_run_and_leaves_no_file(voc, sbd):
    save_mat(sbd / "benchmark_RELEASE/dataset/cls/p_e.mat", np.full(SIZE, 21, np.uint8))
    with pytest.raises(InputError, match=r"p_e.mat.*value 21"):
        prepare(voc, sbd=sbd)
    masks = voc / "VOCdevkit/VOC2012/SegmentationClassAug"
    assert sorted(path.name for path in masks.iterdir()) == [f"p_{c}.png" for c in "abcd"]


@pytest.mark.parametrize("split", ["train", "val", "train_aug"])
def test_counts_that_differ_are_reported(voc, sbd, split, monkeypatch):
    monkeypatch.setitem(voc12.EXPECTED, split, 7)
    with pytest.raises(InputError, match=rf"{split}.txt: expected 7 ids but found {COUNTS[split]}"):
        prepare(voc, sbd=sbd)
    lists = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation"
    assert not (lists / "train_aug.txt").exists()


def test_another_train_aug_is_refused_and_another_order_is_not(voc, sbd):
    path = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt"
    path.write_text("p_a\np_b\np_c\np_e\n")  # p_c is of val
    with pytest.raises(InputError, match=r"train_aug.txt: .* not the same; delete it"):
        prepare(voc, sbd=sbd)
    path.write_text("p_f\np_e\np_b\np_a\n")
    prepare(voc, sbd=sbd)
    assert path.read_text() == "p_f\np_e\np_b\np_a\n"


def test_a_listed_photo_that_is_not_there_is_reported(voc, sbd):
    (voc / "VOCdevkit/VOC2012/JPEGImages/p_e.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of 6 listed photos are missing, first p_e.jpg"):
        prepare(voc, sbd=sbd)


def test_an_annotation_with_an_unknown_class_is_refused(voc, sbd):
    path = voc / "VOCdevkit/VOC2012/Annotations/p_d.xml"
    path.write_text("<annotation><object><name>dragon</name></object></annotation>")
    with pytest.raises(InputError, match=r"p_d.xml: label 'dragon' is not a class"):
        prepare(voc, sbd=sbd)
    assert not (voc / "VOCdevkit/VOC2012/image_labels.csv").exists()


def test_what_is_missing_is_listed_with_where_it_is_to_be_had(root, voc, sbd):
    output = voc12.table(prepare(root))
    for piece in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        assert f"missing: {root / 'VOCdevkit/VOC2012' / piece}" in output
    assert f"missing: {root / 'benchmark_RELEASE/dataset/cls'}" in output
    for place in ("host.robots.ox.ac.uk/pascal/VOC/voc2012/", "Kaggle", "Academic Torrents"):
        assert place in output
    assert "home.bharathh.info" in output and "www2.eecs.berkeley.edu" in output
    assert "--voc VOCtrainval_11-May-2012.tar" in output and "--sbd benchmark.tgz" in output
    assert "data_root" not in output and not root.exists()


def test_without_sbd_all_else_is_made_and_then_completed(voc, sbd):
    report = prepare(voc)
    assert list(report.lacking) == [voc12.SBD] and report.lists == {"train": 2, "val": 2}
    assert report.masks == {"VOC": 4} and report.labelled == 6
    assert "missing" in voc12.table(report) and "VOCtrainval" not in voc12.table(report)
    prepare(voc, sbd=sbd)
    check_tree(voc)


def test_sbd_is_not_asked_for_where_all_masks_and_lists_are_there(voc, sbd):
    prepare(voc, sbd=sbd)
    shutil.rmtree(voc / "benchmark_RELEASE")
    assert not prepare(voc).lacking
    (voc / "VOCdevkit/VOC2012/SegmentationClassAug/p_e.png").unlink()
    report = prepare(voc)
    assert list(report.lacking) == [voc12.SBD] and report.masks == {"kept": 5, "missing": 1}
    assert "      5  in SegmentationClassAug: 5 kept, 1 missing" in voc12.table(report)


def test_the_command_ends_with_a_table(voc, sbd, capsys):
    arguments = ["data", "voc12", "--root", str(voc), "--sbd", str(sbd)]
    assert cli.main(arguments) == 0
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    for name, count in {**COUNTS, "masks": 6, "image labels": 6}.items():
        assert name == "test" or rows[name].split()[-1 if name != "masks" else 1] == str(count)
    assert "4 VOC, 2 SBD" in rows["masks"]
    assert f"`data_root: {voc.resolve()}`" in "".join(rows)
    check_tree(voc)


def test_the_command_says_in_one_line_what_is_wrong(voc, archives, root, capsys):
    for arguments, message in [
        (
            ["--root", str(root)],
            "expected the contents of VOCtrainval_11-May-2012.tar",
        ),
        (["--root", str(voc)], "expected the contents of benchmark.tgz"),
        (["--root", str(root), "--voc", str(root / "no.tar")], "no such file or folder"),
        (["--root", str(root), "--sbd", str(archives["sbd"])], "expected MD5 82b4d87ceb2ed10f"),
    ]:
        capsys.readouterr()
        assert cli.main(["data", "voc12", *arguments]) == 2
        shown = capsys.readouterr().err
        assert shown.endswith("\n")
        lines = [line for line in shown.splitlines() if line and "/s]" not in line]  # no bars
        assert len(lines) == 1 and lines[0].startswith("wsss: ") and message in lines[0]
    with pytest.raises(InputError):
        cli.main(["data", "voc12", "--root", str(root), "--debug"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["data"],
        ["data", "voc12"],
        ["data", "voc13", "--root", "x"],
        ["data", "voc12", "--root", "x", "--colour"],
        ["data", "voc12", "--root", "x", "extra"],
        ["data", "voc12", "--root", "x", "stage.parameter=1"],
        ["run", "x.yaml", "--force", "extra"],
        ["run", "x.yaml", "--colour"],
    ],
    ids=" ".join,
)
def test_arguments_that_are_not_known_are_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2 and "wsss" in capsys.readouterr().err


def test_the_published_counts_are_expected():
    assert PUBLISHED == {"train": 1464, "val": 1449, "train_aug": 10582, "test": 1456}
