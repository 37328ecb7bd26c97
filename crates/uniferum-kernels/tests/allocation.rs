//! Inference allocates nothing after its first call.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use uniferum_kernels::infer::{Affine, Arena, Head, MbConv, Network, Precision, Stem};

/// Counts requests large enough to hold anything that depends on the image.
///
/// The thread pool's queues grow by blocks of about two kilobytes, which are not ours.
struct Counting;

const LARGE: usize = 4096;
static REQUESTS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands every request on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE {
            REQUESTS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn later_calls_allocate_nothing() {
    let affine = |outputs: usize, inputs: usize| Affine {
        weight: vec![0.1; outputs * inputs],
        bias: vec![0.0; outputs],
    };
    let block = |inputs: usize, outputs: usize, expansion: usize, stride: usize| MbConv {
        inputs,
        middle: inputs * expansion,
        squeezed: 4,
        outputs,
        kernel: 3,
        stride,
        skip: false,
        expand: (expansion > 1).then(|| affine(inputs * expansion, inputs)),
        depthwise: affine(inputs * expansion, 27),
        squeeze: affine(4, inputs * expansion),
        excite: affine(inputs * expansion, 4),
        project: affine(outputs, inputs * expansion),
    };
    let stem = Stem {
        inputs: 1,
        outputs: 16,
        conv: affine(16, 27),
    };
    let head = Head {
        inputs: 24,
        outputs: 64,
        conv: affine(64, 24),
    };
    let blocks = [block(16, 16, 1, 1), block(16, 24, 6, 2)];
    for precision in [Precision::F32, Precision::Bf16] {
        let network = Network::new(&stem, &blocks, &head, precision).unwrap();
        let sides = [64, 48, 56];
        let image = vec![0.5; sides.iter().product()];
        let voxels: usize = network.grid(sides).unwrap().iter().product();
        let mut features = vec![0.0; 64 * voxels];
        let mut arena = Arena::new();
        network
            .run(&mut arena, &image, sides, &mut features)
            .unwrap();
        let before = REQUESTS.load(Ordering::Relaxed);
        assert!(before > 0);
        for _ in 0..5 {
            network
                .run(&mut arena, &image, sides, &mut features)
                .unwrap();
        }
        assert_eq!(REQUESTS.load(Ordering::Relaxed), before, "{precision:?}");
    }
}
