"""The encoder in PyTorch on the same GPU: forward, and a training step.

usage: pytorch_bench.py [--seconds N] [--batches 8,32,64] [--dtypes bf16,f32] [--only WORDS]

MONAI's EfficientNet-B0 in three dimensions: channels first and last, with and without
torch.compile, bf16 by autocast; fused AdamW, clipping. Prints seconds, samples a second and peak
memory of each, and stops beginning new measurements after N seconds. WORDS are part of a
measurement's name, as "compiled, channels first".

The transformer behind the encoder is left out, so that these numbers favour PyTorch.
"""

import argparse
import time

import torch
from monai.networks.nets import EfficientNetBN

SHAPE = (256, 160, 128)


def network(layout):
    net = EfficientNetBN("efficientnet-b0", spatial_dims=3, in_channels=1, num_classes=8)
    return net.cuda().to(memory_format=layout)


def timed(work, runs):
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2], torch.cuda.max_memory_allocated() / 2**30


def report(name, batch, seconds, memory):
    print(f"{name:46} batch {batch:3}: {seconds:.4f} s, {batch / seconds:6.1f} samples/s, {memory:.1f} GiB", flush=True)


def run(name, net, layout, batch, dtype, runs=5):
    volumes = torch.rand(batch, 1, *SHAPE, device="cuda").to(memory_format=layout)
    labels = torch.zeros(batch, 8, device="cuda")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True)
    autocast = torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == "bf16")

    def forward():
        with torch.no_grad(), autocast:
            net(volumes)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(net(volumes).float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    net.train()
    report(f"{name} {dtype} training step", batch, *timed(step, runs))
    net.eval()
    report(f"{name} {dtype} forward", batch, *timed(forward, runs))


def copy_bandwidth():
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    seconds, _ = timed(lambda: b.copy_(a), 20)
    print(f"copy: {2 * a.numel() / seconds / 1e9:.0f} GB/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--batches", default="8,32,64")
    parser.add_argument("--dtypes", default="bf16,f32")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    batches = [int(batch) for batch in args.batches.split(",")]
    end = time.monotonic() + args.seconds
    print(torch.__version__, torch.cuda.get_device_name())
    copy_bandwidth()
    layouts = {"channels first": torch.contiguous_format, "channels last": torch.channels_last_3d}
    for dtype in args.dtypes.split(","):
        for compiled in (False, True):
            for layout in layouts:
                name = f"{'compiled' if compiled else 'eager'}, {layout},"
                for batch in batches if args.only in name else []:
                    if time.monotonic() > end:
                        print(f"{name} {dtype} batch {batch}: no time left", flush=True)
                        continue
                    net = network(layouts[layout])
                    net = torch.compile(net) if compiled else net
                    try:
                        run(name, net, layouts[layout], batch, dtype)
                    except torch.cuda.OutOfMemoryError:
                        print(f"{name} {dtype} batch {batch}: does not fit", flush=True)
                        break
                    finally:
                        del net
                        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
