"""Makes the reference numbers that the model tests compare with.

    python -m venv venv && venv/bin/pip install torch timm timm-3d transformers safetensors
    venv/bin/python tests/goldens/make_goldens.py            # the files beside this script
    venv/bin/python tests/goldens/make_goldens.py --full OUT # a full-size checkpoint, 240 MB

Weights and inputs are a formula of their name (`values`), written down a second time in
`tests/src/formula.rs`, so that the files hold outputs only. The model is written in plain
PyTorch functions; where timm-3d and transformers can compute the same thing, this script
checks itself against them before it writes anything.
"""

import argparse
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
GOLDEN_RATIO = 0x9E3779B97F4A7C15
SAMPLES = 24  # gradient entries kept of each parameter


# --- the formula -------------------------------------------------------------------------


def name_hash(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def mix(z):
    z = np.asarray(z, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def unit(name, count):
    """Numbers in [-1, 1): 24 bits each, exact in f32."""
    with np.errstate(over="ignore"):
        counter = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN_RATIO)
        bits = mix(np.uint64(name_hash(name)) + counter) >> np.uint64(40)
    return bits.astype(np.float64) / 2**23 - 1.0


def values(name, shape):
    """The weight or input called `name`."""
    v = unit(name, math.prod(shape))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf == "running_var":
        v = 1.0 + 0.5 * v
    elif leaf == "running_mean":
        v = 0.1 * v
    elif leaf == "image":
        v = 0.5 + 0.5 * v
    elif len(shape) == 1 and leaf == "weight":
        v = 1.0 + 0.25 * v
    elif len(shape) == 1:
        v = 0.1 * v
    else:
        v = math.sqrt(6.0 / math.prod(shape[1:])) * v
    return torch.from_numpy(v.astype(np.float32).reshape(shape))


def token_ids(name, shape, vocab):
    return torch.from_numpy(((unit(name, math.prod(shape)) + 1) / 2 * vocab).astype(np.int64)).reshape(shape)


# --- the encoder -------------------------------------------------------------------------

STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
          (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)]
COEFFICIENTS = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2), "b3": (1.2, 1.4), "b4": (1.4, 1.8)}


def channels(n, width):
    n = n * width
    rounded = max(8, int(n + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * n else rounded


def blocks(variant):
    """(prefix, expands, in, mid, out, squeezed, kernel, stride)"""
    width, depth = COEFFICIENTS[variant]
    c_in = channels(32, width)
    for stage, (kernel, stride, expansion, c, repeats) in enumerate(STAGES):
        for i in range(math.ceil(repeats * depth)):
            out = channels(c, width)
            yield (f"blocks.{stage}.{i}.", expansion > 1, c_in, c_in * expansion, out, c_in // 4,
                   kernel, stride if i == 0 else 1)
            c_in = out


def norm_shapes(name, c):
    shapes = {f"{name}.{leaf}": (c,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def encoder_shapes(variant):
    width = COEFFICIENTS[variant][0]
    stem, head = channels(32, width), channels(1280, width)
    shapes = {"conv_stem.weight": (stem, 1, 3, 3, 3)} | norm_shapes("bn1", stem)
    for p, expands, c_in, mid, out, squeezed, k, _ in blocks(variant):
        if expands:
            shapes |= {p + "conv_pw.weight": (mid, c_in, 1, 1, 1)} | norm_shapes(p + "bn1", mid)
        shapes[p + "conv_dw.weight"] = (mid, 1, k, k, k)
        shapes |= norm_shapes(p + ("bn2" if expands else "bn1"), mid)
        shapes |= {p + "se.conv_reduce.weight": (squeezed, mid, 1, 1, 1), p + "se.conv_reduce.bias": (squeezed,),
                   p + "se.conv_expand.weight": (mid, squeezed, 1, 1, 1), p + "se.conv_expand.bias": (mid,)}
        shapes[p + ("conv_pwl.weight" if expands else "conv_pw.weight")] = (out, mid, 1, 1, 1)
        shapes |= norm_shapes(p + ("bn3" if expands else "bn2"), out)
        last = out
    return shapes | {"conv_head.weight": (head, last, 1, 1, 1)} | norm_shapes("bn2", head)


def same(x, kernel, stride):
    """Zeros so that the output has ceil(n / stride) voxels, the smaller half first."""
    pads = []
    for n in reversed(x.shape[2:]):  # F.pad begins with the last axis
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def conv(w, name, x, stride=1):
    weight = w[name + ".weight"]
    depthwise = weight.shape[1] == 1 and x.shape[1] == weight.shape[0] and x.shape[1] > 1
    return F.conv3d(same(x, weight.shape[2], stride), weight, w.get(name + ".bias"), stride,
                    groups=x.shape[1] if depthwise else 1)


def norm(w, name, x, train):
    return F.batch_norm(x, w[name + ".running_mean"], w[name + ".running_var"], w[name + ".weight"],
                        w[name + ".bias"], train, 0.1, 1e-3)


def encoder(w, x, variant="b0", train=False, prefix=""):
    w = {name.removeprefix(prefix): t for name, t in w.items() if name.startswith(prefix)}
    x = F.silu(norm(w, "bn1", conv(w, "conv_stem", x, 2), train))
    for p, expands, c_in, mid, out, _, _, stride in blocks(variant):
        y = x
        if expands:
            y = F.silu(norm(w, p + "bn1", conv(w, p + "conv_pw", y), train))
        y = F.silu(norm(w, p + ("bn2" if expands else "bn1"), conv(w, p + "conv_dw", y, stride), train))
        gate = F.silu(conv(w, p + "se.conv_reduce", y.mean((2, 3, 4), keepdim=True)))
        y = y * torch.sigmoid(conv(w, p + "se.conv_expand", gate))
        y = norm(w, p + ("bn3" if expands else "bn2"), conv(w, p + ("conv_pwl" if expands else "conv_pw"), y), train)
        x = x + y if stride == 1 and c_in == out else y
    return F.silu(norm(w, "bn2", conv(w, "conv_head", x), train))


# --- the fusion model --------------------------------------------------------------------

SMALL = dict(hidden=48, heads=4, intermediate=96, layers=2, vocab=50, positions=64, types=2)
FULL = dict(hidden=768, heads=12, intermediate=3072, layers=4, vocab=30522, positions=512, types=2)


def linear_shapes(name, c_in, c_out):
    return {name + ".weight": (c_out, c_in), name + ".bias": (c_out,)}


def bert_shapes(c, pre_norm=False):
    h, wide = c["hidden"], c["intermediate"]
    layer_norm = lambda name: {name + ".weight": (h,), name + ".bias": (h,)}
    shapes = {f"embeddings.{t}_embeddings.weight": (n, h)
              for t, n in (("word", c["vocab"]), ("position", c["positions"]), ("token_type", c["types"]))}
    if not pre_norm:
        shapes |= layer_norm("embeddings.LayerNorm")
    for i in range(c["layers"]):
        p = f"encoder.layer.{i}."
        for name in ("query", "key", "value"):
            shapes |= linear_shapes(p + "attention.self." + name, h, h)
        shapes |= linear_shapes(p + "attention.output.dense", h, h)
        shapes |= layer_norm(p + ("attention.ln" if pre_norm else "attention.output.LayerNorm"))
        shapes |= linear_shapes(p + "intermediate.dense", h, wide) | linear_shapes(p + "output.dense", wide, h)
        shapes |= layer_norm(p + ("ln" if pre_norm else "output.LayerNorm"))
    if pre_norm:
        shapes |= layer_norm("encoder.ln")
    return shapes | linear_shapes("pooler.dense", h, h)


def model_shapes(c):
    h = c["hidden"]
    shapes = {"model." + n: s for n, s in bert_shapes(c).items()}
    shapes |= {"vision_model.model." + n: s for n, s in encoder_shapes("b0").items()}
    shapes |= {"vision_model.emb_start": (1, 1, h), "vision_model.emb_end": (1, 1, h)}
    shapes |= linear_shapes("vision_model.lm_adaptor.0", 1280, h)
    return shapes | linear_shapes("lm_head_cls", h, 1) | linear_shapes("lm_head_seg", h, 64)


def weights(shapes):
    return {name: values(name, shape) for name, shape in shapes.items()}


def linear(w, name, x):
    return F.linear(x, w[name + ".weight"], w[name + ".bias"])


def layer_norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-12)


def embed(w, x):
    e = "model.embeddings."
    x = x + w[e + "position_embeddings.weight"][: x.shape[1]] + w[e + "token_type_embeddings.weight"][0]
    return layer_norm(w, e + "LayerNorm", x) if e + "LayerNorm.weight" in w else x


def attention(w, p, x, mask, heads):
    b, n, h = x.shape
    q, k, v = (linear(w, p + "attention.self." + name, x).view(b, n, heads, -1).transpose(1, 2)
               for name in ("query", "key", "value"))
    scores = q @ k.transpose(2, 3) / math.sqrt(h // heads)
    scores = scores.masked_fill(mask[:, None, None] == 0, float("-inf"))
    joined = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, h)
    return linear(w, p + "attention.output.dense", joined)


def feed(w, p, x):
    return linear(w, p + "output.dense", F.gelu(linear(w, p + "intermediate.dense", x)))


def bert(w, x, mask, c):
    pre_norm = "model.encoder.ln.weight" in w
    for i in range(c["layers"]):
        p = f"model.encoder.layer.{i}."
        if pre_norm:
            x = x + attention(w, p, layer_norm(w, p + "attention.ln", x), mask, c["heads"])
            x = x + feed(w, p, layer_norm(w, p + "ln", x))
        else:
            x = layer_norm(w, p + "attention.output.LayerNorm", x + attention(w, p, x, mask, c["heads"]))
            x = layer_norm(w, p + "output.LayerNorm", x + feed(w, p, x))
    return layer_norm(w, "model.encoder.ln", x) if pre_norm else x


def text(w, ids):
    return embed(w, w["model.embeddings.word_embeddings.weight"][ids])


def uniferum(w, image, ids, mask, c, train=False):
    features = encoder(w, image, train=train, prefix="vision_model.model.")
    b = len(ids)
    tokens = linear(w, "vision_model.lm_adaptor.0", features.flatten(2).transpose(1, 2)).expand(b, -1, -1)
    start, end = (w["vision_model.emb_" + end].expand(b, -1, -1) for end in ("start", "end"))
    x = embed(w, torch.cat([start, tokens, end, text(w, ids)], 1))
    seen = torch.ones(b, tokens.shape[1] + 2, dtype=mask.dtype)
    h = bert(w, x, torch.cat([seen, mask], 1), c)
    return linear(w, "lm_head_cls", h[:, 0]), linear(w, "lm_head_seg", h[:, 1:1 + tokens.shape[1]])


def focal(logits, y, alpha=0.25, gamma=2.0):
    p = torch.sigmoid(logits)
    p_t = p * y + (1 - p) * (1 - y)
    ce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    return (alpha * y + (1 - alpha) * (1 - y)) * (1 - p_t) ** gamma * ce


def multitask(cls, seg, labels, targets, is_segmentation):
    of_label = F.binary_cross_entropy_with_logits(cls[:, 0], labels, reduction="none")
    of_mask = 10 * focal(seg, targets).mean((1, 2))
    return torch.where(is_segmentation, of_mask, of_label).mean()


# --- checks against the libraries --------------------------------------------------------


def close(a, b, what, tolerance=2e-5):
    error = ((a - b).abs().max() / b.abs().max()).item()
    assert error < tolerance, f"{what}: {error}"
    print(f"  {what}: {error:.1e}")


def check_libraries():
    import timm_3d
    from transformers import BertConfig, BertModel, MegatronBertConfig, MegatronBertModel

    for variant in ("b0", "b2"):
        w = weights(encoder_shapes(variant))
        net = timm_3d.create_model(f"tf_efficientnet_{variant}.in1k", pretrained=False, in_chans=1,
                                   num_classes=0, global_pool="").eval()
        net.load_state_dict(w)
        x = values("check.image", (1, 1, 64, 64, 64))
        close(encoder(w, x, variant), net(x), f"encoder {variant} against timm-3d")
    c = SMALL
    common = dict(vocab_size=c["vocab"], hidden_size=c["hidden"], num_attention_heads=c["heads"],
                  intermediate_size=c["intermediate"], num_hidden_layers=c["layers"],
                  max_position_embeddings=c["positions"], layer_norm_eps=1e-12)
    ids, mask = token_ids("check.ids", (2, 9), c["vocab"]), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    for pre_norm, config, kind in ((False, BertConfig, BertModel), (True, MegatronBertConfig, MegatronBertModel)):
        w = weights(bert_shapes(c, pre_norm))
        net = kind(config(**common)).eval()
        net.load_state_dict(w, strict=False)
        ours = {"model." + n: t for n, t in w.items()}
        states = bert(ours, text(ours, ids), mask, c)
        close(states, net(ids, attention_mask=mask).last_hidden_state, f"{kind.__name__} against transformers")


# --- what is written ---------------------------------------------------------------------

EVEN = (64, 32, 96)
ODD = (45, 70, 33)


def save(name, tensors, metadata=None):
    tensors = {k: v.detach().contiguous() for k, v in tensors.items()}
    save_file(tensors, HERE / name, metadata)
    print(f"{name}: {(HERE / name).stat().st_size / 1024:.0f} KiB")


def prompt_batch(vocab):
    ids, mask = token_ids("ids", (2, 7), vocab), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    return ids, mask


def make_encoder():
    out = {}
    for variant, batch, shape in (("b0", 2, EVEN), ("b0", 1, ODD), ("b2", 1, (32, 32, 32))):
        w = weights(encoder_shapes(variant))
        side = "x".join(map(str, shape))
        out[f"{variant}.{side}"] = encoder(w, values(f"{side}.image", (batch, 1, *shape)), variant)
    save("encoder.safetensors", out)


def make_text():
    out = {}
    ids, mask = prompt_batch(SMALL["vocab"])
    for name, pre_norm in (("post", False), ("pre", True)):
        w = {"model." + n: t for n, t in weights(bert_shapes(SMALL, pre_norm)).items()}
        out[name] = bert(w, text(w, ids), mask, SMALL)
    save("bert.safetensors", out)


def make_logits():
    w = weights(model_shapes(SMALL))
    ids, mask = prompt_batch(SMALL["vocab"])
    out = {}
    for shape in (EVEN, ODD):
        side = "x".join(map(str, shape))
        image = values(f"{side}.image", (2, 1, *shape))
        out[f"{side}.cls"], out[f"{side}.seg"] = uniferum(w, image, ids, mask, SMALL)
    save("logits.safetensors", out)


def is_trained(name):
    leaf = name.rsplit(".", 1)[-1]
    return "pooler" not in name and not leaf.startswith("running_") and leaf != "num_batches_tracked"


def sampled(name, gradient):
    count = gradient.numel()
    with np.errstate(over="ignore"):
        at = mix(np.uint64(name_hash(name)) ^ np.arange(SAMPLES, dtype=np.uint64)) % np.uint64(count)
    return gradient.flatten()[torch.from_numpy(at.astype(np.int64))]


def make_training():
    """One sample of each kind, so that both heads and both losses take part.

    In f64: some parameters shift what a later norm takes away again, and only exact
    arithmetic shows that their gradient is zero.
    """
    double = lambda t: t.double() if t.is_floating_point() else t
    w = {name: double(t) for name, t in weights(model_shapes(SMALL)).items()}
    trained = sorted(filter(is_trained, w))
    for name in trained:
        w[name].requires_grad_()
    ids, mask = prompt_batch(SMALL["vocab"])
    image = double(values("training.image", (2, 1, 64, 64, 64)))
    labels = torch.tensor([1.0, 0.0]).double()
    targets = (torch.from_numpy(unit("targets", 2 * 8 * 64)).reshape(2, 8, 64) > 0.5).double()
    is_segmentation = torch.tensor([False, True])
    # Decay on everything: the tests have no interest in which parameters are spared.
    optimiser = torch.optim.AdamW([w[n] for n in trained], lr=5e-5, weight_decay=1e-2)
    losses, out = [], {}
    for step in range(10):
        cls, seg = uniferum(w, image, ids, mask, SMALL, train=True)
        loss = multitask(cls, seg, labels, targets, is_segmentation)
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            out["gradient_samples"] = torch.stack([sampled(n, w[n].grad) for n in trained])
            out["gradient_norms"] = torch.stack([w[n].grad.norm() for n in trained])
            out["gradient_peaks"] = torch.stack([w[n].grad.abs().max() for n in trained])
            for leaf in ("running_mean", "running_var"):
                for bn in ("bn1", "blocks.3.1.bn2", "bn2"):
                    name = f"vision_model.model.{bn}.{leaf}"
                    out[name] = w[name].clone()
        optimiser.step()
        losses.append(loss.detach())
    out["losses"] = torch.stack(losses)
    print("  losses", [round(v.item(), 5) for v in losses])
    out = {name: t.float() for name, t in out.items()}
    save("training.safetensors", out, {"parameters": "\n".join(trained)})


def make_pretrained():
    """Names and shapes of published weights, and small files as their publishers write them."""
    import timm
    from transformers import BertConfig, BertForMaskedLM, MegatronBertConfig, MegatronBertForMaskedLM

    flat = timm.create_model("tf_efficientnet_b0.in1k", pretrained=False).state_dict()
    folder = HERE / "published"
    folder.mkdir(exist_ok=True)

    def write_names(name, tensors):
        lines = [f"{n} {','.join(map(str, t.shape))}\n" for n, t in tensors.items()]
        (folder / name).write_text("".join(lines))

    write_names("tf_efficientnet_b0.txt", flat)
    with torch.device("meta"):
        write_names("bert_base_masked_lm.txt", BertForMaskedLM(BertConfig()).state_dict())
        gatortron = MegatronBertConfig(vocab_size=50176)
        write_names("gatortron_base_masked_lm.txt", MegatronBertForMaskedLM(gatortron).state_dict())
    inflated = {}
    for name, tensor in flat.items():
        w = values(name, tuple(tensor.shape))
        if name == "conv_stem.weight":
            w = w.sum(1, keepdim=True)
        if w.ndim == 4:
            w = w[..., None].repeat(1, 1, 1, 1, w.shape[-1]) / w.shape[-1]
        inflated[name] = w
    x = values("inflated.image", (1, 1, 32, 64, 32))
    save("inflated.safetensors", {"b0.32x64x32": encoder(inflated, x)})
    tiny = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
                      intermediate_size=24, max_position_embeddings=12)
    state = {n: values(n, tuple(t.shape)) for n, t in BertForMaskedLM(tiny).bert.state_dict().items()}
    state = {"bert." + n: t for n, t in state.items()}
    # One weight lies in memory the other way round, as some converted checkpoints have it.
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    state[name] = state[name].t().contiguous().t()
    torch.save(state, folder / "zip.bin")
    torch.save(state, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": state}, folder / "wrapped.pth")


def make_full(folder):
    """The paper's sizes, as a checkpoint with the public names, and its logits."""
    folder.mkdir(parents=True, exist_ok=True)
    w = weights(model_shapes(FULL))
    save_file(w, folder / "model.safetensors", {"format": "pt"})
    ids, mask = prompt_batch(FULL["vocab"])
    image = values("full.image", (1, 1, 256, 160, 128))
    with torch.inference_mode():
        cls, seg = uniferum(w, image, ids, mask, FULL)
    save_file({"cls": cls, "seg": seg.contiguous()}, folder / "expected.safetensors")
    print(f"{folder}: cls {cls.flatten().tolist()}, seg of deviation {seg.std().item():.3f}")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--full", type=pathlib.Path, metavar="OUT", help="write the full-size checkpoint here")
    options = options.parse_args()
    torch.manual_seed(0)
    if options.full:
        return make_full(options.full)
    with torch.no_grad():
        check_libraries()
        make_encoder()
        make_text()
        make_logits()
        make_pretrained()
    make_training()


if __name__ == "__main__":
    main()
