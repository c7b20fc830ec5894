//! Ops on one row of activations.

use super::vector::{Kernel, LANES, Vector};

/// y = x / sqrt(mean(x²) + eps) · w.
pub struct Rmsnorm<'a> {
    pub y: &'a mut [f32],
    pub x: &'a [f32],
    pub w: &'a [f32],
    pub eps: f32,
}

impl Kernel for Rmsnorm<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mean = dot::<V>(self.x, self.x) / self.x.len() as f32;
        let scale = 1.0 / (mean + self.eps).sqrt();
        for ((y, x), w) in self.y.iter_mut().zip(self.x).zip(self.w) {
            *y = x * scale * w;
        }
    }
}

/// y = gate · σ(gate) · up.
pub struct Swiglu<'a> {
    pub y: &'a mut [f32],
    pub gate: &'a [f32],
    pub up: &'a [f32],
}

impl Kernel for Swiglu<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let rows = self.y.chunks_mut(LANES).zip(self.gate.chunks(LANES)).zip(self.up.chunks(LANES));
        for ((y, gate), up) in rows {
            let (gate, up) = (load::<V>(gate), load::<V>(up));
            let one = V::splat(1.0);
            let opposite = gate.mul(V::splat(-1.0));
            store(y, gate.mul(up).div(one.add(opposite.exp())));
        }
    }
}

/// `Σ a[i] · b[i]`, in the order of a product of matrices.
#[inline(always)]
pub fn dot<V: Vector>(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = V::splat(0.0);
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        sum = load::<V>(a).mul_add(load(b), sum);
    }
    sum.sum()
}

/// A vector, or the cut one at a row's end filled up with zeros.
#[inline(always)]
pub fn load<V: Vector>(values: &[f32]) -> V {
    match values.as_array::<LANES>() {
        Some(values) => V::load(values),
        None => V::load_partial(values),
    }
}

/// Writes as many lanes as there is room for.
#[inline(always)]
pub fn store<V: Vector>(values: &mut [f32], lanes: V) {
    match values.as_mut_array::<LANES>() {
        Some(values) => lanes.store(values),
        None => {
            let mut all = [0.0; LANES];
            lanes.store(&mut all);
            values.copy_from_slice(&all[..values.len()]);
        }
    }
}
