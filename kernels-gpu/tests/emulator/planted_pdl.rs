//! Planted bugs of programmatic dependent launch: memory touched before `pdl::wait`.

use kernels_gpu::launch::{Device, Grid};
use kernels_gpu::simt::emulator::{Access, Fault, View};
use kernels_gpu::simt::prelude::*;

use crate::{assert_violation, emulator, line_of, unwritten, upload, violation};

const FILE: &str = "planted_pdl.rs";

/// The line of this file that ends with `// mark`.
fn line(mark: &str) -> u32 {
    line_of(include_str!("planted_pdl.rs"), mark)
}

#[kernel(threads = 32)]
fn produces(y: Out<f32>) {
    y.set(thread::index_1d(), 1.0);
}

#[kernel(threads = 32, pdl)]
fn scales(y: Out<f32>, x: In<f32>, weight: In<f32>, early: u32) {
    let i = thread::index_1d();
    let weight = weight.get(i); // early read
    if early == 1 {
        y.set(i, weight); // early write
    }
    pdl::wait();
    y.set(i, weight * x.get(i));
    pdl::launch_dependents();
}

#[test]
fn weights_may_be_read_before_the_wait() {
    let device = emulator();
    let (mut x, mut y) = (unwritten(&device, 32), unwritten(&device, 32));
    let weight = upload(&device, &[3.0f32; 32]);
    device.launch(produces { y: &mut x }, Grid::x(1)).unwrap();
    device.launch(scales { y: &mut y, x: &x, weight: &weight, early: 0 }, Grid::x(1)).unwrap();
    assert_eq!(device.download(&y).unwrap(), [3.0; 32]);
}

#[test]
fn results_may_not() {
    let device = emulator();
    let (mut x, mut y) = (unwritten(&device, 32), unwritten(&device, 32));
    device.launch(produces { y: &mut x }, Grid::x(1)).unwrap();
    let found = violation(&device, scales { y: &mut y, x: &x, weight: &x, early: 0 }, Grid::x(1));
    let fault = Fault::BeforeWait { view: View::Param("weight"), index: 0, access: Access::Read };
    assert_violation(&found, "scales", (0, 0), &fault, (FILE, line("early read")));
}

#[test]
fn results_that_the_host_has_waited_for_may() {
    let device = emulator();
    let (mut x, mut y) = (unwritten(&device, 32), unwritten(&device, 32));
    device.launch(produces { y: &mut x }, Grid::x(1)).unwrap();
    device.download(&x).unwrap();
    device.launch(scales { y: &mut y, x: &x, weight: &x, early: 0 }, Grid::x(1)).unwrap();
}

#[test]
fn nothing_may_be_written_before_the_wait() {
    let device = emulator();
    let mut y = unwritten(&device, 32);
    let x = upload(&device, &[3.0f32; 32]);
    let found = violation(&device, scales { y: &mut y, x: &x, weight: &x, early: 1 }, Grid::x(1));
    let fault = Fault::BeforeWait { view: View::Param("y"), index: 0, access: Access::Write };
    assert_violation(&found, "scales", (0, 0), &fault, (FILE, line("early write")));
}

#[kernel(threads = 32, pdl)] // never waits
fn never_waits(x: In<f32>) {
    x.get(thread::index_1d());
}

#[test]
fn a_dependent_kernel_must_wait() {
    let device = emulator();
    let x = upload(&device, &[3.0f32; 32]);
    let found = violation(&device, never_waits { x: &x }, Grid::x(1));
    assert_violation(&found, "never_waits", (0, 0), &Fault::NoWait, (FILE, line("never waits")));
}
