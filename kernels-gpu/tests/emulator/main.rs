//! The emulator: what it finds, what it counts, and that it runs kernels right.

mod async_copy;
mod count;
mod matrix;
mod pairs;
mod planted;
mod planted_cluster;
mod planted_hopper;
mod planted_matrix;
mod planted_pdl;
mod planted_races;
mod products;
mod run;
mod words;

use kernels_gpu::launch::{Device, DeviceBuffer, Grid, Launch, Purpose};
use kernels_gpu::simt::Element;
use kernels_gpu::simt::emulator::{Block, Emulator, Error, Violation};

/// A checking emulator whose blocks, warps and lanes run in the order of their indices.
fn emulator() -> Emulator {
    Emulator::checked().with_workers(1)
}

fn upload<T: Element>(device: &Emulator, data: &[T]) -> DeviceBuffer<T> {
    device.upload(data, Purpose::Other).unwrap()
}

fn unwritten<T: Element>(device: &Emulator, n: usize) -> DeviceBuffer<T> {
    device.alloc(n, Purpose::Other).unwrap()
}

/// The violation that a kernel commits.
fn violation<K: Launch>(device: &Emulator, kernel: K, grid: Grid) -> Violation {
    match device.launch(kernel, grid) {
        Err(Error::Violation(violation)) => *violation,
        other => panic!("a violation was planted in {}, but it ended with {other:?}", K::META.name),
    }
}

/// The line of a source file that ends with `// mark`.
fn line_of(source: &str, mark: &str) -> u32 {
    let mark = format!("// {mark}");
    let lines: Vec<usize> =
        source.lines().enumerate().filter(|(_, line)| line.ends_with(&mark)).map(|(i, _)| i + 1).collect();
    assert_eq!(lines.len(), 1, "lines that end with `{mark}`");
    lines[0] as u32
}

/// Asserts all of a violation but its column.
#[track_caller]
fn assert_violation(
    found: &Violation,
    kernel: &str,
    (block, thread): (u32, u32),
    fault: &kernels_gpu::simt::emulator::Fault,
    (file, line): (&str, u32),
) {
    assert_eq!(&found.fault, fault, "{found}");
    assert_eq!(found.kernel, kernel, "{found}");
    assert_eq!((found.block, found.thread), (Block { x: block, y: 0, z: 0 }, thread), "{found}");
    assert!(found.site.file.ends_with(file), "{found}");
    assert_eq!(found.site.line, line, "{found}");
}
