//! From what is wanted to the kernel that does it: names and arguments as `kernels.cu` has them. Nothing here touches a device.

use swarmloom_kernels::Dtype;
use swarmloom_kernels::fp8::Fp8;
use swarmloom_kernels::norms::BLOCK;
use swarmloom_kernels::outer::{Rule, Scales};
use swarmloom_kernels::quantise::{Format, Scheme};
use swarmloom_kernels::reduce::ReduceOp;

use crate::launch::{Launch, THREADS};

/// Sources of a reduction: they travel as an argument.
pub const MAX_SOURCES: usize = 64;

/// A device's address.
pub(crate) type Address = u64;

fn of_dtype(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F64 => "f64",
        Dtype::Bf16 => "bf16",
        Dtype::F16 => "f16",
        Dtype::I8 => "i8",
        Dtype::I32 => "i32",
        Dtype::I64 => "i64",
        Dtype::U8 => "u8",
    }
}

fn of_format(format: Format) -> &'static str {
    match format {
        Format::Int8 => "int8",
        Format::Int4 => "int4",
        Format::Sign => "sign",
        Format::E4m3 => "e4m3",
        Format::E5m2 => "e5m2",
    }
}

fn of_fp8(format: Fp8) -> &'static str {
    match format {
        Fp8::E4m3 => "e4m3",
        Fp8::E5m2 => "e5m2",
    }
}

/// As many addresses as the kernel's structure has room for.
fn table(addresses: impl IntoIterator<Item = Address>) -> [u64; MAX_SOURCES] {
    let mut table = [0; MAX_SOURCES];
    for (slot, address) in table.iter_mut().zip(addresses) {
        *slot = address;
    }
    table
}

/// Reduces 1 to [`MAX_SOURCES`] sources, and divides where the operation is a sum and there is a divisor.
pub(crate) fn reduce(
    (dtype, op): (Dtype, ReduceOp),
    sources: &[Address],
    out: Address,
    count: usize,
    divisor: Option<u32>,
) -> Launch {
    let op = match op {
        ReduceOp::Sum => "sum",
        ReduceOp::Product => "product",
        ReduceOp::Min => "min",
        ReduceOp::Max => "max",
    };
    let aligned = sources.iter().chain([&out]).all(|address| address.is_multiple_of(16));
    let items = if aligned { count.div_ceil(16 / dtype.size()) } else { count };
    Launch::elements(format!("reduce_{}_{op}", of_dtype(dtype)), items as u64)
        .words(&table(sources.iter().copied()))
        .half(sources.len() as u32)
        .word(out)
        .word(count as u64)
        .half(divisor.unwrap_or(0))
        .half(u32::from(aligned))
}

pub(crate) fn narrow((format, dtype): (Fp8, Dtype), x: Address, out: Address, count: usize) -> Launch {
    let name = format!("narrow_{}_{}", of_fp8(format), of_dtype(dtype));
    Launch::elements(name, count as u64).word(x).word(out).word(count as u64)
}

pub(crate) fn widen((format, dtype): (Fp8, Dtype), x: Address, out: Address, count: usize) -> Launch {
    let name = format!("widen_{}_{}", of_fp8(format), of_dtype(dtype));
    Launch::elements(name, count as u64).word(x).word(out).word(count as u64)
}

pub(crate) fn quantise(
    (scheme, dtype): (Scheme, Dtype),
    x: Address,
    count: usize,
    codes: Address,
    scales: Address,
) -> Launch {
    let name = format!("quantise_{}_{}", of_format(scheme.format()), of_dtype(dtype));
    let launch = Launch::blocks(name, scheme.blocks(count) as u64).word(x).word(count as u64);
    launch.half(scheme.block() as u32).word(codes).word(scales)
}

pub(crate) fn dequantise(
    (scheme, dtype): (Scheme, Dtype),
    codes: Address,
    scales: Address,
    count: usize,
    out: Address,
) -> Launch {
    let name = format!("dequantise_{}_{}", of_format(scheme.format()), of_dtype(dtype));
    let launch = Launch::elements(name, count as u64).word(codes).word(scales).word(count as u64);
    launch.half(scheme.block() as u32).word(out)
}

/// Codes and scales of a quantised buffer.
pub(crate) type Coded = (Address, Address);

fn quantised(launch: Launch, scheme: Scheme, count: usize, sources: &[Coded], divisor: u32) -> Launch {
    let mut both = Vec::with_capacity(2 * MAX_SOURCES);
    both.extend(table(sources.iter().map(|source| source.0)));
    both.extend(table(sources.iter().map(|source| source.1)));
    let launch = launch.words(&both).half(sources.len() as u32).word(count as u64);
    launch.half(scheme.block() as u32).half(divisor)
}

pub(crate) fn reduce_quantised(scheme: Scheme, count: usize, sources: &[Coded], divisor: u32, out: Coded) -> Launch {
    let name = format!("reduce_quantised_{}", of_format(scheme.format()));
    let launch = Launch::blocks(name, scheme.blocks(count) as u64);
    quantised(launch, scheme, count, sources, divisor).word(out.0).word(out.1)
}

pub(crate) fn reduce_dequantised(
    scheme: Scheme,
    count: usize,
    sources: &[Coded],
    divisor: u32,
    out: Address,
) -> Launch {
    let launch = Launch::elements(format!("reduce_dequantised_{}", of_format(scheme.format())), count as u64);
    quantised(launch, scheme, count, sources, divisor).word(out)
}

/// Parameters, `m`, and `v` where the rule has one.
pub(crate) fn step(
    (rule, lr, t): (Rule, f32, u64),
    sources: &[Address],
    divisor: u32,
    count: usize,
    [p, m, v]: [Address; 3],
) -> Launch {
    let Scales { rate, root, keep } = rule.scales(lr, t);
    let (name, [beta1, beta2, eps]) = match rule {
        Rule::Sgd { momentum, nesterov: false } => ("step_sgd", [momentum, 0.0, 0.0]),
        Rule::Sgd { momentum, nesterov: true } => ("step_nesterov", [momentum, 0.0, 0.0]),
        Rule::Adam { beta1, beta2, eps, .. } => ("step_adam", [beta1, beta2, eps]),
        Rule::Adagrad { beta1, eps } => ("step_adagrad", [beta1, 0.0, eps]),
        Rule::Yogi { beta1, beta2, eps } => ("step_yogi", [beta1, beta2, eps]),
    };
    Launch::elements(name.into(), count as u64)
        .words(&table(sources.iter().copied()))
        .half(sources.len() as u32)
        .half(divisor)
        .word(count as u64)
        .halves(&[rate, beta1, beta2, eps, root, keep].map(f32::to_bits))
        .word(p)
        .word(m)
        .word(v)
}

/// One `f64` for each [`BLOCK`] elements, to be added in order.
pub(crate) fn sum_of_squares(dtype: Dtype, x: Address, count: usize, sums: Address) -> Launch {
    // Sixteen threads for each block of elements.
    let blocks = count.div_ceil(BLOCK).div_ceil(THREADS as usize / 16);
    let name = format!("sum_of_squares_{}", of_dtype(dtype));
    Launch::blocks(name, blocks as u64).word(x).word(count as u64).word(sums)
}

/// Raises the `u32` at `bits` to the bits of the largest magnitude.
pub(crate) fn max_abs(dtype: Dtype, x: Address, count: usize, bits: Address) -> Launch {
    // Each thread goes over many elements, so that few of them meet at the result.
    let name = format!("max_abs_{}", of_dtype(dtype));
    Launch::elements(name, (count as u64).div_ceil(64)).word(x).word(count as u64).word(bits)
}
