//! `gemm_quant` and `gemm_quant_mma`: the shapes of an 8B model, in every format.

use kernels_gpu::gemm_quant::plan::{GemmQuant, Plan, Shape, TILE_TOKENS};
use kernels_gpu::gemm_quant::{gemm_quant_bytes, gemm_quant_flops};
use kernels_gpu::gemm_quant_mma::product::{GemmQuantMma, Product};
use kernels_gpu::launch::{Device, DeviceBuffer, DeviceSlice, Grid, Purpose};
use kernels_gpu::narrow::narrow_f16;
use kernels_gpu::quant::layout::{GpuLayout, MATRIX_ALIGN};
use kernels_gpu::quant::{
    BF16, F16, IQ4_NL, IQ4_XS, MXFP4, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0,
};
use kernels_gpu::simt::{bf16, f16};
use oxwarp::cuda::{Cuda, Error};
use testkit::data::RandomBlock;
use testkit::reference;

use super::gemm_wgmma::MATRICES;
use crate::case::{Case, Check, Peer, Subject, Work, allowed};
use crate::data::{Weights, read, sample};
use crate::error::Result;
use crate::lab::{Lab, Sets};
use crate::vendor;

/// Tokens of the formats that are measured in full.
const TOKENS: [usize; 6] = [17, 64, 128, 512, 2048, 8192];
/// Tokens that `gemm_quant_mma` is measured with.
const MMA_TOKENS: [usize; 3] = [64, 512, 2048];
/// Tokens and the matrix of the other formats.
const OTHER_TOKENS: [usize; 2] = [512, 8192];
const OTHER_MATRIX: [usize; 2] = MATRICES[0];
/// Tokens and rows of which the results are compared with the reference.
const CHECKED_TOKENS: usize = 8;
const CHECKED_ROWS: usize = 128;

/// What weights can be measured with.
trait Format: GemmQuantMma + GpuLayout + RandomBlock {}

impl<Q: GemmQuantMma + GpuLayout + RandomBlock> Format for Q {}

/// Which of the kernels.
trait Way<Q> {
    fn shape(&self) -> Shape;

    fn workspace_len(&self) -> usize;

    /// Launches it.
    fn launch(&self, device: &Cuda, args: Args<'_>) -> Result<(), Error>;
}

/// The arguments of a launch.
struct Args<'a> {
    y: &'a mut DeviceSlice<f32>,
    w: &'a DeviceSlice<u8>,
    x: (&'a DeviceSlice<f16>, &'a DeviceSlice<f32>),
    workspace: &'a mut DeviceSlice<f32>,
}

impl<Q: GemmQuant> Way<Q> for Plan {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn workspace_len(&self) -> usize {
        Plan::workspace_len(self)
    }

    fn launch(&self, device: &Cuda, Args { y, w, x, workspace }: Args<'_>) -> Result<(), Error> {
        self.launch::<Q, Cuda>(device, y, w, x, workspace)
    }
}

impl<Q: GemmQuantMma> Way<Q> for Product {
    fn shape(&self) -> Shape {
        let Product { n_tokens, n_rows, n_cols, .. } = *self;
        Shape { n_tokens, n_rows, n_cols }
    }

    fn workspace_len(&self) -> usize {
        0
    }

    fn launch(&self, device: &Cuda, Args { y, w, x, .. }: Args<'_>) -> Result<(), Error> {
        self.launch::<Q, Cuda>(device, y, w, x)
    }
}

fn bytes_of<Q: Format>(n_rows: usize, n_cols: usize) -> usize {
    <Q as GpuLayout>::matrix_bytes(n_rows, n_cols)
}

/// Those of `gemm_quant_mma`.
pub fn mma_cases() -> Vec<Case> {
    let [rows, cols] = OTHER_MATRIX;
    let shape = [512, rows, cols];
    let all = MMA_TOKENS.into_iter().flat_map(|tokens| MATRICES.map(|[rows, cols]| [tokens, rows, cols]));
    let mut cases: Vec<Case> = all.map(mma_case::<Q4_K>).collect();
    cases.extend([
        mma_case::<Q8_0>(shape),
        mma_case::<MXFP4>(shape),
        mma_case::<Q2_K>(shape),
        mma_case::<Q3_K>(shape),
        mma_case::<Q4_0>(shape),
        mma_case::<Q4_1>(shape),
        mma_case::<Q5_0>(shape),
        mma_case::<Q5_1>(shape),
        mma_case::<Q5_K>(shape),
        mma_case::<Q6_K>(shape),
        mma_case::<IQ4_NL>(shape),
        mma_case::<IQ4_XS>(shape),
        mma_case::<F16>(shape),
        mma_case::<BF16>(shape),
    ]);
    cases
}

fn mma_case<Q: Format>([n_tokens, n_rows, n_cols]: [usize; 3]) -> Case {
    let bytes = gemm_quant_bytes(bytes_of::<Q>(n_rows, n_cols), n_tokens, n_rows, n_cols);
    let work = Work::reading(bytes as usize, gemm_quant_flops(n_tokens, n_rows, n_cols) as usize);
    let name = format!("{} {n_tokens}x{n_rows}x{n_cols}", Q::NAME);
    let product = Product::new(n_tokens, n_rows, n_cols);
    Case::new("gemm_quant_mma", name, work, move |lab| Gemm::<Q>::new(lab, Box::new(product)))
}

pub fn cases() -> Vec<Case> {
    let all = TOKENS.into_iter().flat_map(|tokens| MATRICES.map(|[rows, cols]| [tokens, rows, cols]));
    let in_full = all.flat_map(|shape| {
        let mut cases = of_format::<Q4_K>(shape);
        cases.extend(of_format::<Q8_0>(shape));
        cases.extend(of_format::<MXFP4>(shape));
        cases
    });
    let [rows, cols] = OTHER_MATRIX;
    let others = OTHER_TOKENS.into_iter().map(move |tokens| [tokens, rows, cols]).flat_map(|shape| {
        [
            chosen::<Q4_0>(shape),
            chosen::<Q4_1>(shape),
            chosen::<Q5_0>(shape),
            chosen::<Q5_1>(shape),
            chosen::<Q5_K>(shape),
            chosen::<Q6_K>(shape),
            chosen::<IQ4_NL>(shape),
            chosen::<IQ4_XS>(shape),
        ]
    });
    in_full.chain(others).collect()
}

/// The plan of the chooser.
fn chosen<Q: Format + GemmQuant>(shape: [usize; 3]) -> Case {
    case::<Q>(shape, String::new(), Plan::new)
}

/// The plan of the chooser, then each that it could have chosen.
fn of_format<Q: Format + GemmQuant>(shape: [usize; 3]) -> Vec<Case> {
    let mut cases = vec![chosen::<Q>(shape)];
    cases.push(case::<Q>(shape, " r192".to_owned(), Plan::wide).variant());
    let split = |shape, _| Plan::split(shape).expect("more than 128 columns");
    cases.push(case::<Q>(shape, " split".to_owned(), split).variant());
    // Where there is no such plan, the chooser's is measured again.
    let rounds = |shape, n| Plan::rounds(shape, n).unwrap_or_else(|| Plan::new(shape, n));
    cases.push(case::<Q>(shape, " rounds".to_owned(), rounds).variant());
    for tokens in TILE_TOKENS {
        for n_parts in [1, 2, 3, 4, 8].into_iter().filter(|&n| n == 1 || shape[0] <= 512) {
            let plan = move |shape, n| Plan::with(shape, tokens, n_parts, n);
            cases.push(case::<Q>(shape, format!(" t{tokens} p{n_parts}"), plan).variant());
        }
    }
    cases
}

fn case<Q: Format + GemmQuant>(
    [n_tokens, n_rows, n_cols]: [usize; 3],
    choice: String,
    plan: impl Fn(Shape, u32) -> Plan + 'static,
) -> Case {
    let shape = Shape { n_tokens, n_rows, n_cols };
    let bytes = gemm_quant_bytes(bytes_of::<Q>(n_rows, n_cols), n_tokens, n_rows, n_cols);
    let work = Work::reading(bytes as usize, gemm_quant_flops(n_tokens, n_rows, n_cols) as usize);
    let name = format!("{} {n_tokens}x{n_rows}x{n_cols}{choice}", Q::NAME);
    let make =
        move |lab: &Lab| Gemm::<Q>::new(lab, Box::new(plan(shape, lab.device.info().n_multiprocessors)));
    Case::new("gemm_quant", name, work, make).hopper()
}

struct Gemm<Q: Format> {
    way: Box<dyn Way<Q>>,
    n_sets: usize,
    y: Sets<f32>,
    /// The matrices of all sets.
    w: DeviceBuffer<u8>,
    matrix_bytes: usize,
    weights: Weights<Q>,
    x: Sets<f32>,
    halves: Sets<f16>,
    scales: Sets<f32>,
    workspace: Sets<f32>,
    /// y, w and x for the library.
    peer: (Sets<bf16>, Sets<bf16>, Sets<bf16>),
}

impl<Q: Format> Gemm<Q> {
    fn new(lab: &Lab, way: Box<dyn Way<Q>>) -> Result<Self> {
        let Shape { n_tokens, n_rows, n_cols } = way.shape();
        let device = &lab.device;
        let matrix_bytes = bytes_of::<Q>(n_rows, n_cols).next_multiple_of(MATRIX_ALIGN);
        let n_sets =
            lab.n_sets(gemm_quant_bytes(bytes_of::<Q>(n_rows, n_cols), n_tokens, n_rows, n_cols) as usize);

        let weights = Weights::<Q>::new(device, n_cols)?;
        let mut w = device.alloc::<u8>(n_sets * matrix_bytes, Purpose::Weights)?;
        for set in 0..n_sets {
            let start = set * matrix_bytes;
            weights.fill(device, w.slice_mut(start..start + bytes_of::<Q>(n_rows, n_cols)))?;
        }

        let x = lab.normal::<f32>(n_sets, n_tokens * n_cols)?;
        let (mut halves, mut scales) =
            (lab.zeros::<f16>(n_sets, n_tokens * n_cols)?, lab.zeros::<f32>(n_sets, n_tokens)?);
        for set in 0..n_sets {
            let (y, scales, x) = (halves.get_mut(set), scales.get_mut(set), x.get(set));
            device.launch(narrow_f16 { y, scales, x, dim: n_cols as u32 }, Grid::x(n_tokens as u32))?;
        }
        let peer = (
            lab.zeros(n_sets, n_tokens * n_rows)?,
            lab.normal(n_sets, n_rows * n_cols)?,
            lab.normal(n_sets, n_tokens * n_cols)?,
        );
        Ok(Gemm {
            n_sets,
            y: lab.zeros(n_sets, n_tokens * n_rows)?,
            w,
            matrix_bytes,
            weights,
            x,
            halves,
            scales,
            workspace: lab.zeros(1, way.workspace_len().max(1))?,
            peer,
            way,
        })
    }
}

impl<Q: Format> Subject for Gemm<Q> {
    fn n_sets(&self) -> usize {
        self.n_sets
    }

    fn rotated_bytes(&self) -> u64 {
        self.y.size_bytes() + self.w.size_bytes() as u64 + self.halves.size_bytes()
    }

    fn launch(&mut self, device: &Cuda, set: usize) -> Result<(), Error> {
        let start = set * self.matrix_bytes;
        let w: &DeviceSlice<u8> = self.w.slice(start..start + self.matrix_bytes);
        let x = (self.halves.get(set), self.scales.get(set));
        let y = self.y.get_mut(set);
        self.way.launch(device, Args { y, w, x, workspace: self.workspace.get_mut(0) })
    }

    fn reset(&mut self, device: &Cuda) -> Result<()> {
        Ok(device.zero(self.y.get_mut(0))?)
    }

    fn check(&mut self, device: &Cuda) -> Result<Check> {
        let Shape { n_tokens, n_rows, n_cols } = self.way.shape();
        let (tokens, rows) = (sample(CHECKED_TOKENS, n_tokens), sample(CHECKED_ROWS, n_rows));
        let ws: Vec<f64> = rows.iter().flat_map(|&row| self.weights.row(row)).collect();
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for &token in &tokens {
            let x = read(device, self.x.get(0).slice(token * n_cols..(token + 1) * n_cols))?;
            let mut exact = vec![0.0; rows.len()];
            reference::linear(&mut exact, &ws, &x, n_cols);
            expected.extend(exact);
            let y = read(device, self.y.get(0).slice(token * n_rows..(token + 1) * n_rows))?;
            found.extend(rows.iter().map(|&row| y[row] as f32));
        }
        Ok(Check::of(&found, &expected, allowed::F16))
    }

    fn peer(&mut self) -> Option<Peer> {
        let Shape { n_tokens, n_rows, n_cols } = self.way.shape();
        let (y, w, x) = &mut self.peer;
        let mut product = |set| {
            vec![vendor::Product::new(y.get_mut(set), w.get(set), x.get(set), [n_tokens, n_rows, n_cols])]
        };
        let sets = (0..self.n_sets).map(&mut product).collect();
        let note = Some("cuBLASLt: w, x and y in bf16");
        Some(Peer { sets, note, same_results: false })
    }
}
