//! Conversion to f16, with a scale for each row and without: bits, not bounds.

use half::f16 as HostF16;
use kernels_gpu::convert::{LARGEST, convert_f32_f16, round_blocks, round_f32_f16};
use kernels_gpu::launch::{Device, Grid, Purpose};
use testkit::data::Rng;

/// Rows with these largest magnitudes, and the scales that they need.
fn check<D: Device>(device: &D, rows: &[(f32, f32)], dim: usize) {
    let mut rng = Rng::new(6);
    let mut x = Vec::new();
    for &(largest, _) in rows {
        let mut row = rng.normal(dim, f64::from(largest) / 8.0);
        row.iter_mut().for_each(|x| *x = x.clamp(-largest, largest));
        row[dim - 1] = -largest;
        x.extend(row);
    }
    let device_x = device.upload(&x, Purpose::Activations).unwrap();
    let mut device_y = device.alloc(x.len(), Purpose::Activations).unwrap();
    let mut device_scale = device.alloc::<f32>(rows.len(), Purpose::Activations).unwrap();
    let kernel =
        convert_f32_f16 { y: &mut device_y, scale: &mut device_scale, x: &device_x, dim: dim as u32 };
    device.launch(kernel, Grid::x(rows.len() as u32)).unwrap();

    let scale = device.download(&device_scale).unwrap();
    assert_eq!(scale, rows.iter().map(|&(_, scale)| scale).collect::<Vec<_>>());
    let found = device.download(&device_y).unwrap();
    for (i, found) in found.iter().enumerate() {
        // Exact in f64: the scale is a power of two.
        let expected = HostF16::from_f64(f64::from(x[i]) / f64::from(scale[i / dim]));
        assert_eq!(found.to_bits(), expected.to_bits(), "row {}, element {}: {}", i / dim, i % dim, x[i]);
        assert!(expected.to_f32().abs() <= LARGEST, "{expected}");
    }
}

#[test]
fn ordinary_rows_have_scale_one() {
    on_every_device!(|device| check(device, &[(1.0, 1.0), (1e-6, 1.0), (32768.0, 1.0)], 896));
}

#[test]
fn huge_rows_are_scaled_down() {
    let next_up = f32::from_bits(32768.0f32.to_bits() + 1);
    let rows = [(next_up, 2.0), (65_535.9, 2.0), (65_536.0, 4.0), (1e6, 32.0), (f32::MAX, 2.0f32.powi(113))];
    on_every_device!(|device| check(device, &rows, 64));
}

#[test]
fn odd_width() {
    on_every_device!(|device| check(device, &[(70_000.0, 4.0), (3.0, 1.0)], 1037));
}

#[test]
fn wider_than_a_block_keeps() {
    on_every_device!(|device| check(device, &[(40_000.0, 2.0), (5.0, 1.0)], 8192 + 516));
}

/// They pass through, so that whoever looks at the result finds them.
#[test]
fn infinities_and_nan_pass_through() {
    on_every_device!(|device| {
        let x = device.upload(&[1.0, f32::INFINITY, f32::NAN, -2.0], Purpose::Activations).unwrap();
        let mut y = device.alloc(4, Purpose::Activations).unwrap();
        let mut scale = device.alloc::<f32>(1, Purpose::Activations).unwrap();
        device.launch(convert_f32_f16 { y: &mut y, scale: &mut scale, x: &x, dim: 4 }, Grid::x(1)).unwrap();
        let y = testkit::data::widen_halves(&device.download(&y).unwrap());
        assert!(y[1] == f32::INFINITY && y[2].is_nan(), "{y:?}");
        assert_eq!(device.download(&scale).unwrap(), [2.0f32.powi(113)]);
    });
}

/// One element, a part of a thread's four, and more than a block; ties, subnormal halves and numbers beyond f16's range.
#[test]
fn rounding_without_scales() {
    for n in [1, 7, 4096 + 19] {
        let mut x = Rng::new(8).normal(n, 3.0);
        let special = [2049.0, 2051.0, 65_519.0, -65_520.0, 6e-8, -2e-8, f32::NEG_INFINITY];
        let n_special = n.min(special.len());
        x[n - n_special..].copy_from_slice(&special[..n_special]);
        on_every_device!(|device| {
            let device_x = device.upload(&x, Purpose::Activations).unwrap();
            let mut device_y = device.alloc(n, Purpose::Activations).unwrap();
            let kernel = round_f32_f16 { y: &mut device_y, x: &device_x, n: n as u32 };
            device.launch(kernel, Grid::x(round_blocks(n) as u32)).unwrap();
            for (x, found) in x.iter().zip(device.download(&device_y).unwrap()) {
                assert_eq!(found.to_bits(), HostF16::from_f32(*x).to_bits(), "{x}");
            }
        });
    }
}
