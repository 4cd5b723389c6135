"""Another engine gives the same features, falls back where it cannot, and never runs with weights that are gone."""

import copy
import gc
import importlib.util
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from test_backbones import make_frames
from test_optimize import compute_logits, make, optimize_silently
from tiny_models import make_vit_vtn

from vtn_hf import VTNVideoProcessor, optimize
from vtn_hf.backbone_vtn import choose_frames_per_chunk
from vtn_hf.inference.whole_video import classify_video
from vtn_hf.optimization import engine, optimize_backbone
from vtn_hf.optimization.replacement import Replacement, restore


pytest.importorskip("openvino")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "CACHE_DIR", tmp_path / "cache")
    return tmp_path / "cache"


class TorchGraph:
    """In the place of a graph that takes seconds to compile: what it gives, and notes of what was asked for."""

    made, calls = [], []

    def __init__(self, backbone, frame_shape, precision):
        self.backbone, self.weights = backbone, copy.deepcopy(backbone.state_dict())
        self.made.append((tuple(frame_shape), precision))

    def __call__(self, frames):
        self.calls.append(len(frames))
        replaced = self.backbone.__class__
        restore(self.backbone)
        try:
            return torch.func.functional_call(self.backbone, self.weights, (), {"pixel_values": frames})
        finally:
            self.backbone.__class__ = replaced


@pytest.fixture
def graphs(monkeypatch):
    TorchGraph.made, TorchGraph.calls = [], []
    monkeypatch.setattr(engine, "_Graph", TorchGraph)
    return TorchGraph


@pytest.fixture
def calls(monkeypatch):
    """The calls of OpenVINO, by their number of frames."""
    calls = []
    run = engine._Graph.__call__
    monkeypatch.setattr(engine._Graph, "__call__", lambda self, frames: calls.append(len(frames)) or run(self, frames))
    return calls


@pytest.mark.parametrize(
    "family",
    [
        "vit",
        "resnet",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("dinov2", "convnext", "timm_mobilenet", "siglip")),
    ],
)
def test_same_logits_for_any_number_of_frames(family, calls, cache):
    model = make(family)
    fast = optimize_silently(model, engine="openvino")
    assert isinstance(fast.vtn.backbone, engine.OpenVINO)
    assert list(cache.iterdir())
    assert fast.state_dict().keys() == model.state_dict().keys()
    assert all(ours is theirs for ours, theirs in zip(fast.parameters(), model.parameters(), strict=True))
    for num_frames in (1, 3, 6):
        calls.clear()
        frames = make_frames()[:1, :1].repeat(1, num_frames, 1, 1, 1) + torch.randn(1, num_frames, 1, 1, 1)
        torch.testing.assert_close(compute_logits(fast, frames), compute_logits(model, frames), atol=1e-5, rtol=1e-5)
        assert sum(calls) == num_frames


def test_frames_keep_their_order_among_threads(monkeypatch):
    model = make("resnet")
    num_threads = torch.get_num_threads()
    monkeypatch.setattr(engine, "_FRAMES_PER_REQUEST", 0)  # so one frame each
    torch.set_num_threads(2)
    try:
        fast = optimize_silently(model, engine="openvino")
        frames = make_frames().flatten(0, 1)[:1].repeat(9, 1, 1, 1) * torch.linspace(0.5, 1.5, 9)[:, None, None, None]
        with torch.no_grad():
            expected, actual = (each.vtn.get_frame_features(frames[None]) for each in (model, fast))
    finally:
        torch.set_num_threads(num_threads)
    *_, graph = fast.vtn.backbone._graphs._made
    assert graph._request_size == 1
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_later_calls_leave_earlier_results_alone(family):
    backbone = optimize_silently(make(family), engine="openvino").vtn.backbone
    frames = make_frames().flatten(0, 1)[:1].repeat(9, 1, 1, 1) * torch.linspace(0.5, 1.5, 9)[:, None, None, None]
    with torch.no_grad():
        results = {num_frames: backbone(pixel_values=frames[-num_frames:])[0] for num_frames in (9, 3, 8)}
        for num_frames, result in results.items():
            torch.testing.assert_close(result, results[9][-num_frames:], atol=1e-5, rtol=1e-5)


def test_an_interrupted_call_ends_before_its_memory_is_freed(monkeypatch):
    backbone = optimize_silently(make("resnet"), engine="openvino").vtn.backbone
    frames, steps = make_frames().flatten(0, 1)[:1].repeat(8, 1, 1, 1), []

    class Interrupted:
        """The requests of the graph, of which the second is interrupted."""

        def __init__(self, requests):
            self._requests = requests

        def __getattr__(self, name):
            return getattr(self._requests, name)

        def __len__(self):
            return len(self._requests)

        def __getitem__(self, number):
            return self._requests[number]

        def start_async(self, *args, **kwargs):
            steps.append("start")
            if len(steps) == 2:
                raise KeyboardInterrupt
            self._requests.start_async(*args, **kwargs)

        def wait_all(self):
            steps.append("wait")
            self._requests.wait_all()

    with torch.no_grad():
        expected = backbone(pixel_values=frames).pooler_output
        *_, graph = backbone._graphs._made
        monkeypatch.setattr(graph, "_request_size", 1)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(graph, "_requests", Interrupted(graph._requests))
            backbone(pixel_values=frames)
        assert steps == ["start", "start", "wait"]
        torch.testing.assert_close(backbone(pixel_values=frames).pooler_output, expected)


def test_threads_that_come_with_a_new_size_at_once():
    backbone = optimize_silently(make("resnet"), engine="openvino").vtn.backbone
    batches = [torch.randn(num_frames, 3, 40, 40) for num_frames in (1, 3, 5, 2)]

    @torch.no_grad()
    def encode(frames):
        return backbone(pixel_values=frames).pooler_output

    with ThreadPoolExecutor(len(batches)) as pool:
        results = list(pool.map(encode, batches))
    for frames, result in zip(batches, results, strict=True):
        torch.testing.assert_close(result, encode(frames))


def test_other_threads_see_the_weights_while_a_graph_is_made(monkeypatch):
    backbone = optimize_silently(make("resnet"), engine="openvino").vtn.backbone
    weights, forward, seen = list(backbone.parameters()), engine._Outputs.forward, []

    def look_and_forward(self, pixel_values):
        seen.append(all(ours is theirs for ours, theirs in zip(backbone.parameters(), weights, strict=True)))
        return forward(self, pixel_values)

    monkeypatch.setattr(engine._Outputs, "forward", look_and_forward)
    with torch.no_grad():
        backbone(pixel_values=torch.randn(1, 3, 40, 40))
    assert seen and all(seen)


def test_a_graph_that_is_there_waits_for_none_that_is_made(graphs):
    fast = optimize_silently(make("vit"), engine="openvino")
    graphs.calls.clear()
    with ThreadPoolExecutor(1) as pool, engine._making:
        pool.submit(compute_logits, fast).result(timeout=60)
    assert graphs.calls


def test_no_frames_are_pytorchs(calls):
    fast = optimize_silently(make("resnet"), engine="openvino")
    calls.clear()
    with torch.no_grad():
        assert fast.vtn.backbone(pixel_values=make_frames().flatten(0, 1)[:0]).pooler_output.shape[0] == 0
    assert not calls


def test_bfloat16_is_near(calls):
    model = make("resnet")
    fast = optimize_silently(model, engine="openvino", dtype=torch.bfloat16)
    calls.clear()
    with torch.no_grad():
        expected, actual = (each.vtn.get_frame_features(make_frames()) for each in (model, fast))
    assert calls
    assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99


def test_weights_that_change(graphs):
    model = make("vit")
    fast = optimize_silently(model, engine="openvino", dtype="bfloat16")

    def halve():
        model.load_state_dict({name: tensor / 2 for name, tensor in model.state_dict().items()})

    def write_past_the_count():
        for weight in model.vtn.backbone.parameters():
            weight.data.mul_(1.5)

    for num_made, change in enumerate((halve, write_past_the_count), start=2):
        change()
        graphs.calls.clear()
        torch.testing.assert_close(compute_logits(fast), compute_logits(model), atol=1e-5, rtol=1e-5)
        compute_logits(fast)
        assert graphs.calls and len(graphs.made) == num_made
    assert {precision for _, precision in graphs.made} == {"bf16"}


@pytest.mark.parametrize("name, num_frames", [("resnet", 32), ("vit", 8)])
def test_frames_per_call(name, num_frames):
    fast = optimize_silently(make(name), engine="openvino")
    assert choose_frames_per_chunk("auto", fast.vtn.backbone) == num_frames


def test_training_is_pytorchs(graphs):
    fast = optimize_silently(make("resnet"), engine="openvino")
    graphs.calls.clear()
    fast(make_frames(), labels=torch.tensor([0, 2])).loss.backward()
    backbone = fast.vtn.backbone
    assert backbone.embedder.embedder.convolution.weight.grad is not None
    for module in (backbone, backbone.embedder):
        backbone.eval()
        module.train()
        with torch.no_grad():
            backbone(pixel_values=make_frames().flatten(0, 1))
        assert module.training and not graphs.calls


def test_whoever_listens_later_hears_everything(graphs):
    fast = optimize_silently(make("vit"), engine="openvino")
    graphs.calls.clear()
    heard = []
    fast.vtn.backbone.layers[0].register_forward_hook(lambda *_: heard.append(1))
    compute_logits(fast)
    assert heard and not graphs.calls


def test_whoever_listens_to_all_modules_hears_them(graphs):
    fast = optimize_silently(make("vit"), engine="openvino")
    graphs.calls.clear()
    heard = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: heard.append(module))
    try:
        compute_logits(fast)
    finally:
        hook.remove()
    assert fast.vtn.backbone.layers[0] in heard and not graphs.calls


def test_copies_and_the_backbone_alone(graphs):
    model = make("resnet")
    fast = optimize_silently(model, engine="openvino")
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        graphs.calls.clear()
        torch.testing.assert_close(compute_logits(copied), compute_logits(model), atol=1e-5, rtol=1e-5)
        assert graphs.calls
    assert isinstance(optimize_backbone(model.vtn.backbone, engine="openvino"), engine.OpenVINO)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there are no forks")
def test_a_forked_process_may_let_go_of_it():
    """As one that loads data does, where garbage of its parent is collected."""
    models = [optimize_silently(make("resnet"), engine="openvino")]
    expected = compute_logits(models[0])

    def let_go():
        torch.testing.assert_close(compute_logits(models[0]), expected)
        models.clear()
        gc.collect()
        engine._get_core.cache_clear()

    process = multiprocessing.get_context("fork").Process(target=let_go)
    process.start()
    process.join(30)
    process.kill()
    process.join()
    assert process.exitcode == 0
    torch.testing.assert_close(compute_logits(models[0]), expected)


def test_whole_videos(graphs):
    model = make_vit_vtn()
    fast = optimize_silently(model, engine="openvino")
    graphs.calls.clear()
    processor = VTNVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    video = np.random.default_rng(0).integers(0, 256, (11, 16, 20, 3), dtype=np.uint8)
    expected = classify_video(model, processor, video)
    torch.testing.assert_close(classify_video(fast, processor, video).logits, expected.logits, atol=1e-5, rtol=1e-5)
    assert sum(graphs.calls) == 11


def test_the_faster_one_is_measured(monkeypatch, graphs):
    for seconds, is_in_use in (([2.0, 1.0], True), ([1.0, 2.0], False)):
        measured = iter(seconds)
        monkeypatch.setattr(engine, "_measure", lambda run, measured=measured: next(measured))
        fast = optimize_silently(make("resnet"), engine="auto")
        assert isinstance(fast.vtn.backbone, Replacement) == is_in_use


def test_without_the_package(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    model = make("resnet")
    with pytest.warns(UserWarning, match=r"pip install 'vtn_hf\[openvino\]'"):
        fast = optimize(model, engine="openvino")
    torch.testing.assert_close(compute_logits(fast), compute_logits(model), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_numbers_are_left_out_and_named(monkeypatch, graphs, dtype):
    run = TorchGraph.__call__

    def bend(self, frames):
        outputs = run(self, frames)
        outputs.pooler_output = outputs.pooler_output.flip(1)
        return outputs

    monkeypatch.setattr(TorchGraph, "__call__", bend)
    with pytest.warns(UserWarning, match="backbone .*the results differ"):
        fast = optimize(make("resnet"), engine="openvino", dtype=dtype)
    assert not isinstance(fast.vtn.backbone, Replacement)


def test_a_module_with_a_hook_is_left_out_and_named(graphs):
    model = make("vit")
    model.vtn.backbone.layers[0].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="backbone .*has a hook"):
        optimize(model, engine="openvino")
    assert not graphs.made


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "tensorrt"}, "'tensorrt'"),
        ({"engine": "openvino", "dtype": "float16"}, "'float16'"),
        ({"dtype": "bfloat16"}, "model.to"),
        ({"engine": "openvino", "int8": True}, "int8"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        optimize(make("vit"), **settings)


def test_a_model_that_it_cannot_take():
    with pytest.raises(ValueError, match="bfloat16 on cpu"):
        optimize(make("vit").to(torch.bfloat16), engine="openvino")
