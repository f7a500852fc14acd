"""Train the backbone that ships as `tiny` and write it as ONNX, with its linear-probe accuracy.

    python tools/train_backbone.py --data tiny_imagenet200.npz --out edge_cl/backbones/tiny.onnx

A small residual CNN on 64 x 64 RGB images; the classifier of the training is thrown away and the pooled features
(N, 256) stay. The held-out images are looked at once, after the last epoch.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIZE = 64
FEATURES = 256
STAGES = (32, 48, 96, 128)  # channels; each stage halves the image: 0.70 million weights in all


def conv_bn(n_in: int, n_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution without bias and the normalisation that `fuse` folds into it."""
    return [nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(n_out)]


class Residual(nn.Module):
    """Two 3 x 3 convolutions around an identity (He 2016, sec. 3.2): dense ones, for they train 3 x faster on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*conv_bn(channels, channels, 3), nn.ReLU(), *conv_bn(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return functional.relu(x + self.layers(x))


class TinyBackbone(nn.Module):
    """Pixels (N, 3, 64, 64) in [-1, 1] to features (N, 256), all >= 0."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip((3, *STAGES), STAGES, strict=False):
            layers += [*conv_bn(n_in, n_out, 3, 2), nn.ReLU()]
            layers += [Residual(n_out)] if n_in > 3 else []  # at 32 x 32 it would cost twice what all others do
        layers += [*conv_bn(STAGES[-1], FEATURES, 1), nn.ReLU()]
        layers += [nn.AvgPool2d(SIZE >> len(STAGES)), nn.Flatten()]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, 3, 64, 64) to (N, 256)."""
        features: Tensor = self.layers(pixels)
        return features


def read_images(path: Path) -> tuple[Tensor, Tensor, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return images (N, 3, 64, 64) uint8, labels (N,) and the held-out mask (N,) of Tiny-ImageNet."""
    with np.load(path) as data:
        blob, offsets = data["blob"].tobytes(), data["off"]
        labels, is_test = torch.from_numpy(data["y"].astype(np.int64)), data["is_test"].astype(bool)

    def decode(n: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        with Image.open(io.BytesIO(blob[offsets[n] : offsets[n + 1]])) as image:
            return np.asarray(image.convert("RGB"))

    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(decode, range(len(labels)))))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels, is_test


def augment(images: Tensor) -> Tensor:
    """Return (N, 3, 64, 64) in [-1, 1], each image cropped, flipped, turned and coloured at random."""
    n, device = len(images), images.device
    area = torch.empty(n, device=device).uniform_(0.3, 1.0).sqrt()
    ratio = torch.empty(n, device=device).uniform_(-0.25, 0.25).exp()
    wide, high = (area * ratio).clamp(max=1), (area / ratio).clamp(max=1)
    angle = torch.empty(n, device=device).uniform_(-0.2, 0.2)
    flip = torch.where(torch.rand(n, device=device) < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 1] = flip * wide * angle.cos(), -high * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = flip * wide * angle.sin(), high * angle.cos()
    theta[:, 0, 2] = (1 - wide) * torch.empty(n, device=device).uniform_(-1, 1)
    theta[:, 1, 2] = (1 - high) * torch.empty(n, device=device).uniform_(-1, 1)
    grid = functional.affine_grid(theta, [n, 3, SIZE, SIZE], align_corners=False)
    pixels = functional.grid_sample(images.float() / 127.5 - 1, grid, padding_mode="reflection", align_corners=False)
    gain = torch.empty(3, n, 1, 1, 1, device=device).uniform_(0.6, 1.4)
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * gain[0]
    mean = pixels.mean((1, 2, 3), keepdim=True)
    return ((mean + (pixels - mean) * gain[1]) + (gain[2] - 1) * 0.5).clamp(-1.5, 1.5)


def cutmix(pixels: Tensor) -> tuple[Tensor, Tensor, float]:
    """Paste one box of a shuffled batch into each image (Yun 2019, sec. 3.1).

    Returns:
        The pixels (N, 3, 64, 64), the shuffle (N,), and the share of each image that stayed.
    """
    other = torch.randperm(len(pixels), device=pixels.device)
    side = int(SIZE * float(torch.rand(()).sqrt()))
    top, left = (int(torch.randint(SIZE - side + 1, ())) for _ in range(2))
    box = (..., slice(top, top + side), slice(left, left + side))
    mixed = pixels.clone()
    mixed[box] = pixels[other][box]
    return mixed, other, 1 - side * side / SIZE**2


def train(images: Tensor, labels: Tensor, args: argparse.Namespace, device: str) -> TinyBackbone:
    """Return the backbone whose weights are the moving average over the training."""
    torch.manual_seed(args.seed)
    backbone = TinyBackbone().to(device)
    classifier = nn.Linear(FEATURES, int(labels.max()) + 1).to(device)
    model = nn.Sequential(backbone, classifier).to(memory_format=torch.channels_last)
    moving = torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)  # type: ignore[no-untyped-call]
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=moving, use_buffers=True)
    images, labels = images.to(device), labels.to(device)
    n_batches = len(images) // args.batch
    decayed = [w for w in model.parameters() if w.ndim > 1]
    plain = [w for w in model.parameters() if w.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 3e-4}, {"params": plain}]
    optimizer = torch.optim.SGD(groups, lr=args.lr, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * n_batches, pct_start=0.1
    )
    start = time.perf_counter()
    for epoch in range(args.epochs):
        model.train()
        order, total = torch.randperm(len(images), device=device), torch.zeros((), device=device)
        for step in range(n_batches):
            rows = order[step * args.batch : (step + 1) * args.batch]
            pixels, target = augment(images[rows]), labels[rows]
            other, share = torch.arange(len(rows), device=device), 1.0
            if step % 2:
                pixels, other, share = cutmix(pixels)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
                logits = model(pixels.contiguous(memory_format=torch.channels_last)).float()
            loss = share * functional.cross_entropy(logits, target)
            loss = loss + (1 - share) * functional.cross_entropy(logits, target[other])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.detach()
            if args.max_steps and step + 1 == args.max_steps:
                break
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}/{args.epochs} loss {total.item() / (step + 1):.3f} {seconds:.0f} s", flush=True)
    kept = next(module for module in average.modules() if isinstance(module, TinyBackbone))
    return kept.cpu().eval()


def fuse(module: nn.Module) -> None:
    """Fold every batch normalisation into the convolution before it, in place."""
    if isinstance(module, nn.Sequential):
        for index in range(1, len(module)):
            before, here = module[index - 1], module[index]
            if isinstance(before, nn.Conv2d) and isinstance(here, nn.BatchNorm2d):
                module[index - 1], module[index] = fuse_conv_bn_eval(before, here), nn.Identity()
    for child in module.children():
        fuse(child)


def to_onnx(backbone: TinyBackbone, metadata: dict[str, str]) -> bytes:
    """Return the ONNX model, its weights as float16 behind a Cast: half the bytes, computed in float32 all the same."""
    fuse(backbone)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def add(kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{kind.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(value: Tensor) -> str:
        array = value.detach().numpy().astype(np.float16)
        weights.append(numpy_helper.from_array(array, f"w{len(weights)}"))
        return add("Cast", [weights[-1].name], to=TensorProto.FLOAT)

    def convert(module: nn.Module, x: str) -> str:
        if isinstance(module, Residual):
            return add("Relu", [add("Add", [x, convert(module.layers, x)])])
        if isinstance(module, nn.Sequential):
            for child in module:
                x = convert(child, x)
            return x
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            assert isinstance(module.padding, tuple)
            return add(
                "Conv",
                [x, constant(module.weight), constant(module.bias)],
                kernel_shape=module.kernel_size,
                strides=module.stride,
                pads=module.padding * 2,
            )
        if isinstance(module, nn.ReLU):
            return add("Relu", [x])
        if isinstance(module, nn.AvgPool2d):
            return add("GlobalAveragePool", [x])
        if isinstance(module, nn.Flatten):
            return add("Flatten", [x])
        assert isinstance(module, nn.Identity), module
        return x

    output = convert(backbone.layers, "pixels")
    nodes[-1].output[0] = "features"
    assert output.startswith("flatten")
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="edge_cl")
    model.ir_version = 8
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def linear_probe(model: bytes, images: Tensor, labels: Tensor, is_test: Any) -> float:
    """Return the held-out accuracy of a softmax layer fitted to the features of the other images."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    blocks = [
        session.run(None, {"pixels": images[n : n + 256].numpy().astype(np.float32) / 127.5 - 1})[0]
        for n in range(0, len(images), 256)
    ]
    features = torch.from_numpy(np.concatenate(blocks))
    mean, std = features[~is_test].mean(0), features[~is_test].std(0) + 1e-6
    features = (features - mean) / std
    torch.manual_seed(0)
    layer = nn.Linear(FEATURES, int(labels.max()) + 1)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=300, line_search_fn="strong_wolfe")
    x, y = features[~is_test], labels[~is_test]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(layer(x), y) + 5e-5 * layer.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float((layer(features[is_test]).argmax(1) == labels[is_test]).float().mean())


def main() -> None:
    """Train, export, probe, and print the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="tiny_imagenet200.npz")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.25)
    parser.add_argument("--precision", choices=("bf16", "32"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, default=0, help="stop each epoch early, to time a step")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels, is_test = read_images(args.data)
    start = time.perf_counter()
    backbone = train(images[~is_test], labels[~is_test], args, device)
    seconds = time.perf_counter() - start
    metadata = {
        "edge_cl.preprocessing": json.dumps({
            "input_size": [SIZE, SIZE],
            "scale": 1 / 127.5,
            "mean": [1.0] * 3,
            "std": [1.0] * 3,
        }),
        "edge_cl.features": "features",
        "edge_cl.training": json.dumps({"data": "Tiny-ImageNet", "epochs": args.epochs, "seed": args.seed}),
    }
    model = to_onnx(backbone, metadata)
    args.out.write_bytes(model)
    figures = {
        "linear_probe_accuracy": linear_probe(model, images, labels, is_test),
        "bytes": len(model),
        "n_weights": sum(w.numel() for w in backbone.parameters()),
        "epochs": args.epochs,
        "seed": args.seed,
        "seconds": round(seconds),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
