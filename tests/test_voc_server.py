"""Exports for the VOC server against the evaluation's own prediction, and broken archives."""

import gzip
import io
import json
import shutil
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from wsss import cli, models
from wsss.apply import voc_server
from wsss.crf import CrfParams, DenseCRF
from wsss.datasets.voc import VOC_CLASSES, Devkit
from wsss.errors import InputError
from wsss.io import artifacts, atomic
from wsss.models.ready import ready
from wsss.photos import map_photos
from wsss.photos.segmentation import segment

SOUND = ": sound, 3 label maps; upload it to the evaluation server"

SIZES = {"2008_000001": (40, 56), "2008_000006": (48, 33), "2008_000011": (41, 41)}  # height, width
IDS = list(SIZES)
ARCHITECTURE = {"output_stride": 8, "channels": 8, "dilation": 24, "low_level_channels": []}
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


@pytest.fixture(scope="module")
def devkit(tmp_path_factory):
    """Photos of noise in VOC's layout, on the id list ``test``, without labels and masks."""
    root = tmp_path_factory.mktemp("voc") / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for id, size in SIZES.items():
        pixels = rng.integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size[::-1]).save(root / f"JPEGImages/{id}.jpg")
    (root / "ImageSets/Segmentation/test.txt").write_text("\n".join(reversed(IDS)) + "\n")
    return root.parents[1]


@pytest.fixture(scope="module")
def network():
    """Random, and without biases, so that its labels differ from place to place."""
    torch.manual_seed(0)
    network = models.build_segmentation("small", 21, **ARCHITECTURE).eval()
    for name, tensor in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(tensor)
    return network


@pytest.fixture(scope="module")
def run(tmp_path_factory, devkit, network):
    """What a completed train_segmentation leaves, of a network that was never trained."""
    folder = tmp_path_factory.mktemp("outputs") / "train_segmentation" / "0123456789ab"
    models.save_network(
        folder / "weights.pt",
        network,
        kind="segmentation",
        classes=VOC_CLASSES,
        backbone="small",
        **ARCHITECTURE,
    )
    parameters = ARCHITECTURE | {"backbone": "small", "data_root": str(devkit), "epochs": 1}
    record = {
        **{"stage": "train_segmentation", "fingerprint": folder.name, "parameters": parameters},
        **{"inputs": {}, "data_digest": "d", "metrics": {}, "ended": 1.0},
    }
    atomic.save_json(folder / "complete.json", record)
    return folder


@pytest.fixture
def one_process(monkeypatch):
    """No pool, which takes seconds to start."""
    monkeypatch.setattr(map_photos, "cores", lambda: 1)


def read(archive):
    """Name to (member, bytes) of a tar.gz."""
    with tarfile.open(archive, "r:gz") as tar:
        return {m.name: (m, m.isfile() and tar.extractfile(m).read()) for m in tar.getmembers()}


def labels_of(content):
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and image.mode == "P"
        assert image.getpalette("RGB") == artifacts.voc_palette().ravel().tolist()
        return np.array(image)


def test_labels_are_those_of_the_evaluation(tmp_path, run, devkit, network, capsys):
    arguments = ["--run", str(run), "--out", str(tmp_path), "--scales", "0.5,1.0", "--flip"]
    assert cli.main(["export", "voc-test", *arguments]) == 0
    assert capsys.readouterr().out.endswith(f"results.tgz{SOUND}\n")
    members = read(tmp_path / "results.tgz")
    assert sorted(name for name in members if name.endswith(".png")) == [
        f"{FOLDER}/{id}.png" for id in IDS
    ]
    classes = set()
    for id in IDS:
        image = Devkit(devkit).image(id)
        assert image.shape[:2] == SIZES[id]
        best = segment(ready(network), image, scales=(0.5, 1.0), flip=True).argmax(0)
        found = labels_of(members[f"{FOLDER}/{id}.png"][1])
        assert found.dtype == np.uint8 and (found == best.cpu().numpy()).all()
        plain = segment(network, image).argmax(0).cpu().numpy()
        assert (found != plain).any()  # the options were heard
        classes |= set(np.unique(found))
    assert len(classes) > 2


def test_crf_is_the_evaluations(tmp_path, run, devkit, network, one_process):
    voc_server.export(run, tmp_path, crf=True)
    for id in IDS:
        image = Devkit(devkit).image(id)
        best = segment(ready(network), image).cpu().numpy()
        refined = DenseCRF(image, CrfParams()).infer(best, 10).argmax(0)
        assert (refined != best.argmax(0)).any()
        assert (labels_of((tmp_path / FOLDER / f"{id}.png").read_bytes()) == refined).all()


def test_two_exports_are_the_same_bytes_and_name_nobody(tmp_path, run, one_process):
    for name in "ab":
        assert voc_server.export(run, tmp_path / name) == (3, [], [])
    content = (tmp_path / "a" / "results.tgz").read_bytes()
    assert content == (tmp_path / "b" / "results.tgz").read_bytes()
    assert content[3] & 8 == 0 and content[4:8] == bytes(
        4
    )  # neither name nor time in gzip's header
    members = read(tmp_path / "a" / "results.tgz")
    parts = FOLDER.split("/")
    folders = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    assert list(members) == [*folders, *(f"{FOLDER}/{id}.png" for id in sorted(IDS))]
    for name, (member, _) in members.items():
        assert member.isdir() if name in folders else member.isfile()
        assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
        assert (member.uname, member.gname) == ("", "")
        assert member.mode == (0o755 if member.isdir() else 0o644)


def test_an_export_goes_on_where_it_stopped(tmp_path, run, one_process):
    voc_server.export(run, tmp_path)
    archive = (tmp_path / "results.tgz").read_bytes()
    paths = [tmp_path / FOLDER / f"{id}.png" for id in IDS]
    paths[1].unlink()
    times = [path.stat().st_mtime_ns for path in (paths[0], paths[2])]
    (tmp_path / "results.tgz").unlink()
    assert voc_server.export(run, tmp_path).count == 3
    assert times == [path.stat().st_mtime_ns for path in (paths[0], paths[2])]
    assert (tmp_path / "results.tgz").read_bytes() == archive
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(InputError, match=r"export\.json has others; give another --out"):
        voc_server.export(run, tmp_path, flip=True)
    (tmp_path / "export.json").unlink()
    with pytest.raises(InputError, match=r"there is no export\.json; give another --out"):
        voc_server.export(run, tmp_path)


def test_another_photo_of_the_same_name_is_predicted_again(tmp_path, run, devkit, one_process):
    kit = tmp_path / "kit"
    shutil.copytree(devkit, kit)
    voc_server.export(run, tmp_path / "out", data_root=kit)
    paths = [tmp_path / "out" / FOLDER / f"{id}.png" for id in IDS]
    before = [path.stat().st_mtime_ns for path in paths]
    photo = Devkit(kit).image_path(IDS[0])
    with Image.open(photo) as file:
        turned = file.transpose(Image.Transpose.ROTATE_180)
    turned.save(photo)
    voc_server.export(run, tmp_path / "out", data_root=kit)
    after = [path.stat().st_mtime_ns for path in paths]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False] + [True] * 2
    voc_server.export(run, tmp_path / "anew", data_root=kit)
    for name in ("results.tgz", f"{FOLDER}/{IDS[0]}.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()


def test_what_cannot_be_exported_is_one_line(tmp_path, run, devkit, capsys):
    other = tmp_path / "run"
    atomic.save_json(other / "complete.json", json.loads((run / "complete.json").read_text()))
    out = ["--out", str(tmp_path / "out")]
    cases = {
        ("--run", str(run)): "--run needs a folder to write to; add --out DIR",
        ("--run", str(tmp_path / "no"), *out): "expected one completed train_segmentation (",
        ("--run", str(other), *out): "weights.pt",
        ("--run", str(run), *out, "--split", "tset"): "the lists here are: test",
        ("--run", str(run), *out, "--data-root", str(tmp_path)): "found no JPEGImages/ in it",
        ("--check", "x.tgz", "--flip"): "--flip belongs to --run",
        ("--check", "x.tgz", "--data-root", str(devkit)): "x.tgz: no such archive",
    }
    for arguments, expected in cases.items():
        assert cli.main(["export", "voc-test", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["voc-test", "--check", "x", "a=b"], "unrecognized arguments: a=b"),
        (["voc-test", "--check", "x", "--fast"], "unrecognized arguments: --fast"),
        (["voc-test", "--check", "x", "--run", "y"], "not allowed with argument"),
        (["voc-test"], "one of the arguments --run --check is required"),
        (["voc-test", "--run", "x", "--scales", "0.5,0"], "expected factors such as 0.5,1.0"),
        ([], "required: what"),
    ],
)
def test_unknown_arguments_are_refused(arguments, expected, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", *arguments])
    assert ended.value.code == 2 and expected in capsys.readouterr().err


def test_overrides_of_run_may_stand_behind_options(monkeypatch):
    """Which is why unknown arguments reach ``main``; other commands have no use for them."""
    seen = []
    monkeypatch.setattr(cli.run, "_run", lambda arguments: seen.append(arguments.overrides))
    assert cli.main(["run", "x.yaml", "a.b=1", "--dry-run", "c.d=2"]) == 0
    assert seen == [["a.b=1", "c.d=2"]]
    with pytest.raises(SystemExit):
        cli.main(["run", "x.yaml", "--dry-run", "c.d"])


def png(id, value=3, *, mode="P", size=None, palette=None):
    height, width = size or SIZES[id]
    image = Image.fromarray(np.full((height, width), value, np.uint8), mode="P")
    image.putpalette(artifacts.voc_palette().tobytes() if palette is None else palette)
    if mode != "P":
        image = Image.fromarray(np.full((height, width), value, np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def bomb(width, height):
    """A palette PNG that says it is large; its pixels would be made by decoding alone."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"PLTE", bytes(63)), chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def sound():
    return [(f"{FOLDER}/{id}.png", png(id)) for id in IDS]


def write(path, members, *, mode="w:gz"):
    """An archive of (name or TarInfo, bytes)."""
    with tarfile.open(path, mode) as tar:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def check(capsys, devkit, archive):
    """Exit code and lines."""
    code = cli.main(["export", "voc-test", "--check", str(archive), "--data-root", str(devkit)])
    return code, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("folder", ["comp5_test_cls", "comp6_test_cls"])
@pytest.mark.parametrize("start", ["", "./"])
def test_sound_archives_of_others(tmp_path, devkit, capsys, mode, folder, start):
    members = [
        (start + name.replace("comp6_test_cls", folder), content) for name, content in sound()
    ]
    folders = [(special(start + "results", tarfile.DIRTYPE), b"")]
    archive = write(tmp_path / "any", [*folders, *members], mode=mode)
    assert check(capsys, devkit, archive) == (0, [f"{archive}{SOUND}"])


A, B, C = IDS
FIRST = f"{FOLDER}/{A}.png"

BROKEN = {
    "wrong folder": (
        [(name.replace("comp6_test_cls", "comp6_val_cls"), c) for name, c in sound()],
        [f"(3): '{FOLDER[:-8]}val_cls/{A}.png', ", f"missing label maps (3): {A}, {B}, {C};"],
    ),
    "no results folder": (
        [(name.removeprefix("results/"), c) for name, c in sound()],
        ["outside results/", "missing label maps (3)"],
    ),
    "both folders": (
        [*sound(), (FIRST.replace("comp6", "comp5"), png(A))],
        ["label maps in both folders (2): comp5_test_cls, comp6_test_cls;"],
    ),
    "a file beside": (
        [*sound(), ("results/.DS_Store", b"x")],
        ["comp5_test_cls or comp6_test_cls (1): 'results/.DS_Store';"],
    ),
    "missing": (sound()[1:], [f"missing label maps (1): {A};"]),
    "extra": (
        [*sound(), *((f"{FOLDER}/{n}.png", png(A)) for n in range(5))],
        ["not on the id list (5): '0.png', '1.png', '2.png' and 2 more;"],
    ),
    "not a map": ([*sound(), (f"{FOLDER}/{A}.jpg", b"x")], [f"(1): '{A}.jpg'; leave them out"]),
    "duplicate": ([*sound(), sound()[1]], [f"packed twice (1): {B};"]),
    "same path": ([*sound(), ("./" + FIRST, png(A))], [f"packed twice (1): {A};"]),
    "no picture": ([(FIRST, b"PNG"), *sound()[1:]], [f"unreadable label maps (1): {A} (no PNG);"]),
    "a JPEG": (
        [(FIRST, b"\xff\xd8\xff\xe0" + bytes(200)), *sound()[1:]],
        [f"unreadable label maps (1): {A} (no PNG);"],
    ),
    "truncated": (
        [(FIRST, png(A)[:-60]), *sound()[1:]],
        [f"unreadable label maps (1): {A} ("],
    ),
    "grey": ([(FIRST, png(A, mode="L")), *sound()[1:]], [f"(mode P) (1): {A} is L;"]),
    "RGB": ([(FIRST, png(A, mode="RGB")), *sound()[1:]], [f"(mode P) (1): {A} is RGB;"]),
    "transposed": (
        [(FIRST, png(A, size=SIZES[A][::-1])), *sound()[1:]],
        [f"of a wrong size (1): {A} is 40x56, its photo 56x40;"],
    ),
    "255": ([(FIRST, png(A, 255)), *sound()[1:]], [f"values above 20 (1): {A} has 255;"]),
    "21": ([(FIRST, png(A, 21)), *sound()[1:]], [f"values above 20 (1): {A} has 21;"]),
    "all at once": (
        [
            (FIRST, png(A, 255)),
            (f"{FOLDER}/{B}.png", png(B, mode="L", size=(9, 9))),
            (f"{FOLDER}/z\n.png", b""),
        ],
        [f"(1): {C};", "(1): 'z\\n.png';", f"{B} is L;", f"{B} is 9x9, its", f"{A} has 255;"],
    ),
    "absolute": (
        [*sound(), ("/" + FIRST, png(A))],
        [f"unsafe members (1): '/{FIRST}'; pack only plain files"],
    ),
    "dots": ([*sound(), ("results/../../x", b"")], ["unsafe members (1): 'results/../../x';"]),
    "symbolic link": (
        [*sound()[1:], (special(FIRST, tarfile.SYMTYPE, "/etc/passwd"), b"")],
        [f"unsafe members (1): '{FIRST}';", f"missing label maps (1): {A};"],
    ),
    "hard link": (
        [*sound()[1:], (special(FIRST, tarfile.LNKTYPE, f"{FOLDER}/{B}.png"), b"")],
        [f"unsafe members (1): '{FIRST}';", f"missing label maps (1): {A};"],
    ),
    "device": (
        [*sound(), (special("results/x", tarfile.CHRTYPE), b"")],
        ["unsafe members (1): 'results/x';"],
    ),
    "large picture": (
        [(FIRST, bomb(60_000, 60_000)), *sound()[1:]],
        [f"unreadable label maps (1): {A} ("],
    ),
    "picture of another size": (
        [(FIRST, bomb(9_000, 9_000)), *sound()[1:]],
        [f"of a wrong size (1): {A} is 9000x9000, its photo 56x40;"],
    ),
    "large member": (
        [*sound(), (f"{FOLDER}/x.png", bytes(5_000_000))],
        ["not readable as tar or tar.gz to its end ('" + FOLDER + "/x.png' has more than 4194304"],
    ),
    "many members": (
        [*sound(), *((f"{n}", b"") for n in range(200))],
        ["to its end (too many members)", "outside"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archives_are_reported(tmp_path, devkit, capsys, name):
    members, expected = BROKEN[name]
    code, lines = check(capsys, devkit, write(tmp_path / "results.tgz", members))
    assert code == 2 and len(lines) == len(expected)
    for line, part in zip(lines, expected, strict=True):
        assert part in line, line


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def cut_amid_a_member(path):
    """A plain tar that ends amid the first label map."""
    write(path, sound(), mode="w")
    path.write_bytes(path.read_bytes()[: 2 * 512])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of gzip's checksum
    path.write_bytes(content)


def trailing(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(10**8)))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut, "ended before the end-of-stream marker"),
        (cut_amid_a_member, "unexpected end of data"),
        (flipped, "CRC check failed"),
        (trailing, "follows the end mark, is too long"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 8), "invalid header"),
    ],
)
def test_damaged_archives_are_one_fault(tmp_path, devkit, capsys, damage, expected):
    path = write(tmp_path / "results.tgz", sound())
    damage(path)
    code, (line,) = check(capsys, devkit, path)
    assert code == 2 and line.startswith("not readable as tar or tar.gz to its end (")
    assert expected in line and line.endswith("; pack it again")


@pytest.mark.parametrize(
    "palette",
    [
        np.roll(artifacts.voc_palette(), 1, axis=0).tobytes(),
        artifacts.voc_palette()[:3].tobytes(),  # no colour for value 3
        bytes(768),
    ],
)
def test_another_palette_is_a_warning(tmp_path, devkit, capsys, palette):
    members = [(FIRST, png(A, palette=palette)), *sound()[1:]]
    archive = write(tmp_path / "results.tgz", members)
    code, lines = check(capsys, devkit, archive)
    assert (code, lines[1:]) == (0, [f"{archive}{SOUND}"])
    assert lines[0] == (
        f"warning: label maps with another palette than VOC's (1): {A}; the server reads indices, "
        "not colours: check that the indices are class numbers"
    )


def test_a_palette_of_the_classes_alone_will_do(tmp_path, devkit, capsys):
    colours = artifacts.voc_palette()[:21].tobytes()
    members = [(FIRST, png(A, palette=colours)), *sound()[1:]]
    archive = write(tmp_path / "results.tgz", members)
    assert check(capsys, devkit, archive) == (0, [f"{archive}{SOUND}"])


@pytest.fixture
def without_photos(tmp_path, devkit):
    root = tmp_path / "lists"
    (root / "JPEGImages").mkdir(parents=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    lists.joinpath("test.txt").write_text("\n".join(IDS))
    return root


def test_without_photos_sizes_are_not_checked(tmp_path, without_photos, capsys):
    members = [(FIRST, png(A, size=(8, 8))), *sound()[1:]]
    archive = write(tmp_path / "results.tgz", members)
    code, lines = check(capsys, without_photos, archive)
    assert (code, lines[1:]) == (0, [f"{archive}{SOUND}"])
    assert lines[0].startswith(f"warning: label maps of unknown size (3): {A}, {B}, {C};")
    members = [(FIRST, bomb(9_000, 9_000)), *sound()[1:]]
    code, lines = check(capsys, without_photos, write(tmp_path / "results.tgz", members))
    assert code == 2 and f"{A} is 9000x9000, more than a photo of VOC's;" in lines[-1]


def test_other_classes_than_vocs_are_reported(tmp_path, without_photos, capsys):
    (without_photos / "classes.txt").write_text("cat\ndog\n")
    report = voc_server.check(write(tmp_path / "results.tgz", sound()), without_photos)
    assert "other classes than VOC's" in report.warnings[-1]


def test_nothing_is_unpacked(tmp_path, devkit, capsys, monkeypatch):
    archive = write(tmp_path / "results.tgz", [*sound(), ("../escaped", b"x")])
    monkeypatch.chdir(tmp_path)
    assert check(capsys, devkit, archive)[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["results.tgz"]
    assert not (tmp_path.parent / "escaped").exists()
