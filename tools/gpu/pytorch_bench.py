"""The encoder in PyTorch on the same GPU: forward, and a training step.

MONAI's EfficientNet-B0 in three dimensions, channels last, bf16 autocast, with and without
torch.compile; AdamW fused. Prints seconds, samples a second and peak memory of each.

The transformer behind the encoder is left out, so that these numbers favour PyTorch.
"""

import time

import torch
from monai.networks.nets import EfficientNetBN

SHAPE = (256, 160, 128)


def network():
    net = EfficientNetBN("efficientnet-b0", spatial_dims=3, in_channels=1, num_classes=8)
    return net.cuda().to(memory_format=torch.channels_last_3d)


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
    print(f"{name:28} batch {batch:3}: {seconds:.4f} s, {batch / seconds:.1f} samples/s, {memory:.1f} GiB", flush=True)


def run(name, net, batch, dtype, runs=10):
    volumes = torch.rand(batch, 1, *SHAPE, device="cuda").to(memory_format=torch.channels_last_3d)
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

    net.eval()
    report(f"{name} {dtype} forward", batch, *timed(forward, runs))
    net.train()
    report(f"{name} {dtype} training step", batch, *timed(step, runs))


def copy_bandwidth():
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    seconds, _ = timed(lambda: b.copy_(a), 20)
    print(f"copy: {2 * a.numel() / seconds / 1e9:.0f} GB/s")


def main():
    print(torch.__version__, torch.cuda.get_device_name())
    copy_bandwidth()
    for dtype in ("f32", "bf16"):
        for compiled in (False, True):
            for batch in (1, 8, 16, 32, 64):
                net = network()
                if compiled:
                    net = torch.compile(net)
                name = "compiled" if compiled else "eager"
                try:
                    run(name, net, batch, dtype)
                except torch.cuda.OutOfMemoryError:
                    print(f"{name} {dtype} batch {batch}: does not fit")
                    break
                finally:
                    del net
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
