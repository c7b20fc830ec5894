//! `gemm_wgmma`: the shapes of an 8B model, and two squares.

use kernels_gpu::gemm_wgmma::plan::{Plan, Shape};
use kernels_gpu::gemm_wgmma::{gemm_bytes, gemm_flops};
use kernels_gpu::launch::{Device, DeviceSlice};
use kernels_gpu::simt::{bf16, f16};
use oxwarp::cuda::{Cuda, Error};

use super::product;
use crate::case::{Case, Check, Peer, Subject, Work, allowed};
use crate::data::Number;
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::vendor::{Operand, Product};

/// Rows and columns of the matrices of an 8B model: query, key and value; output; gate and up; down.
pub const MATRICES: [[usize; 2]; 4] = [[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336]];
/// Tokens of a batch, of a short and of a long prompt.
const TOKENS: [usize; 6] = [16, 64, 128, 512, 2048, 8192];

/// [n_tokens, n_rows, n_cols] of every product.
pub fn shapes() -> Vec<[usize; 3]> {
    let of_model = TOKENS.iter().flat_map(|&t| MATRICES.map(|[rows, cols]| [t, rows, cols]));
    of_model.chain([[4096; 3], [8192; 3]]).collect()
}

pub fn cases() -> Vec<Case> {
    shapes()
        .into_iter()
        .flat_map(|shape| [of_type::<bf16>("bf16", shape), of_type::<f16>("f16", shape)])
        .flatten()
        .collect()
}

/// The plan of the chooser, then each that it could have chosen.
fn of_type<T: Type>(ty: &str, [n_tokens, n_rows, n_cols]: [usize; 3]) -> Vec<Case> {
    let shape = Shape { n_tokens, n_rows, n_cols };
    let case = |choice: &str, plan: fn(Shape, u32) -> Plan| {
        let bytes = gemm_bytes(n_tokens, n_rows, n_cols) as usize;
        let work = Work::reading(bytes, gemm_flops(n_tokens, n_rows, n_cols) as usize);
        let name = format!("{ty} {n_tokens}x{n_rows}x{n_cols}{choice}");
        Case::new("gemm_wgmma", name, work, move |lab| Gemm::<T>::new(lab, shape, plan)).hopper()
    };
    let mut cases = vec![
        case("", Plan::new),
        case(" tiles64", |shape, n| Plan::tiles(shape, 64, n)).variant(),
        case(" tiles128", |shape, n| Plan::tiles(shape, 128, n)).variant(),
        case(" tiles192", |shape, n| Plan::tiles(shape, 192, n)).variant(),
        case(" tiles224", |shape, n| Plan::tiles(shape, 224, n)).variant(),
        case(" tiles256", |shape, n| Plan::tiles(shape, 256, n)).variant(),
    ];
    if n_tokens > 128 {
        cases.extend([
            case(" multicast128", |shape, n| Plan::multicast(shape, 128, n)).variant(),
            case(" multicast192", |shape, n| Plan::multicast(shape, 192, n)).variant(),
            case(" multicast224", |shape, n| Plan::multicast(shape, 224, n)).variant(),
            case(" multicast256", |shape, n| Plan::multicast(shape, 256, n)).variant(),
        ]);
    }
    if n_tokens <= 16 {
        cases.push(case(" pair16x128", |shape, _| Plan::pair(shape, 16, 128)).variant());
    }
    if n_tokens <= 64 {
        cases.push(case(" pair64x128", |shape, _| Plan::pair(shape, 64, 128)).variant());
        cases.push(case(" split64x128", |shape, _| Plan::split(shape)).variant());
    } else if n_tokens <= 256 {
        cases.push(case(" pair128x64", |shape, _| Plan::pair(shape, 128, 64)).variant());
        cases.push(case(" pair128x96", |shape, _| Plan::pair(shape, 128, 96)).variant());
    }
    cases
}

/// A type of operands.
trait Type: Number + Operand {
    const ALLOWED: f64;
    fn launch(
        plan: &Plan,
        device: &Cuda,
        y: &mut DeviceSlice<Self>,
        set: [&DeviceSlice<Self>; 2],
    ) -> Result<(), Error>;
}

macro_rules! operand {
    ($ty:ty, $launch:ident, $allowed:expr) => {
        impl Type for $ty {
            const ALLOWED: f64 = $allowed;
            fn launch(
                plan: &Plan,
                device: &Cuda,
                y: &mut DeviceSlice<Self>,
                [w, x]: [&DeviceSlice<Self>; 2],
            ) -> Result<(), Error> {
                plan.$launch(device, y, w, x)
            }
        }
    };
}

operand!(bf16, launch_bf16, allowed::BF16);
operand!(f16, launch_f16, allowed::F16);

struct Gemm<T: Type> {
    plan: Plan,
    n_sets: usize,
    y: Sets<T>,
    w: Sets<T>,
    x: Sets<T>,
}

impl<T: Type> Gemm<T> {
    fn new(lab: &Lab, shape: Shape, plan: fn(Shape, u32) -> Plan) -> Result<Self> {
        let Shape { n_tokens, n_rows, n_cols } = shape;
        let plan = plan(shape, lab.device.info().n_multiprocessors);
        let n_sets = lab.n_sets(gemm_bytes(n_tokens, n_rows, n_cols) as usize);
        Ok(Gemm {
            n_sets,
            y: lab.zeros(n_sets, n_tokens * n_rows)?,
            w: lab.normal(n_sets, n_rows * n_cols)?,
            x: lab.normal(n_sets, n_tokens * n_cols)?,
            plan,
        })
    }

    fn shape(&self) -> [usize; 3] {
        let Shape { n_tokens, n_rows, n_cols } = self.plan.shape;
        [n_tokens, n_rows, n_cols]
    }
}

impl<T: Type> Subject for Gemm<T> {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.w.size_bytes() + self.x.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let operands = [self.w.get(set), self.x.get(set)];
        T::launch(&self.plan, device, self.y.get_mut(set), operands)
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        product::check(device, self.y.get(0), self.w.get(0), self.x.get(0), self.shape(), T::ALLOWED)
    }

    fn peer(&mut self) -> Option<Peer> {
        let shape = self.shape();
        let product = |set| Product::new(self.y.get_mut(set), self.w.get(set), self.x.get(set), shape);
        Some(Peer::same((0..self.n_sets).map(product).map(|product| vec![product]).collect()))
    }
}
