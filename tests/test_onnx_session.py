"""Where ONNX Runtime computes a model, how strips reach it, and what `--doctor` says: real
sessions, real commands.

What a GPU with broken libraries looks like is tried with a driver that is compiled here and knows
two GPUs, and with an NVML that is a Python module. The tests of CUDA itself need a GPU.
"""

import ctypes
import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import tifffile

import inference_onnx
from common.errors import UserError
from data.folder import list_strips
from data.image_files import to_unit_range
from deploy import doctor, nvidia
from deploy.nvidia import Driver, Gpu, find_driver, visible_gpus
from deploy.onnx_predictor import OnnxPredictor
from deploy.session import (
    WARNINGS,
    BoundCall,
    FreeCall,
    SessionSettings,
    create_session,
    engine_folder,
    open_session,
    place_session,
    require_placed,
    severity,
)
from evaluation.evaluate import evaluate
from reporting.pictures import StripWriter
from tests.conftest import SMALL_SIZE, run

needs_gpu = pytest.mark.skipif(not visible_gpus(), reason="needs an NVIDIA GPU")
NO_CUDA_DEVICE, UNKNOWN_ERROR = 100, 999  # of CUDA's error numbers
PAINTED_DRIVER = """
#include <stdlib.h>
#include <string.h>
static const char *visible(void) { return getenv("CUDA_VISIBLE_DEVICES"); }
int cuInit(unsigned flags) { return visible() && !*visible() ? 100 : 0; }
int cuDeviceGetCount(int *count) { *count = visible() ? 1 : 2; return 0; }
int cuDeviceGet(int *device, int number) {
    *device = visible() ? atoi(visible()) : number;
    return 0;
}
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 0, 16); uuid[15] = device; return 0; }
"""
PAINTED_NVML = """
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "580.65.06"
def nvmlSystemGetCudaDriverVersion_v2(): return 13000
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByUUID(uuid): return int(uuid[-1])
def nvmlDeviceGetName(number): return ("Painted GPU", "Varnished GPU")[number]
def nvmlDeviceGetMemoryInfo(number): return SimpleNamespace(total=(8 + number) << 30)
"""


@pytest.fixture
def painted_gpu(tmp_path):
    """The environment of a machine with a driver and a GPU, but without what ONNX Runtime needs to
    use it.
    """
    if find_driver() or not shutil.which("gcc"):
        pytest.skip("needs gcc and a machine without an NVIDIA driver")
    source, folder = tmp_path / "driver.c", tmp_path / "driver"
    source.write_text(PAINTED_DRIVER)
    folder.mkdir()
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)
    (folder / "pynvml.py").write_text(PAINTED_NVML)
    return {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}


class PaintedCuda:
    """What `ctypes` gives of a driver: it says `error`, and that the process may use the GPUs of
    these UUIDs.
    """

    def __init__(self, uuids, error=0):
        self.uuids, self.error = uuids, error

    def cuInit(self, flags):
        return self.error

    def cuDeviceGetCount(self, count):
        count._obj.value = len(self.uuids)

    def cuDeviceGet(self, device, number):
        device._obj.value = number

    def cuDeviceGetUuid(self, uuid, device):
        ctypes.memmove(uuid, bytes.fromhex(self.uuids[device.value].replace("-", "")), 16)


class PaintedNvml:
    """What pynvml says of a machine with the GPUs that it is given: their names and bytes of
    memory, by UUID.
    """

    class NVMLError(Exception):
        pass

    def __init__(self, gpus, answers=True):
        self.gpus, self.answers = gpus, answers

    def nvmlInit(self):
        if not self.answers:
            raise self.NVMLError

    def nvmlShutdown(self):
        self.nvmlInit()
        self.answers = False

    def nvmlSystemGetDriverVersion(self):
        self.nvmlInit()
        return "580.65.06"

    def nvmlSystemGetCudaDriverVersion_v2(self):
        self.nvmlInit()
        return 13020

    def nvmlDeviceGetCount(self):
        self.nvmlInit()
        return len(self.gpus)

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.nvmlInit()
        if uuid not in self.gpus:
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetName(self, uuid):
        return self.gpus[uuid][0]

    def nvmlDeviceGetMemoryInfo(self, uuid):
        if self.gpus[uuid][1] is None:
            raise self.NVMLError
        return SimpleNamespace(total=self.gpus[uuid][1])


FIRST, SECOND, PART = (f"{number:08x}-89ab-cdef-0123-456789abcdef" for number in range(3))
MACHINE = {
    f"GPU-{FIRST}": ("First GPU", 8 << 30),
    f"GPU-{SECOND}": ("Second GPU", None),
    f"MIG-{PART}": ("A part", 1 << 30),
}


@pytest.fixture
def painted(monkeypatch):
    """Puts a driver and its NVML in the place of this machine's."""

    def put(cuda, nvml):
        monkeypatch.setattr(nvidia, "load", lambda names: cuda)
        monkeypatch.setattr(nvidia, "pynvml", nvml)

    return put


def finding_of_driver():
    """What the doctor says of the driver."""
    return doctor._check_driver(find_driver())


def random_strips(count):
    return np.random.default_rng(0).random((count, 3, *SMALL_SIZE), dtype=np.float32)


def test_bound_memory_and_batches_give_the_heatmaps_of_single_calls(onnx_model):
    session, strips = open_session(onnx_model), random_strips(3)
    single = np.concatenate([FreeCall(session)(strips[number : number + 1]) for number in range(3)])
    assert single.shape == (3, *SMALL_SIZE) and single.std() > 0.01
    assert np.abs(FreeCall(session)(strips) - single).max() < 1e-6
    bound = BoundCall(session, 3, "cpu")
    first, backwards = bound(strips), bound(strips[::-1])
    assert np.abs(first - single).max() < 1e-6 and np.abs(backwards[::-1] - single).max() < 1e-6
    assert np.abs(bound(strips[1:2]) - single[1:2]).max() < 1e-6


def test_a_predictor_of_batches_loses_only_the_bad_strip(onnx_model, dataset, tmp_path):
    shutil.copytree(dataset / "test", tmp_path / "test")
    tifffile.imwrite(
        tmp_path / "test" / "good" / "strip_0b.tiff",
        np.full((3, 300, 200), 90, np.float32),
        photometric="minisblack",
    )
    results = [
        evaluate(
            OnnxPredictor(onnx_model, SessionSettings("cpu", batch, threads=1)),
            list_strips(tmp_path / "test"),
            on_strip=StripWriter(tmp_path / str(batch)),
        )
        for batch in (1, 3)
    ]
    assert [len(result.results) for result in results] == [4, 4]
    for result in results:
        assert (
            len(result.problems) == 1
            and "strip_0b.tiff: found (300, 200) (height, width), expected the ONNX"
            in result.problems[0]
        )
    for one, three in zip(results[0].results, results[1].results):
        assert one.strip == three.strip and one.score == pytest.approx(three.score, abs=1e-6)
        name = one.strip.relative.with_name(f"{one.strip.path.stem}_heatmap.tiff")
        heatmaps = [tifffile.imread(tmp_path / folder / name) for folder in ("1", "3")]
        assert np.abs(heatmaps[0] - heatmaps[1]).max() < 1e-6


class Choosy:
    """A predictor of three strips at once that cannot answer dark ones."""

    batch = 3

    def prepare(self, image):
        return image

    def predict(self, prepared):
        if any(image.max() < 100 for image in prepared):
            raise UserError("found a dark strip")
        return np.stack([to_unit_range(image)[0] for image in prepared])


def test_strips_beside_one_that_cannot_be_answered_are_asked_again_alone(strip_file, tmp_path):
    for number in range(5):
        strip_file(
            np.full((3, *SMALL_SIZE), 50 if number == 1 else 200, np.float32),
            f"strips/{number}.tiff",
        )
    result = evaluate(Choosy(), list_strips(tmp_path / "strips"))
    assert [scored.strip.path.stem for scored in result.results] == ["0", "2", "3", "4"]
    assert result.problems == [f"{tmp_path / 'strips' / '1.tiff'}: found a dark strip"]


def test_a_model_is_named_with_where_it_is_computed_and_why(onnx_model, dataset, tmp_path):
    flags = (
        "--model_path",
        onnx_model,
        "--test_path",
        dataset / "test",
        "--batch",
        "3",
        "--threads",
        "1",
    )
    for device, why in (("cpu", "as asked"), ("auto", "found no GPU")):
        if device == "auto" and visible_gpus():
            continue
        done = run("inference_onnx.py", *flags, "--device", device, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert done.stdout.startswith(f"{onnx_model} on cpu ({why}), strips of ")
        assert re.search(
            r"^\S+ strips per second; ms per strip, in overlapping stages: "
            r"\S+ loading, \S+ preprocessing, "
            r"\S+ inference, \S+ post-processing, \S+ writing$",
            done.stdout,
            re.MULTILINE,
        )


@pytest.mark.skipif(bool(visible_gpus()), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_does_not_compute_the_model_is_an_error(
    device, onnx_model, dataset, tmp_path
):
    done = run(
        "inference_onnx.py",
        "--model_path",
        onnx_model,
        "--test_path",
        dataset / "test",
        "--device",
        device,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (1, 1, ""), done.stderr
    assert (
        done.stderr.startswith(f"error: {onnx_model}: --device {device}: found ")
        and "see --doctor" in done.stderr
    )
    assert not (tmp_path / "output").exists() and not list(tmp_path.glob("*_tensorrt"))


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs onnxruntime-gpu",
)
def test_auto_says_why_a_gpu_is_not_used(painted_gpu, onnx_model, dataset, tmp_path):
    done = run(
        "inference_onnx.py",
        "--model_path",
        onnx_model,
        "--test_path",
        dataset / "test",
        cwd=tmp_path,
        **painted_gpu,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        f"{onnx_model} on cpu (Painted GPU cannot be used: "
        "--device cuda: found that its libraries do not load (" in done.stdout
    )


def test_nodes_that_another_device_computes_are_counted(onnx_model):
    session = create_session(onnx_model, "cpu", SessionSettings())
    require_placed(session, "cpu")

    class ClaimsCuda:
        """A session on the CPU that says it could use CUDA, which is what ONNX Runtime's list of
        providers is worth.
        """

        get_provider_graph_assignment_info = session.get_provider_graph_assignment_info

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    with pytest.raises(
        UserError,
        match=r"found (\d+) of the graph's \1 nodes elsewhere, [1-9]\d* costly ones, expected none",
    ):
        require_placed(ClaimsCuda(), "cuda")


def test_a_file_that_is_no_model_is_not_the_device_s_fault(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    for device in ("auto", "cpu", "cuda"):
        with pytest.raises(UserError, match="no model that ONNX Runtime can load"):
            place_session(tmp_path / "text.onnx", SessionSettings(device))


@pytest.mark.parametrize("device", ["auto", "cpu", "tensorrt"])
def test_a_cuda_graph_needs_cuda(device, onnx_model):
    with pytest.raises(
        UserError, match=f"--cuda_graph: found --device {device}, expected --device cuda"
    ):
        place_session(onnx_model, SessionSettings(device, cuda_graph=True))


def test_cuda_gets_its_options_by_their_names(onnx_model, monkeypatch):
    opened = []
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda *_, providers, **__: opened.append(providers)
    )
    monkeypatch.setattr(severity, "after_opening", WARNINGS)  # restored afterwards
    # nothing is loaded, as nothing is opened
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    for settings in (
        SessionSettings("cuda"),
        SessionSettings("cuda", cuda_graph=True, algorithm_search="EXHAUSTIVE", channels_last=True),
    ):
        create_session(onnx_model, "cuda", settings)
    (usual, _), (other, _) = opened
    assert usual[0] == other[0] == "CUDAExecutionProvider"
    # without TF32 in either: it moves heatmaps by 1e-3
    names = ("use_tf32", "cudnn_conv_algo_search", "prefer_nhwc", "enable_cuda_graph")
    assert usual[1] == dict(zip(names, (0, "HEURISTIC", 0, 0), strict=True))
    assert other[1] == dict(zip(names, (0, "EXHAUSTIVE", 1, 1), strict=True))


def test_a_number_of_strips_or_threads_is_at_least_one(capsys):
    for flag in ("--batch", "--threads"):
        with pytest.raises(SystemExit):
            inference_onnx.parse_args([flag, "0"])
        assert "found 0, expected 1 to " in capsys.readouterr().err


def test_engines_of_another_model_or_batch_are_not_taken(tmp_path):
    path, folders = tmp_path / "m.onnx", set()
    for content, batch in ((b"a", 1), (b"b", 1), (b"a", 2), (b"a", 1)):
        path.write_bytes(content)
        folders.add(engine_folder(path, batch))
    assert len(folders) == 3 and {folder.parent for folder in folders} == {tmp_path / "m_tensorrt"}


def test_the_doctor_finds_a_machine_without_a_gpu_well(tmp_path):
    if find_driver():
        pytest.skip("needs a machine without an NVIDIA driver")
    done = run("inference_onnx.py", "--doctor", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and not list(tmp_path.iterdir())
    assert re.search(r"^--device cpu +works: computed a convolution$", done.stdout, re.MULTILINE)
    assert done.stdout.count("not offered: there is no GPU") == 2 and done.stdout.endswith(
        "what this machine can offer works\n"
    )
    for name in ("NVIDIA driver", "ONNX Runtime", "PyTorch"):
        assert re.search(rf"^{name} +\S", done.stdout, re.MULTILINE)


def test_the_doctor_says_what_to_do_about_a_gpu_that_cannot_be_used(painted_gpu, tmp_path):
    done = run("inference_onnx.py", "--doctor", cwd=tmp_path, **painted_gpu)
    assert (
        done.returncode == 1
        and "GPUs: Painted GPU" in done.stdout
        and "Traceback" not in done.stderr
    )
    assert re.search(
        r"^error: PyTorch: .*; it cannot use the GPU: install torch", done.stderr, re.MULTILINE
    )
    if onnxruntime.cuda_version:
        assert re.search(
            r"^error: --device cuda: does not work: .*; install CUDA \d+\.\d+ and cuDNN 9",
            done.stderr,
            re.MULTILINE,
        )


@pytest.mark.parametrize(
    ("visible", "named", "returncode"),
    [
        ({}, "Painted GPU (8.0 GiB), Varnished GPU (9.0 GiB)", 1),
        (
            {"CUDA_VISIBLE_DEVICES": "1"},
            "Varnished GPU (9.0 GiB), and 1 hidden from this process (CUDA_VISIBLE_DEVICES=1)",
            1,
        ),
        (
            {"CUDA_VISIBLE_DEVICES": ""},
            "none, and 2 hidden from this process (CUDA_VISIBLE_DEVICES=)",
            0,
        ),
    ],
)
def test_the_doctor_lists_the_gpus_that_the_process_may_use(
    visible, named, returncode, painted_gpu, tmp_path
):
    done = run("inference_onnx.py", "--doctor", cwd=tmp_path, **painted_gpu, **visible)
    line = f"580.65.06, for CUDA up to 13.0, GPUs: {named}"
    assert (
        done.stdout.splitlines()[0].split(maxsplit=2)[2] == line and done.returncode == returncode
    ), done.stderr
    assert done.stdout.count("not offered: there is no GPU") == (0 if returncode else 2)


def test_cuda_says_which_gpus_and_nvml_what_they_are(painted):
    painted(PaintedCuda([SECOND, PART, FIRST]), PaintedNvml(MACHINE))
    gpus = [Gpu("Second GPU", None), Gpu("A part", 1 << 30), Gpu("First GPU", 8 << 30)]
    assert find_driver() == Driver("580.65.06", "13.2", gpus, hidden=0, error=0)
    painted(PaintedCuda([SECOND]), PaintedNvml(MACHINE))
    assert visible_gpus() == ["Second GPU"]


def test_gpus_that_nvml_does_not_know_can_be_used_all_the_same(painted):
    painted(PaintedCuda([FIRST]), PaintedNvml({}, answers=False))
    assert find_driver() == Driver(None, None, [Gpu(f"GPU {FIRST}", None)], hidden=0, error=0)
    finding = finding_of_driver()
    assert (
        finding.found.endswith(f"for CUDA up to unknown, GPUs: GPU {FIRST}") and not finding.to_do
    )


@pytest.mark.parametrize("error", [NO_CUDA_DEVICE, UNKNOWN_ERROR])
def test_a_cuda_that_does_not_start_is_wrong_and_one_without_a_gpu_is_not(error, painted):
    painted(PaintedCuda([FIRST], error), PaintedNvml(MACHINE))
    finding = finding_of_driver()
    assert visible_gpus() == [] and ("error 999" in finding.found) == bool(finding.to_do) == (
        error == UNKNOWN_ERROR
    )


def test_a_driver_that_is_too_old_for_this_onnx_runtime(painted, monkeypatch):
    monkeypatch.setattr(doctor.onnxruntime, "cuda_version", "14.0")
    painted(PaintedCuda([FIRST]), PaintedNvml(MACHINE))
    assert (
        finding_of_driver().to_do == "install a driver for CUDA 14, which ONNX Runtime is built for"
    )


def test_the_doctor_finds_two_wheels_of_onnx_runtime(tmp_path):
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-{onnxruntime.__version__}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {onnxruntime.__version__}\n"
        )
    done = run("inference_onnx.py", "--doctor", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert (
        "only one may be installed: "
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime" in done.stderr
    )


@needs_gpu
@pytest.mark.parametrize("flags", [{}, {"batch": 3}, {"batch": 2, "cuda_graph": True}])
def test_cuda_gives_the_heatmaps_of_the_cpu(flags, onnx_model):
    strips = list(random_strips(5) * 255)
    expected = OnnxPredictor(onnx_model, SessionSettings("cpu"))
    predictor = OnnxPredictor(onnx_model, SessionSettings("cuda", **flags))
    predictor.warm_up()
    for start in range(0, 5, predictor.batch):
        group = strips[start : start + predictor.batch]
        answers = predictor.predict([predictor.prepare(strip) for strip in group])
        for strip, answer in zip(group, answers):
            assert np.abs(answer - expected(strip)).max() < 1e-4


@needs_gpu
def test_auto_takes_cuda(onnx_model):
    assert place_session(onnx_model, SessionSettings()).device == "cuda"
