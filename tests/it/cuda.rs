//! The driver layer: what it says where there is no GPU, and that kernels run where there is one.
//!
//! Tests that need a GPU pass without one, and say so on standard error.

use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

use kernels_gpu::add::{self, add_f32};
use kernels_gpu::launch::{Device, DeviceSlice, Grid, Purpose};
use kernels_gpu::rmsnorm::{self, rmsnorm_f32};
use oxwarp::cuda::{Chunk, Cuda, Destination, Error, UploadError, Uploader, VramUse, gpu_count};
use testkit::compare::{FAST_MATH_ROUNDINGS, assert_within, gamma};
use testkit::data::Rng;
use testkit::reference;

/// GPU 0 with a stream of its own, or none with a note why. All tests share its module, which takes a while to compile.
///
/// # Panics
/// If there is a GPU that cannot be used: then these tests would show nothing.
pub fn gpu() -> Option<Cuda> {
    static SHARED: LazyLock<Option<Mutex<Cuda>>> = LazyLock::new(|| open().map(Mutex::new));
    let gpu = SHARED.as_ref()?.lock().expect("nothing panics while it forks");
    Some(gpu.fork().expect("a stream"))
}

/// As [`gpu`], with memory accounts of its own.
pub fn open() -> Option<Cuda> {
    match Cuda::open(0) {
        Ok(gpu) => Some(gpu),
        Err(error @ (Error::NoDriver { .. } | Error::NoGpu { .. })) => {
            eprintln!("not run on a GPU: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Runs one test of this binary in a process of its own, with an environment of its own. Returns what that printed, or
/// none if this is that process.
fn in_own_process(test: &str, environment: &[(&str, &str)]) -> Option<String> {
    const MARK: &str = "OXWARP_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return None;
    }
    let output = Command::new(std::env::current_exe().expect("a running program has a path"))
        .args(["--exact", test, "--nocapture"])
        .envs(environment.iter().copied())
        .env(MARK, "1")
        .output()
        .expect("the test binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    Some(printed)
}

#[test]
fn hidden_gpus_and_a_missing_driver_are_told_apart() {
    let test = "cuda::hidden_gpus_and_a_missing_driver_are_told_apart";
    if in_own_process(test, &[("CUDA_VISIBLE_DEVICES", "")]).is_some() {
        return;
    }
    let error = Cuda::open(0).err().expect("there is no visible GPU");
    let message = error.to_string();
    match error {
        Error::NoDriver { why } => assert!(why.contains("libcuda.so.1"), "{why}"),
        Error::NoGpu { .. } => {
            assert_eq!(message, "the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES=\"\")");
        }
        _ => panic!("{message}"),
    }
}

#[test]
fn a_gpu_number_beyond_the_last_is_refused() {
    let Some(_) = gpu() else { return };
    let n = gpu_count().unwrap();
    let message = Cuda::open(n).err().expect("GPUs are numbered from 0").to_string();
    assert_eq!(message, format!("there is no GPU {n}: the driver sees {n}, numbered from 0"));
}

#[test]
fn smoke_add_and_rmsnorm_on_the_gpu() {
    let Some(gpu) = gpu() else { return };
    eprintln!("{:?}", gpu.info());
    let (n_rows, dim, eps) = (7, 1000, 1e-5);
    let mut rng = Rng::new(1);
    let [x, branch, w] = [n_rows * dim, n_rows * dim, dim].map(|n| rng.normal(n, 1.0));

    let mut device_x = gpu.upload(&x, Purpose::Activations).unwrap();
    let device_branch = gpu.upload(&branch, Purpose::Activations).unwrap();
    let device_w = gpu.upload(&w, Purpose::Weights).unwrap();
    let mut device_y = gpu.alloc(n_rows * dim, Purpose::Activations).unwrap();
    let n = n_rows * dim;
    gpu.launch(
        add_f32 { x: &mut device_x, branch: &device_branch, n: n as u32 },
        Grid::cover(n, add::THREADS as usize),
    )
    .unwrap();
    let norm = rmsnorm_f32 { y: &mut device_y, x: &device_x, w: &device_w, dim: dim as u32, eps };
    gpu.launch(norm, Grid::x(n_rows as u32)).unwrap();

    // One addition rounds once, on any machine.
    let sum: Vec<f32> = x.iter().zip(&branch).map(|(x, branch)| x + branch).collect();
    assert_eq!(gpu.download(&device_x).unwrap(), sum);

    let mut expected = vec![0.0; n];
    reference::rmsnorm(&mut expected, &reference::widen(&sum), &reference::widen(&w), f64::from(eps));
    // A square's way to the mean: its product, the sum of each thread's share, the block's tree, the division; half of
    // the mean's error counts in its root. Then the root itself and two products.
    let chain = 1 + dim.div_ceil(rmsnorm::THREADS as usize) + 10 + FAST_MATH_ROUNDINGS;
    let relative = gamma(chain) / 2.0 + gamma(FAST_MATH_ROUNDINGS + 3);
    let found = gpu.download(&device_y).unwrap();
    assert_within("rmsnorm_f32", &found, &expected, &[n_rows, dim], |i| relative * expected[i].abs());
}

#[test]
fn a_batch_does_the_same_one_by_one_captured_and_replayed() {
    let Some(gpu) = gpu() else { return };
    let branch = gpu.upload(&[1.0f32; 300], Purpose::Other).unwrap();
    let mut x = gpu.zeros::<f32>(300, Purpose::Other).unwrap();
    for call in 1..=5 {
        gpu.begin_batch();
        for _ in 0..3 {
            gpu.launch(add_f32 { x: &mut x, branch: &branch, n: 300 }, Grid::x(2)).unwrap();
        }
        gpu.end_batch(7).unwrap();
        assert_eq!(gpu.download(&x).unwrap(), [3.0 * call as f32; 300], "call {call}");
    }
    // Another list under the same key: nothing of the old one may be replayed.
    for _ in 0..3 {
        gpu.begin_batch();
        gpu.launch(add_f32 { x: &mut x, branch: &branch, n: 10 }, Grid::x(1)).unwrap();
        gpu.end_batch(7).unwrap();
    }
    let found = gpu.download(&x).unwrap();
    assert_eq!((found[9], found[10]), (18.0, 15.0));
    // An abandoned batch does nothing.
    gpu.begin_batch();
    gpu.launch(add_f32 { x: &mut x, branch: &branch, n: 300 }, Grid::x(2)).unwrap();
    gpu.abandon_batch();
    assert_eq!(gpu.download(&x).unwrap(), found);
}

#[test]
fn memory_is_accounted_by_purpose_and_given_back() {
    let Some(gpu) = open() else { return };
    assert_eq!(gpu.vram_use(), VramUse::default());
    let weights = gpu.alloc::<f32>(1000, Purpose::Weights).unwrap();
    let kv = gpu.alloc::<u8>(77, Purpose::KvCache).unwrap();
    let nothing = gpu.alloc::<f32>(0, Purpose::Activations).unwrap();
    let expected = VramUse { weights: 4000, kv_cache: 77, ..VramUse::default() };
    assert_eq!((gpu.vram_use(), gpu.vram_use().total()), (expected, 4077));
    drop((weights, kv, nothing));
    assert_eq!(gpu.vram_use(), VramUse::default());
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let Some(gpu) = gpu() else { return };
    let wanted = gpu.info().total_bytes as usize + 1;
    let error = gpu.alloc::<u8>(wanted, Purpose::KvCache).expect_err("more than the GPU has");
    let Error::OutOfMemory { required, available, .. } = error else { panic!("{error}") };
    assert_eq!(required, wanted as u64);
    assert!(available > 0 && available < required, "{available}");
    let message = error.to_string();
    let expected =
        format!("out of GPU memory: {required} bytes for the KV cache, of which {available} are available");
    assert_eq!(message, expected);
    gpu.alloc::<u8>(1, Purpose::KvCache).expect("the device still works");
}

#[test]
fn grids_beyond_the_limits_are_refused() {
    let Some(gpu) = gpu() else { return };
    let branch = gpu.zeros::<f32>(1, Purpose::Other).unwrap();
    let mut x = gpu.zeros::<f32>(1, Purpose::Other).unwrap();
    let grid = Grid { x: 1, y: 65_536, z: 1 };
    let error = gpu.launch(add_f32 { x: &mut x, branch: &branch, n: 1 }, grid).expect_err("y is too large");
    assert_eq!(error.to_string(), "kernel add_f32 needs 65536 blocks along y, the GPU allows 65535");
}

#[test]
fn a_faulty_kernel_is_named_when_each_launch_is_waited_for() {
    let test = "cuda::a_faulty_kernel_is_named_when_each_launch_is_waited_for";
    // The fault ends the context, and with it every other test's device in the process.
    if in_own_process(test, &[("OXWARP_SYNC", "1")]).is_some() {
        return;
    }
    let Some(gpu) = gpu() else { return };
    let mut x = gpu.zeros::<f32>(1, Purpose::Other).unwrap();
    gpu.launch(add_f32 { x: &mut x, branch: &gpu.zeros(1, Purpose::Other).unwrap(), n: 1 }, Grid::x(1))
        .unwrap();
    // SAFETY: not a promise that is kept: the address is nobody's. That the GPU notices is what the test is about; on the
    // host nothing reads through a DeviceSlice.
    let nowhere = unsafe { DeviceSlice::<f32>::from_raw(1 << 20, 1) };
    let error = gpu.launch(add_f32 { x: &mut x, branch: nowhere, n: 1 }, Grid::x(1)).expect_err("a fault");
    assert!(matches!(error, Error::KernelFault { kernel: Some("add_f32"), .. }), "{error:?}");
    let message = error.to_string();
    let expected = "kernel add_f32 faulted: cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS (700)";
    assert_eq!(message, expected);
    // It is sticky, and every later call says so.
    let later = gpu.download(&x).expect_err("the context is lost");
    assert!(matches!(later, Error::KernelFault { .. }), "{later:?}");
}

/// Chunks of `source` that go to `place`.
fn send(uploader: &Uploader, source: &Arc<Vec<u8>>, place: impl Fn(usize) -> Destination) {
    for first in (0..source.len()).step_by(uploader.chunk_bytes()) {
        let n_bytes = uploader.chunk_bytes().min(source.len() - first);
        let source = Arc::clone(source);
        let read = Box::new(move |buffer: &mut [u8]| {
            buffer.copy_from_slice(&source[first..first + buffer.len()]);
            Ok(())
        });
        uploader.push(Chunk { n_bytes, read, destination: place(first) }).unwrap();
    }
}

#[test]
fn uploads_arrive_whole_in_place_and_through_staging() {
    let Some(gpu) = open() else { return };
    let values = Rng::new(4).normal(100_003, 1.0);
    let source = Arc::new(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    let in_place = Arc::new(gpu.alloc::<u8>(source.len(), Purpose::Weights).unwrap());
    let added = Arc::new(gpu.zeros::<u8>(source.len(), Purpose::Weights).unwrap());
    gpu.synchronize().unwrap();

    let uploader = Uploader::start(&gpu, 4, 4096).unwrap();
    send(&uploader, &source, |first| Destination::Memory(Arc::clone(&in_place), first));
    send(&uploader, &source, |first| {
        let added = Arc::clone(&added);
        Destination::Staged(Box::new(move |device, staged| {
            let place = added.slice(first..first + staged.len()).cast::<f32>();
            // SAFETY: each chunk has its own part of `added`, which nothing else uses before `finish`.
            let place = unsafe { DeviceSlice::from_raw_mut(place.address(), place.len()) };
            let (n, branch) = (place.len(), staged.cast::<f32>());
            device.launch(add_f32 { x: place, branch, n: n as u32 }, Grid::cover(n, add::THREADS as usize))
        }))
    });
    uploader.finish().unwrap();
    assert!(gpu.download(&in_place).unwrap() == *source, "chunks copied to their places");
    assert!(gpu.download(added.cast::<f32>()).unwrap() == values, "chunks added to zeros");
    assert_eq!(gpu.vram_use().other, 0, "staging is given back");
}

#[test]
fn a_failed_read_ends_the_upload_with_its_error() {
    let Some(gpu) = gpu() else { return };
    let buffer = Arc::new(gpu.alloc::<u8>(100, Purpose::Weights).unwrap());
    let uploader = Uploader::start(&gpu, 2, 100).unwrap();
    let read = Box::new(|_: &mut [u8]| Err("byte 5 is gone".into()));
    uploader.push(Chunk { n_bytes: 100, read, destination: Destination::Memory(buffer, 0) }).unwrap();
    let error = uploader.finish().expect_err("the read failed");
    assert!(matches!(&error, UploadError::Read(_)) && error.to_string() == "byte 5 is gone", "{error:?}");
}

#[test]
fn events_measure_time_on_the_gpu() {
    let Some(gpu) = gpu() else { return };
    let n = 1 << 24;
    let branch = gpu.zeros::<f32>(n, Purpose::Other).unwrap();
    let mut x = gpu.zeros::<f32>(n, Purpose::Other).unwrap();
    let start = gpu.record().unwrap();
    for _ in 0..10 {
        let add = add_f32 { x: &mut x, branch: &branch, n: n as u32 };
        gpu.launch(add, Grid::cover(n, add::THREADS as usize)).unwrap();
    }
    let end = gpu.record().unwrap();
    let elapsed_us = end.elapsed_us(&start).unwrap();
    let gigabytes_per_s = (10 * 3 * 4 * n) as f64 / elapsed_us / 1e3;
    eprintln!("add_f32 of {n} elements: {:.1} us, {gigabytes_per_s:.0} GB/s", elapsed_us / 10.0);
    // No GPU that exists moves more than 20 TB/s. (How much less it is depends on the tests that use it meanwhile.)
    assert!(elapsed_us > 0.0 && gigabytes_per_s < 20_000.0, "{gigabytes_per_s} GB/s");
}
