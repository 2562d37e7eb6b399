import csv
import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from core.archs import Arch
from core.artifacts import StudiesFolder
from core.augment import Augmenter
from core.backbones import build_classifier
from core.classifier import Classifier
from core.datasets import load_manifest
from core.demo import write_demo
from core.errors import InputError
from core.evaluation import predict_views
from core.files import read_json, write_tensors
from core.framing import Framing, stored_size
from core.images import load_image
from core.manifest import Manifest
from core.pixels import decode_files
from core.splits import split_manifest
from core.versions import installed_versions
from ensemble.calibrating import Images, decode_for, draw_balanced, find_images, judge_loss
from ensemble.decision import VOTES, Rule, choose, pool
from ensemble.describing_export import without_places
from ensemble.export import main
from ensemble.export_card import ExportCard
from ensemble.exported import ExportedEnsemble
from ensemble.folder import check_replaceable
from ensemble.graph import EnsembleGraph, input_frames, scale
from ensemble.inference import load_ensemble
from ensemble.onnx_session import open_session, require, telling_damage
from ensemble.operating import OperatingPoint
from ensemble.predict import main as predict
from ensemble.quantising import layer_depths, quantise
from ensemble.spec import EnsembleSpec, MemberSpec
from ensemble.voting import SoftVotingEnsemble

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
TOLERANCE = 1e-4  # of a probability
SIZES = {"test_efficientnet": 64, "test_resnet": 48}
# Runs the command line where importing torch, or what needs it, is an error.
WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "onnx", "onnxscript", "ffcv"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
from ensemble.predict import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Demo images, as a first run without data has them."""
    return load_manifest(
        write_demo(tmp_path_factory.mktemp("demo") / "images", images=240, width=96, height=72, workers=1)
    )


@pytest.fixture(scope="module")
def built(demo: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two small networks that see images in different frames and tell the demo's classes apart."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "members").mkdir()
    train = split_manifest(demo, seed=0).train
    members = []
    for number, (name, size) in enumerate(SIZES.items()):
        arch = describe_arch(name, size, framing="centre" if number else "whole")
        model = taught(arch, demo, train)
        member = describe_member(arch, len(demo.classes), number, weight=number + 1.0)
        write_tensors(folder / member.files[0], model.state_dict())
        members.append(member)
    rule = Rule(tau=0.8, vote="geometric", views=4, temperature=1.4)
    point = OperatingPoint(class_name=demo.classes[0], min_sensitivity=0.9, threshold=0.15)
    describe_ensemble(members, demo.classes, rule, (point,)).write(folder)
    return folder


@pytest.fixture(scope="module")
def exported(built: Path) -> Path:
    file = built / "ensemble.onnx"
    assert main([str(built), "--out", str(file)]) == 0
    return file


def describe_arch(name: str, size: int, framing: Framing = "whole") -> Arch:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return Arch(name=name, timm_name=name, image_size=size, mean=mean, std=std, weight_tag=None, framing=framing)


def describe_member(arch: Arch, num_classes: int, number: int, weight: float) -> MemberSpec:
    shares = np.random.default_rng(number).dirichlet(np.full(num_classes, 3.0))
    return MemberSpec(
        study=f"demo-{arch.name}",
        trial=number,
        arch=arch,
        files=(f"members/demo-{arch.name}-{number:04d}.safetensors",),
        weight=weight,
        prior=tuple(shares.tolist()),
        recall=0.6,
        recall_interval=(0.5, 0.7),
        best_epoch=0,
        config={"lr": 0.01},
    )


def describe_ensemble(
    members: Sequence[MemberSpec],
    classes: Sequence[str],
    rule: Rule,
    points: tuple[OperatingPoint, ...] = (),
) -> EnsembleSpec:
    return EnsembleSpec(
        classes=tuple(classes),
        members=tuple(members),
        left_out=(),
        demo=True,
        data={"root": "/home/somebody/images", "fingerprint": "f", "layout": "ham10000"},
        split={"seed": 0},
        versions=installed_versions(),
        command="python -m ensemble.build /home/somebody/studies --data /home/somebody/images --data=../somebody/more/",
        created="2026-01-01T00:00:00Z",
        rule=rule,
        operating_points=points,
    )


def taught(arch: Arch, manifest: Manifest, rows: npt.NDArray[np.int64]) -> Classifier:
    """A network whose statistics and head are fitted to images in closed form, so that its decisions differ."""
    model = build_classifier(arch, num_classes=len(manifest.classes), weights=None, seed=0)
    augmenter = Augmenter(image_size=arch.image_size, mean=arch.mean, std=arch.std, seed=0, device=CPU)
    pixels = decode_files([manifest.file(row) for row in rows.tolist()], arch.frame)
    views = augmenter.eval_view(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    with torch.no_grad():
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model.embed(views)
        model.eval()
        features = model.embed(views).double()
        mean, std = features.mean(0), features.std(0) + 1e-6
        wanted = torch.eye(len(manifest.classes), dtype=torch.float64)[torch.from_numpy(manifest.labels[rows])]
        scaled = torch.cat([(features - mean) / std, torch.ones(len(features), 1)], 1)
        ridge = scaled.T @ scaled + 0.1 * torch.eye(scaled.shape[1], dtype=torch.float64)
        solved = 6 * torch.linalg.solve(ridge, scaled.T @ wanted)
        head = model.backbone.get_submodule(model.head_name)
        head.weight.copy_((solved[:-1] / std[:, None]).T)
        head.bias.copy_(solved[-1] - (mean / std) @ solved[:-1])
    return model


def demo_test_files(demo: Manifest) -> list[Path]:
    return [demo.file(row) for row in split_manifest(demo, seed=0).test.tolist()]


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_probabilities_and_decisions_are_pytorchs_on_the_demo_test_split(
    built: Path, exported: Path, demo: Manifest
) -> None:
    files = demo_test_files(demo)
    expected_NC = load_ensemble(built, device="cpu").predict_proba(files)
    told_NC = ExportedEnsemble(exported).predict_proba(files)
    assert np.abs(told_NC - expected_NC).max() < TOLERANCE
    np.testing.assert_array_equal(choose(told_NC), choose(expected_NC))
    assert len(set(choose(expected_NC).tolist())) > 2  # or equal decisions would tell nothing


def test_a_file_classifies_images_without_torch(built: Path, exported: Path, demo: Manifest, tmp_path: Path) -> None:
    files = [str(file) for file in demo_test_files(demo)[:9]]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(exported), *files, "--out", str(tmp_path / "file.csv")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "DEMO: this ensemble learned from procedural images" in done.stdout
    assert predict([str(built), *files, "--out", str(tmp_path / "folder.csv"), "--device", "cpu"]) == 0
    ours, theirs = read_rows(tmp_path / "file.csv"), read_rows(tmp_path / "folder.csv")
    assert [list(row) for row in ours] == [list(row) for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert (one["image"], one["predicted"]) == (other["image"], other["predicted"])
        assert [float(v) for k, v in one.items() if k.startswith("p_")] == pytest.approx(
            [float(v) for k, v in other.items() if k.startswith("p_")], abs=TOLERANCE
        )


def test_any_number_of_images_gives_the_same_of_each(exported: Path, demo: Manifest) -> None:
    files, ensemble = demo_test_files(demo)[:5], ExportedEnsemble(exported)
    np.testing.assert_allclose(ensemble.predict_proba(files[3:4])[0], ensemble.predict_proba(files)[3], atol=1e-6)


@pytest.mark.parametrize("size", [32, 100, 224])
def test_scaling_is_that_of_the_evaluation_view(size: int) -> None:
    side = stored_size(size)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8))
    augmenter = Augmenter(image_size=size, mean=(0, 0, 0), std=(1, 1, 1), seed=0, device=CPU)
    view = augmenter.eval_view(pixels.permute(0, 3, 1, 2))
    assert (scale(pixels, size) / 255 - view).abs().max() < 1e-4


@pytest.mark.parametrize("vote", VOTES)
@pytest.mark.parametrize("views", [1, 8])
@pytest.mark.parametrize("networks", [1, 2])
def test_graph_votes_as_the_ensemble_does(vote: str, views: int, networks: int) -> None:
    rng, classes, size = np.random.default_rng(1), ("a", "b", "c"), 32
    arch = describe_arch("test_efficientnet", size)
    models = [
        [build_classifier(arch, num_classes=3, weights=None, seed=10 * m + k) for k in range(networks)] for m in (0, 1)
    ]
    for model in chain.from_iterable(models):
        model.eval().backbone.get_submodule(model.head_name).weight.data *= 30
    members = []
    for number in (0, 1):
        priors = tuple(tuple(rng.dirichlet(np.ones(3)).tolist()) for _ in range(networks))
        member = describe_member(arch, 3, number, weight=1.0 + number)
        files = tuple(f"{k}" for k in range(networks))
        many = {"network_priors": priors, "prior": tuple(np.mean(priors, axis=0).tolist())} if networks > 1 else {}
        members.append(dataclasses.replace(member, files=files, **many))
    spec = describe_ensemble(members, classes, Rule(tau=1.3, vote=vote, views=views, temperature=0.6))
    pixels = rng.integers(0, 256, (4, *2 * (stored_size(size),), 3), dtype=np.uint8)
    told_MNC = [_believed(member, model, pixels, views) for member, model in zip(members, models, strict=True)]
    voting = SoftVotingEnsemble([], weights=[1, 2], priors=[member.prior for member in members], rule=spec.rule)
    with torch.inference_mode():
        graph_NC = EnsembleGraph(spec, models).eval()(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(graph_NC, voting.blend(np.stack(told_MNC)), atol=1e-5)


def _believed(
    member: MemberSpec, models: Sequence[Classifier], pixels: npt.NDArray[np.uint8], views: int
) -> npt.NDArray[np.float64]:
    from tests.doubles import ArraySource

    source = ArraySource(torch.from_numpy(pixels).permute(0, 3, 1, 2), np.zeros(len(pixels), np.int64))
    arch, rows = member.arch, np.arange(len(pixels))
    augmenter = Augmenter(image_size=arch.image_size, mean=arch.mean, std=arch.std, seed=0, device=CPU)
    told_KVNC = [predict_views(model, source, rows, augmenter=augmenter, views=views) for model in models]
    if len(told_KVNC) == 1:
        return told_KVNC[0].mean(axis=0, dtype=np.float64)
    priors = np.asarray(member.network_priors)
    return np.mean([pool(np.stack(told_KNC), priors) for told_KNC in zip(*told_KVNC, strict=True)], axis=0)


def test_card_tells_what_goes_in_what_comes_out_and_where_it_is_from(built: Path, exported: Path) -> None:
    card, spec = read_json(exported.with_name("ensemble.onnx.json")), EnsembleSpec.read(built)
    assert card["inputs"] == [
        {"name": f"pixels_{frame.size}_{frame.framing}", "size": frame.size, "framing": frame.framing}
        for frame in input_frames(spec)
    ]
    assert card["classes"] == list(spec.classes)
    assert card["precision"] == "float32"
    assert card["bytes"] == exported.stat().st_size
    assert [member["arch"] for member in card["provenance"]["members"]] == list(SIZES)
    assert card["provenance"]["rule"] == spec.rule.to_dict()
    command = "python -m ensemble.build studies --data images --data=more"
    assert card["provenance"]["built"]["command"] == command
    command = f"python -m ensemble.export {built.name} --out ensemble.onnx"
    assert card["provenance"]["exported"]["command"] == command
    inside = json.loads(json.dumps(ExportedEnsemble(exported).card.to_dict()))
    assert card == {**inside, **{name: card[name] for name in ("file", "bytes", "sha256")}}


def test_file_and_card_tell_nothing_of_the_machine_that_wrote_it(exported: Path) -> None:
    assert exported.is_absolute()
    content = exported.read_bytes() + exported.with_name("ensemble.onnx.json").read_bytes()
    for secret in (b"somebody", str(exported.parent.parent).encode(), str(ROOT).encode(), b"site-packages"):
        assert secret not in content


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("x '/a b/c d' --out=/e/f.onnx", "x 'c d' --out=f.onnx"),
        ("x s3://bucket/studies", "x studies"),
        (r"x 'C:\a\b' --data '\\server\share\'", "x b --data share"),
        ("x --min-sensitivity mel=0.9 / .", "x --min-sensitivity mel=0.9 / ."),
        ("x '/a/b", "x b"),
    ],
)
def test_of_a_path_in_a_command_others_read_the_last_name_only(command: str, told: str) -> None:
    assert without_places(command) == told


def test_exported_files_go_with_the_folder_when_it_is_built_anew(exported: Path) -> None:
    folder, studies = exported.parent, StudiesFolder(exported.parent.parent)
    check_replaceable(folder, studies.names_in(folder))
    stranger = exported.with_name("mine.onnx")
    stranger.touch()
    with pytest.raises(InputError, match=r"it holds mine\.onnx"):
        check_replaceable(folder, studies.names_in(folder))
    stranger.unlink()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"no protobuf", "must be an ONNX file that onnxruntime can run"), (None, "but it has no card")],
)
def test_files_that_are_no_exported_ensemble_are_refused(
    content: bytes | None,
    sentence: str,
    exported: Path,
    demo: Manifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file.onnx"
    if content is None:
        import onnx

        model = onnx.load(exported)
        del model.metadata_props[:]
        onnx.save(model, file)
    else:
        file.write_bytes(content)
    assert predict([str(file), str(demo.file(0)), "--out", str(tmp_path / "out.csv")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_card_that_does_not_fit_its_graph_is_refused(exported: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(exported)
    card = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps({**card, "classes": card["classes"][:-1], "operating_points": []})
    onnx.save(model, tmp_path / "file.onnx")
    with pytest.raises(InputError, match="must take and give what its card says"):
        ExportedEnsemble(tmp_path / "file.onnx")
    model.metadata_props[0].value = json.dumps({**card, "format": 99})
    onnx.save(model, tmp_path / "file.onnx")
    with pytest.raises(InputError, match="must be of format 2 or older"):
        ExportedEnsemble(tmp_path / "file.onnx")


def test_a_card_of_the_first_format_is_of_squares_around_the_centre(exported: Path) -> None:
    card = json.loads(json.dumps(ExportedEnsemble(exported).card.to_dict()))
    assert {one["framing"] for one in card["inputs"]} == {"whole", "centre"}
    older = [{"name": one["name"], "size": one["size"]} for one in card["inputs"]]
    read = ExportCard.parse(json.dumps({**card, "format": 1, "inputs": older}), where="it")
    assert {one.framing for one in read.inputs} == {"centre"}
    wrong = [{**one, "framing": "half"} for one in card["inputs"]]
    with pytest.raises(InputError, match="the framing of an input must be whole or centre, but is half"):
        ExportCard.parse(json.dumps({**card, "inputs": wrong}), where="it")


def test_all_unreadable_images_are_named(exported: Path, demo: Manifest, tmp_path: Path) -> None:
    bad = [tmp_path / "a.png", tmp_path / "b.jpg"]
    for file in bad:
        file.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"2 of 3 are not: .*a\.png.*b\.jpg"):
        ExportedEnsemble(exported).predict_proba([demo.file(0), *bad])


def test_unreadable_images_are_refused_before_any_is_classified(
    exported: Path, demo: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    ensemble = ExportedEnsemble(exported)
    monkeypatch.setattr(ensemble, "run", lambda pixels: pytest.fail("it classified"))
    with pytest.raises(InputError, match=r"1 of 41 are not: .*bad\.png"):
        ensemble.predict_proba([*[demo.file(row) for row in range(40)], tmp_path / "bad.png"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "x.bin"], "`--out` must be a file that ends in .onnx"),
        (["--out", "nowhere/x.onnx"], "`--out` must be in a folder that can be written to"),
        (["--data", "images"], "`--data` must be given with --int8 only"),
        (["--calibration-images", "5"], "`--calibration-images` must be given with --int8 only"),
        (["--int8"], "`--studies` must be the folder that the study demo-test_efficientnet lies in"),
    ],
)
def test_wrong_arguments_are_refused(
    built: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(built), *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_out_never_replaces_the_file_and_devices_are_refused(
    exported: Path, demo: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = exported.read_bytes()
    assert predict([str(exported), str(demo.file(0)), "--out", str(exported)]) == 2
    assert "`--out` must be a new file or one of earlier predictions" in capsys.readouterr().err
    assert exported.read_bytes() == before
    assert predict([str(exported), str(demo.file(0)), "--out", str(tmp_path / "o.csv"), "--device", "cuda"]) == 2
    assert "`--device` must be auto or cpu for a file" in capsys.readouterr().err


class _Fault(Exception):
    """As onnxruntime raises them: of its own module, and of no class that others share."""

    __module__ = "onnxruntime.capi.onnxruntime_pybind11_state"


@pytest.mark.parametrize("fault", [_Fault("indices out of bounds"), UnicodeDecodeError("utf-8", b"a", 0, 1, "bad")])
def test_damage_that_shows_when_it_runs_is_told_in_a_sentence(fault: Exception) -> None:
    with pytest.raises(InputError, match=r"x\.onnx must be an ONNX file .* damaged or of a newer version"):
        with telling_damage(Path("x.onnx")):
            raise fault
    with pytest.raises(ValueError, match="our own"), telling_damage(Path("x.onnx")):
        raise ValueError("our own")


def test_missing_packages_are_named_with_the_way_to_get_them() -> None:
    with pytest.raises(InputError, match=r"but no_such_package is not installed here\. .*pip install -e \.\[export\]"):
        require(["numpy", "no_such_package"], what="`--format onnx`")


def test_layers_are_counted_from_the_image_and_nothing_outside_them_is_quantised(exported: Path) -> None:
    import onnx

    model = onnx.load(exported)
    depths = layer_depths(model)
    kinds = {node.name: node.op_type for node in model.graph.node}
    outside = {kind for name, kind in kinds.items() if name not in depths}
    assert {"Resize", "Softmax", "Log"} <= outside
    assert not {"Conv", "Gemm"} & outside
    assert min(depths.values()) == 1
    convolutions = [depth for name, depth in depths.items() if kinds[name] == "Conv"]
    assert convolutions.count(1) == len(SIZES)  # the first of each network


def test_calibration_images_are_as_many_of_each_class() -> None:
    labels_N = np.repeat([0, 1, 2], [100, 10, 3])
    places = draw_balanced(labels_N, 23)
    assert np.bincount(labels_N[places]).tolist() == [10, 10, 3]
    np.testing.assert_array_equal(places, draw_balanced(labels_N, 23))
    assert len(draw_balanced(labels_N, 1000)) == len(labels_N)


def test_loss_of_recall_is_that_of_the_same_images() -> None:
    images = Images([Path()] * 4, np.asarray([0, 0, 1, 1]), ("a", "b", "c", "d"))
    right_NC = np.eye(2)[[0, 0, 1, 1]]
    loss = judge_loss(images, right_NC, np.eye(2)[[0, 1, 1, 1]], ("mel", "nv"))
    assert (loss.float32, loss.int8, loss.lost.value, loss.changed) == (1.0, 0.75, 0.25, 0.25)
    assert loss.lost.interval.low == 0


def test_thresholds_are_told_with_what_they_give_in_int8() -> None:
    images = Images([Path()] * 5, np.asarray([0, 0, 1, 1, 1]), ("a", "b", "c", "d", "e"))
    mel_2N = np.array([[0.9, 0.3, 0.2, 0.2, 0.4], [0.9, 0.2, 0.2, 0.1, 0.2]])
    float32_NC, int8_NC = np.stack([mel_2N, 1 - mel_2N], axis=2)
    point = OperatingPoint(class_name="mel", min_sensitivity=0.9, threshold=0.3)
    loss = judge_loss(images, float32_NC, int8_NC, ("mel", "nv"), [point])
    (told,) = loss.to_dict()["operating_points"]
    assert (told["float32"]["sensitivity"], told["float32"]["specificity"]) == (1.0, pytest.approx(2 / 3))
    assert (told["int8"]["sensitivity"], told["int8"]["specificity"]) == (0.5, 1.0)
    _, flagged, warning = loss.told()
    assert "from p = 0.300" in flagged
    assert "sensitivity 100.0% in float32, 50.0% in int8; specificity 66.7% in float32, 100.0% in int8" in flagged
    assert warning == "in int8 that finds less of mel than the 0.9 asked for"


def test_a_study_of_the_same_name_and_data_but_another_split_lends_no_images(studies: Any) -> None:
    info = studies.add("a").read_study()
    member = dataclasses.replace(describe_member(describe_arch("test_resnet", 32), 3, 0, 1.0), study="a")
    spec = describe_ensemble([member], studies.manifest.classes, Rule(), ())
    spec = dataclasses.replace(spec, data=info["data"], split=info["split"])
    files = find_images(spec, studies.root, [], "train").files
    assert files == [studies.manifest.file(row) for row in studies.split.train.tolist()]
    other = dataclasses.replace(spec, split=info["split"] | {"train": info["split"]["val"]})
    with pytest.raises(InputError, match=r"but a in .* is of other images or another split"):
        find_images(other, studies.root, [], "train")


def test_int8_decides_mostly_as_float32_does(
    exported: Path, demo: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble.quantising._FLOAT_LAYERS", (2,))
    frames = [one.frame for one in ExportedEnsemble(exported).card.inputs]
    train = split_manifest(demo, seed=0).train[:24]
    pixels = decode_for(frames, [demo.file(row) for row in train.tolist()])
    how = quantise(exported, tmp_path / "int8.onnx", pixels)
    assert (how.images, how.float_layers) == (24, 2)
    assert how.agreement > 0.5
    assert (tmp_path / "int8.onnx").stat().st_size < exported.stat().st_size
    told_NC = open_session(tmp_path / "int8.onnx").run(None, pixels)[0]
    expected_NC = open_session(exported).run(None, pixels)[0]
    assert (choose(told_NC) == choose(expected_NC)).mean() == how.agreement
    np.testing.assert_allclose(told_NC.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_int8_is_calibrated_on_training_images_and_tells_its_loss_on_validation(
    make_studies: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble import build

    studies = make_studies(tmp_path / "studies")
    studies.add("a")
    assert build.main([str(studies.root), "--no-test", "--min-sensitivity", "mel=0.9"]) == 0
    seen: list[Path] = []

    def remember(path: Path, size: int) -> npt.NDArray[np.uint8]:
        seen.append(path)
        return load_image(path, size)

    monkeypatch.setattr("core.images.load_image", remember)
    capsys.readouterr()
    assert main([str(studies.root / "ensemble"), "--int8", "--calibration-images", "20"]) == 0
    told = capsys.readouterr().out
    assert "calibrated on 20 training images" in told
    assert "points lost (95% interval" in told
    assert "flagged for mel from p = " in told
    manifest, split = studies.manifest, studies.split
    test = {manifest.file(row) for row in split.test.tolist()}
    assert {manifest.file(row) for row in split.val.tolist()} <= set(seen)
    assert not test & set(seen)
    file = studies.root / "ensemble" / "ensemble-int8.onnx"
    card = ExportedEnsemble(file).card
    assert card.precision == "int8"
    assert card.provenance["int8"]["validation"]["images"] == len(split.val)
    (point,) = card.provenance["int8"]["validation"]["operating_points"]
    assert point["int8"]["threshold"] == card.operating_points[0].threshold
    probs_NC = ExportedEnsemble(file).predict_proba([manifest.file(0), manifest.file(1)])
    np.testing.assert_allclose(probs_NC.sum(axis=1), 1)


@pytest.mark.slow
def test_benchmark_tells_what_each_file_weighs_takes_and_finds(
    make_studies: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.export import build_parser
    from benchmarks.export import main as measure
    from ensemble import build

    studies = make_studies(tmp_path / "studies")
    studies.add("a")
    studies.add("b", arch="test_resnet")
    assert build.main([str(studies.root), "--no-test"]) == 0
    words = [studies.root / "ensemble", "--images", 3, "--repeats", 2, "--out", tmp_path / "export.json"]
    assert measure(build_parser().parse_args([str(word) for word in words])) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1].startswith("ratio: ")
    rows = read_json(tmp_path / "export.json")["rows"]
    kinds = [("test_efficientnet", 1), ("test_resnet", 1), ("ensemble of 2", 2)]
    assert [(row["what"], row["precision"]) for row in rows] == [
        (what, precision) for what, _ in kinds for precision in ("float32", "int8")
    ]
    assert all(row["ms_per_image"]["n"] == 2 and row["ms_per_image"]["low"] > 0 for row in rows)
    assert all(row["images"] == len(studies.split.val) and 0 <= row["macro_recall"] <= 1 for row in rows)
    sizes = [row["megabytes"] for row in rows if row["precision"] == "float32"]
    assert sizes[2] == pytest.approx(sizes[0] + sizes[1], rel=0.05)
